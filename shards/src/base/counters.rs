//! What a shard counts: plain numbers with one writer, read as one coherent copy.
//!
//! **Runs on**: written on its shard between two awaits, copied out by `Query::Snapshot`.
//! **Owns**: the counters. **Never**: is atomic or shared: a reader asks the shard.

use crate::link::message::DiskHealth;

/// Counters since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Clients taken over.
    pub connections_opened: u64,
    /// Clients gone.
    pub connections_closed: u64,
    /// Clients turned away because the user had too many connections.
    pub connections_refused: u64,
    /// Deliveries applied.
    pub deliveries: u64,
    /// Frames a socket or outbox took, over all recipients.
    pub frames_delivered: u64,
    /// Frames that could not be taken.
    pub frames_failed: u64,
    /// `Low` notifications not given to readers that are far behind; among the failed.
    pub frames_shed: u64,
    /// Taken notifications that a closing connection had not written.
    pub frames_discarded: u64,
    /// Messages clients sent.
    pub messages_received: u64,
    /// Client messages answered with an error.
    pub messages_refused: u64,
    /// Connections closed because their outbox was full or did not move (4429).
    pub slow_consumers: u64,
    /// Connections closed because no frame came (4408).
    pub timeouts: u64,
    /// Connections closed for breaking the protocol (1002, 1007, 1009).
    pub violations: u64,
    /// Connections closed because the shard held too many unfinished messages (1013).
    pub overloads: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Messages put into queues.
    pub queue_enqueued: u64,
    /// Messages sent from queues.
    pub queue_replayed: u64,
    /// Messages whose time was over.
    pub queue_expired: u64,
    /// Messages the disk did not take.
    pub queue_refused: u64,
    /// Messages that gave way to others, or were cleared.
    pub queue_dropped: u64,
    /// Messages sent that await an Ack, counted once each.
    pub ack_tracked: u64,
    /// Acks that settled a message.
    pub acked: u64,
    /// Messages not acknowledged in time, each time.
    pub ack_timeouts: u64,
    /// Messages no longer awaited (`ack.unacked = "expire"`).
    pub ack_expired: u64,
    /// Messages given up after the last attempt.
    pub dead_letters: u64,
    /// Dead letters whose time was over.
    pub dead_letters_expired: u64,
    /// Sum of the times from sending to Ack, in milliseconds.
    pub ack_latency_ms_sum: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Write system calls on client sockets.
    pub writes: u64,
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
    /// Messages on their way.
    pub ack_pending: usize,
    /// The disk's part, where messages are kept there.
    pub disk: Option<DiskSnapshot>,
    /// The core it is pinned to.
    pub core: Option<usize>,
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
