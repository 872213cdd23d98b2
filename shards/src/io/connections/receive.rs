//! The reading half: what the poller announces, and the bytes that come.
//!
//! **Runs on**: a shard. **Owns**: nothing of its own; the records are the parent's.
//! **Never**: reads more than one buffer of a connection at a time.

use std::io::{self, Read};
use std::time::Duration;

use super::{Connections, IN_USE, Phase};
use crate::base::id::ConnectionKey;
use crate::base::limits::POLLER_EVENTS;
use crate::wire::websocket::Unfinished;

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes are in the buffer.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The client is gone, or its half of the connection is.
    End,
}

impl Connections {
    /// Takes what the poller has, without waiting. True: there may be more.
    pub(crate) fn poll_events(&mut self) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            other => other?,
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
            let Some(connection) = self.slots.get_mut(event.token().0) else { continue };
            let key = ConnectionKey::from_index(event.token().0).expect("it is in the slab");
            connection.flags.peer_done |= event.is_read_closed() || event.is_error();
            if event.is_writable() {
                connection.flags.blocked = false;
                let flags = &mut connection.flags;
                if !connection.outbox.is_empty() && !flags.prompt {
                    flags.prompt = true;
                    self.prompt.push_back(key);
                }
            }
            let wants_read = event.is_readable() || event.is_read_closed() || event.is_error();
            if wants_read && !connection.flags.readable {
                connection.flags.readable = true;
                self.readable.push_back(key);
            }
        }
        Ok(count == POLLER_EVENTS)
    }

    /// The next connection with something to read.
    pub(crate) fn next_readable(&mut self) -> Option<ConnectionKey> {
        let key = self.readable.pop_front()?;
        if let Some(connection) = self.slots.get_mut(key.index()) {
            connection.flags.readable = false;
        }
        Some(key)
    }

    /// Reads once. A connection that may have more is put back into the queue.
    pub(crate) fn read(&mut self, key: ConnectionKey, buffer: &mut [u8]) -> Received {
        let Some(connection) = self.slots.get_mut(key.index()) else { return Received::Nothing };
        let received = loop {
            match connection.socket.read(buffer) {
                Ok(0) => break Received::End,
                Ok(count) => break Received::Bytes(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Received::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_gone) => break Received::End,
            }
        };
        // A short read has emptied the socket, unless the end is behind it.
        let more = match received {
            Received::Bytes(count) => count == buffer.len() || connection.flags.peer_done,
            Received::Nothing | Received::End => false,
        };
        if more && !connection.flags.readable {
            connection.flags.readable = true;
            self.readable.push_back(key);
        }
        received
    }

    /// Lends out a connection's unfinished message; [`Self::return_unfinished`] gives it back.
    pub(crate) fn take_unfinished(&mut self, key: ConnectionKey) -> Option<Box<Unfinished>> {
        let unfinished = self.slots.get_mut(key.index())?.unfinished.take()?;
        self.unfinished_bytes -= unfinished.bytes();
        Some(unfinished)
    }

    pub(crate) fn return_unfinished(&mut self, key: ConnectionKey, rest: Option<Box<Unfinished>>) {
        let connection = self.slots.get_mut(key.index()).expect(IN_USE);
        self.unfinished_bytes += rest.as_ref().map_or(0, |rest| rest.bytes());
        connection.unfinished = rest;
    }

    /// The client's end was read. True if nothing is owed to it, so that it can be removed; if
    /// not, it goes when its last bytes are written.
    pub(crate) fn end(&mut self, key: ConnectionKey) -> bool {
        let connection = self.slots.get_mut(key.index()).expect(IN_USE);
        connection.flags.ended = true;
        connection.phase == Phase::HalfClosed || connection.outbox.is_empty()
    }

    /// Whether something of the client's is known to wait in the socket.
    pub(crate) fn has_input(&self, key: ConnectionKey) -> bool {
        self.slots.get(key.index()).is_some_and(|connection| connection.flags.readable)
    }
}
