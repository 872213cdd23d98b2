//! The JSON spoken with clients: their messages parsed, ours written.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: sees a notification's payload (the router
//! has written it already) or decides what a message means (that is `state`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::id::NotificationId;
use crate::wire::json::{self, Unknown};

/// What a client may say.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Listen to these channels.
    Subscribe(Vec<Cow<'a, str>>),
    /// Stop listening to these channels.
    Unsubscribe(Vec<Cow<'a, str>>),
    /// Are you there?
    Ping,
    /// This notification was taken; the id as the client wrote it.
    Ack(Cow<'a, str>),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Channels<'a> {
    #[serde(borrow)]
    channels: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Acknowledged<'a> {
    #[serde(borrow)]
    notification_id: Cow<'a, str>,
}

/// What a client may say that we do not know: clients are deployed before their servers, and
/// nothing they leave out of a message makes it reach more people.
const UNKNOWN: Unknown = Unknown::Ignored;

/// Parses a client message; the error is a sentence for the client.
pub fn parse(text: &str) -> Result<ClientMessage<'_>, String> {
    let envelope: Envelope<'_> = json::read_text(text, UNKNOWN)
        .map_err(|fault| format!("expected a JSON object with a `type`: {fault}"))?;
    match envelope.kind.as_ref() {
        "Subscribe" | "subscribe" => envelope.channels().map(ClientMessage::Subscribe),
        "Unsubscribe" | "unsubscribe" => envelope.channels().map(ClientMessage::Unsubscribe),
        "Ping" | "ping" => Ok(ClientMessage::Ping),
        "Ack" | "ack" => {
            let read: Acknowledged<'_> = envelope.payload("{\"notification_id\":\"<uuid>\"}")?;
            Ok(ClientMessage::Ack(read.notification_id))
        }
        other => {
            let shown: String = other.chars().take(32).collect();
            Err(format!("unknown type `{shown}`: use Subscribe, Unsubscribe, Ping or Ack"))
        }
    }
}

impl<'a> Envelope<'a> {
    fn channels(&self) -> Result<Vec<Cow<'a, str>>, String> {
        let read: Channels<'a> = self.payload("{\"channels\":[\"name\", …]}")?;
        Ok(read.channels)
    }

    /// Reads the payload, which must look like this.
    fn payload<T: Deserialize<'a>>(&self, looks: &str) -> Result<T, String> {
        let kind = &self.kind;
        let needs = |fault| format!("`{kind}` needs a payload {looks}: {fault}");
        let payload = self.payload.ok_or_else(|| needs("`payload` is missing".to_owned()))?;
        json::read_field("payload", payload, UNKNOWN).map_err(|fault| needs(fault.to_string()))
    }
}

/// What the server says besides notifications; serialized as the contract's JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage<'a> {
    /// The first message on every connection.
    Connected {
        /// The connection's public id.
        connection_id: String,
        /// Whose connection it is.
        user_id: &'a str,
    },
    /// The channels a `Subscribe` has led to.
    Subscribed {
        /// Each channel of the request that is subscribed now.
        payload: &'a [Cow<'a, str>],
    },
    /// The channels an `Unsubscribe` has ended.
    Unsubscribed {
        /// Each channel of the request that is not subscribed any more.
        payload: &'a [Cow<'a, str>],
    },
    /// The answer to `Ping`.
    Pong,
    /// A sign of life.
    Heartbeat,
    /// Something the client sent could not be done; the connection stays open.
    Error {
        /// One of the contract's codes.
        code: &'static str,
        /// What was wrong and what to do.
        message: &'a str,
    },
    /// An Ack has settled its notification.
    Acked {
        /// Which.
        notification_id: String,
    },
    /// Another connection of the user has settled a notification.
    Settled {
        /// Which.
        notification_id: String,
    },
    /// The gateway is going away.
    Shutdown {
        /// Why.
        reason: &'static str,
        /// When this client should come back.
        reconnect_after_seconds: f64,
    },
}

impl ServerMessage<'_> {
    /// The message as JSON. Serialization to memory cannot fail; an empty text would mean a bug.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The SSE event name the message travels under.
    #[must_use]
    pub const fn event_name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Heartbeat => "heartbeat",
            Self::Error { .. } => "error",
            _ => "message",
        }
    }
}

/// A notification's JSON as it is sent again: marked `replayed`, or with its `attempt` from the
/// second on. Both go to the end of the object; the rest keeps its bytes.
#[must_use]
pub fn repeated(json: &[u8], replayed: bool, attempt: u8) -> Vec<u8> {
    let mut copy = Vec::with_capacity(json.len() + 32);
    copy.extend_from_slice(json.strip_suffix(b"}").unwrap_or(json));
    if replayed {
        copy.extend_from_slice(b",\"replayed\":true");
    }
    if attempt > 1 {
        copy.extend_from_slice(format!(",\"attempt\":{attempt}").as_bytes());
    }
    copy.push(b'}');
    copy
}

/// Parses a UUID in hyphenated form; `None` for anything else.
#[must_use]
pub fn parse_id(text: &str) -> Option<NotificationId> {
    let is_hyphenated = [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    if text.len() != 36 || !is_hyphenated {
        return None;
    }
    let mut bytes = [0_u8; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    });
    for byte in &mut bytes {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(NotificationId(bytes))
}

/// Whether `name` is a channel's: `[A-Za-z0-9._-]{1,64}`.
#[must_use]
pub fn is_channel_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests;
