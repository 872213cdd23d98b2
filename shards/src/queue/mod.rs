//! The one owner of the messages of a shard's users, from acceptance to their end.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: every message that waits, is in flight or
//! is a dead letter, the store behind them, and all work on them that is put off to a later turn.
//! **Never**: lets a message go without counting how it went; copies one; knows a session, a frame or
//! a socket: what it needs of them it asks for through [`Users`] and [`Outboxes`].
//!
//! A message is in one place: it *waits* in its user's queue, is *in flight*, or is a *dead letter*.
//! Whoever moves it takes it out first. It ends acknowledged, expired, evicted, cleared or forgotten;
//! with acknowledgement off it is in flight until its bytes are written, and what a closing
//! connection had not written waits again. (A notification that was sent at once with acknowledgement
//! off is no message yet: it becomes one if the user's last connection leaves without having written
//! it.) Its record in the store begins with [`Queues::persist`] and ends with [`Queues::end`], nowhere
//! else.

mod acknowledge;
mod dead_letters;
mod enqueue;
mod expiry;
mod in_flight;
#[cfg(test)]
mod inspect;
mod query;
mod recent;
mod redeliver;
mod replay;
mod storing;
mod tenant_counts;
mod user_queue;
mod users;
mod waiting;

use std::collections::VecDeque;

use crate::base::counters::Counters;
use crate::base::id::{ConnectionKey, NotificationId, Tick, UserSlot};
use crate::base::limits::{AckLimits, Limits, QueueLimits};
use crate::base::placement::UserHash;
use crate::base::side_table::SideTable;
use crate::base::timer::Wheel;
use crate::notification::{Audience, Metadata, Notification};
use crate::queued_message::QueuedMessage;
use crate::store::{Memory, Store, UserNames};
use in_flight::InFlight;
use recent::Recent;
use tenant_counts::TenantCounts;
use users::UserMessages;
use waiting::Waiting;

pub(crate) use enqueue::Accepted;

/// The messages of all users of a shard.
#[derive(Debug)]
pub(crate) struct Queues {
    /// `None` = what nobody takes at once is not kept.
    queue: Option<QueueLimits>,
    /// `None` = a message ends when it is written.
    ack: Option<AckLimits>,
    users: SideTable<UserMessages>,
    in_flight: InFlight,
    store: Box<dyn Store>,
    /// How many deliveries the shard has accepted, over all runs of a store on disk: a message's
    /// number in that order is its sequence.
    sequence: u64,
    /// Where in that order the last deliveries stood.
    recent: Recent,
    /// Users whose replay goes on in the next turn.
    replays: VecDeque<UserSlot>,
    /// When the first of a user's messages expires.
    expiries: Wheel<UserSlot>,
    /// Users some of whose messages have expired, and when that was due.
    expiring: VecDeque<(UserSlot, Tick)>,
    /// Messages that were cleared and counted, whose records are to be ended.
    cleared: VecDeque<Waiting>,
    /// Users one of whose connections has left: the others may have written all that is in flight.
    maybe_written: Vec<UserSlot>,
    /// What waits for tenants that have a limit.
    tenant_counts: TenantCounts,
    /// Scratch: messages that end together.
    ending: Vec<QueuedMessage>,
    /// Scratch: connections that a message is sent to.
    recipients: Vec<ConnectionKey>,
}

/// What the queues know of users and their connections.
pub(crate) trait Users: UserNames {
    /// The slot of a user, if it is known here.
    fn find(&self, tenant: &str, user: &str, hash: UserHash) -> Option<UserSlot>;

    /// The user's connections.
    fn connections(&self, user: UserSlot) -> &[ConnectionKey];

    /// Whether a connection is one of those a message is for; `None` = it is for all.
    fn matches(&self, key: ConnectionKey, audience: Option<&Audience>) -> bool;

    /// The user has no messages any more. Without connections it is forgotten, and its slot may be
    /// another user's next.
    fn forget_idle(&mut self, user: UserSlot);
}

/// The outboxes of users' connections.
pub(crate) trait Outboxes {
    /// Bytes waiting for a connection; `None` if it is leaving or gone.
    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize>;

    /// Asks to be told, by [`Queues::handle_room`], when nothing waits for a connection any more.
    fn watch(&mut self, key: ConnectionKey);

    /// Sends a message to connections, from the queue (`is_replayed`) or again. Returns how many
    /// took it. A connection that closes gives it back as [`Content::Queued`].
    fn send(&mut self, message: &QueuedMessage, is_replayed: bool, to: &[ConnectionKey]) -> u32;
}

/// The time of a turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// By the clock, which decides when a message expires.
    pub(crate) clock: Tick,
    /// In running time, by which a client's silence is measured.
    pub(crate) running: Tick,
}

/// What a call may use of the rest of the shard.
pub(crate) struct Context<'a, U> {
    pub(crate) users: &'a mut U,
    pub(crate) counters: &'a mut Counters,
    pub(crate) now: Now,
}

/// Something a closing connection had not wholly written.
#[derive(Debug)]
pub(crate) struct Unwritten<'a> {
    pub(crate) content: Content<'a>,
    /// Whether its beginning is out and its end still on the way: it may arrive yet.
    pub(crate) is_begun: bool,
}

/// What was not written.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// A message that [`Outboxes::send`] has sent.
    Queued {
        id: NotificationId,
        sequence: u64,
        /// Whether every connection that took it has given it back: nobody has written it.
        is_last_copy: bool,
    },
    /// A notification that was sent to the user at once, and its sequence.
    Personal(&'a Notification, u64),
    /// A notification that was not for the user alone.
    Shared(NotificationId),
    /// No notification.
    Other,
}

impl Content<'_> {
    /// Which notification it is, if it is one.
    fn id(&self) -> Option<NotificationId> {
        match self {
            Self::Queued { id, .. } | Self::Shared(id) => Some(*id),
            Self::Personal(notification, _) => Some(notification.head().id),
            Self::Other => None,
        }
    }
}

impl Queues {
    /// Without messages, and without a store on disk until [`Self::restore`] has brought one.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            queue: limits.queue,
            ack: limits.ack,
            users: SideTable::default(),
            in_flight: InFlight::default(),
            store: Box::new(Memory),
            sequence: 0,
            recent: Recent::default(),
            replays: VecDeque::new(),
            expiries: Wheel::new(Tick::START),
            expiring: VecDeque::new(),
            cleared: VecDeque::new(),
            maybe_written: Vec::new(),
            tenant_counts: TenantCounts::new(limits),
            ending: Vec::new(),
            recipients: Vec::new(),
        }
    }

    /// Whether messages are kept until they are taken, or until they are acknowledged.
    pub(crate) const fn is_on(&self) -> bool {
        self.queue.is_some() || self.ack.is_some()
    }

    /// Whether a message that nobody takes at once can wait.
    pub(crate) const fn can_wait(&self) -> bool {
        self.queue.is_some()
    }

    /// The shard has accepted a delivery: [`Self::sequence`] is its number from now on.
    pub(crate) fn number_delivery(&mut self, head: Option<&Metadata>) {
        self.sequence += 1;
        if let Some(head) = head.filter(|_| self.is_on()) {
            self.recent.push(head, self.sequence);
        }
    }

    /// The number of the delivery that was accepted last.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Where messages are kept beyond the memory of the process.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }
}
