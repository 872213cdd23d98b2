//! Where every accepted message is, and why those are gone that are.
//!
//! **Runs on**: a test, in virtual time. **Owns**: one record a message, from its trigger on.
//! **Never**: asks the state why: it looks where messages are, and what could explain the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::script::USERS;
use super::sockets::{Event, Kind, Name, Returned, Sockets, number};
use crate::base::counters::Counters;
use crate::base::id::Tick;
use crate::base::limits::Limits;
use crate::base::placement::UserHash;
use crate::notification::Priority;
use crate::queued_message::QueuedMessage;
use crate::state::State;

/// In memory all users share one hash.
pub(super) const HASHES: [UserHash; USERS.len()] = [UserHash(7); USERS.len()];

/// What a message was when it was triggered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) priority: Priority,
    pub(super) for_role: bool,
    pub(super) is_now_or_never: bool,
    pub(super) expires_at: Tick,
    /// Whether it was ever sent with an acknowledgement to come.
    is_tracked: bool,
}

impl Record {
    pub(super) const fn new(
        priority: Priority,
        for_role: bool,
        is_now_or_never: bool,
        expires_at: Tick,
    ) -> Self {
        Self { priority, for_role, is_now_or_never, expires_at, is_tracked: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Waiting,
    InFlight,
    Dead,
}

/// A message as the state keeps it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) attempts: u8,
    pub(super) sequence: u64,
    pub(super) sent_at: Tick,
    expires_at: Tick,
    /// When it is forgotten, if it is a dead letter.
    pub(super) dead_until: Tick,
}

/// What the step that was just done is for.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Messages that were settled, with the milliseconds they took.
    pub(super) settled: BTreeMap<Name, u64>,
    pub(super) cleared: BTreeSet<Name>,
    /// Messages taken by a queue.
    pub(super) enqueued: BTreeSet<Name>,
    /// Messages taken by a connection.
    pub(super) sent: BTreeSet<Name>,
    /// InFlight whose time was over.
    pub(super) overdue: usize,
}

const ACKED: u8 = 1;
const DROPPED: u8 = 2;
const EXPIRED: u8 = 4;
const ACK_EXPIRED: u8 = 8;
const DEAD_EXPIRED: u8 = 16;

#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    /// The users'.
    pub(super) hashes: [UserHash; USERS.len()],
    pub(super) records: BTreeMap<Name, Record>,
    /// As of the last account.
    pub(super) held: BTreeMap<Name, Held>,
    /// Sent without acknowledgement and not read yet, as of then.
    pub(super) unread: BTreeSet<Name>,
    pub(super) counters: Counters,
}

impl Ledger {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            hashes: HASHES,
            records: BTreeMap::new(),
            held: BTreeMap::new(),
            unread: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn of(&self, user: usize) -> impl Iterator<Item = (u64, &Held)> {
        self.held.range((user, 0)..=(user, u64::MAX)).map(|(name, held)| (name.1, held))
    }

    pub(super) fn has(&self, user: usize, place: Place) -> bool {
        self.of(user).any(|(_, held)| held.place == place)
    }

    /// Whether an Ack of the message would settle it.
    pub(super) fn awaits_ack(&self, name: Name) -> bool {
        self.held.get(&name).is_some_and(|held| match held.place {
            Place::InFlight => true,
            Place::Waiting => held.attempts > 0,
            Place::Dead => false,
        })
    }

    /// Whether as many messages of a user are on their way as may be.
    pub(super) fn is_window_full(&self, user: usize) -> bool {
        let flying = self.of(user).filter(|(_, held)| held.place == Place::InFlight).count();
        self.limits.ack.is_some_and(|ack| flying >= ack.in_flight_max as usize)
    }

    pub(super) fn matches_audience(&self, name: Name, in_role: bool) -> bool {
        in_role || !self.records[&name].for_role
    }

