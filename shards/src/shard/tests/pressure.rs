//! What a shard does with more than it has room for.
//!
//! Set-up: one shard in virtual time whose report lane, outboxes or buffers are full. Properties: no
//! byte overtakes the report of what it speaks of; the router is woken to make room; the least urgent
//! gives way first; what clients leave unfinished, and what is replayed at once, is bounded. Why it
//! matters: each of these holds without its guard as long as there is room, so only a test that
//! takes the room away sees the guard go.

use super::*;
use crate::base::limits::{QueueLimits, REPLAY_BACKLOG_BYTES, UNFINISHED_BYTES_MAX};

/// A notification to Ann.
fn delivery(json: &[u8], priority: Priority) -> Delivery {
    let id = NotificationId([3; 16]);
    let head = Metadata { id, audience: None, expires_at: Tick(u32::MAX), priority };
    let notification = Arc::new(Notification::encode(head, json, Encodings::ALL));
    let user = Recipient { tenant: "acme".into(), user: "ann".into(), hash: UserHash(1) };
    let audience = Recipients::Users { notification, users: [user].into() };
    Delivery { request: RequestId(1), audience, room: None }
}

fn send(bench: &Bench, json: &[u8], priority: Priority) {
    bench.link.deliver(priority, delivery(json, priority)).unwrap();
}

/// Takes the reports that have come, and says what became of each delivery: delivered, failed.
fn outcomes(bench: &mut Bench) -> Vec<(u32, u32)> {
    let reports = bench.reports.drain(..).chain(std::iter::from_fn(|| bench.link.next_report()));
    let counts = reports.filter_map(|report| match report {
        Report::Delivered { total, .. } => Some((total.delivered, total.failed)),
        _ => None,
    });
    counts.collect()
}

