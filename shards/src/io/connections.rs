//! The sockets of a shard: one poller, one record each, no task and no buffer for the idle.
//!
//! **Runs on**: a shard. **Owns**: sockets, outboxes, unfinished client messages, who is readable
//! and who must be written. **Never**: blocks; writes a socket twice a turn without need.
//!
//! Sockets are registered once, edge-triggered, for reading and writing. What is still ready when
//! a budget ends is kept in `readable` or the flush queues for the next turn.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::outbox::{Outbox, Pool, Written};
use crate::codec::websocket::{self, Unfinished};
use crate::frame::Frame;
use crate::id::{ConnectionKey, Tick};
use crate::limits::{FAN_OUT_FLUSHES_PER_TURN, POLLER_EVENTS};
use crate::message::Transport;
use crate::state::{Farewell, Outgoing, Urgency};

/// The token of the shard's own bell.
pub(crate) const BELL: Token = Token(usize::MAX);

/// One client socket.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    transport: Transport,
    phase: Phase,
    flags: Flags,
    outbox: Outbox,
    unfinished: Option<Box<Unfinished>>,
    /// When the outbox last was empty or got shorter.
    moved_at: Tick,
    /// When its newest timer fires; older ones are stale.
    timer_at: Tick,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In use.
    Open,
    /// Its last bytes are on their way out.
    Flushing,
    /// Everything is written and our side is shut; we wait for the client to go.
    Parting,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    /// In the `readable` queue.
    readable: bool,
    /// In the queue of those written in this turn.
    prompt: bool,
    /// In the queue of those written in slices; may be in both.
    fan_out: bool,
    /// The last write said the socket is full; the poller will tell when it is not.
    blocked: bool,
    /// The client has shut its side: read until the end.
    peer_done: bool,
}

impl Flags {
    /// Whether the connection must be put into `prompt`; notes that it is.
    const fn joins_prompt(&mut self) -> bool {
        !std::mem::replace(&mut self.prompt, true)
    }

    /// Whether the connection must be put into `fan_out`; notes that it is.
    const fn joins_fan_out(&mut self) -> bool {
        !self.prompt && !std::mem::replace(&mut self.fan_out, true)
    }
}

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

/// All sockets of a shard.
#[derive(Debug)]
pub(crate) struct Connections {
    poll: Poll,
    events: Events,
    slots: Slab<Connection>,
    pool: Pool,
    outbox_bytes_max: usize,
    readable: VecDeque<ConnectionKey>,
    prompt: VecDeque<ConnectionKey>,
    fan_out: VecDeque<ConnectionKey>,
    /// Connections whose socket failed; the worker buries them.
    broken: Vec<ConnectionKey>,
    /// Connections that began to close; the worker gives each a deadline.
    closing: Vec<ConnectionKey>,
    /// Bytes in `unfinished`, over all connections.
    pub(crate) unfinished_bytes: usize,
    /// Notifications taken but not written when their connection closed.
    pub(crate) discarded: u64,
    now: Tick,
}

impl Connections {
    pub(crate) fn new(poll: Poll, outbox_bytes_max: usize) -> Self {
        Self {
            poll,
            events: Events::with_capacity(POLLER_EVENTS),
            slots: Slab::new(),
            pool: Pool::default(),
            outbox_bytes_max,
            readable: VecDeque::new(),
            prompt: VecDeque::new(),
            fan_out: VecDeque::new(),
            broken: Vec::new(),
            closing: Vec::new(),
            unfinished_bytes: 0,
            discarded: 0,
            now: Tick::default(),
        }
    }

