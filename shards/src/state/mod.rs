//! A shard's users, sessions and channels: what a message means, without sockets and clocks.
//!
//! **Runs on**: its shard; in tests, virtual time. **Owns**: every index of the shard.
//! **Never**: does I/O, reads a clock, awaits, or knows how bytes look on a wire.
//!
//! Inputs are `handle_*`; what they cause goes to an [`Outgoing`] at once (frames, closes) or
//! waits in `reports` until the worker has handed it to the router.

pub mod directory;
pub mod flights;
pub mod mailbox;
pub mod session;
pub mod subscriptions;
pub mod timer;
pub mod waiting;

mod channels;
mod delivery;
mod keeping;
mod post;
mod question;
mod recent;
mod replay;
mod running;
mod settle;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::codec::dialect::{ClientMessage, ServerMessage, is_channel_name, parse_id};
use crate::codec::websocket;
use crate::frame::{Frame, Unsent};
use crate::id::{ConnectionKey, Tick};
use crate::limits::Limits;
use crate::message::{Drain, Listens, Member, Report, Transport};
use crate::meter::Meter;
use crate::vault::Vault;
use directory::Directory;
use flights::Flights;
use mailbox::Letter;
use recent::Recent;
use running::RunningTime;
use session::{Contact, Grants, Session};
use timer::Wheel;
use waiting::Waiting;

/// Where frames go and connections end: the sockets, or a model of them in tests.
pub trait Outgoing {
    /// Puts a frame into a connection's outbox; false if it is full or the connection is leaving.
    /// `urgency` says what is flushed first.
    fn offer(&mut self, to: ConnectionKey, frame: &Rc<Frame>, urgency: Urgency) -> bool;

    /// Bytes waiting for a connection; `None` if it is leaving or gone.
    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize>;

    /// Asks to be told (by `State::handle_room`) when nothing waits for a connection any more.
    fn watch(&mut self, key: ConnectionKey);

    /// Begins to close a connection; gives back the notifications that will not be written.
    fn close(&mut self, key: ConnectionKey, farewell: Farewell) -> Vec<Unsent>;
}

/// The order in which touched connections are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Replies, and notifications to few: written in the same turn.
    Prompt,
    /// A wide fan-out: written in slices, between other work.
    FanOut,
}

/// Why a connection is closed by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// The WebSocket close code.
    pub code: u16,
    /// A short reason.
    pub reason: &'static str,
    /// Whether what waits unwritten is still written first.
    pub flush: bool,
}

impl Farewell {
    /// Its outbox was full, or did not move for the connection timeout.
    pub const SLOW_CONSUMER: Self =
        Self { code: 4429, reason: "slow consumer: outbox full", flush: false };
    /// A ping of ours stayed unanswered, and no other frame came, for the connection timeout.
    pub const SILENT: Self = Self { code: 4408, reason: "no frame from the client", flush: true };
    /// The gateway stops.
    pub const SHUTDOWN: Self = Self { code: 1001, reason: "server shutting down", flush: true };
    /// The shard holds too many unfinished client messages.
    pub const OVERLOADED: Self = Self { code: 1013, reason: "overloaded, try later", flush: true };
}

/// A member was not taken in: it has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyConnections;

/// The shard's state.
#[derive(Debug)]
pub struct State {
    pub(crate) limits: Limits,
    pub(crate) directory: Directory,
    pub(crate) meter: Meter,
    reports: VecDeque<Report>,
    /// The time of the turn.
    now: Tick,
    /// What peers are measured by.
    running: RunningTime,
    heartbeats: [Rc<Frame>; 2],
    /// Asks a quiet client whether it is there, where no heartbeat does.
    ping: Rc<Frame>,
    random: fastrand::Rng,
    /// Letters on their way to be acknowledged.
    pub(crate) flights: Flights,
    /// Where letters are kept on disk; `None` = in memory only.
    pub(crate) vault: Option<Box<Vault>>,
    /// Users whose replay goes on in the next turn.
    replays: VecDeque<u32>,
    /// When letters expire, by user.
    expiries: Wheel,
    /// Users some of whose letters have expired, and when that was due.
    expiring: VecDeque<(u32, Tick)>,
    /// Letters that were cleared: their records are to be released.
    cleared: VecDeque<Waiting>,
    /// Users one of whose connections has left: the others may have written all they had.
    looks: Vec<u32>,
    /// The order in which deliveries were taken; 0 is never used.
    sequence: u64,
    /// Where in that order the last ones stood.
    recent: Recent,
    /// Scratch: connections whose outbox refused a frame of the current delivery.
    refused: Vec<ConnectionKey>,
    /// Scratch: connections that are told something.
    told: Vec<ConnectionKey>,
    /// Scratch: letters that end together.
    ending: Vec<Letter>,
    /// Scratch: one bit a connection, for deliveries over several channels.
    seen: Vec<u64>,
}

