//! The router against shards that nobody runs: their lanes fill, their reports never come.
//!
//! Set-up: real links with unstarted shards behind them. Property: a trigger reaches all the shards
//! it concerns or none, and is encoded once for all of them. Why: callers retry what was refused.

mod batch;
mod room;

use std::sync::Arc;

use ara_shards::Limits;
use ara_shards::base::clock::Clock;
use ara_shards::base::limits::CONTROL_LANE_CAPACITY;
use ara_shards::link::doorbell::Doorbell;
use ara_shards::link::message::{Client, InitialSubscriptions, Recipients};
use ara_shards::notification::Priority;
use ara_shards::protocol::Transport;
use ara_shards::worker::{self, ShardSetup, Unstarted};
use serde_json::value::RawValue;

use ara_shards::base::limits::STOP_LINGER;

use super::stop::return_after;
use super::*;
use crate::intake::trigger::Payload;
use crate::intake::trigger::{Event, Target, Trigger};
use crate::listener::stream::Responder;

const CAPACITY: usize = 16;

fn rig(shards: usize) -> (Router, Vec<Unstarted>) {
    let mut links = Vec::new();
    let mut unstarted = Vec::new();
    for index in 0..shards {
        let setup = ShardSetup {
            index,
            core: None,
            inbox_capacity: CAPACITY,
            fair_turns: false,
            limits: Limits::default(),
            clock: Clock::start(),
            tokens: Arc::new(()),
        };
        let (link, shard) = worker::prepare(setup, Arc::new(Doorbell::new(|| {}))).unwrap();
        links.push(link);
        unstarted.push(shard);
    }
    let lifetimes = Lifetimes::new(Clock::start(), &Limits::default());
    (Router::new(links, Placement::new(shards), 100, lifetimes, &Limits::default()), unstarted)
}

fn trigger(target: Target) -> Trigger {
    let payload = Payload::Sent(RawValue::from_string("{}".into()).unwrap().into());
    let event = Event {
        event_type: "e".to_owned(),
        payload,
        priority: Priority::Normal,
        ttl: None,
        source: "test".into(),
        correlation_id: None,
        audience: None,
        queue: false,
    };
    Trigger { tenant: "default".into(), target, event }
}

/// A user whose home is the given shard.
fn user_at(router: &Router, shard: usize) -> Arc<str> {
    let names = (0..).map(|number: u32| number.to_string());
    let mut at_home =
        names.filter(|name| router.home(router.recipient("default".into(), name).hash) == shard);
    at_home.next().unwrap().into()
}

#[test]
fn a_full_inbox_refuses_the_whole_trigger() {
    let (router, _shards) = rig(2);
    let full = user_at(&router, 0);
    for _ in 0..CAPACITY {
        let sent = trigger(Target::Users(vec![Arc::clone(&full)]));
        router.dispatch(sent, None).unwrap();
    }
    let depths = router.overview().inbox_depths;
    assert_eq!(depths, [CAPACITY, 0]);
    let both = Target::Users(vec![full, user_at(&router, 1)]);
    for target in [Target::Everyone, both] {
        let refusal = router.dispatch(trigger(target), None).unwrap_err();
        assert_eq!(refusal.code, Code::Overloaded);
        assert_eq!(refusal.status(), 503);
        assert!(refusal.headers.contains(&("retry-after", "1".to_owned())));
        assert_eq!(router.overview().inbox_depths, depths, "no shard was sent a part of it");
    }
    assert_eq!(router.overview().counters.overloaded, 2);
    // Another lane, and a trigger for the other shard alone, still have room.
    let other = Target::Users(vec![user_at(&router, 1)]);
    router.dispatch(trigger(other), None).unwrap();
    let mut urgent = trigger(Target::Everyone);
    urgent.event.priority = Priority::Critical;
    router.dispatch(urgent, None).unwrap();
}

#[test]
fn a_trigger_is_encoded_once_however_many_shards_it_concerns() {
    let (router, _shards) = rig(3);
    let users = (0..3).map(|shard| user_at(&router, shard)).collect();
    let state = router.0.borrow();
    let id = ara_shards::base::id::NotificationId([7; 16]);
    for target in [Target::Users(users), Target::Everyone] {
        let shares = state.shares(&trigger(target), id, "now");
        let notifications: Vec<_> = shares
            .iter()
            .map(|share| match &share.recipients {
                Recipients::Users { notification, .. }
                | Recipients::Everyone { notification, .. } => notification,
                other => panic!("not matches: {other:?}"),
            })
            .collect();
        assert_eq!(notifications.len(), 3);
        assert!(notifications.iter().all(|other| Arc::ptr_eq(other, notifications[0])));
    }
}

