//! What a subscription and a queued message cost, and that what has ended costs nothing.
//!
//! Set-up: a state with a thousand connections that subscribe, and an allocator that adds up what is
//! in use. Properties: a channel with one subscriber costs 100 bytes at most (the router's part
//! comes on top), a further subscription of a shared channel 16; when nine of ten are gone, most
//! of it is given back; when all are, all of it. Of messages, 50 for each user: one in flight costs 64
//! bytes at most and one that waits 32, beside what all recipients share. Why: 50 channels of its own
//! for each of a million clients are 5 GB at 100 bytes each, and what comes and goes must not add up.

#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::disallowed_macros, reason = "an allocator has no other place to count")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ara_shards::Limits;
use ara_shards::base::id::{ConnectionKey, NotificationId, RequestId, Tick};
use ara_shards::base::limits::{AckLimits, QueueLimits};
use ara_shards::base::placement::UserHash;
use ara_shards::encoding::{Encoding, Encodings};
use ara_shards::link::message::{
    Client, Delivery, InitialSubscriptions, Query, Recipient, Recipients, Source,
};
use ara_shards::link::reply::ReplyTo;
use ara_shards::notification::{Metadata, Notification, Priority};
use ara_shards::outbound::{OutboundMessage, Unsent};
use ara_shards::protocol::{Event, Protocol, ara};
use ara_shards::state::{Outgoing, State, Urgency};
use ara_shards::wire::close::CloseReason;

struct Adding;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the sum is a plain cell.
unsafe impl GlobalAlloc for Adding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.with(|bytes| bytes.set(bytes.get().wrapping_add(layout.size())));
        // SAFETY: the caller keeps the system allocator's rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.with(|bytes| bytes.set(bytes.get().wrapping_sub(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Adding = Adding;

const CONNECTIONS: usize = 1_000;
const CHANNELS_EACH: usize = 50;

/// Takes every frame and forgets it.
struct Nowhere;

impl Outgoing for Nowhere {
    fn tell(&mut self, _: ConnectionKey, _: &Event<'_>) -> bool {
        true
    }

    fn offer(&mut self, _: ConnectionKey, _: &Rc<OutboundMessage>, _: Urgency) -> bool {
        true
    }

    fn encoding(&self, _: ConnectionKey) -> Option<Encoding> {
        Some(Encoding::AraText)
    }

    fn backlog_bytes(&self, _: ConnectionKey) -> Option<usize> {
        Some(0)
    }

    fn watch(&mut self, _: ConnectionKey) {}

    fn close(&mut self, _: ConnectionKey, _: CloseReason<'_>) -> Vec<Unsent> {
        Vec::new()
    }
}

/// What is in use by all that the test has made so far.
fn bytes() -> usize {
    BYTES.with(Cell::get)
}

/// A thousand connections without a channel.
fn connected() -> State {
    connected_within(Limits { subscriptions_per_connection_max: 0, ..Limits::default() })
}

fn connected_within(limits: Limits) -> State {
    let mut state = State::new(limits, 1);
    let tenant: Arc<str> = "default".into();
    for number in 0..CONNECTIONS {
        let member = Client {
            tenant: Arc::clone(&tenant),
            user: number.to_string().into(),
            hash: UserHash(number as u64),
            roles: Box::default(),
            grants: None,
            subscribes_to: InitialSubscriptions::Nothing,
            notify_settled: false,
            seen: None,
            expiry: None,
        };
        state.handle_connect(key(number), member, Protocol::AraWebSocket).unwrap();
    }
    state
}

fn key(number: usize) -> ConnectionKey {
    ConnectionKey::from_index(number).unwrap()
}

