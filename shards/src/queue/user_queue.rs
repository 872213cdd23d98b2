//! One user's messages that are not in flight: those that wait for a connection, and dead letters.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: those messages. **Never**: loses one
//! without saying how: every way out is a value its caller must count.

use super::dead_letters::{DeadLetter, DeadLetters};
use super::waiting::{Seen, Waiting};
use crate::base::id::{NotificationId, RecordKey, Tick};
use crate::queued_message::QueuedMessage;
use crate::store::{Moved, RecordState};

/// One user's messages that are not in flight.
#[derive(Debug, Default)]
pub(crate) struct UserQueue {
    waiting: Waiting,
    /// Few users have some.
    dead_letters: Option<Box<DeadLetters>>,
    /// What a client has said it has seen, while the messages that acknowledges are looked for. Few
    /// users have so much waiting that one turn is not enough.
    seen: Option<Box<Seen>>,
    /// Whether the replay is under way: new messages go behind the waiting ones.
    pub(super) replaying: bool,
    /// Whether the replay goes on in the next turn; if not, it waits for room or for an Ack.
    pub(super) is_scheduled: bool,
    /// Whether it is on the list of those to be counted.
    pub(super) is_touched: bool,
    /// So many of those that wait count for its tenant, if that has a limit.
    pub(super) counted: u32,
    /// When the expiry timer is set to.
    pub(super) timer_at: Option<Tick>,
}

const _: () = assert!(size_of::<UserQueue>() <= 64);

