//! WebSocket frames (RFC 6455) without a buffer for idle connections.
//!
//! **Runs on**: a shard (both ways) and the router (encoding once). **Owns**: what a client has
//! sent of a frame or message that is not complete yet, and only while it is not.
//! **Never**: reads a socket; keeps anything of a connection that owes us no bytes.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::text;

/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// A complete unmasked, unfragmented text frame.
#[must_use]
pub fn text_frame(payload: &[u8]) -> Box<[u8]> {
    frame(OpCode::Data(Data::Text), payload)
}

/// The payload of a frame made by [`text_frame`].
#[must_use]
pub fn payload_of(frame: &[u8]) -> &[u8] {
    // The length field's first byte says how many more there are (RFC 6455 section 5.2).
    let header = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(header..).unwrap_or_default()
}

/// A complete unmasked frame of any kind.
pub(crate) fn frame(opcode: OpCode, payload: &[u8]) -> Box<[u8]> {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let length = payload.len() as u64;
    let mut bytes = Vec::with_capacity(header.len(length) + payload.len());
    // Writing to a Vec cannot fail.
    let _infallible = header.format(length, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes.into_boxed_slice()
}

/// A binary frame.
#[must_use]
pub fn binary_frame(payload: &[u8]) -> Box<[u8]> {
    frame(OpCode::Data(Data::Binary), payload)
}

/// A ping frame without payload.
#[must_use]
pub fn ping_frame() -> Box<[u8]> {
    frame(OpCode::Control(Control::Ping), &[])
}

/// The pong that answers a ping (RFC 6455 section 5.5.3).
pub(crate) fn pong_frame(payload: &[u8]) -> Box<[u8]> {
    frame(OpCode::Control(Control::Pong), payload)
}

/// A close frame; `None` = without a code (RFC 6455 section 5.5.1). Of a reason that is too long for
/// a control frame, whole characters are kept, since it must be UTF-8.
pub(crate) fn close_frame(code: Option<u16>, reason: &str) -> Box<[u8]> {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        let room = CONTROL_PAYLOAD_BYTES_MAX - payload.len();
        payload.extend_from_slice(text::cut(reason, room).as_bytes());
    }
    frame(OpCode::Control(Control::Close), &payload)
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message, valid UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping to answer with its payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A part of a message whose rest is still to come.
    Fragment,
    /// A close frame with its code, if it had one. Nothing after it is read.
    Close(Option<u16>),
}

/// Why a client's bytes are not acceptable: the close code and reason to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The close code (RFC 6455 section 7.4.1).
    pub code: u16,
    /// A short reason for the close frame.
    pub reason: &'static str,
}

const fn protocol(reason: &'static str) -> Violation {
    Violation { code: 1002, reason }
}

const INVALID_UTF8: Violation = Violation { code: 1007, reason: "text is not valid UTF-8" };
const TOO_BIG: Violation = Violation { code: 1009, reason: "message too big" };

/// What is kept of a connection in the middle of a frame or a fragmented message.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// The beginning of a frame whose rest has not come.
    frame: Vec<u8>,
    /// The fragments so far, and whether they are text.
    message: Option<Fragments>,
}

impl Unfinished {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.capacity() + self.message.as_ref().map_or(0, |message| message.data.capacity())
    }
}

#[derive(Debug)]
struct Fragments {
    is_text: bool,
    data: Vec<u8>,
    /// How much of `data` is known to be valid UTF-8.
    valid_bytes: usize,
}

