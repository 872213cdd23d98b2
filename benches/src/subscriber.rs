//! One subscriber's connection: what it sends at each stage, and how it handles what it
//! receives. Owns the bytes of an incomplete message and those not yet written; the read buffer is
//! the swarm's.

use std::io::{ErrorKind, Read, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mio::net::TcpStream;

use crate::arrivals::{Arrivals, Mark};
use crate::frame::{self, Opcode};
use crate::http::{self, Body, Chunks, WS_KEY};
use crate::sse;
use crate::token::Tokens;

/// An incomplete message's buffer is given back above this once it is empty.
const KEPT_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// WebSocket
    Ws,
    /// Server-sent events
    Sse,
}

/// What a subscriber sends in answer to each notification.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Reply {
    /// Nothing
    #[default]
    None,
    /// An `Ack`
    Ack,
    /// A `Ping`: what one inbound message and its answer cost without acknowledgement
    Ping,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Connecting,
    /// The request is written, the response head is awaited.
    Upgrading,
    /// `connected` is awaited.
    Greeting,
    /// `subscribed` is awaited.
    Subscribing,
    Ready,
    /// A close frame is on its way; the server ends the connection.
    Closing,
}

/// How many channels each subscriber has, and whose they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) channels_each: u32,
    /// Each subscriber has channels of its own.
    pub(crate) distinct: bool,
}

impl Spread {
    /// The one channel of the script, shared by all.
    pub(crate) const ONE: Self = Self { channels_each: 1, distinct: false };

    /// The names that subscriber `number` asks for, between these marks.
    fn names(self, channel: &str, number: u32, between: &str) -> String {
        if self.channels_each == 1 && !self.distinct {
            return channel.to_owned();
        }
        let name = |index| match self.distinct {
            true => format!("{channel}-{number}-{index}"),
            false => format!("{channel}-{index}"),
        };
        (0..self.channels_each).map(name).collect::<Vec<_>>().join(between)
    }
}

/// What every subscriber of a swarm does.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) transport: Transport,
    pub(crate) channel: Option<String>,
    pub(crate) spread: Spread,
    pub(crate) tokens: Tokens,
    pub(crate) reply: Reply,
}

