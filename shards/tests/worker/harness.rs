//! A shard on its real thread, a router to talk to it, and clients on real sockets.
//!
//! **Runs on**: the test's thread, which is the router's; the shard has its own. **Owns**: the
//! shard's link and thread. **Never**: sleeps for a fixed time; every wait ends with what it waits
//! for, or fails the test at its deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ara_shards::base::clock::Clock;
use ara_shards::base::counters::ShardSnapshot;
use ara_shards::base::id::{NotificationId, RequestId, Tick};
use ara_shards::base::placement::UserHash;
use ara_shards::base::socket::Socket;
use ara_shards::encoding::Encodings;
use ara_shards::link::doorbell::Doorbell;
use ara_shards::link::message::{
    Adoption, Client, Control, Delivery, DeliveryCounts, InitialSubscriptions, Query, Recipient,
    Recipients, Reply, Report,
};
use ara_shards::link::reply::ReplyTo;
use ara_shards::notification::{Metadata, Notification, Priority};
use ara_shards::protocol::{Protocol, Transport};
use ara_shards::worker::{self, Ending, ShardSetup, Unstarted};
use ara_shards::{Limits, ShardLink};
use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// How long anything may take on a busy machine before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TENANT: &str = "acme";
const RESPONSE_HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
const REFUSAL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\r\n";

#[expect(clippy::disallowed_methods, reason = "a test's deadlines are real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Bounds without timers, so that nothing happens but what the test does.
pub(crate) fn quiet() -> Limits {
    Limits {
        connections_per_user_max: 0,
        subscriptions_per_connection_max: 0,
        heartbeat_interval: Duration::ZERO,
        connection_timeout: Duration::ZERO,
        ..Limits::default()
    }
}

/// A shard and the router's end of it.
pub(crate) struct Rig {
    pub(crate) link: ShardLink,
    bell: Arc<Doorbell>,
    unstarted: Option<Unstarted>,
    thread: Option<JoinHandle<()>>,
    ended: Option<Receiver<Ending>>,
}

impl Rig {
    /// A shard whose thread has not started: what is sent waits.
    pub(crate) fn waiting(limits: Limits, inbox_capacity: usize) -> Self {
        Self::prepare(limits, inbox_capacity, false)
    }

    /// One on which tenants take turns.
    pub(crate) fn waiting_with_fair_turns(inbox_capacity: usize) -> Self {
        Self::prepare(quiet(), inbox_capacity, true)
    }

    fn prepare(limits: Limits, inbox_capacity: usize, fair_turns: bool) -> Self {
        let router = thread::current();
        let bell = Arc::new(Doorbell::new(move || router.unpark()));
        let setup = ShardSetup {
            index: 0,
            core: None,
            inbox_capacity,
            fair_turns,
            limits,
            clock: Clock::start(),
            tokens: Arc::new(()),
        };
        let (link, unstarted) = worker::prepare(setup, Arc::clone(&bell)).unwrap();
        Self { link, bell, unstarted: Some(unstarted), thread: None, ended: None }
    }

    /// A running shard.
    pub(crate) fn start(limits: Limits, inbox_capacity: usize) -> Self {
        let mut rig = Self::waiting(limits, inbox_capacity);
        rig.spawn(|| {});
        rig
    }

    pub(crate) fn spawn(&mut self, on_thread: impl FnOnce() + Send + 'static) {
        let (tell, ended) = bounded(1);
        let router = thread::current();
        let on_end = move |ending| {
            tell.try_send(ending).unwrap();
            router.unpark();
        };
        let unstarted = self.unstarted.take().unwrap();
        self.thread = Some(unstarted.spawn(on_thread, on_end).unwrap());
        self.ended = Some(ended);
    }

