//! A request to send one notification, checked, from whichever source.
//!
//! **Runs on**: the router. **Owns**: its parts; the payload only by reference.
//! **Never**: looks into the payload: its bytes pass through as they came.

use std::sync::Arc;

use ara_shards::base::id::NotificationId;
use ara_shards::notification::{Audience, Priority};
use serde::Serialize;
use serde_json::value::RawValue;

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All connections of these users, each named once.
    Users(Vec<Arc<str>>),
    /// Every connection of the tenant.
    Everyone,
    /// The subscribers of these channels, each named once.
    Channels(Vec<Arc<str>>),
}

/// What happened, and how it is to be treated.
#[derive(Debug)]
pub struct Event<'a> {
    /// The event's type.
    pub event_type: &'a str,
    /// Any JSON, byte for byte as received.
    pub payload: &'a RawValue,
    /// How urgent it is.
    pub priority: Priority,
    /// Seconds it stays worth delivering; 0 = now or never.
    pub ttl: Option<u64>,
    /// Where it came from.
    pub source: &'a str,
    /// The caller's own id for it.
    pub correlation_id: Option<&'a str>,
    /// Who among the recipients is meant; `None` = all.
    pub audience: Option<Audience>,
    /// Whether it waits for the users an audience names who are away. To single users everything
    /// does; this is for broadcasts and channels.
    pub queue: bool,
}

/// One checked trigger.
#[derive(Debug)]
pub struct Trigger<'a> {
    /// Whose recipients.
    pub tenant: Arc<str>,
    /// Who is meant.
    pub target: Target,
    /// What they get.
    pub event: Event<'a>,
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: &'static str,
    id: &'a str,
    occurred_at: &'a str,
    event_type: &'a str,
    payload: &'a RawValue,
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    source: &'a str,
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<WireAudience<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", content = "value")]
enum WireAudience<'a> {
    Roles(&'a [Box<str>]),
    Users(&'a [Box<str>]),
    Channels(&'a [Box<str>]),
}

impl<'a> From<&'a Audience> for WireAudience<'a> {
    fn from(audience: &'a Audience) -> Self {
        match audience {
            Audience::Roles(names) => Self::Roles(names),
            Audience::Users(names) => Self::Users(names),
            Audience::Channels(names) => Self::Channels(names),
        }
    }
}

impl Event<'_> {
    /// The notification object as clients get it, on `channel` if it goes to one, with or without
    /// the audience it is for.
    #[must_use]
    pub fn to_json(
        &self,
        id: NotificationId,
        occurred_at: &str,
        channel: Option<&str>,
        audience: Option<&Audience>,
    ) -> Vec<u8> {
        let wire = Wire {
            r#type: "notification",
            id: &id.to_string(),
            occurred_at,
            event_type: self.event_type,
            payload: self.payload,
            metadata: Metadata {
                source: self.source,
                priority: self.priority.name(),
                ttl: self.ttl,
                correlation_id: self.correlation_id,
                audience: audience.map(WireAudience::from),
            },
            channel,
        };
        let mut json = Vec::with_capacity(self.payload.get().len() + 320);
        // Serializing to memory cannot fail.
        let _written = serde_json::to_writer(&mut json, &wire);
        json
    }
}
