//! The request head, read by hand: bounded bytes, one deadline, nothing kept when it is done.
//!
//! **Runs on**: a shard's thread, in the door's short-lived tasks. **Owns**: at most
//! [`HEAD_BYTES_MAX`] of one client. **Never**: reads a body; waits beyond its caller's deadline.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::refusal::{Code, Refusal};

/// The longest request head: a token of 8 KiB in the query, and as much again of headers.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most header lines.
const HEADERS_MAX: usize = 64;

/// A parsed head, and how many of the bytes read it took.
#[derive(Debug)]
pub struct Head {
    /// Method, target and headers.
    pub parts: Parts,
    /// All bytes read.
    pub bytes: Vec<u8>,
    /// Where the head ends in `bytes`.
    pub end: usize,
}

/// Why there is no head.
#[derive(Debug)]
pub enum NoHead {
    /// The client left first.
    Gone,
    /// It is not acceptable HTTP/1.1; the client is told.
    Bad(Refusal),
}

/// Reads until the head is complete.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Head, NoHead> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let count = stream.read_buf(&mut bytes).await.map_err(|_broken| NoHead::Gone)?;
        if count == 0 {
            return Err(NoHead::Gone);
        }
        if let Some((parts, end)) = parse(&bytes).map_err(NoHead::Bad)? {
            return Ok(Head { parts, bytes, end });
        }
        if bytes.len() >= HEAD_BYTES_MAX {
            let sentence = format!("the request head is longer than {HEAD_BYTES_MAX} bytes");
            return Err(NoHead::Bad(Refusal::new(Code::HeadTooLarge, sentence)));
        }
    }
}

/// Parses a complete head; `None` while it is not complete.
pub fn parse(bytes: &[u8]) -> Result<Option<(Parts, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let end = match request.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            let sentence = format!("more than {HEADERS_MAX} header lines");
            return Err(Refusal::new(Code::HeadTooLarge, sentence));
        }
        Err(error) => return Err(bad(&error.to_string())),
    };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|error| bad(&error.to_string()))?;
    let uri: Uri =
        request.path.unwrap_or_default().parse().map_err(|_invalid| bad("invalid target"))?;
    let mut parts = Request::builder()
        .method(method)
        .uri(uri)
        .body(())
        .map_err(|error| bad(&error.to_string()))?
        .into_parts()
        .0;
    parts.version =
        if request.version == Some(1) { http::Version::HTTP_11 } else { http::Version::HTTP_10 };
    for header in request.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|error| bad(&error.to_string()))?;
        let value =
            HeaderValue::from_bytes(header.value).map_err(|error| bad(&error.to_string()))?;
        parts.headers.append(name, value);
    }
    Ok(Some((parts, end)))
}

fn bad(what: &str) -> Refusal {
    Refusal::new(Code::Validation, format!("not an HTTP/1.1 request: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_whole_and_no_further() {
        let bytes = b"GET /ws?token=a HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let (parts, end) = parse(bytes).unwrap().unwrap();
        assert_eq!(&bytes[end..], b"rest");
        assert_eq!(parts.uri.path(), "/ws");
        assert_eq!(parts.headers["host"], "x");
        assert!(parse(&bytes[..20]).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        let refusal = parse(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap_err();
        assert_eq!(refusal.code, Code::Validation);
    }
}
