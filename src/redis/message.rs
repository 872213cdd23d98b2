//! From one pub/sub message to one trigger or a batch of them, or to the reason why not.
//!
//! **Runs on**: the router. **Owns**: nothing. **Never**: does I/O, logs, or changes a byte of the
//! payload, which passes through as it was published.
//!
//! What may travel where: type `user` only on `notification:user:<user>` and `channel` only on
//! `notification:channel:<name>`, each with a `target` that is the suffix; `broadcast` only on
//! `notification:broadcast`. `users` and `channels` may travel there too, and on any
//! `notification:user:…` or `notification:channel:…` respectively: they name several
//! targets and so have no suffix to agree with. A `batch` may travel on `notification:broadcast` only.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rejected::Rejected;
use crate::intake::batch::{Batch, OptionsDraft};
use crate::intake::draft::{self, EventDraft, TargetDraft, TargetKind};
use crate::intake::fault::Problem;
use crate::intake::trigger::JsonText;
use crate::intake::validate::{self, PAYLOAD_BYTES_MAX};
use crate::intake::{Draft, Fault, Trigger};
use crate::templates::Catalog;

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
pub(super) const SOURCE: &str = "redis";

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

/// What a message asks to be sent.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for one call; most are single triggers")]
pub enum Request<'a> {
    /// One notification.
    Trigger(Trigger),
    /// Several, whose own faults are not known yet.
    Batch {
        /// Whose recipients.
        tenant: Arc<str>,
        /// The notifications.
        batch: Batch<'a>,
    },
}

/// What a message has in `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    User,
    Users,
    Broadcast,
    Channel,
    Channels,
    Batch,
}

impl Kind {
    /// The kind of its target, if it has one itself.
    const fn target(self) -> Option<TargetKind> {
        match self {
            Self::User => Some(TargetKind::User),
            Self::Users => Some(TargetKind::Users),
            Self::Broadcast => Some(TargetKind::Broadcast),
            Self::Channel => Some(TargetKind::Channel),
            Self::Channels => Some(TargetKind::Channels),
            Self::Batch => None,
        }
    }
}

/// The fields of both shapes, so that a message is read in one pass wherever its `type` stands.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    /// Its type depends on `kind`.
    #[serde(borrow)]
    target: Option<&'a RawValue>,
    tenant_id: Option<String>,
    #[serde(borrow)]
    event: Option<Event<'a>>,
    #[serde(borrow)]
    notifications: Option<Vec<&'a RawValue>>,
    options: Option<OptionsDraft>,
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
/// The first fault found; see [`Rejected`]. Those of a batch's notifications are found when they are sent.
pub fn parse<'a>(
    redis_channel: &[u8],
    bytes: &'a Bytes,
    tenants: &Tenants,
    templates: &Catalog,
) -> Result<Request<'a>, Rejection> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Rejection::TooLarge);
    }
    let message: Message<'_> = draft::read(bytes).map_err(|fault| Rejection::fault(fault, None))?;
    let suffix = travels_on(message.kind, redis_channel).ok_or(Rejection::WrongTarget)?;
    message.refuse_misplaced()?;
    let Some(kind) = message.kind.target() else {
        return batch(message, bytes, tenants).map_err(|fault| Rejection::fault(fault, None));
    };
    let trigger = trigger(kind, message, bytes, tenants, templates)
        .map_err(|fault| Rejection::fault(fault, Some(kind)))?;
    match (suffix, trigger.target.names()) {
        (Suffix::IsTarget(suffix), [name]) if name.as_bytes() == suffix => {
            Ok(Request::Trigger(trigger))
        }
        (Suffix::IsTarget(_), _) => Err(Rejection::TargetMismatch),
        (Suffix::MeansNothing, _) => Ok(Request::Trigger(trigger)),
    }
}

impl Message<'_> {
    /// What belongs to the other shape is as unknown as what belongs to none.
    fn refuse_misplaced(&self) -> Result<(), Rejection> {
        let foreign = match self.kind {
            Kind::Batch => [("target", self.target.is_some()), ("event", self.event.is_some())],
            _ => [
                ("notifications", self.notifications.is_some()),
                ("options", self.options.is_some()),
            ],
        };
        let Some((path, _)) = foreign.into_iter().find(|(_, is_given)| *is_given) else {
            return Ok(());
        };
        let fault = Fault::at(path, Problem::Misplaced { beside: "this `type`" });
        Err(Rejection::Fault { reason: Rejected::UnknownField, fault })
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
fn travels_on(kind: Kind, redis_channel: &[u8]) -> Option<Suffix<'_>> {
    let suffix = |prefix: &str| redis_channel.strip_prefix(prefix.as_bytes());
    let is_broadcast = redis_channel == BROADCAST.as_bytes();
    match kind {
        Kind::User => suffix(USER_PREFIX).map(Suffix::IsTarget),
        Kind::Channel => suffix(CHANNEL_PREFIX).map(Suffix::IsTarget),
        _ if is_broadcast => Some(Suffix::MeansNothing),
        Kind::Users => suffix(USER_PREFIX).map(|_any| Suffix::MeansNothing),
        Kind::Channels => suffix(CHANNEL_PREFIX).map(|_any| Suffix::MeansNothing),
        Kind::Broadcast | Kind::Batch => None,
    }
}

fn batch<'a>(
    message: Message<'a>,
    bytes: &'a Bytes,
    tenants: &Tenants,
) -> Result<Request<'a>, Fault> {
    let Message { tenant_id, notifications, options, .. } = message;
    let tenant = tenants.of(tenant_id.as_deref())?;
    let items = notifications.ok_or_else(|| Fault::at("notifications", Problem::Missing))?;
    Ok(Request::Batch { tenant, batch: Batch::new(bytes, items, options)? })
}

fn trigger(
    kind: TargetKind,
    message: Message<'_>,
    bytes: &Bytes,
    tenants: &Tenants,
    templates: &Catalog,
) -> Result<Trigger, Fault> {
    let Message { target, tenant_id, event, .. } = message;
    let event = event.ok_or_else(|| Fault::at("event", Problem::Missing))?;
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
