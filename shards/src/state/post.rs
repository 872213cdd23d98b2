//! The post office: what becomes of a notification to a user until it is settled.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call; letters are in
//! mailboxes and flights. **Never**: lets a letter go without counting how it went.
//!
//! A letter waits in its user's mailbox, is sent (and, with acknowledgement, is in flight), and
//! ends acknowledged, expired, evicted, cleared, or given up. With acknowledgement off it ends when
//! its bytes are written: what a closing connection had not written comes back.

use std::sync::Arc;

use super::mailbox::Letter;
use super::{Outgoing, State, Urgency};
use crate::codec::dialect::ServerMessage;
use crate::frame::{Frame, Taken, Unsent};
use crate::id::{ConnectionKey, NotificationId, Tick};
use crate::limits::{
    DEAD_LETTERS_MAX, OVERDUE_PER_TURN, REPLAY_BACKLOG_BYTES, REPLAYS_PER_TURN, REPLAYS_PER_USER,
};
use crate::message::{Recipient, Tally};
use crate::notification::Notification;

/// To whom a letter is sent once more.
struct Sending {
    slot: u32,
    keys: Vec<ConnectionKey>,
    /// From the queue, rather than because nobody acknowledged.
    replayed: bool,
}

impl State {
    /// Settles what a delivery to one user came to: tracks it, or queues it. `offered` is what the
    /// user's connections took.
    pub(super) fn post(
        &mut self,
        user: &Recipient,
        notification: &Arc<Notification>,
        accepted: Taken,
        offered: Tally,
    ) -> Tally {
        let now = self.now;
        let taken = offered.delivered > 0;
        if (taken && self.limits.ack.is_none())
            || (!taken && (self.limits.queue.is_none() || is_now_or_never(notification)))
        {
            return offered;
        }
        let slot = self.directory.enter_user(&user.tenant, &user.user, user.hash);
        let mut letter = self.letter(notification, accepted);
        if taken {
            letter.attempts = 1;
            self.meter.ack_tracked += 1;
            self.depart(slot, letter, now);
            return offered;
        }
        let id = letter.id;
        self.put(slot, letter);
        self.meter.queue_enqueued += 1;
        let late = |key: &ConnectionKey| {
            let session = self.directory.session(*key);
            session.is_some_and(|session| notification.bytes(session.transport).is_empty())
                && self.is_meant(*key, notification.audience.as_deref())
        };
        if self.directory.user_connections(slot).iter().any(late) {
            // A client that came after the trigger was encoded gets it from the queue.
            self.begin_replay(slot, None);
        }
        let kept = self
            .directory
            .mailbox(slot)
            .is_some_and(|mailbox| mailbox.waiting().back().is_some_and(|last| last.id == id));
        Tally { queued: u32::from(kept), ..offered }
    }

    /// Whether new letters must wait behind others: the user is away, or its replay is not over.
    pub(super) fn must_wait(&self, user: &Recipient) -> bool {
        if self.limits.queue.is_none() {
            // There is nowhere to wait.
            return false;
        }
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        let mailbox = slot.and_then(|slot| self.directory.mailbox(slot));
        mailbox.is_some_and(|mailbox| mailbox.replaying)
    }

    fn letter(&self, notification: &Arc<Notification>, taken: Taken) -> Letter {
        let most = self.limits.queue.map(|queue| queue.ttl);
        let ttl = match (notification.ttl, most) {
            (Some(own), Some(most)) => Some(own.min(most)),
            (own, most) => own.or(most),
        };
        Letter {
            id: notification.id,
            sequence: taken.sequence,
            frame: notification.frame(),
            audience: notification.audience.clone(),
            expires_at: ttl.map_or(Tick(u32::MAX), |ttl| taken.at.after(ttl)),
            attempts: 0,
            priority: notification.priority,
        }
    }

    /// Puts a letter into a mailbox; whichever letter gives way for it is counted.
    fn put(&mut self, slot: u32, letter: Letter) {
        let most = self.limits.queue.map_or(0, |queue| queue.per_user_max);
        let Some(mailbox) = self.directory.open_mailbox(slot) else { return };
        if mailbox.put(letter, most).is_some() {
            self.meter.queue_dropped += 1;
        }
        self.arm_expiry(slot);
    }

