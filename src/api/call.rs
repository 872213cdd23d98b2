//! A request for one tenant, as its handler gets it.
//!
//! **Runs on**: the router's thread. **Owns**: one request's body. **Never**: exists before the request has
//! passed every check of its route.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;

/// One request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// Its head.
    pub(super) parts: &'a Parts,
    /// Whom it acts for.
    pub(super) tenant: Arc<str>,
    /// What stands in the path for the pattern's parameter, decoded and valid.
    pub(super) parameter: Option<String>,
    /// Its body; empty where the route takes none.
    pub(super) body: Bytes,
}

impl Call<'_> {
    /// The pattern's parameter.
    pub(super) fn parameter(&self) -> &str {
        self.parameter.as_deref().expect("this handler's routes have a parameter in their path")
    }
}
