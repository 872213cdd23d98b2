//! Messages that were sent and have not ended, over all users of the shard. With acknowledgement they
//! end when they are acknowledged, without it when their user's connections have written them.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one entry a message in flight, found by
//! user and id. **Never**: has a timer per message: the timeout is the same for all, so those that
//! were sent first are overdue first; holds a message twice.
//!
//! An entry is on two lists that run through the table: its user's, and that of all in the order
//! they were sent. With its share of the index it costs 48 bytes and 5 to 10.

use std::num::NonZero;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::base::id::{NotificationId, Tick, UserSlot};
use crate::base::table::Table;
use crate::queued_message::QueuedMessage;

/// Why a link is followed without a question.
const LINKED: &str = "what a list or the index names is in the table";

/// An index with room for no more than this many keeps its room: where few messages come and go all the
/// time, nothing is allocated.
const INDEX_KEPT: usize = 1024;

/// The messages in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    entries: Table<InFlightMessage>,
    /// Found by user and id.
    index: HashTable<InFlightSlot>,
    hasher: RandomState,
    first_sent: Option<InFlightSlot>,
    last_sent: Option<InFlightSlot>,
}

/// A message's place among those in flight: one more than its number in the table, so that an
/// `Option` of it takes no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InFlightSlot(NonZero<u32>);

impl InFlightSlot {
    fn new(number: u32) -> Self {
        let slot = number.checked_add(1).and_then(NonZero::new);
        Self(slot.expect("a table has fewer than 2³² entries"))
    }

    const fn number(self) -> u32 {
        self.0.get() - 1
    }
}

/// One message in flight to one user.
#[derive(Debug)]
pub(crate) struct InFlightMessage {
    pub(crate) message: QueuedMessage,
    pub(crate) user: UserSlot,
    /// When it was sent last, in running time.
    pub(crate) sent_at: Tick,
    /// Its neighbours in the order of sending.
    order: Links,
    /// Its neighbours among its user's.
    user_list: Links,
}

const _: () = assert!(Table::<InFlightMessage>::ENTRY_BYTES == 48);

#[derive(Debug, Clone, Copy)]
struct Links {
    previous: Option<InFlightSlot>,
    next: Option<InFlightSlot>,
}

/// One user's messages in flight: the head of their list.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UserInFlight {
    first: Option<InFlightSlot>,
    pub(super) count: u32,
}

impl UserInFlight {
    pub(super) const NONE: Self = Self { first: None, count: 0 };

    /// One of them.
    pub(super) const fn first(self) -> Option<InFlightSlot> {
        self.first
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            entries: Table::default(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            first_sent: None,
            last_sent: None,
        }
    }
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A message was sent. `user_list` is its user's. One that is in flight already must not be sent
    /// again: who sends it has taken it out of where it was.
    pub(super) fn insert(
        &mut self,
        user: UserSlot,
        message: QueuedMessage,
        now: Tick,
        user_list: &mut UserInFlight,
    ) {
        let (id, sequence) = (message.id(), message.sequence());
        let hash = self.hasher.hash_one((user, id));
        let order = Links { previous: self.last_sent, next: None };
        let links = Links { previous: None, next: user_list.first };
        let entry = InFlightMessage { message, user, sent_at: now, order, user_list: links };
        let slot = InFlightSlot::new(self.entries.insert(entry));
        match self.last_sent {
            Some(last) => self.get_mut(last).order.next = Some(slot),
            None => self.first_sent = Some(slot),
        }
        self.last_sent = Some(slot);
        if let Some(next) = user_list.first {
            self.get_mut(next).user_list.previous = Some(slot);
        }
        user_list.first = Some(slot);
        user_list.count += 1;
        let (entries, hasher) = (&self.entries, &self.hasher);
        let entry_of = |slot: &InFlightSlot| entries.get(slot.number()).expect(LINKED);
        let is_it = |other: &InFlightSlot| {
            let other = entry_of(other);
            other.user == user && other.message.sequence() == sequence
        };
        let rehash = |slot: &InFlightSlot| {
            let entry = entry_of(slot);
            hasher.hash_one((entry.user, entry.message.id()))
        };
        let Entry::Vacant(entry) = self.index.entry(hash, is_it, rehash) else {
            panic!("notification {id} is in flight to this user already");
        };
        entry.insert(slot);
    }

