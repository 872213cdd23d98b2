//! A shard's users, sessions and channels: what a message means, without sockets and clocks.
//!
//! **Runs on**: its shard; in tests, virtual time. **Owns**: every index of the shard.
//! **Never**: does I/O, reads a clock, awaits, or knows how bytes look on a wire.
//!
//! Inputs are `handle_*`; what they cause goes to an [`Outgoing`] at once (frames, closes) or
//! waits in `reports` until the worker has handed it to the router.

pub mod directory;
pub mod session;
pub mod subscriptions;

mod broadcast;
mod channels;
mod heartbeat;
mod message_rate;
mod query;
mod queueing;
mod refresh;
mod running;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::counters::Counters;
use crate::base::id::{ConnectionKey, NotificationId, Tick, is_channel_name};
use crate::base::limits::{Limits, PerUserPolicy};
use crate::encoding::Encoding;
use crate::link::message::{Client, Drain, InitialSubscriptions, Report};
use crate::link::tokens::Tokens;
use crate::outbound::{OutboundMessage, Unsent};
use crate::protocol::{ClientMessage, ErrorCode, Event, Protocol};
use crate::queue::Queues;
use crate::wire::close::CloseReason;
use directory::Directory;
use message_rate::MessageBudgets;
use running::RunningTime;
use session::{Grants, Session};

/// Where events and frames go and connections end: the sockets, or a model of them in tests.
pub trait Outgoing {
    /// Tells a connection something in its own protocol, in this turn; false if its outbox is full
    /// or it is leaving. What its protocol has no word for counts as told.
    fn tell(&mut self, to: ConnectionKey, event: &Event<'_>) -> bool;

    /// Puts a frame into a connection's outbox; false if it is full or the connection is leaving.
    /// `urgency` says what is flushed first.
    fn offer(&mut self, to: ConnectionKey, frame: &Rc<OutboundMessage>, urgency: Urgency) -> bool;

    /// In which encoding a connection reads notifications; `None` if it is gone.
    fn encoding(&self, key: ConnectionKey) -> Option<Encoding>;

    /// Bytes waiting for a connection; `None` if it is leaving or gone.
    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize>;

    /// Asks to be told (by `State::handle_room`) when nothing waits for a connection any more.
    fn watch(&mut self, key: ConnectionKey);

    /// Begins to close a connection; gives back the notifications that will not be written.
    fn close(&mut self, key: ConnectionKey, reason: CloseReason<'_>) -> Vec<Unsent>;
}

/// The order in which touched connections are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Replies, and notifications to few: written in the same turn.
    Prompt,
    /// A wide fan-out: written in slices, between other work.
    FanOut,
}

/// A client was refused: it has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyConnections;

/// The shard's state.
#[derive(Debug)]
pub struct State {
    pub(crate) limits: Limits,
    pub(crate) directory: Directory,
    pub(crate) counters: Counters,
    reports: VecDeque<Report>,
    /// The time of the turn: all of it happens at once.
    now: Tick,
    /// What peers are measured by.
    running: RunningTime,
    random: fastrand::Rng,
    /// Every message of the shard's users, from acceptance to its end.
    pub(crate) queues: Queues,
    /// What clients have left of their rate of messages.
    message_budgets: MessageBudgets,
    /// Reads the tokens that clients show.
    tokens: Arc<dyn Tokens>,
    /// Whose token was changed by the last message.
    refreshed: Option<ConnectionKey>,
    /// How many messages may begin to wait by the current delivery, if there is a limit.
    room: Option<u32>,
    /// Scratch: connections whose outbox refused a frame of the current delivery.
    refused: Vec<ConnectionKey>,
    /// Scratch: connections that are told something.
    told: Vec<ConnectionKey>,
    /// Scratch: one bit a connection, for deliveries over several channels.
    seen: Vec<u64>,
}

impl State {
    /// An empty state. `seed` drives the jitter, so that a test can repeat itself.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            queues: Queues::new(&limits),
            limits,
            directory: Directory::default(),
            counters: Counters::default(),
            reports: VecDeque::new(),
            now: Tick::default(),
            running: RunningTime::default(),
            random: fastrand::Rng::with_seed(seed),
            message_budgets: MessageBudgets::default(),
            tokens: Arc::new(()),
            refreshed: None,
            room: None,
            refused: Vec::new(),
            told: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Has this read the tokens that clients show.
    pub fn set_tokens(&mut self, tokens: Arc<dyn Tokens>) {
        self.tokens = tokens;
    }