fn say(state: &mut State, number: usize, what: &str, names: impl Iterator<Item = String>) {
    let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    let text = format!(r#"{{"type":"{what}","payload":{{"channels":[{}]}}}}"#, names.join(","));
    state.handle_message(key(number), ara::parse(&text), &mut Nowhere);
    while state.poll_report().is_some() {}
}

/// Every connection subscribes. Returns the cost of a subscription.
fn subscribe(state: &mut State, name: impl Fn(usize, usize) -> String) -> f64 {
    while state.poll_report().is_some() {}
    let before = bytes();
    for number in 0..CONNECTIONS {
        say(state, number, "Subscribe", (0..CHANNELS_EACH).map(|index| name(number, index)));
    }
    (bytes() - before) as f64 / (CONNECTIONS * CHANNELS_EACH) as f64
}

#[test]
fn a_channel_with_one_subscriber_costs_100_bytes_at_most() {
    for (name, most) in [("c", 100.0), ("a.name.of.30.bytes", 116.0)] {
        let mut state = connected();
        let cost = subscribe(&mut state, |number, index| format!("{name}-{number:07}-{index}"));
        assert!(cost <= most, "{cost:.1} bytes for a channel like {name}-0000000-0");
    }
}

#[test]
fn a_subscription_of_a_shared_channel_costs_16_bytes_at_most() {
    let mut state = connected();
    let cost = subscribe(&mut state, |_, index| format!("shared-{index}"));
    assert!(cost <= 16.0, "{cost:.1} bytes");
}

#[test]
fn what_is_not_subscribed_any_more_costs_nothing() {
    let mut state = connected();
    let bare = bytes();
    let name = |number: usize, index: usize| format!("channel-{number}-{index}");
    let _cost = subscribe(&mut state, name);
    let _cost = subscribe(&mut state, |_, index| format!("shared-{index}"));
    let full = bytes() - bare;
    for number in (0..CONNECTIONS).filter(|number| number % 10 != 0) {
        say(&mut state, number, "Unsubscribe", (0..CHANNELS_EACH).map(|i| name(number, i)));
        say(&mut state, number, "Unsubscribe", (0..CHANNELS_EACH).map(|i| format!("shared-{i}")));
    }
    let rest = bytes() - bare;
    assert!(rest <= full / 4, "{rest} bytes of {full} are kept for a tenth");
    for number in (0..CONNECTIONS).step_by(10) {
        say(&mut state, number, "Unsubscribe", (0..CHANNELS_EACH).map(|i| name(number, i)));
        say(&mut state, number, "Unsubscribe", (0..CHANNELS_EACH).map(|i| format!("shared-{i}")));
    }
    let rest = bytes() - bare;
    assert!(rest <= 16 * 1024, "{rest} bytes are kept for nobody");
}

/// Neither a subscription nor its end looks at the others of the connection, or at those of the one
/// who takes its place in the channel's list. Where they did, this would take minutes.
#[test]
fn very_many_come_and_go_one_by_one() {
    let mut state = connected();
    let many = 20_000;
    let names = |from: usize| (from..from + 100).map(|index| format!("channel-{index}"));
    for what in ["Subscribe", "Unsubscribe", "Subscribe"] {
        for from in (0..many).step_by(100) {
            for number in [0, 1, 2] {
                say(&mut state, number, what, names(from));
            }
        }
    }
    let mut gone = 0;
    for number in [1, 0, 2] {
        state.handle_disconnect(key(number), Vec::new());
        gone += std::iter::from_fn(|| state.poll_report()).count();
    }
    assert_eq!(gone, many, "each channel went with its last subscriber");
}

const MESSAGES_EACH: usize = 50;

/// Messages wait for users who are away, and for the Ack of those who are here.
fn with_queue_and_acks() -> Limits {
    let (ttl, timeout) = (Duration::from_secs(3600), Duration::from_secs(30));
    let queue = QueueLimits { per_user_max: 0, ttl, dead_letter_ttl: ttl };
    let ack = AckLimits { timeout, requeue: true, attempts_max: 3, in_flight_max: 1000 };
    Limits { queue: Some(queue), ack: Some(ack), ..Limits::default() }
}

fn recipient(number: usize) -> Recipient {
    let (tenant, user) = ("default".into(), number.to_string().into());
    Recipient { tenant, user, hash: UserHash(number as u64) }
}

/// What each message costs that so many notifications leave for these users, and what is left of
/// that when all are cleared. A notification is one for all of them.
fn cost_of_messages(state: &mut State, users: Range<usize>) -> (f64, f64) {
    let before = bytes();
    let recipients: Box<[Recipient]> = users.clone().map(recipient).collect();
    for number in 0..MESSAGES_EACH {
        let id = NotificationId((number as u128).to_be_bytes());
        let (audience, priority) = (None, Priority::Normal);
        let metadata = Metadata { id, audience, expires_at: Tick(36_000), priority };
        let notification = Arc::new(Notification::encode(metadata, b"{}", Encodings::ALL));
        let audience = Recipients::Users { notification, users: recipients.clone() };
        let delivery = Delivery { request: RequestId(1), audience, room: None };
        state.handle_delivery(delivery, &mut Nowhere);
        while state.poll_report().is_some() {}
    }
    drop(recipients);
    let messages = (users.len() * MESSAGES_EACH) as f64;
    let cost = (bytes() - before) as f64 / messages;
    for user in users.map(recipient) {
        let (reply_to, _reply) = ReplyTo::new();
        let clear = Query::UserQueue { user, source: Source::Queue, clear: true, reply_to };
        state.handle_query(clear, &mut Nowhere);
        while state.poll_report().is_some() {}
    }
    while state.handle_deadlines(&mut Nowhere) {}
    (cost, (bytes() as f64 - before as f64) / messages)
}

#[test]
fn a_message_in_flight_costs_64_bytes_at_most() {
    let mut state = connected_within(with_queue_and_acks());
    let (cost, left) = cost_of_messages(&mut state, 0..CONNECTIONS);
    assert!(cost <= 64.0, "{cost} B a message in flight");
    assert!(left <= 1.0, "{left} B are left of a message that has ended");
}

#[test]
fn a_message_that_waits_costs_32_bytes_at_most() {
    let mut state = State::new(with_queue_and_acks(), 1);
    let (cost, left) = cost_of_messages(&mut state, 0..CONNECTIONS);
    assert!(cost <= 32.0, "{cost} B a message that waits");
    assert!(left <= 1.0, "{left} B are left of a message that has ended");
}
