//! The part of RESP2 that a server sends to a subscriber: status lines, errors and flat arrays.
//!
//! **Runs on**: the router. **Owns**: the bytes received and not yet handled. **Never**: does I/O,
//! nor holds more than one frame of the largest allowed size: what is larger is skipped as it
//! arrives.
//!
//! The redis crate's own subscriber puts every message into an unbounded queue of its background
//! task. Here a message is taken out of the receive buffer when the gateway is ready for it, so a
//! flood waits in the kernel and in Redis, whose own limits apply.

use bytes::{Buf, Bytes, BytesMut};

use super::message::MESSAGE_BYTES_MAX;

/// The largest name in a frame (kind, pattern, channel): several times the longest valid channel,
/// `notification:user:` and 128 bytes.
const NAME_BYTES_MAX: usize = 1024;
/// The longest line: a status, an error, or the number in a header.
const LINE_BYTES_MAX: usize = 1024;
/// `pmessage`, the longest array, has four elements.
const ELEMENTS_MAX: usize = 4;
/// Free space to have before a read, and the size the buffer shrinks back to after a large frame.
const BUFFER_BYTES: usize = 16 * 1024;

/// The first byte of a TLS alert, which a TLS server answers to plain text.
const TLS_ALERT: u8 = 21;

/// One reply or message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A message on a channel, by subscription or by pattern.
    Message {
        /// The channel it was published on.
        channel: Bytes,
        /// What was published.
        payload: Bytes,
    },
    /// A message larger than allowed. Its bytes were skipped.
    Oversize,
    /// A subscription was confirmed.
    Subscribed,
    /// The answer to a ping.
    Pong,
    /// A command succeeded.
    Okay,
    /// A command was refused, with the server's words (cut to a line's bound).
    Refused(String),
}

/// Why the bytes are not valid RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// The receive buffer; see the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    skip: Option<Skip>,
}

/// The rest of a frame that is too large.
#[derive(Debug, Clone, Copy)]
struct Skip {
    /// Bytes of the element now being skipped, its line end included.
    bytes: usize,
    /// Elements after it.
    elements: usize,
}

/// One element's header, read at some offset.
enum Header {
    /// A bulk string of `bytes` bytes that start at `at`.
    Bulk { at: usize, bytes: usize },
    /// A number, whole in its header; the next element starts at `next`.
    Number { next: usize },
}

