//! Every bound of the engine in one place, each with its reason.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: reads configuration.

use std::sync::Arc;
use std::time::Duration;

use super::tenant_limits::LimitsByTenant;
use super::token_bucket::Rate;

/// The most shards a gateway can have: as many as a large machine has cores, and still only four words
/// in each set of shards.
pub const SHARDS_MAX: usize = 256;

/// The bounds a shard works within. Built by the gateway from its configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The limits of tenants, where they are kept apart; then those of users and subscriptions below
    /// are not looked at.
    pub tenants: Option<Arc<LimitsByTenant>>,
    /// What becomes of a client whose user has as many connections as it may have.
    pub connections_per_user_policy: PerUserPolicy,
    /// The most connections of one user; 0 = unlimited.
    pub connections_per_user_max: usize,
    /// The most channels one connection may subscribe to; 0 = unlimited.
    pub subscriptions_per_connection_max: usize,
    /// The most bytes waiting for one connection before it counts as a slow consumer.
    pub outbox_bytes_per_connection_max: usize,
    /// The largest message a client may send, in bytes, over all its fragments.
    pub message_bytes_max: usize,
    /// How often a client may send a message; `None` = unlimited.
    pub messages: Option<Rate>,
    /// Mean time between heartbeats of one connection; each is jittered by ± 20 %. Zero = none.
    pub heartbeat_interval: Duration,
    /// A client that leaves a ping unanswered for this long, without any other frame, is closed with
    /// 4408. One that says nothing for this long is pinged if no heartbeat was. Zero = never.
    pub connection_timeout: Duration,
    /// The offline queue; `None` = off.
    pub queue: Option<QueueLimits>,
    /// Acknowledgement; `None` = off.
    pub ack: Option<AckLimits>,
}

/// What becomes of a client whose user has as many connections as it may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PerUserPolicy {
    /// It is refused.
    #[default]
    Refuse,
    /// It is taken, and the user's oldest connection is closed.
    NewestWins,
}

impl Limits {
    /// The most connections of one user of a tenant; 0 = unlimited.
    #[must_use]
    pub fn connections_per_user_max_of(&self, tenant: &str) -> usize {
        let own = self.tenants.as_ref().map(|tenants| tenants.of(tenant).connections_per_user_max);
        own.unwrap_or(self.connections_per_user_max)
    }

    /// The most channels one connection of a tenant may subscribe to; 0 = unlimited.
    #[must_use]
    pub fn subscriptions_per_connection_max_of(&self, tenant: &str) -> usize {
        let tenants = self.tenants.as_ref();
        let own = tenants.map(|tenants| tenants.of(tenant).subscriptions_per_connection_max);
        own.unwrap_or(self.subscriptions_per_connection_max)
    }
}

/// The bounds of the offline queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most messages waiting for one user; 0 = unlimited.
    pub per_user_max: usize,
    /// How long a message waits at most, whatever its own time to live.
    pub ttl: Duration,
    /// How long a dead letter is kept to be looked at. Zero = until it is cleared or makes room.
    pub dead_letter_ttl: Duration,
}

/// The rules of acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckLimits {
    /// How long a client may take to acknowledge.
    pub timeout: Duration,
    /// Whether what is not acknowledged is sent again; if not, it is counted as expired.
    pub requeue: bool,
    /// How often a message is sent before it is given up.
    pub attempts_max: u8,
    /// The most messages of one user on their way; more wait in its queue, or, without one, are not
    /// awaited.
    pub in_flight_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tenants: None,
            connections_per_user_policy: PerUserPolicy::Refuse,
            connections_per_user_max: 5,
            subscriptions_per_connection_max: 50,
            outbox_bytes_per_connection_max: 256 * 1024,
            message_bytes_max: 64 * 1024,
            messages: None,
            heartbeat_interval: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(120),
            queue: None,
            ack: None,
        }
    }
}

/// Room for adoptions and queries. At 25 µs to adopt a client this is 0.1 s of work; beyond it a
/// new client hears 503 at once instead of waiting.
pub const CONTROL_LANE_CAPACITY: usize = 4096;

