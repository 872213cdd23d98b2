//! The doors: where clients arrive, one on each shard's thread.
//!
//! **Runs on**: the shards' threads, as short-lived tokio tasks beside the shard's loop.
//! **Owns**: sockets that have not said who they are. **Never**: keeps one beyond its deadline.

pub mod accept;
pub mod auth;
pub mod handshake;
pub mod head;
mod proxy_protocol;
pub mod stream;
