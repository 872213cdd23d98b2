//! The messages that wait for one user, in the order the shard accepted them.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: those messages. **Never**: looks through
//! more of them than [`WAITING_UNINDEXED_MAX`] to find one, however many wait.
//!
//! A user has few messages nearly always: they stand in one row of 24 bytes each, and what is looked
//! for is found by looking. Beyond that bound they are indexed by all that is asked about them:
//! sequence, priority, end and id. That costs about 90 bytes more for each, and every operation is
//! logarithmic. The row comes back when half of the bound is reached, so that a queue that grows
//! and shrinks around it is not rebuilt each time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::id::{NotificationId, Tick};
use crate::base::limits::WAITING_UNINDEXED_MAX;
use crate::notification::Priority;
use crate::queued_message::QueuedMessage;

/// Messages by the sequence in which the shard accepted them.
type BySequence = BTreeMap<u64, QueuedMessage>;

/// One user's waiting messages.
#[derive(Debug)]
pub(crate) struct Waiting(Form);

#[derive(Debug)]
enum Form {
    /// In ascending order of sequence.
    Row(VecDeque<QueuedMessage>),
    Indexed(Box<Indexed>),
}

#[derive(Debug, Default)]
struct Indexed {
    /// One map a priority, so that the oldest of the least important is the first of its map.
    messages: [BySequence; Priority::ALL.len()],
    by_end: BTreeSet<(Tick, u64)>,
    /// Two messages may have one id: a trigger that is repeated because nobody knows whether it was
    /// sent before a crash has the id it had.
    by_id: BTreeSet<(NotificationId, u64)>,
}

/// Everything a user was sent up to a message, of its priority or a higher one, and how far the
/// search for it has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    sequence: u64,
    priority: Priority,
    /// Messages of this priority and sequence, and behind, have not been looked at.
    next: (usize, u64),
}

impl Seen {
    pub(super) const fn up_to(sequence: u64, priority: Priority) -> Self {
        Self { sequence, priority, next: (priority as usize, 0) }
    }

    /// Whether a message is among what has been seen: it was sent, and cannot have been overtaken.
    pub(super) fn includes(&self, message: &QueuedMessage) -> bool {
        message.sequence() <= self.sequence
            && message.priority() >= self.priority
            && message.attempts() > 0
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self(Form::Row(VecDeque::new()))
    }
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Form::Row(row) => row.len(),
            Form::Indexed(indexed) => indexed.by_id.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &QueuedMessage> {
        let (row, indexed) = match &self.0 {
            Form::Row(row) => (Some(row), None),
            Form::Indexed(indexed) => (None, Some(indexed)),
        };
        row.into_iter().flatten().chain(indexed.into_iter().flat_map(|indexed| indexed.iter()))
    }

    /// Adds a message where its sequence belongs. One that waits already must not come again: who
    /// puts it back has taken it out of where it was.
    pub(super) fn insert(&mut self, message: QueuedMessage) {
        match &mut self.0 {
            Form::Indexed(indexed) => indexed.insert(message),
            Form::Row(row) => {
                insert_into_row(row, message);
                if row.len() > WAITING_UNINDEXED_MAX {
                    let mut indexed = Box::<Indexed>::default();
                    row.drain(..).for_each(|message| indexed.insert(message));
                    self.0 = Form::Indexed(indexed);
                }
            }
        }
    }

    /// Takes out the least important message, the oldest among equals.
    pub(super) fn pop_least(&mut self) -> Option<QueuedMessage> {
        let sequence = match &self.0 {
            // `min_by_key` keeps the first of equals.
            Form::Row(row) => row.iter().min_by_key(|message| message.priority())?.sequence(),
            Form::Indexed(indexed) => {
                let mut firsts = indexed.messages.iter().filter_map(BTreeMap::first_key_value);
                *firsts.next()?.0
            }
        };
        self.remove(sequence)
    }

    /// Takes out the message accepted first.
    pub(super) fn pop_first(&mut self) -> Option<QueuedMessage> {
        match &mut self.0 {
            Form::Row(row) => row.pop_front(),
            Form::Indexed(indexed) => {
                let firsts = indexed.messages.iter().filter_map(BTreeMap::first_key_value);
                let sequence = *firsts.map(|(sequence, _)| sequence).min()?;
                self.remove(sequence)
            }
        }
    }

    /// Takes out a message whose time is over.
    pub(super) fn pop_expired(&mut self, now: Tick) -> Option<QueuedMessage> {
        let sequence = match &self.0 {
            Form::Row(row) => row.iter().find(|message| message.expires_at() <= now)?.sequence(),
            Form::Indexed(indexed) => {
                let (end, sequence) = *indexed.by_end.first()?;
                (end <= now).then_some(sequence)?
            }
        };
        self.remove(sequence)
    }

    /// When the first message's time is over.
    pub(super) fn first_expiry(&self) -> Option<Tick> {
        match &self.0 {
            Form::Row(row) => row.iter().map(QueuedMessage::expires_at).min(),
            Form::Indexed(indexed) => indexed.by_end.first().map(|(end, _)| *end),
        }
    }

