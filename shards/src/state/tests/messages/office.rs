//! The state, its sockets and the ledger together: each step is done, then accounted for.
//!
//! **Runs on**: a test, in virtual time. **Owns**: all three, and the clock.
//! **Never**: lets two calls pass under one account.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::sample::Index;

use super::crash::Disk;
use super::ledger::{Facts, Held, Ledger, Place, Record};
use super::script::{Action, Newcomer, Step, Trigger, USERS};
use super::sockets::{Event, Kind, Name, Sockets, identity, number};
use crate::base::id::{ConnectionKey, NotificationId, RequestId, Tick};
use crate::base::limits::Limits;
use crate::link::message::{
    Client, Delivery, DeliveryCounts, DiskHealth, InitialSubscriptions, Query, Recipient,
    Recipients, Report, Source, UserQueueView,
};
use crate::notification::{Audience, Metadata, Notification, Priority};
use crate::protocol::{ClientMessage, Protocol};
use crate::state::State;
use crate::state::tests::steps::encodings;
use crate::state::tests::{ask, drain};
use crate::wire::close::CloseReason;

#[derive(Debug)]
pub(super) struct Office {
    pub(super) limits: Limits,
    pub(super) state: State,
    pub(super) sockets: Sockets,
    pub(super) ledger: Ledger,
    pub(super) now: Tick,
    /// When deadlines were looked at last.
    pub(super) reached: Tick,
    /// The ids so far; the number of one is its place, from 1.
    ids: Vec<NotificationId>,
    /// When each delivery was taken, as far as this process knows.
    pub(super) recent: BTreeMap<u64, u64>,
    /// What waits for each tenant with a limit, as the router would know it.
    pub(super) waiting: BTreeMap<Arc<str>, i64>,
    /// The room that was settled with the current delivery.
    settled: u32,
    /// Where messages are kept, if not in memory alone.
    pub(super) disk: Option<Disk>,
}