/// Room for reports. The router drains it before every trigger; when it is full the shard waits.
pub const REPORT_LANE_CAPACITY: usize = 16_384;

/// Control messages taken in one turn: adoption is the dearest (about 25 µs), so 6 ms at most.
pub const CONTROLS_PER_TURN: usize = 256;

/// Deliveries taken in one turn. What is taken together is flushed together.
pub const DELIVERIES_PER_TURN: usize = 64;

/// Messages of a client refused for its rate, without a pause in between, after which it is sent away.
pub const MESSAGES_REFUSED_MAX: u32 = 100;

/// The most notifications of a batch.
pub const BATCH_ITEMS_MAX: usize = 100;

/// Deliveries taken in one turn where they end a batch: of each notification a shard has two at most.
pub const BATCHED_PER_TURN: usize = DELIVERIES_PER_TURN + 2 * BATCH_ITEMS_MAX;

/// What a tenant may spend in one round of deliveries while others wait, in frames, each delivery
/// counted as one more: about 30 µs of a shard, and no more for whoever has just come.
pub const TURN_COST: i64 = 64;

/// Accounts of tenants without a delivery that a shard keeps, about 120 bytes each.
pub const TENANTS_REMEMBERED: usize = if cfg!(test) { 4 } else { 1024 };

/// Frames put into outboxes in one turn before no further delivery is taken. 262,144 entries of
/// 16 bytes are 4 MiB: the most a turn's burst can hold beyond the bytes themselves.
pub const FRAMES_PER_TURN: usize = 262_144;

/// Readable sockets served in one turn, each with one read of the shared buffer.
pub const READS_PER_TURN: usize = 256;

/// Sockets of a wide fan-out written in one turn, about 3 ms; replies and notifications to single
/// users are written before them in every turn, whatever is left of the fan-out.
pub const FAN_OUT_FLUSHES_PER_TURN: usize = 512;
/// The same where tenants take turns, about 0.4 ms: so long another tenant's notification may wait for
/// it. The turns that come of it cost a wide fan-out some 2 %.
pub const FAN_OUT_FLUSHES_PER_FAIR_TURN: usize = 64;
/// Clients sent away in one turn, by a drain or because of the time.
pub const GOODBYES_PER_TURN: usize = 512;

/// A delivery that touches more connections than this is a wide fan-out.
pub const PROMPT_RECIPIENTS_MAX: usize = 64;

/// Connections looked at in one turn for the list of them: well under a millisecond.
pub const CONNECTIONS_PER_PAGE: usize = 4096;

/// Timers handled in one turn.
pub const TIMERS_PER_TURN: usize = 4096;

/// The reconnection time an SSE client starts with, in milliseconds: what it waits after a
/// connection that ended unannounced. A stop announces a time of its own.
pub const SSE_RETRY_MS: u32 = 3000;

/// The reconnection time of an SSE client that was sent away or replaced by a newer connection, in
/// milliseconds: a tab that came back at once would replace that one in turn.
pub const SSE_RETRY_DISMISSED_MS: u32 = 10 * 60 * 1000;

/// The shard's one read buffer. A connection keeps a copy only of an unfinished frame.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Users whose replay is continued in one turn, each by at most [`REPLAYS_PER_USER`] messages.
pub const REPLAYS_PER_TURN: usize = 256;

/// Messages one user gets from its queue in one turn.
pub const REPLAYS_PER_USER: usize = 32;

/// A replay waits while this much is in the reader's outbox: a slow reader is not flooded, and
/// live traffic finds room.
pub const REPLAY_BACKLOG_BYTES: usize = 32 * 1024;

/// Deliveries a shard remembers the order of, for clients that name one when they come back: 32
/// bytes each. One that is older settles nothing, and what it would have comes again.
pub const RECENT_DELIVERIES: usize = 4096;