impl State {
    /// An empty state. `seed` drives the jitter, so that a test can repeat itself.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            directory: Directory::default(),
            meter: Meter::default(),
            reports: VecDeque::new(),
            now: Tick::default(),
            running: RunningTime::default(),
            ping: Frame::raw(websocket::ping_frame()),
            heartbeats: [Transport::WebSocket, Transport::Sse].map(Frame::heartbeat),
            random: fastrand::Rng::with_seed(seed),
            flights: Flights::default(),
            vault: None,
            replays: VecDeque::new(),
            expiries: Wheel::new(Tick::default()),
            expiring: VecDeque::new(),
            cleared: VecDeque::new(),
            looks: Vec::new(),
            sequence: 0,
            recent: Recent::default(),
            refused: Vec::new(),
            told: Vec::new(),
            ending: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Takes a client in under a key the caller has chosen. Its timer must be armed at the result.
    pub fn handle_connect(
        &mut self,
        key: ConnectionKey,
        member: Member,
        transport: Transport,
        now: Tick,
    ) -> Result<Tick, TooManyConnections> {
        let most = self.limits.connections_per_user_max;
        if most != 0 && self.directory.connections_of(&member) >= most {
            self.meter.connections_refused += 1;
            return Err(TooManyConnections);
        }
        let grants = Grants::new(member.roles.clone(), member.grants.clone());
        let came_at = self.running.of(now);
        let beat_at = came_at.after(self.heartbeat_delay());
        let mut session = Session::new(transport, grants, came_at, beat_at);
        session.hears_settled = member.hears_settled;
        let next = self.next_check(&session);
        self.directory.join(key, &member, session);
        match member.listens {
            Listens::Nothing => {}
            Listens::Channels(names) => {
                for name in &names {
                    let _outcome = self.subscribe(key, name);
                }
            }
            Listens::Everything => {
                if let Some(interest) = self.directory.listen_to_all(key) {
                    self.reports.push_back(interest);
                }
            }
        }
        self.meter.connections_opened += 1;
        if let Some(session) = self.directory.session(key) {
            self.begin_replay(session.home.user, member.seen);
        }
        Ok(next)
    }

    /// Forgets a connection; nothing of it stays in any index. What it had not written goes back
    /// to its user's queue. Unknown keys are ignored.
    pub fn handle_disconnect(&mut self, key: ConnectionKey, unsent: Vec<Unsent>) {
        self.take_back(key, unsent);
        if self.directory.leave(key, &mut self.reports) {
            self.meter.connections_closed += 1;
        }
    }

    /// A frame of any kind came from the client.
    pub fn handle_heard(&mut self, key: ConnectionKey, now: Tick) {
        let heard_at = self.running.of(now);
        if let Some(session) = self.directory.session_mut(key) {
            session.contact = Contact::Heard(heard_at);
        }
    }

    /// The shard did not run for so long, so that nobody could be heard: no peer's time went by.
    pub const fn handle_stall(&mut self, ticks: u32) {
        self.running.lose(ticks);
    }

    /// A moment in running time, by which peers are measured.
    #[must_use]
    pub const fn running(&self, now: Tick) -> Tick {
        self.running.of(now)
    }

    /// When the clock shows a moment of running time, if the shard runs until then.
    #[must_use]
    pub const fn on_clock(&self, running: Tick) -> Tick {
        self.running.on_clock(running)
    }

    /// Does what a client message asks and offers the answer.
    pub fn handle_message(
        &mut self,
        key: ConnectionKey,
        message: Result<ClientMessage<'_>, String>,
        now: Tick,
        out: &mut impl Outgoing,
    ) {
        self.now = now;
        self.meter.messages_received += 1;
        match message {
            Ok(ClientMessage::Ping) => self.reply(key, &ServerMessage::Pong, out),
            Ok(ClientMessage::Subscribe(names)) => self.handle_subscribe(key, names, out),
            Ok(ClientMessage::Unsubscribe(mut names)) => {
                names.retain(|name| is_channel_name(name));
                for name in &names {
                    self.directory.unsubscribe(key, name, &mut self.reports);
                }
                self.reply(key, &ServerMessage::Unsubscribed { payload: &names }, out);
            }
            Ok(ClientMessage::Ack(id)) => self.handle_ack(key, &id, out),
            Err(sentence) => self.refuse(key, "INVALID_MESSAGE", &sentence, out),
        }
    }

