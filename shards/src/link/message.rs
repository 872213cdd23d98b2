//! What crosses threads, one variant a message: who sends it, who takes it, what its loss costs.
//!
//! **Runs on**: built on the router (inputs) or a shard (reports), read on the other side.
//! **Owns**: its own data; shared bytes are immutable. **Never**: carries a lock or a callback.
//!
//! The star: the router is the only sender to shards, and shards report only to the router.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::base::counters::ShardSnapshot;
use crate::base::id::{NotificationId, RequestId};
use crate::base::placement::UserHash;
use crate::notification::{Metadata, Notification, SharedMessage};
use crate::protocol::Protocol;

/// Router → shard, control lane: never behind deliveries. Each is answered by a [`Report`].
#[derive(Debug)]
pub enum Control {
    /// Take over a client that was admitted. Answered by `Closed` once, when it is gone.
    /// Refused (lane full): the router tells the client 503 itself.
    Adopt(Box<Adoption>),
    /// Answer a query about this shard. Refused: the caller gets 503.
    Ask {
        /// Whom the answer is for.
        request: RequestId,
        /// What is asked.
        query: Query,
    },
    /// Say goodbye to every client and flush: `Drained` follows when the last has gone.
    Drain(Drain),
    /// End the thread now. What it holds in memory only is dropped.
    Stop,
}

/// How clients are sent away on a graceful stop.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// No client is asked to return before this has passed: until then nobody may be there.
    pub return_after: Duration,
    /// Each client is asked to return after a delay of its own, spread over this window.
    pub reconnect_window: Duration,
    /// Clients that did not finish by then are cut.
    pub grace: Duration,
}

/// An admitted client on its way to its home shard: the socket and who is behind it.
#[derive(Debug)]
pub struct Adoption {
    /// The client's socket, non-blocking.
    pub stream: TcpStream,
    /// What is spoken with it.
    pub protocol: Protocol,
    /// Who it is and what it may hear.
    pub member: Client,
    /// What must be written first, as it is: the 101 or 200 response head.
    pub greeting: Box<[u8]>,
    /// What is written instead, as it is, when the user has too many connections already.
    pub refusal: Arc<[u8]>,
    /// Bytes the client sent after its request head.
    pub leftover: Box<[u8]>,
    /// The connection's public id (a UUID), for `connected`.
    pub connection_id: NotificationId,
}

/// A user's connection as the shard's state sees it.
#[derive(Debug, Clone)]
pub struct Client {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The user's id within the tenant.
    pub user: Box<str>,
    /// The hash that chose this shard.
    pub hash: UserHash,
    /// The roles its token carries.
    pub roles: Box<[Box<str>]>,
    /// The channels its token allows: names or `prefix.*`; `None` = all.
    pub grants: Option<Box<[Box<str>]>>,
    /// What it listens to from the start.
    pub subscribes_to: InitialSubscriptions,
    /// Whether it wants to hear what the user's other connections have settled.
    pub notify_settled: bool,
    /// The last notification it has seen before (`Last-Event-ID`).
    pub seen: Option<NotificationId>,
}

/// The channels a connection hears without having sent `Subscribe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialSubscriptions {
    /// None: a WebSocket client subscribes by message.
    Nothing,
    /// These (an SSE client that named them).
    Channels(Box<[Box<str>]>),
    /// All of its tenant that its token allows (an SSE client that named none).
    Everything,
}

/// A query to a shard, answered between two turns, so that the answer is one coherent state.
#[derive(Debug, Clone)]
pub enum Query {
    /// Counters and sizes.
    Snapshot,
    /// Every channel of the tenant with subscribers here.
    Channels {
        /// The tenant asked about.
        tenant: Arc<str>,
    },
    /// One channel's subscribers.
    Channel {
        /// The tenant asked about.
        tenant: Arc<str>,
        /// The channel's name.
        name: Arc<str>,
    },
    /// One user's connections and subscriptions.
    User(Recipient),
    /// What waits for a user, or was given up.
    UserQueue {
        /// The user.
        user: Recipient,
        /// Which of its messages.
        source: Source,
        /// Whether they are thrown away as well.
        clear: bool,
    },
    /// The user has taken these notifications.
    Acknowledge {
        /// The user.
        user: Recipient,
        /// Their ids.
        ids: Box<[NotificationId]>,
    },
}

/// Which of a user's messages are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Waiting for a connection, or sent and not acknowledged.
    Queue,
    /// Given up after too many attempts.
    DeadLetters,
}

/// One message as the API shows it.
#[derive(Debug, Clone)]
pub struct QueuedMessageView {
    /// The notification.
    pub kept: SharedMessage,
    /// How often it has been sent.
    pub attempts: u8,
    /// Whether it is on its way at the moment.
    pub in_flight: bool,
}

