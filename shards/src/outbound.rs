//! What waits in an outbox: bytes, shared by all connections that get them.
//!
//! **Runs on**: one shard (`Rc`, so that a recipient costs no atomic operation). **Owns**: the
//! bytes, or a share of the notification. **Never**: crosses a thread; knows what the bytes say.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::id::NotificationId;
use crate::encoding::{Encoding, Encodings};
use crate::notification::{Notification, Prepared, Priority, SharedMessage};
use crate::protocol::{Event, Marks, Protocol};

/// A frame on its way to one or more connections of this shard.
#[derive(Debug)]
pub enum OutboundMessage {
    /// A notification: the bytes depend on the reader's encoding.
    Notification(Arc<Notification>),
    /// A notification to single users, and its number in the order in which the shard took them.
    Personal(Arc<Notification>, u64),
    /// A message from a user's queue, or sent again.
    Redelivery(Box<Redelivery>),
    /// Bytes for one connection, or for several of one protocol, to be written as they are.
    Bytes(Box<[u8]>),
}

/// A notification a closing connection had not wholly written.
#[derive(Debug)]
pub struct Unsent {
    /// It.
    pub frame: Rc<OutboundMessage>,
    /// Whether its beginning is out and its end still on the way: it may arrive yet.
    pub is_begun: bool,
}

/// A queued message as it is sent. It names the message, which stays with its owner: a frame that
/// comes back brings none.
#[derive(Debug)]
pub struct Redelivery {
    /// Which notification it is.
    pub id: NotificationId,
    /// Its number in the order in which the shard took them.
    pub sequence: u64,
    /// How often it has been sent, this time included.
    pub attempts: u8,
    priority: Priority,
    /// Connections that have taken it and not given it back.
    copies: Cell<u32>,
    prepared: Prepared,
}

impl Redelivery {
    /// The `sequence`-th message of its shard, marked as sent from the queue or again, for readers of
    /// these encodings.
    #[must_use]
    pub fn new(message: &SharedMessage, sequence: u64, marks: Marks, readers: Encodings) -> Self {
        let metadata = message.head();
        Self {
            id: metadata.id,
            sequence,
            attempts: marks.attempt,
            priority: metadata.priority,
            copies: Cell::new(0),
            prepared: Prepared::new(readers, metadata.id, message.json(), marks),
        }
    }

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

impl OutboundMessage {
    /// How urgent it is, if it is a notification.
    #[must_use]
    pub fn priority(&self) -> Option<Priority> {
        match self {
            Self::Notification(notification) | Self::Personal(notification, _) => {
                Some(notification.head().priority)
            }
            Self::Redelivery(redelivery) => Some(redelivery.priority),
            Self::Bytes(_) => None,
        }
    }

    /// Which notification it is, if it is one.
    #[must_use]
    pub fn id(&self) -> Option<NotificationId> {
        match self {
            Self::Notification(notification) | Self::Personal(notification, _) => {
                Some(notification.head().id)
            }
            Self::Redelivery(redelivery) => Some(redelivery.id),
            Self::Bytes(_) => None,
        }
    }

    /// Whether it is a notification, to anybody.
    #[must_use]
    pub const fn is_notification(&self) -> bool {
        !matches!(self, Self::Bytes(_))
    }

    /// The bytes a connection of that encoding is written.
    ///
    /// # Panics
    ///
    /// If it is a notification that was not encoded so: such a connection is no recipient.
    #[must_use]
    pub fn bytes(&self, encoding: Encoding) -> &[u8] {
        let bytes = match self {
            Self::Notification(notification) | Self::Personal(notification, _) => {
                notification.bytes(encoding)
            }
            Self::Redelivery(redelivery) => redelivery.prepared.bytes(encoding),
            Self::Bytes(bytes) => Some(&**bytes),
        };
        bytes.expect("a notification is offered only to readers of what it is encoded in")
    }

    /// A frame with these bytes as they are.
    #[must_use]
    pub fn raw(bytes: Box<[u8]>) -> Rc<Self> {
        Rc::new(Self::Bytes(bytes))
    }
}

/// Makes frames of events. Those that are the same for all connections of a protocol are made once,
/// so that a heartbeat costs no copy.
#[derive(Debug)]
pub(crate) struct EventMessages([Constant; Protocol::COUNT]);

#[derive(Debug)]
struct Constant {
    pong: Option<Rc<OutboundMessage>>,
    heartbeat: Option<Rc<OutboundMessage>>,
    probe: Option<Rc<OutboundMessage>>,
}

impl Default for EventMessages {
    fn default() -> Self {
        Self(Protocol::ALL.map(|protocol| {
            let frame = |event| protocol.encode(&event).map(OutboundMessage::raw);
            Constant {
                pong: frame(Event::Pong),
                heartbeat: frame(Event::Heartbeat),
                probe: frame(Event::Probe),
            }
        }))
    }
}

impl EventMessages {
    /// An event in a protocol; `None` where the protocol has no word for it.
    pub(crate) fn frame(
        &self,
        protocol: Protocol,
        event: &Event<'_>,
    ) -> Option<Rc<OutboundMessage>> {
        let constant = self.0.get(protocol.index()).expect("every protocol has its frames");
        match event {
            Event::Pong => constant.pong.clone(),
            Event::Heartbeat => constant.heartbeat.clone(),
            Event::Probe => constant.probe.clone(),
            other => protocol.encode(other).map(OutboundMessage::raw),
        }
    }
}
