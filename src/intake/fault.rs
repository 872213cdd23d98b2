//! Why a draft makes no trigger: which field, and what is wrong with it.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: repeats a value: it is the
//! sender's, and the sentence may go to a log.

use std::fmt;

use ara_shards::wire::json;

/// The first thing that is wrong, told by `Display` in a sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The JSON itself, or a field of another kind than it must be.
    Json(json::Fault),
    /// A field that was read, but is not as it must be.
    Field {
        /// The field's path as the source knows it: `event.ttl`, `target_user_ids[3]`.
        path: String,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It must be there and is not.
    Missing,
    /// It is there, but means nothing beside what else was written.
    Misplaced {
        /// What has no such field.
        beside: &'static str,
    },
    /// It only means something beside something else.
    OnlyFor(&'static str),
    /// Its text breaks the rule, which is told as advice.
    Invalid {
        /// What to write instead.
        advice: &'static str,
    },
    /// A list with no entry or too many.
    Count {
        /// How many it has.
        found: usize,
        /// How many it may have.
        most: usize,
    },
    /// It is too long.
    TooLong {
        /// How long it may be.
        bytes_max: usize,
    },
}

impl Fault {
    /// A fault of the field at this path.
    pub fn at(path: impl Into<String>, problem: Problem) -> Self {
        Self::Field { path: path.into(), problem }
    }

    /// The path of the field, if it is the fault of one.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Json(fault) => fault.field(),
            Self::Field { path, .. } => Some(path),
        }
    }
}

impl From<json::Fault> for Fault {
    fn from(fault: json::Fault) -> Self {
        Self::Json(fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, problem) = match self {
            Self::Json(fault) => return fault.fmt(formatter),
            Self::Field { path, problem } => (path, problem),
        };
        write!(formatter, "`{path}` ")?;
        match problem {
            Problem::Missing => formatter.write_str("is missing"),
            Problem::Misplaced { beside } => write!(formatter, "does not belong to {beside}"),
            Problem::OnlyFor(what) => write!(formatter, "is for {what}"),
            Problem::Invalid { advice } => write!(formatter, "is not valid: {advice}"),
            Problem::Count { found, most } => {
                write!(formatter, "has {found} entries; 1 to {most} are allowed")
            }
            Problem::TooLong { bytes_max } => write!(formatter, "is longer than {bytes_max} bytes"),
        }
    }
}

impl std::error::Error for Fault {}
