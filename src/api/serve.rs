//! Serving HTTP on sockets that come from the doors or from `api.listen`.
//!
//! **Runs on**: the router's thread, one local task per socket. **Owns**: at most the configured
//! number of callers. **Never**: keeps a client: `GET /ws` and `GET /sse` on a kept-alive socket
//! go through the same handshake as at a door.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ara_shards::base::socket::{AsyncSocket, Socket};
use http::request::Parts;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::caller::{Ending, converse};
use super::requests::End;
use super::watch::{Deadlines, stop_is_due};
use super::{Api, Way};
use crate::listener::accept::{
    WARN_INTERVAL, concerns_one_connection, refuse, refuse_detached, warn_of_head,
};
use crate::listener::handshake::transport_of;
use crate::listener::head::{self, BadHead};
use crate::listener::stream::Responder;
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
    /// Callers that came after the gateway began to stop, which does not wait for them.
    late_callers: Cell<usize>,
    callers_max: usize,
    /// Whether the clients' address serves the API too.
    serves_front: Cell<bool>,
    closing: watch::Receiver<bool>,
    /// Lets one line about unusable heads be logged in each interval.
    limiter: RefCell<LogLimiter>,
}

impl Server {
    /// A server for `callers_max` callers at a time. Once `closing` is true, a caller is answered one
    /// request more.
    #[must_use]
    pub fn new(api: Rc<Api>, callers_max: usize, closing: watch::Receiver<bool>) -> Rc<Self> {
        Rc::new(Self {
            api,
            callers: Cell::new(0),
            late_callers: Cell::new(0),
            callers_max,
            serves_front: Cell::new(true),
            closing,
            limiter: RefCell::new(LogLimiter::new(WARN_INTERVAL)),
        })
    }

    /// Callers being served for whom a stop waits.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.callers.get()
    }

    /// The API has an address of its own: from now on the clients' answers only what is public.
    pub fn close_front(&self) {
        self.serves_front.set(false);
    }

    /// Accepts on an address of the API's own until its thread ends.
    ///
    /// # Errors
    ///
    /// The listener cannot be used on this thread.
    pub async fn accept(self: Rc<Self>, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let mut limiter = LogLimiter::new(WARN_INTERVAL);
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.take(Socket::new(stream, peer), Vec::new(), false),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if let Some(suppressed) = limiter.admit(Instant::now()) {
                        tracing::warn!(%error, suppressed, "the API cannot accept; resting {ACCEPT_REST:?}");
                    }
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

    fn take(self: &Rc<Self>, socket: AsyncSocket, bytes: Vec<u8>, is_client_side: bool) {
        let is_late = *self.closing.borrow();
        let callers = if is_late { &self.late_callers } else { &self.callers };
        if callers.get() >= self.callers_max {
            let refusal = Refusal::new(Code::Overloaded, "too many API connections at once");
            // What a door has read tells whose page may read the refusal.
            let head = head::parse(&bytes).ok().flatten();
            let cors = head.and_then(|(parts, _)| self.api.handshake.cors_origin(&parts.headers));
            spawn_unsupervised(refuse(socket, refusal.response(cors.as_deref())));
            return;
        }
        callers.set(callers.get() + 1);
        let place = Place { server: Rc::clone(self), is_late };
        spawn_unsupervised(async move {
            place.server.serve(socket, bytes, is_client_side).await;
        });
    }

    async fn serve(&self, socket: AsyncSocket, bytes: Vec<u8>, is_client_side: bool) {
        let way = Way { peer: socket.peer(), is_client_side };
        let answer = async |parts, body, watch: &_| self.api.answer(parts, body, way, watch).await;
        let closing = self.closing.clone();
        match converse(socket, bytes, Deadlines::USUAL, closing, answer).await {
            Ending::Cut | Ending::Requests(_, End::Closed) => {}
            Ending::Answered(socket) => self.refuse(socket, Vec::new()).await,
            Ending::Requests(socket, End::Bad(BadHead { refusal, warning })) => {
                warn_of_head(warning, &socket, &self.limiter);
                self.refuse(socket, refusal.response(None)).await;
            }
            Ending::Requests(socket, End::Client(parts, leftover)) => {
                self.admit_client(socket, &parts, leftover).await;
            }
        }
    }

    /// Hands a client that came over a caller's connection to the router, if its handshake is right.
    async fn admit_client(&self, mut socket: AsyncSocket, parts: &Parts, leftover: Box<[u8]>) {
        let transport = transport_of(parts).expect("a client asks for one of the transports");
        let peer = self.api.handshake.client_address(socket.peer(), &parts.headers);
        socket.set_peer(peer);
        let examined = self.api.handshake.examine(parts, transport, peer);
        match self.api.rate_limiter.count_token(peer, examined) {
            Ok(admission) => {
                let Ok(socket) = socket.into_detached() else { return };
                let admitted = self.api.router.admit(socket, admission, leftover);
                if let Err((socket, response)) = admitted {
                    refuse_detached(socket, response).await;
                }
            }
            Err(refusal) => {
                let cors = self.api.handshake.cors_origin(&parts.headers);
                let responder = Responder::new(parts, transport, cors);
                self.refuse(socket, responder.refusal(&refusal)).await;
            }
        }
    }

    /// Writes a last answer and waits until it is read; not for long while the gateway stops.
    async fn refuse(&self, socket: AsyncSocket, response: Vec<u8>) {
        let mut closing = self.closing.clone();
        tokio::select! {
            () = refuse(socket, response) => {}
            () = stop_is_due(&mut closing) => {}
        }
    }
}

/// A caller's place, given back however its task ends.
struct Place {
    server: Rc<Server>,
    is_late: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { server, is_late } = self;
        let callers = if *is_late { &server.late_callers } else { &server.callers };
        callers.set(callers.get() - 1);
    }
}
