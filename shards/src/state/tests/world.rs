//! The state and its reference side by side: every step is done to both, and all is compared.
//!
//! **Runs on**: a test, in virtual time. **Owns**: both, the sockets' model and the timers.
//! **Never**: asks the state what it should do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::sample::Index;
use serde_json::json;

use super::reference::{Person, Reference};
use super::steps::{Audience, CHANNELS, Newcomer, Step, TENANTS, Target, USERS, Utterance};
use super::wire::{Effects, Got, Wire, protocol};
use super::{ask, drain};
use crate::base::id::{ConnectionKey, NotificationId, RequestId, Tick};
use crate::base::limits::{Limits, PROMPT_RECIPIENTS_MAX};
use crate::base::placement::UserHash;
use crate::link::message::{
    Client, Delivery, DeliveryCounts, InitialSubscriptions, Query, Recipient, Recipients, Report,
};
use crate::notification::{self, Notification};
use crate::protocol::{Transport, ara};
use crate::state::State;
use crate::wire::close::CloseReason;

#[derive(Debug)]
pub(super) struct World {
    state: State,
    reference: Reference,
    wire: Wire,
    now: Tick,
    /// When each connection's timer fires, and when it would have owed a sign of life as of then.
    armed: BTreeMap<u32, (Tick, Option<Tick>)>,
    /// What the router knows from the reports.
    interest: BTreeSet<(String, Option<String>)>,
    deliveries: u64,
}