    /// The messages of a user's list.
    pub(super) fn of(&self, user_list: UserInFlight) -> impl Iterator<Item = &InFlightMessage> {
        let mut next = user_list.first;
        std::iter::from_fn(move || {
            let entry = self.get(next?);
            next = entry.user_list.next;
            Some(entry)
        })
    }

    /// The next in its user's list.
    pub(super) fn next_of_user(&self, slot: InFlightSlot) -> Option<InFlightSlot> {
        self.get(slot).user_list.next
    }

    /// A message with this id in flight to this user. There may be two: a trigger that is repeated
    /// because nobody knows whether it was sent before a crash has the id it had.
    pub(super) fn find(&self, user: UserSlot, id: NotificationId) -> Option<InFlightSlot> {
        self.find_by(user, id, |message| message.id() == id)
    }

    /// The message with this id that the shard accepted as the `sequence`-th.
    pub(super) fn find_one(
        &self,
        user: UserSlot,
        id: NotificationId,
        sequence: u64,
    ) -> Option<InFlightSlot> {
        self.find_by(user, id, |message| message.sequence() == sequence)
    }

    fn find_by(
        &self,
        user: UserSlot,
        id: NotificationId,
        is_it: impl Fn(&QueuedMessage) -> bool,
    ) -> Option<InFlightSlot> {
        let is_it = |slot: &InFlightSlot| {
            let entry = self.get(*slot);
            entry.user == user && is_it(&entry.message)
        };
        self.index.find(self.hasher.hash_one((user, id)), is_it).copied()
    }

    pub(super) fn get(&self, slot: InFlightSlot) -> &InFlightMessage {
        self.entries.get(slot.number()).expect(LINKED)
    }

    pub(super) fn get_mut(&mut self, slot: InFlightSlot) -> &mut InFlightMessage {
        self.entries.get_mut(slot.number()).expect(LINKED)
    }

    /// Takes a message out: it has ended, or waits again. `user_list` is its user's.
    pub(super) fn remove(
        &mut self,
        slot: InFlightSlot,
        user_list: &mut UserInFlight,
    ) -> InFlightMessage {
        let entry = self.entries.remove(slot.number()).expect(LINKED);
        let hash = self.hasher.hash_one((entry.user, entry.message.id()));
        let indexed = self.index.find_entry(hash, |other| *other == slot);
        indexed.expect("the index knows every message in flight").remove();
        let capacity = self.index.capacity();
        if capacity > INDEX_KEPT && self.index.len() < capacity / 4 {
            let (entries, hasher) = (&self.entries, &self.hasher);
            let rehash = |slot: &InFlightSlot| {
                let entry = entries.get(slot.number()).expect(LINKED);
                hasher.hash_one((entry.user, entry.message.id()))
            };
            self.index.shrink_to(self.index.len() * 2, rehash);
        }
        let Links { previous, next } = entry.order;
        match previous {
            Some(before) => self.get_mut(before).order.next = next,
            None => self.first_sent = next,
        }
        match next {
            Some(after) => self.get_mut(after).order.previous = previous,
            None => self.last_sent = previous,
        }
        let Links { previous, next } = entry.user_list;
        match previous {
            Some(before) => self.get_mut(before).user_list.next = next,
            None => user_list.first = next,
        }
        if let Some(after) = next {
            self.get_mut(after).user_list.previous = previous;
        }
        user_list.count -= 1;
        entry
    }

    /// The message that was sent first of all, and when.
    pub(super) fn first(&self) -> Option<(InFlightSlot, Tick)> {
        self.first_sent.map(|slot| (slot, self.get(slot).sent_at))
    }
}
