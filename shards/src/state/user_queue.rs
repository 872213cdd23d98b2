//! What one user has not taken yet: messages waiting for a connection, and dead messages.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one user's messages that are not in
//! flight. **Never**: loses one without saying how: every way out is a value its caller must count.

use std::collections::VecDeque;

use super::waiting::{Seen, Waiting};
use crate::base::id::{NotificationId, Tick};
use crate::journal::Position;
use crate::notification::{Audience, Priority, SharedMessage};

/// One notification of one user, kept until it is settled: 24 bytes and a share of what is kept.
#[derive(Debug, Clone)]
pub struct QueuedMessage {
    kept: SharedMessage,
    /// Its place on the disk; `None` = it is in memory only.
    pub place: Option<Position>,
    /// From the top: 48 bits of sequence, 8 of priority, 8 of attempts.
    order: u64,
}

const _: () = assert!(size_of::<QueuedMessage>() == 24);

impl QueuedMessage {
    /// A message the shard took as its `sequence`-th, not sent yet. Sequences have 48 bits.
    #[must_use]
    pub fn new(kept: SharedMessage, sequence: u64) -> Self {
        let priority = kept.head().priority as u64;
        Self { kept, place: None, order: (sequence << 16) | (priority << 8) }
    }

    /// The same after so many attempts.
    #[must_use]
    pub const fn sent(mut self, attempts: u8) -> Self {
        self.order = (self.order & !0xFF) | attempts as u64;
        self
    }

    /// What is delivered.
    #[must_use]
    pub const fn kept(&self) -> &SharedMessage {
        &self.kept
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> NotificationId {
        self.kept.head().id
    }

    /// The order in which the shard accepted it.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.order >> 16
    }

    /// Who among the user's connections is meant.
    #[must_use]
    pub fn audience(&self) -> Option<&Audience> {
        self.kept.head().audience.as_deref()
    }

    /// When it stops being worth delivering.
    #[must_use]
    pub fn expires_at(&self) -> Tick {
        self.kept.head().expires_at
    }

    /// How often it has been sent.
    #[must_use]
    pub const fn attempts(&self) -> u8 {
        let [attempts, ..] = self.order.to_le_bytes();
        attempts
    }

    /// What it gives way to.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let [_, priority, ..] = self.order.to_le_bytes();
        Priority::ALL.get(usize::from(priority)).copied().unwrap_or_default()
    }
}

/// One user's messages.
#[derive(Debug, Default)]
pub struct UserQueue {
    waiting: Waiting,
    /// Few users have some.
    dead: Option<Box<DeadLetters>>,
    /// What a client has said it has seen, while what that settles is looked for. Few users have
    /// so much waiting that one turn is not enough.
    seen: Option<Box<Seen>>,
    /// Whether the replay is under way: new messages go behind the waiting ones.
    pub(super) replaying: bool,
    /// Whether it is among the shard's replays, rather than waiting for room.
    pub(super) listed: bool,
    /// When the expiry timer is set to.
    pub(super) timer_at: Option<Tick>,
}

const _: () = assert!(size_of::<UserQueue>() <= 64);

/// A message that was given up, kept to be looked at.
#[derive(Debug)]
pub struct DeadLetter {
    /// It.
    pub message: QueuedMessage,
    /// When it is forgotten.
    pub until: Tick,
}

/// In the order in which they are forgotten.
#[derive(Debug, Default)]
struct DeadLetters(VecDeque<DeadLetter>);

/// Where a message of a queue is, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) attempts: u8,
    /// When it is forgotten, if it is a dead message.
    pub(crate) dead_until: Option<Tick>,
}

