//! The post office: what becomes of a notification to a user until it is settled.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call; letters are in
//! mailboxes and flights. **Never**: lets a letter go without counting how it went; copies one.
//!
//! A letter is in one place: it waits in its user's mailbox, is in flight, or is a dead letter. Only
//! its owner holds it, and whoever moves it takes it out first. It ends acknowledged, expired,
//! evicted, cleared, or given up; with acknowledgement off it is in flight until its bytes are
//! written, and what a closing connection had not written waits again. (A notification that was sent
//! at once with acknowledgement off is no letter yet: it becomes one if the user's last connection
//! leaves without having written it.) Where letters are kept on disk, each begins with
//! [`State::keep`] and ends with [`State::finish`], nowhere else.

use std::sync::Arc;

use super::mailbox::{DeadLetter, Letter};
use super::{State, flights};
use crate::id::{ConnectionKey, Tick};
use crate::limits::{DEAD_LETTERS_MAX, IN_FLIGHT_PER_USER_MAX};
use crate::message::{Recipient, Tally};
use crate::notification::{Audience, Notification};

/// How a letter ended.
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
    /// A dead letter whose time was over.
    Forgotten,
    /// Written to its reader, with acknowledgement off; or a dead letter that made room for others;
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
        offered: Tally,
    ) -> Tally {
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
            self.meter.ack_tracked += 1;
            self.meter.ack_expired += 1;
            return offered;
        }
        let mut letter = Letter::new(notification.keep(), sequence);
        if taken {
            letter = letter.sent(1);
            if head.expires_at > self.now && self.limits.ack.is_some_and(|ack| ack.requeue) {
                // It has been delivered: a disk that refuses it costs only its repetition.
                let _counted = self.keep(slot, &mut letter);
            }
            self.meter.ack_tracked += 1;
            self.depart(slot, letter);
            return offered;
        }
        if !self.keep(slot, &mut letter) {
            self.directory.tidy_user(slot);
            return Tally { refused: 1, ..offered };
        }
        match &mut self.vault {
            Some(vault) => vault.queued(slot, &letter),
            None => self.meter.queue_enqueued += 1,
        }
        let kept = self.put(slot, letter);
        let late = |key: &ConnectionKey| {
            let session = self.directory.session(*key);
            session.is_some_and(|session| notification.bytes(session.transport).is_empty())
                && self.is_meant(*key, head.audience.as_deref())
        };
        if is_window_full || self.directory.user_connections(slot).iter().any(late) {
            // It waits for Acks; or a client came after the trigger was encoded.
            self.begin_replay(slot, None);
        }
        Tally { queued: u32::from(kept), ..offered }
    }

    /// Whether new letters must wait: the user's replay is not over, or too many are on their way.
    pub(super) fn must_wait(&self, user: &Recipient) -> bool {
        if self.limits.queue.is_none() {
            // There is nowhere to wait.
            return false;
        }
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        slot.is_some_and(|slot| {
            let mailbox = self.directory.mailbox(slot);
            self.is_window_full(slot) || mailbox.is_some_and(|mailbox| mailbox.replaying)
        })
    }

    /// Whether as many letters of a user are on their way as may be.
    pub(super) fn is_window_full(&self, slot: u32) -> bool {
        let most = self.limits.ack.map_or(IN_FLIGHT_PER_USER_MAX, |ack| ack.in_flight_max);
        self.directory.flights(slot).count >= most
    }

    /// Gives a letter a place on the disk, where letters are kept there. False if the disk refuses.
    pub(super) fn keep(&mut self, slot: u32, letter: &mut Letter) -> bool {
        let Some(vault) = &mut self.vault else { return true };
        let Some((tenant, user)) = self.directory.names(slot) else { return false };
        let kept = vault.keep((tenant, user), letter);
        self.meter.queue_refused += u64::from(!kept);
        kept
    }

    /// A letter has ended: counts how, and lets go of its place on the disk.
    pub(super) fn finish(&mut self, letter: &Letter, end: End) {
        let meter = &mut self.meter;
        match end {
            End::Acked => meter.acked += 1,
            End::Expired => meter.queue_expired += 1,
            End::Dropped => meter.queue_dropped += 1,
            End::Unacked => meter.ack_expired += 1,
            End::Refused => meter.queue_refused += 1,
            End::Forgotten => meter.dead_letters_expired += 1,
            End::Counted => {}
        }
        if let (Some(vault), Some(place)) = (&mut self.vault, letter.place) {
            vault.end(place);
        }
    }

    pub(super) fn finish_all(&mut self, letters: impl IntoIterator<Item = Letter>, end: End) {
        for letter in letters {
            self.finish(&letter, end);
        }
    }

    /// Puts a letter into a mailbox; whichever letter gives way for it is counted. Returns whether
    /// it waits there now.
    pub(super) fn put(&mut self, slot: u32, letter: Letter) -> bool {
        let most = self.limits.queue.map_or(0, |queue| queue.per_user_max);
        let (sequence, expires_at) = (letter.sequence(), letter.expires_at());
        let mailbox = self.directory.open_mailbox(slot);
        let loser = mailbox.expect("who puts a letter knows its user").put(letter, most);
        let is_kept = loser.as_ref().is_none_or(|loser| loser.sequence() != sequence);
        if let Some(loser) = loser {
            self.finish(&loser, End::Dropped);
            // The replay may have waited for its reader.
            self.list_replay(slot);
        }
        self.arm_expiry(slot, expires_at);
        is_kept
    }

    /// Has the user's expiry timer fire at a letter's end, if it does not before.
    pub(super) fn arm_expiry(&mut self, slot: u32, first: Tick) {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        if first < Tick(u32::MAX) && mailbox.timer_at.is_none_or(|at| first < at) {
            mailbox.timer_at = Some(self.expiries.arm(ConnectionKey(slot), first));
        }
    }

    /// Gives a letter up: it is kept for being looked at.
    pub(super) fn bury(&mut self, slot: u32, letter: Letter) {
        self.meter.dead_letters += 1;
        let until = self.end_of_dead_letter();
        self.keep_dead(slot, DeadLetter { letter, until }, true);
    }

    /// When a letter that is given up now is forgotten.
    pub(super) fn end_of_dead_letter(&self) -> Tick {
        let ttl = self.limits.queue.map(|queue| queue.dead_letter_ttl).unwrap_or_default();
        if ttl.is_zero() { Tick(u32::MAX) } else { self.now.after(ttl) }
    }

    /// Takes a dead letter in, and notes on disk that it is one, if that is `new`.
    pub(super) fn keep_dead(&mut self, slot: u32, dead: DeadLetter, new: bool) {
        let DeadLetter { letter, until } = &dead;
        let until = *until;
        if let (Some(vault), Some(place)) = (&mut self.vault, letter.place)
            && new
        {
            vault.bury(place, letter.attempts(), until);
        }
        let mailbox = self.directory.open_mailbox(slot);
        let mailbox = mailbox.expect("who gives a letter up knows its user");
        // The oldest given up makes room; it was counted when it was given up.
        if let Some(oldest) = mailbox.bury(dead, DEAD_LETTERS_MAX) {
            self.finish(&oldest, End::Counted);
        }
        self.arm_expiry(slot, until);
    }

    /// A letter was sent: it awaits its Ack, or is being written.
    pub(super) fn depart(&mut self, slot: u32, letter: Letter) {
        let siblings = self.directory.flights_mut(slot);
        let siblings = siblings.expect("who sends a letter knows its user");
        let sent_at = self.running.of(self.now);
        self.flights.depart(slot, letter, sent_at, siblings);
    }

    /// Takes a letter out of the flights.
    pub(super) fn land(&mut self, flight: u32) -> Option<flights::Flight> {
        let user = self.flights.get(flight)?.user;
        self.flights.land(flight, self.directory.flights_mut(user)?)
    }
}

/// Whether an audience of users does not name this one.
fn is_for_others(audience: Option<&Audience>, name: &str) -> bool {
    let Some(Audience::Users(users)) = audience else { return false };
    users.binary_search_by(|user| (**user).cmp(name)).is_err()
}
