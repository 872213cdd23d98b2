//! Lanes: bounded, in order, control first, and no report lost or late.
//!
//! Set-up: lanes filled before the thread starts, or a router that stops draining. Why it matters:
//! a caller's `delivered_to` is the sum of reports, and a trigger finds a channel only if its
//! `Interest` came before the client could cause the trigger.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use ara_shards::base::id::RequestId;
use ara_shards::base::limits::{
    CONTROL_LANE_CAPACITY, DELIVERIES_PER_TURN, Limits, REPORT_LANE_CAPACITY,
};
use ara_shards::link::message::{
    Control, Delivery, DeliveryCounts, Parcel, Query, Recipients, Reply, Report,
};
use ara_shards::notification::Priority;
use ara_shards::protocol::Protocol;
use tokio::sync::oneshot::error::TryRecvError;

use crate::harness::{
    Heard, PATIENCE, Rig, TENANT, TestClient, masked_text, now, quiet, recipient, to_user,
};

/// Long enough for a loaded machine to show what should not happen.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn a_full_lane_refuses_and_the_others_do_not() {
    let mut rig = Rig::waiting(quiet(), 8);
    for priority in [Priority::High, Priority::Low] {
        for number in 0..8 {
            assert!(rig.link.has_room(priority, 1));
            rig.link.deliver(priority, to_user("ann", number, priority)).unwrap();
        }
        assert!(!rig.link.has_room(priority, 1));
        let refused = rig.link.deliver(priority, to_user("ann", 99, priority)).unwrap_err();
        let is_it = matches!(refused.0, Parcel::One(delivery) if delivery.request.0 == 99);
        assert!(is_it, "the refused message comes back");
    }
    assert!(rig.link.has_room(Priority::Normal, 1) && rig.link.has_room(Priority::Critical, 1));
    assert_eq!(rig.link.depth(), 16);
    rig.ask_for_snapshot();
    rig.spawn(|| {});
    // Asked last, answered first: control does not wait behind deliveries.
    let Report::Replied(Reply::Snapshot(_, snapshot)) = rig.report() else {
        panic!("the answer was not the first report");
    };
    assert_eq!(snapshot.counters.deliveries, 0);
    for _ in 0..16 {
        assert!(matches!(rig.report(), Report::Delivered { .. }));
    }
    assert!(rig.link.has_room(Priority::High, 1));
    rig.stop();
}

#[test]
fn a_full_control_lane_refuses() {
    let mut rig = Rig::waiting(quiet(), 8);
    for _ in 0..CONTROL_LANE_CAPACITY {
        rig.ask_for_snapshot();
    }
    assert!(rig.link.control(Control::Stop).is_err());
    rig.spawn(|| {});
    for _ in 0..CONTROL_LANE_CAPACITY {
        assert!(matches!(rig.report(), Report::Replied(_)));
    }
    rig.stop();
}

/// Replies come in the order of the queries, and each reaches whoever asked: here the first is taken
/// from the lane last, and one has stopped waiting.
#[test]
fn each_reply_reaches_whoever_asked() {
    let rig = Rig::start(quiet(), 8);
    let _ann = [rig.join("ann"), rig.join("ann")];
    let _bob = rig.join("bob");
    let connections =
        |user: &'static str| rig.ask(|reply_to| Query::User { user: recipient(user), reply_to });
    let mut ann = connections("ann");
    drop(connections("ann"));
    let mut bob = connections("bob");
    let mut snapshot = rig.ask(Query::Snapshot);
    let mut replies = Vec::new();
    while replies.len() < 4 {
        if let Report::Replied(reply) = rig.report() {
            replies.push(reply);
        }
    }
    assert!(ann.try_recv().is_err(), "only the router delivers a reply");
    replies.into_iter().rev().for_each(Reply::deliver);
    assert_eq!(ann.try_recv().unwrap().connections, 2);
    assert_eq!(bob.try_recv().unwrap().connections, 1);
    assert_eq!(snapshot.try_recv().unwrap().websocket_connections, 3);
    rig.stop();
}

