//! From Redis to the router: what was published is sent, and nobody waits to hear of it.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: waits: pub/sub has no way back.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ara_shards::base::id::NotificationId;
use uuid::Uuid;

use crate::intake::Trigger;
use crate::intake::batch::Outcome;
use crate::redis::{Published, PublishedBatch, RejectedItems, Status};
use crate::refusal::Refusal;
use crate::router::Router;
use crate::telemetry::LogLimiter;

/// At most one line about triggers that were not sent in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Sends what was published.
#[derive(Debug)]
pub(super) struct RedisSender {
    router: Router,
    status: Rc<Status>,
    limiter: LogLimiter,
}

impl RedisSender {
    pub(super) fn new(router: Router, status: Rc<Status>) -> Self {
        Self { router, status, limiter: LogLimiter::new(WARN_INTERVAL) }
    }

    /// Sends a trigger, or those of a batch together. Which notifications of the batch are not valid.
    pub(super) fn send(&mut self, published: Published<'_>) -> RejectedItems {
        match published {
            Published::Trigger(trigger) => {
                if let Err(refusal) = self.router.dispatch(trigger, None) {
                    self.count_not_sent(&refusal);
                }
                Vec::new()
            }
            Published::Batch(batch) => self.send_batch(&batch),
        }
    }

    fn send_batch(&mut self, batch: &PublishedBatch<'_>) -> RejectedItems {
        let sent = self.router.dispatch_batch(|together| {
            let id = || NotificationId(*Uuid::now_v7().as_bytes());
            batch.send_each(|trigger: Trigger| together.add(trigger, id()))
        });
        let outcomes = match sent {
            Ok(outcomes) => outcomes,
            Err(refusal) => {
                self.count_not_sent(&refusal);
                return Vec::new();
            }
        };
        let mut invalid = RejectedItems::new();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Invalid(fault) => invalid.push((index, fault)),
                Outcome::Refused(refusal) => self.count_not_sent(&refusal),
                Outcome::Sent(_) | Outcome::Skipped | Outcome::NotAttempted => {}
            }
        }
        invalid
    }

    fn count_not_sent(&mut self, refusal: &Refusal) {
        self.status.count_not_sent();
        if let Some(suppressed) = self.limiter.admit(Instant::now()) {
            let reason = &refusal.message;
            tracing::warn!(%reason, suppressed, "a Redis trigger was not sent");
        }
    }
}