impl Frames {
    /// The buffer to read into, with room for the next read.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && self.buffer.capacity() > 4 * BUFFER_BYTES {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(BUFFER_BYTES);
        &mut self.buffer
    }

    /// Takes the next whole frame out of the buffer; `None` where more bytes are needed.
    pub(super) fn take(&mut self) -> Result<Option<Frame>, Malformed> {
        if let Some(skip) = self.skip {
            return self.take_skipped(skip);
        }
        let Some(&first) = self.buffer.first() else { return Ok(None) };
        match first {
            b'*' => self.take_array(),
            b'+' | b'-' => {
                let Some((line, next)) = line_at(&self.buffer, 1)? else { return Ok(None) };
                let frame = if first == b'+' {
                    Frame::Okay
                } else {
                    Frame::Refused(String::from_utf8_lossy(line).into_owned())
                };
                self.buffer.advance(next);
                Ok(Some(frame))
            }
            TLS_ALERT => Err(Malformed("the port speaks TLS: write rediss:// in redis.url")),
            _ => Err(Malformed("not a reply of a Redis server")),
        }
    }

    fn take_array(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some((line, mut at)) = line_at(&self.buffer, 1)? else { return Ok(None) };
        let count = number(line)?;
        if count == 0 || count > ELEMENTS_MAX {
            return Err(Malformed("an array of unexpected length"));
        }
        // Where each element's bytes lie.
        let mut spans = [(0, 0); ELEMENTS_MAX];
        for (index, span) in spans.iter_mut().take(count).enumerate() {
            let last = index + 1 == count;
            let (start, bytes) = match header_at(&self.buffer, at)? {
                None => return Ok(None),
                Some(Header::Number { next }) => {
                    at = next;
                    continue;
                }
                Some(Header::Bulk { at, bytes }) => (at, bytes),
            };
            if bytes > if last { MESSAGE_BYTES_MAX } else { NAME_BYTES_MAX } {
                self.buffer.advance(start);
                let skip = Skip { bytes: bytes.saturating_add(2), elements: count - index - 1 };
                return self.take_skipped(skip);
            }
            at = start + bytes + 2;
            if self.buffer.len() < at {
                return Ok(None);
            }
            if self.buffer.get(at - 2..at) != Some(b"\r\n") {
                return Err(Malformed("a bulk string without its end"));
            }
            *span = (start, start + bytes);
        }
        let frame = self.buffer.split_to(at).freeze();
        let spans = spans.map(|(start, end)| frame.slice(start..end));
        array_frame(count, spans).map(Some)
    }

    /// Skips the bytes that have arrived of a frame that is too large.
    fn take_skipped(&mut self, mut skip: Skip) -> Result<Option<Frame>, Malformed> {
        loop {
            let now = skip.bytes.min(self.buffer.len());
            self.buffer.advance(now);
            skip.bytes -= now;
            self.skip = Some(skip);
            if skip.bytes > 0 {
                return Ok(None);
            }
            if skip.elements == 0 {
                self.skip = None;
                return Ok(Some(Frame::Oversize));
            }
            match header_at(&self.buffer, 0)? {
                None => return Ok(None),
                Some(Header::Bulk { at, bytes }) => {
                    skip.bytes = at.saturating_add(bytes).saturating_add(2);
                }
                Some(Header::Number { next }) => skip.bytes = next,
            }
            skip.elements -= 1;
        }
    }
}

fn array_frame(count: usize, [kind, one, two, three]: [Bytes; 4]) -> Result<Frame, Malformed> {
    match (kind.as_ref(), count) {
        (b"message", 3) => Ok(Frame::Message { channel: one, payload: two }),
        (b"pmessage", 4) => Ok(Frame::Message { channel: two, payload: three }),
        (b"subscribe" | b"psubscribe", 3) => Ok(Frame::Subscribed),
        (b"pong", 2) => Ok(Frame::Pong),
        (b"unsubscribe" | b"punsubscribe", 3) => Err(Malformed("the server ended a subscription")),
        _ => Err(Malformed("an array that is no message")),
    }
}

fn header_at(buffer: &[u8], at: usize) -> Result<Option<Header>, Malformed> {
    let Some(&first) = buffer.get(at) else { return Ok(None) };
    let Some((line, next)) = line_at(buffer, at + 1)? else { return Ok(None) };
    match first {
        b'$' => Ok(Some(Header::Bulk { at: next, bytes: number(line)? })),
        b':' => Ok(Some(Header::Number { next })),
        _ => Err(Malformed("an element that is neither text nor number")),
    }
}

/// The line that starts at `at`, without its end, and where the next one starts.
fn line_at(buffer: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let rest = buffer.get(at..).unwrap_or_default();
    let window = rest.get(..LINE_BYTES_MAX + 2).unwrap_or(rest);
    let end = window.windows(2).position(|pair| pair == b"\r\n");
    match end.and_then(|end| window.get(..end)) {
        Some(line) => Ok(Some((line, at + line.len() + 2))),
        None if rest.len() > LINE_BYTES_MAX + 1 => Err(Malformed("a line without an end")),
        None => Ok(None),
    }
}

