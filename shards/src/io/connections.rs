//! The sockets of a shard: one poller, one record each, no task and no buffer for the idle.
//!
//! **Runs on**: a shard. **Owns**: sockets, outboxes, unfinished client messages, who is readable
//! and who must be written. **Never**: blocks; writes a socket twice a turn without need.
//!
//! Sockets are registered once, edge-triggered, for reading and writing. What is still ready when
//! a budget ends is kept in `readable` or the flush queues for the next turn.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use mio::{Events, Poll, Token};
use slab::Slab;

mod receive;

use super::outbox::{Outbox, Pool, Written};
use crate::base::id::{ConnectionKey, NotificationId, Tick};
use crate::base::limits::{FAN_OUT_FLUSHES_PER_FAIR_TURN, FAN_OUT_FLUSHES_PER_TURN, POLLER_EVENTS};
use crate::base::socket::{PeerAddress, PolledSocket, Socket};
use crate::encoding::Encoding;
use crate::outbound::{EventMessages, OutboundMessage, Unsent};
use crate::protocol::{Event, Protocol};
use crate::state::{Outgoing, Urgency};
use crate::wire::close::CloseReason;
use crate::wire::websocket::Unfinished;

pub(crate) use receive::Received;

/// The token of the shard's own bell.
pub(crate) const BELL: Token = Token(usize::MAX);

/// Why a key is followed without a question. A key in one of the queues, or in a timer, may be of a
/// connection that has been removed meanwhile: there it is one.
const IN_USE: &str = "a key is used between its adoption and its removal";

/// One client socket.
#[derive(Debug)]
struct Connection {
    /// The socket, and the address of the client.
    socket: PolledSocket,
    protocol: Protocol,
    phase: Phase,
    flags: Flags,
    outbox: Outbox,
    unfinished: Option<Box<Unfinished>>,
    /// When the outbox last was empty or got shorter, in running time.
    moved_at: Tick,
    /// When its newest timer fires, in running time; older ones are stale.
    timer_at: Tick,
    /// Its public id, which also tells when it was made.
    id: NotificationId,
    /// Bytes the socket has taken.
    sent_bytes: u64,
}

// A million connections: every eight bytes here are eight megabytes. (A debug build's sockets also
// note which poller they are registered with.)
const _: () = assert!(cfg!(debug_assertions) || size_of::<Connection>() <= 96);

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In use.
    Open,
    /// Its last bytes are on their way out.
    Flushing,
    /// Everything is written and our direction is shut; we wait for the client to close the other.
    HalfClosed,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    /// In the `readable` queue.
    readable: bool,
    /// In the prompt flush queue.
    prompt: bool,
    /// In the fan-out flush queue.
    fan_out: bool,
    /// The last write said the socket is full; the poller will tell when it is not.
    blocked: bool,
    /// The client has shut its direction: read until the end.
    peer_done: bool,
    /// The client's end was read while our last bytes were on their way.
    ended: bool,
    /// Its place in the admission count has been given back already.
    released: bool,
    /// Somebody waits for its outbox to be empty.
    watched: bool,
}

/// What the sockets know of a connection in a list.
#[derive(Debug)]
pub(crate) struct SocketView {
    pub(crate) id: NotificationId,
    pub(crate) sent_bytes: u64,
    pub(crate) outbox_bytes: usize,
    pub(crate) peer: PeerAddress,
}

/// What a connection leaves behind.
#[derive(Debug)]
pub(crate) struct Removed {
    /// The protocol under which it is still counted as admitted.
    pub(crate) counted: Option<Protocol>,
    /// Notifications it had not written.
    pub(crate) unsent: Vec<Unsent>,
}

