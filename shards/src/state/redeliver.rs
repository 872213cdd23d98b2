//! What comes back: messages a closing connection leaves, Acks, and times that are over.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: scans users or messages for what is due: both kinds of deadline come in their order.

use super::enqueue::End;
use super::in_flight::InFlightMessage;
use super::user_queue::QueuedMessage;
use super::{Outgoing, State};
use crate::base::id::{ConnectionKey, NotificationId, Tick};
use crate::base::limits::{LETTERS_PER_TURN, OVERDUE_PER_TURN};
use crate::outbound::{OutboundMessage, Redelivery, Unsent};
use crate::protocol::Event;

impl State {
    /// Takes back what a connection that is leaving had not written, and, if it was the user's
    /// last, what was not acknowledged. Call while its session is still known.
    pub(super) fn take_back(&mut self, key: ConnectionKey, unsent: Vec<Unsent>) {
        let Some(session) = self.directory.session(key) else { return };
        let slot = session.home.user;
        let is_last = self.directory.user_connections(slot).len() <= 1;
        if !is_last {
            // The replay may have waited for its room, and the end of others for its writing.
            self.list_replay(slot);
            if self.limits.ack.is_none() && self.directory.flights(slot).count > 0 {
                self.looks.push(slot);
            }
        }
        if self.limits.ack.is_some() {
            if is_last {
                let unsent = unsent.iter().filter(|unsent| !unsent.is_begun);
                let mut unsent: Vec<_> = unsent.filter_map(|unsent| unsent.frame.id()).collect();
                unsent.sort_unstable();
                self.recall(slot, &unsent);
            }
        } else if self.limits.queue.is_some() {
            if is_last {
                self.take_back_last(slot, &unsent);
            } else {
                self.take_back_some(slot, &unsent);
            }
            return;
        }
        let lost = unsent.iter().filter(|unsent| !unsent.is_begun).count();
        self.counters.frames_discarded += lost as u64;
    }

    /// Acknowledgement is off, and others of the user's connections read on: of the messages in
    /// flight, those wait again that no other has written, or holds.
    fn take_back_some(&mut self, slot: u32, unsent: &[Unsent]) {
        for Unsent { frame, is_begun } in unsent {
            match &**frame {
                OutboundMessage::Redelivery(redelivery) => {
                    if redelivery.give_back() {
                        self.put_back_unwritten(slot, redelivery);
                    }
                }
                _ => self.counters.frames_discarded += u64::from(!is_begun),
            }
        }
        self.begin_replay(slot, None);
    }

    /// Acknowledgement is off, and the user's last connection leaves: what it had not written
    /// waits again, what it had, or others before, is done.
    fn take_back_last(&mut self, slot: u32, unsent: &[Unsent]) {
        for Unsent { frame, .. } in unsent {
            match &**frame {
                OutboundMessage::Redelivery(redelivery) => {
                    self.put_back_unwritten(slot, redelivery)
                }
                // It becomes a message now: of all its frames only this one is left to come back.
                OutboundMessage::Personal(notification, sequence)
                    if notification.head().expires_at > Tick(0) =>
                {
                    self.put_back(slot, QueuedMessage::new(notification.keep(), *sequence));
                }
                _ => self.counters.frames_discarded += u64::from(frame.is_notification()),
            }
        }
        while let Some(landed) = self.land(self.directory.flights(slot).first()) {
            self.finish(&landed.message, End::Counted);
        }
        if let Some(queue) = self.directory.queue_mut(slot) {
            queue.replaying = false;
        }
    }

    /// Nobody has written a message that was sent without acknowledgement: it waits again, unless
    /// it has ended meanwhile.
    fn put_back_unwritten(&mut self, slot: u32, redelivery: &Redelivery) {
        let entry = self.flights.find_one(slot, redelivery.id, redelivery.sequence);
        let Some(InFlightMessage { message, .. }) = entry.and_then(|entry| self.land(entry)) else {
            return;
        };
        if let (Some(store), Some(place)) = (&mut self.store, message.place) {
            // Its attempt has not been noted when it was sent: most are written.
            store.change(place, message.attempts());
        }
        self.put_back(slot, message);
    }

