//! A small server that answers like the gateway, as far as the scenarios ask: it lets the tool be
//! tested, and loaded, without one. It has one thread and hardly any limits, and is of no use for anything else.
//!
//! `STAND_IN_FAULT=lose` leaves a subscriber out of every twentieth publish, `=duplicate` serves one
//! twice: the tool must notice both.

mod hub;
mod request;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use self::hub::{Fault, Hub, Published};
use self::request::{Request, Route};
use crate::bare::listen;
use crate::fault::{Context, Outcome};
use crate::frame::{self, Opcode};
use crate::http::WS_ACCEPT;
use crate::sse;
use crate::token::Tokens;

const LISTENER: Token = Token(usize::MAX - 2);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Speech {
    Http,
    Ws,
    Sse,
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    speech: Speech,
    partial: Vec<u8>,
    out: Vec<u8>,
    close_when_written: bool,
}

#[derive(Debug)]
struct Server {
    poll: Poll,
    listener: TcpListener,
    peers: Slab<Peer>,
    hub: Hub,
    tokens: Tokens,
    api_key: String,
    buffer: Vec<u8>,
}

/// Serves until it is terminated; configured by the gateway's own environment variables.
pub(crate) fn serve() -> Outcome<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let port: u16 = variable("SERVER_PORT").parse().context("SERVER_PORT")?;
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listener.set_nonblocking(true).context("cannot unblock the listener")?;
    let heartbeat = variable("WEBSOCKET_HEARTBEAT_INTERVAL").parse().unwrap_or(30);
    let fault = match variable("STAND_IN_FAULT").as_str() {
        "lose" => Fault::Lose,
        "duplicate" => Fault::Duplicate,
        _ => Fault::None,
    };
    let mut server = Server {
        poll: Poll::new().context("cannot create an epoll")?,
        listener: TcpListener::from_std(listener),
        peers: Slab::new(),
        hub: Hub::new(
            fault,
            variable("QUEUE_ENABLED") == "true",
            variable("ACK_ENABLED") == "true",
        ),
        tokens: Tokens::new(&variable("JWT_SECRET")),
        api_key: variable("API_KEY"),
        buffer: vec![0; 64 * 1024],
    };
    server.run(Duration::from_secs(heartbeat))
}

