//! A model of the sockets: outboxes with a bound that can be stalled and drained.
//!
//! **Runs on**: a test. **Owns**: what each client has got. **Never**: takes a frame for a
//! connection that is closing: the state must have forgotten it.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use crate::base::id::ConnectionKey;
use crate::encoding::Encoding;
use crate::notification::{Notification, Priority};
use crate::outbound::{OutboundMessage, Unsent};
use crate::protocol::{Event, Protocol, Transport};
use crate::state::{Outgoing, Urgency};
use crate::wire::close::CloseReason;

/// Frames a stalled outbox holds.
pub(super) const OUTBOX_FRAMES_MAX: usize = 3;

/// What a client got, reduced to what the properties are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    /// A notification: which delivery, which of its parts, and how urgent.
    Notification { delivery: u64, part: u8, priority: Priority },
    /// Anything else: its type, and the names or the code it carries.
    Said(String),
}

impl Got {
    /// The notification of a delivery's part, as [`identity`] marks it.
    fn from_notification(notification: &Notification) -> Self {
        let (delivery, rest) = notification.head().id.0.split_first_chunk::<8>().unwrap();
        let delivery = u64::from_be_bytes(*delivery);
        Self::Notification { delivery, part: rest[0], priority: notification.head().priority }
    }
}

/// One connection's outbox.
#[derive(Debug)]
struct Post {
    protocol: Protocol,
    is_stalled: bool,
    /// Frames the client has not taken yet.
    waiting: usize,
    /// Everything taken since the client came.
    history: Vec<Got>,
}

/// What one step has caused.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// By connection, in order.
    pub(super) taken: BTreeMap<u32, Vec<Got>>,
    /// Connections told to close.
    pub(super) closed: Vec<(u32, CloseReason<'static>)>,
    /// Frames refused.
    pub(super) refused: u32,
    /// Frames marked as part of a wide fan-out.
    pub(super) fanned_out: u32,
}

/// All outboxes.
#[derive(Debug, Default)]
pub(super) struct Wire {
    posts: BTreeMap<u32, Post>,
    effects: Effects,
}

impl Wire {
    /// The lowest free key, as the real table gives them out.
    pub(super) fn free_key(&self) -> u32 {
        (0..).find(|key| !self.posts.contains_key(key)).unwrap()
    }

    pub(super) fn open(&mut self, key: u32, transport: Transport) {
        let protocol = protocol(transport, key);
        let post = Post { protocol, is_stalled: false, waiting: 0, history: Vec::new() };
        assert!(self.posts.insert(key, post).is_none());
    }

    /// The socket is gone; checks the order of everything the client ever got.
    pub(super) fn remove(&mut self, key: u32) {
        let post = self.posts.remove(&key).unwrap();
        for lane in Priority::ALL {
            let in_lane = post.history.iter().filter_map(|got| match got {
                Got::Notification { delivery, priority, .. } if *priority == lane => Some(delivery),
                _ => None,
            });
            assert!(
                in_lane.is_sorted_by(|earlier, later| earlier < later),
                "out of order or twice at {key}: {:?}",
                post.history
            );
        }
    }

    pub(super) fn stall(&mut self, key: u32) {
        self.posts.get_mut(&key).unwrap().is_stalled = true;
    }

    /// The client reads everything and goes on reading.
    pub(super) fn drain(&mut self, key: u32) {
        let post = self.posts.get_mut(&key).unwrap();
        post.is_stalled = false;
        post.waiting = 0;
    }

    /// How many more frames the outbox would take.
    pub(super) fn room(&self, key: u32) -> usize {
        let post = &self.posts[&key];
        if post.is_stalled { OUTBOX_FRAMES_MAX - post.waiting } else { usize::MAX }
    }

    /// Whether bytes wait for the client.
    pub(super) fn is_behind(&self, key: u32) -> bool {
        self.posts[&key].waiting > 0
    }

    /// What has happened since the last call.
    pub(super) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }
}

impl Outgoing for Wire {
    fn tell(&mut self, to: ConnectionKey, event: &Event<'_>) -> bool {
        let post = self.posts.get(&to.0).expect("an event for nobody");
        let bytes = post.protocol.encode(event).expect("Ara has a word for everything");
        self.offer(to, &OutboundMessage::raw(bytes), Urgency::Prompt)
    }

