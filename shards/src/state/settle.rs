//! What comes back: letters a closing connection leaves, Acks, and times that are over.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: scans users or letters for what is due: both kinds of deadline come in their order.

use super::flights::Flight;
use super::mailbox::Letter;
use super::post::End;
use super::replay::Sending;
use super::{Outgoing, State};
use crate::codec::dialect::ServerMessage;
use crate::frame::{Frame, Unsent};
use crate::id::{ConnectionKey, NotificationId, Tick};
use crate::limits::OVERDUE_PER_TURN;

impl State {
    /// Takes back what a connection that is leaving had not written, and, if it was the user's
    /// last, what was not acknowledged. Call while its session is still known.
    pub(super) fn take_back(&mut self, key: ConnectionKey, unsent: Vec<Unsent>) {
        let Some(session) = self.directory.session(key) else { return };
        let slot = session.home.user;
        let is_last = self.directory.user_connections(slot).len() <= 1;
        if !is_last {
            // The replay may have waited for its room.
            self.list_replay(slot);
            if let Some(vault) = &mut self.vault {
                vault.look_at(slot);
            }
        }
        if self.limits.ack.is_some() {
            if is_last {
                let unsent = unsent.iter().filter(|unsent| !unsent.is_begun);
                let mut unsent: Vec<_> = unsent.filter_map(|unsent| unsent.frame.id()).collect();
                unsent.sort_unstable();
                self.recall(slot, &unsent);
            }
        } else if is_last && self.limits.queue.is_some() {
            return self.put_back(slot, unsent);
        }
        let mut lost = 0;
        for Unsent { frame, is_begun } in unsent {
            match &*frame {
                // It was to wait until it is written. Others may have read it: then it comes twice.
                Frame::Letter(repeated) if self.limits.ack.is_none() && !is_last => {
                    let mut letter = repeated.letter.clone();
                    let vault = self.vault.as_mut();
                    letter.place = vault.and_then(|vault| vault.take_back(slot, &letter));
                    if letter.place.is_none() {
                        let _counted = self.keep(slot, &mut letter);
                    }
                    self.put(slot, letter);
                }
                _ => lost += u64::from(!is_begun),
            }
        }
        self.meter.frames_discarded += lost;
        if self.limits.ack.is_none() && !is_last {
            self.begin_replay(slot, None);
        }
    }

    /// Acknowledgement is off, and the user's last connection leaves: what it had not written
    /// waits again, what it had is done.
    fn put_back(&mut self, slot: u32, unsent: Vec<Unsent>) {
        let mut sent = self.vault.as_mut().map(|vault| vault.take_sent(slot)).unwrap_or_default();
        for Unsent { frame, .. } in unsent {
            let mut letter = match &*frame {
                Frame::Letter(repeated) => repeated.letter.clone(),
                Frame::Personal(notification, sequence)
                    if notification.head().expires_at > Tick(0) =>
                {
                    Letter::new(notification.keep(), *sequence)
                }
                _ => {
                    self.meter.frames_discarded += u64::from(frame.is_notification());
                    continue;
                }
            };
            // Its place may have changed since it was sent.
            let at = sent.iter().position(|(sequence, _)| *sequence == letter.sequence());
            letter.place = at.map(|at| sent.swap_remove(at).1);
            match (letter.place, &mut self.vault) {
                (Some(place), Some(vault)) => vault.change(place, letter.attempts(), false),
                // It is in memory in any case.
                _ => drop(self.keep(slot, &mut letter)),
            }
            self.put(slot, letter);
        }
        if let Some(vault) = &mut self.vault {
            sent.iter().for_each(|(_, place)| vault.end(*place));
        }
        if let Some(mailbox) = self.directory.mailbox_mut(slot) {
            mailbox.replaying = false;
        }
    }

