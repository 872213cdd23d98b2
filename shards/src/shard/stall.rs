//! Time the shard has lost, and who is judged by the time that is left.
//!
//! **Runs on**: its worker's thread. **Owns**: when the last turn was and when the next is due.
//! **Never**: reads a clock; blames a client for a turn that came late.

use super::{NextTurn, Shard};
use crate::base::id::{ConnectionKey, Tick};
use crate::base::limits::STALL;

/// When turns are, and when they should be.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When the last turn was that was not held.
    served_at: Tick,
    /// When the next one is due at the latest; `None` = when something happens.
    due: Option<Tick>,
}

impl Schedule {
    pub(super) const fn new(now: Tick) -> Self {
        Self { served_at: now, due: None }
    }

    /// A turn has ended, and this is when the next one is.
    pub(super) fn plan(&mut self, next: NextTurn, now: Tick) {
        (self.served_at, self.due) = match next {
            NextTurn::OnWake(timer) => (now, timer),
            NextTurn::AtOnce | NextTurn::Never => (now, Some(now)),
            // Nothing is read meanwhile: that time may be lost too.
            NextTurn::WhenReportsFit => (self.served_at, self.due.or(Some(now))),
        };
    }

    /// How much time was lost if this turn comes much later than it was due. Since when is not
    /// known: all the time since the last turn is taken as lost.
    fn lost_ticks(&mut self, now: Tick) -> Option<u32> {
        self.due.filter(|due| now > due.after(STALL))?;
        let lost = now.0 - self.served_at.0;
        (self.served_at, self.due) = (now, Some(now));
        Some(lost)
    }
}

impl Shard {
    /// Whether this turn comes much later than it was due: the process was stopped, starved or
    /// suspended, or the router left no room for reports.
    pub(super) fn notice_stall(&mut self, now: Tick) -> bool {
        let Some(lost) = self.schedule.lost_ticks(now) else { return false };
        self.state.handle_stall(lost);
        tracing::warn!(
            lost_ms = u64::from(lost) * Tick::MILLISECONDS,
            "this shard did not run for a while; no client's timeout counts that time. If the \
             process was not paused, it gets too little CPU"
        );
        true
    }

    /// Whether a reader has taken nothing of what waits for it for the connection timeout.
    pub(super) fn is_stalled(&self, key: ConnectionKey) -> bool {
        let timeout = self.state.limits().connection_timeout;
        let ticks = Tick::default().after(timeout).0;
        !timeout.is_zero()
            && self
                .state
                .running()
                .0
                .checked_sub(ticks)
                .is_some_and(|since| self.connections.is_stalled(key, Tick(since)))
    }
}
