//! The post office: what becomes of a notification to a user until it is settled.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call; messages are in
//! queues and flights. **Never**: lets a message go without counting how it went; copies one.
//!
//! A message is in one place: it waits in its user's queue, is in flight, or is a dead message. Only
//! its owner holds it, and whoever moves it takes it out first. It ends acknowledged, expired,
//! evicted, cleared, or given up; with acknowledgement off it is in flight until its bytes are
//! written, and what a closing connection had not written waits again. (A notification that was sent
//! at once with acknowledgement off is no message yet: it becomes one if the user's last connection
//! leaves without having written it.) Where messages are kept on disk, each begins with
//! [`State::keep`] and ends with [`State::finish`], nowhere else.

use std::sync::Arc;

use super::user_queue::{DeadLetter, QueuedMessage};
use super::{State, in_flight};
use crate::base::id::{ConnectionKey, Tick};
use crate::base::limits::{DEAD_LETTERS_MAX, IN_FLIGHT_PER_USER_MAX};
use crate::link::message::{DeliveryCounts, Recipient};
use crate::notification::{Audience, Notification};

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Acknowledged.
    Acked,
    /// Its time was over.
    Expired,
    /// It gave way to others, was cleared, or is for nobody who came.
    Dropped,
    /// Not acknowledged, and not to be sent again.
    Unacked,
    /// The disk did not take it after all.
    Refused,
    /// A dead message whose time was over.
    Forgotten,
    /// Written to its reader, with acknowledgement off; or a dead message that made room for others;
    /// or cleared. Counted when it was sent, given up, or cleared.
    Counted,
}

impl State {
    /// Settles what a delivery to one user came to: tracks it, or queues it. `offered` is what the
    /// user's connections took.
    pub(super) fn post(
        &mut self,
        user: &Recipient,
        notification: &Arc<Notification>,
        sequence: u64,
        offered: DeliveryCounts,
    ) -> DeliveryCounts {
        let taken = offered.delivered > 0;
        let head = notification.head();
        let waits = self.limits.queue.is_some() && head.expires_at > self.now;
        if (taken && self.limits.ack.is_none())
            || (!taken && (!waits || is_for_others(head.audience.as_deref(), &user.user)))
        {
            return offered;
        }
        let slot = self.directory.enter_user(&user.tenant, &user.user, user.hash);
        let is_window_full = self.is_window_full(slot);
        if taken && is_window_full {
            // Without a queue there is nowhere to wait: it is delivered, and not awaited.
            self.counters.ack_tracked += 1;
            self.counters.ack_expired += 1;
            return offered;
        }
        let mut message = QueuedMessage::new(notification.keep(), sequence);
        if taken {
            message = message.sent(1);
            if head.expires_at > self.now && self.limits.ack.is_some_and(|ack| ack.requeue) {
                // It has been delivered: a disk that refuses it costs only its repetition.
                let _counted = self.keep(slot, &mut message);
            }
            self.counters.ack_tracked += 1;
            self.depart(slot, message);
            return offered;
        }
        if !self.keep(slot, &mut message) {
            self.directory.tidy_user(slot);
            return DeliveryCounts { refused: 1, ..offered };
        }
        match &mut self.store {
            Some(store) => store.queued(slot, &message),
            None => self.counters.queue_enqueued += 1,
        }
        let kept = self.put(slot, message);
        let late = |key: &ConnectionKey| {
            let session = self.directory.session(*key);
            session.is_some_and(|session| !notification.is_encoded_in(session.protocol.encoding()))
                && self.matches_audience(*key, head.audience.as_deref())
        };
        if is_window_full || self.directory.user_connections(slot).iter().any(late) {
            // It waits for Acks; or a client came after the trigger was encoded.
            self.begin_replay(slot, None);
        }
        DeliveryCounts { queued: u32::from(kept), ..offered }
    }

    /// Whether new messages must wait: the user's replay is not over, or too many are on their way.
    pub(super) fn must_wait(&self, user: &Recipient) -> bool {
        if self.limits.queue.is_none() {
            // There is nowhere to wait.
            return false;
        }
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        slot.is_some_and(|slot| {
            let queue = self.directory.queue(slot);
            self.is_window_full(slot) || queue.is_some_and(|queue| queue.replaying)
        })
    }

    /// Whether as many messages of a user are on their way as may be.
    pub(super) fn is_window_full(&self, slot: u32) -> bool {
        let most = self.limits.ack.map_or(IN_FLIGHT_PER_USER_MAX, |ack| ack.in_flight_max);
        self.directory.flights(slot).count >= most
    }

