//! What time it is: ticks for the engine, and how they stand to the calendar.
//!
//! **Runs on**: any thread (a plain value, the same for all). **Owns**: the moment tick 0 was.
//! **Never**: follows the system's clock: a calendar that is set while the process runs moves
//! nothing; the next run sees it.

use std::time::{Duration, Instant, SystemTime};

use crate::base::id::Tick;

/// The clock of one run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Instant,
    /// Milliseconds since 1970 at tick 0.
    epoch_unix_ms: u64,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reader of the clocks")]
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A machine whose calendar is not set yet may stand before 1970.
        let epoch_unix_ms = u64::try_from(since_1970.unwrap_or_default().as_millis())
            .expect("a calendar ends before 600 million years");
        Self { epoch: Instant::now(), epoch_unix_ms }
    }

    /// The time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reader of the clocks")]
    pub fn now(&self) -> Tick {
        let elapsed = Instant::now().saturating_duration_since(self.epoch).as_millis();
        let ticks = elapsed / u128::from(Tick::MILLISECONDS);
        Tick(u32::try_from(ticks).expect("a process runs for less than 13 years"))
    }

    /// The moment a tick begins.
    #[must_use]
    pub fn instant_of(&self, tick: Tick) -> Instant {
        self.epoch + Duration::from_millis(tick.as_millis())
    }

    /// A tick as milliseconds since 1970; [`Tick::NEVER`] as the last of those.
    #[must_use]
    pub fn unix_ms_of(&self, tick: Tick) -> u64 {
        if tick == Tick::NEVER {
            u64::MAX
        } else {
            self.epoch_unix_ms.saturating_add(tick.as_millis())
        }
    }

    /// The other way; a time before the clock began is [`Tick::START`].
    #[must_use]
    pub fn tick_of(&self, unix_ms: u64) -> Tick {
        let ticks = unix_ms.saturating_sub(self.epoch_unix_ms).div_ceil(Tick::MILLISECONDS);
        // Later than this run can last is never.
        u32::try_from(ticks).map_or(Tick::NEVER, Tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_outlives_the_run() {
        let first = Clock { epoch_unix_ms: 1_700_000_000_000, ..Clock::start() };
        let second = Clock { epoch_unix_ms: 1_700_000_060_000, ..Clock::start() };
        let due = first.unix_ms_of(Tick(900));
        assert_eq!(second.tick_of(due), Tick(300));
        assert_eq!(second.tick_of(first.unix_ms_of(Tick(5))), Tick::START);
        assert_eq!(second.tick_of(first.unix_ms_of(Tick::NEVER)), Tick::NEVER);
    }
}
