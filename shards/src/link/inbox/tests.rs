//! A message that finds its lane full still wakes whoever must empty it.
//!
//! Set-up: the lanes of one shard, with bells that count. Property: a refused message rings as a taken
//! one does, and comes back whole. Why it matters: a full lane is the moment at which the other side
//! must not sleep. If its wake-up were ever lost, refusals that ring are what ends the silence; those
//! that do not would leave a shard deaf and every caller refused, for ever.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::base::id::RequestId;
use crate::link::message::{Query, Recipients};
use crate::link::reply::ReplyTo;

const CAPACITY: usize = 4;

/// A bell and how often it has woken its owner.
fn counting_bell() -> (Arc<Doorbell>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let wakes = Arc::clone(&count);
    let wake = move || {
        wakes.fetch_add(1, Ordering::Relaxed);
    };
    (Arc::new(Doorbell::new(wake)), count)
}

fn silent_bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(|| {}))
}

/// A query for a channel of this name.
fn query(name: &str) -> Control {
    let (reply_to, _reply) = ReplyTo::new();
    Control::Ask(Query::Channel { tenant: "acme".into(), name: name.into(), reply_to })
}

fn is_for(control: &Control, wanted: &str) -> bool {
    matches!(control, Control::Ask(Query::Channel { name, .. }) if &**name == wanted)
}

#[test]
fn a_refused_control_message_rings_like_a_taken_one() {
    let (bell, wakes) = counting_bell();
    let (link, inbox) = lanes(CAPACITY, false, bell, silent_bell());
    link.control(query("0")).unwrap();
    link.control(query("1")).unwrap();
    assert_eq!(wakes.load(Ordering::Relaxed), 1, "the owner is awake already");
    while link.control(query("2")).is_ok() {}
    assert_eq!(link.depth(), CONTROL_LANE_CAPACITY);
    // The owner silences the bell and has not drained the lane yet.
    inbox.answer_bell();
    let Refused(message) = link.control(query("7")).unwrap_err();
    assert!(is_for(&message, "7"), "another came back");
    assert_eq!(wakes.load(Ordering::Relaxed), 2, "refused, and nobody was woken");
    assert!(is_for(&inbox.next_control().unwrap(), "0"));
}

#[test]
fn room_is_counted_for_as_many_as_are_asked_for() {
    let (link, inbox) = lanes(CAPACITY, false, silent_bell(), silent_bell());
    for waiting in 0..=CAPACITY {
        for count in 0..=CAPACITY + 1 {
            let has_room = link.has_room(Priority::Low, count);
            assert_eq!(has_room, waiting + count <= CAPACITY, "{count} more than {waiting}");
            assert_eq!(link.has_room(Priority::High, count), count <= CAPACITY, "another lane");
        }
        assert_eq!((link.depth(), inbox.is_empty()), (waiting, waiting == 0));
        let sent = link.deliver(Priority::Low, delivery());
        assert_eq!(sent.is_ok(), waiting < CAPACITY);
    }
}

#[test]
fn the_most_urgent_delivery_comes_first() {
    let (link, mut inbox) = lanes(CAPACITY, false, silent_bell(), silent_bell());
    for (number, priority) in (0..).zip(Priority::ALL) {
        link.deliver(priority, Delivery { request: RequestId(number), ..delivery() }).unwrap();
    }
    let order = std::iter::from_fn(|| inbox.next_delivery()).map(|taken| taken.request.0);
    assert_eq!(order.collect::<Vec<_>>(), [3, 2, 1, 0]);
}

#[test]
fn a_batch_takes_one_place_and_lets_the_more_urgent_in_between() {
    let (link, mut inbox) = lanes(CAPACITY, false, silent_bell(), silent_bell());
    let numbered = |number| Delivery { request: RequestId(number), ..delivery() };
    let batch = (0..3).map(numbered).collect();
    link.deliver(Priority::Normal, Parcel::Batch(batch)).unwrap();
    link.deliver(Priority::Normal, numbered(3)).unwrap();
    assert_eq!(link.depth(), 2);
    assert_eq!(inbox.next_delivery().unwrap().request.0, 0);
    assert!(inbox.is_within_batch());
    link.deliver(Priority::Critical, numbered(9)).unwrap();
    let order = std::iter::from_fn(|| inbox.next_delivery()).map(|taken| taken.request.0);
    assert_eq!(order.collect::<Vec<_>>(), [9, 1, 2, 3]);
    assert!(!inbox.is_within_batch() && inbox.is_empty());
}

/// To nobody.
fn delivery() -> Delivery {
    let audience = Recipients::Channels { tenant: "acme".into(), parts: Arc::default() };
    Delivery { request: RequestId(0), audience, room: None }
}
