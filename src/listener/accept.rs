//! Accepting: read the head, look at who it is, hand the socket on.
//!
//! **Runs on**: each shard's thread. **Owns**: the listening socket and a bounded number of sockets
//! without a complete head; when a further one comes, the oldest gives way. **Never**: lets one of
//! them live beyond [`HEAD_DEADLINE`]; handles a request itself.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ara_shards::base::socket::{AsyncSocket, Socket};
use ara_shards::link::doorbell::Doorbell;
use crossbeam_channel::{Sender, TrySendError};
use socket2::{Domain, Protocol, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::handshake::{Admission, Handshake, transport_of};
use super::head::{self, BadHead, HeadError, RequestHead};
use super::proxy_protocol;
use super::stream::Responder;
use crate::refusal::{Code, Refusal};
use crate::supervise::spawn_unsupervised;
use crate::telemetry::LogLimiter;

/// The longest a client may take to send its request head.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The longest a refusal may take to be read.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);
/// The kernel's queue of connections not accepted yet, for each door.
const BACKLOG: i32 = 4096;
/// At most one line about refused accepts in this time, and one about unusable heads.
pub const WARN_INTERVAL: Duration = Duration::from_secs(1);
/// How long accepting rests when the process is out of files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A socket on its way from a door to the router.
#[derive(Debug)]
pub enum Arrival {
    /// A client that showed a valid token.
    Client {
        /// Its socket.
        socket: Socket,
        /// Who it is, and the response head that is ready for it.
        admission: Box<Admission>,
        /// What it sent after its head.
        leftover: Box<[u8]>,
    },
    /// A client whose token is not valid, to be counted before it is told.
    Failed {
        /// Its socket.
        socket: Socket,
        /// How it is answered.
        responder: Box<Responder>,
        /// What it is told if not too many have failed.
        refusal: Box<Refusal>,
    },
    /// A caller of the HTTP API.
    Caller {
        /// Its socket.
        socket: Socket,
        /// The bytes read so far.
        bytes: Vec<u8>,
    },
}

/// A door's way to the router.
#[derive(Debug, Clone)]
pub struct RouterHandle {
    /// Bounded; a full one means 503 for the newcomer.
    pub arrivals: Sender<Arrival>,
    /// The router's bell.
    pub bell: Arc<Doorbell>,
}

/// Options set on a listening socket, from which accepted sockets inherit them.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketOptions {
    /// `SO_SNDBUF`, in bytes; 0 = the kernel's choice.
    pub send_buffer_bytes: usize,
    /// How long written bytes may go without being acknowledged before the kernel gives the peer
    /// up (`TCP_USER_TIMEOUT`); zero = the kernel's choice, which may be a quarter of an hour. It
    /// is what ends an SSE client that vanished: it owes us no bytes to be missed.
    pub peer_timeout: Duration,
}

/// Opens `count` listening sockets on one address; the kernel spreads connections over them.
///
/// # Errors
///
/// The address is not to be had.
pub fn bind(
    address: SocketAddr,
    count: usize,
    options: SocketOptions,
) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would also let a second gateway of the same user share the port unnoticed.
    drop(listening_socket(address, options, false)?);
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let listener = listening_socket(address, options, true)?;
        // With port 0 the first choice holds for all.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listening_socket(
    address: SocketAddr,
    options: SocketOptions,
    shared: bool,
) -> io::Result<std::net::TcpListener> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit all of these on Linux: one call here instead of one per client.
    socket.set_tcp_nodelay(true)?;
    if options.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(options.send_buffer_bytes)?;
    }
    if !options.peer_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(options.peer_timeout))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until its thread ends, with at most `handshakes_max` sockets whose head is not
