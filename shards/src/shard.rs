//! A shard put together: state, sockets, timers and inbox, driven turn by turn.
//!
//! **Runs on**: its worker's thread. **Owns**: all four. **Never**: awaits, or reads a clock.

use std::io;
use std::sync::Arc;

use crate::base::id::{ConnectionKey, Tick};
use crate::base::limits::{
    BATCHED_PER_TURN, CONTROLS_PER_TURN, DELIVERIES_PER_TURN, FRAMES_PER_TURN, GOODBYES_PER_TURN,
    LINGER, Limits, POLLER_EVENTS, READ_BUFFER_BYTES, READS_PER_TURN, TIMERS_PER_TURN,
};
use crate::base::side_table::SideTable;
use crate::base::timer::Wheel;
use crate::io::connections::Connections;
use crate::link::inbox::{Inbox, Refused};
use crate::link::message::{Adoption, Control, Query, Reply, Report};
use crate::link::tokens::Tokens;
use crate::protocol::{Event, Protocol};
use crate::state::{Outgoing, State};
use crate::store::Recovered;
use drain::Draining;
use stall::Schedule;

mod drain;
mod listing;
mod receive;
mod stall;

/// When the turn after this one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextTurn {
    /// When the bell or the poller wakes the shard, or at this time.
    OnWake(Option<Tick>),
    /// At once: there is more to do.
    AtOnce,
    /// When the router has made room for reports: this turn was held, and has not done all.
    WhenReportsFit,
    /// Never: the thread ends.
    Never,
}

/// One shard.
pub(crate) struct Shard {
    state: State,
    connections: Connections,
    /// The connections' timers, in running time.
    wheel: Wheel<ConnectionKey>,
    inbox: Inbox,
    /// By connection, whose it is, where tenants are counted: the router is told when it is gone.
    tenants: SideTable<Arc<str>>,
    core: Option<usize>,
    buffer: Vec<u8>,
    fired: Vec<(ConnectionKey, Tick)>,
    draining: Option<Draining>,
    /// Where the next client to be sent away is looked for.
    send_away_from: usize,
    schedule: Schedule,
}

impl Shard {
    pub(crate) fn new(
        limits: Limits,
        now: Tick,
        connections: Connections,
        inbox: Inbox,
        core: Option<usize>,
    ) -> Self {
        let mut state = State::new(limits, fastrand::u64(..));
        state.begin_turn(now);
        Self {
            state,
            connections,
            wheel: Wheel::new(now),
            inbox,
            tenants: SideTable::default(),
            core,
            buffer: vec![0; READ_BUFFER_BYTES],
            fired: Vec::new(),
            draining: None,
            send_away_from: 0,
            schedule: Schedule::new(now),
        }
    }

    /// Has this read the tokens that clients show.
    pub(crate) fn set_tokens(&mut self, tokens: Arc<dyn Tokens>) {
        self.state.set_tokens(tokens);
    }

    /// Takes over what an earlier run has left on disk.
    pub(crate) fn restore(&mut self, recovered: Recovered) {
        self.state.restore(recovered);
    }

