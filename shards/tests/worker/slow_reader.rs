//! A client that does not read harms only itself.
//!
//! Set-up: two clients on one shard, one of which never reads while large notifications go to both.
//! Properties: the slow one is closed with 4429 once, and every frame its outbox took was either
//! read or counted as discarded; the other gets each notification at once and in order.
//! Why it matters: one phone in a tunnel must not stop a city.

use ara_shards::link::message::{DeliveryCounts, Report};
use ara_shards::notification::Priority;
use ara_shards::protocol::Protocol;

use crate::harness::{Heard, Rig, quiet, to_everyone};

const FRAME_BYTES: usize = 100_000;
const FRAMES_MAX: u64 = 2_000;

#[test]
fn a_stalled_reader_is_closed_and_nobody_else_notices() {
    let rig = Rig::start(quiet(), 64);
    let mut slow = rig.join("slow");
    let mut quick = rig.join("quick");
    let mut refused_at = None;
    let mut number = 0;
    // Until the kernel's buffers and the outbox are full, and a few more.
    while refused_at.is_none_or(|at| number < at + 5) {
        assert!(number < FRAMES_MAX, "it was never refused");
        rig.deliver(Priority::Normal, to_everyone(number, FRAME_BYTES));
        assert_eq!(quick.number(), number, "the quick one has each before the next is sent");
        let counts = rig.counts(number);
        let expected = match refused_at {
            None if counts.failed == 1 => {
                refused_at = Some(number);
                DeliveryCounts { delivered: 1, failed: 1, ..DeliveryCounts::default() }
            }
            None => DeliveryCounts { delivered: 2, failed: 0, ..DeliveryCounts::default() },
            Some(_) => DeliveryCounts { delivered: 1, failed: 0, ..DeliveryCounts::default() },
        };
        assert_eq!(counts, expected, "{number}");
        number += 1;
    }
    let taken = refused_at.unwrap();
    let mut read = 0;
    let code = loop {
        match slow.next() {
            Heard::Text(message) => {
                assert_eq!(message["n"], read, "in order, without a gap");
                read += 1;
            }
            Heard::Close(code) => break code,
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!(code, 4429);
    assert_eq!(slow.next(), Heard::End, "one close, then nothing");
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.counters.slow_consumers, 1);
    assert_eq!(taken, read + snapshot.counters.frames_discarded, "every frame is accounted for");
    assert_eq!((snapshot.outbox_bytes, snapshot.websocket_connections), (0, 1));
    drop(slow);
    let closed = rig.until_closed();
    assert!(matches!(closed[..], [Report::Closed { protocol: Protocol::AraWebSocket, .. }]));
    rig.stop();
}