impl UserQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.dead_letters.is_none()
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Dead letters, in the order in which they are forgotten.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.dead_letters.iter().flat_map(|dead_letters| dead_letters.iter())
    }

    /// Inserts a message where its sequence belongs; a new one at the end, a returned one at the
    /// front. If the queue would hold more than `most` (0 = no bound), the least important message
    /// leaves, the oldest among equals; it is returned, and may be the one that came.
    pub(super) fn insert(&mut self, message: QueuedMessage, most: usize) -> Option<QueuedMessage> {
        self.waiting.insert(message);
        if most == 0 || self.waiting.len() <= most { None } else { self.waiting.pop_least() }
    }

    /// The next message to send. Its time may be over.
    pub(super) fn pop_first(&mut self) -> Option<QueuedMessage> {
        self.waiting.pop_first()
    }

    /// Takes out a waiting message whose time is over.
    pub(super) fn pop_expired(&mut self, now: Tick) -> Option<QueuedMessage> {
        self.waiting.pop_expired(now)
    }

    /// Takes out a dead letter whose time is over.
    pub(super) fn pop_forgotten(&mut self, now: Tick) -> Option<QueuedMessage> {
        let dead_letters = self.dead_letters.as_mut()?;
        let forgotten = dead_letters.pop_forgotten(now);
        if dead_letters.is_empty() {
            self.dead_letters = None;
        }
        forgotten
    }

    /// When the first message's time is over, of those waiting and the dead letters.
    pub(super) fn first_end(&self) -> Option<Tick> {
        let forgotten_at = self.dead_letters().next().map(|first| first.until);
        self.waiting.first_expiry().into_iter().chain(forgotten_at).min()
    }

    /// Adds a dead letter. Beyond `most` the one that would be forgotten first, the oldest among
    /// equals, is returned and gone for good.
    pub(super) fn insert_dead_letter(
        &mut self,
        dead_letter: DeadLetter,
        most: usize,
    ) -> Option<QueuedMessage> {
        self.dead_letters.get_or_insert_default().insert(dead_letter, most)
    }

    /// Takes all waiting messages out.
    pub(super) fn take_waiting(&mut self) -> Waiting {
        self.seen = None;
        std::mem::take(&mut self.waiting)
    }

    /// Takes all dead letters out.
    pub(super) fn take_dead_letters(&mut self) -> DeadLetters {
        self.dead_letters.take().map(|dead_letters| *dead_letters).unwrap_or_default()
    }

    /// Takes out one waiting message, if it has been sent before.
    pub(super) fn take_sent(&mut self, id: NotificationId) -> Option<QueuedMessage> {
        let sequence = self.waiting.find(id, true)?.sequence();
        self.waiting.remove(sequence)
    }

    /// The store has moved a record. `None` if no message that has it is here. Dead letters are so
    /// few that looking through them is no work.
    pub(super) fn move_record(&mut self, moved: &Moved<'_>) -> Option<RecordState> {
        let is_it = |message: &&mut QueuedMessage| message.record == Some(moved.from);
        if let Some(message) = self.waiting.get_mut(moved.sequence).filter(is_it) {
            message.record = Some(moved.to);
            return Some(RecordState { attempts: message.attempts(), dead_until: None });
        }
        self.dead_letters.as_mut()?.move_record(moved)
    }

    /// Takes out a waiting message that has not been sent, if it is the one with this record.
    pub(super) fn take_unsent(
        &mut self,
        sequence: u64,
        record: RecordKey,
    ) -> Option<QueuedMessage> {
        let message = self.waiting.get_mut(sequence)?;
        let is_it = message.record == Some(record) && message.attempts() == 0;
        if is_it { self.waiting.remove(sequence) } else { None }
    }

    /// A client has seen all that was sent up to here: [`Self::take_seen`] takes it out. What an
    /// earlier call has not come to yet is left, and sent again.
    pub(super) fn note_seen(&mut self, seen: Seen) {
        self.seen = Some(Box::new(seen));
    }

    /// Takes out messages that have been seen, and looks at about `budget` of them. Returns whether
    /// all have been looked at.
    pub(super) fn take_seen(&mut self, budget: usize, taken: &mut Vec<QueuedMessage>) -> bool {
        let Some(seen) = &mut self.seen else { return true };
        let is_done = self.waiting.take_seen(seen, budget, taken);
        if is_done {
            self.seen = None;
        }
        is_done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::{Metadata, Priority, SharedMessage};
    use proptest::prelude::*;

    fn message(sequence: u64, priority: Priority, expires_at: u32) -> QueuedMessage {
        let id = NotificationId(u128::from(sequence).to_be_bytes());
        let head = Metadata { id, audience: None, expires_at: Tick(expires_at), priority };
        QueuedMessage::new(SharedMessage::new(head, b"{}"), sequence)
    }

    proptest! {
        /// Nothing vanishes; a message never gives way to a less important one; order is kept.
        #[test]
        fn a_full_queue_gives_up_the_least_important_oldest(
            priorities in proptest::collection::vec(0_usize..4, 1..60),
            most in 1_usize..12,
        ) {
            let mut queue = UserQueue::default();
            let mut left = Vec::new();
            for (sequence, priority) in priorities.iter().enumerate() {
                let message = message(sequence as u64, Priority::ALL[*priority], u32::MAX);
                if let Some(loser) = queue.insert(message, most) {
                    for kept in queue.waiting().iter() {
                        prop_assert!(kept.priority() >= loser.priority());
                        let is_equal = kept.priority() == loser.priority();
                        prop_assert!(!is_equal || kept.sequence() > loser.sequence());
                    }
                    left.push(loser.sequence());
                }
                prop_assert!(queue.waiting().len() <= most);
            }
            let mut kept: Vec<u64> = queue.waiting().iter().map(QueuedMessage::sequence).collect();
            prop_assert!(kept.is_sorted());
            kept.extend(left);
            kept.sort_unstable();
            let all: Vec<u64> = (0..priorities.len() as u64).collect();
            prop_assert_eq!(kept, all);
        }

        /// What was taken out for sending and comes back is sent again before what came later.
        #[test]
        fn returned_messages_come_first_again(count in 1_u64..30, sent in 0_usize..30) {
            let mut queue = UserQueue::default();
            for sequence in 0..count {
                queue.insert(message(sequence, Priority::Normal, u32::MAX), 0);
            }
            let mut away = Vec::new();
            for _ in 0..sent {
                away.extend(queue.pop_first());
            }
            queue.insert(message(count, Priority::Normal, u32::MAX), 0);
            for message in away.into_iter().rev() {
                queue.insert(message, 0);
            }
            let order: Vec<u64> = queue.waiting().iter().map(QueuedMessage::sequence).collect();
            prop_assert_eq!(order, (0..=count).collect::<Vec<_>>());
        }
    }

    /// Dead letters are forgotten in the order of their times, whenever they became dead letters.
    #[test]
    fn dead_letters_are_forgotten_at_their_time() {
        let mut queue = UserQueue::default();
        for (sequence, until) in [(0, 5), (1, 50), (2, 5), (3, u32::MAX)] {
            let message = message(sequence, Priority::Normal, 1);
            assert!(
                queue.insert_dead_letter(DeadLetter { message, until: Tick(until) }, 4).is_none()
            );
        }
        assert_eq!(queue.first_end(), Some(Tick(5)));
        let mut forget = |now| queue.pop_forgotten(Tick(now)).map(|message| message.sequence());
        assert_eq!([forget(4), forget(5), forget(6), forget(49)], [None, Some(0), Some(2), None]);
        assert_eq!([forget(60), forget(u32::MAX - 1)], [Some(1), None]);
        let oldest = queue.insert_dead_letter(
            DeadLetter { message: message(9, Priority::Normal, 1), until: Tick::NEVER },
            1,
        );
        assert_eq!(oldest.map(|message| message.sequence()), Some(3));
        assert_eq!(queue.take_dead_letters().into_messages().count(), 1);
        assert!(queue.is_empty());
    }
}
