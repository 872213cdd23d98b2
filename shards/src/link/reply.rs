//! The way back from a shard to whoever asked it: one value of one type, once.
//!
//! **Runs on**: made and used on the router; a shard carries it from a query to its reply.
//! **Owns**: nothing. **Never**: is used by a shard: the reply travels in the report lane, behind all
//! that the shard had reported before.

use tokio::sync::oneshot;

/// Where the reply of one shard to one query goes.
#[derive(Debug)]
pub struct ReplyTo<T>(oneshot::Sender<T>);

impl<T> ReplyTo<T> {
    /// A way back, and the end at which the reply arrives. That end fails when the shard has dropped the
    /// query.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    pub(crate) fn deliver(self, value: T) {
        // Whoever has stopped waiting does not need the reply.
        let _stopped_waiting = self.0.send(value);
    }
}
