//! Serving HTTP on sockets that come from the doors or from `api.listen`.
//!
//! **Runs on**: the router's thread, one local task per socket. **Owns**: at most the configured
//! number of callers. **Never**: keeps a client: `GET /ws` and `GET /sse` on a kept-alive socket
//! take the socket out of hyper and through the same gate as at a door.

use std::cell::{Cell, RefCell};
use std::io::{self, Cursor};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ara_shards::limits::STOP_LINGER;
use http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, Chain, Join, join};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::Api;
use super::watch::{WRITE_DEADLINE, Watch, WatchedWriter};
use crate::door::gate::transport_of;
use crate::door::listen::{is_of_one_connection, say_no};
use crate::refusal::{Code, Refusal};
use crate::supervise::spawn_unsupervised;

/// The send buffer of a caller's socket: two of the largest segments.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// The longest a caller may take to send a request head, or keep a connection idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// How often a connection is held against its deadlines.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The most bytes hyper buffers of one caller.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The longest the last answer on a connection may take to be sent.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long accepting rests when the process is out of files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

type Replayed = Chain<Cursor<Vec<u8>>, OwnedReadHalf>;
type CallerIo = TokioIo<Join<Replayed, WatchedWriter>>;

/// Serves callers, so many at a time.
#[derive(Debug)]
pub struct Server {
    api: Rc<Api>,
    callers: Cell<usize>,
    callers_max: usize,
    /// Whether the clients' address serves the API too.
    serves_front: Cell<bool>,
    closing: watch::Receiver<bool>,
}

/// The request is a client's: the socket must leave hyper. Never reaches a caller.
#[derive(Debug)]
struct IsClient;

impl std::fmt::Display for IsClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a client's request on a caller's connection")
    }
}

impl std::error::Error for IsClient {}

impl Server {
    /// A server for `callers_max` callers at a time, until `closing` turns true.
    #[must_use]
    pub fn new(api: Rc<Api>, callers_max: usize, closing: watch::Receiver<bool>) -> Rc<Self> {
        Rc::new(Self {
            api,
            callers: Cell::new(0),
            callers_max,
            serves_front: Cell::new(true),
            closing,
        })
    }

    /// Callers being served.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.callers.get()
    }

    /// The API has an address of its own: from now on the clients' answers only what is public.
    pub fn close_front(&self) {
        self.serves_front.set(false);
    }

    /// Accepts on an address of the API's own until the gateway closes.
    ///
    /// # Errors
    ///
    /// The listener cannot be used on this thread.
    pub async fn accept(self: Rc<Self>, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _closing = closing.wait_for(|closing| *closing) => return Ok(()),
            };
            match accepted {
                Ok((stream, _peer)) => self.take(stream, Vec::new(), false),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept; resting {ACCEPT_REST:?}");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Serves a socket from a door, whose first `bytes` have been read already.
    pub fn take_from_door(self: &Rc<Self>, stream: TcpStream, bytes: Vec<u8>) {
        // It has the small buffer of a client. Where that is less than a segment, as over loopback,
        // each piece of a long answer would wait for a delayed Ack. A refusal costs only time.
        let _larger = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
        self.take(stream, bytes, !self.serves_front.get());
    }

    fn take(self: &Rc<Self>, stream: TcpStream, bytes: Vec<u8>, from_client_side: bool) {
        if self.callers.get() >= self.callers_max {
            let refusal = Refusal::new(Code::Overloaded, "too many API connections at once");
            spawn_unsupervised(say_no(stream, refusal.response(None)));
            return;
        }
        self.callers.set(self.callers.get() + 1);
        let place = Place(Rc::clone(self));
        spawn_unsupervised(async move {
            place.0.serve(stream, bytes, from_client_side).await;
        });
    }

    async fn serve(&self, stream: TcpStream, bytes: Vec<u8>, from_client_side: bool) {
        let (reader, writer) = stream.into_split();
        let watch = Rc::new(Watch::default());
        let writer = WatchedWriter { writer, watch: Rc::clone(&watch) };
        let io: CallerIo = TokioIo::new(join(Cursor::new(bytes).chain(reader), writer));
        let client: RefCell<Option<Parts>> = RefCell::new(None);
        // Boxed: hyper can only be left by hand when the service's futures may move.
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let (client, watch) = (&client, &watch);
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                if transport_of(&parts).is_some() {
                    client.replace(Some(parts));
                    return Err(IsClient);
                }
                watch.begin();
                let has_key = parts.headers.contains_key("x-api-key");
                let reply = self.api.answer(parts, body, from_client_side).await;
                watch.end(&reply, has_key);
                Ok(reply)
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(io, service);
        let mut closing = self.closing.clone();
        let mut graceful = pin!(closing.wait_for(|closing| *closing));
        let mut told = false;
        let mut check = interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                // A request that has come is answered, even if the gateway stops meanwhile.
                biased;
                // Broken or misused connections are the caller's affair; hyper has answered.
                _ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
                _tick = check.tick() => {
                    if watch.is_stuck(if told { STOP_LINGER } else { WRITE_DEADLINE }) {
                        return;
                    }
                    if watch.is_idle_stranger() {
                        break;
                    }
                }
                _closing = &mut graceful, if !told => {
                    told = true;
                    if watch.is_idle() {
                        return;
                    }
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
            }
        }
        let patience = if told { STOP_LINGER } else { FLUSH_DEADLINE };
        let parts = client.borrow_mut().take();
        if parts.is_none() {
            // Only hyper's own end flushes what it still holds, such as the answer to a caller
            // whose body nobody read.
            let _flushed = timeout(patience, &mut connection).await;
        }
        let left = connection.into_parts();
        let (replayed, writer) = left.io.into_inner().into_inner();
        let (unread, reader) = replayed.into_inner();
        let Ok(stream) = reader.reunite(writer.writer) else { return };
        let Some(parts) = parts else {
            // An answer may be on its way to a caller that is still sending.
            let _gone = timeout(patience, say_no(stream, Vec::new())).await;
            return;
        };
        let mut leftover = left.read_buf.to_vec();
        let position = usize::try_from(unread.position()).unwrap_or(usize::MAX);
        leftover.extend_from_slice(unread.get_ref().get(position..).unwrap_or_default());
        self.welcome(stream, &parts, leftover.into()).await;
    }

    /// Sends a client that came over a caller's connection through the gate.
    async fn welcome(&self, stream: TcpStream, parts: &Parts, leftover: Box<[u8]>) {
        let Some(transport) = transport_of(parts) else { return };
        match self.api.gate.examine(parts, transport) {
            Ok(pass) => {
                let Ok(stream) = stream.into_std() else { return };
                if let Err((stream, response)) = self.api.router.admit(stream, pass, leftover) {
                    turn_away(stream, response).await;
                }
            }
            Err(refusal) => {
                let cors = self.api.gate.cors_origin(&parts.headers);
                say_no(stream, refusal.response(cors.as_deref())).await;
            }
        }
    }
}

/// A caller's place, given back however its task ends.
struct Place(Rc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.callers.set(self.0.callers.get() - 1);
    }
}

/// Writes a refusal to a socket that was on its way to a shard.
pub async fn turn_away(stream: std::net::TcpStream, response: Vec<u8>) {
    if let Ok(stream) = TcpStream::from_std(stream) {
        say_no(stream, response).await;
    }
}
