//! Each user's messages: found by the user's slot, there only while it has some.
//!
//! **Runs on**: a shard. **Owns**: the entries of the table of users. **Never**: leaves an entry, or
//! a user in the directory, behind for messages that have all ended.

use super::in_flight::{InFlightMessage, InFlightSlot, UserInFlight};
use super::user_queue::UserQueue;
use super::{Context, Queues, Users};
use crate::base::id::{NotificationId, UserSlot};
use crate::queued_message::QueuedMessage;

/// One user's messages.
#[derive(Debug, Default)]
pub(super) struct UserMessages {
    /// What waits, and dead letters. `None` for the many who only have some in flight.
    pub(super) queue: Option<Box<UserQueue>>,
    pub(super) in_flight: UserInFlight,
}

impl Queues {
    /// What waits for a user, and its dead letters.
    pub(super) fn queue(&self, user: UserSlot) -> Option<&UserQueue> {
        self.users.get(user.0)?.queue.as_deref()
    }

    pub(super) fn queue_mut(&mut self, user: UserSlot) -> Option<&mut UserQueue> {
        let queue = self.users.get_mut(user.0)?.queue.as_deref_mut()?;
        self.tenant_counts.touch(user, queue);
        Some(queue)
    }

    /// The same, made for the first message.
    pub(super) fn open_queue(&mut self, user: UserSlot) -> &mut UserQueue {
        let messages = self.users.get_or_insert(user.0, UserMessages::default);
        let queue = messages.queue.get_or_insert_default();
        self.tenant_counts.touch(user, queue);
        queue
    }

    /// A user's messages in flight.
    pub(super) fn in_flight_of(&self, user: UserSlot) -> UserInFlight {
        self.users.get(user.0).map_or(UserInFlight::NONE, |messages| messages.in_flight)
    }

    /// A message was sent: it awaits its Ack, or is being written.
    pub(super) fn insert_in_flight(
        &mut self,
        cx: &Context<'_, impl Users>,
        user: UserSlot,
        message: QueuedMessage,
    ) {
        let messages = self.users.get_or_insert(user.0, UserMessages::default);
        self.in_flight.insert(user, message, cx.now.running, &mut messages.in_flight);
    }

    /// Takes a message out of those in flight.
    pub(super) fn remove_in_flight(&mut self, slot: InFlightSlot) -> InFlightMessage {
        let user = self.in_flight.get(slot).user;
        let messages = self.users.get_mut(user.0).expect("who has a message in flight is known");
        self.in_flight.remove(slot, &mut messages.in_flight)
    }

    /// Takes one of a user's messages out of those in flight.
    pub(super) fn pop_in_flight(&mut self, user: UserSlot) -> Option<QueuedMessage> {
        let first = self.in_flight_of(user).first()?;
        Some(self.remove_in_flight(first).message)
    }

    /// Takes the message with this id and sequence out of those in flight.
    pub(super) fn take_in_flight(
        &mut self,
        user: UserSlot,
        id: NotificationId,
        sequence: u64,
    ) -> Option<QueuedMessage> {
        let slot = self.in_flight.find_one(user, id, sequence)?;
        Some(self.remove_in_flight(slot).message)
    }

    /// Ends a replay that has nothing left, and forgets a queue that is empty and a user who has
    /// neither messages nor connections. Whoever may have ended a user's last message calls it last.
    pub(crate) fn tidy(&mut self, users: &mut impl Users, user: UserSlot) {
        if let Some(messages) = self.users.get_mut(user.0) {
            if let Some(queue) = &mut messages.queue {
                queue.replaying &= !queue.waiting().is_empty();
                if queue.is_empty() {
                    self.tenant_counts.forget(users.names(user).0, queue);
                    messages.queue = None;
                }
            }
            if messages.queue.is_some() || messages.in_flight.count > 0 {
                return;
            }
            self.users.remove(user.0);
        }
        users.forget_idle(user);
    }
}
