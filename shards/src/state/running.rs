//! Running time: the time in which the shard ran, which is what a peer is measured by.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: how much time was lost so far.
//! **Never**: measures what the calendar decides, such as when a notification expires.
//!
//! A process that is stopped, starved or suspended reads nothing and sends nothing. A peer that was
//! pinged before that had no chance to be heard, so that time counts for nobody's
//! timeout. A suspended machine needs no more: the monotonic clock under all ticks stands still.

use crate::base::id::Tick;

/// How running time stands to the clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunningTime {
    /// Ticks in which the shard did not run, since start.
    lost_ticks: u32,
}

impl RunningTime {
    /// The shard did not run for so many ticks.
    pub(super) const fn lose(&mut self, ticks: u32) {
        self.lost_ticks += ticks;
    }

    /// A moment of the clock in running time.
    pub(super) const fn of(self, now: Tick) -> Tick {
        Tick(now.0.checked_sub(self.lost_ticks).expect("no more time is lost than has passed"))
    }

    /// When the clock shows a moment of running time, unless more time is lost. [`Tick::NEVER`] stays
    /// what it is.
    pub(super) const fn on_clock(self, running: Tick) -> Tick {
        Tick(running.0.saturating_add(self.lost_ticks))
    }
}