    /// The bounds it works within.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Other bounds from now on. Whoever is beyond one of them already stays.
    ///
    /// # Panics
    ///
    /// The queue or acknowledgement would be other than it was.
    pub fn set_limits(&mut self, limits: Limits) {
        let same = (limits.queue, limits.ack) == (self.limits.queue, self.limits.ack);
        assert!(same, "the queue and acknowledgement are for the life of a shard");
        self.queues.set_tenant_limits(&limits);
        if limits.messages.is_none() {
            self.message_budgets.clear();
        }
        self.limits = limits;
    }

    /// All that follows happens at this time, until the next turn begins.
    pub fn begin_turn(&mut self, now: Tick) {
        assert!(now >= self.now, "time goes on");
        self.now = now;
    }

    /// The time of the turn.
    #[must_use]
    pub const fn now(&self) -> Tick {
        self.now
    }

    /// Takes a client in under a key the caller has chosen. Its timer must be armed at the result.
    pub fn handle_connect(
        &mut self,
        key: ConnectionKey,
        client: Client,
        protocol: Protocol,
    ) -> Result<Tick, TooManyConnections> {
        let most = self.limits.connections_per_user_max_of(&client.tenant);
        if most != 0 && self.directory.connections_of(&client) >= most {
            self.counters.connections_refused += 1;
            return Err(TooManyConnections);
        }
        let grants = Grants::new(client.roles.clone(), client.grants.clone());
        let connected_at = self.running();
        let heartbeat_at = connected_at.after(self.heartbeat_delay());
        let mut session = Session::new(protocol, grants, connected_at, heartbeat_at);
        session.notify_settled = client.notify_settled;
        session.expires_at = client.expiry.as_ref().map_or(Tick::NEVER, |expiry| expiry.at);
        let next = self.next_check(&session);
        let user = self.directory.insert(key, &client, session);
        match client.subscribes_to {
            InitialSubscriptions::Nothing => {}
            InitialSubscriptions::Channels(names) => {
                for name in &names {
                    let _outcome = self.subscribe(key, name);
                }
            }
            InitialSubscriptions::Everything => {
                if let Some(interest) = self.directory.subscribe_to_all(key) {
                    self.reports.push_back(interest);
                }
            }
        }
        self.counters.connections_opened += 1;
        let (queues, mut cx) = self.queues();
        if let Some(id) = client.seen {
            queues.acknowledge_seen(&mut cx, user, id);
        }
        queues.begin_replay(user);
        Ok(next)
    }

    /// The tenant of a connection.
    #[must_use]
    pub fn tenant_of(&self, key: ConnectionKey) -> Option<Arc<str>> {
        self.directory.session(key).map(|session| Arc::clone(self.directory.tenant_name(session)))
    }

    /// The connection that must make way before this client is taken, if its user has as many as it
    /// may have and the newest wins.
    #[must_use]
    pub fn oldest_to_replace(&self, client: &Client) -> Option<ConnectionKey> {
        let most = self.limits.connections_per_user_max_of(&client.tenant);
        let is_full = most != 0 && self.directory.connections_of(client) >= most;
        let newest_wins = self.limits.connections_per_user_policy == PerUserPolicy::NewestWins;
        (is_full && newest_wins).then(|| self.directory.oldest_connection_of(client)).flatten()
    }