    /// Sets the user's expiry timer to its first letter, unless it is set to that or earlier.
    fn arm_expiry(&mut self, slot: u32) {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        let Some(first) = mailbox.first_expiry().filter(|first| *first < Tick(u32::MAX)) else {
            return;
        };
        if mailbox.timer_at.is_none_or(|at| first < at) {
            mailbox.timer_at = Some(self.expiries.arm(ConnectionKey(slot), first));
        }
    }

    fn depart(&mut self, slot: u32, letter: Letter, now: Tick) {
        let Some(ack) = self.limits.ack else { return };
        let flight = self.flights.depart(slot, letter, now, now.after(ack.timeout));
        if let Some(mailbox) = self.directory.open_mailbox(slot) {
            mailbox.flights.push(flight);
        }
    }

    fn land(&mut self, flight: u32) -> Option<super::flights::Flight> {
        let landed = self.flights.land(flight)?;
        if let Some(mailbox) = self.directory.mailbox_mut(landed.user)
            && let Some(at) = mailbox.flights.iter().position(|other| *other == flight)
        {
            mailbox.flights.swap_remove(at);
        }
        Some(landed)
    }

    /// Begins the replay of a user who has come back. What it says it has seen is settled first.
    pub(super) fn begin_replay(&mut self, slot: u32, seen: Option<NotificationId>) {
        if let Some(id) = seen
            && let Some(mailbox) = self.directory.mailbox_mut(slot)
        {
            let settled = mailbox.take_through(id).len();
            self.meter.acked += u64::try_from(settled).unwrap_or(0);
        }
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        mailbox.replaying = !mailbox.waiting().is_empty();
        self.list_replay(slot);
    }

    /// Puts a user whose replay is under way among those that get letters, once.
    fn list_replay(&mut self, slot: u32) {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        if mailbox.replaying && !std::mem::replace(&mut mailbox.listed, true) {
            self.replays.push_back(slot);
        }
    }

    /// Goes on with replays, as far as a turn and the readers' outboxes allow. Returns whether
    /// there is more to do at once.
    pub fn poll_replays(&mut self, now: Tick, out: &mut impl Outgoing) -> bool {
        self.now = now;
        for _ in 0..REPLAYS_PER_TURN.min(self.replays.len()) {
            let Some(slot) = self.replays.pop_front() else { break };
            if let Some(mailbox) = self.directory.mailbox_mut(slot) {
                mailbox.listed = false;
            }
            if self.replay_some(slot, now, out) {
                self.list_replay(slot);
            }
        }
        !self.replays.is_empty()
    }

    /// The connection's outbox has room again.
    pub fn handle_room(&mut self, key: ConnectionKey) {
        let Some(session) = self.directory.session(key) else { return };
        self.list_replay(session.home.user);
    }

    /// Sends a user some of its letters; true if it should be called again in the next turn.
    fn replay_some(&mut self, slot: u32, now: Tick, out: &mut impl Outgoing) -> bool {
        for _ in 0..REPLAYS_PER_USER {
            let keys: Vec<ConnectionKey> = self.directory.user_connections(slot).to_vec();
            let has_room = |key: &&ConnectionKey| {
                out.backlog_bytes(**key).is_some_and(|bytes| bytes < REPLAY_BACKLOG_BYTES)
            };
            let ready: Vec<ConnectionKey> = keys.iter().filter(has_room).copied().collect();
            let Some(mailbox) = self.directory.mailbox_mut(slot) else { return false };
            if ready.is_empty() {
                // Called again when one has room, or when the user comes back.
                mailbox.replaying = !keys.is_empty();
                watch(&keys, out);
                return false;
            }
            let mut expired = 0;
            let letter = mailbox.next(now, |_| expired += 1);
            self.meter.queue_expired += expired;
            let Some(letter) = letter else {
                mailbox.replaying = false;
                self.directory.tidy_user(slot);
                return false;
            };
            if !self.send_again(&Sending { slot, keys: ready, replayed: true }, letter, out) {
                watch(&keys, out);
                return false;
            }
        }
        true
    }

