//! One notification of one user on its way from acceptance to its end.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: a share of the notification's bytes.
//! **Never**: is in two places: whoever moves it takes it out of where it was first.

use crate::base::id::{NotificationId, RecordKey, Tick};
use crate::notification::{Audience, Priority, SharedMessage};

/// A queued message: 24 bytes, and a share of what all recipients of its notification share.
#[derive(Debug, Clone)]
pub struct QueuedMessage {
    shared: SharedMessage,
    /// Its record in the store; `None` = it is in memory only.
    pub record: Option<RecordKey>,
    /// From the top: 48 bits of sequence, 8 of priority, 8 of attempts.
    order: u64,
}

const _: () = assert!(size_of::<QueuedMessage>() == 24);

impl QueuedMessage {
    /// A message the shard took as its `sequence`-th, not sent yet. Sequences have 48 bits.
    #[must_use]
    pub fn new(shared: SharedMessage, sequence: u64) -> Self {
        let priority = shared.head().priority as u64;
        Self { shared, record: None, order: (sequence << 16) | (priority << 8) }
    }

    /// The same after so many attempts.
    #[must_use]
    pub const fn sent(mut self, attempts: u8) -> Self {
        self.order = (self.order & !0xFF) | attempts as u64;
        self
    }

    /// What is delivered.
    #[must_use]
    pub const fn shared(&self) -> &SharedMessage {
        &self.shared
    }

    /// Which notification it is.
    #[must_use]
    pub fn id(&self) -> NotificationId {
        self.shared.head().id
    }

    /// Its number in the order in which the shard accepted deliveries: unique among its user's
    /// messages, and their order.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.order >> 16
    }

    /// Which of the user's connections it is for; `None` = all.
    #[must_use]
    pub fn audience(&self) -> Option<&Audience> {
        self.shared.head().audience.as_deref()
    }

    /// When it stops being worth delivering.
    #[must_use]
    pub fn expires_at(&self) -> Tick {
        self.shared.head().expires_at
    }

    /// How often it has been sent.
    #[must_use]
    pub const fn attempts(&self) -> u8 {
        let [attempts, ..] = self.order.to_le_bytes();
        attempts
    }

    /// A full queue gives up the least urgent first.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let [_, priority, ..] = self.order.to_le_bytes();
        *Priority::ALL.get(usize::from(priority)).expect("it was made from a priority")
    }
}