    /// A message that its owner has given up waits again. The only way back into the queue from a
    /// connection: the message is moved, so it cannot be put back twice.
    fn put_back(&mut self, slot: u32, mut message: QueuedMessage) {
        if message.place.is_none() {
            // It was not to be sent again, or refused: it is in memory in any case.
            let _counted = self.keep(slot, &mut message);
        }
        self.put(slot, message);
    }

    /// The process stops: what a connection that leaves is still writing stays on disk, since it
    /// may not arrive. Nothing is moved from now on, since nobody would know where it is.
    pub(super) fn leave_unwritten(&mut self, key: ConnectionKey) {
        let (Some(store), Some(session)) = (&mut self.store, self.directory.session(key)) else {
            return;
        };
        store.stop_moving();
        let slot = session.home.user;
        if self.limits.ack.is_none() {
            while self.land(self.directory.flights(slot).first()).is_some() {}
        }
    }

    /// Calls every message of a user back into its queue, or counts them if there is no queue.
    /// What is `unsent`, in ascending order, has not been tried by its last attempt.
    fn recall(&mut self, slot: u32, unsent: &[NotificationId]) {
        let Some(ack) = self.limits.ack else { return };
        while let Some(InFlightMessage { message, .. }) =
            self.land(self.directory.flights(slot).first())
        {
            let is_tried = unsent.binary_search(&message.id()).is_err();
            if self.limits.queue.is_none() || (is_tried && !ack.requeue) {
                self.finish(&message, End::Unacked);
            } else if is_tried && message.attempts() >= ack.attempts_max {
                self.bury(slot, message);
            } else {
                self.put_back(slot, message);
            }
        }
        let Some(queue) = self.directory.queue_mut(slot) else { return };
        queue.replaying = false;
        if self.limits.queue.is_none() {
            // What waited to be sent again has no queue to wait in either. It was in flight, and so
            // it is bounded.
            let mut waiting = queue.take_waiting();
            while let Some(message) = waiting.pop_first() {
                self.finish(&message, End::Unacked);
            }
        }
    }

    /// An Ack came. False if nothing of that id awaited one: unknown, another user's, and settled
    /// before all look the same. The user's connections are to be told ([`Self::tell_settled`]).
    pub(super) fn settle(&mut self, slot: u32, id: NotificationId) -> bool {
        let now = self.running.of(self.now);
        let settled = match self.flights.find(slot, id) {
            Some(entry) => self.land(entry).map(|landed| (landed.message, landed.sent_at)),
            // It came after the timeout, while the message waits to be sent again.
            None => {
                let queue = self.directory.queue_mut(slot);
                let message = queue.and_then(|queue| queue.take_sent(id));
                message.map(|message| (message, now))
            }
        };
        let Some((message, sent_at)) = settled else { return false };
        // The replay may have waited for this one.
        self.list_replay(slot);
        self.finish(&message, End::Acked);
        self.counters.ack_latency_ms_sum += now.as_millis().saturating_sub(sent_at.as_millis());
        true
    }

    /// Tells the user's connections that asked for it, but not the one it came `from`.
    pub(super) fn notify_settled_to_others(
        &mut self,
        slot: u32,
        id: NotificationId,
        from: Option<ConnectionKey>,
        out: &mut impl Outgoing,
    ) {
        let mut others = std::mem::take(&mut self.told);
        let keys = self.directory.user_connections(slot).iter().copied();
        others.extend(keys.filter(|key| {
            let session = self.directory.session(*key);
            session.is_some_and(|session| session.notify_settled) && Some(*key) != from
        }));
        for key in others.drain(..) {
            self.tell(key, &Event::Settled(id), out);
        }
        self.told = others;
        self.directory.tidy_user(slot);
    }