/// Messages of one user on their way: a reader that acknowledges each within 100 ms gets 10,000 a
/// second. About 60 KB of table and the frames, for a client that acknowledges nothing. Without
/// acknowledgement, the most that its connections have been handed from the queue and not written.
pub const IN_FLIGHT_PER_USER_MAX: u32 = 1000;

/// Messages given up that are kept for each user to be looked at.
pub const DEAD_LETTERS_MAX: usize = 100;

/// The most messages one answer shows. At 64 KiB each, 64 MiB; a page of history, not a backup.
pub const MESSAGES_SHOWN_MAX: usize = 1000;

/// Overdue messages handled in one turn.
pub const OVERDUE_PER_TURN: usize = 1024;

/// A shard that runs so much later than it asked to was not allowed to run: the time is nobody's
/// fault but ours. Far above a turn, and below every timeout that anybody sets for people.
pub const STALL: Duration = Duration::from_secs(1);

/// Messages that expire, are cleared, or are looked at because a client has seen them, in one turn:
/// a few hundred microseconds. The rest follows in the next turns.
pub const MESSAGES_PER_TURN: usize = 1024;

/// The most messages of one user that wait without an index: they are looked through. More than the
/// default of `queue.max_size_per_user`. Tests cross it all the time.
pub const WAITING_UNINDEXED_MAX: usize = if cfg!(test) { 3 } else { 128 };

/// Frames written by one `writev`.
pub const FRAMES_PER_WRITE: usize = 64;

/// Poller events taken at once.
pub const POLLER_EVENTS: usize = 1024;

/// How long a closing connection may take to flush, answer and go.
pub const LINGER: Duration = Duration::from_secs(3);

/// The same on a stop, from the last byte that was taken: whoever answers does so within a round
/// trip, the kernel goes on sending what it has taken, and all others wait for a gateway.
pub const STOP_LINGER: Duration = Duration::from_secs(1);

/// Bytes of unfinished client messages a shard keeps over all its connections. A client whose
/// message would go beyond is closed with 1013: 64 MiB are 1,024 messages of the default maximum.
pub const UNFINISHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a journal that may be appended and not committed: one trigger to 10,000 users with 6 KB
/// each. A disk that needs longer than its callers fill this makes queueing be refused.
pub const JOURNAL_BUFFER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of live records compaction copies in one turn: about 0.3 ms.
pub const COMPACTION_BYTES_PER_TURN: usize = 128 * 1024;

/// Attempts of messages that wait to be noted while the disk takes no notes: 16 MiB. Ends wait too, but
/// each message has one.
pub const CHANGES_WAITING_MAX: usize = 1024 * 1024;

/// Ends, or changes, of messages written down in one note.
pub const MESSAGES_PER_NOTE: usize = 4096;

/// Orders on their way to a journal's writer. With the lane full, commits grow instead.
pub const JOURNAL_LANE_CAPACITY: usize = 8;

/// Reports on their way back; with the lane full the writer waits for its shard.
pub const JOURNAL_REPORT_LANE_CAPACITY: usize = 64;

/// A journal that syncs by interval syncs earlier with this much unsynced: it keeps a copy.
pub const JOURNAL_UNSYNCED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes read at once for compaction; a longer record is read whole.
pub const JOURNAL_READ_BYTES: usize = 256 * 1024;

/// A buffer larger than this is not kept for the next commit.
pub const JOURNAL_SPARE_BYTES_MAX: usize = 1024 * 1024;

/// How soon a failed write is tried again; doubled each time unless the disk is merely full.
pub const JOURNAL_RETRY: Duration = Duration::from_secs(1);

/// The longest time between two tries of a failed write.
pub const JOURNAL_RETRY_MAX: Duration = Duration::from_secs(30);

const _: () = assert!(FRAMES_PER_WRITE <= 1024, "IOV_MAX of Linux");
const _: () = assert!(BATCHED_PER_TURN < REPORT_LANE_CAPACITY, "a turn's reports fit the lane");
const _: () = assert!(CONTROLS_PER_TURN < REPORT_LANE_CAPACITY, "a turn's reports fit the lane");
