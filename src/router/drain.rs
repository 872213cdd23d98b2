//! A drain by the operator: clients are sent away at a stated rate while the gateway goes on.
//!
//! **Runs on**: the router, as a task. **Owns**: how many are due. **Never**: stops triggers, or takes new
//! clients before the operator ends it; sends away more than the rate allows.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use ara_shards::link::message::{Drain, Query};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Phase, Router};
use crate::refusal::{Code, Refusal};

/// How often clients are sent away. Small steps: what 500 a second means is ten each time.
const STEP: Duration = Duration::from_millis(20);
/// Each client comes back within this time, at a time of its own: the drain itself spreads them.
const RECONNECT_WINDOW: Duration = Duration::from_secs(2);

/// How many are due by now.
#[derive(Debug, Clone, Copy)]
struct Pace {
    rate_per_second: f64,
    since: Instant,
    /// How many were sent away at this pace.
    sent: u64,
}

impl Pace {
    const fn new(rate_per_second: f64, since: Instant) -> Self {
        Self { rate_per_second, since, sent: 0 }
    }

    /// How many more may be sent away at this time.
    fn due(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.since);
        let due = (self.rate_per_second * elapsed.as_secs_f64()).floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate and a time are positive, and their product is far below the range"
        )]
        let due = due as u64;
        due.saturating_sub(self.sent)
    }
}

/// A drain under way, or done and not ended.
#[derive(Debug)]
pub(super) struct PacedDrain {
    pace: Pace,
    started_at: SystemTime,
    clients: usize,
    sent_away: u64,
    /// Which shard gets the odd one of the next step.
    turn: usize,
}

/// What is known of a drain.
#[derive(Debug, Clone, Copy)]
pub struct DrainStatus {
    /// How many clients are sent away a second.
    pub rate_per_second: f64,
    /// When it began.
    pub started_at: SystemTime,
    /// How many clients there were.
    pub clients: usize,
    /// How many were told to leave so far.
    pub sent_away: u64,
    /// How many are still there.
    pub remaining: usize,
}

impl Router {
    /// Readiness is off from now on; everything else goes on until [`Self::drain`].
    pub fn announce_stop(&self) {
        let mut state = self.0.borrow_mut();
        state.stop_is_announced = true;
        if state.phase == Phase::Ready {
            state.phase = Phase::StopAnnounced;
        }
    }

    /// Begins to send all clients away, so many a second, and takes no new ones; or goes on with a drain
    /// at another rate.
    ///
    /// # Errors
    ///
    /// The gateway is stopping already, which sends everybody away.
    pub fn start_drain(&self, rate_per_second: f64) -> Result<DrainStatus, Refusal> {
        {
            let mut state = self.0.borrow_mut();
            if state.phase == Phase::Stopping {
                return Err(state.shutting_down());
            }
            state.take_reports();
            let now = Instant::now();
            let clients = state.admitted.total();
            state.phase = Phase::Draining;
            let pace = Pace::new(rate_per_second, now);
            match &mut state.paced_drain {
                Some(drain) => drain.pace = pace,
                drain => {
                    let started_at = SystemTime::now();
                    *drain = Some(PacedDrain { pace, started_at, clients, sent_away: 0, turn: 0 });
                }
            }
            state.drain_changed.notify_one();
        }
        Ok(self.drain_status().expect("it was just begun"))
    }

    /// Ends a drain: who is still there stays, and new clients are taken. What it had come to, if there
    /// was one.
    pub fn stop_drain(&self) -> Option<DrainStatus> {
        let status = self.drain_status()?;
        let mut state = self.0.borrow_mut();
        state.paced_drain = None;
        if state.phase == Phase::Draining {
            state.phase = if state.stop_is_announced { Phase::StopAnnounced } else { Phase::Ready };
        }
        state.drain_changed.notify_one();
        Some(status)
    }

