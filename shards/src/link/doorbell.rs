//! The one hand-made synchronisation primitive: a bell that wakes a thread's event loop.
//!
//! **Runs on**: rung by any thread, answered by the one that owns the queue behind it.
//! **Owns**: a flag. **Never**: locks; waits; loses a ring (checked with loom in `shards/loom`).
//!
//! A crossbeam receiver cannot be awaited, and a wake-up costs a system call. So a producer sends
//! first and rings after, and only the ring that finds the bell silent wakes the owner. The owner
//! silences the bell *before* it drains: whatever is sent after that drain began rings again.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

/// A bell with its clapper: `wake` is called by the first ring after each answer.
pub struct Doorbell {
    rung: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Doorbell {
    /// A silent bell that calls `wake` when it begins to ring. `wake` must be cheap, must not
    /// block, and its effect must last until the owner looks (an eventfd, a stored permit).
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { rung: AtomicBool::new(false), wake: Box::new(wake) }
    }

    /// Tells the owner that something was sent. Call after the send, once per batch.
    pub fn ring(&self) {
        // Release: the owner that sees the ring sees what was sent before it.
        if !self.rung.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    /// Silences the bell and says whether it had rung. Call before draining.
    ///
    /// An acquiring read-modify-write, not a plain store: with a store the owner could miss the
    /// message whose ring it has just erased.
    pub fn answer(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Doorbell")
    }
}