impl Office {
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        let keeps_order = limits.ack.is_none();
        let mut office = Self {
            state: State::new(limits.clone(), seed),
            sockets: Sockets::new(keeps_order),
            ledger: Ledger::new(limits.clone()),
            limits,
            now: Tick::START,
            reached: Tick(0),
            ids: Vec::new(),
            recent: BTreeMap::new(),
            waiting: BTreeMap::new(),
            settled: 0,
            disk: None,
        };
        office.begin_turn(Tick(1_000));
        office
    }

    pub(super) fn begin_turn(&mut self, now: Tick) {
        self.now = now;
        self.state.begin_turn(now);
    }

    pub(super) fn step(&mut self, step: &Step) {
        match &step.action {
            Action::Connect(who) => self.connect(who),
            Action::Trigger(trigger) => self.trigger(trigger),
            Action::ApiAck(user, messages) => self.api_ack(*user, messages),
            Action::Clear(user, source) => self.clear(*user, *source),
            Action::Admission(ticks) => self.begin_turn(Tick(self.now.0 + ticks)),
            Action::Leave(at, abrupt) => self.at(*at, |office, key| office.leave(key, *abrupt)),
            Action::Dismiss(at, reason) => {
                self.at(*at, |office, key| office.close_connection(key, *reason));
            }
            Action::Ack(at, message, any) => {
                self.at(*at, |office, key| office.ack(key, *message, *any));
            }
            Action::Stall(at) => self.at(*at, |office, key| office.sockets.stall(key)),
            Action::Flow(at) => self.at(*at, |office, key| office.sockets.flow(key)),
            Action::Drip(at, count, begins) => {
                self.at(*at, |office, key| office.sockets.drip(key, *count, *begins));
            }
        }
        // The others account for themselves, or change nothing.
        let is_open =
            matches!(step.action, Action::Leave(..) | Action::Dismiss(..) | Action::Drip(..));
        if is_open {
            self.account(&Facts::default());
        }
        if step.ends_turn {
            while self.end_turn() {}
            self.ask();
        }
    }

    pub(super) fn account(&mut self, facts: &Facts) -> Vec<Event> {
        self.ledger.account((&self.state, &mut self.sockets), self.now, facts)
    }

    fn at(&mut self, at: Index, act: impl FnOnce(&mut Self, u32)) {
        let keys: Vec<u32> = self.sockets.open.keys().copied().collect();
        if !keys.is_empty() {
            act(self, *at.get(&keys));
        }
    }

    pub(super) fn connect(&mut self, who: &Newcomer) {
        let (tenant, user) = USERS[who.user];
        if self.sockets.of(who.user).count() >= self.limits.connections_per_user_max {
            return;
        }
        let seen = who.seen.filter(|_| !self.ids.is_empty()).map(|seen| *seen.get(&self.ids));
        let mut facts = Facts::default();
        if let Some((sequence, priority)) = seen.and_then(|id| self.place_of(who.user, id)) {
            let is_seen = |(number, held): &(u64, &Held)| {
                held.place != Place::Dead
                    && held.attempts > 0
                    && held.sequence <= sequence
                    && self.ledger.records[&(who.user, *number)].priority >= priority
            };
            let messages = self.ledger.of(who.user).filter(is_seen);
            facts.settled = messages.map(|(number, _)| ((who.user, number), 0)).collect();
        }
        let key = self.sockets.free_key();
        let socket = self.sockets.open(key, who.user, who.transport);
        let protocol = socket.protocol;
        socket.in_role = who.in_role;
        socket.notify_settled = who.notify_settled;
        let member = Client {
            tenant: tenant.into(),
            user: user.into(),
            hash: self.ledger.hashes[who.user],
            roles: if who.in_role { Box::new(["x".into()]) } else { Box::default() },
            grants: None,
            subscribes_to: InitialSubscriptions::Nothing,
            notify_settled: who.notify_settled,
            seen,
            expiry: None,
        };
        let key = ConnectionKey(key);
        self.state.handle_connect(key, member, protocol).unwrap();
        self.account(&facts);
    }

    /// Where a notification stands in the shard's order, and its priority.
    fn place_of(&self, user: usize, id: NotificationId) -> Option<(u64, Priority)> {
        let held = self.ledger.held.get(&(user, number(id)));
        let held = held.filter(|held| held.place != Place::Dead).map(|held| held.sequence);
        let sequence = held.or_else(|| self.recent.get(&number(id)).copied())?;
        let mut records = self.ledger.records.iter();
        let (_, record) = records.find(|(name, _)| name.1 == number(id))?;
        Some((sequence, record.priority))
    }

    pub(super) fn leave(&mut self, key: u32, abrupt: bool) {
        let flushes = !abrupt && !self.state.keeps_messages();
        let unsent = self.sockets.remove(key, abrupt, flushes);
        self.state.handle_disconnect(ConnectionKey(key), unsent);
    }

    fn close_connection(&mut self, key: u32, reason: CloseReason<'_>) {
        if reason == CloseReason::SHUTDOWN {
            // The process would end now: what is not written then is found by the next.
            self.note_doubt(key);
            self.state.close_for_shutdown(ConnectionKey(key), drain(), &mut self.sockets);
            return;
        }
        self.state.close_connection(ConnectionKey(key), reason, &mut self.sockets);
        for event in self.account(&Facts::default()) {
            if let Event::Gone { kept_back, .. } = event {
                assert!(
                    kept_back.is_empty() || !self.state.keeps_messages(),
                    "lost: {kept_back:?}"
                );
            }
        }
    }

    pub(super) fn trigger(&mut self, trigger: &Trigger) {
        let id = identity(self.ids.len() as u64 + 1, trigger.weight);
        self.ids.push(id);
        let audience: Audience = Audience::Roles(Box::new(["x".into()]));
        let audience = trigger.for_role.then(|| Arc::new(audience));
        let readers = encodings(true, trigger.for_sse);
        let json = format!(r#"{{"n":{}}}"#, number(id));
        let most = self.limits.queue.map(|queue| queue.ttl);
        let ttl = trigger.ttl.into_iter().chain(most).min();
        let is_now_or_never = trigger.ttl == Some(Duration::ZERO);
        let expires_at = match ttl {
            Some(Duration::ZERO) => Tick::NOW_OR_NEVER,
            Some(ttl) => self.now.after(ttl),
            None => Tick::NEVER,
        };
        let priority = trigger.priority;
        let head = Metadata { id, audience, expires_at, priority };
        let notification = Arc::new(Notification::encode(head, json.as_bytes(), readers));
        let record = Record::new(trigger.priority, trigger.for_role, is_now_or_never, expires_at);
        let is_reader = |key: &u32| {
            let socket = &self.sockets.open[key];
            (socket.in_role || !trigger.for_role)
                && (socket.protocol == Protocol::AraWebSocket || trigger.for_sse)
        };
        let has_reader: Vec<bool> = (0..USERS.len())
            .map(|user| self.sockets.of(user).any(|(key, _)| is_reader(&key)))
            .collect();
        for user in &trigger.users {
            self.ledger.records.insert((*user, number(id)), record);
        }
        // A tenant's users are one delivery.
        for name in ["acme", "zenith"] {
            let users = trigger.users.iter().copied().filter(|user| USERS[*user].0 == name);
            let has_users = users.clone().next().is_some();
            let room = if has_users { self.room_of(name) } else { None };
            let delivery = Delivery {
                room,
                request: RequestId(number(id)),
                audience: Recipients::Users {
                    notification: Arc::clone(&notification),
                    users: users.clone().map(|user| self.recipient(user)).collect(),
                },
            };
            let users: Vec<usize> = users.collect();
            self.state.handle_delivery(delivery, &mut self.sockets);
            self.recent.insert(number(id), self.state.queues.sequence());
            let parts = self.acknowledge_delivery(number(id), &users, is_now_or_never, room);
            for (user, part) in users.iter().zip(parts) {
                let is_tried = part.delivered + part.failed > 0;
                assert!(!is_tried || has_reader[*user]);
                assert!(is_tried || !has_reader[*user] || self.limits.queue.is_some(), "{id:?}");
            }
            let settled = self.take_waiting() + std::mem::take(&mut self.settled);
            assert_eq!(settled, room.unwrap_or(0), "all room that was given is settled");
        }
    }

    /// How many more may wait for a tenant, if it has a limit.
    fn room_of(&mut self, tenant: &str) -> Option<u32> {
        self.take_waiting();
        let most = self.limits.tenants.as_ref()?.of(tenant).queued_max;
        let waiting = self.waiting.get(tenant).copied().unwrap_or(0);
        (most > 0).then(|| u32::try_from(most as i64 - waiting).unwrap_or(0))
    }

    /// Takes what is reported of tenants, and returns how much room was settled. What is reported is what
    /// waits.
    pub(super) fn take_waiting(&mut self) -> u32 {
        let mut all_settled = 0;
        self.state.report_tenants();
        while let Some(Report::Waiting { .. }) = self.state.reports.front() {
            let Some(Report::Waiting { tenant, change, settled }) = self.state.poll_report() else {
                panic!("it was the first");
            };
            *self.waiting.entry(tenant).or_default() += change;
            all_settled += settled;
        }
        if let Some(tenants) = &self.limits.tenants {
            for name in ["acme", "zenith"] {
                let users = (0..USERS.len()).filter(|user| USERS[*user].0 == name);
                let held = users.flat_map(|user| self.ledger.of(user));
                let waiting = held.filter(|(_, held)| held.place == Place::Waiting).count();
                let is_limited = self.limits.queue.is_some() && tenants.of(name).queued_max > 0;
                let expected = if is_limited { waiting as i64 } else { 0 };
                assert_eq!(self.waiting.get(name).copied().unwrap_or(0), expected, "{name}");
            }
        }
        all_settled
    }

    fn recipient(&self, user: usize) -> Recipient {
        let (tenant, name) = USERS[user];
        Recipient { tenant: tenant.into(), user: name.into(), hash: self.ledger.hashes[user] }
    }

    /// The next report; on disk it may wait for a commit.
    fn report(&mut self) -> Option<Report> {
        if self.disk.is_some() {
            self.state.poll_store();
            self.settle();
        }
        let mut report = self.state.poll_report();
        while let Some(Report::Waiting { tenant, change, settled }) = report {
            *self.waiting.entry(tenant).or_default() += change;
            self.settled += settled;
            report = self.state.poll_report();
        }
        // Virtual time runs ahead of the real disk, which then seems to hang for a while.
        while let Some(Report::Disk(DiskHealth::Behind | DiskHealth::Sound)) = report {
            report = self.state.poll_report();
        }
        report
    }

    fn acknowledge_delivery(
        &mut self,
        number: u64,
        users: &[usize],
        is_now_or_never: bool,
        room: Option<u32>,
    ) -> Vec<DeliveryCounts> {
        let Some(Report::Delivered { total, parts, .. }) = self.report() else {
            panic!("a delivery is reported");
        };
        let parts = if parts.is_empty() { vec![total; users.len()] } else { parts.into_vec() };
        let mut facts = Facts::default();
        for (user, part) in users.iter().zip(&parts) {
            if part.delivered > 0 {
                facts.sent.insert((*user, number));
            } else if part.over_limit > 0 {
                assert_eq!((part.over_limit, part.queued, part.refused), (1, 0, 0));
                assert!(facts.enqueued.len() >= room.unwrap() as usize, "there was room");
            } else if self.limits.queue.is_some() && !is_now_or_never {
                facts.enqueued.insert((*user, number));
            }
        }
        let before: BTreeSet<Name> = self
            .ledger
            .held
            .iter()
            .filter(|(_, held)| held.place == Place::Waiting)
            .map(|(name, _)| *name)
            .collect();
        let events = self.account(&facts);
        for (user, part) in users.iter().zip(&parts) {
            let name = (*user, number);
            let taken = events.iter().filter(|event| {
                matches!(event, Event::Taken { name: other, kind: Kind::Live, .. } if *other == name)
            });
            assert_eq!(part.delivered as usize, taken.count());
            let is_kept = self.ledger.held.contains_key(&name);
            assert!(facts.enqueued.contains(&name) || part.queued == 0);
            assert!(part.queued == 1 || !facts.enqueued.contains(&name) || !is_kept);
            assert!(part.queued <= 1 && (part.queued == 0 || part.delivered == 0));
        }
        for event in events {
            let Event::Taken { key, name, kind } = event else { continue };
            assert_eq!((name.1, kind), (number, Kind::Live));
            let Some(socket) = self.sockets.open.get(&key) else { continue };
            let mut older = before.iter().filter(|other| other.0 == name.0);
            let is_passed = older.any(|other| self.ledger.matches_audience(*other, socket.in_role));
            assert!(!is_passed || self.limits.queue.is_none(), "{name:?} comes before {before:?}");
        }
        parts
    }

    fn ack(&mut self, key: u32, message: Index, any: bool) {
        let socket = &self.sockets.open[&key];
        let owner = socket.owner;
        let theirs: Vec<u64> = self.ledger.of(owner).map(|(number, _)| number).collect();
        if !socket.protocol.is_two_way() || self.ids.is_empty() {
            return;
        }
        let id = if any || theirs.is_empty() {
            *message.get(&self.ids)
        } else {
            self.ids[usize::try_from(*message.get(&theirs) - 1).unwrap()]
        };
        let name = (owner, number(id));
        let mut facts = Facts::default();
        let is_awaited = self.expect_settled(name, &mut facts);
        let listeners = self.listeners(owner, Some(key));
        let text = id.to_string();
        let message = ClientMessage::Ack(Some(id));
        self.state.handle_message(ConnectionKey(key), Ok(message), &mut self.sockets);
        let answer = if is_awaited { format!("acked {text}") } else { "error ACK_UNKNOWN".into() };
        let told = if is_awaited { listeners } else { BTreeSet::new() };
        let events = self.account(&facts);
        self.expect_told(&events, &told, &text, Some((key, answer)));
    }

    fn expect_settled(&self, name: Name, facts: &mut Facts) -> bool {
        let is_awaited = self.ledger.awaits_ack(name) && !facts.settled.contains_key(&name);
        if is_awaited {
            let held = &self.ledger.held[&name];
            let is_flying = held.place == Place::InFlight;
            let since = if is_flying { held.sent_at } else { self.now };
            facts.settled.insert(name, self.now.as_millis() - since.as_millis());
        }
        is_awaited
    }

    fn listeners(&self, owner: usize, but: Option<u32>) -> BTreeSet<u32> {
        let theirs = self.sockets.of(owner);
        let receives = theirs.filter(|(key, socket)| socket.notify_settled && Some(*key) != but);
        receives.map(|(key, _)| key).collect()
    }

    /// These connections, and no others, were told that the message is settled, unless they were
    /// full and are gone.
    fn expect_told(
        &self,
        events: &[Event],
        listeners: &BTreeSet<u32>,
        id: &str,
        answer: Option<(u32, String)>,
    ) {
        let settled = format!("settled {id}");
        let mut expected: Vec<(u32, &str)> =
            listeners.iter().map(|key| (*key, settled.as_str())).collect();
        expected.extend(answer.as_ref().map(|(key, text)| (*key, text.as_str())));
        let mut said: Vec<(u32, &str)> = Vec::new();
        for event in events {
            match event {
                Event::Said { key, text } => said.push((*key, text)),
                Event::Taken { .. } => panic!("nothing is sent for an Ack: {event:?}"),
                Event::Gone { .. } => {}
            }
        }
        assert!(said.iter().all(|told| expected.contains(told)), "{said:?}, not {expected:?}");
        expected.retain(|(key, _)| self.sockets.open.contains_key(key));
        assert!(expected.iter().all(|told| said.contains(told)), "{said:?}, not {expected:?}");
    }

    fn api_ack(&mut self, user: usize, messages: &[Index]) {
        if self.ids.is_empty() {
            return;
        }
        let ids: Box<[NotificationId]> = messages.iter().map(|at| *at.get(&self.ids)).collect();
        let mut facts = Facts::default();
        let settle = |id: &NotificationId| self.expect_settled((user, number(*id)), &mut facts);
        let expected: Vec<bool> = ids.iter().map(settle).collect();
        let listeners = self.listeners(user, None);
        let user = self.recipient(user);
        let answer = ask(&mut self.state, &mut self.sockets, |reply_to| Query::Acknowledge {
            user,
            ids: ids.clone(),
            reply_to,
        });
        assert_eq!(&*answer, expected);
        let events = self.account(&facts);
        if let [(name, _)] = facts.settled.iter().collect::<Vec<_>>()[..] {
            let id = self.ids[usize::try_from(name.1 - 1).unwrap()].to_string();
            self.expect_told(&events, &listeners, &id, None);
        }
    }

    fn clear(&mut self, user: usize, source: Source) {
        let theirs = self.ledger.of(user);
        let is_on = |held: &Held| (held.place == Place::Dead) == (source == Source::DeadLetters);
        let cleared: BTreeSet<Name> =
            theirs.filter(|(_, held)| is_on(held)).map(|(number, _)| (user, number)).collect();
        assert_eq!(self.messages(user, source, true), cleared.len());
        self.account(&Facts { cleared, ..Facts::default() });
    }

    /// The messages on a shelf, compared with where they are.
    fn messages(&mut self, user: usize, source: Source, clear: bool) -> usize {
        let asked = self.recipient(user);
        let UserQueueView { shown: views, count } =
            ask(&mut self.state, &mut self.sockets, |reply_to| Query::UserQueue {
                user: asked,
                source,
                clear,
                reply_to,
            });
        assert_eq!(views.len(), if clear { 0 } else { count });
        let mut shown = Vec::new();
        for view in views {
            let text = std::str::from_utf8(view.message.json()).unwrap();
            let digits = text.strip_prefix(r#"{"n":"#).and_then(|text| text.strip_suffix('}'));
            let number: u64 = digits.unwrap().parse().unwrap();
            let held = &self.ledger.held[&(user, number)];
            assert_eq!(view.attempts, held.attempts);
            assert_eq!(view.in_flight, held.place == Place::InFlight);
            assert_eq!(source == Source::DeadLetters, held.place == Place::Dead);
            shown.push(number);
        }
        assert!(source == Source::DeadLetters || shown.is_sorted(), "oldest first: {shown:?}");
        count
    }

    /// Asks everything there is to ask about messages.
    fn ask(&mut self) {
        self.take_waiting();
        let (mut waiting, mut flying, mut users) = (0, 0, 0);
        for user in 0..USERS.len() {
            let count = |place| self.ledger.of(user).filter(|(_, h)| h.place == place).count();
            let counts = [Place::Waiting, Place::InFlight, Place::Dead].map(count);
            waiting += counts[0];
            flying += counts[1];
            users += usize::from(counts[0] > 0);
            assert_eq!(self.messages(user, Source::Queue, false), counts[0] + counts[1]);
            assert_eq!(self.messages(user, Source::DeadLetters, false), counts[2]);
        }
        let snapshot = ask(&mut self.state, &mut self.sockets, Query::Snapshot);
        assert_eq!((snapshot.queue_size, snapshot.queue_users), (waiting, users));
        let pending = if self.limits.ack.is_some() { flying } else { 0 };
        assert_eq!(snapshot.ack_pending, pending);
    }

    /// Everybody reads all and goes, all messages are cleared: nothing is left.
    pub(super) fn close(mut self) {
        let keys: Vec<u32> = self.sockets.open.keys().copied().collect();
        keys.iter().for_each(|key| self.sockets.flow(*key));
        self.sockets.flush();
        self.account(&Facts::default());
        while self.end_turn() {}
        for key in self.sockets.open.keys().copied().collect::<Vec<_>>() {
            self.leave(key, false);
            self.account(&Facts::default());
        }
        assert_eq!(self.state.queues.in_flight_total(), 0);
        for user in 0..USERS.len() {
            self.clear(user, Source::Queue);
            assert!(!self.ledger.has(user, Place::Waiting));
            self.clear(user, Source::DeadLetters);
        }
        assert!(self.state.directory.is_clear(), "left behind: {:?}", self.state.directory);
        assert!(self.state.queues.is_clear(), "left behind: {:?}", self.state.queues);
    }
}