    /// Accounts for every message after one call.
    pub(super) fn account(
        &mut self,
        (state, sockets): (&State, &mut Sockets),
        now: Tick,
        facts: &Facts,
    ) -> Vec<Event> {
        let events = sockets.take_events();
        let after = self.inspect(state, sockets);
        let before = std::mem::replace(&mut self.held, after);
        let mut unread = std::mem::take(&mut self.unread);
        let mut replayed = BTreeSet::new();
        let mut retaken = BTreeSet::new();
        for event in &events {
            if let Event::Taken { name, kind, .. } = event {
                if *kind == Kind::Replayed {
                    replayed.insert(*name);
                }
                if *kind != Kind::Live {
                    let message = &self.records[name];
                    assert!(message.expires_at > now, "{name:?} is sent after its time");
                    retaken.insert(*name);
                }
                if let (Kind::Again, Some(ack)) = (kind, self.limits.ack) {
                    // A replay may go beyond: what was called back has not been given up.
                    let attempts = self.held.get(name).map_or(0, |held| held.attempts);
                    assert!(attempts <= ack.attempts_max, "{name:?} is sent {attempts} times");
                }
            }
        }
        let mut gone = Vec::new();
        let mut names: BTreeSet<Name> = before.keys().copied().collect();
        names.extend(&facts.enqueued);
        let was_flying = |name: &Name| {
            before.get(name).is_some_and(|held| held.place == Place::InFlight)
                || retaken.contains(name)
        };
        let has_ended =
            |name: &Name| facts.settled.contains_key(name) || facts.cleared.contains(name);
        if self.limits.ack.is_some() {
            names.extend(&facts.sent);
        } else if self.limits.queue.is_some() {
            unread.extend(&facts.sent);
            unread.extend(&retaken);
            // Without acknowledgement a message in flight ends when somebody has read it.
            let flown = before.keys().filter(|name| was_flying(name) && !has_ended(name));
            unread.extend(flown);
            unread.retain(|name| !has_ended(name));
        }
        for name in names {
            if !self.held.contains_key(&name) && !unread.contains(&name) {
                gone.push((name, self.reasons((name, before.get(&name)), now, facts, sockets)));
            }
        }
        // A message that came back waits, or gave way, unless it ended before. One that another
        // connection has read or holds is in flight.
        let mut returned = self.returned(&events);
        returned.retain(|(name, is_queued)| !is_queued || (was_flying(name) && !has_ended(name)));
        let returned: BTreeSet<Name> = returned.into_iter().map(|(name, _)| name).collect();
        let is_nowhere = |name: &&Name| !self.held.contains_key(*name);
        gone.extend(returned.iter().filter(is_nowhere).map(|name| (*name, self.evicted(*name))));
        for name in unread {
            if self.held.contains_key(&name) || returned.contains(&name) {
                continue;
            }
            if sockets.holds(name) {
                self.unread.insert(name);
            } else {
                let is_read = sockets.read.contains(&name) || sockets.left_writing.contains(&name);
                assert!(is_read || is_discarded(name, &events), "{name:?} is lost: {events:?}");
            }
        }
        self.count(state, facts, (&before, &gone), replayed.len());
        let discarded = self.discarded(&events);
        assert_eq!(state.counters.frames_discarded - self.counters.frames_discarded, discarded);
        self.counters = state.counters;
        events
    }

    /// What may have become of a message that is nowhere.
    fn reasons(
        &self,
        (name, before): (Name, Option<&Held>),
        now: Tick,
        facts: &Facts,
        sockets: &Sockets,
    ) -> u8 {
        if facts.settled.contains_key(&name) {
            return ACKED;
        }
        if facts.cleared.contains(&name) {
            return DROPPED;
        }
        let record = &self.records[&name];
        let place = before.map(|held| held.place);
        if let Some(dead) = before.filter(|held| held.place == Place::Dead) {
            assert!(dead.dead_until <= now, "{name:?} was given up and is gone: {dead:?}");
            return DEAD_EXPIRED;
        }
        let mut reasons = self.evicted(name);
        let is_alone = sockets.of(name.0).next().is_none();
        let matches_audience =
            sockets.of(name.0).any(|(_, socket)| self.matches_audience(name, socket.in_role));
        let was_sent = place == Some(Place::InFlight) || facts.sent.contains(&name);
        let has_queue = self.limits.queue.is_some();
        if !has_queue && is_alone && place == Some(Place::Waiting) {
            return reasons | ACK_EXPIRED;
        }
        if !is_alone && !matches_audience {
            reasons |= DROPPED;
        }
        if let Some(ack) = self.limits.ack.filter(|_| was_sent) {
            let overdue = before.is_some_and(|held| held.sent_at.after(ack.timeout) <= now);
            let is_not_awaited = !has_queue && self.is_window_full(name.0);
            let is_forsaken = is_alone && !(ack.requeue && has_queue);
            if (!ack.requeue && overdue) || is_forsaken || is_not_awaited {
                reasons |= ACK_EXPIRED;
            }
            if overdue && ack.requeue && record.expires_at <= now {
                reasons |= EXPIRED;
            }
        } else if record.expires_at <= now {
            reasons |= EXPIRED;
        }
        reasons
    }