    pub(crate) const fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) const fn outbox_bytes(&self) -> usize {
        self.pool.bytes
    }

    pub(crate) const fn writes(&self) -> u64 {
        self.pool.writes
    }

    /// Whether there is work that no event will announce again.
    pub(crate) fn has_work(&self) -> bool {
        !(self.readable.is_empty()
            && self.prompt.is_empty()
            && self.fan_out.is_empty()
            && self.broken.is_empty()
            && self.closing.is_empty())
    }

    /// Registers a socket. On failure the socket is closed.
    pub(crate) fn adopt(
        &mut self,
        stream: std::net::TcpStream,
        transport: Transport,
    ) -> io::Result<ConnectionKey> {
        let mut stream = TcpStream::from_std(stream);
        let entry = self.slots.vacant_entry();
        let key = ConnectionKey::from_index(entry.key()).ok_or(io::ErrorKind::OutOfMemory)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(entry.key()), interest)?;
        entry.insert(Connection {
            stream,
            transport,
            phase: Phase::Open,
            flags: Flags::default(),
            outbox: Outbox::default(),
            unfinished: None,
            moved_at: self.now,
            timer_at: Tick(u32::MAX),
        });
        Ok(key)
    }

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
            let Some(key) = ConnectionKey::from_index(event.token().0) else { continue };
            connection.flags.peer_done |= event.is_read_closed() || event.is_error();
            if event.is_writable() {
                connection.flags.blocked = false;
                if !connection.outbox.is_empty() && connection.flags.joins_prompt() {
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

    pub(crate) fn transport(&self, key: ConnectionKey) -> Option<Transport> {
        self.slots.get(key.index()).map(|connection| connection.transport)
    }

    /// Whether the connection is in use (not closing).
    pub(crate) fn is_open(&self, key: ConnectionKey) -> bool {
        self.slots.get(key.index()).is_some_and(|connection| connection.phase == Phase::Open)
    }

    /// Reads once. A connection that may have more is put back into the queue.
    pub(crate) fn read(&mut self, key: ConnectionKey, buffer: &mut [u8]) -> Received {
        let Some(connection) = self.slots.get_mut(key.index()) else { return Received::Nothing };
        let received = loop {
            match connection.stream.read(buffer) {
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
        let Some(connection) = self.slots.get_mut(key.index()) else { return };
        self.unfinished_bytes += rest.as_ref().map_or(0, |rest| rest.bytes());
        connection.unfinished = rest;
    }

    /// Queues raw bytes whatever the bound: the response head, a pong, a close frame.
    pub(crate) fn push_bytes(&mut self, key: ConnectionKey, bytes: Box<[u8]>) {
        let Some(connection) = self.slots.get_mut(key.index()) else { return };
        let frame = Frame::raw(bytes);
        if connection.outbox.is_empty() {
            connection.moved_at = self.now;
        }
        self.pool.push(&mut connection.outbox, &frame, connection.transport);
        if connection.flags.joins_prompt() {
            self.prompt.push_back(key);
        }
    }

    /// Begins to close with these last bytes. A second call changes nothing.
    pub(crate) fn finish(&mut self, key: ConnectionKey, last: Option<Box<[u8]>>, flush: bool) {
        let Some(connection) = self.slots.get_mut(key.index()) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        connection.phase = Phase::Flushing;
        if !flush {
            self.discarded += self.pool.discard(&mut connection.outbox, connection.transport);
        }
        self.unfinished_bytes -= connection.unfinished.take().map_or(0, |rest| rest.bytes());
        self.closing.push(key);
        if let Some(last) = last {
            self.push_bytes(key, last);
        } else if let Some(connection) = self.slots.get_mut(key.index())
            && connection.flags.joins_prompt()
        {
            self.prompt.push_back(key);
        }
    }

    /// Writes the connections touched in this turn, each once: all replies, a slice of fan-outs.
    pub(crate) fn flush_touched(&mut self) {
        while let Some(key) = self.prompt.pop_front() {
            if let Some(connection) = self.slots.get_mut(key.index()) {
                connection.flags.prompt = false;
            }
            self.flush(key);
        }
        for _ in 0..FAN_OUT_FLUSHES_PER_TURN {
            let Some(key) = self.fan_out.pop_front() else { break };
            if let Some(connection) = self.slots.get_mut(key.index()) {
                connection.flags.fan_out = false;
            }
            self.flush(key);
        }
    }

    fn flush(&mut self, key: ConnectionKey) {
        let Some(connection) = self.slots.get_mut(key.index()) else { return };
        if connection.flags.blocked {
            return;
        }
        let before = connection.outbox.bytes();
        let Connection { outbox, transport, stream, .. } = connection;
        match self.pool.write(outbox, *transport, stream) {
            Ok(Written::All) => {
                connection.moved_at = self.now;
                if connection.phase == Phase::Flushing {
                    connection.phase = Phase::Parting;
                    // Its failure means the client has gone first.
                    let _gone = connection.stream.shutdown(Shutdown::Write);
                }
            }
            Ok(Written::Blocked) => {
                connection.flags.blocked = true;
                if connection.outbox.bytes() < before {
                    connection.moved_at = self.now;
                }
            }
            Err(_broken) => self.broken.push(key),
        }
    }

    /// Whether bytes have waited since `since` without one being taken.
    pub(crate) fn is_stalled(&self, key: ConnectionKey, since: Tick) -> bool {
        self.slots
            .get(key.index())
            .is_some_and(|connection| !connection.outbox.is_empty() && connection.moved_at <= since)
    }

    pub(crate) fn next_broken(&mut self) -> Option<ConnectionKey> {
        self.broken.pop()
    }

    pub(crate) fn next_closing(&mut self) -> Option<ConnectionKey> {
        self.closing.pop()
    }

    pub(crate) fn set_timer(&mut self, key: ConnectionKey, at: Tick) {
        if let Some(connection) = self.slots.get_mut(key.index()) {
            connection.timer_at = at;
        }
    }

    /// Whether a timer that fired is the connection's newest.
    pub(crate) fn is_timer_current(&self, key: ConnectionKey, at: Tick) -> bool {
        self.slots.get(key.index()).is_some_and(|connection| connection.timer_at == at)
    }

    /// Closes the socket and frees the key. False if it was free.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<Transport> {
        let mut connection = self.slots.try_remove(key.index())?;
        self.discarded += self.pool.clear(&mut connection.outbox);
        self.unfinished_bytes -= connection.unfinished.take().map_or(0, |rest| rest.bytes());
        // The kernel forgets a closed socket by itself; an error here has no consequence.
        let _closed = self.poll.registry().deregister(&mut connection.stream);
        Some(connection.transport)
    }

    /// All keys in use.
    pub(crate) fn keys(&self) -> Vec<ConnectionKey> {
        self.slots.iter().filter_map(|(index, _)| ConnectionKey::from_index(index)).collect()
    }
}

impl Outgoing for Connections {
    fn offer(&mut self, to: ConnectionKey, frame: &Rc<Frame>, urgency: Urgency) -> bool {
        let Some(connection) = self.slots.get_mut(to.index()) else { return false };
        if connection.phase != Phase::Open {
            return false;
        }
        let length = frame.bytes(connection.transport).len();
        let bytes_max = self.outbox_bytes_max;
        let fits = |outbox: &Outbox| outbox.is_empty() || outbox.bytes() + length <= bytes_max;
        if !fits(&connection.outbox) {
            // A burst within one turn is not a slow reader: let the socket take what it will.
            self.flush(to);
        }
        let Some(connection) = self.slots.get_mut(to.index()) else { return false };
        if !fits(&connection.outbox) {
            return false;
        }
        if connection.outbox.is_empty() {
            connection.moved_at = self.now;
        }
        self.pool.push(&mut connection.outbox, frame, connection.transport);
        // A blocked one is put into a queue by the poller, when its socket takes bytes again.
        if !connection.flags.blocked {
            match urgency {
                Urgency::Prompt if connection.flags.joins_prompt() => self.prompt.push_back(to),
                Urgency::FanOut if connection.flags.joins_fan_out() => self.fan_out.push_back(to),
                _ => {}
            }
        }
        true
    }

    fn close(&mut self, key: ConnectionKey, farewell: Farewell) {
        let last = match self.transport(key) {
            Some(Transport::WebSocket) => {
                Some(websocket::close_frame(Some(farewell.code), farewell.reason))
            }
            _ => None,
        };
        self.finish(key, last, farewell.flush);
    }
}

#[cfg(test)]
mod tests;
