//! From the Redis subscriber to the router.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: waits for a receipt: pub/sub has no
//! way back.

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
}