    /// Whether the message can have given way: its user's queue is full, of better ones.
    pub(super) fn evicted(&self, name: Name) -> u8 {
        let most = self.limits.queue.map_or(0, |queue| queue.per_user_max);
        let waiting: Vec<u64> = self
            .of(name.0)
            .filter(|(_, held)| held.place == Place::Waiting)
            .map(|(number, _)| number)
            .collect();
        let mine = (self.records[&name].priority, name.1);
        let are_better =
            waiting.iter().all(|other| (self.records[&(name.0, *other)].priority, *other) > mine);
        if most > 0 && waiting.len() == most && are_better { DROPPED } else { 0 }
    }

    /// Compares what has gone, and how, with the counters.
    fn count(
        &mut self,
        state: &State,
        facts: &Facts,
        (before, gone): (&BTreeMap<Name, Held>, &[(Name, u8)]),
        replayed: usize,
    ) {
        let grown =
            |of: fn(&Counters) -> u64| usize::try_from(of(&state.counters) - of(&self.counters));
        let counts = [
            (ACKED, grown(|counters| counters.acked)),
            (DROPPED, grown(|counters| counters.queue_dropped)),
            (EXPIRED, grown(|counters| counters.queue_expired)),
            (ACK_EXPIRED, grown(|counters| counters.ack_expired)),
            (DEAD_EXPIRED, grown(|counters| counters.dead_letters_expired)),
        ];
        // Each has gone one way: there must be an assignment to reasons that fits the counters.
        for set in 0..32_u8 {
            let in_set = counts.iter().filter(|(reason, _)| set & reason != 0);
            let counted: usize = in_set.map(|(_, count)| count.unwrap()).sum();
            let bound = gone.iter().filter(|(_, reasons)| reasons & !set == 0).count();
            assert!(
                if set == 31 { bound == counted } else { bound <= counted },
                "gone {gone:?}, but counted (1 acked, 2 dropped, 4 expired, 8 ack expired, 16 dead expired) {counts:?}"
            );
        }
        let buried = self.held.iter().filter(|(name, held)| {
            let was = before.get(name).map(|held| held.place);
            held.place == Place::Dead && was != Some(Place::Dead)
        });
        assert_eq!(grown(|counters| counters.dead_letters), Ok(buried.count()));
        assert_eq!(grown(|counters| counters.queue_enqueued), Ok(facts.enqueued.len()));
        assert_eq!(grown(|counters| counters.queue_replayed), Ok(replayed));
        assert_eq!(grown(|counters| counters.ack_timeouts), Ok(facts.overdue));
        let latency: u64 = facts.settled.values().sum();
        assert_eq!(state.counters.ack_latency_ms_sum - self.counters.ack_latency_ms_sum, latency);
        let flown = self.held.iter().filter(|(_, held)| held.attempts > 0).map(|(name, _)| name);
        let mut tracked = 0;
        if self.limits.ack.is_some() {
            for name in flown.chain(&facts.sent) {
                let record = self.records.get_mut(name).unwrap();
                tracked += usize::from(!std::mem::replace(&mut record.is_tracked, true));
            }
        }
        assert_eq!(grown(|counters| counters.ack_tracked), Ok(tracked));
    }

    /// The messages that connections gave back to their users' queues, and whether each came from
    /// there.
    fn returned(&self, events: &[Event]) -> BTreeSet<(Name, bool)> {
        let mut names = BTreeSet::new();
        if self.limits.ack.is_none() && self.limits.queue.is_some() {
            for event in events {
                if let Event::Gone { owner, was_last, given_back, .. } = event {
                    // From a queue: unless another has read it, whoever leaves first. Live: it is a
                    // queued message only once the last has left without it.
                    let goes_back = |message: &&Returned| {
                        if message.is_queued { !message.is_read_by_another } else { *was_last }
                    };
                    let messages = given_back.iter().filter(goes_back);
                    names.extend(
                        messages.map(|message| ((*owner, message.number), message.is_queued)),
                    );
                }
            }
        }
        names.retain(|(name, _)| !self.records[name].is_now_or_never);
        names
    }

