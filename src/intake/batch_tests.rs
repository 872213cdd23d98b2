//! A batch comes to what its notifications, sent alone one after another, would have come to.
//!
//! Set-up: batches of notifications that are valid, malformed or refused by whoever sends. Why it
//! matters: one of them must never take the others down.

use proptest::prelude::*;

use super::*;
use crate::templates::Catalog;

const ITEMS: [&str; 6] = [
    r#"{"target":{"type":"user","value":"a"},"event_type":"e","payload":1}"#,
    r#"{"target":{"type":"users","value":["a"]},"event_type":"e","payload":2}"#,
    r#"{"target":{"type":"channels","value":["b","a"]},"event_type":"e","payload":3}"#,
    r#"{"target":{"type":"channels","value":["a","b"]},"event_type":"refuse","payload":4}"#,
    r#"{"target":{"type":"user","value":7},"event_type":"e","payload":5}"#,
    r#"{"target":{"type":"broadcast"},"event_type":"e","payload":6,"colour":1}"#,
];

fn send(items: &[usize], options: Options) -> Vec<Outcome<usize, usize>> {
    let texts: Vec<&str> = items.iter().map(|place| ITEMS[*place]).collect();
    let bytes = Bytes::from(format!("[{}]", texts.join(",")));
    let raw: Vec<&RawValue> = serde_json::from_slice(&bytes).unwrap();
    let mut batch = Batch::new(&bytes, raw, None).unwrap();
    batch.options = options;
    batch.send_each(&"t".into(), "test", &Catalog::default(), |index, trigger| {
        if trigger.event.event_type == "refuse" { Err(index) } else { Ok(index) }
    })
}

/// What can be told of an outcome: a fault as its sentence.
fn told(outcome: &Outcome<usize, usize>) -> String {
    match outcome {
        Outcome::Invalid(fault) => fault.to_string(),
        other => format!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn each_comes_to_what_it_would_alone(items in proptest::collection::vec(0..ITEMS.len(), 1..12)) {
        let together = send(&items, Options::default());
        prop_assert_eq!(together.len(), items.len());
        for (index, (item, outcome)) in items.iter().zip(together).enumerate() {
            let alone = send(&[*item], Options::default()).pop().unwrap();
            prop_assert_eq!(told(&outcome), told(&match alone {
                Outcome::Sent(_) => Outcome::Sent(index),
                Outcome::Refused(_) => Outcome::Refused(index),
                other => other,
            }));
        }
    }

    #[test]
    fn nothing_is_attempted_after_the_first_refusal(items in proptest::collection::vec(0..ITEMS.len(), 1..12)) {
        let all = send(&items, Options::default());
        let stopped = send(&items, Options { stop_on_error: true, deduplicate: false });
        let end = items.iter().position(|item| *item >= 3).map_or(items.len(), |place| place + 1);
        let told = |outcomes: &[_]| outcomes.iter().map(told).collect::<Vec<_>>();
        prop_assert_eq!(told(&stopped[..end]), told(&all[..end]));
        prop_assert!(stopped[end..].iter().all(|outcome| *outcome == Outcome::NotAttempted));
    }
}

#[test]
fn what_was_sent_before_is_left_out_however_its_target_is_written() {
    let options = Options { stop_on_error: false, deduplicate: true };
    let outcomes = send(&[3, 0, 1, 2, 2], options);
    let expected = [
        Outcome::Refused(0),
        Outcome::Sent(1),
        Outcome::Skipped,
        Outcome::Sent(3),
        Outcome::Skipped,
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn a_fault_names_the_field_as_of_one_that_came_alone() {
    let Some(Outcome::Invalid(fault)) = send(&[4], Options::default()).pop() else { panic!() };
    assert_eq!(fault.field(), Some("target.value"));
}

#[test]
fn a_batch_has_one_to_a_hundred() {
    for (count, is_taken) in [(0, false), (1, true), (100, true), (101, false)] {
        let bytes = Bytes::from(format!("[{}]", vec!["1"; count].join(",")));
        let raw = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(Batch::new(&bytes, raw, None).is_ok(), is_taken, "{count}");
    }
}
