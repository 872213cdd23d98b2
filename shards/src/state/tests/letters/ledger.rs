//! Where every accepted letter is, and why those are gone that are.
//!
//! **Runs on**: a test, in virtual time. **Owns**: one record a letter, from its trigger on.
//! **Never**: asks the state why: it looks where letters are, and what could explain the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::script::USERS;
use super::sockets::{Event, Kind, Name, Returned, Sockets, number};
use crate::id::Tick;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::notification::Priority;
use crate::placement::UserHash;
use crate::state::State;
use crate::state::mailbox::Letter;

/// In memory all users share one hash.
pub(super) const HASHES: [UserHash; USERS.len()] = [UserHash(7); USERS.len()];

/// What a letter was when it was triggered.
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

/// A letter as the state keeps it.
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
    /// Letters that were settled, with the milliseconds they took.
    pub(super) settled: BTreeMap<Name, u64>,
    pub(super) cleared: BTreeSet<Name>,
    /// Letters taken by a queue.
    pub(super) enqueued: BTreeSet<Name>,
    /// Letters taken by a connection.
    pub(super) sent: BTreeSet<Name>,
    /// Flights whose time was over.
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
    pub(super) meter: Meter,
}

impl Ledger {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            hashes: HASHES,
            records: BTreeMap::new(),
            held: BTreeMap::new(),
            unread: BTreeSet::new(),
            meter: Meter::default(),
        }
    }

    pub(super) fn of(&self, user: usize) -> impl Iterator<Item = (u64, &Held)> {
        self.held.range((user, 0)..=(user, u64::MAX)).map(|(name, held)| (name.1, held))
    }

    pub(super) fn has(&self, user: usize, place: Place) -> bool {
        self.of(user).any(|(_, held)| held.place == place)
    }

    /// Whether an Ack of the letter would settle it.
    pub(super) fn awaits_ack(&self, name: Name) -> bool {
        self.held.get(&name).is_some_and(|held| match held.place {
            Place::InFlight => true,
            Place::Waiting => held.attempts > 0,
            Place::Dead => false,
        })
    }

    /// Whether as many letters of a user are on their way as may be.
    pub(super) fn is_window_full(&self, user: usize) -> bool {
        let flying = self.of(user).filter(|(_, held)| held.place == Place::InFlight).count();
        self.limits.ack.is_some_and(|ack| flying >= ack.in_flight_max as usize)
    }

    pub(super) fn is_meant(&self, name: Name, in_role: bool) -> bool {
        in_role || !self.records[&name].for_role
    }

    /// Accounts for every letter after one call.
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
                    let letter = &self.records[name];
                    assert!(letter.expires_at > now, "{name:?} is sent after its time");
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
            // Without acknowledgement a letter in flight ends when somebody has read it.
            let flown = before.keys().filter(|name| was_flying(name) && !has_ended(name));
            unread.extend(flown);
            unread.retain(|name| !has_ended(name));
        }
        for name in names {
            if !self.held.contains_key(&name) && !unread.contains(&name) {
                gone.push((name, self.reasons((name, before.get(&name)), now, facts, sockets)));
            }
        }
        // A letter that came back waits, or gave way, unless it ended before. One that another
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
        assert_eq!(state.meter.frames_discarded - self.meter.frames_discarded, discarded);
        self.meter = state.meter;
        events
    }

    /// What may have become of a letter that is nowhere.
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
        let is_meant = sockets.of(name.0).any(|(_, socket)| self.is_meant(name, socket.in_role));
        let was_sent = place == Some(Place::InFlight) || facts.sent.contains(&name);
        let has_queue = self.limits.queue.is_some();
        if !has_queue && is_alone && place == Some(Place::Waiting) {
            return reasons | ACK_EXPIRED;
        }
        if !is_alone && !is_meant {
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

    /// Whether the letter can have given way: its user's queue is full, of better ones.
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
        let grown = |of: fn(&Meter) -> u64| usize::try_from(of(&state.meter) - of(&self.meter));
        let counts = [
            (ACKED, grown(|meter| meter.acked)),
            (DROPPED, grown(|meter| meter.queue_dropped)),
            (EXPIRED, grown(|meter| meter.queue_expired)),
            (ACK_EXPIRED, grown(|meter| meter.ack_expired)),
            (DEAD_EXPIRED, grown(|meter| meter.dead_letters_expired)),
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
        assert_eq!(grown(|meter| meter.dead_letters), Ok(buried.count()));
        assert_eq!(grown(|meter| meter.queue_enqueued), Ok(facts.enqueued.len()));
        assert_eq!(grown(|meter| meter.queue_replayed), Ok(replayed));
        assert_eq!(grown(|meter| meter.ack_timeouts), Ok(facts.overdue));
        let latency: u64 = facts.settled.values().sum();
        assert_eq!(state.meter.ack_latency_ms_sum - self.meter.ack_latency_ms_sum, latency);
        let flown = self.held.iter().filter(|(_, held)| held.attempts > 0).map(|(name, _)| name);
        let mut tracked = 0;
        if self.limits.ack.is_some() {
            for name in flown.chain(&facts.sent) {
                let record = self.records.get_mut(name).unwrap();
                tracked += usize::from(!std::mem::replace(&mut record.is_tracked, true));
            }
        }
        assert_eq!(grown(|meter| meter.ack_tracked), Ok(tracked));
    }

    /// The letters that connections gave back to their users' queues, and whether each came from
    /// there.
    fn returned(&self, events: &[Event]) -> BTreeSet<(Name, bool)> {
        let mut names = BTreeSet::new();
        if self.limits.ack.is_none() && self.limits.queue.is_some() {
            for event in events {
                if let Event::Gone { owner, was_last, given_back, .. } = event {
                    let goes_back = |letter: &&Returned| *was_last || letter.is_queued;
                    let letters = given_back.iter().filter(goes_back);
                    names.extend(letters.map(|letter| ((*owner, letter.number), letter.is_queued)));
                }
            }
        }
        names.retain(|(name, _)| !self.records[name].is_now_or_never);
        names
    }

    /// How many letters connections that went could not give back to a queue.
    fn discarded(&self, events: &[Event]) -> u64 {
        let goes_back = self.limits.ack.is_none() && self.limits.queue.is_some();
        let mut sum = 0;
        for event in events {
            if let Event::Gone { owner, was_last, given_back, .. } = event {
                let lost = given_back.iter().filter(|letter| {
                    let is_urgent = self.records[&(*owner, letter.number)].is_now_or_never;
                    match (goes_back, *was_last) {
                        (true, true) => is_urgent,
                        (true, false) => !letter.is_begun && !letter.is_queued,
                        (false, _) => !letter.is_begun,
                    }
                });
                sum += u64::try_from(lost.count()).unwrap();
            }
        }
        sum
    }

    /// Every letter the state keeps, each in one place and as it was triggered.
    pub(super) fn inspect(&self, state: &State, sockets: &Sockets) -> BTreeMap<Name, Held> {
        let mut all = BTreeMap::new();
        let mut flying = 0;
        for (user, (tenant, name)) in USERS.iter().enumerate() {
            let slot = state.directory.find_user(tenant, name, self.hashes[user]);
            let kept = all.len();
            let mut enter = |letter: &Letter, place, sent_at, dead_until| {
                let held = Held {
                    place,
                    attempts: letter.attempts(),
                    sequence: letter.sequence(),
                    sent_at,
                    expires_at: letter.expires_at(),
                    dead_until,
                };
                let twice = all.insert((user, number(letter.id())), held);
                assert!(twice.is_none(), "{user} has {:?} twice: {twice:?}, {held:?}", letter.id());
            };
            if let Some(mailbox) = slot.and_then(|slot| state.directory.mailbox(slot)) {
                let waiting = mailbox.waiting();
                assert!(waiting.iter().is_sorted_by_key(Letter::sequence));
                let most = self.limits.queue.map_or(0, |queue| queue.per_user_max);
                assert!(most == 0 || waiting.len() <= most, "too many wait");
                waiting.iter().for_each(|letter| enter(letter, Place::Waiting, Tick(0), Tick(0)));
                mailbox
                    .dead()
                    .for_each(|dead| enter(&dead.letter, Place::Dead, Tick(0), dead.until));
            }
            if let Some(slot) = slot {
                for flight in state.flights.of(state.directory.flights(slot)) {
                    assert_eq!(flight.user, slot);
                    let found = state.flights.find(slot, flight.letter.id());
                    let found = found.and_then(|found| state.flights.get(found));
                    assert!(found.is_some_and(|found| std::ptr::eq(found, flight)));
                    enter(&flight.letter, Place::InFlight, flight.sent_at, Tick(0));
                    let name = (user, number(flight.letter.id()));
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
            let waits = slot.and_then(|slot| state.directory.mailbox(slot));
            let waits = waits.is_some_and(|mailbox| !mailbox.waiting().is_empty());
            assert!(is_here || !waits || self.limits.queue.is_some(), "waits without a queue");
        }
        assert_eq!(state.flights.len(), flying, "a flight without a user");
        let most = self.limits.ack.map_or(u8::MAX, |ack| ack.attempts_max);
        for (name, held) in &all {
            let record = self.records.get(name).expect("a letter that was triggered");
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
        let gave_back = given_back.iter().any(|letter| letter.number == name.1);
        *owner == name.0 && (gave_back || kept_back.contains(&name.1))
    })
}
