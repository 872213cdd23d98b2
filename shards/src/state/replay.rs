//! Sending messages from the queue, and again: the replay and its pace.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: floods an outbox, or starves other users: so many messages a user and turn, and none
//! while much waits for the reader.

use std::rc::Rc;

use super::enqueue::End;
use super::user_queue::QueuedMessage;
use super::waiting::Seen;
use super::{Outgoing, State, Urgency};
use crate::base::id::{ConnectionKey, NotificationId, Tick};
use crate::base::limits::{
    LETTERS_PER_TURN, REPLAY_BACKLOG_BYTES, REPLAYS_PER_TURN, REPLAYS_PER_USER,
};
use crate::outbound::{OutboundMessage, Redelivery};
use crate::protocol::Marks;

impl State {
    /// Begins the replay of a user who has come back. What it says it has seen is settled first.
    pub(super) fn begin_replay(&mut self, slot: u32, seen: Option<NotificationId>) {
        if let Some(id) = seen {
            self.acknowledge_seen(slot, id);
        }
        let Some(queue) = self.directory.queue_mut(slot) else { return };
        queue.replaying = !queue.waiting().is_empty();
        self.list_replay(slot);
    }

    /// A client says which notification it has seen last: what its user was sent up to that is
    /// acknowledged, unless the notification may have overtaken it.
    fn acknowledge_seen(&mut self, slot: u32, id: NotificationId) {
        let entry = self.flights.find(slot, id).and_then(|entry| self.flights.get(entry));
        let waiting = self.directory.queue(slot).and_then(|queue| queue.waiting().find(id, false));
        let message = entry.map(|entry| &entry.message).or(waiting);
        let last = message.map(|message| (message.sequence(), message.priority()));
        let Some((sequence, priority)) = last.or_else(|| self.recent.find(id)) else { return };
        let seen = Seen::up_to(sequence, priority);
        let mut entry = self.directory.flights(slot).first();
        while let Some(next) = self.flights.get(entry) {
            let (this, is_seen) = (entry, seen.includes(&next.message));
            entry = self.flights.next_of(next);
            if is_seen && let Some(landed) = self.land(this) {
                self.finish(&landed.message, End::Acked);
            }
        }
        if let Some(queue) = self.directory.queue_mut(slot) {
            queue.note_seen(seen);
        }
        self.settle_some_seen(slot);
    }

    /// Settles what a client has seen of what waits, a turn's worth of it. Returns whether that was
    /// all. Nothing is replayed before, so that nothing is taken for seen that is sent only then.
    fn settle_some_seen(&mut self, slot: u32) -> bool {
        let Some(queue) = self.directory.queue_mut(slot) else { return true };
        let mut seen = std::mem::take(&mut self.ending);
        let is_all = queue.take_seen(LETTERS_PER_TURN, &mut seen);
        self.finish_all(seen.drain(..), End::Acked);
        self.ending = seen;
        is_all
    }

    /// Puts a user whose replay is under way among those that get messages, once.
    pub(super) fn list_replay(&mut self, slot: u32) {
        let Some(queue) = self.directory.queue_mut(slot) else { return };
        if queue.replaying && !std::mem::replace(&mut queue.listed, true) {
            self.replays.push_back(slot);
        }
    }

    /// Goes on with replays, as far as a turn and the readers' outboxes allow. Returns whether
    /// there is more to do at once.
    pub fn poll_replays(&mut self, now: Tick, out: &mut impl Outgoing) -> bool {
        self.now = now;
        while let Some(slot) = self.looks.pop() {
            self.end_written(slot, out);
        }
        for _ in 0..REPLAYS_PER_TURN.min(self.replays.len()) {
            let Some(slot) = self.replays.pop_front() else { break };
            if let Some(queue) = self.directory.queue_mut(slot) {
                queue.listed = false;
            }
            if self.replay_some(slot, out) {
                self.list_replay(slot);
            }
        }
        !self.replays.is_empty()
    }

    /// The connection's outbox has room again: nothing waits in it.
    pub fn handle_room(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let slot = session.home.user;
        self.end_written(slot, out);
        self.list_replay(slot);
    }

