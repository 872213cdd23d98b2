//! The little HTTP/1.1 the generator needs as a client: response heads, chunked bodies fed in
//! pieces, and one blocking GET for the moments when nothing is being measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::fault::{Context, Outcome, failed};

/// The key of RFC 6455's own example; a fixed one makes the expected answer a constant.
pub(crate) const WS_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What every correct server answers to [`WS_KEY`].
pub(crate) const WS_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    Length(usize),
    Chunked,
    UntilClose,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// `Sec-WebSocket-Accept` answered [`WS_KEY`].
    pub(crate) accepted: bool,
    /// Length of the head, the empty line included.
    pub(crate) bytes: usize,
}

/// Reads the response head at the front of `input`; `None` while it is not complete.
pub(crate) fn read_head(input: &[u8]) -> Result<Option<Head>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut fields);
    let bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not an HTTP response: {error}")),
    };
    let mut head = Head {
        status: response.code.unwrap_or_default(),
        body: Body::UntilClose,
        accepted: false,
        bytes,
    };
    for field in response.headers.iter() {
        let value = str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|error| format!("Content-Length: {error}"))?;
            head.body = Body::Length(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = Body::Chunked;
        } else if field.name.eq_ignore_ascii_case("sec-websocket-accept") {
            head.accepted = value == WS_ACCEPT;
        }
    }
    Ok(Some(head))
}

#[derive(Clone, Copy, Debug)]
enum ChunkPart {
    /// In the line that gives the next chunk's size.
    Size {
        so_far: usize,
        in_extension: bool,
    },
    Data {
        left: usize,
    },
    /// Before the line break that ends a chunk.
    End,
    /// After the last chunk; what is left of the line being read.
    Trailer {
        line_bytes: usize,
    },
    Done,
}

/// Decodes a chunked body fed in pieces of any size.
#[derive(Debug)]
pub(crate) struct Chunks {
    part: ChunkPart,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { part: ChunkPart::Size { so_far: 0, in_extension: false } }
    }

    pub(crate) fn done(&self) -> bool {
        matches!(self.part, ChunkPart::Done)
    }

    /// Appends the decoded bytes of `input` to `out`; returns how many it used, which is all of
    /// them until the body ends.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, String> {
        let mut rest = input;
        while let (false, Some((&byte, tail))) = (self.done(), rest.split_first()) {
            if let ChunkPart::Data { left } = self.part {
                let (data, tail) = rest.split_at(left.min(rest.len()));
                out.extend_from_slice(data);
                rest = tail;
                let left = left - data.len();
                self.part = if left == 0 { ChunkPart::End } else { ChunkPart::Data { left } };
            } else {
                rest = tail;
                self.part = self.step(byte)?;
            }
        }
        Ok(input.len() - rest.len())
    }

    fn step(&self, byte: u8) -> Result<ChunkPart, String> {
        Ok(match (self.part, byte) {
            (ChunkPart::Size { so_far: 0, .. }, b'\n') => ChunkPart::Trailer { line_bytes: 0 },
            (ChunkPart::Size { so_far, .. }, b'\n') => ChunkPart::Data { left: so_far },
            (ChunkPart::Size { so_far, .. }, b';' | b'\r') => {
                ChunkPart::Size { so_far, in_extension: true }
            }
            (part @ ChunkPart::Size { in_extension: true, .. }, _) => part,
            (ChunkPart::Size { so_far, .. }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or("a bad chunk size")?;
                let so_far = so_far.checked_mul(16).ok_or("a chunk too large")? + digit as usize;
                ChunkPart::Size { so_far, in_extension: false }
            }
            (ChunkPart::End, b'\r') => ChunkPart::End,
            (ChunkPart::End, b'\n') => ChunkPart::Size { so_far: 0, in_extension: false },
            (ChunkPart::End, _) => return Err("no line break after a chunk".to_owned()),
            (ChunkPart::Trailer { line_bytes: 0 }, b'\n') => ChunkPart::Done,
            (ChunkPart::Trailer { .. }, b'\n') => ChunkPart::Trailer { line_bytes: 0 },
            (part @ ChunkPart::Trailer { .. }, b'\r') => part,
            (ChunkPart::Trailer { line_bytes }, _) => {
                ChunkPart::Trailer { line_bytes: line_bytes + 1 }
            }
            (part @ (ChunkPart::Data { .. } | ChunkPart::Done), _) => part,
        })
    }
}

/// One GET on a connection of its own. For readiness and final checks, never inside a measurement.
pub(crate) fn get(address: SocketAddr, path: &str, api_key: &str) -> Outcome<(u16, Vec<u8>)> {
    ask(address, &format!("GET {path}"), api_key, "")
}

/// One POST of JSON on a connection of its own, to set up a measurement.
pub(crate) fn post(
    address: SocketAddr,
    path: &str,
    api_key: &str,
    body: &str,
) -> Outcome<(u16, Vec<u8>)> {
    ask(address, &format!("POST {path}"), api_key, body)
}

fn ask(address: SocketAddr, what: &str, api_key: &str, body: &str) -> Outcome<(u16, Vec<u8>)> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit).context("cannot connect")?;
    stream.set_read_timeout(Some(limit)).context("cannot set a read timeout")?;
    let of_body = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    let request = format!(
        "{what} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {api_key}\r\n{of_body}\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).context("cannot send a request")?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer).context("no complete response")?;
    match read_head(&answer) {
        Ok(Some(head)) => {
            let raw = answer.split_off(head.bytes);
            let mut body = Vec::new();
            if head.body == Body::Chunked {
                Chunks::new().feed(&raw, &mut body).context("a bad body")?;
            } else {
                body = raw;
            }
            Ok((head.status, body))
        }
        Ok(None) => failed(format!("{what}: the response ended in its head")),
        Err(why) => failed(format!("{what}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_head_only_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"a\":1}";
        assert_eq!(read_head(text.get(..20).expect("a prefix")), Ok(None));
        let head = read_head(text).expect("valid").expect("complete");
        assert_eq!((head.status, head.body, head.bytes), (200, Body::Length(12), 39));
    }

    #[test]
    fn knows_a_correct_upgrade() {
        let text = format!("HTTP/1.1 101 Switching\r\nsec-websocket-accept: {WS_ACCEPT}\r\n\r\n");
        assert!(read_head(text.as_bytes()).expect("valid").expect("complete").accepted);
    }

    #[test]
    fn decodes_chunks_cut_anywhere() {
        let wire = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for size in 1..wire.len() {
            let (mut chunks, mut out, mut used) = (Chunks::new(), Vec::new(), 0);
            for piece in wire.chunks(size) {
                used += chunks.feed(piece, &mut out).expect("valid");
            }
            assert!(chunks.done());
            assert_eq!(out, b"hello world");
            assert_eq!(used, wire.len() - 4);
        }
        assert!(Chunks::new().feed(b"xyz", &mut Vec::new()).is_err());
    }
}
