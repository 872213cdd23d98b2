//! A delivery allocates the same whatever the number of its recipients.
//!
//! Set-up: a state with many connections, an outgoing side that only counts, and an allocator that
//! counts too. Property: allocations of a delivery do not grow with the fan-out. Why: invariant 8;
//! at a million recipients one small allocation each is the larger half of the work.

#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::disallowed_macros, reason = "an allocator has no other place to count")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use ara_shards::Limits;
use ara_shards::base::id::{ConnectionKey, NotificationId, RequestId, Tick};
use ara_shards::base::placement::UserHash;
use ara_shards::encoding::{Encoding, Encodings};
use ara_shards::link::message::{Client, Delivery, InitialSubscriptions, Recipients};
use ara_shards::notification::{Metadata, Notification, Priority};
use ara_shards::outbound::{OutboundMessage, Unsent};
use ara_shards::protocol::{Event, Protocol};
use ara_shards::state::{Outgoing, State, Urgency};
use ara_shards::wire::close::CloseReason;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the system allocator's rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Taker {
    frames: usize,
}

impl Outgoing for Taker {
    fn tell(&mut self, _: ConnectionKey, _: &Event<'_>) -> bool {
        panic!("a delivery tells nobody anything else");
    }

    fn offer(&mut self, _: ConnectionKey, frame: &Rc<OutboundMessage>, _: Urgency) -> bool {
        assert!(Encoding::ALL.iter().all(|encoding| !frame.bytes(*encoding).is_empty()));
        self.frames += usize::from(frame.is_notification());
        true
    }

    fn encoding(&self, _: ConnectionKey) -> Option<Encoding> {
        panic!("nothing is sent from a queue");
    }

    fn backlog_bytes(&self, _: ConnectionKey) -> Option<usize> {
        Some(0)
    }

    fn watch(&mut self, _: ConnectionKey) {}

    fn close(&mut self, _: ConnectionKey, _: CloseReason<'_>) -> Vec<Unsent> {
        Vec::new()
    }
}

/// Allocations of one delivery to everyone, and to a channel all listen to.
fn allocations(connections: usize) -> [u64; 2] {
    let mut state = State::new(Limits::default(), 1);
    let mut out = Taker::default();
    let tenant: Arc<str> = "default".into();
    for number in 0..connections {
        let member = Client {
            tenant: Arc::clone(&tenant),
            user: number.to_string().into(),
            hash: UserHash(number as u64),
            roles: Box::default(),
            grants: None,
            subscribes_to: InitialSubscriptions::Channels(Box::from(["news".into()])),
            notify_settled: false,
            seen: None,
            expiry: None,
        };
        let key = ConnectionKey::from_index(number).unwrap();
        let protocol = *Protocol::ALL.get(number % 3).unwrap();
        state.handle_connect(key, member, protocol).unwrap();
    }
    let id = NotificationId([1; 16]);
    let (audience, priority) = (None, Priority::Normal);
    let head = Metadata { id, audience, expires_at: Tick(u32::MAX), priority };
    let notification = Arc::new(Notification::encode(head, b"{}", Encodings::ALL));
    let news: Arc<str> = "news".into();
    let channels: Arc<[_]> = Arc::from([(news, Arc::clone(&notification))]);
    let mut deliver = |audience| {
        while state.poll_report().is_some() {}
        let before = ALLOCATIONS.with(Cell::get);
        state.begin_turn(Tick(1));
        state.handle_delivery(Delivery { request: RequestId(1), audience, room: None }, &mut out);
        ALLOCATIONS.with(Cell::get) - before
    };
    let everyone = || Recipients::Everyone {
        tenant: Arc::clone(&tenant),
        notification: Arc::clone(&notification),
    };
    // Once to warm up what is reused.
    deliver(everyone());
    let counts = [
        deliver(everyone()),
        deliver(Recipients::Channels { tenant: Arc::clone(&tenant), parts: channels }),
    ];
    assert_eq!(out.frames, 3 * connections);
    counts
}

#[test]
fn a_delivery_allocates_nothing_per_recipient() {
    let few = allocations(2);
    let many = allocations(5_000);
    assert_eq!(few, many);
    assert!(few.iter().all(|count| (1..=4).contains(count)), "{few:?}");
}