    /// Waits until `look` sees something; the shard's bell wakes it.
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = now() + PATIENCE;
        loop {
            self.bell.answer();
            if let Some(seen) = look(self) {
                return seen;
            }
            let left = deadline.saturating_duration_since(now());
            assert!(!left.is_zero(), "never came: {what}");
            // What is looked for may not ring (room in a lane), so look again soon.
            thread::park_timeout(left.min(Duration::from_millis(20)));
        }
    }

    pub(crate) fn report(&self) -> Report {
        self.wait("a report", |rig| rig.link.next_report())
    }

    /// The reports up to the one that `last` accepts, with it.
    pub(crate) fn reports_until(&self, mut last: impl FnMut(&Report) -> bool) -> Vec<Report> {
        let mut reports = Vec::new();
        loop {
            reports.push(self.report());
            if last(&reports[reports.len() - 1]) {
                return reports;
            }
        }
    }

    pub(crate) fn until_closed(&self) -> Vec<Report> {
        self.reports_until(|report| matches!(report, Report::Closed { .. }))
    }

    /// The report of the delivery with this request, skipping others.
    pub(crate) fn counts(&self, number: u64) -> DeliveryCounts {
        let is_it = |report: &Report| matches!(report, Report::Delivered { request, .. } if request.0 == number);
        match self.reports_until(is_it).pop() {
            Some(Report::Delivered { total, .. }) => total,
            other => panic!("not a delivery: {other:?}"),
        }
    }

    pub(crate) fn until_inbox_is_empty(&self) {
        self.wait("an empty inbox", |rig| (rig.link.depth() == 0).then_some(()));
    }

    /// Sends a query; the reply arrives at the end that is returned, once its report is delivered.
    pub(crate) fn ask<T>(&self, query: impl FnOnce(ReplyTo<T>) -> Query) -> oneshot::Receiver<T> {
        let (reply_to, reply) = ReplyTo::new();
        self.link.control(Control::Ask(query(reply_to))).unwrap();
        reply
    }

    /// Asks for a snapshot, to be read from the report itself.
    pub(crate) fn ask_for_snapshot(&self) {
        drop(self.ask(Query::Snapshot));
    }

    pub(crate) fn snapshot(&self) -> ShardSnapshot {
        self.ask_for_snapshot();
        let is_reply = |report: &Report| matches!(report, Report::Replied(_));
        match self.reports_until(is_reply).pop() {
            Some(Report::Replied(Reply::Snapshot(_, snapshot))) => *snapshot,
            other => panic!("not a snapshot: {other:?}"),
        }
    }

    /// Hands a client to the shard.
    pub(crate) fn adopt(&self, user: &str, protocol: Protocol, leftover: &[u8]) -> TestClient {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let subscribes_to = match protocol.transport() {
            Transport::WebSocket => InitialSubscriptions::Nothing,
            Transport::Sse => InitialSubscriptions::Everything,
        };
        let client = Client {
            tenant: TENANT.into(),
            user: user.into(),
            hash: hash(user),
            roles: Box::default(),
            grants: None,
            subscribes_to,
            notify_settled: false,
            seen: None,
            expiry: None,
        };
        let adoption = Adoption {
            socket: Socket::new(stream, peer),
            protocol,
            client,
            response_head: RESPONSE_HEAD.into(),
            refusal: REFUSAL.into(),
            leftover: leftover.into(),
            connection_id: NotificationId([7; 16]),
        };
        self.link.control(Control::Adopt(Box::new(adoption))).unwrap();
        TestClient { stream: near, bytes: Vec::new() }
    }

    /// A WebSocket client that has been told `connected`.
    pub(crate) fn join(&self, user: &str) -> TestClient {
        let mut client = self.adopt(user, Protocol::AraWebSocket, b"");
        client.greeted();
        client
    }

    /// Sends a notification with its number in it.
    pub(crate) fn deliver(&self, priority: Priority, delivery: Delivery) {
        self.link.deliver(priority, delivery).unwrap();
        self.link.ring();
    }

    /// Waits for the thread, and says why it ended.
    pub(crate) fn ending(&mut self) -> Ending {
        let ended = self.ended.take().unwrap();
        let ending = self.wait("the end of the thread", |_| ended.try_recv().ok());
        self.thread.take().unwrap().join().unwrap();
        ending
    }

    pub(crate) fn stop(mut self) {
        self.link.control(Control::Stop).unwrap();
        assert!(matches!(self.ending(), Ending::Stopped));
    }
}

fn hash(user: &str) -> UserHash {
    UserHash(user.bytes().fold(17, |sum, byte| sum * 31 + u64::from(byte)))
}

/// A notification that carries a number and some padding.
pub(crate) fn notification(number: u64, priority: Priority, padding: usize) -> Arc<Notification> {
    let text = json!({"type": "notification", "n": number, "padding": "p".repeat(padding)});
    let id = NotificationId([1; 16]);
    let head = Metadata { id, audience: None, expires_at: Tick(u32::MAX), priority };
    Arc::new(Notification::encode(head, text.to_string().as_bytes(), Encodings::ALL))
}