    /// Closes a connection in favour of a newer one of its user, and counts it.
    pub fn replace_connection(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        self.counters.connections_replaced += 1;
        self.close_connection(key, CloseReason::REPLACED, out);
    }

    /// Forgets a connection; nothing of it stays in any index. What it had not written goes back
    /// to its user's queue. Unknown keys are ignored.
    pub fn handle_disconnect(&mut self, key: ConnectionKey, unsent: Vec<Unsent>) {
        self.take_back(key, &unsent);
        self.message_budgets.remove(key);
        if let Some(user) = self.directory.remove(key, &mut self.reports) {
            self.queues.tidy(&mut self.directory, user);
            self.counters.connections_closed += 1;
        }
    }

    /// Does what a client message asks and offers the answer.
    pub fn handle_message(
        &mut self,
        key: ConnectionKey,
        message: Result<ClientMessage<'_>, String>,
        out: &mut impl Outgoing,
    ) {
        self.counters.messages_received += 1;
        let is_ack = matches!(message, Ok(ClientMessage::Ack(_)));
        // An Ack is looked at first: one that settles something is not counted.
        if !is_ack && !self.admit_message(key, out) {
            return;
        }
        match message {
            Ok(ClientMessage::Ping) => self.tell(key, &Event::Pong, out),
            Ok(ClientMessage::Subscribe(names)) => self.handle_subscribe(key, names, out),
            Ok(ClientMessage::Unsubscribe(mut names)) => {
                names.retain(|name| is_channel_name(name));
                for name in &names {
                    self.directory.unsubscribe(key, name, &mut self.reports);
                }
                self.tell(key, &Event::Unsubscribed(&names), out);
            }
            Ok(ClientMessage::Ack(id)) => self.handle_ack(key, id, out),
            Ok(ClientMessage::Refresh(token)) => self.handle_refresh(key, &token, out),
            Err(sentence) => self.refuse(key, ErrorCode::InvalidMessage, &sentence, out),
        }
    }

    fn handle_ack(
        &mut self,
        key: ConnectionKey,
        id: Option<NotificationId>,
        out: &mut impl Outgoing,
    ) {
        let Some(session) = self.directory.session(key) else { return };
        let user = session.places.user;
        let (queues, mut cx) = self.queues();
        let Some(id) = id.filter(|id| queues.acknowledge(&mut cx, user, *id)) else {
            if !self.admit_message(key, out) {
                return;
            }
            let sentence = "no such notification awaits your Ack";
            return self.refuse(key, ErrorCode::AckUnknown, sentence, out);
        };
        self.notify_settled_to_others(user, id, Some(key), out);
        self.queues.tidy(&mut self.directory, user);
        self.tell(key, &Event::Acked(id), out);
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
            self.tell(key, &Event::Subscribed(&names), out);
        }
        for (refusal, name) in refusals {
            let (code, message) = refusal.describe(&name);
            self.refuse(key, code, &message, out);
        }
    }

    fn subscribe(&mut self, key: ConnectionKey, name: &str) -> Result<(), SubscribeRefusal> {
        if !is_channel_name(name) {
            return Err(SubscribeRefusal::InvalidName);
        }
        let Some(session) = self.directory.session(key) else { return Ok(()) };
        if !session.may_subscribe(name) {
            return Err(SubscribeRefusal::Forbidden);
        }
        if self.directory.is_subscribed(session, name) {
            return Ok(());
        }
        let tenant = self.directory.tenant_name(session);
        let most = self.limits.subscriptions_per_connection_max_of(tenant);
        if most != 0 && session.subscriptions.len() >= most {
            return Err(SubscribeRefusal::Limit { most });
        }
        if let Some(interest) = self.directory.subscribe(key, name) {
            self.reports.push_back(interest);
        }
        Ok(())
    }