/// The answer to a [`Query`].
#[derive(Debug)]
pub enum Reply {
    /// To `Snapshot`.
    Snapshot(Box<ShardSnapshot>),
    /// To `Channels` and `Channel`: names with their subscriber counts on this shard.
    Channels(Vec<(Arc<str>, usize)>),
    /// To `User`: its number of connections and the channels any of them subscribed to.
    User {
        /// Open connections; 0 = the user is not connected.
        connections: usize,
        /// Subscribed channels, sorted, each once.
        subscriptions: Vec<Arc<str>>,
    },
    /// To `Messages`.
    UserQueue {
        /// The oldest of them, oldest first; none if they were cleared.
        shown: Vec<QueuedMessageView>,
        /// How many there are, or were.
        count: usize,
    },
    /// To `Acknowledge`: for each id, whether it awaited an Ack.
    Acknowledged(Box<[bool]>),
}

/// Router → shard, delivery lanes: what to send to whom. Refused (lane full): the whole trigger is
/// refused before any shard got it. Answered by exactly one [`Report::Delivered`].
#[derive(Debug)]
pub struct Delivery {
    /// Whose report this is.
    pub request: RequestId,
    /// Who is meant.
    pub audience: Recipients,
}

/// The recipients of a delivery on one shard, and the notification they get.
#[derive(Debug)]
pub enum Recipients {
    /// All connections of each of these users.
    Users {
        /// What they get.
        notification: Arc<Notification>,
        /// Users whose home this shard is.
        users: Box<[Recipient]>,
    },
    /// The queues of those of these users who have no connection. Sent before the delivery it
    /// belongs to, with the same request: who comes in between gets it twice rather than not.
    Absent {
        /// What they get.
        notification: Arc<Notification>,
        /// Users whose home this shard is.
        users: Box<[Recipient]>,
    },
    /// Every connection of a tenant.
    Everyone {
        /// The tenant.
        tenant: Arc<str>,
        /// What they get.
        notification: Arc<Notification>,
    },
    /// The subscribers of these channels; a connection on several gets the first only.
    Channels {
        /// The tenant.
        tenant: Arc<str>,
        /// Each channel and the notification as it reads there.
        parts: Arc<[(Arc<str>, Arc<Notification>)]>,
    },
}

impl Recipients {
    /// What is known of the event, the same for all parts; `None` without parts.
    #[must_use]
    pub fn head(&self) -> Option<&Metadata> {
        match self {
            Self::Users { notification, .. }
            | Self::Absent { notification, .. }
            | Self::Everyone { notification, .. } => Some(notification.head()),
            Self::Channels { parts, .. } => {
                parts.first().map(|(_, notification)| notification.head())
            }
        }
    }
}

/// One user a delivery or a query is about.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The user's id.
    pub user: Arc<str>,
    /// Their hash, as the placement computed it.
    pub hash: UserHash,
}

/// What became of one delivery, or of one user's or channel's part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// Connections whose socket or outbox took the frame.
    pub delivered: u32,
    /// Connections that could not take it.
    pub failed: u32,
    /// Users whose queue took it instead.
    pub queued: u32,
    /// Users whose queue would have, had the disk taken it.
    pub refused: u32,
}

impl DeliveryCounts {
    /// Adds another part.
    pub fn add(&mut self, other: Self) {
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.failed = self.failed.saturating_add(other.failed);
        self.queued = self.queued.saturating_add(other.queued);
        self.refused = self.refused.saturating_add(other.refused);
    }
}

/// Whether messages can be kept on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskHealth {
    /// As far as known.
    #[default]
    Sound,
    /// Not now: more waits to be written than may.
    Behind,
    /// Not before others leave: as much is kept as the configuration allows.
    Limit,
    /// No: the file system is full. Tried again every second.
    Full,
    /// No: it cannot be written. Tried again after 1 to 30 s.
    Failed,
}

/// Shard → router. The lane has bounded room and no report is ever lost: a shard that cannot
/// report holds its turn (reads nothing, writes nothing) until the router has made room.
#[derive(Debug)]
pub enum Report {
    /// What became of a delivery on this shard.
    Delivered {
        /// The delivery's request.
        request: RequestId,
        /// The sum over all recipients on this shard.
        total: DeliveryCounts,
        /// One entry per user or channel, in the delivery's order; empty for `Everyone` and
        /// wherever there is just one recipient.
        parts: Box<[DeliveryCounts]>,
    },
    /// The first subscriber of a channel came (or the last went). Sent before the client can see
    /// `subscribed`, so that a trigger it causes finds the channel.
    Interest {
        /// The tenant.
        tenant: Arc<str>,
        /// The channel; `None` = connections that hear all channels of the tenant.
        channel: Option<Arc<str>>,
        /// Whether this shard has subscribers now.
        present: bool,
    },
    /// An adopted client's socket is closed and its place in the admission count is free.
    Closed {
        /// What was spoken with it.
        protocol: Protocol,
    },
    /// The answer to a query.
    Replied {
        /// The query's request.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// The disk's health as the shard's messages see it has changed.
    Disk(DiskHealth),
    /// Every client has left after a `Drain`.
    Drained,
}
