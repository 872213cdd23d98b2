//! Letters that were sent and await their Ack, over all users of the shard.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one entry a letter on its way, found by
//! user and id. **Never**: has a timer per letter: the timeout is the same for all, so deadlines
//! are a queue, and an entry that was settled is skipped when its turn comes.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::mailbox::Letter;
use crate::id::{NotificationId, Tick};

/// The letters on their way.
#[derive(Debug, Default)]
pub struct Flights {
    slots: Slab<Flight>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    deadlines: VecDeque<Deadline>,
    departures: u32,
}

/// One letter on its way to one user.
#[derive(Debug)]
pub struct Flight {
    /// The letter.
    pub letter: Letter,
    /// The user's place in the directory.
    pub user: u32,
    /// When it was sent last.
    pub sent_at: Tick,
    /// Tells this departure from others in the same slot.
    departure: u32,
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Tick,
    slot: u32,
    departure: u32,
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

    /// A letter was sent; it is overdue at `deadline`, which never goes back. Returns its slot.
    pub fn depart(&mut self, user: u32, letter: Letter, now: Tick, deadline: Tick) -> u32 {
        self.departures = self.departures.wrapping_add(1);
        let departure = self.departures;
        let hash = self.hasher.hash_one((user, letter.id));
        let slot = self.slots.insert(Flight { letter, user, sent_at: now, departure });
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_name.insert_unique(hash, slot, |slot| {
            let flight = slots.get(*slot as usize);
            flight.map_or(0, |flight| hasher.hash_one((flight.user, flight.letter.id)))
        });
        self.deadlines.push_back(Deadline { at: deadline, slot, departure });
        slot
    }

    /// The flight in a slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&Flight> {
        self.slots.get(slot as usize)
    }

    /// The slot of a letter on its way to this user.
    #[must_use]
    pub fn find(&self, user: u32, id: NotificationId) -> Option<u32> {
        let slots = &self.slots;
        let is_it = |slot: &u32| {
            let flight = slots.get(*slot as usize);
            flight.is_some_and(|flight| flight.user == user && flight.letter.id == id)
        };
        self.by_name.find(self.hasher.hash_one((user, id)), is_it).copied()
    }

    /// Takes a letter out: it has arrived, or is called back.
    pub fn land(&mut self, slot: u32) -> Option<Flight> {
        let flight = self.slots.try_remove(slot as usize)?;
        let hash = self.hasher.hash_one((flight.user, flight.letter.id));
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        // The queue of deadlines is never much longer than what is on its way.
        if self.deadlines.len() > 2 * self.slots.len() + 64 {
            let slots = &self.slots;
            self.deadlines.retain(|deadline| is_current(slots, deadline));
        }
        Some(flight)
    }

    /// The slot of the next letter whose deadline has passed.
    pub fn overdue(&mut self, now: Tick) -> Option<u32> {
        loop {
            let deadline = *self.deadlines.front()?;
            let current = is_current(&self.slots, &deadline);
            if current && deadline.at > now {
                return None;
            }
            self.deadlines.pop_front();
            if current {
                return Some(deadline.slot);
            }
        }
    }

    /// When to look for overdue letters again; that one may have been settled by then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.front().map(|deadline| deadline.at)
    }
}

fn is_current(slots: &Slab<Flight>, deadline: &Deadline) -> bool {
    let flight = slots.get(deadline.slot as usize);
    flight.is_some_and(|flight| flight.departure == deadline.departure)
}
