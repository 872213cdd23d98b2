//! Bytes to messages and back, without I/O: the only place that knows wire formats.
//!
//! **Runs on**: a shard (reading) and the router (encoding once). **Owns**: nothing.
//! **Never**: touches a socket or a clock.

pub mod close;
pub mod json;
pub mod sse;
pub mod text;
pub mod websocket;
