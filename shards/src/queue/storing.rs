//! The queue and its store: taking over what an earlier run has left, each turn's work, the end.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: waits for the store.

use std::collections::VecDeque;

use super::dead_letters::DeadLetter;
use super::enqueue::End;
use super::{Context, Queues, Users};
use crate::base::counters::Counters;
use crate::base::id::{Tick, UserSlot};
use crate::base::limits::MESSAGES_PER_TURN;
use crate::link::message::Report;
use crate::queued_message::QueuedMessage;
use crate::store::{Memory, Moved, RecordState, Store, Unconfirmed};

impl Queues {
    /// Takes over the store of an earlier run, whose last delivery had this sequence. Comes before
    /// everything else; the messages follow by [`Self::restore_user`].
    pub(crate) fn restore(&mut self, store: Box<dyn Store>, sequence: u64) {
        assert!(self.users.is_empty() && self.sequence == 0, "a store is restored first of all");
        self.store = store;
        self.sequence = sequence;
    }

    /// Takes over what an earlier run has left for a user: what waits, and dead letters with the time
    /// they are forgotten, if that was noted.
    pub(crate) fn restore_user(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        waiting: Vec<QueuedMessage>,
        dead_letters: Vec<(QueuedMessage, Option<Tick>)>,
    ) {
        for message in waiting {
            // Tracked by an earlier run: its Ack, if one comes, is counted by this one.
            let is_tracked = self.ack.is_some() && message.attempts() > 0;
            cx.counters.ack_tracked += u64::from(is_tracked);
            self.enqueue(cx, user, message);
        }
        for (message, noted_end) in dead_letters {
            if noted_end.is_some_and(|end| end <= cx.now.clock) {
                // It would be shown until the first tick of the clock has passed.
                self.end(cx.counters, &message, End::Forgotten);
                continue;
            }
            let until = noted_end.unwrap_or_else(|| self.dead_letter_end(cx.now.clock));
            if noted_end.is_none() {
                // Version 0.1 did not note an end: its time begins now.
                let record = message.record.expect("what was restored has a record");
                self.store.note_dead_letter(record, message.attempts(), until);
            }
            self.insert_dead_letter(cx, user, DeadLetter { message, until });
        }
        self.tidy(cx.users, user);
    }

    /// Holds a report on a delivery until what it says of the queue is certain. Gives it back if it
    /// is certain now.
    pub(crate) fn hold(&mut self, report: Report) -> Option<Report> {
        self.store.hold(report)
    }

    /// The turn's work of the store. Returns whether there is more to do at once.
    pub(crate) fn poll_store(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        reports: &mut VecDeque<Report>,
    ) -> bool {
        let Self { store, users, in_flight, .. } = self;
        let mut find = |moved: &Moved<'_>| {
            let user = cx.users.find(moved.tenant, moved.user, moved.hash)?;
            if let Some(slot) = in_flight.find_one(user, moved.id, moved.sequence) {
                let message = &mut in_flight.get_mut(slot).message;
                if message.record == Some(moved.from) {
                    message.record = Some(moved.to);
                    return Some(RecordState { attempts: message.attempts(), dead_until: None });
                }
            }
            users.get_mut(user.0)?.queue.as_mut()?.move_record(moved)
        };
        let progress = store.poll(cx.now.clock, reports, &mut find);
        cx.counters.queue_enqueued += progress.confirmed;
        for Unconfirmed { user, sequence, record } in progress.refused {
            // What was sent meanwhile is not taken back.
            let queue = self.queue_mut(user);
            if let Some(message) = queue.and_then(|queue| queue.take_unsent(sequence, record)) {
                self.end(cx.counters, &message, End::Refused);
                self.tidy(cx.users, user);
            }
        }
        progress.more
    }

    /// Gives the store up, to be closed. Nothing may follow.
    pub(crate) fn take_store(&mut self, counters: &mut Counters) -> Box<dyn Store> {
        while self.end_cleared(counters, MESSAGES_PER_TURN) {}
        std::mem::replace(&mut self.store, Box::new(Memory))
    }
}
