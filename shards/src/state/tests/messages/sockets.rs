//! A model of the sockets that keeps every frame until its client reads it, and gives back what a
//! closing connection had not written, as `io::connections` does.
//!
//! **Runs on**: a test. **Owns**: the outboxes and what clients have read. **Never**: weighs real
//! bytes: a message's weight is drawn, so that a few small frames fill an outbox.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use serde_json::Value;

use super::super::wire::{event_and_json, protocol, said};
use crate::base::id::{ConnectionKey, NotificationId};
use crate::encoding::Encoding;
use crate::outbound::{OutboundMessage, Unsent};
use crate::protocol::{Event as Told, Protocol, Transport};
use crate::state::{Outgoing, Urgency};
use crate::wire::close::CloseReason;

/// What an outbox holds; more than what stops a replay.
const OUTBOX_MAX: usize = 48_000;

/// What frames weigh: the last fits an empty outbox only, the one before not behind itself.
const WEIGHTS: [usize; 4] = [500, 13_000, 31_000, 50_000];

/// A message: whose, and which.
pub(super) type Name = (usize, u64);

/// The id of a message, and its weight.
pub(super) fn identity(number: u64, weight: u8) -> NotificationId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[8] = weight;
    NotificationId(id)
}

pub(super) fn number(id: NotificationId) -> u64 {
    u64::from_be_bytes(*id.0.first_chunk::<8>().unwrap())
}

fn notification_id(frame: &OutboundMessage) -> Option<NotificationId> {
    match frame {
        OutboundMessage::Notification(notification)
        | OutboundMessage::Personal(notification, _) => Some(notification.head().id),
        OutboundMessage::Redelivery(redelivery) => Some(redelivery.id),
        OutboundMessage::Bytes(_) => None,
    }
}

fn sending(owner: usize, frame: &OutboundMessage) -> Option<(Name, u8)> {
    let OutboundMessage::Redelivery(redelivery) = frame else { return None };
    Some(((owner, number(redelivery.id)), redelivery.attempts))
}

fn weight(frame: &OutboundMessage) -> usize {
    notification_id(frame).map_or(100, |id| WEIGHTS[usize::from(id.0[8])])
}

/// One connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) owner: usize,
    pub(super) protocol: Protocol,
    pub(super) in_role: bool,
    pub(super) notify_settled: bool,
    is_stalled: bool,
    /// The first frame is partly out.
    is_begun: bool,
    is_watched: bool,
    outbox: VecDeque<Rc<OutboundMessage>>,
    /// The newest message it has read that must come in order.
    newest: u64,
}

impl Socket {
    pub(super) fn has_read_all(&self) -> bool {
        self.outbox.is_empty()
    }

    fn backlog(&self) -> usize {
        self.outbox.iter().map(|frame| weight(frame)).sum()
    }

    fn fits(&self, frame: &OutboundMessage) -> bool {
        self.outbox.is_empty() || self.backlog() + weight(frame) <= OUTBOX_MAX
    }

    /// The first frame's message and attempts, if it came from a queue.
    fn first_sending(&self) -> Option<(Name, u8)> {
        self.outbox.front().and_then(|frame| sending(self.owner, frame))
    }

    /// The client reads the first frame.
    fn read_one(&mut self, keeps_order: bool) -> Option<Name> {
        let frame = self.outbox.pop_front()?;
        self.is_begun = false;
        let (id, sequence, attempts) = match &*frame {
            OutboundMessage::Personal(notification, sequence) => {
                (notification.head().id, *sequence, 1)
            }
            OutboundMessage::Redelivery(redelivery) => {
                (redelivery.id, redelivery.sequence, redelivery.attempts)
            }
            _ => return None,
        };
        if keeps_order || attempts == 1 {
            assert!(sequence > self.newest, "{sequence} comes after {}", self.newest);
            self.newest = sequence;
        }
        Some((self.owner, number(id)))
    }
}

/// How a message came to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Live,
    Replayed,
    Again,
}