fn number(line: &[u8]) -> Result<usize, Malformed> {
    let digits = std::str::from_utf8(line)
        .ok()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Malformed("a length that is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulks(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    fn drain(frames: &mut Frames) -> Result<Vec<Frame>, Malformed> {
        let mut taken = Vec::new();
        while let Some(frame) = frames.take()? {
            taken.push(frame);
        }
        Ok(taken)
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
        let mut frames = Frames::default();
        frames.room().extend_from_slice(bytes);
        drain(&mut frames)
    }

    fn message(channel: &'static [u8], payload: &'static [u8]) -> Frame {
        Frame::Message {
            channel: Bytes::from_static(channel),
            payload: Bytes::from_static(payload),
        }
    }

    /// One of everything, with a message that is too large and one exactly at the bound.
    fn everything() -> (Vec<u8>, Vec<Frame>) {
        let bound = vec![b'x'; MESSAGE_BYTES_MAX];
        let over = vec![b'x'; MESSAGE_BYTES_MAX + 1];
        let long_name = [b'n'; NAME_BYTES_MAX + 1];
        let bytes = [
            b"+OK\r\n-NOAUTH who are you\r\n".to_vec(),
            b"*3\r\n$10\r\npsubscribe\r\n$1\r\np\r\n:1\r\n".to_vec(),
            bulks(&[b"message", b"b", b"one"]),
            bulks(&[b"message", b"b", &over]),
            bulks(&[b"pmessage", b"p", &long_name, b"two"]),
            bulks(&[b"pmessage", b"p", b"c", b"a\r\nb"]),
            bulks(&[b"message", b"b", &bound]),
            bulks(&[b"message", b"", b""]),
            bulks(&[b"pong", b""]),
        ]
        .concat();
        let frames = vec![
            Frame::Okay,
            Frame::Refused("NOAUTH who are you".into()),
            Frame::Subscribed,
            message(b"b", b"one"),
            Frame::Oversize,
            Frame::Oversize,
            message(b"c", b"a\r\nb"),
            Frame::Message { channel: Bytes::from_static(b"b"), payload: bound.into() },
            message(b"", b""),
            Frame::Pong,
        ];
        (bytes, frames)
    }

    #[test]
    fn reads_one_of_everything() {
        let (bytes, expected) = everything();
        assert!(parse(&bytes) == Ok(expected));
    }

    #[test]
    fn refuses_what_no_redis_server_says() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\x15\x03\x03\x00\x02",
            b"*0\r\n",
            b"*5\r\n",
            b"*-1\r\n",
            b"*+3\r\n",
            b"*3\r\n$-1\r\n",
            b"*3\r\n*1\r\n",
            b"*2\r\n$1\r\nxyz\r\n",
            b"*99999999999999999999\r\n",
            &bulks(&[b"message", b"b"]),
            &bulks(&[b"unsubscribe", b"b", b"x"]),
            &[b'+'; LINE_BYTES_MAX + 3],
        ] {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_frame_of_any_claimed_size_is_skipped_without_being_held() {
        let mut frames = Frames::default();
        frames.room().extend_from_slice(b"*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$536870912\r\n");
        let piece = [b'x'; BUFFER_BYTES];
        for _ in 0..536_870_912 / BUFFER_BYTES {
            assert_eq!(frames.take(), Ok(None));
            frames.room().extend_from_slice(&piece);
            assert!(frames.buffer.capacity() <= 4 * BUFFER_BYTES);
        }
        frames.room().extend_from_slice(b"\r\n+OK\r\n");
        assert_eq!(drain(&mut frames), Ok(vec![Frame::Oversize, Frame::Okay]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_of_any_size_give_the_same_frames(sizes in proptest::collection::vec(1usize..200_000, 1..60)) {
            let (bytes, expected) = everything();
            let (mut frames, mut taken, mut rest) = (Frames::default(), Vec::new(), &bytes[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                frames.room().extend_from_slice(piece);
                taken.extend(drain(&mut frames).unwrap());
                rest = tail;
            }
            prop_assert!(taken == expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _unread = parse(&bytes);
        }

        #[test]
        fn bytes_like_a_servers_never_panic(text in r"([*$:+-]-?[0-9]{0,3}\r?\n?[a-z]{0,8}\r?\n?){0,30}") {
            let _unread = parse(text.as_bytes());
        }
    }
}