/// All sockets of a shard.
#[derive(Debug)]
pub(crate) struct Connections {
    poll: Poll,
    events: Events,
    slots: Slab<Connection>,
    pool: Pool,
    event_messages: EventMessages,
    outbox_bytes_max: usize,
    fan_out_flushes_per_turn: usize,
    readable: VecDeque<ConnectionKey>,
    prompt: VecDeque<ConnectionKey>,
    fan_out: VecDeque<ConnectionKey>,
    /// Connections whose socket failed; the shard removes them.
    broken: Vec<ConnectionKey>,
    /// Connections that began to close; the shard gives each a deadline.
    closing: Vec<ConnectionKey>,
    /// Bytes in `unfinished`, over all connections.
    pub(crate) unfinished_bytes: usize,
    /// Watched connections whose outbox is empty again.
    drained: Vec<ConnectionKey>,
    /// The time of the turn, in running time.
    now: Tick,
}

impl Connections {
    /// With `fair_turns` a wide fan-out holds up less of what comes after it.
    pub(crate) fn new(poll: Poll, outbox_bytes_max: usize, fair_turns: bool) -> Self {
        let (usual, fair) = (FAN_OUT_FLUSHES_PER_TURN, FAN_OUT_FLUSHES_PER_FAIR_TURN);
        Self {
            poll,
            events: Events::with_capacity(POLLER_EVENTS),
            slots: Slab::new(),
            pool: Pool::default(),
            event_messages: EventMessages::default(),
            outbox_bytes_max,
            fan_out_flushes_per_turn: if fair_turns { fair } else { usual },
            readable: VecDeque::new(),
            prompt: VecDeque::new(),
            fan_out: VecDeque::new(),
            broken: Vec::new(),
            closing: Vec::new(),
            unfinished_bytes: 0,
            drained: Vec::new(),
            now: Tick::default(),
        }
    }

    /// Another bound on what waits for each connection. What waits already goes on waiting.
    pub(crate) const fn set_outbox_bytes_max(&mut self, outbox_bytes_max: usize) {
        self.outbox_bytes_max = outbox_bytes_max;
    }