    fn offer(&mut self, to: ConnectionKey, frame: &Rc<OutboundMessage>, urgency: Urgency) -> bool {
        let closing = self.effects.closed.iter().any(|(key, _)| *key == to.0);
        assert!(!closing, "{to:?} was offered a frame after it was told to close");
        let post = self.posts.get_mut(&to.0).expect("a frame for nobody");
        if post.is_stalled && post.waiting >= OUTBOX_FRAMES_MAX {
            self.effects.refused += 1;
            return false;
        }
        post.waiting += usize::from(post.is_stalled);
        let bytes = frame.bytes(post.protocol.encoding());
        assert!(!bytes.is_empty(), "an empty frame for {to:?}");
        let got = match &**frame {
            OutboundMessage::Notification(notification)
            | OutboundMessage::Personal(notification, _) => Got::from_notification(notification),
            OutboundMessage::Redelivery(_) => {
                panic!("a message, with queue and acknowledgement off")
            }
            OutboundMessage::Bytes(_) => Got::Said(said(bytes, post.protocol)),
        };
        post.history.push(got.clone());
        self.effects.taken.entry(to.0).or_default().push(got);
        self.effects.fanned_out += u32::from(urgency == Urgency::FanOut);
        true
    }

    fn encoding(&self, key: ConnectionKey) -> Option<Encoding> {
        self.posts.get(&key.0).map(|post| post.protocol.encoding())
    }

    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize> {
        self.posts.get(&key.0).map(|post| post.waiting)
    }

    fn watch(&mut self, _: ConnectionKey) {}

    fn close(&mut self, key: ConnectionKey, reason: CloseReason<'_>) -> Vec<Unsent> {
        assert!(self.posts.contains_key(&key.0), "a close for nobody");
        let CloseReason { code, flush, stream_error, reconnect_after_ms, .. } = reason;
        let reason = Box::leak(Box::from(reason.reason));
        let reason = CloseReason { code, reason, flush, stream_error, reconnect_after_ms };
        self.effects.closed.push((key.0, reason));
        Vec::new()
    }
}

/// What the model's clients of a transport speak.
pub(super) const fn protocol(transport: Transport, key: u32) -> Protocol {
    match transport {
        Transport::WebSocket => Protocol::AraWebSocket,
        Transport::Sse if key.is_multiple_of(2) => Protocol::AraSseChunked,
        Transport::Sse => Protocol::AraSsePlain,
    }
}

/// Reads a frame of ours back and sums it up: `subscribed ["a"]`, `error INVALID_CHANNEL`, `pong`.
pub(super) fn said(bytes: &[u8], protocol: Protocol) -> String {
    if bytes == [0x89, 0x00] {
        assert_eq!(protocol, Protocol::AraWebSocket);
        return "ping".to_owned();
    }
    let (event, json) = event_and_json(bytes, protocol);
    let message: Value = serde_json::from_slice(json).unwrap();
    let kind = message["type"].as_str().unwrap();
    if let Some(event) = event {
        let named_after_itself = matches!(kind, "connected" | "heartbeat" | "error");
        assert_eq!(event, if named_after_itself { kind } else { "message" });
    }
    match kind {
        "subscribed" | "unsubscribed" => format!("{kind} {}", message["payload"]),
        "acked" | "settled" => format!("{kind} {}", message["notification_id"].as_str().unwrap()),
        "error" => {
            assert!(!message["message"].as_str().unwrap().is_empty());
            format!("error {}", message["code"].as_str().unwrap())
        }
        "shutdown" => {
            assert!(message["reconnect_after_seconds"].as_f64().unwrap() >= 0.5);
            kind.to_owned()
        }
        _ => kind.to_owned(),
    }
}

/// The name of an event, if it is one, and the JSON a client reads.
pub(super) fn event_and_json(bytes: &[u8], protocol: Protocol) -> (Option<&str>, &[u8]) {
    match protocol {
        Protocol::AraWebSocket => (None, websocket_text(bytes)),
        Protocol::AraSseChunked => sse_event(in_chunk(std::str::from_utf8(bytes).unwrap())),
        Protocol::AraSsePlain => sse_event(std::str::from_utf8(bytes).unwrap()),
        Protocol::Echo => panic!("an echo says nothing by itself"),
    }
}

/// The text of a server frame; a heartbeat must have its ping behind it.
fn websocket_text(bytes: &[u8]) -> &[u8] {
    assert_eq!(bytes[0], 0x81, "a final text frame");
    let (start, length) = match bytes[1] {
        126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
        short => (2, usize::from(short)),
    };
    let (text, rest) = bytes[start..].split_at(length);
    let is_heartbeat = text == br#"{"type":"heartbeat"}"#;
    assert_eq!(rest, if is_heartbeat { &[0x89, 0x00][..] } else { &[] });
    text
}

/// What a chunk holds, which must be as long as it says.
fn in_chunk(chunk: &str) -> &str {
    let (size, rest) = chunk.split_once("\r\n").unwrap();
    let inside = rest.strip_suffix("\r\n").unwrap();
    assert_eq!(usize::from_str_radix(size, 16).unwrap(), inside.len());
    inside
}

/// The name and data of an event.
fn sse_event(text: &str) -> (Option<&str>, &[u8]) {
    assert!(text.ends_with("\n\n"));
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    (field("event: "), field("data: ").unwrap().as_bytes())
}
