//! Why a run ends early. Two classes, because two things can be done about them: an interrupted run
//! stops its children and says nothing more, a failed one also says what went wrong.

use std::fmt::{Display, Formatter, Result as FmtResult};

/// The reason a run did not reach its end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SIGINT, SIGTERM or SIGHUP arrived.
    Interrupted,
    /// Something is wrong with the gateway, the machine's limits, or what was asked for.
    Failed(String),
}

pub(crate) type Outcome<T> = Result<T, Fault>;

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A failure with a sentence of its own.
pub(crate) fn failed<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Fault::Failed(why.into()))
}

/// Adds what was being done before an error's own message.
pub(crate) trait Context<T> {
    fn context(self, doing: &str) -> Outcome<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, doing: &str) -> Outcome<T> {
        self.map_err(|error| Fault::Failed(format!("{doing}: {error}")))
    }
}