/// What the state did.
#[derive(Debug)]
pub(super) enum Event {
    Taken {
        key: u32,
        name: Name,
        kind: Kind,
    },
    Said {
        key: u32,
        text: String,
    },
    /// A connection went; with the messages it gave back and whether each was begun.
    Gone {
        owner: usize,
        was_last: bool,
        given_back: Vec<Returned>,
        kept_back: Vec<u64>,
    },
}

/// A message that a closing connection gives back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Returned {
    pub(super) number: u64,
    pub(super) is_begun: bool,
    /// It came from a queue, rather than live.
    pub(super) is_queued: bool,
    /// It came from a queue, and another connection has read what was sent with it.
    pub(super) is_read_by_another: bool,
}

/// All sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) open: BTreeMap<u32, Socket>,
    /// What clients have read, ever.
    pub(super) read: BTreeSet<Name>,
    /// Which sendings from a queue somebody has read: the message and its attempts.
    read_sendings: BTreeSet<(Name, u8)>,
    /// What connections were still writing when they left.
    pub(super) left_writing: BTreeSet<Name>,
    /// Whether every message, not only one sent for the first time, must come in order.
    keeps_order: bool,
    drained: Vec<u32>,
    events: Vec<Event>,
}

impl Sockets {
    pub(super) fn new(keeps_order: bool) -> Self {
        Self { keeps_order, ..Self::default() }
    }

    pub(super) fn free_key(&self) -> u32 {
        (0..).find(|key| !self.open.contains_key(key)).unwrap()
    }

    pub(super) fn open(&mut self, key: u32, owner: usize, transport: Transport) -> &mut Socket {
        let socket = Socket {
            owner,
            protocol: protocol(transport, key),
            in_role: false,
            notify_settled: false,
            is_stalled: false,
            is_begun: false,
            is_watched: false,
            outbox: VecDeque::new(),
            newest: 0,
        };
        self.open.entry(key).insert_entry(socket).into_mut()
    }

    pub(super) fn of(&self, owner: usize) -> impl Iterator<Item = (u32, &Socket)> {
        self.open.iter().filter(move |(_, s)| s.owner == owner).map(|(key, s)| (*key, s))
    }

    /// Whether a connection holds the message unread.
    pub(super) fn holds(&self, name: Name) -> bool {
        let is_it = |frame: &Rc<OutboundMessage>| {
            notification_id(frame).is_some_and(|id| number(id) == name.1)
        };
        self.of(name.0).any(|(_, socket)| socket.outbox.iter().any(is_it))
    }

    pub(super) fn stall(&mut self, key: u32) {
        self.open.get_mut(&key).unwrap().is_stalled = true;
    }

    pub(super) fn flow(&mut self, key: u32) {
        self.open.get_mut(&key).unwrap().is_stalled = false;
    }

    /// The client reads some frames, and the beginning of the next.
    pub(super) fn drip(&mut self, key: u32, count: usize, begins: bool) {
        let keeps_order = self.keeps_order;
        let socket = self.open.get_mut(&key).unwrap();
        for _ in 0..count {
            self.read_sendings.extend(socket.first_sending());
            self.read.extend(socket.read_one(keeps_order));
        }
        socket.is_begun |= begins && !socket.outbox.is_empty();
        self.note_drained(key);
    }

    /// Writes what can be written.
    pub(super) fn flush(&mut self) {
        let keys: Vec<u32> = self.open.keys().copied().collect();
        keys.into_iter().for_each(|key| self.flush_one(key));
    }

    fn flush_one(&mut self, key: u32) {
        let keeps_order = self.keeps_order;
        let socket = self.open.get_mut(&key).unwrap();
        while !socket.is_stalled && !socket.outbox.is_empty() {
            self.read_sendings.extend(socket.first_sending());
            self.read.extend(socket.read_one(keeps_order));
        }
        self.note_drained(key);
    }

    fn note_drained(&mut self, key: u32) {
        let socket = self.open.get_mut(&key).unwrap();
        if socket.outbox.is_empty() && std::mem::take(&mut socket.is_watched) {
            self.drained.push(key);
        }
    }

