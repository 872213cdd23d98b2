//! Whatever comes and goes, with an index and without, every question has the answer that looking
//! through a plain list gives.
//!
//! Set-up: random letters that come, come back and leave in all ways, in numbers that cross the
//! bound in both directions, beside a sorted list.
//! Property: the same letters in the same order, the same one leaves, the same one is found.
//! Why it matters: an index that has forgotten a letter has lost it; one that knows too many sends
//! it twice.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::notification::{Head, Kept};

const END: u32 = 50;

fn letter(sequence: u64, priority: usize, expires_at: u32, attempts: u8) -> Letter {
    // Neighbours share their id.
    let id =
        NotificationId(u128::from(sequence / 2).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let priority = Priority::ALL[priority];
    let head = Head { id, audience: None, expires_at: Tick(expires_at), priority };
    Letter::new(Kept::new(head, b"{}"), sequence).sent(attempts)
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
    let letter = (0..200_u64, 0..4_usize, 1..END, 0..3_u8);
    prop_oneof![
        6 => prop::collection::vec(letter, 1..8).prop_map(Step::Insert),
        1 => Just(Step::PopLeast),
        2 => (1..6_usize).prop_map(Step::PopFirst),
        1 => (0..END).prop_map(Step::PopExpired),
        2 => any::<Index>().prop_map(Step::Remove),
        1 => (0..200_u64, 0..4_usize).prop_map(|(sequence, priority)| Step::TakeSeen(sequence, priority)),
    ]
}

fn take(list: &mut Vec<Letter>, sequence: u64) {
    list.retain(|letter| letter.sequence() != sequence);
}

proptest! {
    #[test]
    fn an_index_changes_no_answer(steps in prop::collection::vec(step(), 1..40)) {
        let (mut waiting, mut list) = (Waiting::default(), Vec::<Letter>::new());
        for step in steps {
            match step {
                Step::Insert(letters) => {
                    for (sequence, priority, expires_at, attempts) in letters {
                        if list.iter().all(|other| other.sequence() != sequence) {
                            let letter = letter(sequence, priority, expires_at, attempts);
                            list.push(letter.clone());
                            waiting.insert(letter);
                        }
                    }
                    list.sort_by_key(Letter::sequence);
                }
                Step::PopLeast => {
                    let least = list.iter().min_by_key(|letter| letter.priority());
                    let least = least.map(Letter::sequence);
                    prop_assert_eq!(waiting.pop_least().map(|letter| letter.sequence()), least);
                    take(&mut list, least.unwrap_or(u64::MAX));
                }
                Step::PopFirst(count) => {
                    for _ in 0..count {
                        let first = list.first().map(Letter::sequence);
                        prop_assert_eq!(waiting.pop_first().map(|letter| letter.sequence()), first);
                        take(&mut list, first.unwrap_or(u64::MAX));
                    }
                }
                Step::PopExpired(now) => {
                    while let Some(expired) = waiting.pop_expired(Tick(now)) {
                        prop_assert!(expired.expires_at() <= Tick(now));
                        take(&mut list, expired.sequence());
                    }
                    prop_assert!(list.iter().all(|letter| letter.expires_at() > Tick(now)));
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
                        list.drain(..).partition(|letter| seen.includes(letter));
                    list = rest;
                    taken.sort_by_key(Letter::sequence);
                    expected.sort_by_key(Letter::sequence);
                    let sequences = |list: &[Letter]| list.iter().map(Letter::sequence).collect::<Vec<_>>();
                    prop_assert_eq!(sequences(&taken), sequences(&expected));
                }
            }
            let sequences: Vec<u64> = waiting.iter().map(Letter::sequence).collect();
            prop_assert_eq!(&sequences, &list.iter().map(Letter::sequence).collect::<Vec<_>>());
            prop_assert_eq!(waiting.len(), list.len());
            prop_assert_eq!(waiting.first_expiry(), list.iter().map(Letter::expires_at).min());
            for known in &list {
                for is_sent in [false, true] {
                    let mut same = list.iter().filter(|other| other.id() == known.id());
                    let first = same.find(|other| !is_sent || other.attempts() > 0);
                    let found = waiting.find(known.id(), is_sent);
                    prop_assert_eq!(found.map(Letter::sequence), first.map(Letter::sequence));
                }
                prop_assert_eq!(waiting.get_mut(known.sequence()).unwrap().id(), known.id());
            }
            prop_assert!(waiting.find(letter(1_000, 0, 1, 0).id(), false).is_none());
            let is_long = matches!(waiting.0, Form::Indexed(_));
            prop_assert!(is_long || waiting.len() <= WAITING_UNINDEXED_MAX);
            prop_assert!(!is_long || waiting.len() > WAITING_UNINDEXED_MAX / 2);
        }
    }
}

#[test]
#[should_panic(expected = "waits already")]
fn a_letter_is_never_put_back_twice() {
    let mut waiting = Waiting::default();
    waiting.insert(letter(1, 1, END, 1));
    waiting.insert(letter(1, 1, END, 1));
}

#[test]
#[should_panic(expected = "waits already")]
fn nor_among_many() {
    let mut waiting = Waiting::default();
    (0..20).for_each(|sequence| waiting.insert(letter(sequence, 1, END, 1)));
    waiting.insert(letter(7, 1, END, 2));
}
