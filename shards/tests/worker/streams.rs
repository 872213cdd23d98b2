//! An event stream is whole in both encodings: each event in a chunk of its own length, or none at
//! all, and an end that is told.
//!
//! Set-up: readers of HTTP/1.1 and of HTTP/1.0 on one shard, sent live notifications, what waited
//! for them, and away. Properties: the chunks' lengths are those of their events, whatever was cut
//! from or put into a frame; what the shard ends by itself ends with the last chunk; an HTTP/1.0
//! reader gets the same events and no chunk. Why it matters: a wrong length breaks every client
//! library at the next byte, and HTTP/1.0 readers would read lengths as text.

use std::time::Duration;

use ara_shards::Limits;
use ara_shards::base::limits::SSE_RETRY_MS;
use ara_shards::link::message::{Control, Drain, Report};
use ara_shards::notification::Priority;
use ara_shards::protocol::Protocol;
use serde_json::Value;

use crate::harness::{PATIENCE, Rig, TestClient, quiet, to_everyone, to_user};

const PROTOCOLS: [Protocol; 2] = [Protocol::AraSseChunked, Protocol::AraSsePlain];

/// One event as its reader sees it.
#[derive(Debug, PartialEq)]
struct Event {
    fields: Vec<(String, String)>,
}

impl Event {
    fn parse(text: &str) -> Self {
        let lines = text.strip_suffix("\n\n").expect("an event ends with a blank line").lines();
        let fields = lines.map(|line| line.split_once(": ").expect("a field"));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { fields }
    }

    fn field(&self, wanted: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    fn data(&self) -> Value {
        serde_json::from_str(self.field("data").expect("no block is without data")).unwrap()
    }
}

/// Reads a whole stream, which must be exactly as its protocol says.
fn events(protocol: Protocol, client: &mut TestClient) -> Vec<Event> {
    client.read_to(b"\r\n\r\n");
    let text = String::from_utf8(client.rest()).unwrap();
    if protocol == Protocol::AraSsePlain {
        assert!(!text.contains('\r'), "chunks to an HTTP/1.0 reader: {text:?}");
        return text.split_inclusive("\n\n").map(Event::parse).collect();
    }
    let mut events = Vec::new();
    let mut rest = text.as_str();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("a size: {size:?}"));
        let (chunk, after) = after.split_at(size);
        rest = after.strip_prefix("\r\n").expect("a chunk's end");
        if size == 0 {
            assert_eq!(rest, "", "nothing follows the last chunk");
            return events;
        }
        events.push(Event::parse(chunk));
    }
}

fn close_for_shutdown(rig: &Rig) {
    let drain = Drain {
        return_after: Duration::ZERO,
        reconnect_window: Duration::from_secs(1),
        grace: PATIENCE,
    };
    rig.link.control(Control::Drain(drain)).unwrap();
}

#[test]
fn every_block_is_an_event_and_the_end_is_told() {
    for protocol in PROTOCOLS {
        let limits = Limits { heartbeat_interval: Duration::from_millis(200), ..quiet() };
        let rig = Rig::start(limits, 16);
        let mut reader = rig.adopt("reader", protocol, b"");
        rig.deliver(Priority::Normal, to_everyone(1, 5_000));
        assert_eq!(rig.counts(1).delivered, 1);
        let mut seen = reader.read_to(b"event: heartbeat\n");
        close_for_shutdown(&rig);
        seen.extend(reader.rest());
        reader.put_back(seen);

        let events = events(protocol, &mut reader);
        let names: Vec<_> = events.iter().filter_map(|event| event.field("event")).collect();
        assert_eq!(names.len(), events.len(), "{events:?}");
        assert_eq!(names[..3], ["connected", "notification", "heartbeat"]);
        assert_eq!(names.last(), Some(&"message"));
        assert_eq!(events[0].field("retry"), Some(&*SSE_RETRY_MS.to_string()));
        assert_eq!(events[1].data()["n"], 1);
        let goodbye = &events[events.len() - 1];
        let pause_s = goodbye.data()["reconnect_after_seconds"].as_f64().unwrap();
        let retry_ms: f64 = goodbye.field("retry").unwrap().parse().unwrap();
        assert!((pause_s * 1000.0 - retry_ms).abs() < 1.0, "{goodbye:?}");
        rig.stop();
    }
}

/// A notification that waited is marked when it is sent, which makes it longer.
#[test]
fn what_waited_has_a_length_of_its_own() {
    for protocol in PROTOCOLS {
        let queue = Some(ara_shards::base::limits::QueueLimits {
            per_user_max: 10,
            ttl: PATIENCE,
            dead_letter_ttl: PATIENCE,
        });
        let rig = Rig::start(Limits { queue, ..quiet() }, 16);
        for number in [1, 2] {
            rig.deliver(Priority::Normal, to_user("reader", number, Priority::Normal));
            assert_eq!(rig.counts(number).queued, 1);
        }
        let mut reader = rig.adopt("reader", protocol, b"");
        let mut seen = reader.read_to(b"\"n\":2,");
        close_for_shutdown(&rig);
        seen.extend(reader.rest());
        reader.put_back(seen);

        let events = events(protocol, &mut reader);
        let replayed: Vec<_> = events[1..3].iter().map(Event::data).collect();
        for (number, notification) in (1..).zip(replayed) {
            assert_eq!(notification["n"], number);
            assert_eq!(notification["replayed"], true);
        }
        rig.stop();
    }
}

/// What a stalled reader had not been written is dropped, but for the event that was begun.
#[test]
fn a_slow_readers_stream_ends_behind_a_whole_event() {
    for protocol in PROTOCOLS {
        let rig = Rig::start(quiet(), 16);
        let mut slow = rig.adopt("slow", protocol, b"");
        let mut taken = 0;
        for number in 0.. {
            rig.deliver(Priority::Normal, to_everyone(number, 100_000));
            if rig.counts(number).failed == 1 {
                break;
            }
            taken += 1;
        }
        let events = events(protocol, &mut slow);
        let read = events.len() - 1;
        for (number, event) in events[1..].iter().enumerate() {
            assert_eq!(event.data()["n"], number, "in order, without a gap");
        }
        let snapshot = rig.snapshot();
        assert_eq!(snapshot.counters.slow_consumers, 1);
        let discarded = usize::try_from(snapshot.counters.frames_discarded).unwrap();
        assert_eq!(taken, read + discarded, "every frame is accounted for");
        assert_eq!(snapshot.outbox_bytes, 0);
        drop(slow);
        assert!(matches!(rig.until_closed()[..], [Report::Closed { .. }]));
        rig.stop();
    }
}