    /// Calls every letter of a user back into its mailbox, or counts them if there is no queue.
    /// What is `unsent`, in ascending order, has not been tried by its last attempt.
    fn recall(&mut self, slot: u32, unsent: &[NotificationId]) {
        let Some(ack) = self.limits.ack else { return };
        while let Some(Flight { mut letter, .. }) = self.land(self.directory.flights(slot).first())
        {
            let is_tried = unsent.binary_search(&letter.id()).is_err();
            if self.limits.queue.is_none() || (is_tried && !ack.requeue) {
                self.finish(&letter, End::Unacked);
            } else if is_tried && letter.attempts() >= ack.attempts_max {
                self.bury(slot, letter);
            } else {
                if letter.place.is_none() {
                    // It was not to be sent again, or refused: it is in memory in any case.
                    let _counted = self.keep(slot, &mut letter);
                }
                self.put(slot, letter);
            }
        }
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        mailbox.replaying = false;
        if self.limits.queue.is_none() {
            // What waited to be sent again has no queue to wait in either.
            let waiting = mailbox.take_waiting();
            self.finish_all(waiting, End::Unacked);
        }
    }

    /// An Ack came. False if nothing of that id awaited one: unknown, another user's, and settled
    /// before all look the same. The user's connections are to be told ([`Self::tell_settled`]).
    pub(super) fn settle(&mut self, slot: u32, id: NotificationId) -> bool {
        let now = self.running.of(self.now);
        let settled = match self.flights.find(slot, id) {
            Some(flight) => self.land(flight).map(|landed| (landed.letter, landed.sent_at)),
            // It came after the timeout, while the letter waits to be sent again.
            None => {
                let mailbox = self.directory.mailbox_mut(slot);
                let letter = mailbox.and_then(|mailbox| mailbox.take_sent(id));
                letter.map(|letter| (letter, now))
            }
        };
        let Some((letter, sent_at)) = settled else { return false };
        // The replay may have waited for this one.
        self.list_replay(slot);
        self.finish(&letter, End::Acked);
        self.meter.ack_latency_ms_sum += now.as_millis().saturating_sub(sent_at.as_millis());
        true
    }

    /// Tells the user's connections that asked for it, but not the one it came `from`.
    pub(super) fn tell_settled(
        &mut self,
        slot: u32,
        id: NotificationId,
        from: Option<ConnectionKey>,
        out: &mut impl Outgoing,
    ) {
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
        let running = self.running.of(now);
        for _ in 0..OVERDUE_PER_TURN {
            if self.first_overdue().is_none_or(|(at, _)| at > running) {
                return false;
            }
            let Some(landed) = self.first_overdue().and_then(|(_, flight)| self.land(flight))
            else {
                return false;
            };
            self.meter.ack_timeouts += 1;
            self.handle_overdue(landed.user, landed.letter, now, out);
            self.list_replay(landed.user);
            self.directory.tidy_user(landed.user);
        }
        true
    }

    fn handle_overdue(&mut self, slot: u32, letter: Letter, now: Tick, out: &mut impl Outgoing) {
        let Some(ack) = self.limits.ack else { return };
        if !ack.requeue {
            self.finish(&letter, End::Unacked);
        } else if letter.expires_at() <= now {
            self.finish(&letter, End::Expired);
        } else if letter.attempts() >= ack.attempts_max {
            self.bury(slot, letter);
        } else {
            let keys: Vec<ConnectionKey> = self.directory.user_connections(slot).to_vec();
            if keys.is_empty() {
                self.put(slot, letter);
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
        let mut expired = Vec::new();
        mailbox.expire(now, |letter| expired.push(letter));
        let next = mailbox.first_expiry();
        self.finish_all(expired, End::Expired);
        self.arm_expiry(slot, next.unwrap_or(Tick(u32::MAX)));
        // The replay may have waited for the reader of one that is gone.
        self.list_replay(slot);
        self.directory.tidy_user(slot);
    }

    /// When [`Self::handle_deadlines`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let overdue = self.first_overdue().map(|(at, _)| self.running.on_clock(at));
        overdue.into_iter().chain(self.expiries.next()).min()
    }

    /// The letter whose Ack is overdue first, and when it is, in running time.
    fn first_overdue(&self) -> Option<(Tick, u32)> {
        let ack = self.limits.ack?;
        self.flights.first().map(|(slot, sent_at)| (sent_at.after(ack.timeout), slot))
    }
}
