//! Acknowledgement: by the Ack of a client or the API, and by what a client says it has seen last.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: takes for seen what may have been overtaken by what the client names.

use super::enqueue::End;
use super::waiting::Seen;
use super::{Context, Queues, Users};
use crate::base::id::{NotificationId, UserSlot};
use crate::base::limits::MESSAGES_PER_TURN;

impl Queues {
    /// An Ack came. False if nothing of that id awaited one: unknown, another user's, and acknowledged
    /// before all look the same. Followed by [`Self::tidy`].
    pub(crate) fn acknowledge(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        id: NotificationId,
    ) -> bool {
        let now = cx.now.running;
        let (message, sent_at) = match self.in_flight.find(user, id) {
            Some(slot) => {
                let removed = self.remove_in_flight(slot);
                (removed.message, removed.sent_at)
            }
            // It came after the timeout, while the message waits to be sent again.
            None => match self.queue_mut(user).and_then(|queue| queue.take_sent(id)) {
                Some(message) => (message, now),
                None => return false,
            },
        };
        // The replay may have waited for this one.
        self.schedule_replay(user);
        self.end(cx.counters, &message, End::Acknowledged);
        cx.counters.ack_latency_ms_sum += now.as_millis().saturating_sub(sent_at.as_millis());
        true
    }

    /// A client says which notification it has seen last: what its user was sent up to that is
    /// acknowledged, unless the notification may have overtaken it.
    pub(crate) fn acknowledge_seen(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        id: NotificationId,
    ) {
        let in_flight = self.in_flight.find(user, id).map(|slot| &self.in_flight.get(slot).message);
        let waiting = self.queue(user).and_then(|queue| queue.waiting().find(id, false));
        let last = in_flight.or(waiting).map(|last| (last.sequence(), last.priority()));
        let Some((sequence, priority)) = last.or_else(|| self.recent.find(id)) else { return };
        let seen = Seen::up_to(sequence, priority);
        let mut next = self.in_flight_of(user).first();
        while let Some(slot) = next {
            next = self.in_flight.next_of_user(slot);
            if seen.includes(&self.in_flight.get(slot).message) {
                let removed = self.remove_in_flight(slot);
                self.end(cx.counters, &removed.message, End::Acknowledged);
            }
        }
        if let Some(queue) = self.queue_mut(user) {
            queue.note_seen(seen);
        }
        self.acknowledge_some_seen(cx, user);
    }

    /// Acknowledges what a client has seen of what waits, a turn's worth of it. Returns whether that
    /// was all. Nothing is replayed before, so that nothing is taken for seen that is sent only then.
    pub(super) fn acknowledge_some_seen(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
    ) -> bool {
        let mut seen = std::mem::take(&mut self.ending);
        let queue = self.queue_mut(user);
        let is_all = queue.is_none_or(|queue| queue.take_seen(MESSAGES_PER_TURN, &mut seen));
        for message in seen.drain(..) {
            self.end(cx.counters, &message, End::Acknowledged);
        }
        self.ending = seen;
        is_all
    }
}