/// Feeds what was read from a client to `on_event`, frame by frame. `input` is unmasked in
/// place. `unfinished` is created and dropped as needed: `None` for a connection that owes nothing.
/// `on_event` returns false to stop (the connection closes); what follows is then discarded.
pub fn decode(
    input: &mut [u8],
    unfinished: &mut Option<Box<Unfinished>>,
    message_bytes_max: usize,
    mut on_event: impl FnMut(Event<'_>) -> bool,
) -> Result<(), Violation> {
    let Some(mut kept) = unfinished.take() else {
        let mut message = None;
        let used = decode_frames(input, &mut message, message_bytes_max, &mut on_event)?;
        let rest = input.get(used..).unwrap_or_default();
        if !rest.is_empty() || message.is_some() {
            *unfinished = Some(Box::new(Unfinished { frame: rest.to_vec(), message }));
        }
        return Ok(());
    };
    if kept.frame.is_empty() {
        let used = decode_frames(input, &mut kept.message, message_bytes_max, &mut on_event)?;
        kept.frame.extend_from_slice(input.get(used..).unwrap_or_default());
    } else {
        kept.frame.extend_from_slice(input);
        let mut whole = std::mem::take(&mut kept.frame);
        let used = decode_frames(&mut whole, &mut kept.message, message_bytes_max, &mut on_event)?;
        // What is left keeps no more room than it needs: it may be the start of a long wait.
        kept.frame = if used == 0 { whole } else { whole.split_off(used) };
    }
    if !kept.frame.is_empty() || kept.message.is_some() {
        *unfinished = Some(kept);
    }
    Ok(())
}

/// Decodes all complete frames of `input` and returns how many bytes they took.
fn decode_frames(
    input: &mut [u8],
    message: &mut Option<Fragments>,
    message_bytes_max: usize,
    on_event: &mut impl FnMut(Event<'_>) -> bool,
) -> Result<usize, Violation> {
    let mut used = 0;
    loop {
        let Some(rest) = input.get_mut(used..).filter(|rest| !rest.is_empty()) else {
            return Ok(used);
        };
        let mut cursor = Cursor::new(&*rest);
        let Ok(parsed) = FrameHeader::parse(&mut cursor) else {
            return Err(protocol("reserved opcode"));
        };
        let Some((header, length)) = parsed else { return Ok(used) };
        let header_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let held = message.as_ref().map_or(0, |message| message.data.len());
        let (mask, length) = check_header(&header, length, held, message_bytes_max)?;
        let Some(payload) = rest.get_mut(header_bytes..header_bytes.saturating_add(length)) else {
            return Ok(used);
        };
        unmask(payload, mask);
        used += header_bytes + length;
        if !deliver(&header, payload, message, on_event)? {
            return Ok(input.len());
        }
    }
}

/// Refuses a frame by its header alone, before its payload is waited for.
fn check_header(
    header: &FrameHeader,
    length: u64,
    held: usize,
    message_bytes_max: usize,
) -> Result<([u8; 4], usize), Violation> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(protocol("reserved bit set without an extension"));
    }
    let Some(mask) = header.mask else { return Err(protocol("client frame is not masked")) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if let OpCode::Control(_) = header.opcode {
        if !header.is_final {
            return Err(protocol("fragmented control frame"));
        }
        if length > CONTROL_PAYLOAD_BYTES_MAX {
            return Err(protocol("control frame too long"));
        }
    } else if length.saturating_add(held) > message_bytes_max {
        return Err(TOO_BIG);
    }
    Ok((mask, length))
}

/// Hands on one frame; false = stop reading.
fn deliver(
    header: &FrameHeader,
    payload: &[u8],
    message: &mut Option<Fragments>,
    on_event: &mut impl FnMut(Event<'_>) -> bool,
) -> Result<bool, Violation> {
    match header.opcode {
        OpCode::Control(Control::Ping) => Ok(on_event(Event::Ping(payload))),
        OpCode::Control(Control::Pong) => Ok(on_event(Event::Pong)),
        OpCode::Control(_) => {
            on_event(Event::Close(close_code(payload)?));
            Ok(false)
        }
        OpCode::Data(Data::Continue) => {
            let Some(mut fragments) = message.take() else {
                return Err(protocol("continuation without a beginning"));
            };
            fragments.push(payload, header.is_final)?;
            if header.is_final {
                return fragments.finish(on_event);
            }
            *message = Some(fragments);
            Ok(on_event(Event::Fragment))
        }
        OpCode::Data(kind) => {
            if message.is_some() {
                return Err(protocol("new message inside a fragmented one"));
            }
            let is_text = kind == Data::Text;
            if header.is_final {
                return emit(is_text, payload, on_event);
            }
            let mut fragments = Fragments { is_text, data: Vec::new(), valid_bytes: 0 };
            fragments.push(payload, false)?;
            *message = Some(fragments);
            Ok(on_event(Event::Fragment))
        }
    }
}

impl Fragments {
    /// Adds a fragment; text is checked as far as it goes, so that bad text fails at once.
    fn push(&mut self, payload: &[u8], is_final: bool) -> Result<(), Violation> {
        self.data.extend_from_slice(payload);
        if !self.is_text {
            return Ok(());
        }
        match std::str::from_utf8(self.data.get(self.valid_bytes..).unwrap_or_default()) {
            Ok(_) => self.valid_bytes = self.data.len(),
            Err(error) if error.error_len().is_none() && !is_final => {
                self.valid_bytes += error.valid_up_to();
            }
            Err(_) => return Err(INVALID_UTF8),
        }
        Ok(())
    }

    fn finish(self, on_event: &mut impl FnMut(Event<'_>) -> bool) -> Result<bool, Violation> {
        emit(self.is_text, &self.data, on_event)
    }
}

fn emit(
    is_text: bool,
    payload: &[u8],
    on_event: &mut impl FnMut(Event<'_>) -> bool,
) -> Result<bool, Violation> {
    if !is_text {
        return Ok(on_event(Event::Binary(payload)));
    }
    std::str::from_utf8(payload).map_or(Err(INVALID_UTF8), |text| Ok(on_event(Event::Text(text))))
}

/// The code of a close frame's payload (RFC 6455 section 5.5.1).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(protocol("close code cut short")) };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(protocol("close code not allowed"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(INVALID_UTF8);
    }
    Ok(Some(code))
}

/// Applies the client's mask in place (RFC 6455 section 5.3), eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests;