impl World {
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        let mut world = Self {
            state: State::new(limits.clone(), seed),
            reference: Reference::new(limits),
            wire: Wire::default(),
            now: Tick::START,
            armed: BTreeMap::new(),
            interest: BTreeSet::new(),
            deliveries: 0,
        };
        world.begin_turn(Tick(1_000));
        world
    }

    fn begin_turn(&mut self, now: Tick) {
        self.now = now;
        self.state.begin_turn(now);
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Connect(who) => self.connect(who),
            Step::Admission(ticks) => self.pass(*ticks),
            Step::Lag(ticks) => self.lag(*ticks),
            Step::Pause(ticks) => self.pause(*ticks),
            Step::Deliver(tenant, target) => self.deliver(tenant, target),
            Step::Say(at, what) => {
                let speaks =
                    |key: &u32| self.reference.people[key].who.transport == Transport::WebSocket;
                let speakers: Vec<u32> = self.keys().into_iter().filter(speaks).collect();
                if !speakers.is_empty() {
                    self.say(*at.get(&speakers), what);
                }
            }
            Step::Disconnect(at) => self.at(*at, Self::disconnect),
            Step::Heard(at) => self.at(*at, |world, key| {
                world.state.handle_frame_received(ConnectionKey(key));
                let person = world.reference.people.get_mut(&key).unwrap();
                (person.last_frame_at, person.pinged_at) = (world.now, None);
            }),
            Step::StaleTimer(at) => self.at(*at, |world, key| world.fire(key, false)),
            Step::Stall(at) => self.at(*at, |world, key| world.wire.stall(key)),
            Step::Drain(at) => self.at(*at, |world, key| world.wire.drain(key)),
            Step::SendAway(at) => self.at(*at, Self::close_for_shutdown),
        }
        self.audit();
    }

    fn at(&mut self, at: Index, act: impl FnOnce(&mut Self, u32)) {
        let keys = self.keys();
        if !keys.is_empty() {
            act(self, *at.get(&keys));
        }
    }

    fn keys(&self) -> Vec<u32> {
        self.reference.people.keys().copied().collect()
    }

    fn connect(&mut self, who: &Newcomer) {
        let key = self.wire.free_key();
        self.wire.open(key, who.transport);
        let subscribes_to = match (who.transport, &who.channels) {
            (Transport::WebSocket, _) => InitialSubscriptions::Nothing,
            (Transport::Sse, None) => InitialSubscriptions::Everything,
            (Transport::Sse, Some(names)) => InitialSubscriptions::Channels(
                names.iter().map(|name| name.as_str().into()).collect(),
            ),
        };
        let member = Client {
            tenant: who.tenant.into(),
            user: who.user.into(),
            hash: hash(who.user),
            roles: boxed(&who.roles),
            grants: who.grants.as_deref().map(boxed),
            subscribes_to,
            notify_settled: false,
            seen: None,
            expiry: None,
        };
        let taken = self.reference.connect(key, who, self.now);
        let protocol = protocol(who.transport, key);
        let armed = self.state.handle_connect(ConnectionKey(key), member, protocol);
        assert_eq!(armed.is_ok(), taken, "admission of {who:?}");
        match armed {
            Ok(next) => self.arm(key, next),
            Err(_too_many) => self.wire.remove(key),
        }
        self.settle(BTreeMap::new(), &[]);
    }

    fn disconnect(&mut self, key: u32) {
        self.state.handle_disconnect(ConnectionKey(key), Vec::new());
        self.forget(key);
        self.settle(BTreeMap::new(), &[]);
    }

    fn forget(&mut self, key: u32) {
        self.reference.leave(key);
        self.armed.remove(&key);
        self.wire.remove(key);
    }

    fn say(&mut self, key: u32, what: &Utterance) {
        let text = match what {
            Utterance::Subscribe(names) => {
                json!({"type": "Subscribe", "payload": {"channels": names}}).to_string()
            }
            Utterance::Unsubscribe(names) => {
                json!({"payload": {"channels": names}, "type": "unsubscribe"}).to_string()
            }
            Utterance::Ping => r#"{"type":"Ping"}"#.to_owned(),
            Utterance::Ack => r#"{"type":"Ack","payload":{"notification_id":"x"}}"#.to_owned(),
            Utterance::Garbage(text) => (*text).to_owned(),
        };
        let replies = self.reference.hear(key, what);
        let room = self.wire.room(key);
        let is_full = replies.len() > room;
        let taken: Vec<Got> = replies.into_iter().take(room).collect();
        let message = ara::parse(&text);
        self.state.handle_message(ConnectionKey(key), message, &mut self.wire);
        let closed = if is_full { &[(key, CloseReason::SLOW_CONSUMER)][..] } else { &[] };
        self.settle(BTreeMap::from([(key, taken)]), closed);
    }

    fn deliver(&mut self, tenant: &'static str, target: &Target) {
        self.deliveries += 1;
        let number = self.deliveries;
        let mut taken = BTreeMap::new();
        let mut closed = Vec::new();
        let mut parts = Vec::new();
        for (part, keys) in self.reference.recipients(tenant, target).iter().enumerate() {
            let mut counts = DeliveryCounts::default();
            for key in keys {
                if self.wire.room(*key) == 0 {
                    counts.failed += 1;
                    closed.push((*key, CloseReason::SLOW_CONSUMER));
                    continue;
                }
                counts.delivered += 1;
                let got = Got::Notification {
                    delivery: number,
                    // Users and everyone share one notification; each channel has its own.
                    part: if matches!(target, Target::Channels { .. }) { narrow(part) } else { 0 },
                    priority: target.common().priority,
                };
                assert!(taken.insert(*key, vec![got]).is_none());
            }
            parts.push(counts);
        }
        let mut total = DeliveryCounts::default();
        parts.iter().for_each(|part| total.add(*part));
        if parts.len() == 1 {
            parts.clear();
        }
        let matches = total.delivered;
        let is_wide = self.is_wide(tenant, target);
        self.apply(tenant, target, (total, parts));
        let effects = self.wire.take_effects();
        if let Some(is_wide) = is_wide {
            assert_eq!(
                effects.fanned_out,
                if is_wide { matches } else { 0 },
                "urgency: {target:?}"
            );
        }
        self.compare(effects, taken, &closed);
    }

    /// Whether it is a wide fan-out; a channel of a large tenant may or may not be one.
    fn is_wide(&self, tenant: &str, target: &Target) -> Option<bool> {
        let is_here = |person: &&Person| person.who.tenant == tenant;
        let are_many =
            self.reference.people.values().filter(is_here).count() > PROMPT_RECIPIENTS_MAX;
        match target {
            Target::Everyone { .. } => Some(are_many),
            Target::Users { .. } => Some(false),
            Target::Channels { .. } => (!are_many).then_some(false),
        }
    }

    /// Hands the delivery to the state and compares what it reports.
    fn apply(
        &mut self,
        tenant: &str,
        target: &Target,
        (total, parts): (DeliveryCounts, Vec<DeliveryCounts>),
    ) {
        let request = RequestId(self.deliveries);
        let audience = recipients(tenant, target, self.deliveries);
        let delivery = Delivery { request, audience, room: None };
        let frames = self.state.handle_delivery(delivery, &mut self.wire);
        assert_eq!(frames, total.delivered);
        let mut found = None;
        while let Some(report) = self.state.poll_report() {
            match report {
                Report::Delivered { request, total, parts } => {
                    assert!(found.replace((request, total, parts.into_vec())).is_none());
                }
                other => self.note(other),
            }
        }
        assert_eq!(found, Some((request, total, parts)), "report of {target:?}");
        self.reference.counters.deliveries += 1;
        self.reference.counters.frames_delivered += u64::from(total.delivered);
        self.reference.counters.frames_failed += u64::from(total.failed);
    }

    fn close_for_shutdown(&mut self, key: u32) {
        let goodbye = Got::Said("shutdown".to_owned());
        let taken = if self.wire.room(key) > 0 { vec![goodbye] } else { vec![] };
        self.state.close_for_shutdown(ConnectionKey(key), drain(), &mut self.wire);
        self.settle(BTreeMap::from([(key, taken)]), &[(key, CloseReason::SHUTDOWN)]);
    }

    fn arm(&mut self, key: u32, next: Tick) {
        let person = &self.reference.people[&key];
        let interval = self.reference.limits.heartbeat_interval;
        assert!(next > self.now, "a timer in the past spins");
        let silent = person.sign_of_life_at(&self.reference.limits);
        let beats = (!interval.is_zero()).then(|| {
            let since = person.beaten_at;
            (since.after(interval.mul_f64(0.8)), since.after(interval.mul_f64(1.2)))
        });
        let earliest = [silent, beats.map(|(first, _)| first)].into_iter().flatten().min();
        let latest = [silent, beats.map(|(_, last)| last)].into_iter().flatten().min();
        assert!(
            next >= earliest.unwrap_or(Tick(u32::MAX)),
            "{next:?} wakes for nothing: {person:?}"
        );
        assert!(next <= latest.unwrap_or(Tick(u32::MAX)), "{next:?} is too late: {person:?}");
        self.armed.insert(key, (next, silent));
    }

    fn pass(&mut self, ticks: u32) {
        let until = Tick(self.now.0 + ticks);
        while let Some((key, due)) = self.next_timer().filter(|(_, due)| *due <= until) {
            self.begin_turn(due);
            self.fire(key, true);
        }
        self.begin_turn(until);
    }

    fn lag(&mut self, ticks: u32) {
        self.begin_turn(Tick(self.now.0 + ticks));
        while let Some((key, _)) = self.next_timer().filter(|(_, due)| *due <= self.now) {
            self.fire(key, false);
        }
    }

    /// Afterwards all is as if the pause had not been.
    fn pause(&mut self, ticks: u32) {
        let later = |at: Tick| Tick(at.0.saturating_add(ticks));
        self.begin_turn(later(self.now));
        self.state.handle_stall(ticks);
        for person in self.reference.people.values_mut() {
            person.last_frame_at = later(person.last_frame_at);
            person.pinged_at = person.pinged_at.map(later);
            person.beaten_at = later(person.beaten_at);
        }
        for (next, silent) in self.armed.values_mut() {
            (*next, *silent) = (later(*next), silent.map(later));
        }
    }

    fn next_timer(&self) -> Option<(u32, Tick)> {
        self.armed.iter().map(|(key, (due, _))| (*key, *due)).min_by_key(|(_, due)| *due)
    }

    /// Fires a timer. One on time must have been worth it: a heartbeat, a ping, a 4408, or a client
    /// that was heard after it was armed for its silence.
    fn fire(&mut self, key: u32, is_on_time: bool) {
        let limits = self.reference.limits.clone();
        let (room, is_behind) = (self.wire.room(key), self.wire.is_behind(key));
        let now = self.now;
        let next = self.state.handle_timer(ConnectionKey(key), &mut self.wire);
        let effects = self.wire.take_effects();
        let person = self.reference.people.get_mut(&key).unwrap();
        let is_due = person.sign_of_life_at(&limits).is_some_and(|at| now >= at);
        if is_due && person.pinged_at.is_some() {
            if !is_behind {
                self.reference.counters.timeouts += 1;
                assert_eq!(next, None);
                return self.compare(effects, BTreeMap::new(), &[(key, CloseReason::SILENT)]);
            }
            // It has not read the ping yet: it may still answer.
            person.pinged_at = Some(now);
        }
        let is_probed = is_due && person.pinged_at.is_none();
        let is_offered = !effects.taken.is_empty() || effects.refused > 0;
        let interval = limits.heartbeat_interval;
        let first = person.beaten_at.after(interval.mul_f64(0.8));
        let last = person.beaten_at.after(interval.mul_f64(1.2));
        let may_beat = !interval.is_zero() && now >= first;
        let must_beat = !interval.is_zero() && now >= last;
        assert!(is_offered >= (must_beat || is_probed), "nothing at {now:?}: {person:?}");
        assert!(is_offered <= (may_beat || is_probed), "too early at {now:?}: {person:?}");
        if is_on_time && !is_offered {
            assert_eq!(self.armed[&key].1, Some(now), "fired for nothing: {person:?}");
        }
        if is_offered && room == 0 {
            assert_eq!(next, None);
            return self.compare(effects, BTreeMap::new(), &[(key, CloseReason::SLOW_CONSUMER)]);
        }
        let mut taken = BTreeMap::new();
        if is_offered {
            let heartbeat = Got::Said("heartbeat".to_owned());
            let has_beaten = effects.taken.get(&key).is_some_and(|got| got.contains(&heartbeat));
            assert!(has_beaten >= must_beat && has_beaten <= may_beat, "at {now:?}: {person:?}");
            if has_beaten {
                person.beaten_at = now;
                self.reference.counters.heartbeats += 1;
            }
            // A heartbeat has a ping with it.
            person.pinged_at = person.pinged_at.or(Some(now));
            let probe = Got::Said("ping".to_owned());
            taken.insert(key, vec![if has_beaten { heartbeat } else { probe }]);
        }
        self.compare(effects, taken, &[]);
        self.arm(key, next.expect("a live connection has a next look"));
    }

    /// Compares what the step did with what it should have done, to everyone.
    fn settle(&mut self, taken: BTreeMap<u32, Vec<Got>>, closed: &[(u32, CloseReason<'static>)]) {
        let effects = self.wire.take_effects();
        assert_eq!(effects.fanned_out, 0, "replies are prompt");
        self.compare(effects, taken, closed);
    }

    fn compare(
        &mut self,
        effects: Effects,
        mut taken: BTreeMap<u32, Vec<Got>>,
        closed: &[(u32, CloseReason<'static>)],
    ) {
        taken.retain(|_, gots| !gots.is_empty());
        assert_eq!(effects.taken, taken, "what clients got");
        let sorted = |closes: &[(u32, CloseReason<'static>)]| {
            let mut closes = closes.to_vec();
            closes.sort_by_key(|(key, _)| *key);
            closes
        };
        assert_eq!(sorted(&effects.closed), sorted(closed), "who was told to go");
        let is_slow =
            |(_, reason): &&(u32, CloseReason<'static>)| *reason == CloseReason::SLOW_CONSUMER;
        self.reference.counters.slow_consumers += closed.iter().filter(is_slow).count() as u64;
        for (key, _) in closed {
            // The socket closes a while later: nothing may depend on it.
            self.forget(*key);
        }
        while let Some(report) = self.state.poll_report() {
            self.note(report);
        }
    }

    /// The router takes an interest report; each must be news.
    fn note(&mut self, report: Report) {
        let Report::Interest { tenant, channel, present } = report else {
            panic!("an unexpected report: {report:?}");
        };
        let entry = (tenant.to_string(), channel.map(|name| name.to_string()));
        let is_news = if present {
            self.interest.insert(entry.clone())
        } else {
            self.interest.remove(&entry)
        };
        assert!(is_news, "told twice: {entry:?} {present}");
    }

    /// Everything that can be asked, compared.
    fn audit(&mut self) {
        assert_eq!(self.interest, self.reference.interest());
        let people: Vec<_> = self.reference.people.values().collect();
        let snapshot = ask(&mut self.state, &mut self.wire, Query::Snapshot);
        let count = |transport| people.iter().filter(|p| p.who.transport == transport).count();
        let users: BTreeSet<_> = people.iter().map(|p| (p.who.tenant, p.who.user)).collect();
        let channels = self.interest.iter().filter(|(_, name)| name.is_some()).count();
        let subscriptions: usize = people.iter().map(|p| p.subscriptions.len()).sum();
        assert_eq!(snapshot.websocket_connections, count(Transport::WebSocket));
        assert_eq!(snapshot.sse_connections, count(Transport::Sse));
        assert_eq!(snapshot.users, users.len());
        assert_eq!((snapshot.channels, snapshot.subscriptions), (channels, subscriptions));
        assert_eq!(snapshot.counters, self.reference.counters);
        for name in TENANTS {
            self.audit_tenant(name);
        }
    }

    fn audit_tenant(&mut self, name: &str) {
        let people: Vec<_> =
            self.reference.people.values().filter(|p| p.who.tenant == name).collect();
        let tenant: Arc<str> = name.into();
        let on = |channel: &str| {
            let is_on = |p: &&&Person| p.subscriptions.iter().any(|name| name == channel);
            people.iter().filter(is_on).count()
        };
        let mut expected: Vec<(Arc<str>, usize)> = Vec::new();
        for channel in CHANNELS {
            let one = ask(&mut self.state, &mut self.wire, |reply_to| Query::Channel {
                tenant: Arc::clone(&tenant),
                name: channel.into(),
                reply_to,
            });
            assert_eq!(one, on(channel));
            expected.extend((one > 0).then(|| (channel.into(), one)));
        }
        expected.sort_unstable();
        let mut all =
            ask(&mut self.state, &mut self.wire, |reply_to| Query::Channels { tenant, reply_to });
        all.sort_unstable();
        assert_eq!(all, expected);
        for user in USERS {
            let theirs = people.iter().filter(|p| p.who.user == user);
            let names: BTreeSet<&str> =
                theirs.clone().flat_map(|p| p.subscriptions.iter().map(String::as_str)).collect();
            let view = ask(&mut self.state, &mut self.wire, |reply_to| Query::User {
                user: recipient(name, user),
                reply_to,
            });
            assert_eq!(view.connections, theirs.count());
            assert!(view.subscriptions.iter().map(|name| &**name).eq(names));
        }
    }

    /// Everyone leaves; nothing may stay behind.
    pub(super) fn close(mut self) {
        for key in self.keys() {
            self.disconnect(key);
        }
        self.audit();
        assert!(self.state.directory.is_clear(), "left behind: {:?}", self.state.directory);
        assert!(self.state.queues.is_clear(), "left behind: {:?}", self.state.queues);
        assert!(self.interest.is_empty());
    }
}

/// Two users share each hash, and so do the tenants.
fn hash(user: &str) -> UserHash {
    UserHash(USERS.iter().position(|name| *name == user).unwrap_or(0) as u64 % 2)
}

fn boxed(names: &[&str]) -> Box<[Box<str>]> {
    names.iter().map(|name| (*name).into()).collect()
}

fn recipient(tenant: &str, user: &str) -> Recipient {
    Recipient { tenant: tenant.into(), user: user.into(), hash: hash(user) }
}

fn narrow(part: usize) -> u8 {
    u8::try_from(part).unwrap()
}

/// The delivery's recipients, each notification marked with the delivery's number and its part.
fn recipients(tenant: &str, target: &Target, number: u64) -> Recipients {
    let common = target.common();
    let audience = common.audience.as_ref().map(|audience| {
        Arc::new(match audience {
            Audience::Roles(names) => notification::Audience::Roles(boxed(names)),
            Audience::Users(names) => {
                let mut names = names.clone();
                names.sort_unstable();
                notification::Audience::Users(boxed(&names))
            }
            Audience::Channels(names) => notification::Audience::Channels(boxed(names)),
        })
    });
    let notification = |part: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id[8] = narrow(part);
        let id = NotificationId(id);
        let (audience, priority) = (audience.clone(), common.priority);
        let head = notification::Metadata { id, audience, expires_at: Tick(u32::MAX), priority };
        Arc::new(Notification::encode(head, b"{}", common.readers))
    };
    match target {
        Target::Everyone { .. } => {
            Recipients::Everyone { tenant: tenant.into(), notification: notification(0) }
        }
        Target::Users { users, .. } => Recipients::Users {
            notification: notification(0),
            users: users.iter().map(|user| recipient(tenant, user)).collect(),
        },
        Target::Channels { names, .. } => Recipients::Channels {
            tenant: tenant.into(),
            parts: names
                .iter()
                .enumerate()
                .map(|(part, name)| (Arc::from(*name), notification(part)))
                .collect(),
        },
    }
}
