//! Deadlines, and work that is put off: messages whose time is over, and messages that were cleared.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: does more in a turn than its share: the rest follows in the next turns.

use super::enqueue::End;
use super::{Context, Outboxes, Queues, Users};
use crate::base::counters::Counters;
use crate::base::id::{Tick, UserSlot};
use crate::base::limits::MESSAGES_PER_TURN;

impl Queues {
    /// Deals with messages whose time is over and messages whose Ack is overdue, and ends the
    /// records of what was cleared. Returns whether there is more to do at once.
    pub(crate) fn handle_deadlines(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        out: &mut impl Outboxes,
    ) -> bool {
        self.expire_some(cx)
            | self.end_cleared(cx.counters, MESSAGES_PER_TURN)
            | self.redeliver_overdue(cx, out)
    }

    /// When the first message expires, by the clock.
    pub(crate) fn next_expiry(&self) -> Option<Tick> {
        self.expiries.next()
    }

    /// When the first Ack is overdue, in running time.
    pub(crate) fn next_overdue(&self) -> Option<Tick> {
        self.first_overdue().map(|(_, at)| at)
    }

    /// Has the user's expiry timer fire at the end of a message, if it does not before.
    pub(super) fn arm_expiry(&mut self, user: UserSlot, end: Tick) {
        let messages = self.users.get_mut(user.0);
        let Some(queue) = messages.and_then(|messages| messages.queue.as_deref_mut()) else {
            return;
        };
        if end != Tick::NEVER && queue.timer_at.is_none_or(|at| end < at) {
            queue.timer_at = Some(self.expiries.arm(user, end));
        }
    }

    /// Ends messages whose time is over, a turn's worth of them. Returns whether there are more.
    fn expire_some(&mut self, cx: &mut Context<'_, impl Users>) -> bool {
        let mut fired = Vec::new();
        self.expiries.expire(cx.now.clock, &mut fired);
        self.expiring.extend(fired);
        let mut budget = MESSAGES_PER_TURN;
        while let Some((user, due)) = self.expiring.pop_front() {
            if !self.expire_messages(cx, user, due, &mut budget) {
                self.expiring.push_front((user, due));
                return true;
            }
        }
        false
    }

    /// Ends a user's messages whose time is over; false if the budget was used up before.
    fn expire_messages(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        due: Tick,
        budget: &mut usize,
    ) -> bool {
        loop {
            // A timer that was set again, or a user that has gone: the entry is stale.
            let Some(queue) = self.queue_mut(user) else { return true };
            if queue.timer_at != Some(due) {
                return true;
            }
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            if let Some(message) = queue.pop_expired(cx.now.clock) {
                self.end(cx.counters, &message, End::Expired);
            } else if let Some(message) = queue.pop_forgotten(cx.now.clock) {
                self.end(cx.counters, &message, End::Forgotten);
            } else {
                queue.timer_at = None;
                if let Some(next) = queue.first_end() {
                    self.arm_expiry(user, next);
                }
                // The replay may have waited for the reader of one that is gone.
                self.schedule_replay(user);
                self.tidy(cx.users, user);
                return true;
            }
        }
    }

    /// Ends the records of messages that were cleared, so many of them. Returns whether there are
    /// more.
    pub(super) fn end_cleared(&mut self, counters: &mut Counters, most: usize) -> bool {
        for _ in 0..most {
            let Some(waiting) = self.cleared.front_mut() else { return false };
            match waiting.pop_first() {
                // It was counted when it was cleared.
                Some(message) => self.end(counters, &message, End::Counted),
                None => drop(self.cleared.pop_front()),
            }
        }
        !self.cleared.is_empty()
    }
}