/// What has arrived at a client so far. What was written just now may not be there yet: this shows
/// that something came too early, not that it came.
fn arrived(client: &mut TcpStream) -> Vec<u8> {
    client.set_nonblocking(true).unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    client.set_nonblocking(false).unwrap();
    bytes
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Leaves the report lane full.
fn fill_report_lane(bench: &Bench) {
    while bench.shard.inbox.report(Report::Drained).is_ok() {}
}

/// A client that has read `subscribed` may cause a trigger at once. A delivery that fills the
/// outbox writes it out in the middle of the turn: the router must have heard of the subscription.
#[test]
fn a_delivery_that_fills_an_outbox_does_not_overtake_the_reports_before_it() {
    let limits = Limits { outbox_bytes_per_connection_max: 1_000, ..timed(0, 0) };
    let mut bench = Bench::new(limits);
    let subscribe = masked(0x81, br#"{"type":"Subscribe","payload":{"channels":["a"]}}"#);
    let (mut client, _) = bench.adopt(Protocol::AraWebSocket, &subscribe);
    send(&bench, &[b'x'; 600], Priority::Normal);
    send(&bench, &[b'y'; 600], Priority::Normal);
    fill_report_lane(&bench);
    assert_eq!(bench.turn(), NextTurn::WhenReportsFit);
    let early = arrived(&mut client);
    assert!(early.is_empty(), "before its report: {}", String::from_utf8_lossy(&early));
    bench.reports.extend(std::iter::from_fn(|| bench.link.next_report()));
    bench.settle();
    let interest =
        bench.reports.iter().position(|report| matches!(report, Report::Interest { .. }));
    let delivered =
        bench.reports.iter().position(|report| matches!(report, Report::Delivered { .. }));
    assert!(interest.is_some() && interest < delivered, "{interest:?} {delivered:?}");
    assert!(contains(&read(&mut client, &[b'y'; 600]), b"subscribed"));
}

/// The router makes room when it is woken, and only then does the shard go on.
#[test]
fn a_router_whose_report_lane_is_full_is_woken() {
    let mut bench = Bench::new(timed(0, 0));
    fill_report_lane(&bench);
    bench.shard.state.push_report(Report::Drained);
    bench.router_bell.answer();
    assert_eq!(bench.turn(), NextTurn::WhenReportsFit);
    assert!(bench.router_bell.answer(), "nobody tells the router to make room");
    assert_eq!(bench.turn(), NextTurn::WhenReportsFit);
    assert!(bench.router_bell.answer(), "nor again, should it have been busy");
}

/// Half of the outbox is kept for what is more urgent.
#[test]
fn a_reader_half_behind_is_spared_what_is_low() {
    // A frame's head has four bytes here: at exactly half, and one byte beyond.
    for (length, is_shed) in [(496, false), (497, true)] {
        let limits = Limits { outbox_bytes_per_connection_max: 1_000, ..timed(0, 0) };
        let mut bench = Bench::new(limits);
        let mut client = bench.join();
        bench.reports.clear();
        // In one turn, and so in one outbox; the more urgent lane is taken first.
        send(&bench, &vec![b'n'; length], Priority::Normal);
        send(&bench, b"low", Priority::Low);
        bench.settle();
        assert_eq!(outcomes(&mut bench), [(1, 0), if is_shed { (0, 1) } else { (1, 0) }]);
        assert_eq!(bench.shard.state.counters.frames_shed, u64::from(is_shed));
        // What was shed cost the reader nothing but this one, and what is urgent is never shed.
        send(&bench, &vec![b'n'; length], Priority::Critical);
        send(&bench, b"high", Priority::High);
        send(&bench, b"normal", Priority::Normal);
        bench.settle();
        send(&bench, b"later", Priority::Low);
        bench.settle();
        assert_eq!(outcomes(&mut bench), [(1, 0); 4]);
        assert!(bench.is_open());
        let bytes = read(&mut client, b"later");
        assert_eq!(contains(&bytes, b"\x81\x03low"), !is_shed);
    }
}

/// Clients may leave messages unfinished; all of them together only so many bytes.
#[test]
fn whose_unfinished_message_goes_beyond_what_a_shard_keeps_is_closed_with_1013() {
    const CHUNK: usize = 64 * 1024;
    let limits = Limits { message_bytes_max: 2 * UNFINISHED_BYTES_MAX, ..timed(0, 0) };
    let mut bench = Bench::new(limits);
    let mut clients = [bench.join(), bench.join()];
    // Each begins a message that would be too much alone.
    let length = u64::try_from(2 * UNFINISHED_BYTES_MAX).unwrap().to_be_bytes();
    for client in &mut clients {
        client.write_all(&[&[0x82, 0xFF][..], &length, &[0; 4]].concat()).unwrap();
    }
    let [first, second] = &mut clients;
    let mut sent = 0;
    let mut upload = |bench: &mut Bench, client: &mut TcpStream| {
        client.write_all(&[b'x'; CHUNK]).unwrap();
        bench.settle();
        sent += CHUNK;
        let kept = bench.shard.connections.unfinished_bytes;
        assert!(kept <= UNFINISHED_BYTES_MAX, "{kept} bytes are kept");
        sent
    };
    while upload(&mut bench, first) < UNFINISHED_BYTES_MAX / 4 {}
    let mut sent = 0;
    while bench.shard.state.counters.overloads == 0 {
        sent = upload(&mut bench, second);
        assert!(sent <= UNFINISHED_BYTES_MAX, "{sent} bytes were sent, and nobody is closed");
    }
    // Buffers grow by doubling, and what they hold is what counts.
    assert!(sent > UNFINISHED_BYTES_MAX / 2, "closed after no more than {sent} bytes");
    assert_eq!(bench.shard.state.counters.overloads, 1);
    read(second, &1013_u16.to_be_bytes());
    // The other one goes on, and finds the room that this one has left.
    assert!(bench.is_open());
    upload(&mut bench, first);
    assert!(bench.is_open());
}

/// A replay goes on as the reader takes it: little waits for it, and what is live finds room.
#[test]
fn a_replay_keeps_little_waiting_for_its_reader() {
    const LENGTH: usize = 8 * 1024;
    let week = Duration::from_secs(604_800);
    let queue = QueueLimits { per_user_max: 0, ttl: week, dead_letter_ttl: week };
    let mut bench = Bench::new(Limits { queue: Some(queue), ..timed(0, 0) });
    let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(LENGTH));
    for _ in 0..48 {
        send(&bench, text.as_bytes(), Priority::Normal);
    }
    bench.settle();
    assert_eq!(bench.shard.state.counters.queue_enqueued, 48);
    let (mut client, _) = bench.adopt(Protocol::AraWebSocket, b"");
    // The turns write what they replay: what one of them replays, was waiting in the outbox.
    let mut before = 0;
    while before < 48 {
        bench.turn();
        let replayed = bench.shard.state.counters.queue_replayed;
        let waited = usize::try_from(replayed - before).unwrap() * LENGTH;
        assert!(waited < REPLAY_BACKLOG_BYTES + LENGTH, "{waited} bytes at once");
        before = replayed;
        client.read_exact(&mut vec![0; waited]).unwrap();
    }
    bench.settle();
}
