//! From one pub/sub message to one checked trigger, or to the reason why not.
//!
//! **Runs on**: the router. **Owns**: nothing. **Never**: does I/O, logs, or changes a byte of the
//! payload, which passes through as it was published.
//!
//! What may travel where: type `user` only on `notification:user:<user>` and `channel` only on
//! `notification:channel:<name>`, each with a `target` that is the suffix; `broadcast` only on
//! `notification:broadcast`. `users` and `channels` may travel there too, and on any
//! `notification:user:…` or `notification:channel:…` respectively: they name several
//! targets and so have no suffix to agree with. An unknown field is a fault: what it was to narrow
//! would go to everybody. So is a repeated one, since two readers could differ on it.

use std::borrow::Cow;
use std::fmt;

use ara_shards::wire::json::{self, Fault, Problem, Unknown};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::names;

/// The prefix of the Redis channels that carry triggers for one user.
pub const USER_PREFIX: &str = "notification:user:";
/// The prefix of the Redis channels that carry triggers for one channel.
pub const CHANNEL_PREFIX: &str = "notification:channel:";
/// The Redis channel for everything else.
pub const BROADCAST: &str = "notification:broadcast";

/// The largest message: the same bound as the HTTP batch body.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The largest payload: the same bound as an HTTP body.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// The longest user id, event type or correlation id, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest channel name or tenant id, in bytes.
pub const CHANNEL_BYTES_MAX: usize = 64;
/// The most users one trigger may name.
pub const USERS_MAX: usize = 10_000;
/// The most channels one trigger may name.
pub const CHANNELS_MAX: usize = 100;

const _: () = assert!(
    PAYLOAD_BYTES_MAX < MESSAGE_BYTES_MAX,
    "a payload at its bound must fit into a message with the names around it"
);

/// A request to send one notification, as it came in through Redis.
#[derive(Debug, Clone)]
pub struct RedisTrigger {
    /// Who gets it.
    pub target: RedisTarget,
    /// Whose it is; `None` = the default tenant.
    pub tenant: Option<String>,
    /// What they get.
    pub event: RedisEvent,
}

/// Who gets a notification. Lists keep the publisher's order and may repeat a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisTarget {
    /// Every connection of one user.
    User(String),
    /// Every connection of several users.
    Users(Vec<String>),
    /// Every connection of the tenant.
    Broadcast,
    /// The subscribers of one channel.
    Channel(String),
    /// The subscribers of several channels.
    Channels(Vec<String>),
}

/// The event inside a trigger.
#[derive(Debug, Clone)]
pub struct RedisEvent {
    /// What happened, in the publisher's words.
    pub event_type: String,
    /// Any JSON, byte for byte as published.
    pub payload: Box<RawValue>,
    /// How urgent it is; `None` where the publisher did not say.
    pub priority: Option<Priority>,
    /// Seconds it stays worth delivering; 0 = now or never.
    pub ttl: Option<u64>,
    /// The publisher's own id, to find it again downstream.
    pub correlation_id: Option<String>,
}

/// How urgent a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Priority {
    /// May wait.
    Low,
    /// The default.
    Normal,
    /// Before the others.
    High,
    /// Before everything.
    Critical,
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
    /// `event` or its `payload` is missing.
    BadEvent,
    /// `event_type` is missing or malformed.
    BadEventType,
    /// `priority` is not one of the four.
    BadPriority,
    /// `ttl` is not a whole number of seconds.
    BadTtl,
    /// `correlation_id` is malformed.
    BadCorrelationId,
}

impl Rejected {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 15] = [
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
        }
    }
}

/// What was wrong with a message: the reason it is counted under, and the sentence for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What it is counted under.
    pub reason: Rejected,
    /// Where the JSON itself is at fault.
    fault: Option<Fault>,
}

impl From<Rejected> for Rejection {
    fn from(reason: Rejected) -> Self {
        Self { reason, fault: None }
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        let reason = match fault.problem() {
            Problem::Unknown(_) => Rejected::UnknownField,
            Problem::Missing
            | Problem::Mismatch { .. }
            | Problem::NotOneOf(_)
            | Problem::HalfPair
            | Problem::Unfit => Rejected::of_field(fault.field().unwrap_or_default()),
            Problem::Empty
            | Problem::Encoding(_)
            | Problem::Malformed(_)
            | Problem::CutShort
            | Problem::Repeated => Rejected::BadJson,
        };
        Self { reason, fault: Some(fault) }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Some(fault) => fault.fmt(formatter),
            None => formatter.write_str(self.reason.rule()),
        }
    }
}

impl Rejected {
    /// The reason where the field at this path is missing or of another kind than it must be.
    fn of_field(path: &str) -> Self {
        match path {
            "type" => Self::BadType,
            "tenant_id" => Self::BadTenant,
            "event" | "event.payload" => Self::BadEvent,
            "event.event_type" => Self::BadEventType,
            "event.priority" => Self::BadPriority,
            "event.ttl" => Self::BadTtl,
            "event.correlation_id" => Self::BadCorrelationId,
            _ => Self::BadJson,
        }
    }

