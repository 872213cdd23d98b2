//! Letters that were sent and have not ended, over all users of the shard: with acknowledgement they
//! end when they are acknowledged, without it when their user's connections have written them.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one entry a letter on its way, found by
//! user and id. **Never**: has a timer per letter: the timeout is the same for all, so those that
//! were sent first are overdue first; holds a letter twice.
//!
//! An entry is on two lists that run through the table: its user's, and that of all in the order
//! they were sent. With its share of the index it costs 48 bytes and 5 to 10.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::mailbox::Letter;
use crate::id::{NotificationId, Tick};
use crate::table::Table;

/// No entry.
const NONE: u32 = u32::MAX;

/// The letters on their way.
#[derive(Debug)]
pub struct Flights {
    slots: Table<Flight>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    /// The first sent and the last.
    order: Ends,
}

/// One letter on its way to one user.
#[derive(Debug)]
pub struct Flight {
    /// The letter.
    pub letter: Letter,
    /// The user's place in the directory.
    pub user: u32,
    /// When it was sent last, in running time.
    pub sent_at: Tick,
    /// Its neighbours in the order of sending.
    order: Links,
    /// Its neighbours among its user's.
    siblings: Links,
}

const _: () = assert!(size_of::<Flight>() == 48);

#[derive(Debug, Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

/// One user's letters on their way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Siblings {
    first: u32,
    pub(super) count: u32,
}

impl Siblings {
    pub(super) const NONE: Self = Self { first: NONE, count: 0 };

    /// One of them.
    pub(super) const fn first(self) -> u32 {
        self.first
    }
}

/// A list's ends.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            slots: Table::default(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            order: Ends { first: NONE, last: NONE },
        }
    }
}

impl Flights {
    /// Letters on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A letter was sent. `siblings` are its user's.
    pub(super) fn depart(&mut self, user: u32, letter: Letter, now: Tick, siblings: &mut Siblings) {
        let (id, sequence) = (letter.id(), letter.sequence());
        let hash = self.hasher.hash_one((user, id));
        let order = Links { previous: self.order.last, next: NONE };
        let links = Links { previous: NONE, next: siblings.first };
        let flight = Flight { letter, user, sent_at: now, order, siblings: links };
        let slot = self.slots.insert(flight);
        match self.slots.get_mut(self.order.last) {
            Some(before) => before.order.next = slot,
            None => self.order.first = slot,
        }
        self.order.last = slot;
        if let Some(next) = self.slots.get_mut(siblings.first) {
            next.siblings.previous = slot;
        }
        siblings.first = slot;
        siblings.count += 1;
        let (slots, hasher) = (&self.slots, &self.hasher);
        let is_it = |other: &u32| {
            let flight = slots.get(*other);
            flight.is_some_and(|flight| flight.user == user && flight.letter.sequence() == sequence)
        };
        let rehash = |slot: &u32| {
            let flight = slots.get(*slot);
            flight.map_or(0, |flight| hasher.hash_one((flight.user, flight.letter.id())))
        };
        let Entry::Vacant(entry) = self.by_name.entry(hash, is_it, rehash) else {
            panic!("notification {id} is on its way to this user already");
        };
        entry.insert(slot);
    }

    /// The flights of a user's list.
    pub(super) fn of(&self, siblings: Siblings) -> impl Iterator<Item = &Flight> {
        let mut slot = siblings.first;
        std::iter::from_fn(move || {
            let flight = self.slots.get(slot)?;
            slot = flight.siblings.next;
            Some(flight)
        })
    }

    /// The next in the list of the flight's user.
    pub(super) const fn next_of(&self, flight: &Flight) -> u32 {
        flight.siblings.next
    }

    /// A letter with this id on its way to this user. There may be two: a trigger that is repeated
    /// because nobody knows whether it was sent before a crash has the id it had.
    #[must_use]
    pub fn find(&self, user: u32, id: NotificationId) -> Option<u32> {
        self.find_by(user, id, |letter| letter.id() == id)
    }

    /// The letter with this id that the shard accepted as the `sequence`-th.
    pub(super) fn find_one(&self, user: u32, id: NotificationId, sequence: u64) -> Option<u32> {
        self.find_by(user, id, |letter| letter.sequence() == sequence)
    }

    fn find_by(
        &self,
        user: u32,
        id: NotificationId,
        is_it: impl Fn(&Letter) -> bool,
    ) -> Option<u32> {
        let is_it = |slot: &u32| {
            let flight = self.slots.get(*slot);
            flight.is_some_and(|flight| flight.user == user && is_it(&flight.letter))
        };
        self.by_name.find(self.hasher.hash_one((user, id)), is_it).copied()
    }

    /// The flight in a slot.
    pub(super) fn get(&self, slot: u32) -> Option<&Flight> {
        self.slots.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Flight> {
        self.slots.get_mut(slot)
    }

    /// Takes a letter out: it has ended, or is called back. `siblings` are its user's.
    pub(super) fn land(&mut self, slot: u32, siblings: &mut Siblings) -> Option<Flight> {
        let flight = self.slots.remove(slot)?;
        let hash = self.hasher.hash_one((flight.user, flight.letter.id()));
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        let Links { previous, next } = flight.order;
        match self.slots.get_mut(previous) {
            Some(before) => before.order.next = next,
            None => self.order.first = next,
        }
        match self.slots.get_mut(next) {
            Some(after) => after.order.previous = previous,
            None => self.order.last = previous,
        }
        let Links { previous, next } = flight.siblings;
        match self.slots.get_mut(previous) {
            Some(before) => before.siblings.next = next,
            None => siblings.first = next,
        }
        if let Some(after) = self.slots.get_mut(next) {
            after.siblings.previous = previous;
        }
        siblings.count -= 1;
        Some(flight)
    }

    /// The letter that was sent first: its slot, and when.
    #[must_use]
    pub fn first(&self) -> Option<(u32, Tick)> {
        let slot = self.order.first;
        self.slots.get(slot).map(|flight| (slot, flight.sent_at))
    }
}
