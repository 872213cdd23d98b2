//! What tests of the whole state may look at.
//!
//! **Runs on**: a test. **Owns**: nothing. **Never**: changes anything, but for the store's own tests.

use super::Queues;
use crate::base::id::{Tick, UserSlot};
use crate::queued_message::QueuedMessage;
use crate::store::disk::DiskStore;

impl Queues {
    pub(crate) fn waiting_of(&self, user: UserSlot) -> Vec<&QueuedMessage> {
        self.queue(user).into_iter().flat_map(|queue| queue.waiting().iter()).collect()
    }

    /// And when each is forgotten.
    pub(crate) fn dead_letters_of(&self, user: UserSlot) -> Vec<(&QueuedMessage, Tick)> {
        let dead_letters = self.queue(user).into_iter().flat_map(|queue| queue.dead_letters());
        dead_letters.map(|dead_letter| (&dead_letter.message, dead_letter.until)).collect()
    }

    /// And when each was sent. The index must find the same.
    pub(crate) fn in_flight_messages_of(&self, user: UserSlot) -> Vec<(&QueuedMessage, Tick)> {
        let entries = self.in_flight.of(self.in_flight_of(user));
        let checked = entries.map(|entry| {
            assert_eq!(entry.user, user);
            let message = &entry.message;
            let found = self.in_flight.find_one(user, message.id(), message.sequence());
            assert!(found.is_some_and(|slot| std::ptr::eq(self.in_flight.get(slot), entry)));
            (message, entry.sent_at)
        });
        checked.collect()
    }

    /// Messages in flight, over all users.
    pub(crate) fn in_flight_total(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether no user has a message, or an entry without one.
    pub(crate) fn is_clear(&self) -> bool {
        self.users.is_empty() && self.in_flight.len() == 0
    }

    pub(crate) fn disk_store(&mut self) -> &mut DiskStore {
        self.store.as_disk().expect("the test has put one there")
    }
}
