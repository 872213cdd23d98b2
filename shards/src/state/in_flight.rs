//! Messages that were sent and have not ended, over all users of the shard: with acknowledgement they
//! end when they are acknowledged, without it when their user's connections have written them.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one entry a message on its way, found by
//! user and id. **Never**: has a timer per message: the timeout is the same for all, so those that
//! were sent first are overdue first; holds a message twice.
//!
//! An entry is on two lists that run through the table: its user's, and that of all in the order
//! they were sent. With its share of the index it costs 48 bytes and 5 to 10.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::user_queue::QueuedMessage;
use crate::base::id::{NotificationId, Tick};
use crate::base::table::Table;

/// No entry.
const NONE: u32 = u32::MAX;

/// The messages on their way.
#[derive(Debug)]
pub struct InFlight {
    slots: Table<InFlightMessage>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    /// The first sent and the last.
    order: Ends,
}

/// One message on its way to one user.
#[derive(Debug)]
pub struct InFlightMessage {
    /// The message.
    pub message: QueuedMessage,
    /// The user's place in the directory.
    pub user: u32,
    /// When it was sent last, in running time.
    pub sent_at: Tick,
    /// Its neighbours in the order of sending.
    order: Links,
    /// Its neighbours among its user's.
    user_list: Links,
}

const _: () = assert!(size_of::<InFlightMessage>() == 48);

#[derive(Debug, Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

/// One user's messages on their way.
#[derive(Debug, Clone, Copy)]
pub(super) struct UserInFlight {
    first: u32,
    pub(super) count: u32,
}

impl UserInFlight {
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

impl Default for InFlight {
    fn default() -> Self {
        Self {
            slots: Table::default(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            order: Ends { first: NONE, last: NONE },
        }
    }
}

impl InFlight {
    /// Messages on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A message was sent. `siblings` are its user's.
    pub(super) fn depart(
        &mut self,
        user: u32,
        message: QueuedMessage,
        now: Tick,
        user_list: &mut UserInFlight,
    ) {
        let (id, sequence) = (message.id(), message.sequence());
        let hash = self.hasher.hash_one((user, id));
        let order = Links { previous: self.order.last, next: NONE };
        let links = Links { previous: NONE, next: user_list.first };
        let entry = InFlightMessage { message, user, sent_at: now, order, user_list: links };
        let slot = self.slots.insert(entry);
        match self.slots.get_mut(self.order.last) {
            Some(before) => before.order.next = slot,
            None => self.order.first = slot,
        }
        self.order.last = slot;
        if let Some(next) = self.slots.get_mut(user_list.first) {
            next.user_list.previous = slot;
        }
        user_list.first = slot;
        user_list.count += 1;
        let (slots, hasher) = (&self.slots, &self.hasher);
        let is_it = |other: &u32| {
            let entry = slots.get(*other);
            entry.is_some_and(|entry| entry.user == user && entry.message.sequence() == sequence)
        };
        let rehash = |slot: &u32| {
            let entry = slots.get(*slot);
            entry.map_or(0, |entry| hasher.hash_one((entry.user, entry.message.id())))
        };
        let Entry::Vacant(entry) = self.by_name.entry(hash, is_it, rehash) else {
            panic!("notification {id} is on its way to this user already");
        };
        entry.insert(slot);
    }

    /// The flights of a user's list.
    pub(super) fn of(&self, user_list: UserInFlight) -> impl Iterator<Item = &InFlightMessage> {
        let mut slot = user_list.first;
        std::iter::from_fn(move || {
            let entry = self.slots.get(slot)?;
            slot = entry.user_list.next;
            Some(entry)
        })
    }

    /// The next in the list of the flight's user.
    pub(super) const fn next_of(&self, entry: &InFlightMessage) -> u32 {
        entry.user_list.next
    }

    /// A message with this id on its way to this user. There may be two: a trigger that is repeated
    /// because nobody knows whether it was sent before a crash has the id it had.
    #[must_use]
    pub fn find(&self, user: u32, id: NotificationId) -> Option<u32> {
        self.find_by(user, id, |message| message.id() == id)
    }

    /// The message with this id that the shard accepted as the `sequence`-th.
    pub(super) fn find_one(&self, user: u32, id: NotificationId, sequence: u64) -> Option<u32> {
        self.find_by(user, id, |message| message.sequence() == sequence)
    }

    fn find_by(
        &self,
        user: u32,
        id: NotificationId,
        is_it: impl Fn(&QueuedMessage) -> bool,
    ) -> Option<u32> {
        let is_it = |slot: &u32| {
            let entry = self.slots.get(*slot);
            entry.is_some_and(|entry| entry.user == user && is_it(&entry.message))
        };
        self.by_name.find(self.hasher.hash_one((user, id)), is_it).copied()
    }

    /// The flight in a slot.
    pub(super) fn get(&self, slot: u32) -> Option<&InFlightMessage> {
        self.slots.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut InFlightMessage> {
        self.slots.get_mut(slot)
    }

    /// Takes a message out: it has ended, or is called back. `siblings` are its user's.
    pub(super) fn land(
        &mut self,
        slot: u32,
        user_list: &mut UserInFlight,
    ) -> Option<InFlightMessage> {
        let entry = self.slots.remove(slot)?;
        let hash = self.hasher.hash_one((entry.user, entry.message.id()));
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        let Links { previous, next } = entry.order;
        match self.slots.get_mut(previous) {
            Some(before) => before.order.next = next,
            None => self.order.first = next,
        }
        match self.slots.get_mut(next) {
            Some(after) => after.order.previous = previous,
            None => self.order.last = previous,
        }
        let Links { previous, next } = entry.user_list;
        match self.slots.get_mut(previous) {
            Some(before) => before.user_list.next = next,
            None => user_list.first = next,
        }
        if let Some(after) = self.slots.get_mut(next) {
            after.user_list.previous = previous;
        }
        user_list.count -= 1;
        Some(entry)
    }

    /// The message that was sent first: its slot, and when.
    #[must_use]
    pub fn first(&self) -> Option<(u32, Tick)> {
        let slot = self.order.first;
        self.slots.get(slot).map(|entry| (slot, entry.sent_at))
    }
}
