//! A request to send one notification, checked, from whichever source.
//!
//! **Runs on**: the router. **Owns**: its parts; the payload as a share of the text it came in.
//! **Never**: looks into the payload: its bytes pass through as they came, or are written by a template.

use std::borrow::Cow;
use std::sync::Arc;

use ara_shards::base::id::NotificationId;
use ara_shards::notification::{Audience, Priority};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::templates::Rendered;

/// One checked trigger.
#[derive(Debug)]
pub struct Trigger {
    /// Whose recipients.
    pub tenant: Arc<str>,
    /// Who is meant.
    pub target: Target,
    /// What they get.
    pub event: Event,
}

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

impl Target {
    /// The users or channels it names, in the sender's order.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        match self {
            Self::Users(names) | Self::Channels(names) => names,
            Self::Everyone => &[],
        }
    }
}

/// What happened, and how it is to be treated.
#[derive(Debug)]
pub struct Event {
    /// The event's type.
    pub event_type: String,
    /// Any JSON, byte for byte as received, or as a template gives it.
    pub payload: Payload,
    /// How urgent it is.
    pub priority: Priority,
    /// Seconds it stays worth delivering; 0 = now or never.
    pub ttl: Option<u64>,
    /// Where it came from.
    pub source: Cow<'static, str>,
    /// The sender's own id for it.
    pub correlation_id: Option<String>,
    /// Who among the recipients is meant; `None` = all.
    pub audience: Option<Audience>,
    /// Whether it waits for the users an audience names who are away. To single users everything
    /// does; this is for broadcasts and channels.
    pub queue: bool,
}

/// One JSON value, as it was written: a share of the text that it is a part of, so that no source
/// copies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(Bytes);

impl JsonText {
    /// The value `json`, which was read from `text`.
    ///
    /// # Panics
    ///
    /// If it was read from something else.
    #[must_use]
    pub fn within(text: &Bytes, json: &RawValue) -> Self {
        Self(text.slice_ref(json.get().as_bytes()))
    }

    /// Its bytes: JSON in UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes it has: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no JSON value is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A value of its own, not part of a text.
impl From<Box<RawValue>> for JsonText {
    fn from(json: Box<RawValue>) -> Self {
        Self(Box::<str>::from(json).into_string().into())
    }
}

impl From<JsonText> for Bytes {
    fn from(JsonText(text): JsonText) -> Self {
        text
    }
}

/// What a notification says: one JSON value.
#[derive(Debug, Clone)]
pub enum Payload {
    /// As its sender wrote it.
    Sent(JsonText),
    /// A template with its sender's variables.
    Rendered(Rendered),
}

impl Payload {
    /// How many bytes it has: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no JSON value is empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Sent(text) => text.len(),
            Self::Rendered(rendered) => rendered.len(),
        }
    }

    /// Writes it.
    pub fn write_to(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Sent(text) => buffer.extend_from_slice(text.as_bytes()),
            Self::Rendered(rendered) => rendered.write_to(buffer),
        }
    }
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

impl Event {
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
        let metadata = Metadata {
            source: &self.source,
            priority: self.priority.name(),
            ttl: self.ttl,
            correlation_id: self.correlation_id.as_deref(),
            audience: audience.map(WireAudience::from),
        };
        let mut object = ObjectWriter::with_capacity(self.payload.len() + 320);
        object.member("type", "notification");
        object.member("id", &id.to_string());
        object.member("occurred_at", occurred_at);
        object.member("event_type", &self.event_type);
        object.written_member("payload", |buffer| self.payload.write_to(buffer));
        object.member("metadata", &metadata);
        if let Some(channel) = channel {
            object.member("channel", channel);
        }
        object.end()
    }
}

/// Writes a JSON object of at least one member. `serde_json` would want the payload as a `RawValue`,
/// which is made of bytes only by scanning or copying them once more.
struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn member<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) {
        self.name(name);
        serde_json::to_writer(&mut self.0, value).expect("memory takes whatever has string keys");
    }

    /// A member whose value writes itself.
    fn written_member(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        write(&mut self.0);
    }

    /// Names are ours: none needs an escape.
    fn name(&mut self, name: &'static str) {
        self.0.extend_from_slice(if self.0.is_empty() { b"{\"" } else { b",\"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &str) -> Event {
        Event {
            event_type: "order \"paid\"".to_owned(),
            payload: Payload::Sent(RawValue::from_string(payload.to_owned()).unwrap().into()),
            priority: Priority::Normal,
            ttl: None,
            source: "http-api".into(),
            correlation_id: None,
            audience: None,
            queue: false,
        }
    }

    /// Clients, and files of former versions, hold these very bytes.
    #[test]
    fn a_notification_has_the_bytes_it_always_had() {
        let id = NotificationId([0x11; 16]);
        let payload = r#"{"b":1.10, "a":[1e400,"\u0041"],"a":0}"#;
        let mut event = event(payload);
        let json = event.to_json(id, "now", None, None);
        let head = format!(
            r#"{{"type":"notification","id":"{id}","occurred_at":"now","event_type":"order \"paid\"","payload":{payload},"metadata":{{"source":"http-api","priority":"Normal""#
        );
        assert_eq!(String::from_utf8(json).unwrap(), format!("{head}}}}}"));
        event.ttl = Some(60);
        event.correlation_id = Some("c".to_owned());
        let audience = Audience::Roles(Box::new(["r".into()]));
        let json = event.to_json(id, "now", Some("news"), Some(&audience));
        let tail = r#","ttl":60,"correlation_id":"c","audience":{"type":"Roles","value":["r"]}},"channel":"news"}"#;
        assert_eq!(String::from_utf8(json).unwrap(), format!("{head}{tail}"));
    }

    #[test]
    fn what_a_template_gives_is_written_as_if_it_had_been_sent() {
        let variables = Bytes::from_static(br#"{"n":1.50,"name":"\"A\""}"#);
        let text =
            RawValue::from_string(r#"{"a" :"{{n}}","b":"Dear {{name}}"}"#.to_owned()).unwrap();
        let template = crate::templates::Template {
            id: "t".into(),
            name: None,
            event_type: "e".into(),
            pattern: crate::templates::Pattern::parse(text).unwrap(),
            default_priority: Priority::Normal,
            default_ttl: None,
            created_ms: 0,
            updated_ms: 0,
        };
        let rendered = Rendered::new(std::rc::Rc::new(template), variables).unwrap();
        let sent = event(r#"{"a" :1.50,"b":"Dear \"A\""}"#);
        let mut by_template = event("0");
        by_template.payload = Payload::Rendered(rendered);
        assert_eq!(by_template.payload.len(), sent.payload.len());
        let id = NotificationId([0x11; 16]);
        for channel in [None, Some("news")] {
            let json = |event: &Event| event.to_json(id, "now", channel, None);
            assert_eq!(json(&by_template), json(&sent));
        }
    }

    #[test]
    fn a_payload_shares_the_text_it_was_read_from() {
        let text = Bytes::from_static(b"{\"payload\": [1, 2] }");
        let read: std::collections::BTreeMap<&str, &RawValue> =
            serde_json::from_slice(&text).unwrap();
        let payload = JsonText::within(&text, read["payload"]);
        assert_eq!(payload.as_bytes(), b"[1, 2]");
        assert!(text.as_ptr_range().contains(&payload.as_bytes().as_ptr()));
    }
}