/// A form that nobody reads is not made; several protocols may read one.
#[test]
fn a_notification_is_encoded_for_the_protocols_that_are_there() {
    let (router, _shards) = rig(1);
    let mut state = router.0.borrow_mut();
    let encodings = |state: &State| {
        Encoding::ALL.into_iter().filter(|encoding| state.encodings().contains(*encoding)).collect()
    };
    let nobody: Vec<Encoding> = encodings(&state);
    assert_eq!(nobody, []);
    for protocol in Protocol::ALL {
        *state.admitted.of(protocol) += 1;
        let read: Vec<Encoding> = encodings(&state);
        assert_eq!(read, [protocol.encoding()], "{protocol:?}");
        *state.admitted.of(protocol) -= 1;
    }
    state.lifetimes.keeps_messages = true;
    let kept: Vec<Encoding> = encodings(&state);
    assert_eq!(kept, [Encoding::AraText], "what is kept is kept as text");
}

#[test]
fn a_stopping_gateway_refuses_triggers_and_clients_in_its_own_words() {
    let (router, _shards) = rig(1);
    router.0.borrow_mut().phase = Phase::Stopping;
    let refusal = router.dispatch(trigger(Target::Everyone), None).unwrap_err();
    assert_eq!(refusal.code, Code::ShuttingDown);
    assert!(refused(&router, "*/*").starts_with("HTTP/1.1 503 "));
    let stream = refused(&router, "text/event-stream");
    assert!(stream.starts_with("HTTP/1.1 200 ") && stream.contains("SHUTTING_DOWN"), "{stream}");
}

#[tokio::test]
async fn limits_that_a_shard_does_not_take_are_not_said_to_be_in_effect() {
    let (router, _shards) = rig(2);
    let limits = Limits::default();
    assert!(router.reconfigure(100, &limits).await);
    for _ in 1..CONTROL_LANE_CAPACITY {
        router.0.borrow().shard(1).control(Control::Stop).unwrap();
    }
    assert!(!router.reconfigure(100, &limits).await);
}

#[test]
fn an_event_source_is_told_in_a_stream_that_a_shard_has_no_room() {
    let (router, _shards) = rig(1);
    for _ in 0..CONTROL_LANE_CAPACITY {
        let receiver = router.0.borrow().ask(0, Query::Snapshot);
        assert!(receiver.is_ok());
    }
    assert!(refused(&router, "*/*").starts_with("HTTP/1.1 503 "));
    let stream = refused(&router, "text/event-stream");
    assert!(stream.starts_with("HTTP/1.1 200 ") && stream.contains("OVERLOADED"), "{stream}");
    assert_eq!(router.overview().admitted, Admitted::default());
}

/// What an SSE client that asks with this `Accept` is answered.
fn refused(router: &Router, accept: &str) -> String {
    let request = http::Request::builder().uri("/sse").header("accept", accept).body(()).unwrap();
    let client = Client {
        tenant: "default".into(),
        user: "ann".into(),
        hash: router.recipient("default".into(), "ann").hash,
        roles: Box::default(),
        grants: None,
        subscribes_to: InitialSubscriptions::Everything,
        notify_settled: false,
        seen: None,
        expiry: None,
    };
    let admission = Admission {
        responder: Responder::new(&request.into_parts().0, Transport::Sse, None),
        client,
        response_head: Box::default(),
        connection_id: ara_shards::base::id::NotificationId([1; 16]),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = Socket::new(std::net::TcpStream::connect(address).unwrap(), address);
    let (_socket, response) = router.admit(socket, admission, Box::default()).unwrap_err();
    String::from_utf8(response).unwrap()
}

/// A client that comes back to a refused connection, or to a proxy's 502, may not come again.
#[test]
fn clients_are_asked_back_after_the_rest_of_the_stop_and_a_start() {
    let seconds = Duration::from_secs;
    let after = |clients, took| return_after(clients, seconds(10), took);
    assert_eq!(after(0, seconds(0)), STOP_LINGER + seconds(2));
    assert_eq!(after(100_000, seconds(0)), STOP_LINGER + seconds(2 + 2), "all are told first");
    assert_eq!(after(0, seconds(20)), STOP_LINGER + seconds(40), "a large queue is read back");
    assert_eq!(after(0, seconds(600)), STOP_LINGER + seconds(60));
    let short = return_after(1_000_000, seconds(1), seconds(0));
    assert_eq!(short, seconds(1 + 2), "no stop is longer than its grace");
}
