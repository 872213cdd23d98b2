//! The engine of the Ara gateway: everything that happens on a shard's thread once a client is
//! adopted.
//!
//! **Runs on**: N pinned threads, one shard each; the router holds their [`ShardLink`]s.
//! **Owns**: a slice of the users, with their connections, channels and timers.
//! **Never**: knows HTTP, Redis, tokens, metrics exporters or configuration files; locks; calls up.

pub mod clock;
pub mod codec;
pub mod conversation;
pub mod doorbell;
pub mod frame;
pub mod id;
pub mod journal;
pub mod limits;
pub mod message;
pub mod meter;
pub mod notification;
pub mod pin;
pub mod placement;
pub mod state;
pub mod vault;
pub mod worker;

mod inbox;
mod io;
mod shard;
mod table;

pub use inbox::{Refused, ShardLink};
pub use limits::Limits;