impl Server {
    fn run(&mut self, heartbeat: Duration) -> Outcome<()> {
        let registry = self.poll.registry();
        registry.register(&mut self.listener, LISTENER, Interest::READABLE).context("epoll")?;
        let mut events = Events::with_capacity(1024);
        let mut next = Instant::now() + heartbeat;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(error).context("epoll");
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(at) => self.turn(at, event.is_readable()),
                }
            }
            if Instant::now() >= next {
                next += heartbeat;
                self.heartbeat();
            }
        }
    }

    fn accept(&mut self) -> Outcome<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot accept"),
            };
            stream.set_nodelay(true).context("TCP_NODELAY")?;
            let entry = self.peers.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(entry.key());
            self.poll.registry().register(&mut stream, token, interest).context("epoll")?;
            entry.insert(Peer {
                stream,
                speech: Speech::Http,
                partial: Vec::new(),
                out: Vec::new(),
                close_when_written: false,
            });
        }
    }

    /// Reads and serves what there is, then writes; a connection in any trouble is dropped.
    fn turn(&mut self, at: usize, readable: bool) {
        if readable && self.read(at).is_none() || self.flush(at).is_none() {
            self.hub.leave(at);
            self.peers.try_remove(at);
        }
    }

    /// `None`: the connection is over.
    fn read(&mut self, at: usize) -> Option<()> {
        let peer = self.peers.get_mut(at)?;
        loop {
            match peer.stream.read(&mut self.buffer) {
                Ok(0) => return None,
                Ok(bytes) => peer.partial.extend_from_slice(self.buffer.get(..bytes)?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        let input = std::mem::take(&mut peer.partial);
        let mut used = 0;
        loop {
            let rest = input.get(used..)?;
            let taken = match self.peers.get(at)?.speech {
                Speech::Http => self.serve_request(at, rest)?,
                Speech::Ws => self.serve_frame(at, rest)?,
                Speech::Sse => return None,
            };
            used += taken;
            if taken == 0 || used == input.len() {
                self.peers.get_mut(at)?.partial = input.get(used..)?.to_vec();
                return Some(());
            }
        }
    }

    /// Serves the request at the front of `input`; returns its length, 0 while it is not complete.
    fn serve_request(&mut self, at: usize, input: &[u8]) -> Option<usize> {
        let Some(request) = request::read(input)? else { return Some(0) };
        let (mut status, mut body) = (200, String::from("{}"));
        match &request.route {
            Route::Ready => {}
            Route::Ws | Route::Sse { .. } => {
                return self.open(at, &request).map(|()| request.bytes);
            }
            _ if request.api_key != self.api_key => status = 401,
            Route::Channel(name) => match self.hub.subscribers(name) {
                0 => status = 404,
                count => body = format!(r#"{{"name":"{name}","subscriber_count":{count}}}"#),
            },
            Route::Stats => body = self.hub.stats(),
            Route::Publish => match self.hub.publish(request.body) {
                Some(Published { text, targets, queued }) => {
                    let count = targets.len();
                    for target in self.hub.pretend(&targets) {
                        self.tell(target, "notification", &text);
                    }
                    body = format!(
                        r#"{{"success":true,"notification_id":"0","delivered_to":{count},"failed":0,"queued":{queued}}}"#
                    );
                }
                None => status = 400,
            },
            Route::Unknown => status = 404,
        }
        let head = format!(
            "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let peer = self.peers.get_mut(at)?;
        peer.out.extend_from_slice(head.as_bytes());
        peer.out.extend_from_slice(body.as_bytes());
        peer.close_when_written = request.close;
        Some(request.bytes)
    }

    /// Turns an HTTP connection into a client's.
    fn open(&mut self, at: usize, request: &Request<'_>) -> Option<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let user = request.token.and_then(|token| self.tokens.user(token, now));
        let peer = self.peers.get_mut(at)?;
        let Some(user) = user else {
            peer.out.extend_from_slice(b"HTTP/1.1 401 \r\nContent-Length: 0\r\n\r\n");
            return Some(());
        };
        let head = if let Route::Sse { channels } = &request.route {
            peer.speech = Speech::Sse;
            channels.iter().for_each(|channel| self.hub.subscribe(at, channel));
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 3000\n\n".to_owned()
        } else {
            peer.speech = Speech::Ws;
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {WS_ACCEPT}\r\n\r\n"
            )
        };
        peer.out.extend_from_slice(head.as_bytes());
        let greeting =
            format!(r#"{{"type":"connected","connection_id":"{at}","user_id":"{user}"}}"#);
        let waiting = self.hub.join(at, user);
        self.tell(at, "connected", &greeting);
        for text in waiting {
            self.tell(at, "notification", &text);
        }
        Some(())
    }

    fn serve_frame(&mut self, at: usize, input: &[u8]) -> Option<usize> {
        let Some(frame) = frame::read(input).ok()? else { return Some(0) };
        let payload: Vec<u8> = frame::unmasked(frame.payload, frame.mask?).collect();
        match frame.opcode {
            Opcode::Text => {
                let confirmation = self.hub.command(at, &payload)?;
                self.tell(at, "message", &confirmation);
            }
            Opcode::Close => {
                let peer = self.peers.get_mut(at)?;
                frame::write_server(&mut peer.out, Opcode::Close, &payload);
                peer.close_when_written = true;
            }
            _ => {}
        }
        Some(frame.bytes)
    }

    /// Writes one message to a client, now or as soon as its socket takes more.
    fn tell(&mut self, at: usize, name: &str, text: &str) {
        let Some(peer) = self.peers.get_mut(at) else { return };
        match peer.speech {
            Speech::Http => {}
            Speech::Ws => frame::write_server(&mut peer.out, Opcode::Text, text.as_bytes()),
            Speech::Sse => sse::write(&mut peer.out, name, text.as_bytes()),
        }
        // A failure shows again as an event, which drops the connection.
        self.flush(at);
    }

    fn heartbeat(&mut self) {
        let clients: Vec<usize> = self.peers.iter().map(|(at, _)| at).collect();
        for at in clients {
            if let Some(peer) = self.peers.get_mut(at).filter(|peer| peer.speech == Speech::Ws) {
                frame::write_server(&mut peer.out, Opcode::Ping, b"");
            }
            self.tell(at, "heartbeat", r#"{"type":"heartbeat"}"#);
        }
    }

    fn flush(&mut self, at: usize) -> Option<()> {
        let peer = self.peers.get_mut(at)?;
        while !peer.out.is_empty() {
            match peer.stream.write(&peer.out) {
                Ok(bytes) => drop(peer.out.drain(..bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        (!peer.close_when_written).then_some(())
    }
}
