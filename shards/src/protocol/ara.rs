//! The gateway's own contract: clients' messages parsed from JSON, ours written as JSON, in
//! WebSocket frames or server-sent events.
//!
//! **Runs on**: a shard, and the router (notifications). **Owns**: nothing. **Never**: sees a
//! notification's payload (the router has written it already) or decides what a message means
//! (that is `state`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ClientMessage, ErrorCode, Event, Incoming, Marks, Protocol};
use crate::base::id::{NotificationId, parse_id};
use crate::base::limits::SSE_RETRY_MS;
use crate::wire::close::CloseReason;
use crate::wire::json::{self, Unknown};
use crate::wire::{sse, websocket};

/// What the JSON is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// A WebSocket text frame.
    WebSocket,
    /// An event in a chunk of an HTTP/1.1 response.
    SseChunked,
    /// An event as it is.
    SsePlain,
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
struct Shown<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Acknowledged<'a> {
    #[serde(borrow)]
    notification_id: Cow<'a, str>,
}

/// What a client may say that we do not know: clients are deployed before their servers, and
/// nothing they leave out of a message makes it reach more people.
const UNKNOWN: Unknown = Unknown::Ignored;

/// Reads a client's message: JSON as text, or as binary in UTF-8.
pub(super) fn read(incoming: Incoming<'_>) -> Result<ClientMessage<'_>, String> {
    match incoming {
        Incoming::Text(text) => parse(text),
        Incoming::Binary(bytes) => std::str::from_utf8(bytes)
            .map_err(|_invalid| "a binary message must be JSON in UTF-8".to_owned())
            .and_then(parse),
    }
}

/// Parses a client message; the error is a sentence for the client.
pub fn parse(text: &str) -> Result<ClientMessage<'_>, String> {
    let envelope: Envelope<'_> = json::read_text(text, UNKNOWN)
        .map_err(|fault| format!("expected a JSON object with a `type`: {fault}"))?;
    match envelope.kind.as_ref() {
        "Subscribe" | "subscribe" => envelope.channels().map(ClientMessage::Subscribe),
        "Unsubscribe" | "unsubscribe" => envelope.channels().map(ClientMessage::Unsubscribe),
        "Ping" | "ping" => Ok(ClientMessage::Ping),
        "Refresh" | "refresh" => {
            let read: Shown<'_> = envelope.payload("{\"token\":\"<JWT>\"}")?;
            Ok(ClientMessage::Refresh(read.token))
        }
        "Ack" | "ack" => {
            let read: Acknowledged<'_> = envelope.payload("{\"notification_id\":\"<uuid>\"}")?;
            Ok(ClientMessage::Ack(parse_id(&read.notification_id)))
        }
        other => {
            let shown: String = other.chars().take(32).collect();
            Err(format!("unknown type `{shown}`: use Subscribe, Unsubscribe, Ping, Ack or Refresh"))
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

/// An event as it is written to a client of that framing.
pub(super) fn encode(event: &Event<'_>, framing: Framing) -> Option<Box<[u8]>> {
    let Some(message) = ServerMessage::of(event) else {
        // No message, but a ping of the transport. A stream's client has no way to answer one.
        return (framing == Framing::WebSocket).then(websocket::ping_frame);
    };
    Some(match (framing, event) {
        // The message, and a ping that makes the client answer.
        (Framing::WebSocket, Event::Heartbeat) => {
            [websocket::text_frame(&message.json()), websocket::ping_frame()].concat().into()
        }
        (Framing::WebSocket, _) => websocket::text_frame(&message.json()),
        // The reconnection time is set in the same block: one of its own would be an event without
        // data to many client libraries.
        (_, Event::Connected { .. }) => framing.event(message.event_with_retry(SSE_RETRY_MS)),
        (_, Event::Shutdown { reconnect_after_ms }) => {
            framing.event(message.event_with_retry(*reconnect_after_ms))
        }
        _ => framing.event(sse::event(message.event_name(), None, &message.json())),
    })
}

/// A notification as it is written to all clients of that framing.
pub(super) fn encode_notification(
    framing: Framing,
    id: NotificationId,
    json: &[u8],
    marks: Marks,
) -> Box<[u8]> {
    let json = marked(json, marks);
    match framing {
        Framing::WebSocket => websocket::text_frame(&json),
        Framing::SseChunked | Framing::SsePlain => {
            framing.event(sse::event("notification", Some(id), &json))
        }
    }
}

/// The body of an event stream that only says why there is none, and when to try again.
#[must_use]
pub fn refusing_stream(protocol: Protocol, code: &str, message: &str, retry_ms: u32) -> Vec<u8> {
    let event = ServerMessage::Error { code, message }.event_with_retry(retry_ms);
    if protocol == Protocol::AraSseChunked {
        [&sse::chunk(&event), sse::LAST_CHUNK].concat()
    } else {
        event.into_vec()
    }
}

/// A notification's JSON with its marks: members at the end of the object; the rest keeps its bytes.
fn marked(json: &[u8], Marks { replayed, attempt }: Marks) -> Cow<'_, [u8]> {
    if !replayed && attempt < 2 {
        return Cow::Borrowed(json);
    }
    let members = json.strip_suffix(b"}").expect("a notification is kept as a JSON object");
    let mut copy = Vec::with_capacity(json.len() + 32);
    copy.extend_from_slice(members);
    if replayed {
        copy.extend_from_slice(b",\"replayed\":true");
    }
    if attempt > 1 {
        copy.extend_from_slice(format!(",\"attempt\":{attempt}").as_bytes());
    }
    copy.push(b'}');
    Cow::Owned(copy)
}

impl Framing {
    /// An event in the form of a stream.
    fn event(self, event: Box<[u8]>) -> Box<[u8]> {
        if self == Self::SseChunked { sse::chunk(&event) } else { event }
    }

    /// The last bytes on a connection.
    pub(super) fn close(self, reason: CloseReason<'_>) -> Option<Box<[u8]>> {
        let shutdown = reason
            .reconnect_after_ms
            .and_then(|reconnect_after_ms| encode(&Event::Shutdown { reconnect_after_ms }, self));
        let mut last = shutdown.map(<[u8]>::into_vec).unwrap_or_default();
        if let (false, Some(error)) = (self == Self::WebSocket, reason.stream_error) {
            let message = ServerMessage::Error { code: error.code, message: reason.reason };
            last.extend(self.event(message.event_with_retry(error.retry_ms)));
        }
        match self {
            Self::WebSocket => {
                last.extend(websocket::close_frame(Some(reason.code), reason.reason));
            }
            // So that the reader can tell an end from a broken connection.
            Self::SseChunked => last.extend_from_slice(sse::LAST_CHUNK),
            Self::SsePlain => {}
        }
        (!last.is_empty()).then(|| last.into())
    }
}

/// What the server says besides notifications; serialized as the contract's JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerMessage<'a> {
    Connected {
        connection_id: String,
        user_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<&'a str>,
    },
    Refreshed {
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<&'a str>,
    },
    Subscribed {
        payload: &'a [Cow<'a, str>],
    },
    Unsubscribed {
        payload: &'a [Cow<'a, str>],
    },
    Pong,
    Heartbeat,
    Error {
        code: &'a str,
        message: &'a str,
    },
    Acked {
        notification_id: String,
    },
    Settled {
        notification_id: String,
    },
    Shutdown {
        reason: &'static str,
        reconnect_after_seconds: f64,
    },
}

