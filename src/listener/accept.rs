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

use ara_shards::link::doorbell::Doorbell;
use crossbeam_channel::{Sender, TrySendError};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::handshake::{Admission, Handshake, transport_of};
use super::head::{self, BadHead, HeadError, RequestHead};
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
        stream: std::net::TcpStream,
        /// Who it is.
        pass: Box<Admission>,
        /// What it sent after its head.
        leftover: Box<[u8]>,
    },
    /// A caller of the HTTP API.
    Caller {
        /// Its socket.
        stream: std::net::TcpStream,
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
    /// Turns true when the gateway begins to stop.
    pub closing: watch::Receiver<bool>,
}

/// What accepted sockets inherit from the listening one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inherited {
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
    inherited: Inherited,
) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would also let a second gateway of the same user share the port unnoticed.
    drop(socket(address, inherited, false)?);
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let listener = socket(address, inherited, true)?;
        // With port 0 the first choice holds for all.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn socket(
    address: SocketAddr,
    inherited: Inherited,
    shared: bool,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit all of these on Linux: one call here instead of one per client.
    socket.set_tcp_nodelay(true)?;
    if inherited.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(inherited.send_buffer_bytes)?;
    }
    if !inherited.peer_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(inherited.peer_timeout))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the gateway closes, with at most `newcomers_max` sockets that have not said who
/// they are, or are being refused.
///
/// # Errors
///
/// The listener cannot be used on this thread.
pub async fn serve(
    listener: std::net::TcpListener,
    gate: Arc<Handshake>,
    router: RouterHandle,
    newcomers_max: usize,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let bad_heads = RefCell::new(LogLimiter::new(WARN_INTERVAL));
    let door = Rc::new(Door { gate, router, bad_heads });
    let mut closing = door.router.closing.clone();
    let mut newcomers: VecDeque<AbortHandle> = VecDeque::new();
    let mut limiter = LogLimiter::new(WARN_INTERVAL);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _changed = closing.wait_for(|closing| *closing) => return Ok(()),
        };
        match accepted {
            Ok((stream, _peer)) => {
                make_room(&mut newcomers, newcomers_max);
                let door = Rc::clone(&door);
                let task = spawn_unsupervised(async move { door.receive(stream).await });
                newcomers.push_back(task.abort_handle());
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if let Some(suppressed) = limiter.admit(Instant::now()) {
                    tracing::warn!(%error, suppressed, "cannot accept; resting {ACCEPT_REST:?}");
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Sees to it that fewer than `most` newcomers are under way: the oldest has had the longest time
/// to say who it is.
fn make_room(newcomers: &mut VecDeque<AbortHandle>, most: usize) {
    while newcomers.front().is_some_and(AbortHandle::is_finished) {
        newcomers.pop_front();
    }
    if newcomers.len() >= most {
        newcomers.retain(|newcomer| !newcomer.is_finished());
    }
    if newcomers.len() >= most
        && let Some(oldest) = newcomers.pop_front()
    {
        oldest.abort();
    }
}

/// Whether a failed accept concerns only the connection that was about to be accepted.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// One shard thread's door.
struct Door {
    gate: Arc<Handshake>,
    router: RouterHandle,
    bad_heads: RefCell<LogLimiter>,
}

impl Door {
    async fn receive(&self, mut stream: TcpStream) {
        let head = match timeout(HEAD_DEADLINE, head::read(&mut stream)).await {
            Ok(Ok(head)) => head,
            Ok(Err(HeadError::Bad(BadHead { refusal, warning }))) => {
                warn_of_head(warning, &stream, &self.bad_heads);
                return say_no(stream, refusal.response(None)).await;
            }
            // Gone, or too slow: there is nobody to answer.
            Ok(Err(HeadError::Gone)) | Err(_) => return,
        };
        let RequestHead { parts, bytes, end } = head;
        let arrival = match transport_of(&parts) {
            None => stream.into_std().map(|stream| Arrival::Caller { stream, bytes }),
            Some(transport) => match self.gate.examine(&parts, transport) {
                Ok(pass) => {
                    let leftover = bytes.get(end..).unwrap_or_default().into();
                    let pass = Box::new(pass);
                    stream.into_std().map(|stream| Arrival::Client { stream, pass, leftover })
                }
                Err(refusal) => {
                    let cors = self.gate.cors_origin(&parts.headers);
                    return say_no(stream, refusal.response(cors.as_deref())).await;
                }
            },
        };
        let Ok(arrival) = arrival else { return };
        if let Err(TrySendError::Full(arrival)) = self.router.arrivals.try_send(arrival) {
            let refusal = Refusal::new(Code::Overloaded, "too many arrivals at once, try again");
            let (stream, response) = match arrival {
                Arrival::Client { stream, pass, .. } => (stream, pass.responder.refusal(&refusal)),
                Arrival::Caller { stream, .. } => {
                    (stream, refusal.response(self.gate.cors_origin(&parts.headers).as_deref()))
                }
            };
            if let Ok(stream) = TcpStream::from_std(stream) {
                say_no(stream, response).await;
            }
        }
        self.router.bell.ring();
    }
}

/// Logs what the operator should mend, with the address it came from, once an interval.
pub fn warn_of_head(
    warning: Option<&'static str>,
    stream: &TcpStream,
    limiter: &RefCell<LogLimiter>,
) {
    let Some(problem) = warning else { return };
    if let Some(suppressed) = limiter.borrow_mut().admit(Instant::now()) {
        let peer = stream.peer_addr().ok();
        tracing::warn!(?peer, suppressed, "a connection was refused: {problem}");
    }
}

/// Writes a refusal, then waits until the client has taken it: a socket closed with unread input
/// would reset the connection and could take the answer with it.
pub async fn say_no(mut stream: TcpStream, response: Vec<u8>) {
    let reason = async {
        stream.write_all(&response).await?;
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client heard us is its own affair; the socket closes either way.
    let _heard = timeout(REFUSAL_DEADLINE, reason).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_the_listener_was_given() {
        let peer_timeout = Duration::from_millis(1500);
        let inherited = Inherited { send_buffer_bytes: 20_000, peer_timeout };
        let listener = bind(([127, 0, 0, 1], 0).into(), 1, inherited).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(peer_timeout));
        assert!(accepted.tcp_nodelay().unwrap());
        // The kernel doubles what it is asked for, for its own books.
        assert_eq!(accepted.send_buffer_size().unwrap(), 40_000);
    }
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod hand_over_tests;