    /// Gives a message a place on the disk, where messages are kept there. False if the disk refuses.
    pub(super) fn keep(&mut self, slot: u32, message: &mut QueuedMessage) -> bool {
        let Some(store) = &mut self.store else { return true };
        let Some((tenant, user)) = self.directory.names(slot) else { return false };
        let kept = store.keep((tenant, user), message);
        self.counters.queue_refused += u64::from(!kept);
        kept
    }

    /// A message has ended: counts how, and lets go of its place on the disk.
    pub(super) fn finish(&mut self, message: &QueuedMessage, end: End) {
        let counters = &mut self.counters;
        match end {
            End::Acked => counters.acked += 1,
            End::Expired => counters.queue_expired += 1,
            End::Dropped => counters.queue_dropped += 1,
            End::Unacked => counters.ack_expired += 1,
            End::Refused => counters.queue_refused += 1,
            End::Forgotten => counters.dead_letters_expired += 1,
            End::Counted => {}
        }
        if let (Some(store), Some(place)) = (&mut self.store, message.place) {
            store.end(place);
        }
    }

    pub(super) fn finish_all(
        &mut self,
        messages: impl IntoIterator<Item = QueuedMessage>,
        end: End,
    ) {
        for message in messages {
            self.finish(&message, end);
        }
    }

    /// Puts a message into a queue; whichever message gives way for it is counted. Returns whether
    /// it waits there now.
    pub(super) fn put(&mut self, slot: u32, message: QueuedMessage) -> bool {
        let most = self.limits.queue.map_or(0, |queue| queue.per_user_max);
        let (sequence, expires_at) = (message.sequence(), message.expires_at());
        let queue = self.directory.open_queue(slot);
        let loser = queue.expect("who puts a message knows its user").put(message, most);
        let is_kept = loser.as_ref().is_none_or(|loser| loser.sequence() != sequence);
        if let Some(loser) = loser {
            self.finish(&loser, End::Dropped);
            // The replay may have waited for its reader.
            self.list_replay(slot);
        }
        self.arm_expiry(slot, expires_at);
        is_kept
    }

    /// Has the user's expiry timer fire at a message's end, if it does not before.
    pub(super) fn arm_expiry(&mut self, slot: u32, first: Tick) {
        let Some(queue) = self.directory.queue_mut(slot) else { return };
        if first < Tick(u32::MAX) && queue.timer_at.is_none_or(|at| first < at) {
            queue.timer_at = Some(self.expiries.arm(ConnectionKey(slot), first));
        }
    }

    /// Gives a message up: it is kept for being looked at.
    pub(super) fn bury(&mut self, slot: u32, message: QueuedMessage) {
        self.counters.dead_letters += 1;
        let until = self.end_of_dead_letter();
        self.keep_dead(slot, DeadLetter { message, until }, true);
    }

    /// When a message that is given up now is forgotten.
    pub(super) fn end_of_dead_letter(&self) -> Tick {
        let ttl = self.limits.queue.map(|queue| queue.dead_letter_ttl).unwrap_or_default();
        if ttl.is_zero() { Tick(u32::MAX) } else { self.now.after(ttl) }
    }

    /// Takes a dead message in, and notes on disk that it is one, if that is `new`.
    pub(super) fn keep_dead(&mut self, slot: u32, dead: DeadLetter, new: bool) {
        let DeadLetter { message, until } = &dead;
        let until = *until;
        if let (Some(store), Some(place)) = (&mut self.store, message.place)
            && new
        {
            store.bury(place, message.attempts(), until);
        }
        let queue = self.directory.open_queue(slot);
        let queue = queue.expect("who gives a message up knows its user");
        // The oldest given up makes room; it was counted when it was given up.
        if let Some(oldest) = queue.bury(dead, DEAD_LETTERS_MAX) {
            self.finish(&oldest, End::Counted);
        }
        self.arm_expiry(slot, until);
    }

    /// A message was sent: it awaits its Ack, or is being written.
    pub(super) fn depart(&mut self, slot: u32, message: QueuedMessage) {
        let user_list = self.directory.in_flight_of_mut(slot);
        let user_list = user_list.expect("who sends a message knows its user");
        let sent_at = self.running.of(self.now);
        self.flights.depart(slot, message, sent_at, user_list);
    }

    /// Takes a message out of the flights.
    pub(super) fn land(&mut self, entry: u32) -> Option<in_flight::InFlightMessage> {
        let user = self.flights.get(entry)?.user;
        self.flights.land(entry, self.directory.in_flight_of_mut(user)?)
    }
}

/// Whether an audience of users does not name this one.
fn is_for_others(audience: Option<&Audience>, name: &str) -> bool {
    let Some(Audience::Users(users)) = audience else { return false };
    users.binary_search_by(|user| (**user).cmp(name)).is_err()
}