    /// Waits until what is kept on disk is there.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.state.take_store().close()
    }

    /// One turn: everything it does is bounded, and nothing in it waits.
    pub(crate) fn turn(&mut self, now: Tick) -> io::Result<NextTurn> {
        self.state.begin_turn(now);
        let has_stalled = self.notice_stall(now);
        let next = self.take_turn(has_stalled)?;
        self.schedule.plan(next, now);
        Ok(next)
    }

    fn take_turn(&mut self, has_stalled: bool) -> io::Result<NextTurn> {
        self.state.counters.turns += 1;
        self.connections.begin_turn(self.state.running());
        if !self.hand_over_reports() {
            return Ok(NextTurn::WhenReportsFit);
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
        self.handle_closing();
        for _ in 0..CONTROLS_PER_TURN {
            let Some(control) = self.inbox.next_control() else { break };
            match control {
                Control::Stop => return Ok(NextTurn::Never),
                other => self.handle_control(other),
            }
        }
        // A delivery may flush an outbox that it fills: what was reported so far goes first.
        if !self.hand_over_reports() {
            return Ok(NextTurn::WhenReportsFit);
        }
        self.take_deliveries();
        for _ in 0..READS_PER_TURN {
            let Some(key) = self.connections.next_readable() else { break };
            self.handle_readable(key);
        }
        self.fire_timers();
        self.continue_drain();
        if !self.hand_over_reports() {
            return Ok(NextTurn::WhenReportsFit);
        }
        while let Some(key) = self.connections.next_drained() {
            self.state.handle_room(key, &mut self.connections);
        }
        let more_messages = self.state.handle_deadlines(&mut self.connections)
            | self.state.poll_replays(&mut self.connections)
            | self.state.poll_store();
        self.state.store().check()?;
        if !self.hand_over_reports() {
            return Ok(NextTurn::WhenReportsFit);
        }
        self.connections.flush_touched();
        self.handle_closing();
        self.report_drained();
        let busy = more_events
            || more_messages
            || !self.fired.is_empty()
            || self.connections.has_work()
            || !self.inbox.is_empty();
        if busy || self.is_drain_busy() || !self.hand_over_reports() {
            return Ok(NextTurn::AtOnce);
        }
        let timer = self.wheel.next().map(|running| self.state.on_clock(running));
        let store = self.state.store().next_poll_at(self.state.now());
        let times = [timer, self.state.next_deadline(), store, self.grace_ends_at()];
        Ok(NextTurn::OnWake(times.into_iter().flatten().min()))
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

    fn handle_control(&mut self, control: Control) {
        match control {
            Control::Adopt(adoption) => self.adopt(*adoption),
            Control::Ask(query) => {
                let reply = self.reply(query);
                self.state.push_report(Report::Replied(reply));
            }
            Control::Limits(limits) => {
                self.connections.set_outbox_bytes_max(limits.outbox_bytes_per_connection_max);
                self.state.set_limits(*limits);
            }
            Control::Drain(order) => self.begin_drain(order),
            Control::Stop => panic!("a stop ends the turn where it is taken"),
        }
    }

    fn reply(&mut self, query: Query) -> Reply {
        let query = match query {
            Query::Connections { filter, from, shown_max, reply_to } => {
                let listing = self.list_connections(&filter, from, shown_max);
                return Reply::Connections(reply_to, listing);
            }
            Query::SendAway { count, order, reply_to } => {
                return Reply::Disconnected(reply_to, self.send_away(count, order));
            }
            query => query,
        };
        let mut reply = self.state.handle_query(query, &mut self.connections);
        if let Reply::Snapshot(_, snapshot) = &mut reply {
            snapshot.outbox_bytes = self.connections.outbox_bytes();
            snapshot.unfinished_bytes = self.connections.unfinished_bytes;
            snapshot.core = self.core;
            snapshot.counters.writes = self.connections.writes();
        }
        reply
    }

    fn adopt(&mut self, adoption: Adoption) {
        let protocol = adoption.protocol;
        let (client, peer) = (adoption.client, adoption.socket.peer());
        let counts_tenants = self.state.limits().tenants.is_some();
        let tenant = counts_tenants.then(|| Arc::clone(&client.tenant));
        let key = match self.connections.adopt(adoption.socket, protocol, adoption.connection_id) {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(%error, %peer, "a client socket could not be registered");
                return self.state.push_report(Report::Closed { protocol, tenant });
            }
        };
        if let Some(tenant) = &tenant {
            self.tenants.get_or_insert(key.0, || Arc::clone(tenant));
        }
        if self.draining.is_some() {
            return self.remove_connection(key);
        }
        while let Some(oldest) = self.state.oldest_to_replace(&client) {
            self.state.replace_connection(oldest, &mut self.connections);
        }
        let user = client.user.clone();
        let expiry = client.expiry.clone();
        let Ok(next) = self.state.handle_connect(key, client, protocol) else {
            self.connections.finish(key, Some(Box::from(&*adoption.refusal)), true);
            self.connections.release(key);
            self.report_closed(key, protocol);
            return;
        };
        if let Some(place) = self.tenants.get_mut(key.0)
            && let Some(shared) = self.state.tenant_of(key)
        {
            // The directory's name rather than one more for each connection.
            *place = shared;
        }
        self.connections.push_bytes(key, adoption.response_head);
        let expires_at = expiry.as_ref().map(|expiry| &*expiry.shown);
        let connection_id = adoption.connection_id;
        let hello = Event::Connected { connection_id, user_id: &user, expires_at };
        let is_told = self.connections.tell(key, &hello);
        assert!(is_told, "a connection that was just taken in has an empty outbox");
        self.arm(key, next);
        if protocol.is_two_way() {
            let mut leftover = adoption.leftover;
            self.decode(key, protocol, &mut leftover);
        }
    }

    fn arm(&mut self, key: ConnectionKey, at: Tick) {
        if at != Tick::NEVER {
            let due = self.wheel.arm(key, self.state.in_running_time(at));
            self.connections.set_timer(key, due);
        }
    }

    /// Takes deliveries until the turn's budget of deliveries or frames is used. A batch is finished
    /// beyond the first of them, so that it is flushed together, but not beyond the second.
    fn take_deliveries(&mut self) {
        let (mut taken, mut frames) = (0, 0);
        while frames < FRAMES_PER_TURN
            && (taken < DELIVERIES_PER_TURN
                || taken < BATCHED_PER_TURN && self.inbox.is_within_batch())
        {
            taken += 1;
            let Some(delivery) = self.inbox.next_delivery() else { return };
            let sent = self.state.handle_delivery(delivery, &mut self.connections);
            self.inbox.charge(sent);
            frames += sent as usize;
        }
    }

    fn fire_timers(&mut self) {
        let now = self.state.now();
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.expire(self.state.running(), &mut fired);
        // To close a connection costs many times what a heartbeat does, and tokens may all end at once.
        let mut goodbyes = 0;
        for (key, due) in fired.drain(..fired.len().min(TIMERS_PER_TURN)) {
            if !self.connections.is_timer_current(key, due) {
                continue;
            }
            if !self.connections.is_open(key) {
                match self.linger_until(key) {
                    Some(until) if until > now => self.arm(key, until),
                    // It had its time to answer and go.
                    _ => self.remove_connection(key),
                }
            } else if goodbyes == GOODBYES_PER_TURN {
                self.arm(key, now);
            } else if self.connections.has_input(key) {
                // What it has sent decides whether it is silent: look again when that is read.
                self.arm(key, now);
            } else if self.is_stalled(key) {
                self.state.close_slow_consumer(key, &mut self.connections);
            } else if let Some(next) = self.state.handle_timer(key, &mut self.connections) {
                self.arm(key, next);
            } else {
                goodbyes += 1;
            }
        }
        self.fired = fired;
    }

    /// Forgets a connection and closes its socket.
    fn remove_connection(&mut self, key: ConnectionKey) {
        let Some(removed) = self.connections.remove(key) else { return };
        self.state.handle_disconnect(key, removed.unsent);
        if let Some(protocol) = removed.counted {
            self.report_closed(key, protocol);
        }
    }

    /// Gives a connection's place in the admission counts back.
    fn report_closed(&mut self, key: ConnectionKey, protocol: Protocol) {
        let tenant = self.tenants.remove(key.0);
        self.state.push_report(Report::Closed { protocol, tenant });
    }

    /// Closes broken sockets and gives those that are closing their deadline.
    fn handle_closing(&mut self) {
        while let Some(key) = self.connections.next_broken() {
            self.remove_connection(key);
        }
        while let Some(key) = self.connections.next_closing() {
            let until = self.linger_until(key);
            self.arm(key, until.unwrap_or_else(|| self.state.now().after(LINGER)));
        }
    }
}

#[cfg(test)]
mod tests;