    /// What a message must keep to, to escape this reason.
    const fn rule(self) -> &'static str {
        match self {
            Self::TooLarge => "a message has at most 1 MiB, its `event.payload` 64 KiB",
            Self::BadJson => "a message is one JSON object in UTF-8",
            Self::UnknownField => "a message has no other fields than the documented ones",
            Self::BadType => "`type` is one of user, users, broadcast, channel, channels",
            Self::WrongTarget => "this `type` may not travel on this Redis channel",
            Self::TargetMismatch => "`target` is what follows the Redis channel's prefix",
            Self::BadUser => "`target` names users of 1 to 128 bytes of visible text, at least one",
            Self::BadChannel => {
                "`target` names channels of 1 to 64 of A-Z a-z 0-9 . _ -, at least one"
            }
            Self::TooManyTargets => "`target` has at most 10,000 users or 100 channels",
            Self::BadTenant => "`tenant_id` is 1 to 64 of A-Z a-z 0-9 . _ -",
            Self::BadEvent => "`event` is an object with `event_type` and `payload`",
            Self::BadEventType => "`event.event_type` is 1 to 128 bytes of visible text",
            Self::BadPriority => "`event.priority` is one of Low, Normal, High, Critical",
            Self::BadTtl => "`event.ttl` is a whole number of seconds",
            Self::BadCorrelationId => "`event.correlation_id` is 1 to 128 bytes of visible text",
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    /// Its type depends on `kind`.
    #[serde(borrow)]
    target: Option<&'a RawValue>,
    tenant_id: Option<String>,
    #[serde(borrow)]
    event: Event<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    event_type: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    priority: Option<Priority>,
    ttl: Option<u64>,
    correlation_id: Option<String>,
}

/// Reads the message `bytes` that was published on the Redis channel `redis_channel`.
///
/// # Errors
/// The first fault found; see [`Rejected`].
pub fn parse(redis_channel: &[u8], bytes: &[u8]) -> Result<RedisTrigger, Rejection> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Rejected::TooLarge.into());
    }
    let envelope: Envelope<'_> = json::read(bytes, Unknown::Refused)?;
    let target = target(redis_channel, &envelope)?;
    let tenant = valid(envelope.tenant_id, Rejected::BadTenant, names::is_channel)?;
    let event = event(envelope.event)?;
    Ok(RedisTrigger { target, tenant, event })
}

fn target(redis_channel: &[u8], envelope: &Envelope<'_>) -> Result<RedisTarget, Rejection> {
    let raw = envelope.target;
    let suffix = |prefix: &str| redis_channel.strip_prefix(prefix.as_bytes());
    let on = |prefix: &str| suffix(prefix).is_some();
    let on_broadcast = redis_channel == BROADCAST.as_bytes();
    match envelope.kind.as_ref() {
        "user" => {
            let suffix = suffix(USER_PREFIX).ok_or(Rejected::WrongTarget)?;
            one(raw, suffix, Rejected::BadUser, is_visible_name).map(RedisTarget::User)
        }
        "channel" => {
            let suffix = suffix(CHANNEL_PREFIX).ok_or(Rejected::WrongTarget)?;
            one(raw, suffix, Rejected::BadChannel, names::is_channel).map(RedisTarget::Channel)
        }
        "users" if !(on_broadcast || on(USER_PREFIX)) => Err(Rejected::WrongTarget.into()),
        "channels" if !(on_broadcast || on(CHANNEL_PREFIX)) => Err(Rejected::WrongTarget.into()),
        "broadcast" if !on_broadcast => Err(Rejected::WrongTarget.into()),
        "users" => many(raw, USERS_MAX, Rejected::BadUser, is_visible_name).map(RedisTarget::Users),
        "channels" => many(raw, CHANNELS_MAX, Rejected::BadChannel, names::is_channel)
            .map(RedisTarget::Channels),
        // There is nothing to say in a broadcast's `target`: publishers write null, "*" or nothing.
        "broadcast" => Ok(RedisTarget::Broadcast),
        _ => Err(Rejected::BadType.into()),
    }
}

fn event(event: Event<'_>) -> Result<RedisEvent, Rejection> {
    let Event { event_type, payload, priority, ttl, correlation_id } = event;
    if !is_visible_name(&event_type) {
        return Err(Rejected::BadEventType.into());
    }
    if payload.get().len() > PAYLOAD_BYTES_MAX {
        return Err(Rejected::TooLarge.into());
    }
    let correlation_id = valid(correlation_id, Rejected::BadCorrelationId, is_visible_name)?;
    Ok(RedisEvent { event_type, payload: payload.to_owned(), priority, ttl, correlation_id })
}

/// A name that may be missing, but not malformed.
fn valid(
    name: Option<String>,
    reason: Rejected,
    is_valid: fn(&str) -> bool,
) -> Result<Option<String>, Rejection> {
    match name {
        Some(name) if !is_valid(&name) => Err(reason.into()),
        name => Ok(name),
    }
}

/// Reads the target, whose fault has the reason of its type.
fn read<'a, T: Deserialize<'a>>(
    raw: Option<&'a RawValue>,
    reason: Rejected,
) -> Result<T, Rejection> {
    let raw = raw.ok_or(reason)?;
    json::read_field("target", raw, Unknown::Refused)
        .map_err(|fault| Rejection { reason, fault: Some(fault) })
}

fn one(
    raw: Option<&RawValue>,
    suffix: &[u8],
    reason: Rejected,
    is_valid: fn(&str) -> bool,
) -> Result<String, Rejection> {
    let name: String = read(raw, reason)?;
    if !is_valid(&name) {
        return Err(reason.into());
    }
    if name.as_bytes() == suffix { Ok(name) } else { Err(Rejected::TargetMismatch.into()) }
}

fn many(
    raw: Option<&RawValue>,
    count_max: usize,
    reason: Rejected,
    is_valid: fn(&str) -> bool,
) -> Result<Vec<String>, Rejection> {
    let names: Vec<String> = read(raw, reason)?;
    if names.len() > count_max {
        return Err(Rejected::TooManyTargets.into());
    }
    if names.is_empty() || !names.iter().all(|name| is_valid(name)) {
        return Err(reason.into());
    }
    Ok(names)
}

/// A user id, an event type or a correlation id, by the same rule as over HTTP.
fn is_visible_name(name: &str) -> bool {
    names::is_visible(name, NAME_BYTES_MAX)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
