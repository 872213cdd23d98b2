//! Dead letters: messages that were sent as often as allowed and never acknowledged. They are kept for
//! a while to be looked at.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one user's dead letters. **Never**: sends
//! one again.

use std::collections::VecDeque;

use super::enqueue::End;
use super::{Context, Queues, Users};
use crate::base::id::{Tick, UserSlot};
use crate::base::limits::DEAD_LETTERS_MAX;
use crate::queued_message::QueuedMessage;
use crate::store::{Moved, RecordState};

/// A message that is not sent any more.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) message: QueuedMessage,
    /// When it is forgotten.
    pub(crate) until: Tick,
}

/// One user's, in the order in which they are forgotten.
#[derive(Debug, Default)]
pub(super) struct DeadLetters(VecDeque<DeadLetter>);

impl DeadLetters {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.0.iter()
    }

    pub(super) fn into_messages(self) -> impl Iterator<Item = QueuedMessage> {
        self.0.into_iter().map(|dead_letter| dead_letter.message)
    }

    /// Adds one. Beyond `most` the one that would be forgotten first leaves.
    pub(super) fn insert(&mut self, dead_letter: DeadLetter, most: usize) -> Option<QueuedMessage> {
        // At the end, unless the time they are kept was longer in an earlier run.
        let at = self.0.partition_point(|other| other.until <= dead_letter.until);
        self.0.insert(at, dead_letter);
        if self.0.len() > most { self.0.pop_front().map(|oldest| oldest.message) } else { None }
    }

    /// Takes out one whose time is over.
    pub(super) fn pop_forgotten(&mut self, now: Tick) -> Option<QueuedMessage> {
        let is_over = self.0.front().is_some_and(|first| first.until <= now);
        if is_over { self.0.pop_front().map(|forgotten| forgotten.message) } else { None }
    }

    /// The store has moved a record. `None` if none of these has it.
    pub(super) fn move_record(&mut self, moved: &Moved<'_>) -> Option<RecordState> {
        let is_it = |dead_letter: &&mut DeadLetter| dead_letter.message.record == Some(moved.from);
        let DeadLetter { message, until } = self.0.iter_mut().find(is_it)?;
        message.record = Some(moved.to);
        Some(RecordState { attempts: message.attempts(), dead_until: Some(*until) })
    }
}

impl Queues {
    /// Makes a message a dead letter after its last attempt.
    pub(super) fn make_dead_letter(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        message: QueuedMessage,
    ) {
        cx.counters.dead_letters += 1;
        let until = self.dead_letter_end(cx.now.clock);
        if let Some(record) = message.record {
            self.store.note_dead_letter(record, message.attempts(), until);
        }
        self.insert_dead_letter(cx, user, DeadLetter { message, until });
    }

    /// When a message that becomes a dead letter now is forgotten.
    pub(super) fn dead_letter_end(&self, now: Tick) -> Tick {
        let ttl = self.queue.map(|queue| queue.dead_letter_ttl).unwrap_or_default();
        if ttl.is_zero() { Tick::NEVER } else { now.after(ttl) }
    }

    /// Adds a dead letter that the store knows to be one.
    pub(super) fn insert_dead_letter(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        dead_letter: DeadLetter,
    ) {
        let until = dead_letter.until;
        let oldest = self.open_queue(user).insert_dead_letter(dead_letter, DEAD_LETTERS_MAX);
        if let Some(oldest) = oldest {
            // It was counted when it became a dead letter.
            self.end(cx.counters, &oldest, End::Counted);
        }
        self.arm_expiry(user, until);
    }
}
