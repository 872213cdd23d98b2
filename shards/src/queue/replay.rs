//! Sending messages from the queue, and again: the replay and its pace.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: floods an outbox, or starves other users: so many messages a user and turn, and none
//! while much waits for the reader.

use super::enqueue::End;
use super::{Context, Outboxes, Queues, Users};
use crate::base::id::{ConnectionKey, UserSlot};
use crate::base::limits::{REPLAY_BACKLOG_BYTES, REPLAYS_PER_TURN, REPLAYS_PER_USER};
use crate::queued_message::QueuedMessage;

/// A message to send once more.
#[derive(Debug)]
pub(super) struct Resend {
    pub(super) message: QueuedMessage,
    /// From the queue, at the reader's pace; if not, because nobody acknowledged it in time.
    pub(super) is_replayed: bool,
}

impl Queues {
    /// Begins the replay of what waits for a user, if anything does.
    pub(crate) fn begin_replay(&mut self, user: UserSlot) {
        let Some(queue) = self.queue_mut(user) else { return };
        queue.replaying = !queue.waiting().is_empty();
        self.schedule_replay(user);
    }

    /// Has a replay that is under way go on in the next turn.
    pub(super) fn schedule_replay(&mut self, user: UserSlot) {
        let Some(queue) = self.queue_mut(user) else { return };
        if queue.replaying && !std::mem::replace(&mut queue.is_scheduled, true) {
            self.replays.push_back(user);
        }
    }

    /// Goes on with replays, as far as a turn and the readers' outboxes allow. Returns whether
    /// there is more to do at once.
    pub(crate) fn poll_replays(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        out: &mut impl Outboxes,
    ) -> bool {
        while let Some(user) = self.maybe_written.pop() {
            self.end_written(cx, user, out);
        }
        for _ in 0..REPLAYS_PER_TURN.min(self.replays.len()) {
            let Some(user) = self.replays.pop_front() else { break };
            if let Some(queue) = self.queue_mut(user) {
                queue.is_scheduled = false;
            }
            if self.replay_some(cx, user, out) {
                self.schedule_replay(user);
            }
        }
        !self.replays.is_empty()
    }

    /// One of the user's connections has room again: nothing waits in its outbox.
    pub(crate) fn handle_room(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        out: &mut impl Outboxes,
    ) {
        self.end_written(cx, user, out);
        self.schedule_replay(user);
    }

    /// Acknowledgement is off: messages end once all the user's connections have written all.
    fn end_written(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        out: &mut impl Outboxes,
    ) {
        if self.ack.is_some() || self.in_flight_of(user).count == 0 {
            return;
        }
        let mut keys = cx.users.connections(user).iter();
        if keys.all(|key| out.backlog_bytes(*key).is_none_or(|bytes| bytes == 0)) {
            // They are at most as many as may be in flight.
            while let Some(message) = self.pop_in_flight(user) {
                self.end(cx.counters, &message, End::Counted);
            }
            // The replay may have waited for these.
            self.schedule_replay(user);
            self.tidy(cx.users, user);
        } else {
            watch(cx.users.connections(user), out);
        }
    }

    /// Sends a user some of its messages; true if it should be called again in the next turn.
    fn replay_some(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        out: &mut impl Outboxes,
    ) -> bool {
        if !self.acknowledge_some_seen(cx, user) {
            return true;
        }
        for _ in 0..REPLAYS_PER_USER {
            let is_window_full = self.is_window_full(user);
            let Some(queue) = self.queue_mut(user) else { return false };
            let keys = cx.users.connections(user);
            if !keys.iter().any(|key| has_room(*key, out)) {
                // Called again when one has room, or when the user comes back.
                queue.replaying = !keys.is_empty();
                watch(keys, out);
                return false;
            }
            if is_window_full {
                // Called again when one of those in flight has ended.
                return false;
            }
            let Some(message) = queue.pop_first() else {
                self.tidy(cx.users, user);
                return false;
            };
            if message.expires_at() <= cx.now.clock {
                self.end(cx.counters, &message, End::Expired);
            } else {
                let resend = Resend { message, is_replayed: true };
                if !self.send_again(cx, user, resend, out) {
                    watch(cx.users.connections(user), out);
                    return false;
                }
            }
        }
        true
    }

    /// Sends a message once more, and counts the attempt. False if nobody whom it is for has room for
    /// it: it waits again.
    pub(super) fn send_again(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        resend: Resend,
        out: &mut impl Outboxes,
    ) -> bool {
        let Resend { message, is_replayed } = resend;
        let keys = cx.users.connections(user).iter().copied();
        self.recipients.extend(keys.filter(|key| cx.users.matches(*key, message.audience())));
        let has_reader = !self.recipients.is_empty();
        if is_replayed {
            self.recipients.retain(|key| has_room(*key, out));
        }
        let attempts_before = message.attempts();
        let message = message.sent(attempts_before.saturating_add(1));
        let copies = match &*self.recipients {
            [] => 0,
            recipients => out.send(&message, is_replayed, recipients),
        };
        self.recipients.clear();
        if !has_reader {
            self.end(cx.counters, &message, End::Dropped);
            return true;
        }
        if copies == 0 {
            self.enqueue(cx, user, message.sent(attempts_before));
            return false;
        }
        cx.counters.queue_replayed += u64::from(is_replayed);
        if self.ack.is_some() {
            cx.counters.ack_tracked += u64::from(attempts_before == 0);
            if let Some(record) = message.record {
                self.store.note_attempts(record, message.attempts());
            }
        } else {
            // It ends when its bytes are written.
            watch(cx.users.connections(user), out);
        }
        self.insert_in_flight(cx, user, message);
        true
    }
}

/// Asks to be told when one of a user's connections has written all. Those that have already are not
/// waited for.
fn watch(keys: &[ConnectionKey], out: &mut impl Outboxes) {
    for key in keys {
        if out.backlog_bytes(*key).is_some_and(|bytes| bytes > 0) {
            out.watch(*key);
        }
    }
}

/// Whether so little waits for a reader that a replay goes on.
fn has_room(key: ConnectionKey, out: &impl Outboxes) -> bool {
    out.backlog_bytes(key).is_some_and(|bytes| bytes < REPLAY_BACKLOG_BYTES)
}
