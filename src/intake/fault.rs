//! Why a draft makes no trigger: which field, and what is wrong with it.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: repeats a value: it is the
//! sender's, and the sentence may go to a log.

use std::fmt;

use ara_shards::wire::json;

use crate::templates::pattern::PatternFault;
use crate::templates::render::{RenderFault, VariableProblem};
use crate::templates::template::ID_RULE;

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
    /// A field names no template.
    Template {
        /// The field's path: `template_id`.
        path: String,
        /// Why not.
        problem: TemplateProblem,
    },
    /// What is to be a template's payload cannot be one.
    Pattern(PatternFault),
    /// What is to fill a template does not.
    Variables {
        /// The field's path: `variables`.
        path: String,
        /// Why not.
        fault: RenderFault,
    },
}

/// Why an id names no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateProblem {
    /// It is no id.
    BadId,
    /// The tenant has none of this id.
    Unknown,
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
            Self::Pattern(fault) => Some(&fault.path),
            Self::Field { path, .. }
            | Self::Template { path, .. }
            | Self::Variables { path, .. } => Some(path),
        }
    }
}

impl From<json::Fault> for Fault {
    fn from(fault: json::Fault) -> Self {
        Self::Json(fault)
    }
}

impl From<PatternFault> for Fault {
    fn from(fault: PatternFault) -> Self {
        Self::Pattern(fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, problem) = match self {
            Self::Json(fault) => return fault.fmt(formatter),
            Self::Field { path, problem } => (path, problem),
            Self::Template { path, problem: TemplateProblem::BadId } => {
                return write!(formatter, "`{path}` is not the id of a template: {ID_RULE}");
            }
            Self::Template { path, problem: TemplateProblem::Unknown } => {
                return write!(formatter, "there is no template of the id in `{path}`");
            }
            Self::Pattern(fault) => return fault.fmt(formatter),
            Self::Variables { path, fault } => return write_render_fault(formatter, path, fault),
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

/// The most variables that a sentence names; a list may have all.
const SHOWN_VARIABLES_MAX: usize = 10;

fn write_render_fault(
    formatter: &mut fmt::Formatter<'_>,
    path: &str,
    fault: &RenderFault,
) -> fmt::Result {
    let (variable, place, problem) = match fault {
        RenderFault::NotAnObject => return write!(formatter, "`{path}` must be an object"),
        RenderFault::Missing(names) => {
            write!(formatter, "`{path}` lacks what the template needs: ")?;
            for (place, name) in names.iter().take(SHOWN_VARIABLES_MAX).enumerate() {
                let comma = if place > 0 { ", " } else { "" };
                write!(formatter, "{comma}`{name}`")?;
            }
            return match names.len().checked_sub(SHOWN_VARIABLES_MAX) {
                None | Some(0) => Ok(()),
                Some(more) => write!(formatter, " and {more} more"),
            };
        }
        RenderFault::Invalid { variable, place, problem } => (variable, place, problem),
    };
    write!(formatter, "`{path}.{variable}` ")?;
    match problem {
        VariableProblem::NoText(found) => write!(formatter, "is {found}")?,
        VariableProblem::HalfPair => formatter.write_str("has half of a surrogate pair")?,
        VariableProblem::Repeated => formatter.write_str("is given twice")?,
    }
    match place {
        None => Ok(()),
        Some(place) => write!(
            formatter,
            " and stands within a longer string at `{place}`: send text, a number or a boolean, or \
             let `\"{{{{{variable}}}}}\"` be the whole string there"
        ),
    }
}

impl std::error::Error for Fault {}
