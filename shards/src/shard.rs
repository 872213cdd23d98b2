//! A shard put together: state, sockets, timers and inbox, driven turn by turn.
//!
//! **Runs on**: its worker's thread. **Owns**: all four. **Never**: awaits, or reads a clock.

use std::collections::VecDeque;
use std::io;

use crate::base::id::{ConnectionKey, Tick};
use crate::base::limits::{
    CONTROLS_PER_TURN, DELIVERIES_PER_TURN, FAN_OUT_FLUSHES_PER_TURN, FRAMES_PER_TURN, LINGER,
    Limits, POLLER_EVENTS, READ_BUFFER_BYTES, READS_PER_TURN, STOP_LINGER, TIMERS_PER_TURN,
    UNFINISHED_BYTES_MAX,
};
use crate::base::timer::Wheel;
use crate::io::connections::{Connections, Received};
use crate::link::inbox::{Inbox, Refused};
use crate::link::message::{Adoption, Control, Drain, Query, Reply, Report, Transport};
use crate::outbound::Frame;
use crate::protocol::{Protocol, Sender};
use crate::state::{CloseReason, Outgoing, State, Urgency};
use crate::store::Recovered;
use crate::wire::websocket::{self, Event, Violation};
use stall::Schedule;

mod stall;

/// What the loop does after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Wait for the bell, the poller or this time.
    Idle(Option<Tick>),
    /// There is more to do at once.
    Again,
    /// The router must make room for reports first.
    Held,
    /// End the thread.
    Stop,
}

/// One shard.
pub(crate) struct Shard {
    state: State,
    connections: Connections,
    /// The connections' timers, in running time.
    wheel: Wheel<ConnectionKey>,
    inbox: Inbox,
    core: Option<usize>,
    limits: Limits,
    buffer: Vec<u8>,
    fired: Vec<(ConnectionKey, Tick)>,
    draining: Option<Leaving>,
    schedule: Schedule,
}

/// A drain under way.
struct Leaving {
    rest: VecDeque<ConnectionKey>,
    order: Drain,
    /// When it began, in running time.
    since: Tick,
    /// When its grace is over, in running time.
    until: Tick,
    reported: bool,
}

impl Shard {
    pub(crate) fn new(
        limits: Limits,
        now: Tick,
        connections: Connections,
        inbox: Inbox,
        core: Option<usize>,
    ) -> Self {
        Self {
            state: State::new(limits.clone(), fastrand::u64(..)),
            connections,
            wheel: Wheel::new(now),
            inbox,
            core,
            limits,
            buffer: vec![0; READ_BUFFER_BYTES],
            fired: Vec::new(),
            draining: None,
            schedule: Schedule::new(now),
        }
    }

    /// Takes over what an earlier run has left on disk.
    pub(crate) fn restore(&mut self, recovered: Recovered, now: Tick) {
        self.state.restore(recovered, now);
    }

