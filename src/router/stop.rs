//! The end of the gateway: clients and triggers are refused, and every shard says goodbye.
//!
//! **Runs on**: the router's thread. **Owns**: when clients are asked to come back. **Never**: leaves a shard
//! untold without saying so.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ara_shards::base::limits::STOP_LINGER;
use ara_shards::link::message::{Control, Drain};
use tokio::time::timeout;

use super::{Phase, Router, State};
use crate::refusal::{Code, Refusal};

/// How many clients a second are told to leave; shards tell theirs at the same time.
const SENT_AWAY_PER_SECOND: f64 = 50_000.0;
/// What a start takes at least, and the longest one that clients are told to wait for.
const START: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(60);
/// How many clients the goodbyes ask back a second, over the whole gateway.
const RECONNECTS_PER_SECOND: u64 = 2_000;
/// The shortest and longest window over which clients are asked to come back.
const RECONNECT_WINDOW_SECONDS: std::ops::RangeInclusive<u64> = 2..=60;

impl Router {
    /// Refuses clients and triggers from now on and has every shard say goodbye; returns when all
    /// clients have gone or `grace` is over. `start_took` is what the next start is expected to take.
    pub async fn drain(&self, grace: Duration, start_took: Duration) {
        let (all_drained, order) = {
            let mut state = self.0.borrow_mut();
            state.phase = Phase::Stopping;
            state.paced_drain = None;
            state.next_start = Some(Instant::now() + grace + start_allowance(start_took));
            let clients = u64::try_from(state.admitted.total()).unwrap_or(u64::MAX);
            let seconds = (clients / RECONNECTS_PER_SECOND)
                .clamp(*RECONNECT_WINDOW_SECONDS.start(), *RECONNECT_WINDOW_SECONDS.end());
            let reconnect_window = Duration::from_secs(seconds);
            let return_after = return_after(state.admitted.total(), grace, start_took);
            let order = Drain { return_after, reconnect_window, grace };
            (Rc::clone(&state.all_drained), order)
        };
        let _logged = self.tell_all(|| Control::Drain(order)).await;
        // The shards cut whoever is left at the end of the grace period; a little more for that.
        let patience = grace + Duration::from_millis(500);
        if timeout(patience, all_drained.notified()).await.is_err() {
            tracing::warn!(?grace, "some clients did not leave in time");
        }
    }

    /// Ends the shards' threads.
    pub async fn stop_shards(&self) {
        let _logged = self.tell_all(|| Control::Stop).await;
    }

    /// Gives every shard a message. A lane full of adoptions is being emptied: try for a second.
    /// Whether each took it; one that did not is logged.
    pub(super) async fn tell_all(&self, message: impl Fn() -> Control) -> bool {
        let count = self.0.borrow().shards.len();
        let mut all_told = true;
        for shard in 0..count {
            let mut tries = 0;
            while self.0.borrow().shard(shard).control(message()).is_err() {
                tries += 1;
                if tries == 100 {
                    tracing::error!(shard, "a shard takes no message; it goes on as it was");
                    all_told = false;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        all_told
    }
}

/// When the first client may come back: after what is left of the stop and the start of the next
/// process. Whoever comes earlier meets a refused connection or a proxy's 502, and a browser's
/// `EventSource` never tries again after one.
pub(super) fn return_after(clients: usize, grace: Duration, start_took: Duration) -> Duration {
    let clients = f64::from(u32::try_from(clients).unwrap_or(u32::MAX));
    let telling = Duration::from_secs_f64(clients / SENT_AWAY_PER_SECOND);
    (telling + STOP_LINGER).min(grace) + start_allowance(start_took)
}

/// How long the start of the next process may take: twice what this one's took, since the machine
/// may be busier, and more may wait to be read back.
fn start_allowance(start_took: Duration) -> Duration {
    (start_took * 2).clamp(*START.start(), *START.end())
}

impl State {
    /// The gateway stops: with when somebody is there again at the latest, for a stop may last as long
    /// as the grace, and a refused connection is the end of a browser's `EventSource`.
    pub(super) fn shutting_down(&self) -> Refusal {
        let left = self.next_start.map(|at| at.saturating_duration_since(Instant::now()));
        let refusal = shutting_down();
        match left {
            Some(left) => refusal.with_header("retry-after", (left.as_secs() + 1).to_string()),
            None => refusal,
        }
    }
}

/// The gateway stops.
#[must_use]
pub fn shutting_down() -> Refusal {
    Refusal::new(Code::ShuttingDown, "the gateway is shutting down; use another instance")
}