    /// Deals with messages whose Ack is overdue and messages whose time is over, and lets go of what
    /// was cleared. Returns whether there is more to do at once.
    pub fn handle_deadlines(&mut self, now: Tick, out: &mut impl Outgoing) -> bool {
        self.now = now;
        let more = self.expire_some() | self.release_cleared(LETTERS_PER_TURN);
        let running = self.running.of(now);
        for _ in 0..OVERDUE_PER_TURN {
            if self.first_overdue().is_none_or(|(at, _)| at > running) {
                return more;
            }
            let Some(landed) = self.first_overdue().and_then(|(_, entry)| self.land(entry)) else {
                return more;
            };
            self.counters.ack_timeouts += 1;
            self.handle_overdue(landed.user, landed.message, now, out);
            self.list_replay(landed.user);
            self.directory.tidy_user(landed.user);
        }
        true
    }

    fn handle_overdue(
        &mut self,
        slot: u32,
        message: QueuedMessage,
        now: Tick,
        out: &mut impl Outgoing,
    ) {
        let Some(ack) = self.limits.ack else { return };
        if !ack.requeue {
            self.finish(&message, End::Unacked);
        } else if message.expires_at() <= now {
            self.finish(&message, End::Expired);
        } else if message.attempts() >= ack.attempts_max {
            self.bury(slot, message);
        } else {
            if self.directory.user_connections(slot).is_empty() {
                self.put(slot, message);
            } else if !self.send_again(slot, message, false, out) {
                self.begin_replay(slot, None);
            }
        }
    }

    /// Ends messages whose time is over, a turn's worth of them. Returns whether there are more.
    fn expire_some(&mut self) -> bool {
        let mut fired = Vec::new();
        self.expiries.expire(self.now, &mut fired);
        self.expiring.extend(fired.into_iter().map(|(slot, due)| (slot.0, due)));
        let mut budget = LETTERS_PER_TURN;
        while let Some((slot, due)) = self.expiring.pop_front() {
            if !self.expire_messages(slot, due, &mut budget) {
                self.expiring.push_front((slot, due));
                return true;
            }
        }
        false
    }

    /// Ends a user's messages whose time is over; false if the budget was used up before.
    fn expire_messages(&mut self, slot: u32, due: Tick, budget: &mut usize) -> bool {
        let now = self.now;
        loop {
            let Some(queue) = self.directory.queue_mut(slot) else { return true };
            if queue.timer_at != Some(due) {
                return true;
            }
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            if let Some(message) = queue.pop_expired(now) {
                self.finish(&message, End::Expired);
            } else if let Some(message) = queue.pop_forgotten(now) {
                self.finish(&message, End::Forgotten);
            } else {
                queue.timer_at = None;
                let next = queue.first_end();
                self.arm_expiry(slot, next.unwrap_or(Tick(u32::MAX)));
                // The replay may have waited for the reader of one that is gone.
                self.list_replay(slot);
                self.directory.tidy_user(slot);
                return true;
            }
        }
    }

    /// Releases the records of messages that were cleared, so many of them. Returns whether there
    /// are more.
    pub(super) fn release_cleared(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(waiting) = self.cleared.front_mut() else { return false };
            match waiting.pop_first() {
                // It was counted when it was cleared.
                Some(message) => self.finish(&message, End::Counted),
                None => drop(self.cleared.pop_front()),
            }
        }
        !self.cleared.is_empty()
    }

    /// When [`Self::handle_deadlines`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let overdue = self.first_overdue().map(|(at, _)| self.running.on_clock(at));
        overdue.into_iter().chain(self.expiries.next()).min()
    }

    /// The message whose Ack is overdue first, and when it is, in running time.
    fn first_overdue(&self) -> Option<(Tick, u32)> {
        let ack = self.limits.ack?;
        self.flights.first().map(|(slot, sent_at)| (sent_at.after(ack.timeout), slot))
    }
}
