//! Every bound of the engine in one place, each with its reason.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: reads configuration.

use std::time::Duration;

/// The bounds a shard works within. Built by the gateway from its configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most connections of one user; 0 = unlimited.
    pub connections_per_user_max: usize,
    /// The most channels one connection may subscribe to; 0 = unlimited.
    pub subscriptions_per_connection_max: usize,
    /// The most bytes waiting for one connection before it counts as a slow consumer.
    pub outbox_bytes_per_connection_max: usize,
    /// The largest message a client may send, in bytes, over all its fragments.
    pub message_bytes_max: usize,
    /// Mean time between heartbeats of one connection; each is jittered by ± 20 %. Zero = none.
    pub heartbeat_interval: Duration,
    /// A client from which no frame came for this long is closed with 4408. Zero = never.
    pub connection_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_user_max: 5,
            subscriptions_per_connection_max: 50,
            outbox_bytes_per_connection_max: 256 * 1024,
            message_bytes_max: 64 * 1024,
            heartbeat_interval: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(120),
        }
    }
}
