//! From one pub/sub message to one trigger, or to the reason why not.
//!
//! **Runs on**: the router. **Owns**: nothing. **Never**: does I/O, logs, or changes a byte of the
//! payload, which passes through as it was published.
//!
//! What may travel where: type `user` only on `notification:user:<user>` and `channel` only on
//! `notification:channel:<name>`, each with a `target` that is the suffix; `broadcast` only on
//! `notification:broadcast`. `users` and `channels` may travel there too, and on any
//! `notification:user:…` or `notification:channel:…` respectively: they name several
//! targets and so have no suffix to agree with.

use std::fmt;
use std::sync::Arc;

use ara_shards::wire::json::Problem as JsonProblem;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::intake::draft::{self, EventDraft, TargetDraft, TargetKind};
use crate::intake::fault::{Problem, TemplateProblem};
use crate::intake::trigger::JsonText;
use crate::intake::validate::{self, PAYLOAD_BYTES_MAX};
use crate::intake::{Draft, Fault, Trigger};
use crate::templates::Catalog;
use crate::templates::render::RenderFault;

/// The prefix of the Redis channels that carry triggers for one user.
pub const USER_PREFIX: &str = "notification:user:";
/// The prefix of the Redis channels that carry triggers for one channel.
pub const CHANNEL_PREFIX: &str = "notification:channel:";
/// The Redis channel for everything else.
pub const BROADCAST: &str = "notification:broadcast";

/// The largest message: the same bound as the HTTP batch body.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(
    PAYLOAD_BYTES_MAX < MESSAGE_BYTES_MAX,
    "a payload at its bound must fit into a message with the names around it"
);

/// Where a notification comes from, in its metadata.
const SOURCE: &str = "redis";

/// Whose a message is.
#[derive(Debug, Clone)]
pub struct Tenants {
    /// Whether there are any; without, `tenant_id` has no meaning.
    pub are_enabled: bool,
    /// Whose a message without `tenant_id` is.
    pub default: Arc<str>,
}

impl Tenants {
    fn of(&self, tenant_id: Option<&str>) -> Result<Arc<str>, Fault> {
        let Some(tenant) = tenant_id else { return Ok(Arc::clone(&self.default)) };
        validate::check_tenant("tenant_id", tenant)?;
        Ok(if self.are_enabled { tenant.into() } else { Arc::clone(&self.default) })
    }
}

/// Why a message was not taken. Each is counted under its [`reason`](Self::reason).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The message or its payload exceeds its bound.
    TooLarge,
    /// Not UTF-8, not JSON, not an object, or a field appears twice.
    BadJson,
    /// A field that no message has, at any depth outside the payload.
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
}

impl Rejected {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 18] = [
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
        }
    }
}

impl Rejected {
    /// The reason of a fault; `kind` where the message's was read.
    fn of(fault: &Fault, kind: Option<TargetKind>) -> Self {
        let of_field = || Self::of_field(fault.field().unwrap_or_default(), kind);
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
                Problem::Count { found, most } if found > most => Self::TooManyTargets,
                Problem::Missing
                | Problem::Misplaced { .. }
                | Problem::OnlyFor(_)
                | Problem::Invalid { .. }
                | Problem::Count { .. } => of_field(),
            },
        }
    }

    /// The reason where the field at this path is not as it must be.
    fn of_field(path: &str, kind: Option<TargetKind>) -> Self {
        let field = path.split_once('[').map_or(path, |(field, _)| field);
        match (field, kind) {
            ("type", _) => Self::BadType,
            ("target", Some(TargetKind::User | TargetKind::Users)) => Self::BadUser,
            ("target", Some(TargetKind::Channel | TargetKind::Channels)) => Self::BadChannel,
            ("tenant_id", _) => Self::BadTenant,
            ("event" | "event.payload", _) => Self::BadEvent,
            ("event.event_type", _) => Self::BadEventType,
            ("event.priority", _) => Self::BadPriority,
            ("event.ttl", _) => Self::BadTtl,
            ("event.correlation_id", _) => Self::BadCorrelationId,
            ("event.template_id", _) => Self::BadTemplate,
            ("event.variables", _) => Self::InvalidVariable,
            _ => Self::BadJson,
        }
    }
}

/// What was wrong with a message; `Display` is the sentence for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// It is longer than [`MESSAGE_BYTES_MAX`].
    TooLarge,
    /// Its type may not travel on the Redis channel it came on.
    WrongTarget,
    /// Its target is not what the Redis channel says.
    TargetMismatch,
    /// What it says makes no trigger.
    Fault {
        /// What it is counted under.
        reason: Rejected,
        /// What is wrong where.
        fault: Fault,
    },
}

