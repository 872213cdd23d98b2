//! What crosses threads, one variant a message: who sends it, who takes it, what its loss costs.
//!
//! **Runs on**: built on the router (inputs) or a shard (reports), read on the other side.
//! **Owns**: its own data; shared bytes are immutable. **Never**: carries a lock or a callback.
//!
//! The star: the router is the only sender to shards, and shards report only to the router.

use super::tokens::Expiry;
use std::sync::Arc;
use std::time::Duration;

use crate::base::counters::ShardSnapshot;
pub use crate::base::disk_health::DiskHealth;
use crate::base::id::{NotificationId, RequestId};
use crate::base::limits::Limits;
use crate::base::placement::UserHash;
use crate::base::socket::Socket;
use crate::link::listing::{ConnectionFilter, ConnectionPage};
pub use crate::link::recipient::Recipient;
use crate::link::reply::ReplyTo;
use crate::notification::{Metadata, Notification, SharedMessage};
use crate::protocol::Protocol;

/// Router → shard, control lane: never behind deliveries. All but `Limits` and `Stop` are answered by a
/// [`Report`].
#[derive(Debug)]
pub enum Control {
    /// Take over a client that was admitted. Answered by `Closed` once, when it is gone.
    /// Refused (lane full): the router tells the client 503 itself.
    Adopt(Box<Adoption>),
    /// Answer a query about this shard, by [`Report::Replied`]. Refused: the caller gets 503.
    Ask(Query),
    /// Work within other bounds from now on; the queue and acknowledgement stay as they were.
    /// Refused: the router tries again.
    Limits(Box<Limits>),
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
    /// The client's socket.
    pub socket: Socket,
    /// What is spoken with it.
    pub protocol: Protocol,
    /// Who it is and what its token allows.
    pub client: Client,
    /// What must be written first, as it is: the 101 or 200 response head.
    pub response_head: Box<[u8]>,
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
    /// When its connection ends because its token does; `None` = not because of that.
    pub expiry: Option<Expiry>,
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

/// A query to a shard, answered between two turns, so that the reply is one coherent state. Each
/// carries the way back for a reply of its own type.
#[derive(Debug)]
pub enum Query {
    /// Counters and sizes.
    Snapshot(ReplyTo<Box<ShardSnapshot>>),
    /// Every channel of a tenant with subscribers here.
    Channels {
        /// The tenant asked about.
        tenant: Arc<str>,
        /// For names with their subscriber counts on this shard.
        reply_to: ReplyTo<Vec<(Arc<str>, usize)>>,
    },
    /// Who of a tenant is connected here.
    Tenant {
        /// The tenant asked about.
        tenant: Arc<str>,
        /// For its figures on this shard.
        reply_to: ReplyTo<TenantView>,
    },
    /// One channel's subscribers.
    Channel {
        /// The tenant asked about.
        tenant: Arc<str>,
        /// The channel's name.
        name: Arc<str>,
        /// For their number on this shard.
        reply_to: ReplyTo<usize>,
    },
    /// One user's connections and subscriptions.
    User {
        /// The user.
        user: Recipient,
        /// For what is known of them; no connections if they are not here.
        reply_to: ReplyTo<UserView>,
    },
    /// What waits for a user, or became a dead letter.
    UserQueue {
        /// The user.
        user: Recipient,
        /// Which of its messages.
        source: Source,
        /// Whether they are thrown away as well.
        clear: bool,
        /// For the messages.
        reply_to: ReplyTo<UserQueueView>,
    },
    /// The user has taken these notifications.
    Acknowledge {
        /// The user.
        user: Recipient,
        /// Their ids.
        ids: Box<[NotificationId]>,
        /// For whether each of them awaited an Ack, in the order of the ids.
        reply_to: ReplyTo<Box<[bool]>>,
    },
    /// Some of the connections here, in the order of their keys.
    Connections {
        /// Which.
        filter: ConnectionFilter,
        /// The first key.
        from: u32,
        /// How many at most.
        shown_max: usize,
        /// For those that were found, and where to go on.
        reply_to: ReplyTo<ConnectionPage>,
    },
    /// Tell some of the clients to leave.
    SendAway {
        /// How many at most.
        count: usize,
        /// When they are to come back.
        order: Drain,
        /// For how many were told.
        reply_to: ReplyTo<usize>,
    },
    /// Close all connections of a user.
    Disconnect {
        /// The user.
        user: Recipient,
        /// What its clients are told.
        reason: Box<str>,
        /// For how many there were.
        reply_to: ReplyTo<usize>,
    },
}

/// Which of a user's messages are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Waiting for a connection, or sent and not acknowledged.
    Queue,
    /// Not acknowledged after the last attempt.
    DeadLetters,
}

/// One message as the API shows it.
#[derive(Debug, Clone)]
pub struct QueuedMessageView {
    /// The notification.
    pub message: SharedMessage,
    /// How often it has been sent.
    pub attempts: u8,
    /// Whether it is on its way at the moment.
    pub in_flight: bool,
}

