//! What a shard counts: plain numbers with one writer, read as one coherent copy.
//!
//! **Runs on**: written on its shard between two awaits, copied out by `Query::Snapshot`.
//! **Owns**: the counters. **Never**: is atomic or shared: a reader asks the shard.

use super::disk_health::DiskHealth;

/// Defines the counters and the list of them, so that none can be left out of what shows them.
macro_rules! counters {
    ($($(#[$meaning:meta])* $name:ident,)+) => {
        /// What one shard has counted since its start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$meaning])* pub $name: u64,)+
        }

        impl Counters {
            /// Every counter: its name and the way to it.
            pub const FIELDS: &[(&str, fn(&mut Self) -> &mut u64)] =
                &[$((stringify!($name), |counters| &mut counters.$name),)+];
        }
    };
}

counters! {
    /// Clients taken over.
    connections_opened,
    /// Clients gone.
    connections_closed,
    /// Clients turned away because the user had too many connections.
    connections_refused,
    /// Deliveries applied.
    deliveries,
    /// Frames a socket or outbox took, over all recipients.
    frames_delivered,
    /// Frames that could not be taken.
    frames_failed,
    /// `Low` notifications not given to readers that are far behind; among the failed.
    frames_shed,
    /// Taken notifications that a closing connection had not written.
    frames_discarded,
    /// Messages clients sent.
    messages_received,
    /// Client messages answered with an error.
    messages_refused,
    /// Connections closed because their outbox was full or did not move (4429).
    slow_consumers,
    /// Connections closed because no frame came (4408).
    timeouts,
    /// Connections closed for breaking the protocol (1002, 1007, 1009).
    violations,
    /// Connections closed because the shard held too many unfinished messages (1013).
    overloads,
    /// Heartbeats sent.
    heartbeats,
    /// Messages put into queues.
    queue_enqueued,
    /// Messages sent from queues.
    queue_replayed,
    /// Messages whose time was over.
    queue_expired,
    /// Messages the disk did not take.
    queue_refused,
    /// Messages that gave way to others, or were cleared.
    queue_dropped,
    /// Messages sent that await an Ack, counted once each.
    ack_tracked,
    /// Acks that ended a message.
    acked,
    /// Messages not acknowledged in time, each time.
    ack_timeouts,
    /// Messages no longer awaited (`ack.unacked = "expire"`).
    ack_expired,
    /// Messages not acknowledged after the last attempt.
    dead_letters,
    /// Dead letters whose time was over.
    dead_letters_expired,
    /// Sum of the times from sending to Ack, in milliseconds.
    ack_latency_ms_sum,
    /// Turns of the loop.
    turns,
    /// Write system calls on client sockets.
    writes,
    /// Messages that were to wait and for which their tenant had no room.
    queue_over_limit,
    /// Connections closed in favour of a newer one of their user (4409).
    connections_replaced,
    /// Messages of clients within their rate; none is counted without a limit.
    messages_allowed,
    /// Messages of clients beyond their rate.
    messages_denied,
    /// Connections closed because they went on beyond their rate (1008).
    rate_abuses,
    /// Connections closed because their token had expired (4401).
    connections_expired,
    /// Tokens that took the place of a connection's own.
    tokens_refreshed,
}

/// One shard between two turns.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShardSnapshot {
    /// Its counters.
    pub counters: Counters,
    /// Open WebSocket connections.
    pub websocket_connections: usize,
    /// Open SSE connections.
    pub sse_connections: usize,
    /// Users with at least one connection.
    pub users: usize,
    /// Channels with at least one subscriber.
    pub channels: usize,
    /// Subscriptions over all channels.
    pub subscriptions: usize,
    /// Bytes waiting in all outboxes.
    pub outbox_bytes: usize,
    /// Bytes of unfinished client messages.
    pub unfinished_bytes: usize,
    /// Messages waiting in queues.
    pub queue_size: usize,
    /// Users with messages waiting.
    pub queue_users: usize,
    /// Messages in flight.
    pub ack_pending: usize,
    /// The disk's part, where messages are kept there.
    pub disk: Option<DiskSnapshot>,
    /// The core it is pinned to.
    pub core: Option<usize>,
}

impl ShardSnapshot {
    /// Open connections.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.websocket_connections + self.sse_connections
    }
}

/// How messages on disk stand.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskSnapshot {
    /// Whether more can be kept.
    pub health: DiskHealth,
    /// Bytes in files, or on the way there.
    pub bytes: u64,
    /// The most they may be.
    pub bytes_max: u64,
    /// Records that still matter.
    pub records: u64,
    /// Bytes not committed yet.
    pub uncommitted_bytes: u64,
    /// Syncs since start.
    pub syncs: u64,
    /// Records found damaged since start.
    pub lost_records: u64,
}