    pub(super) fn take_drained(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.drained)
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The connection goes. `flushes`: what is unwritten stays with it, and is lost to us.
    pub(super) fn remove(&mut self, key: u32, abrupt: bool, flushes: bool) -> Vec<Unsent> {
        let mut socket = self.open.remove(&key).expect("a close for nobody");
        let mut unsent = Vec::new();
        let mut kept_back = Vec::new();
        let mut is_begun = socket.is_begun && !abrupt;
        for frame in socket.outbox.drain(..) {
            if flushes {
                kept_back.extend(notification_id(&frame).map(number));
                self.left_writing
                    .extend(notification_id(&frame).map(|id| (socket.owner, number(id))));
            } else if frame.is_notification() {
                unsent.push(Unsent { frame, is_begun });
            }
            is_begun = false;
        }
        let given_back = unsent
            .iter()
            .map(|unsent| Returned {
                number: number(notification_id(&unsent.frame).unwrap()),
                is_begun: unsent.is_begun,
                is_queued: matches!(&*unsent.frame, OutboundMessage::Redelivery(_)),
                is_read_by_another: sending(socket.owner, &unsent.frame)
                    .is_some_and(|sending| self.read_sendings.contains(&sending)),
            })
            .collect();
        let was_last = self.of(socket.owner).next().is_none();
        // What comes back while others read on comes to them late.
        self.keeps_order &= was_last || unsent.is_empty();
        self.events.push(Event::Gone { owner: socket.owner, was_last, given_back, kept_back });
        unsent
    }
}

impl Outgoing for Sockets {
    fn tell(&mut self, to: ConnectionKey, event: &Told<'_>) -> bool {
        let socket = self.open.get(&to.0).expect("an event for nobody");
        let bytes = socket.protocol.encode(event).expect("Ara has a word for everything");
        self.offer(to, &OutboundMessage::raw(bytes), Urgency::Prompt)
    }

    fn offer(&mut self, to: ConnectionKey, frame: &Rc<OutboundMessage>, _: Urgency) -> bool {
        let socket = self.open.get(&to.0).expect("a frame for nobody");
        let is_blocked = socket.is_stalled && !socket.outbox.is_empty();
        if !socket.fits(frame) {
            if frame.is_notification() {
                self.flush_one(to.0);
            } else if is_blocked {
                return false;
            }
        }
        let socket = self.open.get_mut(&to.0).unwrap();
        if frame.is_notification() && !socket.fits(frame) {
            return false;
        }
        let bytes = frame.bytes(socket.protocol.encoding());
        assert!(!bytes.is_empty(), "an empty frame for {to:?}");
        let key = to.0;
        self.events.push(match notification_id(frame) {
            Some(id) => {
                let name = (socket.owner, number(id));
                Event::Taken { key, name, kind: kind(frame, socket.protocol) }
            }
            None => Event::Said { key, text: said(bytes, socket.protocol) },
        });
        socket.outbox.push_back(Rc::clone(frame));
        true
    }

    fn encoding(&self, key: ConnectionKey) -> Option<Encoding> {
        self.open.get(&key.0).map(|socket| socket.protocol.encoding())
    }

    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize> {
        self.open.get(&key.0).map(Socket::backlog)
    }

    fn watch(&mut self, key: ConnectionKey) {
        let socket = self.open.get_mut(&key.0).unwrap();
        assert!(!socket.outbox.is_empty(), "nobody will tell about {key:?}: nothing is written");
        socket.is_watched = true;
    }

    fn close(&mut self, key: ConnectionKey, reason: CloseReason<'_>) -> Vec<Unsent> {
        self.remove(key.0, false, reason.flush)
    }
}

/// How a message is marked for its reader.
fn kind(frame: &OutboundMessage, protocol: Protocol) -> Kind {
    let OutboundMessage::Redelivery(redelivery) = frame else { return Kind::Live };
    let (_, text) = event_and_json(frame.bytes(protocol.encoding()), protocol);
    let json: Value = serde_json::from_slice(text).unwrap();
    let attempts = u64::from(redelivery.attempts);
    assert_eq!(json["n"], number(redelivery.id));
    assert_eq!(json["attempt"].as_u64(), (attempts > 1).then_some(attempts));
    if json["replayed"] == true { Kind::Replayed } else { Kind::Again }
}
