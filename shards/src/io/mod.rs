//! Client sockets: reading, outboxes, writing, closing.
//!
//! **Runs on**: a shard. **Owns**: the sockets and what waits for them. **Never**: knows users,
//! channels or what a message means.

pub(crate) mod connections;
mod outbox;