    /// Sends a letter once more, counting the attempt. False if nobody whom it is for has room for
    /// it: it waits again.
    fn send_again(
        &mut self,
        sending: &Sending,
        mut letter: Letter,
        out: &mut impl Outgoing,
    ) -> bool {
        let Sending { slot, keys, replayed } = sending;
        let (slot, replayed, now) = (*slot, *replayed, self.now);
        let untouched = letter.clone();
        letter.attempts = letter.attempts.saturating_add(1);
        let frame = Frame::letter(letter.clone(), replayed);
        let mut taken = false;
        for key in keys {
            taken |= self.is_meant(*key, letter.audience.as_deref())
                && out.offer(*key, &frame, Urgency::Prompt);
        }
        if !taken {
            // Nobody here is meant, or nobody who is had room.
            let mut here = self.directory.user_connections(slot).iter();
            let meant = here.any(|key| self.is_meant(*key, letter.audience.as_deref()));
            if meant {
                self.put(slot, untouched);
            } else {
                self.meter.queue_dropped += 1;
            }
            return !meant;
        }
        if replayed {
            self.meter.queue_replayed += 1;
        }
        if self.limits.ack.is_some() {
            if untouched.attempts == 0 {
                self.meter.ack_tracked += 1;
            }
            self.depart(slot, letter, now);
        }
        true
    }

    /// Takes back what a connection that is leaving had not written, and, if it was the user's
    /// last, what was not acknowledged. Call while its session is still known.
    pub(super) fn take_back(&mut self, key: ConnectionKey, unsent: Vec<Unsent>) {
        let Some(session) = self.directory.session(key) else { return };
        let slot = session.home.user;
        let is_last = self.directory.user_connections(slot).len() <= 1;
        if !is_last {
            // The replay may have waited for its room.
            self.list_replay(slot);
        }
        if self.limits.ack.is_some() {
            if is_last {
                self.recall(slot);
            }
        } else if is_last && self.limits.queue.is_some() {
            for Unsent { frame, .. } in unsent {
                let letter = match &*frame {
                    Frame::Letter(repeated) => repeated.letter.clone(),
                    Frame::Personal(notification, taken) if !is_now_or_never(notification) => {
                        self.letter(notification, *taken)
                    }
                    _ => {
                        self.meter.frames_discarded += u64::from(frame.is_notification());
                        continue;
                    }
                };
                self.put(slot, letter);
            }
            if let Some(mailbox) = self.directory.mailbox_mut(slot) {
                mailbox.replaying = false;
            }
            return;
        }
        let lost = unsent.iter().filter(|unsent| !unsent.is_begun).count();
        self.meter.frames_discarded += u64::try_from(lost).unwrap_or(0);
    }

    /// Calls every letter of a user back into its mailbox, or counts them if there is no queue.
    fn recall(&mut self, slot: u32) {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        mailbox.replaying = false;
        let flights = std::mem::take(&mut mailbox.flights);
        for flight in flights {
            if let Some(landed) = self.flights.land(flight) {
                self.keep_or_expire(slot, landed.letter);
            }
        }
        if self.limits.queue.is_none()
            && let Some(mailbox) = self.directory.mailbox_mut(slot)
        {
            // What waited to be sent again has no queue to wait in either.
            let waiting = mailbox.take_waiting().len();
            self.meter.ack_expired += u64::try_from(waiting).unwrap_or(0);
        }
    }

    fn keep_or_expire(&mut self, slot: u32, letter: Letter) {
        let requeue = self.limits.ack.is_some_and(|ack| ack.requeue);
        if requeue && self.limits.queue.is_some() {
            self.put(slot, letter);
        } else {
            self.meter.ack_expired += 1;
        }
    }