    fn handle_ack(&mut self, key: ConnectionKey, id: &str, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let user = session.home.user;
        let id = parse_id(id);
        let Some(id) = id.filter(|id| self.settle(user, *id)) else {
            return self.refuse(key, "ACK_UNKNOWN", "no such notification awaits your Ack", out);
        };
        self.tell_settled(user, id, Some(key), out);
        self.reply(key, &ServerMessage::Acked { notification_id: id.to_string() }, out);
    }

    fn handle_subscribe(
        &mut self,
        key: ConnectionKey,
        mut names: Vec<Cow<'_, str>>,
        out: &mut impl Outgoing,
    ) {
        let mut refusals: Vec<(SubscribeRefusal, String)> = Vec::new();
        names.retain(|name| match self.subscribe(key, name) {
            Ok(()) => true,
            Err(refusal) => {
                if !refusals.iter().any(|(known, _)| *known == refusal) {
                    refusals.push((refusal, name.chars().take(64).collect()));
                }
                false
            }
        });
        if !names.is_empty() || refusals.is_empty() {
            self.reply(key, &ServerMessage::Subscribed { payload: &names }, out);
        }
        for (refusal, name) in refusals {
            let (code, message) = refusal.describe(&name, &self.limits);
            self.refuse(key, code, &message, out);
        }
    }

    fn subscribe(&mut self, key: ConnectionKey, name: &str) -> Result<(), SubscribeRefusal> {
        if !is_channel_name(name) {
            return Err(SubscribeRefusal::InvalidName);
        }
        let Some(session) = self.directory.session(key) else { return Ok(()) };
        if !session.may_hear(name) {
            return Err(SubscribeRefusal::Forbidden);
        }
        if self.directory.is_subscribed(session, name) {
            return Ok(());
        }
        let most = self.limits.subscriptions_per_connection_max;
        if most != 0 && session.subscriptions.len() >= most {
            return Err(SubscribeRefusal::Limit);
        }
        if let Some(interest) = self.directory.subscribe(key, name) {
            self.reports.push_back(interest);
        }
        Ok(())
    }

    /// A connection's timer fired: heartbeat, ping, 4408, or nothing yet. Returns when to look
    /// again; `None` if the connection is gone or leaves now.
    pub fn handle_timer(
        &mut self,
        key: ConnectionKey,
        now: Tick,
        out: &mut impl Outgoing,
    ) -> Option<Tick> {
        self.now = now;
        let running = self.running.of(now);
        let session = self.directory.session(key)?;
        if self.silent_at(session).is_some_and(|at| running >= at) {
            // A ping that waits behind other bytes has not been asked yet. Whether those are
            // taken at all is for the outbox to judge.
            if out.backlog_bytes(key).is_none_or(|bytes| bytes == 0) {
                self.meter.timeouts += 1;
                self.dismiss(key, Farewell::SILENT, out);
                return None;
            }
            self.directory.session_mut(key)?.contact = Contact::Pinged(running);
        }
        let session = self.directory.session(key)?;
        let transport = session.transport;
        let is_beat_due = !self.limits.heartbeat_interval.is_zero() && session.beat_at <= running;
        let is_probe_due = self.probe_at(session).is_some_and(|at| running >= at);
        if is_beat_due || is_probe_due {
            let next_beat = is_beat_due.then(|| running.after(self.heartbeat_delay()));
            let [websocket, sse] = &self.heartbeats;
            let frame = match transport {
                _ if !is_beat_due => &self.ping,
                Transport::WebSocket => websocket,
                Transport::Sse => sse,
            };
            let taken = out.offer(key, frame, Urgency::Prompt);
            let session = self.directory.session_mut(key)?;
            session.beat_at = next_beat.unwrap_or(session.beat_at);
            if let Contact::Heard(_) = session.contact {
                session.contact = Contact::Pinged(running);
            }
            if !taken {
                self.dismiss_slow(key, out);
                return None;
            }
            self.meter.heartbeats += u64::from(is_beat_due);
        }
        self.directory.session(key).map(|session| self.next_check(session))
    }

    /// Sends a client away as too slow, and counts it.
    pub fn dismiss_slow(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        self.meter.slow_consumers += 1;
        self.dismiss(key, Farewell::SLOW_CONSUMER, out);
    }