    /// How many messages connections that went could not give back to a queue.
    fn discarded(&self, events: &[Event]) -> u64 {
        let goes_back = self.limits.ack.is_none() && self.limits.queue.is_some();
        let mut sum = 0;
        for event in events {
            if let Event::Gone { owner, was_last, given_back, .. } = event {
                let lost = given_back.iter().filter(|message| {
                    let is_urgent = self.records[&(*owner, message.number)].is_now_or_never;
                    match (goes_back, *was_last) {
                        (true, true) => is_urgent,
                        (true, false) => !message.is_begun && !message.is_queued,
                        (false, _) => !message.is_begun,
                    }
                });
                sum += u64::try_from(lost.count()).unwrap();
            }
        }
        sum
    }

    /// Every message the state keeps, each in one place and as it was triggered.
    pub(super) fn inspect(&self, state: &State, sockets: &Sockets) -> BTreeMap<Name, Held> {
        let mut all = BTreeMap::new();
        let mut flying = 0;
        for (user, (tenant, name)) in USERS.iter().enumerate() {
            let slot = state.directory.find_user(tenant, name, self.hashes[user]);
            let kept = all.len();
            let mut enter = |message: &QueuedMessage, place, sent_at, dead_until| {
                let held = Held {
                    place,
                    attempts: message.attempts(),
                    sequence: message.sequence(),
                    sent_at,
                    expires_at: message.expires_at(),
                    dead_until,
                };
                let twice = all.insert((user, number(message.id())), held);
                assert!(
                    twice.is_none(),
                    "{user} has {:?} twice: {twice:?}, {held:?}",
                    message.id()
                );
            };
            let waiting = slot.map(|slot| state.queues.waiting_of(slot)).unwrap_or_default();
            if let Some(slot) = slot {
                assert!(waiting.iter().is_sorted_by_key(|message| message.sequence()));
                let most = self.limits.queue.map_or(0, |queue| queue.per_user_max);
                assert!(most == 0 || waiting.len() <= most, "too many wait");
                for message in &waiting {
                    enter(message, Place::Waiting, Tick::START, Tick::START);
                }
                for (message, until) in state.queues.dead_letters_of(slot) {
                    enter(message, Place::Dead, Tick::START, until);
                }
                for (message, sent_at) in state.queues.in_flight_messages_of(slot) {
                    enter(message, Place::InFlight, sent_at, Tick::START);
                    let name = (user, number(message.id()));
                    // Without acknowledgement somebody has read it, or is going to.
                    let is_written = sockets.holds(name)
                        || sockets.read.contains(&name)
                        || sockets.left_writing.contains(&name);
                    assert!(self.limits.ack.is_some() || is_written, "{name:?} is with nobody");
                    flying += 1;
                }
            }
            let is_here = sockets.of(user).next().is_some();
            let should_be_known = is_here || all.len() > kept;
            assert_eq!(slot.is_some(), should_be_known, "{tenant}/{name} is known");
            assert!(
                is_here || waiting.is_empty() || self.limits.queue.is_some(),
                "waits without a queue"
            );
        }
        assert_eq!(state.queues.in_flight_total(), flying, "an entry without a user");
        let most = self.limits.ack.map_or(u8::MAX, |ack| ack.attempts_max);
        for (name, held) in &all {
            let record = self.records.get(name).expect("a message that was triggered");
            assert_eq!(held.expires_at, record.expires_at, "the time of {name:?}: {held:?}");
            assert!(held.place != Place::Dead || held.attempts >= most, "{name:?} {held:?}");
        }
        all
    }
}

/// Whether a closing connection had it and nobody could keep it.
fn is_discarded(name: Name, events: &[Event]) -> bool {
    events.iter().any(|event| {
        let Event::Gone { owner, given_back, kept_back, .. } = event else { return false };
        let gave_back = given_back.iter().any(|message| message.number == name.1);
        *owner == name.0 && (gave_back || kept_back.contains(&name.1))
    })
}
