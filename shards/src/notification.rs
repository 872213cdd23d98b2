//! A notification: its canonical JSON once, and its bytes in each encoding that has readers.
//!
//! **Runs on**: made on the router, read on any shard. **Owns**: immutable bytes.
//! **Never**: is encoded again for a recipient, changed, or copied per delivery.

use std::sync::Arc;

use triomphe::ThinArc;

use crate::base::id::{NotificationId, Tick};
use crate::encoding::{Encoding, Encodings};
use crate::protocol::{self, Marks};
use crate::wire::websocket;

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

/// What is known of a notification besides its bytes.
#[derive(Debug)]
pub struct Metadata {
    /// Its identity, the same in every encoding and every repetition.
    pub id: NotificationId,
    /// Who is meant; `None` = every recipient.
    pub audience: Option<Arc<Audience>>,
    /// When it stops being worth keeping; not later than its trigger: now or never.
    pub expires_at: Tick,
    /// Its lane.
    pub priority: Priority,
}

/// A notification's metadata and JSON in one allocation: what is kept of it for whoever is to get
/// it later. The JSON is the end of a text frame, so that the frame costs four bytes and no copy.
#[derive(Clone)]
pub struct SharedMessage(ThinArc<Metadata, u8>);

impl SharedMessage {
    /// The encoding that the shared bytes are in.
    const ENCODING: Encoding = Encoding::AraText;

    /// From the complete notification object.
    #[must_use]
    pub fn new(metadata: Metadata, json: &[u8]) -> Self {
        let (id, marks) = (metadata.id, Marks::default());
        let text = protocol::encode_notification(Self::ENCODING, id, json, marks);
        Self(ThinArc::from_header_and_slice(metadata, &text))
    }

    /// What is known of it.
    #[must_use]
    pub fn head(&self) -> &Metadata {
        &self.0.header.header
    }

    /// The notification object.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        websocket::payload_of(&self.0.slice)
    }
}

impl std::fmt::Debug for SharedMessage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.head().fmt(formatter)
    }
}

/// A notification's bytes in some encodings.
#[derive(Debug, Default)]
pub struct Prepared([Option<Box<[u8]>>; Encoding::COUNT]);

impl Prepared {
    /// Encodes `json` (the complete notification object) in each of these encodings.
    #[must_use]
    pub fn new(encodings: Encodings, id: NotificationId, json: &[u8], marks: Marks) -> Self {
        let encode = |encoding| protocol::encode_notification(encoding, id, json, marks);
        Self(Encoding::ALL.map(|encoding| encodings.contains(encoding).then(|| encode(encoding))))
    }

    /// The bytes in an encoding; `None` if it was not among those asked for.
    #[must_use]
    pub fn bytes(&self, encoding: Encoding) -> Option<&[u8]> {
        self.0.get(encoding.index())?.as_deref()
    }
}

/// A notification on its way to its readers.
#[derive(Debug)]
pub struct Notification {
    message: SharedMessage,
    encodings: Encodings,
    /// All of `encodings` but the one that `message` is in.
    others: Prepared,
}

impl Notification {
    /// Encodes `json` (the complete notification object) in the encodings that have readers; for
    /// others there are no bytes.
    #[must_use]
    pub fn encode(metadata: Metadata, json: &[u8], encodings: Encodings) -> Self {
        let others = encodings.without(SharedMessage::ENCODING);
        let others = Prepared::new(others, metadata.id, json, Marks::default());
        Self { message: SharedMessage::new(metadata, json), encodings, others }
    }

    /// What is known of it.
    #[must_use]
    pub fn head(&self) -> &Metadata {
        self.message.head()
    }

    /// A share of its message, for whoever is to get it later.
    #[must_use]
    pub fn share(&self) -> SharedMessage {
        self.message.clone()
    }

    /// Whether it was encoded for such readers.
    #[must_use]
    pub const fn is_encoded_in(&self, encoding: Encoding) -> bool {
        self.encodings.contains(encoding)
    }

    /// The bytes to write to a reader of an encoding; `None` if it was made without such readers.
    #[must_use]
    pub fn bytes(&self, encoding: Encoding) -> Option<&[u8]> {
        if encoding == SharedMessage::ENCODING {
            return self.encodings.contains(encoding).then(|| &self.message.0.slice);
        }
        self.others.bytes(encoding)
    }
}