    /// An Ack came from one of the user's connections, or over the API. False if nothing of that
    /// id awaited one: unknown, another user's, and settled before all look the same.
    pub(super) fn settle(
        &mut self,
        slot: u32,
        id: NotificationId,
        from: Option<ConnectionKey>,
        out: &mut impl Outgoing,
    ) -> bool {
        let now = self.now;
        let sent_at = match self.flights.find(slot, id) {
            Some(flight) => self.land(flight).map(|landed| landed.sent_at),
            // It came after the timeout, while the letter waits to be sent again.
            None => {
                let mailbox = self.directory.mailbox_mut(slot);
                mailbox.and_then(|mailbox| mailbox.take_sent(id)).map(|_| now)
            }
        };
        let Some(sent_at) = sent_at else { return false };
        self.meter.acked += 1;
        self.meter.ack_latency_ms_sum += now.as_millis().saturating_sub(sent_at.as_millis());
        let others: Vec<ConnectionKey> = self.directory.user_connections(slot).to_vec();
        for key in others {
            let session = self.directory.session(key);
            let hears = session.is_some_and(|session| session.hears_settled);
            if hears && Some(key) != from {
                let message = ServerMessage::Settled { notification_id: id.to_string() };
                self.reply(key, &message, out);
            }
        }
        self.directory.tidy_user(slot);
        true
    }

    /// Deals with letters whose Ack is overdue and letters whose time is over. Returns whether
    /// there is more to do at once.
    pub fn handle_deadlines(&mut self, now: Tick, out: &mut impl Outgoing) -> bool {
        self.now = now;
        let mut fired = Vec::new();
        self.expiries.expire(now, &mut fired);
        for (slot, due) in fired {
            self.expire_letters(slot.0, due, now);
        }
        for _ in 0..OVERDUE_PER_TURN {
            let Some(flight) = self.flights.overdue(now) else { return false };
            if let Some(landed) = self.land(flight) {
                self.meter.ack_timeouts += 1;
                self.handle_overdue(landed.user, landed.letter, now, out);
                self.directory.tidy_user(landed.user);
            }
        }
        true
    }

    fn handle_overdue(&mut self, slot: u32, letter: Letter, now: Tick, out: &mut impl Outgoing) {
        let Some(ack) = self.limits.ack else { return };
        if !ack.requeue {
            self.meter.ack_expired += 1;
        } else if letter.expires_at <= now {
            self.meter.queue_expired += 1;
        } else if letter.attempts >= ack.attempts_max {
            self.meter.dead_letters += 1;
            if let Some(mailbox) = self.directory.open_mailbox(slot) {
                // The oldest given up makes room; it was counted when it was given up.
                mailbox.bury(letter, DEAD_LETTERS_MAX);
            }
        } else {
            let keys: Vec<ConnectionKey> = self.directory.user_connections(slot).to_vec();
            if keys.is_empty() {
                self.keep_or_expire(slot, letter);
            } else if !self.send_again(&Sending { slot, keys, replayed: false }, letter, out) {
                self.begin_replay(slot, None);
            }
        }
    }

    fn expire_letters(&mut self, slot: u32, due: Tick, now: Tick) {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        if mailbox.timer_at != Some(due) {
            return;
        }
        mailbox.timer_at = None;
        let mut expired = 0;
        mailbox.expire(now, |_| expired += 1);
        self.meter.queue_expired += expired;
        self.arm_expiry(slot);
        self.directory.tidy_user(slot);
    }

    /// When [`Self::handle_deadlines`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        match (self.flights.next_deadline(), self.expiries.next()) {
            (Some(flight), Some(expiry)) => Some(flight.min(expiry)),
            (flight, expiry) => flight.or(expiry),
        }
    }
}

/// Asks to be told when one of these has written all. Those that have already are not waited for.
fn watch(keys: &[ConnectionKey], out: &mut impl Outgoing) {
    for key in keys {
        if out.backlog_bytes(*key).is_some_and(|bytes| bytes > 0) {
            out.watch(*key);
        }
    }
}

fn is_now_or_never(notification: &Notification) -> bool {
    notification.ttl.is_some_and(|ttl| ttl.is_zero())
}
