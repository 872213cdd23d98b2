//! From the Redis subscriber to the router.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: waits for a receipt: pub/sub has no
//! way back.

use ara_shards::base::id::NotificationId;
use uuid::Uuid;

use crate::intake::Trigger;
use crate::redis::Sink;
use crate::refusal::Refusal;
use crate::router::Router;

/// Sends what comes through Redis by this router.
pub(super) struct RedisSink(pub(super) Router);

impl Sink for RedisSink {
    fn send(&mut self, trigger: Trigger) -> Result<(), Refusal> {
        self.0.dispatch(trigger, None).map(drop)
    }

    fn send_batch<T>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut dyn FnMut(Trigger) -> Result<(), Refusal>) -> T,
    ) -> Result<T, Refusal> {
        self.0.dispatch_batch(count, |together| {
            fill(&mut |trigger| {
                let id = NotificationId(*Uuid::now_v7().as_bytes());
                together.add(trigger, id).map(drop)
            })
        })
    }
}