    /// Begins to close a connection and forgets it. Where letters are kept, what it has not read
    /// goes back to the queue now: later nobody knows whose it was. On a stop it is still written:
    /// a queue in memory ends with it, and on disk it is kept until it is known to be written.
    pub fn dismiss(&mut self, key: ConnectionKey, farewell: Farewell, out: &mut impl Outgoing) {
        let flush = farewell.flush && (!self.keeps_letters() || farewell == Farewell::SHUTDOWN);
        let farewell = Farewell { flush, ..farewell };
        if farewell == Farewell::SHUTDOWN {
            self.leave_unwritten(key);
        }
        let unsent = out.close(key, farewell);
        self.handle_disconnect(key, unsent);
    }

    /// Whether what was not written is kept for later.
    #[must_use]
    pub const fn keeps_letters(&self) -> bool {
        self.limits.queue.is_some() || self.limits.ack.is_some()
    }

    /// Tells a client to go and come back later, each after a delay of its own.
    pub fn send_away(&mut self, key: ConnectionKey, order: Drain, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let in_window_ms = self.random.u32(0..ms(order.reconnect_window).max(1));
        let delay_ms = ms(order.return_after).saturating_add(in_window_ms);
        let frame = Frame::shutdown(session.transport, delay_ms);
        // A full outbox: the client is closed all the same and uses its own delay.
        let _taken = out.offer(key, &frame, Urgency::Prompt);
        self.dismiss(key, Farewell::SHUTDOWN, out);
    }

    /// The oldest report that has not been handed over.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Puts back a report the lane had no room for.
    pub fn return_report(&mut self, report: Report) {
        self.reports.push_front(report);
    }

    /// Adds a report of the worker's own, in order with the state's.
    pub fn push_report(&mut self, report: Report) {
        self.reports.push_back(report);
    }

    fn reply(&mut self, key: ConnectionKey, message: &ServerMessage<'_>, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let frame = Frame::message(message, session.transport);
        if !out.offer(key, &frame, Urgency::Prompt) {
            self.dismiss_slow(key, out);
        }
    }

    fn refuse(
        &mut self,
        key: ConnectionKey,
        code: &'static str,
        message: &str,
        out: &mut impl Outgoing,
    ) {
        self.meter.messages_refused += 1;
        self.reply(key, &ServerMessage::Error { code, message }, out);
    }

    /// The interval ± 20 %, so that connections which came together do not beat together.
    fn heartbeat_delay(&mut self) -> Duration {
        self.limits.heartbeat_interval.mul_f64(0.8 + 0.4 * self.random.f64())
    }

    /// Whether clients of this kind are judged by their silence: an SSE client cannot speak.
    fn is_judged(&self, session: &Session) -> bool {
        session.transport == Transport::WebSocket && !self.limits.connection_timeout.is_zero()
    }

    /// When the session counts as silent, in running time.
    fn silent_at(&self, session: &Session) -> Option<Tick> {
        match session.contact {
            Contact::Pinged(at) if self.is_judged(session) => {
                Some(at.after(self.limits.connection_timeout))
            }
            Contact::Pinged(_) | Contact::Heard(_) => None,
        }
    }

    /// When a client that has said nothing is pinged, in running time, unless a heartbeat, which
    /// has a ping with it, comes first: heartbeats may be off, or rarer than the timeout.
    fn probe_at(&self, session: &Session) -> Option<Tick> {
        match session.contact {
            Contact::Heard(at) if self.is_judged(session) => {
                Some(at.after(self.limits.connection_timeout))
            }
            Contact::Pinged(_) | Contact::Heard(_) => None,
        }
    }

    fn next_check(&self, session: &Session) -> Tick {
        let beat =
            if self.limits.heartbeat_interval.is_zero() { Tick(u32::MAX) } else { session.beat_at };
        let sign_of_life = self.silent_at(session).or_else(|| self.probe_at(session));
        self.running.on_clock(sign_of_life.map_or(beat, |at| at.min(beat)))
    }
}

/// Why a channel was not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SubscribeRefusal {
    InvalidName,
    Forbidden,
    Limit,
}

impl SubscribeRefusal {
    fn describe(self, name: &str, limits: &Limits) -> (&'static str, String) {
        match self {
            Self::InvalidName => (
                "INVALID_CHANNEL",
                format!("`{name}` is not a channel name: use 1 to 64 of A-Z a-z 0-9 . _ -"),
            ),
            Self::Forbidden => {
                ("FORBIDDEN_CHANNEL", format!("your token does not allow channel `{name}`"))
            }
            Self::Limit => (
                "SUBSCRIPTION_LIMIT",
                format!(
                    "`{name}` was not subscribed: a connection may have {} subscriptions",
                    limits.subscriptions_per_connection_max
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