    /// All that follows happens at this time, in running time, until the next turn begins.
    pub(crate) const fn begin_turn(&mut self, now: Tick) {
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
            && self.closing.is_empty()
            && self.drained.is_empty())
    }

    /// Registers a socket. On failure the socket is closed.
    pub(crate) fn adopt(
        &mut self,
        socket: Socket,
        protocol: Protocol,
        id: NotificationId,
    ) -> io::Result<ConnectionKey> {
        let entry = self.slots.vacant_entry();
        let key = ConnectionKey::from_index(entry.key()).ok_or(io::ErrorKind::OutOfMemory)?;
        let socket = socket.register(self.poll.registry(), Token(entry.key()))?;
        entry.insert(Connection {
            socket,
            protocol,
            phase: Phase::Open,
            flags: Flags::default(),
            outbox: Outbox::default(),
            unfinished: None,
            moved_at: self.now,
            timer_at: Tick::NEVER,
            id,
            sent_bytes: 0,
        });
        Ok(key)
    }

    pub(crate) fn protocol(&self, key: ConnectionKey) -> Option<Protocol> {
        self.slots.get(key.index()).map(|connection| connection.protocol)
    }

    /// What is known of a connection; `None` if it is leaving or gone.
    pub(crate) fn describe(&self, key: ConnectionKey) -> Option<SocketView> {
        let connection = self.slots.get(key.index())?;
        (connection.phase == Phase::Open).then(|| SocketView {
            id: connection.id,
            sent_bytes: connection.sent_bytes,
            outbox_bytes: connection.outbox.bytes(),
            peer: connection.socket.peer(),
        })
    }

    /// Whether the connection has not been removed yet.
    pub(crate) fn contains(&self, key: ConnectionKey) -> bool {
        self.slots.contains(key.index())
    }

    /// Whether the connection is in use (not closing).
    pub(crate) fn is_open(&self, key: ConnectionKey) -> bool {
        self.slots.get(key.index()).is_some_and(|connection| connection.phase == Phase::Open)
    }

    /// Queues raw bytes whatever the bound: the response head, a pong, a close frame.
    pub(crate) fn push_bytes(&mut self, key: ConnectionKey, bytes: Box<[u8]>) {
        let length = bytes.len();
        self.enqueue(key, &OutboundMessage::raw(bytes), length, Urgency::Prompt);
    }

    /// Appends a frame of so many bytes and sees to it that it is written.
    fn enqueue(
        &mut self,
        key: ConnectionKey,
        frame: &Rc<OutboundMessage>,
        bytes: usize,
        urgency: Urgency,
    ) {
        let connection = self.slots.get_mut(key.index()).expect(IN_USE);
        if connection.outbox.is_empty() {
            connection.moved_at = self.now;
        }
        self.pool.push(&mut connection.outbox, frame, bytes);
        self.touch(key, urgency);
    }

    /// Puts a connection into a flush queue. A prompt one is written in this turn, even if it is
    /// waiting for its place in a fan-out already; what it finds there later is nothing to write.
    fn touch(&mut self, key: ConnectionKey, urgency: Urgency) {
        let connection = self.slots.get_mut(key.index()).expect(IN_USE);
        let flags = &mut connection.flags;
        if flags.blocked || flags.prompt {
            return;
        }
        match urgency {
            Urgency::Prompt => {
                flags.prompt = true;
                self.prompt.push_back(key);
            }
            Urgency::FanOut if !flags.fan_out => {
                flags.fan_out = true;
                self.fan_out.push_back(key);
            }
            Urgency::FanOut => {}
        }
    }

    /// Begins to close with these last bytes. A second call changes nothing.
    /// Without `flush`, notifications that are not written are given back.
    pub(crate) fn finish(
        &mut self,
        key: ConnectionKey,
        last: Option<Box<[u8]>>,
        flush: bool,
    ) -> Vec<Unsent> {
        let mut unsent = Vec::new();
        let connection = self.slots.get_mut(key.index()).expect(IN_USE);
        if connection.phase != Phase::Open {
            return unsent;
        }
        connection.phase = Phase::Flushing;
        // The timer that was armed while it was open must not cut the rest of its writing short.
        connection.timer_at = Tick::NEVER;
        if !flush {
            self.pool.discard(&mut connection.outbox, connection.protocol.encoding(), &mut unsent);
        }
        self.unfinished_bytes -= connection.unfinished.take().map_or(0, |rest| rest.bytes());
        self.closing.push(key);
        match last {
            Some(last) => self.push_bytes(key, last),
            None => self.touch(key, Urgency::Prompt),
        }
        unsent
    }

    /// Writes the connections touched in this turn, each once: all replies, a slice of fan-outs.
    pub(crate) fn flush_touched(&mut self) {
        while let Some(key) = self.prompt.pop_front() {
            if let Some(connection) = self.slots.get_mut(key.index()) {
                connection.flags.prompt = false;
            }
            self.flush(key);
        }
        for _ in 0..self.fan_out_flushes_per_turn {
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
        let Connection { outbox, protocol, socket, .. } = connection;
        let written = self.pool.write(outbox, protocol.encoding(), socket);
        connection.sent_bytes += (before - connection.outbox.bytes()) as u64;
        match written {
            Ok(Written::All) => {
                connection.moved_at = self.now;
                if connection.flags.watched {
                    connection.flags.watched = false;
                    self.drained.push(key);
                }
                if connection.phase == Phase::Flushing {
                    connection.phase = Phase::HalfClosed;
                    // Its failure means the client has gone first.
                    let _gone = connection.socket.shutdown_write();
                    if connection.flags.ended {
                        self.broken.push(key);
                    }
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

    /// Whether bytes have waited since `since` without one being taken. What waits for its turn
    /// with us, before the socket has refused it, is not the reader's fault.
    pub(crate) fn is_stalled(&self, key: ConnectionKey, since: Tick) -> bool {
        self.slots.get(key.index()).is_some_and(|connection| {
            let is_refused = connection.flags.blocked && !connection.outbox.is_empty();
            is_refused && connection.moved_at <= since
        })
    }

    /// When the client last took bytes of ours, or was last owed none.
    pub(crate) fn moved_at(&self, key: ConnectionKey) -> Tick {
        self.slots.get(key.index()).expect(IN_USE).moved_at
    }

    pub(crate) fn next_broken(&mut self) -> Option<ConnectionKey> {
        self.broken.pop()
    }

    pub(crate) fn next_closing(&mut self) -> Option<ConnectionKey> {
        // One that broke while it was closing has been removed already.
        let slots = &self.slots;
        std::iter::from_fn(|| self.closing.pop()).find(|key| slots.contains(key.index()))
    }

    pub(crate) fn set_timer(&mut self, key: ConnectionKey, at: Tick) {
        self.slots.get_mut(key.index()).expect(IN_USE).timer_at = at;
    }

    /// Whether a timer that fired is the connection's newest.
    pub(crate) fn is_timer_current(&self, key: ConnectionKey, at: Tick) -> bool {
        self.slots.get(key.index()).is_some_and(|connection| connection.timer_at == at)
    }

    /// Gives the place in the admission count back before the socket is closed.
    pub(crate) fn release(&mut self, key: ConnectionKey) {
        self.slots.get_mut(key.index()).expect(IN_USE).flags.released = true;
    }

    /// Closes the socket and frees the key. `None` if it was free.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<Removed> {
        let mut connection = self.slots.try_remove(key.index())?;
        let mut unsent = Vec::new();
        self.pool.clear(&mut connection.outbox, &mut unsent);
        self.unfinished_bytes -= connection.unfinished.take().map_or(0, |rest| rest.bytes());
        // The kernel forgets a closed socket by itself; an error here has no consequence.
        let _closed = connection.socket.deregister(self.poll.registry());
        let counted = (!connection.flags.released).then_some(connection.protocol);
        Some(Removed { counted, unsent })
    }

    /// The next connection whose outbox was watched and has room again.
    pub(crate) fn next_drained(&mut self) -> Option<ConnectionKey> {
        self.drained.pop()
    }

    /// All keys in use.
    pub(crate) fn keys(&self) -> Vec<ConnectionKey> {
        self.slots
            .iter()
            .map(|(index, _)| ConnectionKey::from_index(index).expect(IN_USE))
            .collect()
    }
}

impl Outgoing for Connections {
    fn tell(&mut self, to: ConnectionKey, event: &Event<'_>) -> bool {
        let Some(connection) = self.slots.get(to.index()) else { return false };
        let protocol = connection.protocol;
        let frame = self.event_messages.frame(protocol, event);
        frame.is_none_or(|frame| self.offer(to, &frame, Urgency::Prompt))
    }

    fn offer(&mut self, to: ConnectionKey, frame: &Rc<OutboundMessage>, urgency: Urgency) -> bool {
        let Some(connection) = self.slots.get_mut(to.index()) else { return false };
        if connection.phase != Phase::Open {
            return false;
        }
        let length = frame.bytes(connection.protocol.encoding()).len();
        let bytes_max = self.outbox_bytes_max;
        let fits = |outbox: &Outbox| outbox.is_empty() || outbox.bytes() + length <= bytes_max;
        if !fits(&connection.outbox) {
            if !frame.is_notification() {
                // Replies may go beyond the bound, by what one read can ask for, until the turn's
                // flush has shown whether the client reads: a flush now could overtake reports.
                let may = !connection.flags.blocked;
                if may {
                    self.enqueue(to, frame, length, urgency);
                }
                return may;
            }
            // A burst within one turn is not a slow reader: let the socket take what it will.
            self.flush(to);
        }
        let Some(connection) = self.slots.get_mut(to.index()) else { return false };
        if !fits(&connection.outbox) {
            return false;
        }
        self.enqueue(to, frame, length, urgency);
        true
    }

    fn encoding(&self, key: ConnectionKey) -> Option<Encoding> {
        self.protocol(key).map(Protocol::encoding)
    }

    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize> {
        let connection = self.slots.get(key.index())?;
        (connection.phase == Phase::Open).then(|| connection.outbox.bytes())
    }

    fn watch(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.slots.get_mut(key.index()) {
            connection.flags.watched = true;
        }
    }

    fn close(&mut self, key: ConnectionKey, reason: CloseReason<'_>) -> Vec<Unsent> {
        let connection = self.slots.get(key.index());
        let last = connection.and_then(|connection| connection.protocol.close(reason));
        self.finish(key, last, reason.flush)
    }
}

#[cfg(test)]
mod tests;