    /// Waits until what is kept on disk is there.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.state.take_store().close()
    }

    /// One turn: everything it does is bounded, and nothing in it waits.
    pub(crate) fn turn(&mut self, conversation: &mut impl Protocol, now: Tick) -> io::Result<Flow> {
        let has_stalled = self.notice_stall(now);
        let flow = self.take_turn(conversation, now, has_stalled)?;
        self.schedule.plan(flow, now);
        Ok(flow)
    }

    fn take_turn(
        &mut self,
        conversation: &mut impl Protocol,
        now: Tick,
        has_stalled: bool,
    ) -> io::Result<Flow> {
        self.state.counters.turns += 1;
        self.connections.set_now(self.state.running(now));
        if !self.hand_over_reports() {
            return Ok(Flow::Held);
        }
        // The poller first: it swallows the bell's wake-up, and only a bell answered after that
        // rings again for what is sent from now on.
        let mut more_events = self.connections.poll_events()?;
        // After a stall, whoever spoke meanwhile must be known before anybody is judged.
        for _ in 0..if has_stalled { self.connections.len().div_ceil(POLLER_EVENTS) } else { 0 } {
            more_events = more_events && self.connections.poll_events()?;
        }
        self.inbox.answer_bell();
        // What a held turn has left: a key may be given away again only after that.
        self.bury(now);
        for _ in 0..CONTROLS_PER_TURN {
            let Some(control) = self.inbox.next_control() else { break };
            match control {
                Control::Stop => return Ok(Flow::Stop),
                other => self.handle_control(other, conversation, now),
            }
        }
        // A delivery may flush an outbox that it fills: what was reported so far goes first.
        if !self.hand_over_reports() {
            return Ok(Flow::Held);
        }
        self.take_deliveries(now);
        for _ in 0..READS_PER_TURN {
            let Some(key) = self.connections.next_readable() else { break };
            self.handle_readable(key, conversation, now);
        }
        self.fire_timers(now);
        self.send_some_away(now);
        if !self.hand_over_reports() {
            return Ok(Flow::Held);
        }
        while let Some(key) = self.connections.next_drained() {
            self.state.handle_room(key, &mut self.connections);
        }
        let more_messages = self.state.handle_deadlines(now, &mut self.connections)
            | self.state.poll_replays(now, &mut self.connections)
            | self.state.poll_store(now);
        self.state.store().check()?;
        if !self.hand_over_reports() {
            return Ok(Flow::Held);
        }
        self.connections.flush_touched();
        self.bury(now);
        self.report_drained();
        let busy = more_events
            || more_messages
            || !self.fired.is_empty()
            || self.connections.has_work()
            || !self.inbox.is_empty();
        let open = self.connections.len();
        let is_leaving = self.draining.as_ref().is_some_and(|leaving| leaving.is_busy(open));
        if busy || is_leaving || !self.hand_over_reports() {
            return Ok(Flow::Again);
        }
        let timer = self.wheel.next().map(|running| self.state.on_clock(running));
        let store = self.state.store().next_poll_at(now);
        let times = [timer, self.state.next_deadline(), store];
        Ok(Flow::Idle(times.into_iter().flatten().min()))
    }

    /// Gives the router every report there is; false if its lane is full.
    fn hand_over_reports(&mut self) -> bool {
        let mut sent = false;
        let mut room = true;
        while let Some(report) = self.state.poll_report() {
            match self.inbox.report(report) {
                Ok(()) => sent = true,
                Err(Refused(report)) => {
                    self.state.return_report(report);
                    room = false;
                    break;
                }
            }
        }
        if sent || !room {
            self.inbox.ring_router();
        }
        room
    }

    fn handle_control(&mut self, control: Control, talk: &mut impl Protocol, now: Tick) {
        match control {
            Control::Adopt(adoption) => self.adopt(*adoption, talk, now),
            Control::Ask { request, query } => {
                let reply = self.reply(&query, now);
                self.state.push_report(Report::Replied { request, reply });
            }
            Control::Drain(order) => {
                let rest = self.connections.keys().into();
                let since = self.state.running(now);
                let until = since.after(order.grace);
                // A timer of its own would be one more concept: any key serves as an alarm.
                self.wheel.arm(ConnectionKey(u32::MAX), until);
                self.draining = Some(Leaving { rest, order, since, until, reported: false });
            }
            Control::Stop => {}
        }
    }

    fn reply(&mut self, query: &Query, now: Tick) -> Reply {
        let mut reply = self.state.handle_query(query, now, &mut self.connections);
        if let Reply::Snapshot(snapshot) = &mut reply {
            snapshot.outbox_bytes = self.connections.outbox_bytes();
            snapshot.unfinished_bytes = self.connections.unfinished_bytes;
            snapshot.core = self.core;
            snapshot.counters.writes = self.connections.writes();
        }
        reply
    }

    fn adopt<C: Protocol>(&mut self, adoption: Adoption, talk: &mut C, now: Tick) {
        let transport = adoption.encoding.transport();
        let member = adoption.member;
        let key = match self.connections.adopt(adoption.stream, adoption.encoding) {
            Ok(key) if self.draining.is_none() => key,
            Ok(key) => return self.remove_connection(key),
            Err(error) => {
                tracing::warn!(%error, "a client socket could not be registered");
                return self.state.push_report(Report::Closed { transport });
            }
        };
        let user = member.user.clone();
        let Ok(next) = self.state.handle_connect(key, member, transport, now) else {
            self.connections.finish(key, Some(Box::from(&*adoption.refusal)), true);
            if let Some(transport) = self.connections.release(key) {
                self.state.push_report(Report::Closed { transport });
            }
            return;
        };
        self.connections.push_bytes(key, adoption.greeting);
        if C::GREETS {
            let hello = Frame::connected(adoption.connection_id, &user, transport);
            self.connections.offer(key, &hello, Urgency::Prompt);
        }
        self.arm(key, next);
        if transport == Transport::WebSocket {
            let mut leftover = adoption.leftover;
            self.decode(key, &mut leftover, talk, now);
        }
    }

    fn arm(&mut self, key: ConnectionKey, at: Tick) {
        if at < Tick(u32::MAX) {
            let due = self.wheel.arm(key, self.state.running(at));
            self.connections.set_timer(key, due);
        }
    }

    /// Takes deliveries until the turn's budget of messages or frames is used.
    fn take_deliveries(&mut self, now: Tick) {
        let mut frames = 0;
        for _ in 0..DELIVERIES_PER_TURN {
            if frames >= FRAMES_PER_TURN {
                return;
            }
            let Some(delivery) = self.inbox.next_delivery() else { return };
            frames += self.state.handle_delivery(delivery, now, &mut self.connections) as usize;
        }
    }

    fn handle_readable(&mut self, key: ConnectionKey, talk: &mut impl Protocol, now: Tick) {
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.connections.read(key, &mut buffer) {
            Received::Nothing => {}
            Received::End if self.connections.end(key) => self.remove_connection(key),
            Received::End => {
                // The client may only have shut its own side: it gets what it is owed.
                let flush = !self.state.keeps_messages();
                let unsent = self.connections.finish(key, None, flush);
                self.state.handle_disconnect(key, unsent);
            }
            Received::Bytes(count) => {
                let subscribes_to = self.connections.transport(key) == Some(Transport::WebSocket)
                    && self.connections.is_open(key);
                if let Some(bytes) = buffer.get_mut(..count).filter(|_| subscribes_to) {
                    self.decode(key, bytes, talk, now);
                }
            }
        }
        self.buffer = buffer;
    }

    /// Feeds a client's bytes to the codec and does what its messages ask.
    fn decode<C: Protocol>(
        &mut self,
        key: ConnectionKey,
        bytes: &mut [u8],
        talk: &mut C,
        now: Tick,
    ) {
        if bytes.is_empty() {
            return;
        }
        let mut unfinished = self.connections.take_unfinished(key);
        let (state, connections) = (&mut self.state, &mut self.connections);
        let mut heard = false;
        let from = Sender { key, now };
        let result =
            websocket::decode(bytes, &mut unfinished, self.limits.message_bytes_max, |event| {
                heard = true;
                match event {
                    Event::Text(text) => talk.text(from, text, state, connections),
                    Event::Binary(bytes) => talk.binary(from, bytes, state, connections),
                    Event::Ping(payload) => {
                        let pong = Frame::raw(websocket::pong_frame(payload));
                        if !connections.offer(key, &pong, Urgency::Prompt) {
                            state.close_slow_consumer(key, connections);
                        }
                    }
                    Event::Pong | Event::Fragment => {}
                    Event::Close(code) => {
                        let last = websocket::close_frame(code, "");
                        let flush = !state.keeps_messages();
                        let unsent = connections.finish(key, Some(last), flush);
                        state.handle_disconnect(key, unsent);
                    }
                }
                connections.is_open(key)
            });
        if heard {
            self.state.handle_frame_received(key, now);
        }
        if let Err(Violation { code, reason }) = result {
            self.state.counters.violations += 1;
            let reason = CloseReason { code, reason, flush: true };
            self.state.close_connection(key, reason, &mut self.connections);
        } else if unfinished.is_some() && self.connections.is_open(key) {
            self.connections.return_unfinished(key, unfinished);
            if self.connections.unfinished_bytes > UNFINISHED_BYTES_MAX {
                self.state.counters.overloads += 1;
                self.state.close_connection(key, CloseReason::OVERLOADED, &mut self.connections);
            }
        }
    }

    fn fire_timers(&mut self, now: Tick) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.expire(self.state.running(now), &mut fired);
        for (key, due) in fired.drain(..fired.len().min(TIMERS_PER_TURN)) {
            if !self.connections.is_timer_current(key, due) {
                continue;
            }
            if !self.connections.is_open(key) {
                match self.linger_until(key, now) {
                    Some(until) if until > now => self.arm(key, until),
                    // It had its time to answer and go.
                    _ => self.remove_connection(key),
                }
            } else if self.connections.has_input(key) {
                // What it has sent decides whether it is silent: look again when that is read.
                self.arm(key, now);
            } else if self.is_stalled(key, now) {
                self.state.close_slow_consumer(key, &mut self.connections);
            } else if let Some(next) = self.state.handle_timer(key, now, &mut self.connections) {
                self.arm(key, next);
            }
        }
        self.fired = fired;
    }

    /// Sends the next few clients away while draining, and cuts the rest when its time is over.
    fn send_some_away(&mut self, now: Tick) {
        let Some(mut leaving) = self.draining.take() else { return };
        for _ in 0..FAN_OUT_FLUSHES_PER_TURN {
            let Some(key) = leaving.rest.pop_front() else { break };
            if self.connections.is_open(key) {
                self.state.close_for_shutdown(key, leaving.order, &mut self.connections);
            } else {
                // It was leaving by itself: from now on it has no more time than the others.
                let until = self.state.on_clock(leaving.until);
                self.arm(key, now.after(STOP_LINGER).min(until));
            }
        }
        if self.state.running(now) >= leaving.until {
            for key in self.connections.keys() {
                self.remove_connection(key);
            }
        }
        self.draining = Some(leaving);
    }

    /// Says once that the last client has left.
    fn report_drained(&mut self) {
        if let Some(leaving) = &mut self.draining
            && !leaving.reported
            && self.connections.len() == 0
        {
            leaving.reported = true;
            self.state.push_report(Report::Drained);
        }
    }

    /// Forgets a connection and closes its socket.
    fn remove_connection(&mut self, key: ConnectionKey) {
        let Some(removed) = self.connections.remove(key) else { return };
        self.state.handle_disconnect(key, removed.unsent);
        if let Some(transport) = removed.counted {
            self.state.push_report(Report::Closed { transport });
        }
    }

    /// Closes broken sockets and gives those that are closing their deadline.
    fn bury(&mut self, now: Tick) {
        while let Some(key) = self.connections.next_broken() {
            self.remove_connection(key);
        }
        while let Some(key) = self.connections.next_closing() {
            let until = self.linger_until(key, now);
            self.arm(key, until.unwrap_or_else(|| now.after(LINGER)));
        }
    }

    /// How long a closing connection has, on a stop: while its client takes what it is owed, up to
    /// the end of the grace; then a moment to answer and go.
    fn linger_until(&self, key: ConnectionKey, now: Tick) -> Option<Tick> {
        let leaving = self.draining.as_ref()?;
        let moved_at = self.connections.moved_at(key).unwrap_or_else(|| self.state.running(now));
        let until = moved_at.max(leaving.since).after(STOP_LINGER).min(leaving.until);
        Some(self.state.on_clock(until))
    }
}

impl Leaving {
    /// Whether there is someone to send away, or the end to report.
    fn is_busy(&self, open: usize) -> bool {
        !self.rest.is_empty() || (open == 0 && !self.reported)
    }
}

#[cfg(test)]
mod tests;
