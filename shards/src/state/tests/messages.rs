//! No message is ever lost: whatever happens, each one accepted is in exactly one known place.
//!
//! Set-up: random schedules of triggers, clients that come, stall, drip, acknowledge and go, API
//! calls and clock jumps, in virtual time, on a [`State`](super::super::State) whose sockets keep
//! real frames until they are read ([`sockets`]).
//! Property, after every single call: each accepted message of each user, by identity, is waiting,
//! in flight, given up, in an outbox (acknowledgement off), or gone for a reason that holds
//! ([`ledger`]), and the counters say how many went for which. What waits is replayed before
//! anything newer, in order, as soon as somebody has room; what is overdue is dealt with; nothing
//! is sent more often than allowed; and no message leaves nothing behind.
//! Why it matters: at-least-once delivery is this, and nothing else shows when it is broken.

mod crash;
mod ledger;
mod office;
mod script;
mod sockets;
mod turn;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::steps::encodings;
use super::{ask, seeded};
use crate::base::id::{ConnectionKey, RequestId, Tick};
use crate::base::limits::{AckLimits, Limits, QueueLimits};
use crate::base::placement::UserHash;
use crate::link::message::{
    Client, Delivery, InitialSubscriptions, Query, Recipient, Recipients, Source,
};
use crate::notification::{Metadata, Notification, Priority};
use crate::protocol::{Protocol, Transport};
use crate::state::State;
use office::Office;
use script::{Newcomer, Trigger};
use sockets::Sockets;

proptest! {
    #![proptest_config(seeded(3_000))]

    #[test]
    fn every_accepted_message_is_in_one_known_place(
        limits in script::limits(),
        seed: u64,
        steps in prop::collection::vec(script::step(), 1..60),
    ) {
        let mut office = Office::new(limits, seed);
        for step in &steps {
            office.step(step);
        }
        office.close();
    }
}