    /// What is known of the drain, if there is one.
    #[must_use]
    pub fn drain_status(&self) -> Option<DrainStatus> {
        let mut state = self.0.borrow_mut();
        state.take_reports();
        let remaining = state.admitted.total();
        state.paced_drain.as_ref().map(|drain| DrainStatus {
            rate_per_second: drain.pace.rate_per_second,
            started_at: drain.started_at,
            clients: drain.clients,
            sent_away: drain.sent_away,
            remaining,
        })
    }

    /// Sends clients away when and as fast as the operator says, for as long as the gateway runs.
    pub async fn serve_drains(self) -> io::Result<()> {
        let changed: Rc<Notify> = Rc::clone(&self.0.borrow().drain_changed);
        loop {
            let Some(shares) = self.shares(Instant::now()) else {
                changed.notified().await;
                continue;
            };
            for (shard, count) in shares {
                let order = Drain {
                    return_after: Duration::ZERO,
                    reconnect_window: RECONNECT_WINDOW,
                    grace: Duration::ZERO,
                };
                let query = |reply_to| Query::SendAway { count, order, reply_to };
                // A shard without room for the query, or without clients, is asked again at the next step.
                let sent = self.ask(shard, query).await.unwrap_or_default();
                if let Some(drain) = &mut self.0.borrow_mut().paced_drain {
                    drain.pace.sent += sent as u64;
                    drain.sent_away += sent as u64;
                }
            }
            let _changed_or_not = timeout(STEP, changed.notified()).await;
        }
    }

    /// How many each shard is to send away now. `None` without a drain, or once nobody is left: no new
    /// client is taken until the drain ends.
    fn shares(&self, now: Instant) -> Option<Vec<(usize, usize)>> {
        let mut state = self.0.borrow_mut();
        let shards = state.shards.len();
        let is_done = state.admitted.total() == 0;
        let drain = state.paced_drain.as_mut().filter(|_| !is_done)?;
        drain.turn = (drain.turn + 1) % shards;
        Some(split(drain.pace.due(now), shards, drain.turn))
    }
}

/// A new client is refused: the operator drains the gateway.
pub(super) fn draining() -> Refusal {
    let sentence = "the gateway is being drained; use another instance";
    Refusal::new(Code::ShuttingDown, sentence).with_header("retry-after", "5")
}

/// Splits a number over shards, the odd ones to those from `turn` on.
fn split(due: u64, shards: usize, turn: usize) -> Vec<(usize, usize)> {
    let due = usize::try_from(due).unwrap_or(usize::MAX);
    let (each, odd) = (due / shards, due % shards);
    (0..shards)
        .map(|place| ((turn + place) % shards, each + usize::from(place < odd)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whenever it is asked, and whatever the shards could do of it: never more than the rate
        /// allows, and all of it once they keep up.
        #[test]
        fn a_pace_is_kept(
            rate in 1_u32..20_000,
            steps in proptest::collection::vec((1_u64..200, 0_u64..100), 1..100),
        ) {
            let began = Instant::now();
            let mut pace = Pace::new(f64::from(rate), began);
            let mut now = began;
            let mut sent = 0;
            for (ms, percent) in steps {
                now += Duration::from_millis(ms);
                let due = pace.due(now);
                let allowed = f64::from(rate) * (now - began).as_secs_f64();
                prop_assert!((sent + due) as f64 <= allowed + 1e-6);
                prop_assert!((sent + due) as f64 > allowed - 1.0 - 1e-6);
                let done = due * percent / 100;
                pace.sent += done;
                sent += done;
            }
            let due = pace.due(now);
            pace.sent += due;
            prop_assert_eq!(pace.due(now), 0);
        }

        #[test]
        fn every_client_due_is_of_one_shard(due in 0_u64..10_000, shards in 1_usize..20, turn in 0_usize..20) {
            let shares = split(due, shards, turn % shards);
            prop_assert_eq!(shares.iter().map(|(_, count)| *count as u64).sum::<u64>(), due);
            let most = shares.iter().map(|(_, count)| *count).max().unwrap_or(0);
            let least = shares.iter().map(|(_, count)| *count).min().unwrap_or(0);
            prop_assert!(most - least <= 1);
        }
    }
}
