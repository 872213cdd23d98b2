//! What clients send: from the socket through the frames and the connection's protocol to the state.
//!
//! **Runs on**: a shard. **Owns**: nothing of its own. **Never**: knows what a message means, or how
//! one looks (the connection's protocol does).

use super::Shard;
use crate::base::id::ConnectionKey;
use crate::base::limits::UNFINISHED_BYTES_MAX;
use crate::io::connections::{Connections, Received};
use crate::outbound::OutboundMessage;
use crate::protocol::{Incoming, Protocol, Request};
use crate::state::{Outgoing, State, Urgency};
use crate::wire::close::CloseReason;
use crate::wire::websocket::{self, Event, Violation};

impl Shard {
    pub(super) fn handle_readable(&mut self, key: ConnectionKey) {
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.connections.read(key, &mut buffer) {
            Received::Nothing => {}
            Received::End => self.handle_end(key),
            Received::Bytes(count) => {
                // What a client of a stream sends is read, so that its end is seen, and dropped.
                let protocol = self.connections.protocol(key);
                let protocol = protocol.filter(|protocol| protocol.is_two_way());
                if let (Some(protocol), true) = (protocol, self.connections.is_open(key)) {
                    let bytes = buffer.get_mut(..count);
                    let bytes = bytes.expect("a read gives at most what the buffer holds");
                    self.decode(key, protocol, bytes);
                }
            }
        }
        self.buffer = buffer;
    }

    /// The client has shut its side. It may only have done that: it gets what it is owed.
    fn handle_end(&mut self, key: ConnectionKey) {
        // The reader of a stream must be able to tell its end from a broken connection.
        let protocol = self.connections.protocol(key).filter(|_| self.connections.is_open(key));
        let protocol = protocol.filter(|protocol| !protocol.is_two_way());
        let last = protocol.and_then(|protocol| protocol.close(CloseReason::CLIENT_LEFT));
        if self.connections.end(key) && last.is_none() {
            return self.remove_connection(key);
        }
        let unsent = self.connections.finish(key, last, !self.state.keeps_messages());
        self.state.handle_disconnect(key, unsent);
    }

    /// Feeds a client's bytes to the codec and does what its messages ask.
    pub(super) fn decode(&mut self, key: ConnectionKey, protocol: Protocol, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let message_bytes_max = self.state.limits().message_bytes_max;
        let mut unfinished = self.connections.take_unfinished(key);
        let (state, connections) = (&mut self.state, &mut self.connections);
        let mut client = Sender { key, protocol, state, connections };
        let mut is_frame_received = false;
        let result = websocket::decode(bytes, &mut unfinished, message_bytes_max, |event| {
            is_frame_received = true;
            client.handle_event(event);
            client.connections.is_open(key)
        });
        if is_frame_received {
            self.state.handle_frame_received(key);
        }
        if let Some((key, at)) = self.state.take_refreshed() {
            self.arm(key, at);
        }
        if let Err(Violation { code, reason }) = result {
            self.state.counters.violations += 1;
            let reason = CloseReason::new(code, reason, true);
            self.state.close_connection(key, reason, &mut self.connections);
        } else if unfinished.is_some() && self.connections.is_open(key) {
            self.connections.return_unfinished(key, unfinished);
            if self.connections.unfinished_bytes > UNFINISHED_BYTES_MAX {
                self.state.counters.overloads += 1;
                self.state.close_connection(key, CloseReason::OVERLOADED, &mut self.connections);
            }
        }
    }
}

/// A client whose bytes are being read, and whom they may concern.
struct Sender<'a> {
    key: ConnectionKey,
    protocol: Protocol,
    state: &'a mut State,
    connections: &'a mut Connections,
}

impl Sender<'_> {
    /// Does what one frame, or the last of a message, asks.
    fn handle_event(&mut self, event: Event<'_>) {
        let incoming = match event {
            Event::Text(text) => Incoming::Text(text),
            Event::Binary(bytes) => Incoming::Binary(bytes),
            Event::Ping(payload) => {
                // It is answered, so it counts as a message.
                if self.state.admit_message(self.key, self.connections) {
                    self.answer(websocket::pong_frame(payload));
                }
                return;
            }
            Event::Pong | Event::Fragment => return,
            Event::Close(code) => {
                let last = websocket::close_frame(code, "");
                let flush = !self.state.keeps_messages();
                let unsent = self.connections.finish(self.key, Some(last), flush);
                return self.state.handle_disconnect(self.key, unsent);
            }
        };
        match self.protocol.read(incoming) {
            Request::Message(message) => {
                self.state.handle_message(self.key, message, self.connections);
            }
            Request::Answered(bytes) => self.answer(bytes),
        }
    }

    /// Writes an answer that is none of the state's; who has no room for it is sent away.
    fn answer(&mut self, bytes: Box<[u8]>) {
        if !self.connections.offer(self.key, &OutboundMessage::raw(bytes), Urgency::Prompt) {
            self.state.close_slow_consumer(self.key, self.connections);
        }
    }
}
