//! What waits in an outbox: bytes for one transport, shared by all who get them.
//!
//! **Runs on**: one shard (`Rc`, so that a recipient costs no atomic operation). **Owns**: the
//! bytes, or a share of the notification. **Never**: crosses a thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tungstenite::protocol::frame::coding::OpCode;

use crate::base::id::NotificationId;
use crate::base::limits::SSE_RETRY_MS;
use crate::link::message::{Encoding, Transport};
use crate::notification::{Notification, Priority};
use crate::protocol::ara::{self, ServerMessage};
use crate::queued_message::QueuedMessage;
use crate::wire::{sse, websocket};

/// A frame on its way to one or more connections of this shard.
#[derive(Debug)]
pub enum Frame {
    /// A notification: the bytes depend on the reader's transport.
    Notification(Arc<Notification>),
    /// A notification to single users, and its number in the order in which the shard took them.
    Personal(Arc<Notification>, u64),
    /// A message from a user's queue, or sent again.
    QueuedMessage(Box<Repeated>),
    /// A message of the server's to an SSE client: a chunk with one event.
    Event(Box<[u8]>),
    /// Bytes to be written as they are: frames for a WebSocket, or a response head.
    Bytes(Box<[u8]>),
}

/// A notification a closing connection had not wholly written.
#[derive(Debug)]
pub struct Unsent {
    /// It.
    pub frame: Rc<Frame>,
    /// Whether its beginning is out and its end still on the way: it may arrive yet.
    pub is_begun: bool,
}

/// A message in the form each transport writes when it is sent again. It names the message, which
/// stays with its owner: a frame that comes back brings none.
#[derive(Debug)]
pub struct Repeated {
    /// Which notification it is.
    pub id: NotificationId,
    /// Its number in the order in which the shard took them.
    pub sequence: u64,
    /// How often it has been sent, this time included.
    pub attempts: u8,
    priority: Priority,
    /// Connections that have taken it and not given it back.
    copies: Cell<u32>,
    websocket: Box<[u8]>,
    sse: Box<[u8]>,
}

impl Repeated {
    /// So many connections have taken it.
    pub(crate) fn set_copies(&self, copies: u32) {
        self.copies.set(copies);
    }

    /// A connection that took it gives it back unwritten. Returns whether all have: then nobody
    /// has written it, or will.
    pub(crate) fn give_back(&self) -> bool {
        let others = self.copies.get().checked_sub(1);
        self.copies.set(others.expect("a connection gives back what it has taken, once"));
        others == Some(0)
    }
}

impl Frame {
    /// A message that is sent from a queue (`replayed`) or again.
    #[must_use]
    pub fn queued(message: &QueuedMessage, replayed: bool) -> Rc<Self> {
        let (id, attempts) = (message.id(), message.attempts());
        let json = ara::repeated(message.shared().json(), replayed, attempts);
        Rc::new(Self::QueuedMessage(Box::new(Repeated {
            id,
            sequence: message.sequence(),
            attempts,
            priority: message.priority(),
            copies: Cell::new(0),
            websocket: websocket::text_frame(&json),
            sse: sse::event("notification", Some(id), &json),
        })))
    }

    /// How urgent it is, if it is a notification.
    #[must_use]
    pub fn priority(&self) -> Option<Priority> {
        match self {
            Self::Notification(notification) | Self::Personal(notification, _) => {
                Some(notification.head().priority)
            }
            Self::QueuedMessage(repeated) => Some(repeated.priority),
            Self::Event(_) | Self::Bytes(_) => None,
        }
    }

    /// Which notification it is, if it is one.
    #[must_use]
    pub fn id(&self) -> Option<NotificationId> {
        match self {
            Self::Notification(notification) | Self::Personal(notification, _) => {
                Some(notification.head().id)
            }
            Self::QueuedMessage(repeated) => Some(repeated.id),
            Self::Event(_) | Self::Bytes(_) => None,
        }
    }

    /// Whether it is a notification, to anybody.
    #[must_use]
    pub const fn is_notification(&self) -> bool {
        !matches!(self, Self::Event(_) | Self::Bytes(_))
    }

    /// The bytes a connection of that encoding is written.
    #[must_use]
    pub fn bytes(&self, encoding: Encoding) -> &[u8] {
        let bytes = match self {
            Self::Notification(notification) | Self::Personal(notification, _) => {
                notification.bytes(encoding.transport())
            }
            Self::QueuedMessage(repeated) => match encoding.transport() {
                Transport::WebSocket => &repeated.websocket,
                Transport::Sse => &repeated.sse,
            },
            Self::Event(chunk) => chunk,
            Self::Bytes(bytes) => return bytes,
        };
        if encoding == Encoding::PlainEvents { sse::in_chunk(bytes) } else { bytes }
    }

    /// The first message on every connection. An SSE client's reconnection time is set in the same
    /// block: one of its own would be an event without data to many client libraries.
    #[must_use]
    pub fn connected(
        connection_id: NotificationId,
        user_id: &str,
        transport: Transport,
    ) -> Rc<Self> {
        let connection_id = connection_id.to_string();
        let message = ServerMessage::Connected { connection_id, user_id };
        match transport {
            Transport::WebSocket => Self::message(&message, transport),
            Transport::Sse => {
                let (name, json) = (message.event_name(), message.json());
                Rc::new(Self::Event(sse::event_with_retry(name, &json, SSE_RETRY_MS)))
            }
        }
    }

    /// A server message in a transport's form.
    #[must_use]
    pub fn message(message: &ServerMessage<'_>, transport: Transport) -> Rc<Self> {
        let json = message.json();
        Rc::new(match transport {
            Transport::WebSocket => Self::Bytes(websocket::text_frame(&json)),
            Transport::Sse => Self::Event(sse::event(message.event_name(), None, &json)),
        })
    }

    /// A heartbeat: the message, and on WebSocket a protocol ping that makes the client answer.
    #[must_use]
    pub fn heartbeat(transport: Transport) -> Rc<Self> {
        match transport {
            Transport::WebSocket => {
                let mut bytes = websocket::text_frame(&ServerMessage::Heartbeat.json()).into_vec();
                bytes.extend_from_slice(&websocket::ping_frame());
                Self::raw(bytes.into_boxed_slice())
            }
            Transport::Sse => Self::message(&ServerMessage::Heartbeat, transport),
        }
    }

    /// A goodbye with the delay after which the client should come back. An SSE client's own
    /// reconnection is set to it as well.
    #[must_use]
    pub fn shutdown(transport: Transport, reconnect_after_ms: u32) -> Rc<Self> {
        let message = ServerMessage::Shutdown {
            reason: "server shutting down",
            reconnect_after_seconds: f64::from(reconnect_after_ms) / 1000.0,
        };
        match transport {
            Transport::WebSocket => Self::message(&message, transport),
            Transport::Sse => {
                let (name, json) = (message.event_name(), message.json());
                Rc::new(Self::Event(sse::event_with_retry(name, &json, reconnect_after_ms)))
            }
        }
    }

    /// A frame with these bytes as they are.
    #[must_use]
    pub fn raw(bytes: Box<[u8]>) -> Rc<Self> {
        Rc::new(Self::Bytes(bytes))
    }

    /// An unfragmented message frame, text or binary.
    #[must_use]
    pub fn websocket(opcode: OpCode, payload: &[u8]) -> Rc<Self> {
        Rc::new(Self::Bytes(websocket::frame(opcode, payload)))
    }
}