impl UserQueue {
    /// Whether nothing at all is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.dead.is_none()
    }

    /// Messages waiting.
    #[must_use]
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Messages given up, in the order in which they are forgotten.
    pub fn dead(&self) -> impl Iterator<Item = &DeadLetter> {
        self.dead.iter().flat_map(|dead| &dead.0)
    }

    /// Puts a message where its sequence belongs; a new one at the end, a returned one at the front.
    /// If the queue would hold more than `most` (0 = no bound), the least important message leaves,
    /// the oldest among equals; it is returned, and may be the one that came.
    pub fn put(&mut self, message: QueuedMessage, most: usize) -> Option<QueuedMessage> {
        self.waiting.insert(message);
        if most == 0 || self.waiting.len() <= most { None } else { self.waiting.pop_least() }
    }

    /// The next message to send. Its time may be over.
    pub fn pop_first(&mut self) -> Option<QueuedMessage> {
        self.waiting.pop_first()
    }

    /// Takes out a waiting message whose time is over.
    pub fn pop_expired(&mut self, now: Tick) -> Option<QueuedMessage> {
        self.waiting.pop_expired(now)
    }

    /// Takes out a dead message whose time is over.
    pub fn pop_forgotten(&mut self, now: Tick) -> Option<QueuedMessage> {
        let DeadLetters(dead) = &mut **self.dead.as_mut()?;
        if dead.front().is_none_or(|first| first.until > now) {
            return None;
        }
        let forgotten = dead.pop_front();
        if dead.is_empty() {
            self.dead = None;
        }
        forgotten.map(|dead| dead.message)
    }

    /// When the first message's time is over, of those waiting and the dead ones.
    #[must_use]
    pub fn first_end(&self) -> Option<Tick> {
        let dead = self.dead().next().map(|dead| dead.until);
        self.waiting.first_expiry().into_iter().chain(dead).min()
    }

    /// Gives a message up. Beyond `most` the one that would be forgotten first, the oldest among
    /// equals, is returned and gone for good.
    pub fn bury(&mut self, dead: DeadLetter, most: usize) -> Option<QueuedMessage> {
        let DeadLetters(all) = &mut **self.dead.get_or_insert_default();
        // At the end, unless the time they are kept was longer in an earlier run.
        let at = all.partition_point(|other| other.until <= dead.until);
        all.insert(at, dead);
        if all.len() > most { all.pop_front().map(|oldest| oldest.message) } else { None }
    }

    /// Takes all waiting messages out.
    pub fn take_waiting(&mut self) -> Waiting {
        self.seen = None;
        std::mem::take(&mut self.waiting)
    }

    /// Takes all given-up messages out.
    pub fn take_dead(&mut self) -> impl Iterator<Item = QueuedMessage> + use<> {
        self.dead.take().into_iter().flat_map(|dead| dead.0).map(|dead| dead.message)
    }

    /// Takes out one waiting message, if it has been sent before.
    pub fn take_sent(&mut self, id: NotificationId) -> Option<QueuedMessage> {
        let sequence = self.waiting.find(id, true)?.sequence();
        self.waiting.remove(sequence)
    }

    /// The record of the message accepted as the `sequence`-th was moved. `None` if no message of
    /// that record is here. Dead messages are so few that looking through them is no work.
    pub(super) fn move_place(
        &mut self,
        sequence: u64,
        from: Position,
        to: Position,
    ) -> Option<Standing> {
        let is_it = |message: &&mut QueuedMessage| message.place == Some(from);
        if let Some(message) = self.waiting.get_mut(sequence).filter(is_it) {
            message.place = Some(to);
            return Some(Standing { attempts: message.attempts(), dead_until: None });
        }
        let mut dead = self.dead.iter_mut().flat_map(|dead| &mut dead.0);
        let DeadLetter { message, until } = dead.find(|dead| dead.message.place == Some(from))?;
        message.place = Some(to);
        Some(Standing { attempts: message.attempts(), dead_until: Some(*until) })
    }

    /// Takes out a waiting message that has not been sent, if it is the one at this place on disk.
    pub(super) fn take_unsent(&mut self, sequence: u64, place: Position) -> Option<QueuedMessage> {
        let message = self.waiting.get_mut(sequence)?;
        let is_it = message.place == Some(place) && message.attempts() == 0;
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
    use crate::notification::Metadata;
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
                if let Some(loser) = queue.put(message, most) {
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
        fn returned_letters_come_first_again(count in 1_u64..30, sent in 0_usize..30) {
            let mut queue = UserQueue::default();
            for sequence in 0..count {
                queue.put(message(sequence, Priority::Normal, u32::MAX), 0);
            }
            let mut away = Vec::new();
            for _ in 0..sent {
                away.extend(queue.pop_first());
            }
            queue.put(message(count, Priority::Normal, u32::MAX), 0);
            for message in away.into_iter().rev() {
                queue.put(message, 0);
            }
            let order: Vec<u64> = queue.waiting().iter().map(QueuedMessage::sequence).collect();
            prop_assert_eq!(order, (0..=count).collect::<Vec<_>>());
        }
    }

    /// Dead messages are forgotten in the order of their times, whenever they were given up.
    #[test]
    fn dead_letters_are_forgotten_at_their_time() {
        let mut queue = UserQueue::default();
        for (sequence, until) in [(0, 5), (1, 50), (2, 5), (3, u32::MAX)] {
            let message = message(sequence, Priority::Normal, 1);
            assert!(queue.bury(DeadLetter { message, until: Tick(until) }, 4).is_none());
        }
        assert_eq!(queue.first_end(), Some(Tick(5)));
        let mut forget = |now| queue.pop_forgotten(Tick(now)).map(|message| message.sequence());
        assert_eq!([forget(4), forget(5), forget(6), forget(49)], [None, Some(0), Some(2), None]);
        assert_eq!([forget(60), forget(u32::MAX - 1)], [Some(1), None]);
        let oldest = queue.bury(
            DeadLetter { message: message(9, Priority::Normal, 1), until: Tick(u32::MAX) },
            1,
        );
        assert_eq!(oldest.map(|message| message.sequence()), Some(3));
        assert_eq!(queue.take_dead().count(), 1);
        assert!(queue.is_empty());
    }
}
