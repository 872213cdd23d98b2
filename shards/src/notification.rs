//! One event, encoded once for every reader it will ever have.
//!
//! **Runs on**: made on the router, read on any shard. **Owns**: immutable bytes.
//! **Never**: is encoded again for a recipient, changed, or copied per delivery.

use std::sync::Arc;

use triomphe::ThinArc;

use crate::base::id::{NotificationId, Tick};
use crate::base::transport::Transport;
use crate::wire::{sse, websocket};

/// How urgent a notification is. The order is the order of the delivery lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// First to wait, first to be shed.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before normal traffic.
    High,
    /// Before everything else.
    Critical,
}

impl Priority {
    /// All priorities, least urgent first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "Low",
            Self::Normal => "Normal",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }

    /// The priority of that name, exactly as written on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name() == name)
    }
}

/// Who, among the recipients, is meant: a filter on connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Connections whose token carries one of these roles.
    Roles(Box<[Box<str>]>),
    /// Connections of one of these users, in ascending order.
    Users(Box<[Box<str>]>),
    /// Connections that hear one of these channels.
    Channels(Box<[Box<str>]>),
}

/// What is known of an event besides its bytes.
#[derive(Debug)]
pub struct Metadata {
    /// Its identity, the same on every transport and every repetition.
    pub id: NotificationId,
    /// Who is meant; `None` = every recipient.
    pub audience: Option<Arc<Audience>>,
    /// When it stops being worth keeping; not later than its trigger: now or never.
    pub expires_at: Tick,
    /// Its lane.
    pub priority: Priority,
}

/// An event's head and its complete WebSocket frame in one allocation: what is kept of it for
/// whoever is to get it later. The JSON is the frame's end.
#[derive(Clone)]
pub struct SharedMessage(ThinArc<Metadata, u8>);

impl SharedMessage {
    /// From the complete notification object.
    #[must_use]
    pub fn new(head: Metadata, json: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice(head, &websocket::text_frame(json)))
    }

    /// What is known of it.
    #[must_use]
    pub fn head(&self) -> &Metadata {
        &self.0.header.header
    }

    /// The complete WebSocket frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.0.slice
    }

    /// The notification object.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        websocket::payload_of(self.frame())
    }
}

impl std::fmt::Debug for SharedMessage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.head().fmt(formatter)
    }
}

/// One event in the form each transport writes it.
#[derive(Debug)]
pub struct Notification {
    kept: SharedMessage,
    sse: Box<[u8]>,
}

impl Notification {
    /// Encodes `json` (the complete notification object) for the transports in use.
    ///
    /// A transport without a reader gets no encoding: `readers` says which have one.
    #[must_use]
    pub fn encode(head: Metadata, json: &[u8], readers: Readers) -> Self {
        let sse = if readers.sse {
            sse::event("notification", Some(head.id), json)
        } else {
            Box::default()
        };
        let kept = if readers.websocket {
            SharedMessage::new(head, json)
        } else {
            SharedMessage(ThinArc::from_header_and_slice(head, &[]))
        };
        Self { kept, sse }
    }

    /// What is known of it.
    #[must_use]
    pub fn head(&self) -> &Metadata {
        self.kept.head()
    }

    /// A share of it, to keep.
    #[must_use]
    pub fn keep(&self) -> SharedMessage {
        self.kept.clone()
    }

    /// The bytes to write on a transport; empty if it was made without readers there.
    #[must_use]
    pub fn bytes(&self, transport: Transport) -> &[u8] {
        match transport {
            Transport::WebSocket => self.kept.frame(),
            Transport::Sse => &self.sse,
        }
    }
}

/// The transports that have at least one connection anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readers {
    /// Some client uses WebSocket.
    pub websocket: bool,
    /// Some client uses SSE.
    pub sse: bool,
}
