//! What crosses threads: messages, the lanes they travel in, and the bell that wakes a receiver.
//!
//! **Runs on**: one side on the router, the other on a shard. **Owns**: the lanes.
//! **Never**: blocks, or loses a message without saying so.

pub mod doorbell;
pub mod listing;
pub mod message;
pub mod recipient;
pub mod reply;
pub mod tokens;

pub(crate) mod inbox;
mod turns;
