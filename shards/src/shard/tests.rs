//! A shard turn by turn: real sockets, and a clock that the test moves.
//!
//! Set-up: one shard without its thread; clients on loopback. Properties: what depends on the
//! order of things within a turn, or on time: heartbeats, silence, stalls, the end of a drain.
//! Why it matters: these go wrong once in a million turns, where no test of the whole would look.

mod heartbeats;
mod limits;
mod pressure;
mod stopping;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mio::Poll;

use super::*;
use crate::base::id::{NotificationId, RequestId, Tick};
use crate::base::limits::{AckLimits, REPORT_LANE_CAPACITY};
use crate::base::placement::UserHash;
use crate::base::socket::Socket;
use crate::encoding::Encodings;
use crate::link::doorbell::Doorbell;
use crate::link::inbox::{self, ShardLink};
use crate::link::message::{Client, Delivery, Drain, InitialSubscriptions, Recipient, Recipients};
use crate::notification::{Metadata, Notification, Priority};
use crate::protocol::{Protocol, Transport};

const START: Tick = Tick(1_000);
const RESPONSE_HEAD: &[u8] = b"RESPONSE_HEAD\n";

/// A shard whose turns the test takes.
struct Bench {
    shard: Shard,
    link: ShardLink,
    now: Tick,
    reports: Vec<Report>,
    router_bell: Arc<Doorbell>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let [bell, router_bell] = [(); 2].map(|()| Arc::new(Doorbell::new(|| {})));
        let (link, inbox) = inbox::lanes(64, false, bell, Arc::clone(&router_bell));
        let poll = Poll::new().unwrap();
        let connections = Connections::new(poll, limits.outbox_bytes_per_connection_max, false);
        let shard = Shard::new(limits, START, connections, inbox, None);
        Self { shard, link, now: START, reports: Vec::new(), router_bell }
    }

    /// Takes turns until there is nothing to do; keeps the reports.
    fn settle(&mut self) -> Option<Tick> {
        loop {
            let flow = self.turn();
            self.reports.extend(std::iter::from_fn(|| self.link.next_report()));
            match flow {
                NextTurn::OnWake(next) => return next,
                NextTurn::AtOnce | NextTurn::WhenReportsFit => {}
                NextTurn::Never => panic!("nobody said stop"),
            }
        }
    }

    fn turn(&mut self) -> NextTurn {
        self.shard.turn(self.now).unwrap()
    }

    /// Moves the clock to `until`, waking when the shard asks to be woken.
    fn pass_until(&mut self, until: Tick) {
        while let Some(next) = self.settle().filter(|next| *next <= until) {
            assert!(next > self.now, "asked to be woken in the past");
            self.now = next;
        }
        self.now = until;
        self.settle();
    }

    fn adopt(&mut self, protocol: Protocol, leftover: &[u8]) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let twin = stream.try_clone().unwrap();
        let subscribes_to = match protocol.transport() {
            Transport::WebSocket => InitialSubscriptions::Nothing,
            Transport::Sse => InitialSubscriptions::Everything,
        };
        let adoption = Adoption {
            socket: Socket::new(stream, peer),
            protocol,
            client: Client {
                tenant: "acme".into(),
                user: "ann".into(),
                hash: UserHash(1),
                roles: Box::default(),
                grants: None,
                subscribes_to,
                notify_settled: false,
                seen: None,
                expiry: None,
            },
            response_head: RESPONSE_HEAD.into(),
            refusal: Arc::from(&b"NO"[..]),
            leftover: leftover.into(),
            connection_id: NotificationId([1; 16]),
        };
        self.link.control(Control::Adopt(Box::new(adoption))).unwrap();
        (client, twin)
    }

    /// A client that has read its response head and `connected`.
    fn join(&mut self) -> TcpStream {
        let (mut client, _) = self.adopt(Protocol::AraWebSocket, b"");
        self.settle();
        assert!(read(&mut client, b"\"}").ends_with(b"\"user_id\":\"ann\"}"));
        client
    }

    fn deliver(&mut self, json: &[u8]) {
        let id = NotificationId([2; 16]);
        let (audience, priority) = (None, Priority::Normal);
        let head = Metadata { id, audience, expires_at: Tick(u32::MAX), priority };
        let notification = Notification::encode(head, json, Encodings::ALL);
        let user = Recipient { tenant: "acme".into(), user: "ann".into(), hash: UserHash(1) };
        let notification = Arc::new(notification);
        let audience = Recipients::Users { notification, users: [user].into() };
        self.link
            .deliver(Priority::Normal, Delivery { request: RequestId(1), audience, room: None })
            .unwrap();
    }

    fn is_open(&self) -> bool {
        self.shard.connections.is_open(ConnectionKey(0))
    }
}

