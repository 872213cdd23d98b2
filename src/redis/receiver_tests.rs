//! Whatever becomes of a notification of a batch, it is counted once, and the others are sent.
//!
//! Set-up: a sink that takes, refuses or is closed, as the test says; no Redis. Why it matters: nobody is
//! answered, so the figures and the log are all that a publisher's operator has.

use std::cell::RefCell;

use super::message::BROADCAST;
use super::*;
use crate::refusal::Code;

/// Keeps the event types it takes: all but `refuse`. It takes none when it is closed.
#[derive(Default)]
struct Scripted {
    is_closed: bool,
    taken: Rc<RefCell<Vec<String>>>,
}

impl Sink for Scripted {
    fn send(&mut self, trigger: Trigger) -> Result<(), Refusal> {
        let event_type = trigger.event.event_type;
        if self.is_closed || event_type == "refuse" {
            return Err(Refusal::new(Code::Overloaded, "no room"));
        }
        self.taken.borrow_mut().push(event_type);
        Ok(())
    }

    fn send_batch<T>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut dyn FnMut(Trigger) -> Result<(), Refusal>) -> T,
    ) -> Result<T, Refusal> {
        if self.is_closed {
            return Err(Refusal::new(Code::ShuttingDown, "stopping"));
        }
        self.taken.borrow_mut().push(format!("batch of {count}"));
        Ok(fill(&mut |trigger| self.send(trigger)))
    }
}

fn receiver(sink: Scripted) -> Receiver<Scripted> {
    let tenants = Tenants { are_enabled: true, default: "default".into() };
    Receiver::new(tenants, Rc::default(), Rc::default(), sink)
}

/// A batch of notifications to one user with these event types; one without a name has no target.
fn batch(event_types: &[&str], options: &str) -> Frame {
    let item = |event_type: &&str| {
        let value = if event_type.is_empty() { "7" } else { "\"u\"" };
        format!(
            r#"{{"target":{{"type":"user","value":{value}}},"event_type":"{event_type}","payload":1}}"#
        )
    };
    let items: Vec<String> = event_types.iter().map(item).collect();
    let text =
        format!(r#"{{"type":"batch","options":{options},"notifications":[{}]}}"#, items.join(","));
    Frame::Message { channel: BROADCAST.into(), payload: text.into() }
}

/// Of the notifications so far: rejected for their target, not attempted, not sent.
fn counts<S>(receiver: &Receiver<S>) -> (u64, u64, u64) {
    let status = &receiver.status;
    let not_sent = status.snapshot().not_sent;
    (status.rejected(Rejected::BadTarget), status.rejected(Rejected::NotAttempted), not_sent)
}

#[test]
fn each_notification_is_counted_for_itself_and_the_others_are_sent_together() {
    let sink = Scripted::default();
    let taken = Rc::clone(&sink.taken);
    let mut receiver = receiver(sink);
    assert_eq!(receiver.take(batch(&["a", "", "refuse", "", "b", "b"], "{}")), 6);
    assert_eq!(*taken.borrow(), ["batch of 6", "a", "b", "b"]);
    assert_eq!(counts(&receiver), (2, 0, 1));
    assert_eq!(receiver.status.snapshot().messages_received, 1);
}

#[test]
fn a_batch_stops_where_it_is_to_and_says_how_many_were_left() {
    for (wrong, expected) in [("", (1, 2, 0)), ("refuse", (0, 2, 1))] {
        let sink = Scripted::default();
        let taken = Rc::clone(&sink.taken);
        let mut receiver = receiver(sink);
        receiver.take(batch(&["a", wrong, "b", ""], r#"{"stop_on_error":true}"#));
        assert_eq!(*taken.borrow(), ["batch of 4", "a"]);
        assert_eq!(counts(&receiver), expected);
    }
}

#[test]
fn what_is_left_out_as_a_repetition_is_no_fault() {
    let sink = Scripted::default();
    let taken = Rc::clone(&sink.taken);
    let mut receiver = receiver(sink);
    receiver.take(batch(&["a", "a", "b"], r#"{"deduplicate":true}"#));
    assert_eq!(*taken.borrow(), ["batch of 3", "a", "b"]);
    assert_eq!(counts(&receiver), (0, 0, 0));
}

#[test]
fn all_of_a_batch_is_not_sent_where_nothing_can_be() {
    let mut receiver = receiver(Scripted { is_closed: true, ..Scripted::default() });
    receiver.take(batch(&["a", "b", "c"], "{}"));
    assert_eq!(counts(&receiver), (0, 0, 3));
}

#[test]
fn a_batch_counts_as_one_message_where_it_is_not_taken_as_a_whole() {
    let mut receiver = receiver(Scripted::default());
    assert_eq!(receiver.take(batch(&[], "{}")), 1);
    assert_eq!(receiver.status.rejected(Rejected::BadBatch), 1);
}