/// complete, or which are being refused.
///
/// # Errors
///
/// The listener cannot be used on this thread.
pub async fn serve(
    listener: std::net::TcpListener,
    handshake: Arc<Handshake>,
    router: RouterHandle,
    handshakes_max: usize,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let bad_heads = RefCell::new(LogLimiter::new(WARN_INTERVAL));
    let door = Rc::new(Door { handshake, router, bad_heads });
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
    let mut limiter = LogLimiter::new(WARN_INTERVAL);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                make_room(&mut handshakes, handshakes_max);
                let (door, socket) = (Rc::clone(&door), Socket::new(stream, peer));
                let task = spawn_unsupervised(async move { door.receive(socket).await });
                handshakes.push_back(task.abort_handle());
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if let Some(suppressed) = limiter.admit(Instant::now()) {
                    tracing::warn!(%error, suppressed, "cannot accept; resting {ACCEPT_REST:?}");
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Sees to it that fewer than `most` handshakes are under way: the oldest is ended, which has had
/// the longest time to send its head.
fn make_room(handshakes: &mut VecDeque<AbortHandle>, most: usize) {
    while handshakes.front().is_some_and(AbortHandle::is_finished) {
        handshakes.pop_front();
    }
    if handshakes.len() >= most {
        handshakes.retain(|handshake| !handshake.is_finished());
    }
    if handshakes.len() >= most
        && let Some(oldest) = handshakes.pop_front()
    {
        oldest.abort();
    }
}

/// Whether a failed accept concerns only the connection that was about to be accepted.
pub fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// One shard thread's door.
struct Door {
    handshake: Arc<Handshake>,
    router: RouterHandle,
    bad_heads: RefCell<LogLimiter>,
}

impl Door {
    /// Reads a connection's first head, and whatever its proxy says before.
    async fn read_head(&self, socket: &mut AsyncSocket) -> Result<RequestHead, HeadError> {
        let mut bytes = Vec::with_capacity(1024);
        if self.handshake.expects_proxy_header(socket.peer())
            && let Some(client) = proxy_protocol::read(socket, &mut bytes).await?
        {
            socket.set_peer(client);
        }
        head::read(socket, bytes).await
    }

    async fn receive(&self, mut socket: AsyncSocket) {
        let head = match timeout(HEAD_DEADLINE, self.read_head(&mut socket)).await {
            Ok(Ok(head)) => head,
            Ok(Err(HeadError::Bad(BadHead { refusal, warning }))) => {
                warn_of_head(warning, &socket, &self.bad_heads);
                return refuse(socket, refusal.response(None)).await;
            }
            // Gone, or too slow: there is nobody to answer.
            Ok(Err(HeadError::Gone)) | Err(_) => return,
        };
        let RequestHead { parts, bytes, end } = head;
        let examined = transport_of(&parts).map(|transport| {
            socket.set_peer(self.handshake.client_address(socket.peer(), &parts.headers));
            (transport, self.handshake.examine(&parts, transport, socket.peer()))
        });
        if let Some((transport, Err(refusal))) = &examined {
            let is_counted = refusal.code == Code::InvalidToken && self.handshake.counts_failures();
            if !is_counted {
                let cors = self.handshake.cors_origin(&parts.headers);
                let responder = Responder::new(&parts, *transport, cors);
                return refuse(socket, responder.refusal(refusal)).await;
            }
        }
        // A runtime that cannot let go of a socket has lost it already: the peer sees it closed.
        let Ok(socket) = socket.into_detached() else { return };
        let arrival = match examined {
            None => Arrival::Caller { socket, bytes },
            Some((_, Ok(admission))) => {
                let leftover = bytes.get(end..).expect("the head ends within what was read");
                let leftover = leftover.into();
                Arrival::Client { socket, admission: Box::new(admission), leftover }
            }
            Some((transport, Err(refusal))) => {
                let cors = self.handshake.cors_origin(&parts.headers);
                let responder = Box::new(Responder::new(&parts, transport, cors));
                Arrival::Failed { socket, responder, refusal: Box::new(refusal) }
            }
        };
        if let Err(TrySendError::Full(arrival)) = self.router.arrivals.try_send(arrival) {
            let refusal = Refusal::new(Code::Overloaded, "too many arrivals at once, try again");
            let (socket, response) = match arrival {
                Arrival::Client { socket, admission, .. } => {
                    (socket, admission.responder.refusal(&refusal))
                }
                Arrival::Failed { socket, responder, .. } => (socket, responder.refusal(&refusal)),
                Arrival::Caller { socket, .. } => {
                    let cors = self.handshake.cors_origin(&parts.headers);
                    (socket, refusal.response(cors.as_deref()))
                }
            };
            refuse_detached(socket, response).await;
        }
        self.router.bell.ring();
    }
}

/// Logs what the operator should mend, with the address it came from, once an interval.
pub fn warn_of_head(
    warning: Option<&'static str>,
    socket: &AsyncSocket,
    limiter: &RefCell<LogLimiter>,
) {
    let Some(problem) = warning else { return };
    if let Some(suppressed) = limiter.borrow_mut().admit(Instant::now()) {
        let peer = socket.peer();
        tracing::warn!(%peer, suppressed, "a connection was refused: {problem}");
    }
}

/// Writes a refusal, then waits until the client has taken it: a socket closed with unread input
/// would reset the connection and could take the answer with it.
pub async fn refuse(mut socket: AsyncSocket, response: Vec<u8>) {
    let answer = async {
        socket.write_all(&response).await?;
        socket.shutdown().await?;
        let mut rest = [0; 512];
        while socket.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // The socket closes, whether the client has read the answer or not.
    let _outcome = timeout(REFUSAL_DEADLINE, answer).await;
}

/// The same for a socket that was on its way to another thread.
pub async fn refuse_detached(socket: Socket, response: Vec<u8>) {
    // Without room for its registration the refusal is only that the socket closes.
    if let Ok(socket) = socket.into_async() {
        refuse(socket, response).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_the_listener_was_given() {
        let peer_timeout = Duration::from_millis(1500);
        let options = SocketOptions { send_buffer_bytes: 20_000, peer_timeout };
        let listener = bind(([127, 0, 0, 1], 0).into(), 1, options).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = socket2::Socket::from(listener.accept().unwrap().0);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(peer_timeout));
        assert!(accepted.tcp_nodelay().unwrap());
        // The kernel doubles what it is asked for, for its own books.
        assert_eq!(accepted.send_buffer_size().unwrap(), 40_000);
    }
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod hand_over_tests;
