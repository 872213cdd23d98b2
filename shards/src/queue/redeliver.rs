//! What comes back: messages that a closing connection leaves, and messages whose Ack is overdue.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: scans users or messages for what is due: deadlines come in their order.

use super::enqueue::End;
use super::in_flight::{InFlightMessage, InFlightSlot};
use super::replay::Resend;
use super::{Content, Context, Outboxes, Queues, Unwritten, Users};
use crate::base::id::{NotificationId, Tick, UserSlot};
use crate::base::limits::OVERDUE_PER_TURN;
use crate::queued_message::QueuedMessage;

impl Queues {
    /// Takes back what a connection that is leaving had not written, and, if it was the user's
    /// last, what was not acknowledged. Call while it is still among the user's connections.
    pub(crate) fn take_back(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        unwritten: &[Unwritten<'_>],
    ) {
        let is_last = cx.users.connections(user).len() <= 1;
        if !is_last {
            // The replay may have waited for its room, and the end of others for its writing.
            self.schedule_replay(user);
            if self.ack.is_none() && self.in_flight_of(user).count > 0 {
                self.maybe_written.push(user);
            }
        }
        if self.ack.is_some() {
            if is_last {
                let untried = unwritten.iter().filter(|unwritten| !unwritten.is_begun);
                let mut untried: Vec<NotificationId> =
                    untried.filter_map(|unwritten| unwritten.content.id()).collect();
                untried.sort_unstable();
                self.requeue_in_flight(cx, user, &untried);
            }
        } else if self.can_wait() {
            if is_last {
                self.take_back_last(cx, user, unwritten);
            } else {
                self.take_back_some(cx, user, unwritten);
            }
            return;
        }
        let lost = unwritten.iter().filter(|unwritten| !unwritten.is_begun).count();
        cx.counters.frames_discarded += lost as u64;
    }

    /// Acknowledgement is off, and others of the user's connections read on: of the messages in
    /// flight, those wait again that no other has written, or holds.
    fn take_back_some(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        unwritten: &[Unwritten<'_>],
    ) {
        for Unwritten { content, is_begun } in unwritten {
            match *content {
                Content::Queued { id, sequence, is_last_copy } => {
                    if is_last_copy {
                        self.requeue_unwritten(cx, user, id, sequence);
                    }
                }
                _ => cx.counters.frames_discarded += u64::from(!is_begun),
            }
        }
        self.begin_replay(user);
    }

    /// Acknowledgement is off, and the user's last connection leaves: what it had not written
    /// waits again, what it had, or others before, is done.
    fn take_back_last(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        unwritten: &[Unwritten<'_>],
    ) {
        for Unwritten { content, .. } in unwritten {
            match *content {
                // One that another connection has written is ended below, with the rest.
                Content::Queued { id, sequence, is_last_copy } => {
                    if is_last_copy {
                        self.requeue_unwritten(cx, user, id, sequence);
                    }
                }
                // It becomes a message now: of all its frames only this one is left to come back.
                Content::Personal(notification, sequence)
                    if notification.head().expires_at > Tick::NOW_OR_NEVER =>
                {
                    self.requeue(cx, user, QueuedMessage::new(notification.share(), sequence));
                }
                Content::Personal(..) | Content::Shared(_) => cx.counters.frames_discarded += 1,
                Content::Other => {}
            }
        }
        while let Some(message) = self.pop_in_flight(user) {
            self.end(cx.counters, &message, End::Counted);
        }
        if let Some(queue) = self.queue_mut(user) {
            queue.replaying = false;
        }
    }

    /// Nobody has written a message that was sent without acknowledgement: it waits again, unless
    /// it has ended meanwhile.
    fn requeue_unwritten(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        id: NotificationId,
        sequence: u64,
    ) {
        let Some(message) = self.take_in_flight(user, id, sequence) else { return };
        if let Some(record) = message.record {
            // Its attempt has not been noted when it was sent: most are written.
            self.store.note_attempts(record, message.attempts());
        }
        self.requeue(cx, user, message);
    }

    /// A message that is no longer in flight waits again. The only way back into the queue from a
    /// connection: the message is moved, so it cannot come back twice.
    fn requeue(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        mut message: QueuedMessage,
    ) {
        if message.record.is_none() {
            // It was not to be sent again, or refused: it is in memory in any case.
            let _counted = self.persist(cx, user, &mut message);
        }
        self.enqueue(cx, user, message);
    }

    /// The process stops, and one of the user's connections leaves: what it is still writing stays in
    /// a store that outlives the process, since it may not arrive.
    pub(crate) fn leave_unwritten(&mut self, user: UserSlot) {
        if self.store.begin_stop() && self.ack.is_none() {
            while self.pop_in_flight(user).is_some() {}
        }
    }

    /// The user's last connection leaves: all that was sent waits again, or is counted if there is no
    /// queue. What is `untried`, in ascending order, was not reached by its last attempt.
    fn requeue_in_flight(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        untried: &[NotificationId],
    ) {
        let ack = self.ack.expect("without acknowledgement a message ends when it is written");
        while let Some(message) = self.pop_in_flight(user) {
            let is_tried = untried.binary_search(&message.id()).is_err();
            if !self.can_wait() || (is_tried && !ack.requeue) {
                self.end(cx.counters, &message, End::Unacknowledged);
            } else if is_tried && message.attempts() >= ack.attempts_max {
                self.make_dead_letter(cx, user, message);
            } else {
                self.requeue(cx, user, message);
            }
        }
        let can_wait = self.can_wait();
        let Some(queue) = self.queue_mut(user) else { return };
        queue.replaying = false;
        if !can_wait {
            // What waited to be sent again has no queue to wait in either. It was in flight, and so
            // it is bounded.
            let mut waiting = queue.take_waiting();
            while let Some(message) = waiting.pop_first() {
                self.end(cx.counters, &message, End::Unacknowledged);
            }
        }
    }

    /// Deals with messages whose Ack is overdue, a turn's worth of them. Returns whether there are
    /// more.
    pub(super) fn redeliver_overdue(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        out: &mut impl Outboxes,
    ) -> bool {
        for _ in 0..OVERDUE_PER_TURN {
            let first = self.first_overdue().filter(|(_, at)| *at <= cx.now.running);
            let Some((slot, _)) = first else { return false };
            let InFlightMessage { message, user, .. } = self.remove_in_flight(slot);
            cx.counters.ack_timeouts += 1;
            self.handle_overdue(cx, user, message, out);
            self.schedule_replay(user);
            self.tidy(cx.users, user);
        }
        true
    }

    fn handle_overdue(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        message: QueuedMessage,
        out: &mut impl Outboxes,
    ) {
        let ack = self.ack.expect("without acknowledgement no Ack is overdue");
        if !ack.requeue {
            self.end(cx.counters, &message, End::Unacknowledged);
        } else if message.expires_at() <= cx.now.clock {
            self.end(cx.counters, &message, End::Expired);
        } else if message.attempts() >= ack.attempts_max {
            self.make_dead_letter(cx, user, message);
        } else if cx.users.connections(user).is_empty() {
            self.enqueue(cx, user, message);
        } else if !self.send_again(cx, user, Resend { message, is_replayed: false }, out) {
            self.begin_replay(user);
        }
    }

    /// The message whose Ack is overdue first, and when it is, in running time.
    pub(super) fn first_overdue(&self) -> Option<(InFlightSlot, Tick)> {
        let ack = self.ack?;
        self.in_flight.first().map(|(slot, sent_at)| (slot, sent_at.after(ack.timeout)))
    }
}
