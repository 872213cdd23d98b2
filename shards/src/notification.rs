//! One event, encoded once for every reader it will ever have.
//!
//! **Runs on**: made on the router, read on any shard. **Owns**: immutable bytes.
//! **Never**: is encoded again for a recipient, changed, or copied per delivery.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::{sse, websocket};
use crate::id::NotificationId;
use crate::message::Transport;

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

/// One event in the form each transport writes it.
#[derive(Debug)]
pub struct Notification {
    /// Its identity, the same on every transport and every repetition.
    pub id: NotificationId,
    /// Its lane.
    pub priority: Priority,
    /// Who is meant; `None` = every recipient.
    pub audience: Option<Arc<Audience>>,
    /// How long it is worth delivering; zero = now or never; `None` = as long as the queue allows.
    pub ttl: Option<Duration>,
    websocket: Arc<[u8]>,
    sse: Box<[u8]>,
}

impl Notification {
    /// Encodes `json` (the complete notification object) for the transports in use.
    ///
    /// A transport without a reader gets no encoding: `readers` says which have one.
    #[must_use]
    pub fn encode(
        id: NotificationId,
        priority: Priority,
        audience: Option<Arc<Audience>>,
        json: &[u8],
        readers: Readers,
    ) -> Self {
        let websocket: Box<[u8]> =
            if readers.websocket { websocket::text_frame(json) } else { Box::default() };
        let sse =
            if readers.sse { sse::event("notification", Some(id), json) } else { Box::default() };
        Self { id, priority, audience, ttl: None, websocket: websocket.into(), sse }
    }

    /// Sets how long it is worth delivering.
    #[must_use]
    pub const fn lasting(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// The complete WebSocket frame, to keep: the JSON is its end.
    #[must_use]
    pub fn frame(&self) -> Arc<[u8]> {
        Arc::clone(&self.websocket)
    }

    /// The bytes to write on a transport; empty if it was made without readers there.
    #[must_use]
    pub fn bytes(&self, transport: Transport) -> &[u8] {
        match transport {
            Transport::WebSocket => &self.websocket,
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
