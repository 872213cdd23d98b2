//! Sending letters from the queue, and again: the replay and its pace.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: floods an outbox, or starves other users: so many letters a user and turn, and none
//! while much waits for the reader.

use super::mailbox::{Letter, Mailbox};
use super::post::End;
use super::{Outgoing, State, Urgency};
use crate::frame::Frame;
use crate::id::{ConnectionKey, NotificationId, Tick};
use crate::limits::{REPLAY_BACKLOG_BYTES, REPLAYS_PER_TURN, REPLAYS_PER_USER};

/// To whom a letter is sent once more.
pub(super) struct Sending {
    pub(super) slot: u32,
    pub(super) keys: Vec<ConnectionKey>,
    /// From the queue, rather than because nobody acknowledged.
    pub(super) replayed: bool,
}

impl State {
    /// Begins the replay of a user who has come back. What it says it has seen is settled first.
    pub(super) fn begin_replay(&mut self, slot: u32, seen: Option<NotificationId>) {
        if let Some(id) = seen {
            self.settle_seen(slot, id);
        }
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        mailbox.replaying = !mailbox.waiting().is_empty();
        self.list_replay(slot);
    }

    /// A client says which notification it has seen last: what its user was sent up to that is
    /// acknowledged, unless the notification may have overtaken it.
    fn settle_seen(&mut self, slot: u32, id: NotificationId) {
        let flight = self.flights.find(slot, id).and_then(|flight| self.flights.get(flight));
        let flying = flight.map(|flight| &flight.letter);
        let mailbox = self.directory.mailbox(slot);
        let mut waiting = mailbox.into_iter().flat_map(Mailbox::waiting);
        let letter = flying.or_else(|| waiting.find(|letter| letter.id() == id));
        let last = letter.map(|letter| (letter.sequence(), letter.priority()));
        let Some((sequence, priority)) = last.or_else(|| self.recent.find(id)) else { return };
        let is_seen = |letter: &Letter| {
            letter.sequence() <= sequence && letter.priority() >= priority && letter.attempts() > 0
        };
        let mut flight = self.directory.flights(slot).first();
        while let Some(next) = self.flights.get(flight) {
            let (this, is_seen) = (flight, is_seen(&next.letter));
            flight = self.flights.next_of(next);
            if is_seen && let Some(landed) = self.land(this) {
                self.finish(&landed.letter, End::Acked);
            }
        }
        let seen = self.directory.mailbox_mut(slot).map(|mailbox| mailbox.take_seen(is_seen));
        self.finish_all(seen.unwrap_or_default(), End::Acked);
    }

    /// Puts a user whose replay is under way among those that get letters, once.
    pub(super) fn list_replay(&mut self, slot: u32) {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return };
        if mailbox.replaying && !std::mem::replace(&mut mailbox.listed, true) {
            self.replays.push_back(slot);
        }
    }

    /// Goes on with replays, as far as a turn and the readers' outboxes allow. Returns whether
    /// there is more to do at once.
    pub fn poll_replays(&mut self, now: Tick, out: &mut impl Outgoing) -> bool {
        self.now = now;
        while let Some(slot) = self.vault.as_mut().and_then(|vault| vault.next_look()) {
            self.end_written(slot, out);
        }
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

    /// The connection's outbox has room again: nothing waits in it.
    pub fn handle_room(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let slot = session.home.user;
        self.list_replay(slot);
        self.end_written(slot, out);
    }

    /// Acknowledgement is off: letters end once all the user's connections have written all.
    fn end_written(&mut self, slot: u32, out: &mut impl Outgoing) {
        let Some(vault) = &mut self.vault else { return };
        if !vault.has_sent(slot) {
            return;
        }
        let keys = self.directory.user_connections(slot);
        if keys.iter().all(|key| out.backlog_bytes(*key).is_none_or(|bytes| bytes == 0)) {
            vault.end_sent(slot);
        } else {
            watch(keys, out);
        }
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
            if self.is_window_full(slot) {
                // Called again when one of those on their way is settled.
                return false;
            }
            let Some(mailbox) = self.directory.mailbox_mut(slot) else { return false };
            let mut expired = Vec::new();
            let letter = mailbox.next(now, |letter| expired.push(letter));
            self.finish_all(expired, End::Expired);
            let Some(letter) = letter else {
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
    pub(super) fn send_again(
        &mut self,
        sending: &Sending,
        letter: Letter,
        out: &mut impl Outgoing,
    ) -> bool {
        let Sending { slot, keys, replayed } = sending;
        let (slot, replayed) = (*slot, *replayed);
        let untouched = letter.clone();
        let attempts = letter.attempts().saturating_add(1);
        let letter = letter.sent(attempts);
        let frame = Frame::letter(letter.clone(), replayed);
        let mut taken = false;
        for key in keys {
            taken |=
                self.is_meant(*key, letter.audience()) && out.offer(*key, &frame, Urgency::Prompt);
        }
        if !taken {
            // Nobody here is meant, or nobody who is had room.
            let mut here = self.directory.user_connections(slot).iter();
            let meant = here.any(|key| self.is_meant(*key, letter.audience()));
            if meant {
                self.put(slot, untouched);
            } else {
                self.finish(&letter, End::Dropped);
            }
            return !meant;
        }
        if replayed {
            self.meter.queue_replayed += 1;
        }
        if self.limits.ack.is_some() {
            if untouched.attempts() == 0 {
                self.meter.ack_tracked += 1;
            }
            if let (Some(vault), Some(place)) = (&mut self.vault, letter.place) {
                vault.change(place, attempts, false);
            }
            self.depart(slot, letter);
        } else if let (Some(vault), Some(place)) = (&mut self.vault, letter.place) {
            // It ends when its bytes are written.
            vault.sent(slot, letter.sequence(), place);
            watch(keys, out);
        }
        true
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
