//! The reasons why a message from Redis, or a notification of a batch, is not taken.
//!
//! **Runs on**: the router. **Owns**: nothing. **Never**: says more than a counter's label: the sentence
//! is the fault's.

use ara_shards::wire::json::Problem as JsonProblem;

use crate::intake::Fault;
use crate::intake::draft::TargetKind;
use crate::intake::fault::{Problem, TemplateProblem};
use crate::templates::render::RenderFault;

/// Why a message, or a notification of a batch, was not taken. Each is counted under its
/// [`reason`](Self::reason).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The message or its payload exceeds its bound.
    TooLarge,
    /// Not UTF-8, not JSON, not an object, or a field appears twice.
    BadJson,
    /// A field that no message of its type has, at any depth outside the payload.
    UnknownField,
    /// `type` is missing or unknown.
    BadType,
    /// This type may not travel on this Redis channel.
    WrongTarget,
    /// `target` is not the Redis channel's suffix.
    TargetMismatch,
    /// A user id in `target` is missing, malformed, or there are none.
    BadUser,
    /// A channel name in `target` is missing, malformed, or there are none.
    BadChannel,
    /// `target` names more users or channels than allowed.
    TooManyTargets,
    /// `tenant_id` is malformed.
    BadTenant,
    /// `event` is missing, or what it is to say: neither a `payload` nor a `template_id`, or both.
    BadEvent,
    /// `event_type` is missing or malformed.
    BadEventType,
    /// `priority` is not one of the four.
    BadPriority,
    /// `ttl` is not a whole number of seconds.
    BadTtl,
    /// `correlation_id` is malformed.
    BadCorrelationId,
    /// `template_id` is malformed, or the tenant has no such template.
    BadTemplate,
    /// `variables` lacks some that the template needs.
    MissingVariable,
    /// `variables` is not an object, or one of them does not fit the template.
    InvalidVariable,
    /// `notifications` is missing, has none or too many, or `options` is malformed.
    BadBatch,
    /// `target` of a notification of a batch is missing or malformed.
    BadTarget,
    /// `source` of one is malformed.
    BadSource,
    /// `audience` of one is malformed, or `queue` stands where it means nothing.
    BadAudience,
    /// It was not looked at: one before it in its batch was not taken, and `stop_on_error` is set.
    NotAttempted,
}

impl Rejected {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 23] = [
        Self::TooLarge,
        Self::BadJson,
        Self::UnknownField,
        Self::BadType,
        Self::WrongTarget,
        Self::TargetMismatch,
        Self::BadUser,
        Self::BadChannel,
        Self::TooManyTargets,
        Self::BadTenant,
        Self::BadEvent,
        Self::BadEventType,
        Self::BadPriority,
        Self::BadTtl,
        Self::BadCorrelationId,
        Self::BadTemplate,
        Self::MissingVariable,
        Self::InvalidVariable,
        Self::BadBatch,
        Self::BadTarget,
        Self::BadSource,
        Self::BadAudience,
        Self::NotAttempted,
    ];

    /// The label in logs and counters.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::BadJson => "bad_json",
            Self::UnknownField => "unknown_field",
            Self::BadType => "bad_type",
            Self::WrongTarget => "wrong_target",
            Self::TargetMismatch => "target_mismatch",
            Self::BadUser => "bad_user",
            Self::BadChannel => "bad_channel",
            Self::TooManyTargets => "too_many_targets",
            Self::BadTenant => "bad_tenant",
            Self::BadEvent => "bad_event",
            Self::BadEventType => "bad_event_type",
            Self::BadPriority => "bad_priority",
            Self::BadTtl => "bad_ttl",
            Self::BadCorrelationId => "bad_correlation_id",
            Self::BadTemplate => "bad_template",
            Self::MissingVariable => "missing_variable",
            Self::InvalidVariable => "invalid_variable",
            Self::BadBatch => "bad_batch",
            Self::BadTarget => "bad_target",
            Self::BadSource => "bad_source",
            Self::BadAudience => "bad_audience",
            Self::NotAttempted => "not_attempted",
        }
    }
}

impl Rejected {
    /// The reason of a fault; `kind` where the message's was read and it is of one target.
    pub(super) fn of(fault: &Fault, kind: Option<TargetKind>) -> Self {
        let field = top_field(fault);
        let of_field = || Self::of_field(field, kind);
        match fault {
            Fault::Json(fault) => match fault.problem() {
                JsonProblem::Unknown(_) => Self::UnknownField,
                JsonProblem::Missing
                | JsonProblem::Mismatch { .. }
                | JsonProblem::NotOneOf(_)
                | JsonProblem::HalfPair
                | JsonProblem::Unfit => of_field(),
                JsonProblem::Empty
                | JsonProblem::Encoding(_)
                | JsonProblem::Malformed(_)
                | JsonProblem::CutShort
                | JsonProblem::Repeated => Self::BadJson,
            },
            Fault::Template {
                problem: TemplateProblem::BadId | TemplateProblem::Unknown, ..
            } => Self::BadTemplate,
            // No message has one.
            Fault::Pattern(_) => Self::BadTemplate,
            Fault::Variables { fault: RenderFault::Missing(_), .. } => Self::MissingVariable,
            Fault::Variables { .. } => Self::InvalidVariable,
            Fault::Field { problem, .. } => match problem {
                Problem::TooLong { .. } => Self::TooLarge,
                Problem::Count { found, most } if field == "target" && found > most => {
                    Self::TooManyTargets
                }
                Problem::Missing
                | Problem::Misplaced { .. }
                | Problem::OnlyFor(_)
                | Problem::Invalid { .. }
                | Problem::Count { .. } => of_field(),
            },
        }
    }

    /// The reason where what is in this field is not as it must be.
    fn of_field(field: &str, kind: Option<TargetKind>) -> Self {
        match (field, kind) {
            ("type", _) => Self::BadType,
            ("target", Some(TargetKind::User | TargetKind::Users)) => Self::BadUser,
            ("target", Some(TargetKind::Channel | TargetKind::Channels)) => Self::BadChannel,
            ("target", _) => Self::BadTarget,
            ("tenant_id", _) => Self::BadTenant,
            ("event" | "payload", _) => Self::BadEvent,
            ("event_type", _) => Self::BadEventType,
            ("priority", _) => Self::BadPriority,
            ("ttl", _) => Self::BadTtl,
            ("source", _) => Self::BadSource,
            ("correlation_id", _) => Self::BadCorrelationId,
            ("template_id", _) => Self::BadTemplate,
            ("variables", _) => Self::InvalidVariable,
            ("audience" | "queue", _) => Self::BadAudience,
            ("notifications" | "options", _) => Self::BadBatch,
            _ => Self::BadJson,
        }
    }
}

/// The field that a fault is in, at the top of an event or of a notification of a batch, or else at the
/// top of the message.
fn top_field(fault: &Fault) -> &str {
    let path = fault.field().unwrap_or_default();
    let path = path.strip_prefix("event.").unwrap_or(path);
    path.split(['.', '[']).next().unwrap_or_default()
}
