//! Serving HTTP on sockets that come from the doors or from `api.listen`.
//!
//! **Runs on**: the router's thread, one local task per socket. **Owns**: at most the configured
//! number of callers. **Never**: keeps a client: `GET /ws` and `GET /sse` on a kept-alive socket
//! go through the same handshake as at a door.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ara_shards::base::limits::STOP_LINGER;
use ara_shards::base::socket::{AsyncSocket, Socket};
use http::request::Parts;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Api;
use super::caller::{Ending, converse};
use super::requests::End;
use super::watch::Deadlines;
use crate::listener::accept::{
    WARN_INTERVAL, concerns_one_connection, refuse, refuse_detached, warn_of_head,
};
use crate::listener::handshake::transport_of;
use crate::listener::head::{self, BadHead};
use crate::refusal::{Code, Refusal};
use crate::supervise::spawn_unsupervised;
use crate::telemetry::LogLimiter;

/// The send buffer of a caller's socket: two of the largest segments.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How long accepting rests when the process is out of files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves callers, so many at a time.
#[derive(Debug)]
pub struct Server {
    api: Rc<Api>,
    callers: Cell<usize>,
    callers_max: usize,
    /// Whether the clients' address serves the API too.
    serves_front: Cell<bool>,
    closing: watch::Receiver<bool>,
    /// Lets one line about unusable heads be logged in each interval.
    limiter: RefCell<LogLimiter>,
}

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
            limiter: RefCell::new(LogLimiter::new(WARN_INTERVAL)),
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
                Ok((stream, peer)) => self.take(Socket::new(stream, peer), Vec::new(), false),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept; resting {ACCEPT_REST:?}");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Serves a socket from a door, whose first `bytes` have been read already.
    pub fn take_from_door(self: &Rc<Self>, socket: AsyncSocket, bytes: Vec<u8>) {
        // It has the small buffer of a client. Where that is less than a segment, as over loopback,
        // each piece of a long answer would wait for a delayed Ack. A refusal costs only time.
        let _larger = socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES);
        self.take(socket, bytes, !self.serves_front.get());
    }

    fn take(self: &Rc<Self>, socket: AsyncSocket, bytes: Vec<u8>, from_client_side: bool) {
        if self.callers.get() >= self.callers_max {
            let refusal = Refusal::new(Code::Overloaded, "too many API connections at once");
            // What a door has read tells whose page may read the refusal.
            let head = head::parse(&bytes).ok().flatten();
            let cors = head.and_then(|(parts, _)| self.api.handshake.cors_origin(&parts.headers));
            spawn_unsupervised(refuse(socket, refusal.response(cors.as_deref())));
            return;
        }
        self.callers.set(self.callers.get() + 1);
        let place = Place(Rc::clone(self));
        spawn_unsupervised(async move {
            place.0.serve(socket, bytes, from_client_side).await;
        });
    }

    async fn serve(&self, socket: AsyncSocket, bytes: Vec<u8>, from_client_side: bool) {
        let answer = async |parts, body, watch: &_| {
            self.api.answer(parts, body, from_client_side, watch).await
        };
        let closing = self.closing.clone();
        match converse(socket, bytes, Deadlines::USUAL, closing, answer).await {
            Ending::Cut | Ending::Requests(_, End::Closed) => {}
            Ending::Answered(socket) if *self.closing.borrow() => {
                let _gone = timeout(STOP_LINGER, refuse(socket, Vec::new())).await;
            }
            Ending::Answered(socket) => refuse(socket, Vec::new()).await,
            Ending::Requests(socket, End::Bad(BadHead { refusal, warning })) => {
                warn_of_head(warning, &socket, &self.limiter);
                refuse(socket, refusal.response(None)).await;
            }
            Ending::Requests(socket, End::Client(parts, leftover)) => {
                self.admit_client(socket, &parts, leftover).await;
            }
        }
    }

    /// Hands a client that came over a caller's connection to the router, if its handshake is right.
    async fn admit_client(&self, socket: AsyncSocket, parts: &Parts, leftover: Box<[u8]>) {
        let transport = transport_of(parts).expect("a client asks for one of the transports");
        match self.api.handshake.examine(parts, transport) {
            Ok(admission) => {
                let Ok(socket) = socket.into_detached() else { return };
                let admitted = self.api.router.admit(socket, admission, leftover);
                if let Err((socket, response)) = admitted {
                    refuse_detached(socket, response).await;
                }
            }
            Err(refusal) => {
                let cors = self.api.handshake.cors_origin(&parts.headers);
                refuse(socket, refusal.response(cors.as_deref())).await;
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