/// A user's messages as the API shows them.
#[derive(Debug, Default)]
pub struct UserQueueView {
    /// The oldest of them, oldest first; none if they were cleared.
    pub shown: Vec<QueuedMessageView>,
    /// How many there are, or were.
    pub count: usize,
}

/// A user as the API shows it.
#[derive(Debug)]
pub struct UserView {
    /// Open connections; 0 = the user is not connected.
    pub connections: usize,
    /// The channels any of them subscribed to, sorted, each once.
    pub subscriptions: Vec<Arc<str>>,
}

/// A tenant on one shard.
#[derive(Debug, Clone, Copy, Default)]
pub struct TenantView {
    /// Open connections.
    pub connections: usize,
    /// Users with at least one. A user is on one shard only.
    pub users: usize,
}

/// The reply to a [`Query`] with the way back that the query brought, so that no reply can reach
/// whoever asked something else.
#[derive(Debug)]
pub enum Reply {
    /// To `Snapshot`.
    Snapshot(ReplyTo<Box<ShardSnapshot>>, Box<ShardSnapshot>),
    /// To `Channels`.
    Channels(ReplyTo<Vec<(Arc<str>, usize)>>, Vec<(Arc<str>, usize)>),
    /// To `Tenant`.
    Tenant(ReplyTo<TenantView>, TenantView),
    /// To `Channel`.
    Channel(ReplyTo<usize>, usize),
    /// To `User`.
    User(ReplyTo<UserView>, UserView),
    /// To `UserQueue`.
    UserQueue(ReplyTo<UserQueueView>, UserQueueView),
    /// To `Acknowledge`.
    Acknowledged(ReplyTo<Box<[bool]>>, Box<[bool]>),
    /// To `Connections`.
    Connections(ReplyTo<ConnectionPage>, ConnectionPage),
    /// To `Disconnect` and `SendAway`: how many connections were closed.
    Disconnected(ReplyTo<usize>, usize),
}

impl Reply {
    /// Hands the reply to whoever asked. Called by the router when it takes the report, after
    /// all that the shard had reported before.
    pub fn deliver(self) {
        match self {
            Self::Snapshot(to, snapshot) => to.deliver(snapshot),
            Self::Channels(to, channels) => to.deliver(channels),
            Self::Tenant(to, tenant) => to.deliver(tenant),
            Self::Channel(to, count) | Self::Disconnected(to, count) => to.deliver(count),
            Self::User(to, user) => to.deliver(user),
            Self::Connections(to, page) => to.deliver(page),
            Self::UserQueue(to, messages) => to.deliver(messages),
            Self::Acknowledged(to, acknowledged) => to.deliver(acknowledged),
        }
    }
}

/// Router → shard, delivery lanes: one delivery, or those of a batch that go to this shard with this
/// priority. It takes one place in the lane either way. Refused (lane full): what was to travel in it is
/// refused before any shard got it.
#[derive(Debug)]
pub enum Parcel {
    /// One delivery.
    One(Delivery),
    /// Several, in the order of the batch. They are applied one after another, each as if it had come
    /// alone, and flushed together.
    Batch(Vec<Delivery>),
}

impl From<Delivery> for Parcel {
    fn from(delivery: Delivery) -> Self {
        Self::One(delivery)
    }
}

/// What to send to whom. Answered by exactly one [`Report::Delivered`].
#[derive(Debug)]
pub struct Delivery {
    /// Whose report this is.
    pub request: RequestId,
    /// Who is meant.
    pub audience: Recipients,
    /// How many messages may begin to wait by it, where their tenant has a limit: room that the router
    /// has reserved. [`Report::Waiting`] gives it back.
    pub room: Option<u32>,
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
    /// Whose delivery it is; `None` if it is to no user at all.
    #[must_use]
    pub fn tenant(&self) -> Option<&Arc<str>> {
        match self {
            Self::Users { users, .. } | Self::Absent { users, .. } => {
                users.first().map(|user| &user.tenant)
            }
            Self::Everyone { tenant, .. } | Self::Channels { tenant, .. } => Some(tenant),
        }
    }

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
    /// Users whose queue would have, had their tenant had room.
    pub over_limit: u32,
}

impl DeliveryCounts {
    /// Adds another part.
    pub fn add(&mut self, other: Self) {
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.failed = self.failed.saturating_add(other.failed);
        self.queued = self.queued.saturating_add(other.queued);
        self.refused = self.refused.saturating_add(other.refused);
        self.over_limit = self.over_limit.saturating_add(other.over_limit);
    }
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
        /// Whose it was, where tenants are counted.
        tenant: Option<Arc<str>>,
    },
    /// What waits for a tenant that has a limit has changed. Sent before all that was reported since the
    /// last time, so that who is told of a delivery finds it counted.
    Waiting {
        /// The tenant.
        tenant: Arc<str>,
        /// So many more wait; or fewer.
        change: i64,
        /// Room that deliveries have brought, and that is used or free again.
        settled: u32,
    },
    /// The reply to a query.
    Replied(Reply),
    /// The disk's health as the shard's messages see it has changed.
    Disk(DiskHealth),
    /// Every client has left after a `Drain`.
    Drained,
}