impl<'a> ServerMessage<'a> {
    /// The message that tells an event; `None` = no message tells it.
    fn of(event: &Event<'a>) -> Option<Self> {
        Some(match *event {
            Event::Connected { connection_id, user_id, expires_at } => {
                Self::Connected { connection_id: connection_id.to_string(), user_id, expires_at }
            }
            Event::Refreshed { expires_at } => Self::Refreshed { expires_at },
            Event::Subscribed(payload) => Self::Subscribed { payload },
            Event::Unsubscribed(payload) => Self::Unsubscribed { payload },
            Event::Pong => Self::Pong,
            Event::Heartbeat => Self::Heartbeat,
            Event::Probe => return None,
            Event::Error { code, message } => Self::Error { code: name_of(code), message },
            Event::Acked(id) => Self::Acked { notification_id: id.to_string() },
            Event::Settled(id) => Self::Settled { notification_id: id.to_string() },
            Event::Shutdown { reconnect_after_ms } => Self::Shutdown {
                reason: CloseReason::SHUTDOWN.reason,
                reconnect_after_seconds: f64::from(reconnect_after_ms) / 1000.0,
            },
        })
    }

    /// The message as JSON.
    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always have a JSON form")
    }

    /// The SSE event name the message travels under.
    const fn event_name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Heartbeat => "heartbeat",
            Self::Error { .. } => "error",
            _ => "message",
        }
    }

    /// The message as an event that also sets the client's reconnection time.
    fn event_with_retry(&self, retry_ms: u32) -> Box<[u8]> {
        sse::event_with_retry(self.event_name(), &self.json(), retry_ms)
    }
}

/// A code as the contract names it.
const fn name_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidMessage => "INVALID_MESSAGE",
        ErrorCode::InvalidChannel => "INVALID_CHANNEL",
        ErrorCode::ForbiddenChannel => "FORBIDDEN_CHANNEL",
        ErrorCode::SubscriptionLimit => "SUBSCRIPTION_LIMIT",
        ErrorCode::AckUnknown => "ACK_UNKNOWN",
        ErrorCode::RateLimited => "RATE_LIMITED",
        ErrorCode::Unauthorized => "UNAUTHORIZED",
    }
}

#[cfg(test)]
mod tests;