    /// The first message with this id, or the first that has been sent.
    pub(super) fn find(&self, id: NotificationId, is_sent: bool) -> Option<&QueuedMessage> {
        let is_wanted = |message: &QueuedMessage| !is_sent || message.attempts() > 0;
        match &self.0 {
            Form::Row(row) => row.iter().find(|message| is_wanted(message) && message.id() == id),
            Form::Indexed(indexed) => {
                let sequences = indexed.by_id.range((id, 0)..=(id, u64::MAX));
                let mut messages = sequences.filter_map(|(_, sequence)| {
                    indexed.messages.iter().find_map(|messages| messages.get(sequence))
                });
                messages.find(|message| is_wanted(message))
            }
        }
    }

    /// The message of a sequence. Only its record may be changed: it is found by all else.
    pub(super) fn get_mut(&mut self, sequence: u64) -> Option<&mut QueuedMessage> {
        match &mut self.0 {
            Form::Row(row) => {
                let at = row.binary_search_by_key(&sequence, QueuedMessage::sequence).ok()?;
                row.get_mut(at)
            }
            Form::Indexed(indexed) => {
                indexed.messages.iter_mut().find_map(|messages| messages.get_mut(&sequence))
            }
        }
    }

    /// Takes out the message of a sequence.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<QueuedMessage> {
        match &mut self.0 {
            Form::Row(row) => {
                let at = row.binary_search_by_key(&sequence, QueuedMessage::sequence).ok()?;
                row.remove(at)
            }
            Form::Indexed(indexed) => {
                let message = indexed.remove(sequence)?;
                if indexed.by_id.len() <= WAITING_UNINDEXED_MAX / 2 {
                    self.0 = Form::Row(indexed.take_in_order());
                }
                Some(message)
            }
        }
    }

    /// Takes out what has been seen, and looks at about `budget` messages for it. Returns whether
    /// all have been looked at.
    pub(super) fn take_seen(
        &mut self,
        seen: &mut Seen,
        budget: usize,
        taken: &mut Vec<QueuedMessage>,
    ) -> bool {
        let found: Vec<u64>;
        let mut is_done = true;
        match &self.0 {
            Form::Row(row) => {
                let seen_ones = row.iter().filter(|message| seen.includes(message));
                found = seen_ones.map(QueuedMessage::sequence).collect();
            }
            Form::Indexed(indexed) => (found, is_done) = indexed.find_seen(seen, budget),
        }
        taken.extend(found.into_iter().filter_map(|sequence| self.remove(sequence)));
        is_done
    }
}

impl Indexed {
    fn insert(&mut self, message: QueuedMessage) {
        let (sequence, id) = (message.sequence(), message.id());
        self.by_end.insert((message.expires_at(), sequence));
        self.by_id.insert((id, sequence));
        let messages = self.messages.get_mut(message.priority() as usize);
        let other = messages.expect("one map a priority").insert(sequence, message);
        assert!(other.is_none(), "notification {id} waits already");
    }

    fn remove(&mut self, sequence: u64) -> Option<QueuedMessage> {
        let message = self.messages.iter_mut().find_map(|messages| messages.remove(&sequence))?;
        let was_by_end = self.by_end.remove(&(message.expires_at(), sequence));
        let was_by_id = self.by_id.remove(&(message.id(), sequence));
        assert!(was_by_end && was_by_id, "every index knows every message");
        Some(message)
    }

    fn iter(&self) -> impl Iterator<Item = &QueuedMessage> {
        let mut maps = self.messages.each_ref().map(|messages| messages.values().peekable());
        std::iter::from_fn(move || {
            let firsts = maps.iter_mut().filter_map(|map| {
                let sequence = map.peek()?.sequence();
                Some((sequence, map))
            });
            let (_, map) = firsts.min_by_key(|(sequence, _)| *sequence)?;
            map.next()
        })
    }

    fn take_in_order(&mut self) -> VecDeque<QueuedMessage> {
        let all = std::mem::take(&mut self.messages);
        let mut row: Vec<QueuedMessage> = all.into_iter().flat_map(BTreeMap::into_values).collect();
        row.sort_unstable_by_key(QueuedMessage::sequence);
        row.into()
    }

    /// The sequences of what has been seen among the next `budget` messages, and whether these were
    /// the last.
    fn find_seen(&self, seen: &mut Seen, budget: usize) -> (Vec<u64>, bool) {
        let (mut found, mut left) = (Vec::new(), budget);
        while let (at, from) = seen.next
            && let Some(messages) = self.messages.get(at)
        {
            if from <= seen.sequence {
                for (sequence, message) in messages.range(from..=seen.sequence) {
                    if left == 0 {
                        seen.next = (at, *sequence);
                        return (found, false);
                    }
                    left -= 1;
                    if seen.includes(message) {
                        found.push(*sequence);
                    }
                }
            }
            seen.next = (at + 1, 0);
        }
        (found, true)
    }
}

fn insert_into_row(row: &mut VecDeque<QueuedMessage>, message: QueuedMessage) {
    if row.len() == row.capacity() {
        // By an eighth: doubling would leave a quarter of all queues' memory empty.
        row.reserve_exact((row.len() / 8).max(2));
    }
    let at = match row.back() {
        Some(last) if last.sequence() >= message.sequence() => {
            row.partition_point(|other| other.sequence() < message.sequence())
        }
        _ => row.len(),
    };
    let is_new = row.get(at).is_none_or(|next| next.sequence() != message.sequence());
    assert!(is_new, "notification {} waits already", message.id());
    row.insert(at, message);
}

#[cfg(test)]
mod tests;
