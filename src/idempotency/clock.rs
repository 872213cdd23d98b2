//! The time that ages are counted in: the wall clock's, but it never goes back.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: the latest time seen.
//! **Never**: goes back. While the wall clock is behind, it goes on by what this process lives.
//!
//! A machine may start in 1970 and learn the date later, or be corrected by hand. Which time was
//! the wrong one cannot be known, so the later one counts: a clock that went back loses nothing,
//! and what was written meanwhile is not older than what was there before. Nor is anything kept
//! for ever: ages grow as long as some process runs.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    ms: u64,
    at: Instant,
}

impl Clock {
    /// A clock that stands at `ms`.
    pub(super) const fn new(ms: u64, at: Instant) -> Self {
        Self { ms, at }
    }

    /// The time now, when the wall clock says `wall_ms`.
    pub(super) fn now(&mut self, wall_ms: u64, at: Instant) -> u64 {
        let lived = at.saturating_duration_since(self.at).as_millis();
        let ms = self.ms.saturating_add(u64::try_from(lived).unwrap_or(u64::MAX)).max(wall_ms);
        *self = Self { ms, at };
        ms
    }
}

/// The wall clock, in milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
