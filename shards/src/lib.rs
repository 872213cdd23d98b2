//! The engine of the Ara gateway: everything that happens on a shard's thread once a client is
//! adopted.
//!
//! **Runs on**: N pinned threads, one shard each; the router holds their [`ShardLink`]s.
//! **Owns**: a slice of the users, with their connections, channels and timers.
//! **Never**: knows HTTP, Redis, tokens, metrics exporters or configuration files; locks; calls up.

pub mod base;
pub mod encoding;
pub mod journal;
pub mod link;
pub mod notification;
pub mod outbound;
pub mod protocol;
pub mod queued_message;
pub mod state;
pub mod store;
pub mod wire;
pub mod worker;

mod io;
mod queue;
mod shard;

pub use base::limits::Limits;
pub use link::inbox::{Refused, ShardLink};