pub(crate) fn recipient(user: &str) -> Recipient {
    Recipient { tenant: TENANT.into(), user: user.into(), hash: hash(user) }
}

pub(crate) fn to_user(user: &str, number: u64, priority: Priority) -> Delivery {
    let notification = notification(number, priority, 0);
    let audience = Recipients::Users { notification, users: [recipient(user)].into() };
    Delivery { request: RequestId(number), audience, room: None }
}

pub(crate) fn to_everyone(number: u64, padding: usize) -> Delivery {
    let notification = notification(number, Priority::Normal, padding);
    let audience = Recipients::Everyone { tenant: TENANT.into(), notification };
    Delivery { request: RequestId(number), audience, room: None }
}

/// What a WebSocket client receives.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Text(Value),
    Ping,
    Pong,
    Close(u16),
    End,
}

/// A client's end of a socket.
pub(crate) struct TestClient {
    pub(crate) stream: TcpStream,
    bytes: Vec<u8>,
}

impl TestClient {
    /// Reads more; `None` when `limit` is over first.
    fn read_more(&mut self, limit: Duration) -> Option<usize> {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        let mut chunk = vec![0; 256 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.bytes.extend_from_slice(&chunk[..count]);
                Some(count)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(0),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            Err(error) => panic!("reading: {error}"),
        }
    }

    /// Everything up to and with this text.
    pub(crate) fn read_to(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.bytes.windows(end.len()).position(|window| window == end) {
                return self.bytes.drain(..at + end.len()).collect();
            }
            let count = self.read_more(PATIENCE).expect("nothing came");
            assert_ne!(count, 0, "ended after {:?}", String::from_utf8_lossy(&self.bytes));
        }
    }

    /// Has these bytes read once more, before what is read next.
    pub(crate) fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes.splice(0..0, bytes);
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.read_more(PATIENCE).expect("nothing came") > 0 {}
        std::mem::take(&mut self.bytes)
    }

    fn greeted(&mut self) {
        assert_eq!(self.read_to(b"\r\n\r\n"), RESPONSE_HEAD);
        let Heard::Text(message) = self.next() else { panic!("not greeted") };
        assert_eq!(message["type"], "connected");
    }

    /// The next whole frame that has been read already.
    fn frame(&mut self) -> Option<Heard> {
        let (head, rest) = self.bytes.split_first_chunk::<2>()?;
        let (start, length) = match head[1] {
            126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).unwrap()),
            short => (2, usize::from(short)),
        };
        let payload = self.bytes.get(start..start + length)?;
        let heard = match head[0] {
            0x81 => Heard::Text(serde_json::from_slice(payload).unwrap()),
            0x88 => Heard::Close(u16::from_be_bytes(*payload.first_chunk().unwrap())),
            0x89 => Heard::Ping,
            0x8A => Heard::Pong,
            other => panic!("a frame beginning with {other:#x}"),
        };
        self.bytes.drain(..start + length);
        Some(heard)
    }

    /// The next frame within `limit`.
    pub(crate) fn next_within(&mut self, limit: Duration) -> Option<Heard> {
        let deadline = now() + limit;
        loop {
            if let Some(heard) = self.frame() {
                return Some(heard);
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return None;
            }
            if self.read_more(left) == Some(0) {
                assert!(self.bytes.is_empty(), "ended inside a frame");
                return Some(Heard::End);
            }
        }
    }

    pub(crate) fn next(&mut self) -> Heard {
        self.next_within(PATIENCE).expect("nothing came")
    }

    /// The next message, which must be JSON.
    pub(crate) fn message(&mut self) -> Value {
        match self.next() {
            Heard::Text(value) => value,
            other => panic!("not a message: {other:?}"),
        }
    }

    /// The number of the next notification.
    pub(crate) fn number(&mut self) -> u64 {
        self.message()["n"].as_u64().expect("a notification")
    }

    /// Sends a text frame.
    pub(crate) fn say(&mut self, text: &str) {
        self.stream.write_all(&masked_text(text)).unwrap();
    }

    pub(crate) fn subscribe(&mut self, channel: &str) {
        let message = json!({"type": "Subscribe", "payload": {"channels": [channel]}});
        self.say(&message.to_string());
    }

    pub(crate) fn shut(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// A client's text frame of less than 126 bytes.
pub(crate) fn masked_text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    let mask = [9, 8, 7, 6];
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend(mask);
    frame.extend(text.bytes().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}
