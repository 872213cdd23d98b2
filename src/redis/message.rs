//! From one pub/sub message to one checked trigger, or to the reason why not.
//!
//! **Runs on**: the router. **Owns**: nothing. **Never**: does I/O, logs, or changes a byte of the
//! payload, which passes through as it was published.
//!
//! What may travel where: type `user` only on `notification:user:<user>` and `channel` only on
//! `notification:channel:<name>`, each with a `target` that is the suffix; `broadcast` only on
//! `notification:broadcast`. `users` and `channels` may travel there too, and on any
//! `notification:user:…` or `notification:channel:…` respectively: they name several
//! targets and so have no suffix to agree with. Unknown fields are ignored, so that a publisher
//! may be newer than the gateway; a repeated field is a fault, since two readers could differ on it.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
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
    pub const ALL: [Self; 14] = [
        Self::TooLarge,
        Self::BadJson,
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

/// The message with its fields unread, so that each fault has a reason of its own.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    target: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tenant_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    event_type: Option<&'a RawValue>,
    /// `null` is a payload; only a missing field is none.
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    priority: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow, default)]
    correlation_id: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(field).map(Some)
}

/// Reads the message `bytes` that was published on the Redis channel `redis_channel`.
///
/// # Errors
/// The first fault found; see [`Rejected`].
pub fn parse(redis_channel: &[u8], bytes: &[u8]) -> Result<RedisTrigger, Rejected> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Rejected::TooLarge);
    }
    let text = std::str::from_utf8(bytes).ok().ok_or(Rejected::BadJson)?;
    // serde would also read a struct from an array of its fields.
    if !text.trim_start().starts_with('{') {
        return Err(Rejected::BadJson);
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).ok().ok_or(Rejected::BadJson)?;
    let target = target(redis_channel, &envelope)?;
    let tenant = optional(envelope.tenant_id, Rejected::BadTenant, names::is_channel)?;
    let event = event(envelope.event.ok_or(Rejected::BadEvent)?)?;
    Ok(RedisTrigger { target, tenant, event })
}

fn target(redis_channel: &[u8], envelope: &Envelope<'_>) -> Result<RedisTarget, Rejected> {
    let kind: Cow<'_, str> = read(envelope.kind, Rejected::BadType)?;
    let raw = envelope.target;
    let suffix = |prefix: &str| redis_channel.strip_prefix(prefix.as_bytes());
    let on = |prefix: &str| suffix(prefix).is_some();
    let on_broadcast = redis_channel == BROADCAST.as_bytes();
    match kind.as_ref() {
        "user" => {
            let suffix = suffix(USER_PREFIX).ok_or(Rejected::WrongTarget)?;
            one(raw, suffix, Rejected::BadUser, is_visible_name).map(RedisTarget::User)
        }
        "channel" => {
            let suffix = suffix(CHANNEL_PREFIX).ok_or(Rejected::WrongTarget)?;
            one(raw, suffix, Rejected::BadChannel, names::is_channel).map(RedisTarget::Channel)
        }
        "users" if !(on_broadcast || on(USER_PREFIX)) => Err(Rejected::WrongTarget),
        "channels" if !(on_broadcast || on(CHANNEL_PREFIX)) => Err(Rejected::WrongTarget),
        "broadcast" if !on_broadcast => Err(Rejected::WrongTarget),
        "users" => many(raw, USERS_MAX, Rejected::BadUser, is_visible_name).map(RedisTarget::Users),
        "channels" => many(raw, CHANNELS_MAX, Rejected::BadChannel, names::is_channel)
            .map(RedisTarget::Channels),
        // There is nothing to say in a broadcast's `target`: publishers write null, "*" or nothing.
        "broadcast" => Ok(RedisTarget::Broadcast),
        _ => Err(Rejected::BadType),
    }
}

fn event(raw: &RawValue) -> Result<RedisEvent, Rejected> {
    if !raw.get().starts_with('{') {
        return Err(Rejected::BadEvent);
    }
    let event: Event<'_> = serde_json::from_str(raw.get()).ok().ok_or(Rejected::BadJson)?;
    let event_type = optional(event.event_type, Rejected::BadEventType, is_visible_name)?;
    let payload = event.payload.ok_or(Rejected::BadEvent)?;
    if payload.get().len() > PAYLOAD_BYTES_MAX {
        return Err(Rejected::TooLarge);
    }
    Ok(RedisEvent {
        event_type: event_type.ok_or(Rejected::BadEventType)?,
        payload: payload.to_owned(),
        priority: event.priority.map(|raw| read(Some(raw), Rejected::BadPriority)).transpose()?,
        ttl: event.ttl.map(|raw| read(Some(raw), Rejected::BadTtl)).transpose()?,
        correlation_id: optional(
            event.correlation_id,
            Rejected::BadCorrelationId,
            is_visible_name,
        )?,
    })
}

fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, fault: Rejected) -> Result<T, Rejected> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or(fault)
}

/// A string that may be missing (or null) but not malformed.
fn optional(
    raw: Option<&RawValue>,
    fault: Rejected,
    is_valid: fn(&str) -> bool,
) -> Result<Option<String>, Rejected> {
    let Some(raw) = raw else { return Ok(None) };
    let text: String = read(Some(raw), fault)?;
    if is_valid(&text) { Ok(Some(text)) } else { Err(fault) }
}

fn one(
    raw: Option<&RawValue>,
    suffix: &[u8],
    fault: Rejected,
    is_valid: fn(&str) -> bool,
) -> Result<String, Rejected> {
    let name = optional(raw, fault, is_valid)?.ok_or(fault)?;
    if name.as_bytes() == suffix { Ok(name) } else { Err(Rejected::TargetMismatch) }
}

fn many(
    raw: Option<&RawValue>,
    count_max: usize,
    fault: Rejected,
    is_valid: fn(&str) -> bool,
) -> Result<Vec<String>, Rejected> {
    let names: Vec<String> = read(raw, fault)?;
    if names.len() > count_max {
        return Err(Rejected::TooManyTargets);
    }
    if names.is_empty() || !names.iter().all(|name| is_valid(name)) {
        return Err(fault);
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
