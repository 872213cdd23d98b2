//! What a client's data messages mean: the gateway's contract, or an echo.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: sees frames or sockets.

pub mod ara;

use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::base::id::{ConnectionKey, Tick};
use crate::outbound::Frame;
use crate::state::{Outgoing, State, Urgency};

/// Who sent a message, and when.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// The connection.
    pub key: ConnectionKey,
    /// The time of the turn.
    pub now: Tick,
}

/// What a client's data messages mean.
///
/// The gateway's contract is [`Ara`]; the echo server that the conformance suite drives is
/// another, on the same sockets, frames and close rules.
pub trait Protocol: Send + 'static {
    /// Whether a new client is told `connected`.
    const GREETS: bool;

    /// A whole text message came.
    fn text(&mut self, from: Sender, text: &str, state: &mut State, out: &mut impl Outgoing);

    /// A whole binary message came.
    fn binary(&mut self, from: Sender, bytes: &[u8], state: &mut State, out: &mut impl Outgoing);
}

/// The gateway's client messages: JSON text, or binary with UTF-8 JSON.
#[derive(Debug, Default)]
pub struct Ara;

impl Protocol for Ara {
    const GREETS: bool = true;

    fn text(&mut self, from: Sender, text: &str, state: &mut State, out: &mut impl Outgoing) {
        state.handle_message(from.key, ara::parse(text), from.now, out);
    }

    fn binary(&mut self, from: Sender, bytes: &[u8], state: &mut State, out: &mut impl Outgoing) {
        let message = std::str::from_utf8(bytes)
            .map_err(|_invalid| "a binary message must be JSON in UTF-8".to_owned())
            .and_then(ara::parse);
        state.handle_message(from.key, message, from.now, out);
    }
}

/// Sends every message back as it came.
#[derive(Debug, Default)]
pub struct Echo;

impl Protocol for Echo {
    const GREETS: bool = false;

    fn text(&mut self, from: Sender, text: &str, _: &mut State, out: &mut impl Outgoing) {
        let opcode = OpCode::Data(Data::Text);
        out.offer(from.key, &Frame::websocket(opcode, text.as_bytes()), Urgency::Prompt);
    }

    fn binary(&mut self, from: Sender, bytes: &[u8], _: &mut State, out: &mut impl Outgoing) {
        let opcode = OpCode::Data(Data::Binary);
        out.offer(from.key, &Frame::websocket(opcode, bytes), Urgency::Prompt);
    }
}
