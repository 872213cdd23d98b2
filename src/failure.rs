//! Why the gateway could not start or go on, in words for whoever runs it.
//!
//! **Runs on**: main. **Owns**: its sentence. **Never**: is met while a request is served: that is a
//! `Refusal`.

/// The exit code of a failure.
pub const EXIT_FAILURE: u8 = 1;

/// Why the gateway could not start or go on.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with its reason, for people.
    #[must_use]
    pub const fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}