impl Script {
    /// The first bytes on the connection of user `number`.
    fn request(&self, number: u32) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let token = self.tokens.issue(&format!("u{number}"), now);
        match self.transport {
            Transport::Ws => format!(
                "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {WS_KEY}\r\nAuthorization: Bearer {token}\r\n\r\n"
            )
            .into_bytes(),
            Transport::Sse => {
                let names = self.channel.as_ref().map(|name| self.spread.names(name, number, ","));
                let query = names.map_or(String::new(), |names| format!("?channels={names}"));
                format!(
                    "GET /sse{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
                     Authorization: Bearer {token}\r\n\r\n"
                )
                .into_bytes()
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Subscriber {
    stream: TcpStream,
    stage: Stage,
    transport: Transport,
    /// The user is `u<number>`.
    number: u32,
    partial: Vec<u8>,
    out: Vec<u8>,
    /// Set where the response to an SSE request is chunked.
    chunks: Option<Chunks>,
    /// Decoded from the chunks, and not yet a whole event.
    text: Vec<u8>,
    mark: Mark,
}

impl Subscriber {
    pub(crate) fn new(stream: TcpStream, transport: Transport, number: u32) -> Self {
        Self {
            stream,
            stage: Stage::Connecting,
            transport,
            number,
            partial: Vec::new(),
            out: Vec::new(),
            chunks: None,
            text: Vec::new(),
            mark: Mark::default(),
        }
    }

    pub(crate) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(crate) fn ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    pub(crate) fn closing(&self) -> bool {
        self.stage == Stage::Closing
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The socket can be written to: the connection stands, or what was left over can go on.
    pub(crate) fn on_writable(&mut self, script: &Script) -> Result<(), String> {
        if self.stage == Stage::Connecting {
            if let Ok(Some(error)) | Err(error) = self.stream.take_error() {
                return Err(format!("connecting: {error}"));
            }
            if self.stream.peer_addr().is_err() {
                return Ok(());
            }
            self.out = script.request(self.number);
            self.stage = Stage::Upgrading;
        }
        self.flush()
    }

    /// Reads all there is. `Ok(false)`: the server has closed. `ended`: the end is known to follow
    /// what is left to read.
    pub(crate) fn on_readable(
        &mut self,
        ended: bool,
        buffer: &mut [u8],
        script: &Script,
        arrivals: &mut Arrivals,
    ) -> Result<bool, String> {
        loop {
            let bytes = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) if self.closing() => return Ok(false),
                Err(error) => return Err(format!("reading: {error}")),
            };
            self.feed(buffer.get(..bytes).unwrap_or_default(), script, arrivals)?;
            // A read that did not fill the buffer emptied the socket, but for its end.
            if bytes < buffer.len() && !ended {
                return Ok(true);
            }
        }
    }

    /// Begins to close in good order; the server's answer ends the connection.
    pub(crate) fn close(&mut self) -> Result<(), String> {
        self.stage = Stage::Closing;
        self.say(Opcode::Close, &1000u16.to_be_bytes())
    }

    fn feed(
        &mut self,
        input: &[u8],
        script: &Script,
        arrivals: &mut Arrivals,
    ) -> Result<(), String> {
        if self.partial.is_empty() {
            let used = self.consume(input, script, arrivals)?;
            self.partial.extend_from_slice(input.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(input);
        let used = self.consume(&all, script, arrivals)?;
        all.drain(..used);
        if !all.is_empty() || all.capacity() <= KEPT_BYTES_MAX {
            self.partial = all;
        }
        Ok(())
    }

    /// Takes whole messages from the front of `input`; returns how many bytes they were.
    fn consume(
        &mut self,
        input: &[u8],
        script: &Script,
        arrivals: &mut Arrivals,
    ) -> Result<usize, String> {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            let Some(head) = http::read_head(input)? else { return Ok(0) };
            self.check_upgrade(&head, input)?;
            self.stage = Stage::Greeting;
            used = head.bytes;
            self.chunks = (head.body == Body::Chunked).then(Chunks::new);
        }
        let rest = input.get(used..).unwrap_or_default();
        used += if let Some(chunks) = &mut self.chunks {
            let mut text = std::mem::take(&mut self.text);
            let fed = chunks.feed(rest, &mut text)?;
            let taken = self.consume_events(&text, arrivals)?;
            text.drain(..taken);
            self.text = text;
            fed
        } else if self.transport == Transport::Sse {
            self.consume_events(rest, arrivals)?
        } else {
            self.consume_frames(rest, script, arrivals)?
        };
        Ok(used)
    }

    fn check_upgrade(&self, head: &http::Head, input: &[u8]) -> Result<(), String> {
        let wanted = if self.transport == Transport::Ws { 101 } else { 200 };
        if head.status != wanted {
            let body = String::from_utf8_lossy(input.get(head.bytes..).unwrap_or_default());
            return Err(format!(
                "answered {} to the {:?} request: {body}",
                head.status, self.transport
            ));
        }
        if self.transport == Transport::Ws && !head.accepted {
            return Err("Sec-WebSocket-Accept does not answer the key".to_owned());
        }
        Ok(())
    }

    fn consume_frames(
        &mut self,
        input: &[u8],
        script: &Script,
        arrivals: &mut Arrivals,
    ) -> Result<usize, String> {
        let mut used = 0;
        while let Some(frame) = frame::read(input.get(used..).unwrap_or_default())? {
            if frame.mask.is_some() {
                return Err("a masked frame from the server".to_owned());
            }
            let raw = input.get(used..used + frame.bytes).unwrap_or_default();
            used += frame.bytes;
            match frame.opcode {
                Opcode::Text | Opcode::Binary => {
                    self.message(frame.payload, raw, script, arrivals)?
                }
                Opcode::Ping => {
                    arrivals.pings += 1;
                    self.say(Opcode::Pong, frame.payload)?;
                }
                Opcode::Pong => {}
                Opcode::Close if self.stage == Stage::Closing => {}
                Opcode::Close => {
                    let code = frame.payload.first_chunk().map_or(1005, |b| u16::from_be_bytes(*b));
                    return Err(format!("closed by the server with code {code}"));
                }
            }
        }
        Ok(used)
    }

    fn message(
        &mut self,
        text: &[u8],
        raw: &[u8],
        script: &Script,
        arrivals: &mut Arrivals,
    ) -> Result<(), String> {
        if arrivals.delivered(self.number, &mut self.mark, text) {
            if let Some(capture) = arrivals.capture.as_mut().filter(|capture| capture.is_empty()) {
                capture.extend_from_slice(raw);
            }
            return self.reply(text, script.reply);
        }
        match (kind(text), self.stage) {
            (b"heartbeat", _) => arrivals.heartbeats += 1,
            (b"acked" | b"pong", _) if script.reply != Reply::None => arrivals.replies += 1,
            (b"connected", Stage::Greeting) => match &script.channel {
                Some(channel) => {
                    self.stage = Stage::Subscribing;
                    let names = script.spread.names(channel, self.number, "\",\"");
                    let text =
                        format!(r#"{{"type":"Subscribe","payload":{{"channels":["{names}"]}}}}"#);
                    self.say(Opcode::Text, text.as_bytes())?;
                }
                None => self.set_ready(arrivals),
            },
            (b"subscribed", Stage::Subscribing) => self.set_ready(arrivals),
            (b"shutdown", _) if arrivals.departures.is_some() => {
                arrivals.departures.get_or_insert_default().push(Instant::now());
                self.close()?;
            }
            // A close may cross a greeting or a confirmation.
            (b"connected" | b"subscribed", Stage::Closing) => {}
            _ => return Err(format!("an unexpected message: {}", String::from_utf8_lossy(text))),
        }
        Ok(())
    }

    fn consume_events(&mut self, input: &[u8], arrivals: &mut Arrivals) -> Result<usize, String> {
        let mut used = 0;
        while let Some((event, bytes)) = sse::read(input.get(used..).unwrap_or_default()) {
            used += bytes;
            if arrivals.delivered(self.number, &mut self.mark, event.data) {
                continue;
            }
            match event.name {
                b"" => {}
                b"heartbeat" => arrivals.heartbeats += 1,
                b"connected" if self.stage == Stage::Greeting => self.set_ready(arrivals),
                _ => {
                    let text = String::from_utf8_lossy(event.data);
                    return Err(format!("an unexpected event: {text}"));
                }
            }
        }
        Ok(used)
    }

    fn reply(&mut self, text: &[u8], reply: Reply) -> Result<(), String> {
        match reply {
            Reply::None => Ok(()),
            Reply::Ping => self.say(Opcode::Text, br#"{"type":"Ping"}"#),
            Reply::Ack => {
                let id = notification_id(text).ok_or("a notification without an id")?;
                let ack = format!(r#"{{"type":"Ack","payload":{{"notification_id":"{id}"}}}}"#);
                self.say(Opcode::Text, ack.as_bytes())
            }
        }
    }

    fn set_ready(&mut self, arrivals: &mut Arrivals) {
        self.stage = Stage::Ready;
        arrivals.ready += 1;
    }

    fn say(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), String> {
        if self.transport == Transport::Ws {
            frame::write_client(&mut self.out, opcode, payload, fastrand::u32(..).to_ne_bytes());
            return self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(bytes) => drop(self.out.drain(..bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if self.closing() => break,
                Err(error) => return Err(format!("writing: {error}")),
            }
        }
        Ok(())
    }
}

/// The value of a message's leading `type` field.
fn kind(text: &[u8]) -> &[u8] {
    let rest = text.strip_prefix(br#"{"type":""#).unwrap_or_default();
    rest.split(|&byte| byte == b'"').next().unwrap_or_default()
}

/// The UUID of a notification, which is its second member.
fn notification_id(text: &[u8]) -> Option<&str> {
    let rest = text.strip_prefix(br#"{"type":"notification","id":""#)?;
    str::from_utf8(rest.get(..36)?).ok()
}
