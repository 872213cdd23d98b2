//! What a client's data messages mean: the gateway's contract, or an echo.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: sees frames or sockets.

use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::codec::dialect;
use crate::frame::Frame;
use crate::id::{ConnectionKey, Tick};
use crate::state::{Outgoing, State, Urgency};

/// Who sent a message, and when.
#[derive(Debug, Clone, Copy)]
pub struct Speaker {
    /// The connection.
    pub key: ConnectionKey,
    /// The time of the turn.
    pub now: Tick,
}

/// What a client's data messages mean.
///
/// The gateway's contract is [`Contract`]; the echo server that the conformance suite drives is
/// another, on the same sockets, frames and close rules.
pub trait Conversation: Send + 'static {
    /// Whether a new client is told `connected`.
    const GREETS: bool;

    /// A whole text message came.
    fn text(&mut self, from: Speaker, text: &str, state: &mut State, out: &mut impl Outgoing);

    /// A whole binary message came.
    fn binary(&mut self, from: Speaker, bytes: &[u8], state: &mut State, out: &mut impl Outgoing);
}

/// The gateway's client messages: JSON text, or binary with UTF-8 JSON.
#[derive(Debug, Default)]
pub struct Contract;

impl Conversation for Contract {
    const GREETS: bool = true;

    fn text(&mut self, from: Speaker, text: &str, state: &mut State, out: &mut impl Outgoing) {
        state.handle_message(from.key, dialect::parse(text), from.now, out);
    }

    fn binary(&mut self, from: Speaker, bytes: &[u8], state: &mut State, out: &mut impl Outgoing) {
        let message = std::str::from_utf8(bytes)
            .map_err(|_invalid| "a binary message must be JSON in UTF-8".to_owned())
            .and_then(dialect::parse);
        state.handle_message(from.key, message, from.now, out);
    }
}

/// Sends every message back as it came.
#[derive(Debug, Default)]
pub struct Echo;

impl Conversation for Echo {
    const GREETS: bool = false;

    fn text(&mut self, from: Speaker, text: &str, _: &mut State, out: &mut impl Outgoing) {
        let opcode = OpCode::Data(Data::Text);
        out.offer(from.key, &Frame::websocket(opcode, text.as_bytes()), Urgency::Prompt);
    }

    fn binary(&mut self, from: Speaker, bytes: &[u8], _: &mut State, out: &mut impl Outgoing) {
        let opcode = OpCode::Data(Data::Binary);
        out.offer(from.key, &Frame::websocket(opcode, bytes), Urgency::Prompt);
    }
}