impl Rejection {
    /// What it is counted under.
    #[must_use]
    pub const fn reason(&self) -> Rejected {
        match self {
            Self::TooLarge => Rejected::TooLarge,
            Self::WrongTarget => Rejected::WrongTarget,
            Self::TargetMismatch => Rejected::TargetMismatch,
            Self::Fault { reason, .. } => *reason,
        }
    }

    fn fault(fault: Fault, kind: Option<TargetKind>) -> Self {
        Self::Fault { reason: Rejected::of(&fault, kind), fault }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => {
                write!(formatter, "the message is longer than {MESSAGE_BYTES_MAX} bytes")
            }
            Self::WrongTarget => {
                formatter.write_str("this `type` may not travel on this Redis channel")
            }
            Self::TargetMismatch => {
                formatter.write_str("`target` is not what follows the Redis channel's prefix")
            }
            Self::Fault { fault, .. } => fault.fmt(formatter),
        }
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: TargetKind,
    /// Its type depends on `kind`.
    #[serde(borrow)]
    target: Option<&'a RawValue>,
    tenant_id: Option<String>,
    #[serde(borrow)]
    event: Event<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    event_type: Option<String>,
    #[serde(borrow, default, deserialize_with = "draft::any_json")]
    payload: Option<&'a RawValue>,
    template_id: Option<String>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    priority: Option<String>,
    ttl: Option<u64>,
    correlation_id: Option<String>,
}

/// Reads the message `bytes` that was published on the Redis channel `redis_channel`.
///
/// # Errors
/// The first fault found; see [`Rejected`].
pub fn parse(
    redis_channel: &[u8],
    bytes: &Bytes,
    tenants: &Tenants,
    templates: &Catalog,
) -> Result<Trigger, Rejection> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Rejection::TooLarge);
    }
    let message: Message<'_> = draft::read(bytes).map_err(|fault| Rejection::fault(fault, None))?;
    let kind = message.kind;
    let suffix = travels_on(kind, redis_channel).ok_or(Rejection::WrongTarget)?;
    let trigger = trigger(message, bytes, tenants, templates)
        .map_err(|fault| Rejection::fault(fault, Some(kind)))?;
    match (suffix, trigger.target.names()) {
        (Suffix::IsTarget(suffix), [name]) if name.as_bytes() == suffix => Ok(trigger),
        (Suffix::IsTarget(_), _) => Err(Rejection::TargetMismatch),
        (Suffix::MeansNothing, _) => Ok(trigger),
    }
}

/// What the end of a Redis channel's name says about the messages on it.
enum Suffix<'a> {
    /// This is their target.
    IsTarget(&'a [u8]),
    /// Nothing: they name their targets themselves.
    MeansNothing,
}

/// What the name of the Redis channel says to messages of this kind, if they may travel on it.
fn travels_on(kind: TargetKind, redis_channel: &[u8]) -> Option<Suffix<'_>> {
    let suffix = |prefix: &str| redis_channel.strip_prefix(prefix.as_bytes());
    let is_broadcast = redis_channel == BROADCAST.as_bytes();
    match kind {
        TargetKind::User => suffix(USER_PREFIX).map(Suffix::IsTarget),
        TargetKind::Channel => suffix(CHANNEL_PREFIX).map(Suffix::IsTarget),
        _ if is_broadcast => Some(Suffix::MeansNothing),
        TargetKind::Users => suffix(USER_PREFIX).map(|_any| Suffix::MeansNothing),
        TargetKind::Channels => suffix(CHANNEL_PREFIX).map(|_any| Suffix::MeansNothing),
        TargetKind::Broadcast => None,
    }
}

fn trigger(
    message: Message<'_>,
    bytes: &Bytes,
    tenants: &Tenants,
    templates: &Catalog,
) -> Result<Trigger, Fault> {
    let Message { kind, target, tenant_id, event } = message;
    let target = TargetDraft::read(kind, "target", target)?;
    let tenant = tenants.of(tenant_id.as_deref())?;
    let event = EventDraft {
        path: "event",
        event_type: event.event_type,
        payload: event.payload.map(|json| JsonText::within(bytes, json)),
        template_id: event.template_id,
        variables: event.variables.map(|json| JsonText::within(bytes, json)),
        priority: event.priority,
        ttl: event.ttl,
        source: SOURCE.into(),
        correlation_id: event.correlation_id,
        audience: None,
        queue: false,
    };
    Draft { target, event }.into_trigger(tenant, templates)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