    /// Sends a client away as too slow, and counts it.
    pub fn close_slow_consumer(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        self.counters.slow_consumers += 1;
        self.close_connection(key, CloseReason::SLOW_CONSUMER, out);
    }

    /// Begins to close a connection and forgets it. Where messages are kept, what it has not read
    /// goes back to the queue now: later nobody knows whose it was. On a stop it is still written:
    /// a queue in memory ends with it, and on disk it is kept until it is known to be written.
    pub fn close_connection(
        &mut self,
        key: ConnectionKey,
        reason: CloseReason<'_>,
        out: &mut impl Outgoing,
    ) {
        let flush = reason.flush && (!self.keeps_messages() || reason == CloseReason::SHUTDOWN);
        let reason = CloseReason { flush, ..reason };
        if reason == CloseReason::SHUTDOWN
            && let Some(session) = self.directory.session(key)
        {
            self.queues.leave_unwritten(session.places.user);
        }
        let unsent = out.close(key, reason);
        self.handle_disconnect(key, unsent);
    }

    /// Whether what was not written is kept for later.
    #[must_use]
    pub const fn keeps_messages(&self) -> bool {
        self.queues.is_on()
    }

    /// Sends a client away while the shard goes on: what it has not read goes back to the queue.
    pub fn send_away(&mut self, key: ConnectionKey, order: Drain, out: &mut impl Outgoing) {
        if self.directory.session(key).is_some() {
            let reason = CloseReason::drained(self.reconnect_delay_ms(order));
            self.close_connection(key, reason, out);
        }
    }

    /// A client's own delay before it comes back.
    fn reconnect_delay_ms(&mut self, order: Drain) -> u32 {
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let in_window_ms = self.random.u32(0..ms(order.reconnect_window).max(1));
        ms(order.return_after).saturating_add(in_window_ms)
    }

    /// Tells a client to go and come back later, each after a delay of its own.
    pub fn close_for_shutdown(
        &mut self,
        key: ConnectionKey,
        order: Drain,
        out: &mut impl Outgoing,
    ) {
        if self.directory.session(key).is_none() {
            return;
        }
        let delay_ms = self.reconnect_delay_ms(order);
        // A full outbox: the client is closed all the same and uses its own delay.
        let _taken = out.tell(key, &Event::Shutdown { reconnect_after_ms: delay_ms });
        self.close_connection(key, CloseReason::SHUTDOWN, out);
    }

    /// The oldest report that has not been handed over.
    pub fn poll_report(&mut self) -> Option<Report> {
        if self.queues.has_tenant_changes() {
            self.report_tenants();
        }
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

    /// Tells a connection something; one that has no room for it is sent away.
    fn tell(&mut self, key: ConnectionKey, event: &Event<'_>, out: &mut impl Outgoing) {
        if self.directory.session(key).is_some() && !out.tell(key, event) {
            self.close_slow_consumer(key, out);
        }
    }

    fn refuse(
        &mut self,
        key: ConnectionKey,
        code: ErrorCode,
        message: &str,
        out: &mut impl Outgoing,
    ) {
        self.counters.messages_refused += 1;
        self.tell(key, &Event::Error { code, message }, out);
    }
}

/// Why a channel was not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SubscribeRefusal {
    InvalidName,
    Forbidden,
    Limit { most: usize },
}

impl SubscribeRefusal {
    fn describe(self, name: &str) -> (ErrorCode, String) {
        match self {
            Self::InvalidName => (
                ErrorCode::InvalidChannel,
                format!("`{name}` is not a channel name: use 1 to 64 of A-Z a-z 0-9 . _ -"),
            ),
            Self::Forbidden => {
                (ErrorCode::ForbiddenChannel, format!("your token does not allow channel `{name}`"))
            }
            Self::Limit { most } => (
                ErrorCode::SubscriptionLimit,
                format!("`{name}` was not subscribed: a connection may have {most} subscriptions"),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
