//! What is urgent does not wait for what is wide.
//!
//! Set-up: one socket in the middle of a fan-out that takes several turns to write. Property: a
//! reply to that very client goes out in its own turn, with what waited before it, in order, and
//! the client is in no queue twice. Why it matters: to 100,000 clients the slices of one fan-out
//! are half a second; a pong, a heartbeat or a critical notification must not take that long.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use super::*;

#[test]
fn a_reply_overtakes_the_rest_of_a_fan_out() {
    overtakes(false, FAN_OUT_FLUSHES_PER_TURN);
}

#[test]
fn where_tenants_take_turns_the_slices_are_smaller() {
    overtakes(true, FAN_OUT_FLUSHES_PER_FAIR_TURN);
}

fn overtakes(fair_turns: bool, flushes_per_turn: usize) {
    let mut connections = Connections::new(Poll::new().unwrap(), 1_000, fair_turns);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let key = connections
        .adopt(Socket::new(stream, peer), Protocol::AraWebSocket, NotificationId([7; 16]))
        .unwrap();
    // What has come may take the kernel a moment to hand over: it is waited for by its length.
    let mut read = |expected: &str| {
        let mut bytes = vec![0; expected.len()];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    };

    // Enough before it in the queue for two turns (clients that have left meanwhile).
    let others = flushes_per_turn * 2;
    let gone = (1..=others).filter_map(ConnectionKey::from_index);
    connections.fan_out.extend(gone);
    assert!(connections.offer(key, &OutboundMessage::raw((*b"wide ").into()), Urgency::FanOut));
    connections.flush_touched();
    assert_eq!(connections.fan_out.len(), flushes_per_turn + 1, "a slice of them is done");
    assert_ne!(connections.outbox_bytes(), 0, "the clients before it come first");
    assert!(connections.offer(key, &OutboundMessage::raw((*b"urgent ").into()), Urgency::Prompt));
    connections.flush_touched();
    assert_eq!(connections.outbox_bytes(), 0, "an urgent message waits for a fan-out");
    read("wide urgent ");

    // Its old place in the queue serves the next fan-out.
    assert!(connections.offer(key, &OutboundMessage::raw((*b"again ").into()), Urgency::FanOut));
    let places = connections.fan_out.iter().filter(|other| **other == key).count();
    assert_eq!(places, 1);
    connections.flush_touched();
    read("again ");
    assert!(!connections.has_work());
}

#[test]
fn a_connection_keeps_the_address_it_came_from() {
    let mut connections = Connections::new(Poll::new().unwrap(), 1_000, false);
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    assert!(peer.is_ipv6(), "a socket for both families names it ::ffff:127.0.0.1");
    let key = connections
        .adopt(Socket::new(stream, peer), Protocol::AraWebSocket, NotificationId([7; 16]))
        .unwrap();
    let connection = connections.slots.get(key.index()).unwrap();
    assert_eq!(connection.socket.peer(), client.local_addr().unwrap().into());
}
