//! Whoever leaves is reported once, however it leaves; and the shard itself ends when told.
//!
//! Set-up: clients that close, half-close, vanish or are sent away; a drain; a stop; a panic.
//! Why it matters: a place that is never reported free is lost to the admission count for good,
//! and a shard that dies in silence takes its users with it.

use std::io::Write;
use std::time::Duration;

use ara_shards::link::message::{Control, Drain, Report};
use ara_shards::protocol::Protocol;
use ara_shards::worker::Ending;

use crate::harness::{Heard, PATIENCE, Rig, now, quiet};

const RETURN_AFTER: Duration = Duration::from_secs(7);

fn is_closed(report: &Report) -> bool {
    matches!(report, Report::Closed { protocol: Protocol::AraWebSocket, .. })
}

/// The next reports are those of one client's end, after which nobody is left.
fn one_has_left(rig: &Rig) {
    let closed = rig.until_closed();
    assert!(is_closed(&closed[0]) && closed.len() == 1, "{closed:?}");
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.websocket_connections, snapshot.users), (0, 0));
    assert_eq!(snapshot.counters.connections_closed, snapshot.counters.connections_opened);
}

#[test]
fn a_client_that_half_closes_is_gone() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    client.shut();
    assert_eq!(client.next(), Heard::End);
    one_has_left(&rig);
    rig.stop();
}

#[test]
fn a_client_that_vanishes_is_gone() {
    let rig = Rig::start(quiet(), 16);
    // Closing a socket with unread bytes in it resets the connection.
    let mut client = rig.join("ann");
    client.say(r#"{"type":"Ping"}"#);
    client.stream.peek(&mut [0]).unwrap();
    drop(client);
    one_has_left(&rig);
    rig.stop();
}

#[test]
fn a_subscriber_that_vanishes_takes_its_interest_along() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    client.subscribe("news");
    assert_eq!(client.message()["type"], "subscribed");
    drop(client);
    let reports = rig.until_closed();
    let [came, went, closed] = &reports[..] else { panic!("{reports:?}") };
    assert!(matches!(came, Report::Interest { present: true, .. }));
    assert!(matches!(went, Report::Interest { present: false, .. }));
    assert!(is_closed(closed));
    rig.stop();
}

#[test]
fn a_close_is_answered_and_the_socket_ended() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    client.stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]).unwrap();
    assert_eq!(client.next(), Heard::Close(1000));
    assert_eq!(client.next(), Heard::End);
    drop(client);
    one_has_left(&rig);
    rig.stop();
}

#[test]
fn a_client_that_stays_after_the_close_is_cut() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    // An unmasked frame.
    client.stream.write_all(&[0x81, 0x00]).unwrap();
    assert_eq!(client.next(), Heard::Close(1002));
    assert_eq!(client.next(), Heard::End);
    // It does not close its side, and yet its place is freed.
    one_has_left(&rig);
    rig.stop();
}

#[test]
fn too_many_connections_are_refused_and_reported_closed() {
    let rig = Rig::start(ara_shards::Limits { connections_per_user_max: 1, ..quiet() }, 16);
    let first = rig.join("ann");
    let mut second = rig.adopt("ann", Protocol::AraWebSocket, b"");
    assert!(second.read_to(b"\r\n").starts_with(b"HTTP/1.1 429 "));
    second.read_to(b"\r\n");
    assert_eq!(second.next(), Heard::End);
    drop(second);
    assert!(is_closed(&rig.until_closed()[0]));
    assert_eq!(rig.snapshot().counters.connections_refused, 1);
    drop(first);
    one_has_left(&rig);
    rig.stop();
}

#[test]
fn a_drain_says_goodbye_to_everyone_and_then_reports() {
    const CLIENTS: usize = 12;
    let rig = Rig::start(quiet(), 16);
    let clients: Vec<_> = (0..CLIENTS).map(|n| rig.join(&format!("user-{n}"))).collect();
    let mut sse = rig.adopt("reader", Protocol::AraSseChunked, b"");
    sse.read_to(b"event: connected\n");
    sse.read_to(b"\n\n");
    let drain = Drain {
        return_after: RETURN_AFTER,
        reconnect_window: Duration::from_secs(1_000),
        grace: PATIENCE,
    };
    rig.link.control(Control::Drain(drain)).unwrap();
    let mut delays = Vec::new();
    for mut client in clients {
        let goodbye = client.message();
        assert_eq!(goodbye["type"], "shutdown");
        delays.push(goodbye["reconnect_after_seconds"].as_f64().unwrap());
        assert_eq!(client.next(), Heard::Close(1001));
        assert_eq!(client.next(), Heard::End);
    }
    let goodbye = String::from_utf8(sse.read_to(b"\n\n")).unwrap();
    assert!(goodbye.contains("\nretry: ") && goodbye.contains("event: message\n"), "{goodbye}");
    assert!(goodbye.contains(r#""type":"shutdown""#), "{goodbye}");
    assert_eq!(sse.rest(), b"\r\n0\r\n\r\n", "the end of its chunk, and the last one");
    drop(sse);

    assert!(delays.iter().all(|delay| (7.0..1_007.0).contains(delay)), "{delays:?}");
    delays.sort_by(f64::total_cmp);
    delays.dedup();
    assert_eq!(delays.len(), CLIENTS, "each client has a delay of its own");

    // Whoever comes now is turned away, and counted out again.
    let mut late = rig.adopt("late", Protocol::AraWebSocket, b"");
    assert_eq!(late.next(), Heard::End);
    let reports = rig.reports_until(|report| matches!(report, Report::Drained));
    let closed = reports.iter().filter(|report| matches!(report, Report::Closed { .. })).count();
    assert!((CLIENTS + 1..=CLIENTS + 2).contains(&closed), "{reports:?}");
    rig.stop();
}

#[test]
fn a_drain_cuts_whoever_does_not_go() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    let begun = now();
    let grace = Duration::from_millis(700);
    let drain =
        Drain { return_after: RETURN_AFTER, reconnect_window: Duration::from_secs(1), grace };
    rig.link.control(Control::Drain(drain)).unwrap();
    let reports = rig.reports_until(|report| matches!(report, Report::Drained));
    // A tick is a tenth of a second.
    assert!(begun.elapsed() + Duration::from_millis(200) >= grace, "cut before its time");
    assert!(matches!(&reports[..], [closed, Report::Drained] if is_closed(closed)), "{reports:?}");
    // It could still read why.
    assert_eq!(client.message()["type"], "shutdown");
    assert_eq!(client.next(), Heard::Close(1001));
    rig.stop();
}

#[test]
fn an_empty_shard_is_drained_at_once() {
    let rig = Rig::start(quiet(), 16);
    let drain = Drain { return_after: RETURN_AFTER, reconnect_window: PATIENCE, grace: PATIENCE };
    rig.link.control(Control::Drain(drain)).unwrap();
    assert!(matches!(rig.report(), Report::Drained));
    rig.stop();
}

#[test]
fn stop_ends_the_thread_and_its_connections() {
    let rig = Rig::start(quiet(), 16);
    let mut client = rig.join("ann");
    rig.stop();
    assert_eq!(client.next(), Heard::End);
}

#[test]
fn a_panic_is_told() {
    let mut rig = Rig::waiting(quiet(), 16);
    rig.spawn(|| panic!("the test's own panic"));
    assert!(matches!(rig.ending(), Ending::Panicked));
}
