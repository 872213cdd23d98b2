//! The reference: the least that a server can do. One loop greets each client with canned bytes, then
//! only holds its socket; each byte on the control
//! connection writes one prepared frame to each of them with one `send`, whatever else is waiting.
//! Runs in a process of its own, so that its CPU time is counted like the gateway's.
//!
//! Control protocol, on the first connection: the frame's length and the place of its sequence
//! number as two big-endian `u32`, then the frame; answered with one byte. From then on one byte for
//! each frame to send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use crate::arrivals::SEQ_DIGITS;
use crate::fault::{Context, Outcome, failed};
use crate::frame::{self, Opcode};
use crate::http::WS_ACCEPT;

const LISTENER: Token = Token(usize::MAX - 2);
const CONTROL: Token = Token(usize::MAX - 1);
const FRAME_BYTES_MAX: usize = 1 << 20;

/// A socket, and what the kernel would not take of earlier frames.
struct Peer {
    stream: TcpStream,
    left_over: Vec<u8>,
}

struct Bare {
    poll: Poll,
    listener: TcpListener,
    control: TcpStream,
    peers: Slab<Peer>,
    frame: Vec<u8>,
    /// Where the sequence number's digits are in `frame`.
    seq_at: usize,
    seq: u32,
    /// What every client is sent after its request, and after its subscription.
    greeting: Vec<u8>,
    subscribed: Vec<u8>,
}

fn canned_answers() -> (Vec<u8>, Vec<u8>) {
    let mut greeting = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {WS_ACCEPT}\r\n\r\n"
    )
    .into_bytes();
    frame::write_server(&mut greeting, Opcode::Text, br#"{"type":"connected"}"#);
    let mut subscribed = Vec::new();
    frame::write_server(
        &mut subscribed,
        Opcode::Text,
        br#"{"type":"subscribed","payload":["bench"]}"#,
    );
    (greeting, subscribed)
}

/// Serves until the control connection closes. Prints its port on standard output.
pub(crate) fn serve() -> Outcome<()> {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = listener.local_addr().context("no local address")?;
    crate::say(&format!("{}", address.port()))?;
    let (mut control, _) = listener.accept().context("no control connection")?;
    let (frame, seq_at) = read_frame(&mut control)?;
    listener.set_nonblocking(true).context("cannot unblock the listener")?;
    control.set_nonblocking(true).context("cannot unblock the control connection")?;
    let (greeting, subscribed) = canned_answers();
    let mut bare = Bare {
        poll: Poll::new().context("cannot create an epoll")?,
        listener: TcpListener::from_std(listener),
        control: TcpStream::from_std(control),
        peers: Slab::new(),
        frame,
        seq_at,
        seq: 0,
        greeting,
        subscribed,
    };
    bare.run()
}

/// A blocking listener whose backlog holds a burst of connections.
pub(crate) fn listen(address: SocketAddr) -> Outcome<StdListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("cannot open a socket")?;
    socket.bind(&address.into()).context("cannot bind")?;
    socket.listen(4096).context("cannot listen")?;
    Ok(socket.into())
}

fn read_frame(control: &mut std::net::TcpStream) -> Outcome<(Vec<u8>, usize)> {
    let mut word = [0u8; 4];
    let mut number = |control: &mut std::net::TcpStream| {
        control.read_exact(&mut word).context("no frame on the control connection")?;
        usize::try_from(u32::from_be_bytes(word)).context("a number too large")
    };
    let (bytes, seq_at) = (number(control)?, number(control)?);
    if bytes > FRAME_BYTES_MAX || seq_at + SEQ_DIGITS > bytes {
        return failed("a bad frame on the control connection");
    }
    let mut frame = vec![0; bytes];
    control.read_exact(&mut frame).context("an incomplete frame")?;
    control.write_all(b"k").context("cannot confirm the frame")?;
    Ok((frame, seq_at))
}

impl Bare {
    fn run(&mut self) -> Outcome<()> {
        let registry = self.poll.registry();
        registry.register(&mut self.listener, LISTENER, Interest::READABLE).context("epoll")?;
        registry.register(&mut self.control, CONTROL, Interest::READABLE).context("epoll")?;
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(error).context("epoll");
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    CONTROL => {
                        // Whoever connected before the byte was sent counts.
                        self.accept()?;
                        if !self.control()? {
                            return Ok(());
                        }
                    }
                    Token(at) => self.peer(at, event.is_readable(), event.is_writable()),
                }
            }
        }
    }

    fn accept(&mut self) -> Outcome<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nodelay(true).context("TCP_NODELAY")?;
                    let entry = self.peers.vacant_entry();
                    self.poll
                        .registry()
                        .register(
                            &mut stream,
                            Token(entry.key()),
                            Interest::READABLE | Interest::WRITABLE,
                        )
                        .context("epoll")?;
                    entry.insert(Peer { stream, left_over: Vec::new() });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot accept"),
            }
        }
    }

    /// Sends a frame for each byte that waits; `false` once the connection has closed.
    fn control(&mut self) -> Outcome<bool> {
        let mut bytes = [0u8; 256];
        loop {
            match self.control.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => (0..count).for_each(|_| self.send_all()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("control connection"),
            }
        }
    }

    fn send_all(&mut self) {
        let digits = format!("{:0SEQ_DIGITS$}", self.seq);
        self.seq += 1;
        if let Some(place) = self.frame.get_mut(self.seq_at..self.seq_at + SEQ_DIGITS) {
            place.copy_from_slice(digits.as_bytes());
        }
        for (_, peer) in &mut self.peers {
            if !peer.left_over.is_empty() {
                peer.left_over.extend_from_slice(&self.frame);
                continue;
            }
            // A closed socket shows as an event, which removes it.
            let sent = peer.stream.write(&self.frame).unwrap_or(0);
            if let Some(rest) = self.frame.get(sent..).filter(|rest| !rest.is_empty()) {
                peer.left_over.extend_from_slice(rest);
            }
        }
    }

    fn peer(&mut self, at: usize, readable: bool, writable: bool) {
        let Some(peer) = self.peers.get_mut(at) else { return };
        while writable && !peer.left_over.is_empty() {
            match peer.stream.write(&peer.left_over) {
                Ok(count) => drop(peer.left_over.drain(..count)),
                Err(_) => break,
            }
        }
        let mut bytes = [0u8; 2048];
        if !readable {
            return;
        }
        loop {
            let Ok(count) = peer.stream.read(&mut bytes) else { return };
            if count == 0 {
                self.peers.remove(at);
                return;
            }
            // The request head comes first, then the one subscription: both fit a segment.
            let is_request = bytes.starts_with(b"GET ");
            let answer = if is_request { &self.greeting } else { &self.subscribed };
            // A new socket has room; if not, the generator will say what it misses.
            let _sent = peer.stream.write(answer);
        }
    }
}