/// Reads up to and with `end`.
fn read(client: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut byte = [0];
        let count = client.read(&mut byte).unwrap();
        assert_ne!(count, 0, "ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    bytes
}

/// A client's frame with an all-zero mask.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

const PONG: u8 = 0x8A;

fn timed(heartbeat_seconds: u64, timeout_seconds: u64) -> Limits {
    Limits {
        heartbeat_interval: Duration::from_secs(heartbeat_seconds),
        connection_timeout: Duration::from_secs(timeout_seconds),
        ..Limits::default()
    }
}

#[test]
fn heartbeats_come_on_time_and_silence_ends_in_4408() {
    let mut bench = Bench::new(timed(10, 35));
    let mut client = bench.join();
    let mut last = bench.now;
    for _ in 0..5 {
        let before = bench.shard.state.counters.heartbeats;
        while bench.shard.state.counters.heartbeats == before {
            bench.now = Tick(bench.now.0 + 1);
            bench.settle();
        }
        let waited = bench.now.0 - last.0;
        assert!((80..=120).contains(&waited), "a heartbeat after {waited} tenths");
        last = bench.now;
        assert_eq!(read(&mut client, b"\x89\x00"), b"\x81\x14{\"type\":\"heartbeat\"}\x89\x00");
        client.write_all(&masked(PONG, b"")).unwrap();
        bench.settle();
    }
    // The next heartbeat is the ping that stays unanswered.
    let asked_at = bench.settle().unwrap();
    bench.pass_until(Tick(asked_at.0 + 349));
    assert!(bench.is_open());
    bench.pass_until(Tick(asked_at.0 + 350));
    assert!(!bench.is_open());
    assert_eq!(bench.shard.state.counters.timeouts, 1);
    read(&mut client, b"\x11\x38no frame from the client");
    bench.pass_until(Tick(asked_at.0 + 350 + 31));
    assert!(matches!(bench.reports[..], [Report::Closed { .. }]), "it did not answer, and is cut");
}

#[test]
fn a_reader_whose_outbox_was_empty_has_not_stalled() {
    let mut bench = Bench::new(timed(0, 5));
    let mut client = bench.join();
    // Only its pongs come; nothing is ever written to it.
    bench.pass_until(Tick(START.0 + 49));
    client.write_all(&masked(PONG, b"")).unwrap();
    bench.settle();
    // A notification and its timer meet in one turn.
    bench.now = Tick(START.0 + 50);
    bench.deliver(b"{}");
    bench.settle();
    assert_eq!(bench.shard.state.counters.slow_consumers, 0);
    assert!(bench.is_open());
    assert_eq!(read(&mut client, b"{}"), b"\x81\x02{}");
}

#[test]
fn a_reader_that_takes_nothing_for_the_timeout_has_stalled() {
    let mut bench = Bench::new(timed(1, 5));
    let client = bench.join();
    let large = vec![b'x'; 4 * 1024 * 1024];
    for _ in 0..8 {
        bench.deliver(&large);
        bench.settle();
    }
    let full_at = bench.now;
    let mut writer = client.try_clone().unwrap();
    while bench.is_open() {
        assert!(bench.now < Tick(full_at.0 + 100), "it stayed");
        bench.now = Tick(bench.now.0 + 5);
        writer.write_all(&masked(PONG, b"")).unwrap();
        bench.settle();
    }
    assert_eq!(bench.shard.state.counters.slow_consumers, 1);
    drop(client);
}

/// Stopped, starved or suspended: what was asked before has had no chance to be answered, or the
/// answer waits unread.
#[test]
fn a_pause_of_the_process_closes_nobody() {
    for heartbeat_seconds in [1, 0, 5] {
        for is_answered in [true, false] {
            let mut bench = Bench::new(timed(heartbeat_seconds, 3));
            let mut client = bench.join();
            // It is pinged, and the process is paused at once.
            let asked_at = bench.settle().unwrap();
            bench.pass_until(asked_at);
            read(&mut client, b"\x89\x00");
            if is_answered {
                client.write_all(&masked(PONG, b"")).unwrap();
            }
            bench.now = Tick(asked_at.0 + 36_000);
            bench.settle();
            assert!(bench.is_open(), "closed by a pause: {heartbeat_seconds} {is_answered}");
            // A moment later it answers: the last ping if it had not, and the next.
            bench.pass_until(Tick(bench.now.0 + 29));
            assert!(bench.is_open(), "closed after a pause: {heartbeat_seconds} {is_answered}");
            client.write_all(&masked(PONG, b"")).unwrap();
            bench.settle();
            bench.pass_until(Tick(bench.now.0 + 29));
            assert!(bench.is_open());
            // One that is really gone is still found out.
            bench.pass_until(Tick(bench.now.0 + 80));
            assert!(!bench.is_open(), "silent, and kept: {heartbeat_seconds} {is_answered}");
        }
    }
}

/// Nothing is asked of it, so nothing can be missing: it is pinged before it is judged.
#[test]
fn a_client_that_only_listens_is_pinged_where_no_heartbeat_comes() {
    for heartbeat_seconds in [0, 60] {
        let mut bench = Bench::new(timed(heartbeat_seconds, 5));
        let mut client = bench.join();
        for round in 1..=5 {
            bench.pass_until(Tick(START.0 + round * 50));
            assert!(bench.is_open(), "closed without being asked");
            assert_eq!(read(&mut client, b"\x89\x00"), b"\x89\x00", "nothing but a ping");
            client.write_all(&masked(PONG, b"")).unwrap();
            bench.settle();
        }
        bench.pass_until(Tick(START.0 + 6 * 50));
        read(&mut client, b"\x89\x00");
        bench.pass_until(Tick(START.0 + 7 * 50 - 1));
        assert!(bench.is_open());
        bench.pass_until(Tick(START.0 + 7 * 50));
        assert!(!bench.is_open());
        assert_eq!(bench.shard.state.counters.timeouts, 1);
    }
}

/// A reader whose socket was full has the timeout to take something, not counting ours.
#[test]
fn a_pause_of_the_process_makes_no_reader_slow() {
    let roomy = Limits { outbox_bytes_per_connection_max: 64 * 1024 * 1024, ..timed(1, 5) };
    let mut bench = Bench::new(roomy);
    let mut client = bench.join();
    let large = vec![b'x'; 8 * 1024 * 1024];
    bench.deliver(&large);
    bench.settle();
    bench.now = Tick(bench.now.0 + 36_000);
    bench.settle();
    bench.pass_until(Tick(bench.now.0 + 40));
    assert!(bench.is_open(), "blamed for our pause");
    // It reads until that has made room for more. How much and how long this takes is up to the
    // kernel, so both ends are tried in turn.
    client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let moved_at = bench.shard.connections.moved_at(ConnectionKey(0));
    let mut taken = vec![0; 64 * 1024];
    let has_moved = (0..2_000).any(|_| {
        let is_open = client.read(&mut taken).map_or(true, |count| count > 0);
        assert!(is_open, "closed");
        bench.settle();
        bench.shard.connections.moved_at(ConnectionKey(0)) > moved_at
    });
    assert!(has_moved, "nothing more was written");
    bench.pass_until(Tick(bench.now.0 + 40));
    assert!(bench.is_open());
    assert_eq!(bench.shard.state.counters.slow_consumers, 0);
}

/// The time in which the router leaves no room for reports is lost in the same way: nobody is
/// heard.
#[test]
fn while_the_router_holds_the_shard_nobody_falls_silent() {
    let mut bench = Bench::new(timed(1, 3));
    let mut client = bench.join();
    let asked_at = bench.settle().unwrap();
    bench.pass_until(asked_at);
    read(&mut client, b"\x89\x00");
    while bench.shard.inbox.report(Report::Drained).is_ok() {}
    bench.shard.state.push_report(Report::Drained);
    for _ in 0..100 {
        assert_eq!(bench.turn(), NextTurn::WhenReportsFit);
        bench.now = Tick(bench.now.0 + 1);
    }
    bench.reports.extend(std::iter::from_fn(|| bench.link.next_report()));
    bench.settle();
    assert!(bench.is_open(), "silent while nobody listened");
}

/// A client that could not be heard has not failed to acknowledge.
#[test]
fn a_pause_does_not_use_up_the_time_to_acknowledge() {
    let timeout = Duration::from_secs(30);
    let ack = AckLimits { timeout, requeue: false, attempts_max: 5, in_flight_max: 10 };
    let mut bench = Bench::new(Limits { ack: Some(ack), ..timed(0, 0) });
    let _client = bench.join();
    bench.deliver(b"{}");
    bench.settle();
    bench.now = Tick(bench.now.0 + 36_000);
    bench.settle();
    assert_eq!(bench.shard.state.counters.ack_timeouts, 0);
    bench.pass_until(Tick(bench.now.0 + 299));
    assert_eq!(bench.shard.state.counters.ack_timeouts, 0);
    bench.pass_until(Tick(bench.now.0 + 1));
    assert_eq!(bench.shard.state.counters.ack_timeouts, 1);
}

/// A closing client has its time to read the goodbye.
#[test]
fn a_pause_does_not_use_up_the_time_of_a_closing_client() {
    let mut bench = Bench::new(timed(0, 0));
    let mut client = bench.join();
    client.write_all(&masked(0x88, b"\x03\xe8")).unwrap();
    bench.settle();
    bench.now = Tick(bench.now.0 + 36_000);
    bench.settle();
    assert_eq!(bench.shard.connections.len(), 1, "cut");
    bench.pass_until(Tick(bench.now.0 + 31));
    assert_eq!(bench.shard.connections.len(), 0, "kept");
}

/// An SSE client has nothing to say, before its socket came here or after.
#[test]
fn what_an_sse_client_sends_is_not_read_as_frames() {
    let mut bench = Bench::new(timed(0, 0));
    let subscribe = masked(0x81, br#"{"type":"Subscribe","payload":{"channels":["a"]}}"#);
    let (mut client, _) = bench.adopt(Protocol::AraSseChunked, &subscribe);
    bench.settle();
    client.write_all(&subscribe).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    bench.settle();
    bench.deliver(b"{}");
    bench.settle();
    assert!(bench.is_open());
    assert_eq!(bench.shard.state.counters.messages_received, 0);
    let stream = String::from_utf8(read(&mut client, b"data: {}\n\n")).unwrap();
    assert!(!stream.contains("subscribed"), "{stream}");
}

#[test]
fn a_fragment_is_a_frame_from_the_client() {
    let mut bench = Bench::new(timed(0, 5));
    let mut client = bench.join();
    client.write_all(&masked(0x01, b"{\"type\":")).unwrap();
    for second in 1..20 {
        bench.pass_until(Tick(START.0 + second * 10));
        client.write_all(&masked(0x00, b" ")).unwrap();
        bench.settle();
        assert!(bench.is_open(), "closed as silent after {second} s of frames");
    }
}

#[test]
fn a_drain_ends_with_the_last_client_even_if_its_socket_breaks() {
    let mut bench = Bench::new(timed(0, 0));
    let (_client, twin) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    // Writing fails from now on, as after a reset that the poller has not told yet.
    twin.shutdown(std::net::Shutdown::Write).unwrap();
    let minute = Duration::from_secs(60);
    bench
        .link
        .control(Control::Drain(Drain {
            return_after: minute,
            reconnect_window: minute,
            grace: minute,
        }))
        .unwrap();
    bench.settle();
    assert!(
        matches!(bench.reports[..], [Report::Closed { .. }, Report::Drained]),
        "{:?}",
        bench.reports
    );
}

/// A key is given to a new client only after the old one's failures have been dealt with.
#[test]
fn a_broken_socket_does_not_take_its_successor_along() {
    let limits = Limits { outbox_bytes_per_connection_max: 1_000, ..timed(0, 0) };
    let mut bench = Bench::new(limits);
    let (client, twin) = bench.adopt(Protocol::AraWebSocket, b"");
    bench.settle();
    // All in one turn: a write fails, the client is seen gone, and the report lane is full.
    twin.shutdown(std::net::Shutdown::Write).unwrap();
    drop(client);
    for _ in 0..2 {
        bench.deliver(&[b'x'; 800]);
    }
    for _ in 0..REPORT_LANE_CAPACITY {
        assert!(bench.shard.inbox.report(Report::Drained).is_ok());
    }
    assert_eq!(bench.turn(), NextTurn::WhenReportsFit);
    bench.reports.extend(std::iter::from_fn(|| bench.link.next_report()));

    let mut successor = bench.join();
    bench.deliver(b"{}");
    bench.settle();
    assert!(bench.is_open(), "the successor was closed");
    assert_eq!(read(&mut successor, b"{}"), b"\x81\x02{}");
    let is_closed = |report: &&Report| matches!(report, Report::Closed { .. });
    assert_eq!(bench.reports.iter().filter(is_closed).count(), 1);
}
