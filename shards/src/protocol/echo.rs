//! A protocol that sends every message back as it came: what the conformance suite drives, on the
//! gateway's own sockets, frames and close rules.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: says anything by itself.

use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::Incoming;
use crate::wire::websocket;

/// The message as it came, in a frame of its kind.
pub(super) fn answer(incoming: Incoming<'_>) -> Box<[u8]> {
    match incoming {
        Incoming::Text(text) => websocket::frame(OpCode::Data(Data::Text), text.as_bytes()),
        Incoming::Binary(bytes) => websocket::frame(OpCode::Data(Data::Binary), bytes),
    }
}
