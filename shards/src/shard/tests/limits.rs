//! Bounds that change while a shard runs.
//!
//! Set-up: one shard in virtual time that is told other limits. Properties: each new bound holds exactly
//! from the next message on, for connections that are there too; whoever is beyond one already stays.
//! Why it matters: an operator who lowers a bound during an attack must not end the clients he has.

use super::*;
use crate::base::limits::QueueLimits;

fn tell(bench: &mut Bench, limits: Limits) {
    bench.link.control(Control::Limits(Box::new(limits))).unwrap();
    bench.settle();
}

fn subscribe(bench: &mut Bench, client: &mut TcpStream, channel: &str) {
    let text = format!(r#"{{"type":"Subscribe","payload":{{"channels":["{channel}"]}}}}"#);
    client.write_all(&masked(0x81, text.as_bytes())).unwrap();
    // Over loopback what was written is there at once, but the poller may hear of it a turn later.
    while bench.shard.state.counters.messages_received == 0 {
        bench.settle();
    }
    bench.shard.state.counters.messages_received = 0;
    bench.settle();
}

#[test]
fn connections_and_subscriptions_keep_the_bound_of_the_moment() {
    let bounds = |connections, subscriptions| Limits {
        connections_per_user_max: connections,
        subscriptions_per_connection_max: subscriptions,
        ..timed(0, 0)
    };
    let mut bench = Bench::new(bounds(1, 1));
    let mut client = bench.join();
    subscribe(&mut bench, &mut client, "a");
    read(&mut client, br#""payload":["a"]}"#);
    let (mut refused, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    assert_eq!(read(&mut refused, b"NO"), b"NO");

    tell(&mut bench, bounds(2, 2));
    let (mut second, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    read(&mut second, b"\"ann\"}");
    subscribe(&mut bench, &mut client, "b");
    read(&mut client, br#""payload":["b"]}"#);

    tell(&mut bench, bounds(1, 1));
    let (mut refused, _) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    assert_eq!(read(&mut refused, b"NO"), b"NO");
    subscribe(&mut bench, &mut client, "c");
    read(&mut client, b"may have 1 subscriptions\"}");
    bench.deliver(b"to both");
    bench.settle();
    for client in [&mut client, &mut second] {
        read(client, b"to both");
    }
}

#[test]
fn a_message_is_held_against_the_bound_of_the_moment() {
    let mut bench = Bench::new(Limits { message_bytes_max: 1_000, ..timed(0, 0) });
    let mut client = bench.join();
    subscribe(&mut bench, &mut client, &"a".repeat(60));
    read(&mut client, b"\"]}");
    tell(&mut bench, Limits { message_bytes_max: 100, ..timed(0, 0) });
    client.write_all(&masked(0x81, &[b' '; 101])).unwrap();
    while bench.shard.state.counters.violations == 0 {
        bench.settle();
    }
    // 1009, too big (RFC 6455 section 7.4.1).
    assert!(read(&mut client, &[0x03, 0xF1]).len() < 100);
}

#[test]
fn an_outbox_is_held_against_the_bound_of_the_moment() {
    const LOWERED: usize = 200_000;
    let bound =
        |outbox_bytes_per_connection_max| Limits { outbox_bytes_per_connection_max, ..timed(0, 0) };
    let mut bench = Bench::new(bound(64 * 1024 * 1024));
    let _reads_nothing = bench.join();
    let payload = vec![b'x'; 50_000];
    while bench.shard.connections.outbox_bytes() < 2 * LOWERED {
        bench.deliver(&payload);
        bench.settle();
    }
    assert!(bench.is_open(), "the first bound is far");
    tell(&mut bench, bound(LOWERED));
    assert!(bench.is_open(), "what waits goes on waiting");
    bench.deliver(&payload);
    bench.settle();
    assert!(!bench.is_open(), "and nothing is added to it");
    assert_eq!(bench.shard.state.counters.slow_consumers, 1);
}

#[test]
#[should_panic(expected = "for the life of a shard")]
fn the_queue_does_not_change() {
    let mut bench = Bench::new(timed(0, 0));
    let queue =
        QueueLimits { per_user_max: 1, ttl: Duration::MAX, dead_letter_ttl: Duration::ZERO };
    tell(&mut bench, Limits { queue: Some(queue), ..timed(0, 0) });
}
