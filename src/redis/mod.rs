//! The Redis trigger source: subscribes, checks what arrives, and hands triggers to the router.
//!
//! **Runs on**: the router, as one local task ([`subscriber::run`]). **Owns**: the connection to Redis
//! and [`Status`], which `/health`, `/stats` and `/metrics` read on the same thread. **Never**: stops
//! for good, queues messages without a bound, or delays HTTP triggers and clients: while Redis is
//! away everything else goes on.
//!
//! Pub/sub forgets: what is published while the gateway is away from Redis is lost to it.

use std::cell::Cell;

pub mod backoff;
pub mod breaker;
mod connection;
mod fault;
pub mod message;
mod receiver;
mod rejected;
mod resp;
pub mod subscriber;
pub mod tls;

pub use breaker::BreakerState;
pub use connection::{check_url, is_tls};
pub use message::{Rejection, Tenants};
pub use receiver::Sink;
pub use rejected::Rejected;
pub use subscriber::{Options, Timing, run, run_with};

/// Where the connection to Redis stands, in the words of `/health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// No Redis is configured.
    #[default]
    Disabled,
    /// Connected, subscribed, and answering.
    Healthy,
    /// Not connected; the next attempt is under way or waits for its delay.
    Reconnecting,
    /// Not connected; the breaker is open and nothing is tried before its reset time.
    CircuitOpen,
}

impl State {
    /// The name `/health` and `/stats` use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Healthy => "healthy",
            Self::Reconnecting => "reconnecting",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// What the subscriber shows of itself. A new one says "disabled" until a subscriber runs.
#[derive(Debug, Default)]
pub struct Status {
    state: Cell<State>,
    breaker_state: Cell<BreakerState>,
    breaker_failures: Cell<u32>,
    reconnection_attempts: Cell<u64>,
    total_reconnections: Cell<u64>,
    messages_received: Cell<u64>,
    not_sent: Cell<u64>,
    /// In the order of [`Rejected::ALL`].
    rejected: [Cell<u64>; Rejected::ALL.len()],
}

/// [`Status`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the connection stands.
    pub state: State,
    /// Whether the subscription is in place.
    pub connected: bool,
    /// What the breaker lets through.
    pub breaker_state: BreakerState,
    /// Failures in a row.
    pub breaker_failures: u32,
    /// Attempts since the connection was last up; the first attempt of all is not counted.
    pub reconnection_attempts: u64,
    /// How often a lost subscription was put in place again.
    pub total_reconnections: u64,
    /// Messages that arrived, rejected ones included.
    pub messages_received: u64,
    /// Triggers, each of a batch by itself, that the shards had no room for or that came during a stop.
    pub not_sent: u64,
    /// Messages, and notifications of batches, not taken, by reason; every reason is listed.
    pub rejected: [(&'static str, u64); Rejected::ALL.len()],
}

impl Status {
    /// A status that says "disabled".
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All values at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: self.state.get(),
            connected: self.state.get() == State::Healthy,
            breaker_state: self.breaker_state.get(),
            breaker_failures: self.breaker_failures.get(),
            reconnection_attempts: self.reconnection_attempts.get(),
            total_reconnections: self.total_reconnections.get(),
            messages_received: self.messages_received.get(),
            not_sent: self.not_sent.get(),
            rejected: Rejected::ALL.map(|reason| (reason.reason(), self.rejected(reason))),
        }
    }

    /// How many messages and notifications of batches were not taken for this reason.
    #[must_use]
    pub fn rejected(&self, reason: Rejected) -> u64 {
        self.rejected_counter(reason).get()
    }

    fn count_not_sent(&self) {
        add_one(&self.not_sent);
    }

    fn count_rejected(&self, reason: Rejected) {
        add_one(self.rejected_counter(reason));
    }

    fn rejected_counter(&self, reason: Rejected) -> &Cell<u64> {
        self.rejected.get(reason as usize).expect("there is a counter for every reason")
    }
}

fn add_one(count: &Cell<u64>) {
    count.set(count.get().saturating_add(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_status_is_disabled_and_empty() {
        let snapshot = Status::new().snapshot();
        assert_eq!((snapshot.state, snapshot.connected), (State::Disabled, false));
        assert_eq!(snapshot.rejected.len(), Rejected::ALL.len());
        assert!(snapshot.rejected.iter().all(|&(_, count)| count == 0));
    }

    #[test]
    fn rejections_are_counted_under_their_own_reason() {
        let status = Status::new();
        for (index, reason) in Rejected::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| status.count_rejected(reason));
        }
        for ((reason, count), expected) in status.snapshot().rejected.into_iter().zip(1..) {
            assert_eq!(count, expected, "{reason}");
        }
    }
}