    /// Acknowledgement is off: messages end once all the user's connections have written all.
    fn end_written(&mut self, slot: u32, out: &mut impl Outgoing) {
        if self.limits.ack.is_some() || self.directory.flights(slot).count == 0 {
            return;
        }
        let mut keys = self.directory.user_connections(slot).iter();
        if keys.all(|key| out.backlog_bytes(*key).is_none_or(|bytes| bytes == 0)) {
            // They are at most as many as may be on their way.
            while let Some(landed) = self.land(self.directory.flights(slot).first()) {
                self.finish(&landed.message, End::Counted);
            }
            // The replay may have waited for these.
            self.list_replay(slot);
            self.directory.tidy_user(slot);
        } else {
            self.watch(slot, out);
        }
    }

    /// Sends a user some of its messages; true if it should be called again in the next turn.
    fn replay_some(&mut self, slot: u32, out: &mut impl Outgoing) -> bool {
        if !self.settle_some_seen(slot) {
            return true;
        }
        for _ in 0..REPLAYS_PER_USER {
            let keys = self.directory.user_connections(slot);
            let (is_here, is_ready) =
                (!keys.is_empty(), keys.iter().any(|key| has_room(*key, out)));
            let Some(queue) = self.directory.queue_mut(slot) else { return false };
            if !is_ready {
                // Called again when one has room, or when the user comes back.
                queue.replaying = is_here;
                self.watch(slot, out);
                return false;
            }
            if self.is_window_full(slot) {
                // Called again when one of those on their way has ended.
                return false;
            }
            let Some(queue) = self.directory.queue_mut(slot) else { return false };
            let Some(message) = queue.pop_first() else {
                self.directory.tidy_user(slot);
                return false;
            };
            if message.expires_at() <= self.now {
                self.finish(&message, End::Expired);
            } else if !self.send_again(slot, message, true, out) {
                self.watch(slot, out);
                return false;
            }
        }
        true
    }

    /// Sends a message once more, from the queue (`replayed`) or because nobody acknowledged, and
    /// counts the attempt. False if nobody whom it is for has room for it: it waits again.
    pub(super) fn send_again(
        &mut self,
        slot: u32,
        message: QueuedMessage,
        replayed: bool,
        out: &mut impl Outgoing,
    ) -> bool {
        let attempts_before = message.attempts();
        let message = message.sent(attempts_before.saturating_add(1));
        let frame = self.frame_of(slot, &message, replayed);
        let (mut copies, mut has_reader) = (0, false);
        for key in self.directory.user_connections(slot) {
            if self.matches_audience(*key, message.audience()) {
                has_reader = true;
                let may = !replayed || has_room(*key, out);
                copies += u32::from(may && out.offer(*key, &frame, Urgency::Prompt));
            }
        }
        if !has_reader {
            self.finish(&message, End::Dropped);
            return true;
        }
        if copies == 0 {
            self.put(slot, message.sent(attempts_before));
            return false;
        }
        if let OutboundMessage::Redelivery(redelivery) = &*frame {
            redelivery.set_copies(copies);
        }
        if replayed {
            self.counters.queue_replayed += 1;
        }
        if self.limits.ack.is_some() {
            self.counters.ack_tracked += u64::from(attempts_before == 0);
            if let (Some(store), Some(place)) = (&mut self.store, message.place) {
                store.change(place, message.attempts());
            }
        } else {
            // It ends when its bytes are written.
            self.watch(slot, out);
        }
        self.depart(slot, message);
        true
    }

    /// A message as it is sent from the queue (`replayed`) or again, for all who are there to read it.
    fn frame_of(&self, slot: u32, message: &QueuedMessage, replayed: bool) -> Rc<OutboundMessage> {
        let sessions = self.directory.user_connections(slot).iter();
        let sessions = sessions.filter_map(|key| self.directory.session(*key));
        let readers = sessions.map(|session| session.protocol.encoding()).collect();
        let marks = Marks { replayed, attempt: message.attempts() };
        let redelivery = Redelivery::new(message.kept(), message.sequence(), marks, readers);
        Rc::new(OutboundMessage::Redelivery(Box::new(redelivery)))
    }

    /// Asks to be told when one of a user's connections has written all. Those that have already
    /// are not waited for.
    fn watch(&self, slot: u32, out: &mut impl Outgoing) {
        for key in self.directory.user_connections(slot) {
            if out.backlog_bytes(*key).is_some_and(|bytes| bytes > 0) {
                out.watch(*key);
            }
        }
    }
}

/// Whether so little waits for a reader that a replay goes on.
fn has_room(key: ConnectionKey, out: &impl Outgoing) -> bool {
    out.backlog_bytes(key).is_some_and(|bytes| bytes < REPLAY_BACKLOG_BYTES)
}