/// When a shard and its lanes are gone, whoever waits for a reply hears of it, without a deadline.
#[test]
fn a_query_that_is_dropped_fails_for_whoever_asked() {
    let rig = Rig::waiting(quiet(), 8);
    let mut reply = rig.ask(Query::Snapshot);
    drop(rig);
    assert!(matches!(reply.try_recv(), Err(TryRecvError::Closed)));
}

#[test]
fn urgent_deliveries_overtake_and_each_lane_keeps_its_order() {
    let mut rig = Rig::waiting(quiet(), 1_000);
    let mut client = rig.adopt("ann", Protocol::AraWebSocket, b"");
    let per_lane = 100;
    for number in 0..per_lane {
        for (rank, priority) in (0..).zip(Priority::ALL) {
            let delivery = to_user("ann", rank * per_lane + number, priority);
            rig.link.deliver(priority, delivery).unwrap();
        }
    }
    rig.spawn(|| {});
    client.read_to(b"\r\n\r\n");
    assert_eq!(client.message()["type"], "connected");
    let urgent_first =
        (0..4).rev().flat_map(|rank| (0..per_lane).map(move |n| rank * per_lane + n));
    for expected in urgent_first {
        assert_eq!(client.number(), expected);
    }
    rig.stop();
}

/// Sends numbered deliveries: `least` of them whatever it takes, then on until there has been no
/// room for a while. Returns how many.
fn flood(rig: &Rig, least: u64, client_share: u64) -> u64 {
    let mut sent = 0;
    let mut since = now();
    while since.elapsed() < if sent < least { PATIENCE } else { A_WHILE } {
        if rig.link.has_room(Priority::Normal, 1) {
            let user = if sent % client_share == 0 { "ann" } else { "nobody" };
            rig.deliver(Priority::Normal, to_user(user, sent, Priority::Normal));
            sent += 1;
            since = now();
        } else {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    sent
}

#[test]
fn an_undrained_report_lane_holds_the_shard_and_loses_nothing() {
    let lane = 2_000_usize;
    let least = (REPORT_LANE_CAPACITY + lane) as u64;
    let client_share = 16;
    let rig = Rig::start(quiet(), lane);
    let mut client = rig.join("ann");
    let sent = flood(&rig, least, client_share);
    assert!(sent >= least, "held too early: {sent}");
    assert!(sent <= least + 2 * DELIVERIES_PER_TURN as u64, "it did not hold: {sent} taken");

    // In the middle of the flood: the lane is full of deliveries, and a query comes.
    rig.ask_for_snapshot();
    let mut next = 0;
    let mut answered_after = None;
    let mut delivered = 0;
    while next < sent {
        match rig.report() {
            Report::Delivered { request, total, parts } => {
                assert_eq!(request.0, next, "reports come once each, in order");
                let expected = u32::from(next % client_share == 0);
                assert_eq!(
                    total,
                    DeliveryCounts { delivered: expected, failed: 0, ..DeliveryCounts::default() }
                );
                assert!(parts.is_empty());
                delivered += u64::from(expected);
                next += 1;
            }
            Report::Replied(Reply::Snapshot(_, snapshot)) => {
                assert_eq!(snapshot.counters.deliveries, next, "one coherent moment");
                answered_after = Some(next);
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    let waited_for = answered_after.expect("the query was answered during the flood");
    assert!(sent - waited_for >= lane as u64 - 64, "answered behind {waited_for} of {sent}");
    for number in (0..sent).step_by(usize::try_from(client_share).unwrap()) {
        assert_eq!(client.number(), number);
    }
    let counters = rig.snapshot().counters;
    assert_eq!((counters.deliveries, counters.frames_delivered), (sent, delivered));
    assert!(rig.link.next_report().is_none());
    rig.stop();
}

/// A shard that goes to sleep is woken by the next delivery, at whatever moment that is sent.
#[test]
fn every_ring_is_heard() {
    let rig = Rig::start(quiet(), 1_000);
    let mut sent = 0;
    for _ in 0..10_000 {
        for _ in 0..fastrand::u32(1..6) {
            rig.deliver(Priority::Normal, to_user("nobody", sent, Priority::Normal));
            sent += 1;
            for _ in 0..fastrand::u32(0..2_000) {
                std::hint::spin_loop();
            }
        }
        rig.counts(sent - 1);
    }
    rig.stop();
}

fn is_interest(report: &Report, name: &str) -> bool {
    matches!(report, Report::Interest { tenant, channel: Some(channel), present: true }
        if &**tenant == TENANT && &**channel == name)
}

#[test]
fn interest_is_reported_before_subscribed_can_be_read() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    for number in 0..300 {
        let name = format!("channel-{number}");
        client.subscribe(&name);
        assert_eq!(client.message()["payload"][0], *name);
        // No waiting: the report must be there by now.
        let report = rig.link.next_report().expect("the report came after the reply");
        assert!(is_interest(&report, &name), "{report:?}");
    }
    rig.stop();
}

/// A shard with a client, and exactly as many reports in the lane as fit.
fn full_of_reports(limits: Limits) -> (Rig, TestClient) {
    let rig = Rig::start(limits, 16);
    let client = rig.join("ann");
    for _ in 0..REPORT_LANE_CAPACITY / CONTROL_LANE_CAPACITY {
        for _ in 0..CONTROL_LANE_CAPACITY {
            rig.ask_for_snapshot();
        }
        rig.until_inbox_is_empty();
    }
    (rig, client)
}

/// The client sees `subscribed` only after the router has made room, and then the news is there.
fn subscribed_waits_for_room(rig: &Rig, client: &mut TestClient) {
    assert_eq!(client.next_within(A_WHILE), None, "written before the router could know");
    assert!(matches!(rig.report(), Report::Replied(_)));
    let Heard::Text(message) = client.next() else { panic!("not a message") };
    assert_eq!(message["type"], "subscribed");
    let mut in_lane = std::iter::from_fn(|| rig.link.next_report());
    assert!(in_lane.any(|report| is_interest(&report, "news")));
}

#[test]
fn subscribed_is_held_back_until_the_router_has_room() {
    let (rig, mut client) = full_of_reports(quiet());
    client.subscribe("news");
    subscribed_waits_for_room(&rig, &mut client);
    rig.stop();
}

#[test]
fn subscribed_is_held_back_even_when_the_outbox_fills_up_within_the_turn() {
    let (rig, mut client) =
        full_of_reports(Limits { outbox_bytes_per_connection_max: 512, ..quiet() });
    let mut burst = masked_text(r#"{"type":"Subscribe","payload":{"channels":["news"]}}"#);
    for _ in 0..100 {
        burst.extend(masked_text(r#"{"type":"Ping"}"#));
    }
    client.stream.write_all(&burst).unwrap();
    subscribed_waits_for_room(&rig, &mut client);
    rig.stop();
}

/// What a delivery to nobody of this tenant looks like.
fn of_tenant(tenant: &str, number: u64) -> Delivery {
    let audience = Recipients::Channels { tenant: tenant.into(), parts: Arc::default() };
    Delivery { request: RequestId(number), audience, room: None }
}

#[test]
fn a_tenant_is_served_in_its_turn_while_another_floods() {
    let mut rig = Rig::waiting_with_fair_turns(10_000);
    let flood = 8_000;
    for number in 0..flood {
        rig.link.deliver(Priority::Critical, of_tenant("flooding", number)).unwrap();
    }
    rig.link.deliver(Priority::Normal, of_tenant("other", flood)).unwrap();
    rig.spawn(|| {});
    let is_other =
        |report: &Report| matches!(report, Report::Delivered { request, .. } if request.0 == flood);
    let before = rig.reports_until(is_other).len();
    assert!(before <= 2 * DELIVERIES_PER_TURN, "{before} reports before the other tenant's");
    for _ in before..=usize::try_from(flood).unwrap() {
        assert!(matches!(rig.report(), Report::Delivered { .. }));
    }
    rig.stop();
}
