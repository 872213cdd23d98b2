//! Whatever comes and goes, with an index and without, every query has the answer that looking
//! through a plain list gives.
//!
//! Set-up: random messages that come, come back and leave in all ways, in numbers that cross the
//! bound in both directions, beside a sorted list.
//! Property: the same messages in the same order, the same one leaves, the same one is found.
//! Why it matters: an index that has forgotten a message has lost it; one that knows too many sends
//! it twice.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::notification::{Metadata, SharedMessage};

const END: u32 = 50;

fn message(sequence: u64, priority: usize, expires_at: u32, attempts: u8) -> QueuedMessage {
    // Neighbours share their id.
    let id =
        NotificationId(u128::from(sequence / 2).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let priority = Priority::ALL[priority];
    let head = Metadata { id, audience: None, expires_at: Tick(expires_at), priority };
    QueuedMessage::new(SharedMessage::new(head, b"{}"), sequence).sent(attempts)
}

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<(u64, usize, u32, u8)>),
    PopLeast,
    PopFirst(usize),
    PopExpired(u32),
    Remove(Index),
    TakeSeen(u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let message = (0..200_u64, 0..4_usize, 1..END, 0..3_u8);
    prop_oneof![
        6 => prop::collection::vec(message, 1..8).prop_map(Step::Insert),
        1 => Just(Step::PopLeast),
        2 => (1..6_usize).prop_map(Step::PopFirst),
        1 => (0..END).prop_map(Step::PopExpired),
        2 => any::<Index>().prop_map(Step::Remove),
        1 => (0..200_u64, 0..4_usize).prop_map(|(sequence, priority)| Step::TakeSeen(sequence, priority)),
    ]
}

fn take(list: &mut Vec<QueuedMessage>, sequence: u64) {
    list.retain(|message| message.sequence() != sequence);
}

proptest! {
    #[test]
    fn an_index_changes_no_answer(steps in prop::collection::vec(step(), 1..40)) {
        let (mut waiting, mut list) = (Waiting::default(), Vec::<QueuedMessage>::new());
        for step in steps {
            match step {
                Step::Insert(messages) => {
                    for (sequence, priority, expires_at, attempts) in messages {
                        if list.iter().all(|other| other.sequence() != sequence) {
                            let message = message(sequence, priority, expires_at, attempts);
                            list.push(message.clone());
                            waiting.insert(message);
                        }
                    }
                    list.sort_by_key(QueuedMessage::sequence);
                }
                Step::PopLeast => {
                    let least = list.iter().min_by_key(|message| message.priority());
                    let least = least.map(QueuedMessage::sequence);
                    prop_assert_eq!(waiting.pop_least().map(|message| message.sequence()), least);
                    take(&mut list, least.unwrap_or(u64::MAX));
                }
                Step::PopFirst(count) => {
                    for _ in 0..count {
                        let first = list.first().map(QueuedMessage::sequence);
                        prop_assert_eq!(waiting.pop_first().map(|message| message.sequence()), first);
                        take(&mut list, first.unwrap_or(u64::MAX));
                    }
                }
                Step::PopExpired(now) => {
                    while let Some(expired) = waiting.pop_expired(Tick(now)) {
                        prop_assert!(expired.expires_at() <= Tick(now));
                        take(&mut list, expired.sequence());
                    }
                    prop_assert!(list.iter().all(|message| message.expires_at() > Tick(now)));
                }
                Step::Remove(at) if !list.is_empty() => {
                    let sequence = at.get(&list).sequence();
                    prop_assert!(waiting.remove(sequence).is_some());
                    prop_assert!(waiting.remove(sequence).is_none());
                    take(&mut list, sequence);
                }
                Step::Remove(_) => {}
                Step::TakeSeen(sequence, priority) => {
                    let mut seen = Seen::up_to(sequence, Priority::ALL[priority]);
                    let mut taken = Vec::new();
                    while !waiting.take_seen(&mut seen, 2, &mut taken) {}
                    let (mut expected, rest): (Vec<_>, Vec<_>) =
                        list.drain(..).partition(|message| seen.includes(message));
                    list = rest;
                    taken.sort_by_key(QueuedMessage::sequence);
                    expected.sort_by_key(QueuedMessage::sequence);
                    let sequences = |list: &[QueuedMessage]| list.iter().map(QueuedMessage::sequence).collect::<Vec<_>>();
                    prop_assert_eq!(sequences(&taken), sequences(&expected));
                }
            }
            let sequences: Vec<u64> = waiting.iter().map(QueuedMessage::sequence).collect();
            prop_assert_eq!(&sequences, &list.iter().map(QueuedMessage::sequence).collect::<Vec<_>>());
            prop_assert_eq!(waiting.len(), list.len());
            prop_assert_eq!(waiting.first_expiry(), list.iter().map(QueuedMessage::expires_at).min());
            for known in &list {
                for is_sent in [false, true] {
                    let mut same = list.iter().filter(|other| other.id() == known.id());
                    let first = same.find(|other| !is_sent || other.attempts() > 0);
                    let found = waiting.find(known.id(), is_sent);
                    prop_assert_eq!(found.map(QueuedMessage::sequence), first.map(QueuedMessage::sequence));
                }
                prop_assert_eq!(waiting.get_mut(known.sequence()).unwrap().id(), known.id());
            }
            prop_assert!(waiting.find(message(1_000, 0, 1, 0).id(), false).is_none());
            let is_long = matches!(waiting.0, Form::Indexed(_));
            prop_assert!(is_long || waiting.len() <= WAITING_UNINDEXED_MAX);
            prop_assert!(!is_long || waiting.len() > WAITING_UNINDEXED_MAX / 2);
        }
    }
}

#[test]
#[should_panic(expected = "waits already")]
fn a_message_never_waits_twice() {
    let mut waiting = Waiting::default();
    waiting.insert(message(1, 1, END, 1));
    waiting.insert(message(1, 1, END, 1));
}

#[test]
#[should_panic(expected = "waits already")]
fn nor_among_many() {
    let mut waiting = Waiting::default();
    (0..20).for_each(|sequence| waiting.insert(message(sequence, 1, END, 1)));
    waiting.insert(message(7, 1, END, 2));
}