/// The same with messages on disk and the process killed now and then: what was held before is held
/// after it, with its attempts and in its order, and nothing that had ended.
#[test]
fn what_is_held_outlives_the_process() {
    let lives = prop::collection::vec(prop::collection::vec(script::step(), 1..25), 1..4);
    let histories = (script::limits_with_queue(), any::<u64>(), lives, any::<bool>());
    let moved = Cell::new(0);
    let mut runner = TestRunner::new(seeded(400));
    let result = runner.run(&histories, |(limits, seed, lives, stirs)| {
        let directory = tempfile::tempdir().unwrap();
        let mut office = Office::on_disk(limits, seed, directory.path());
        for steps in &lives {
            for step in steps {
                office.step(step);
            }
            if stirs {
                office.stir();
            }
            moved.set(moved.get() + office.die_and_return());
        }
        office.close();
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(moved.get() > 0, "no message was moved by compaction: this shows too little");
}

/// What two stalled connections were both sent waits once, when one of them has gone and when both
/// have. (Random schedules get here once in thousands of cases.)
#[test]
fn what_two_connections_give_back_waits_once() {
    let ttl = Duration::from_secs(60);
    let queue = QueueLimits { per_user_max: 0, ttl, dead_letter_ttl: Duration::ZERO };
    let limits = Limits { queue: Some(queue), ..Limits::default() };
    for leaves_first in [0, 1] {
        let mut office = Office::new(limits.clone(), 0);
        let (users, priority) = (vec![0], Priority::Normal);
        let trigger =
            Trigger { users, priority, ttl: None, for_role: false, weight: 2, for_sse: true };
        office.trigger(&trigger);
        for key in [0, 1] {
            let (user, transport) = (0, Transport::WebSocket);
            let (in_role, notify_settled, seen) = (false, false, None);
            office.connect(&Newcomer { user, transport, in_role, notify_settled, seen });
            office.sockets.stall(key);
        }
        while office.end_turn() {}
        assert!(office.ledger.has(0, ledger::Place::InFlight), "both have been sent it");
        office.leave(leaves_first, false);
        office.account(&ledger::Facts::default());
        while office.end_turn() {}
        assert!(office.ledger.has(0, ledger::Place::InFlight), "the other may write it yet");
        office.leave(1 - leaves_first, false);
        office.account(&ledger::Facts::default());
        assert_eq!(office.ledger.of(0).count(), 1);
        assert!(office.ledger.has(0, ledger::Place::Waiting));
        office.close();
    }
}

/// A replay waits for the room of the only reader a message is for, who goes: what came meanwhile
/// for the user's other connection is sent to that. (Random schedules get here too rarely.)
#[test]
fn a_replay_does_not_wait_for_who_has_left() {
    let ttl = Duration::from_secs(60);
    let queue = QueueLimits { per_user_max: 0, ttl, dead_letter_ttl: Duration::ZERO };
    let ack = AckLimits {
        timeout: Duration::from_secs(1),
        requeue: true,
        attempts_max: 3,
        in_flight_max: 9,
    };
    let limits = Limits { queue: Some(queue), ack: Some(ack), ..Limits::default() };
    let mut office = Office::new(limits, 0);
    for in_role in [true, false] {
        let (user, transport) = (0, Transport::WebSocket);
        let (notify_settled, seen) = (false, None);
        office.connect(&Newcomer { user, transport, in_role, notify_settled, seen });
    }
    office.sockets.stall(0);
    let mut trigger = Trigger {
        users: vec![0],
        priority: Priority::Normal,
        ttl: None,
        for_role: true,
        weight: 2,
        for_sse: true,
    };
    office.trigger(&trigger);
    office.begin_turn(Tick(office.now.0 + 10));
    while office.end_turn() {}
    trigger.for_role = false;
    trigger.weight = 0;
    office.trigger(&trigger);
    while office.end_turn() {}
    office.leave(0, false);
    office.account(&ledger::Facts::default());
    while office.end_turn() {}
    office.close();
}

/// A trigger that is repeated because nobody knows whether it was sent before a crash has the id it
/// had: both messages are kept, sent, and acknowledged, one by one.
#[test]
fn two_messages_may_have_one_id() {
    let ttl = Duration::from_secs(60);
    let queue = QueueLimits { per_user_max: 0, ttl, dead_letter_ttl: Duration::ZERO };
    let timeout = Duration::from_secs(1);
    let ack = AckLimits { timeout, requeue: true, attempts_max: 3, in_flight_max: 9 };
    for ack in [None, Some(ack)] {
        let limits = Limits { queue: Some(queue), ack, ..Limits::default() };
        let (mut state, mut sockets) = (State::new(limits, 0), Sockets::new(false));
        let user = Recipient { tenant: "acme".into(), user: "ann".into(), hash: UserHash(7) };
        let (id, audience) = (sockets::identity(1, 0), None);
        let head = Metadata { id, audience, expires_at: Tick(1_000), priority: Priority::Normal };
        let readers = encodings(true, false);
        let notification = Arc::new(Notification::encode(head, br#"{"n":1}"#, readers));
        for _ in 0..2 {
            let (notification, users) = (Arc::clone(&notification), Box::new([user.clone()]));
            let audience = Recipients::Users { notification, users };
            state.begin_turn(Tick(1));
            state.handle_delivery(
                Delivery { request: RequestId(1), audience, room: None },
                &mut sockets,
            );
        }
        let member = Client {
            tenant: user.tenant.clone(),
            user: (&*user.user).into(),
            hash: user.hash,
            roles: Box::default(),
            grants: None,
            subscribes_to: InitialSubscriptions::Nothing,
            notify_settled: false,
            seen: None,
            expiry: None,
        };
        sockets.open(0, 0, Transport::WebSocket);
        sockets.stall(0);
        let key = ConnectionKey(0);
        state.begin_turn(Tick(2));
        state.handle_connect(key, member, Protocol::AraWebSocket).unwrap();
        while state.poll_replays(&mut sockets) {}
        assert_eq!(state.queues.in_flight_total(), 2);
        if ack.is_some() {
            let slot = state.directory.find_user("acme", "ann", user.hash).unwrap();
            let mut acknowledge = || {
                let (queues, mut cx) = state.queues();
                queues.acknowledge(&mut cx, slot, id)
            };
            assert_eq!([(); 3].map(|()| acknowledge()), [true, true, false]);
        }
        let unsent = sockets.remove(0, true, false);
        state.handle_disconnect(key, unsent);
        assert_eq!(state.queues.in_flight_total(), 0);
        state.begin_turn(Tick(3));
        let left = ask(&mut state, &mut sockets, |reply_to| Query::UserQueue {
            user,
            source: Source::Queue,
            clear: false,
            reply_to,
        });
        assert_eq!(left.count, if ack.is_some() { 0 } else { 2 });
    }
}
