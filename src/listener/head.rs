//! The request head, read by hand: bounded bytes, one deadline, nothing kept when it is done.
//!
//! There is one set of rules for every head, the first of a connection and every later one, at a
//! door and at the API: [`outline`] applies them, and [`parse`] as well.
//!
//! **Runs on**: a shard's thread, in the door's short-lived tasks, and the router's. **Owns**: at
//! most [`HEAD_BYTES_MAX`] of one client. **Never**: reads a body; waits beyond its caller's
//! deadline.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use httparse::Header;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::handshake::transport_at;
use crate::refusal::{Code, Refusal};

/// The longest request head: a token of 8 KiB in the query, and as much again of headers.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most header lines.
const HEADERS_MAX: usize = 64;
/// What a PROXY protocol header begins with: version 1 is a line of text, version 2 binary.
const PROXY_V1: &[u8] = b"PROXY ";
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of a TLS handshake.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// A parsed head, and how many of the bytes read it took.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target and headers.
    pub parts: Parts,
    /// All bytes read.
    pub bytes: Vec<u8>,
    /// Where the head ends in `bytes`.
    pub end: usize,
}

/// A head that is not acceptable.
#[derive(Debug)]
pub struct BadHead {
    /// What the sender is told.
    pub refusal: Refusal,
    /// What the operator is told, if something between us and the clients is set up wrongly.
    pub warning: Option<&'static str>,
}

impl From<Refusal> for BadHead {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, warning: None }
    }
}

/// Why there is no head.
#[derive(Debug)]
pub enum HeadError {
    /// The client left first.
    Gone,
    /// It is not acceptable HTTP/1.1; the client is told.
    Bad(BadHead),
}

/// How long the body is that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Bytes(u64),
    /// As the chunks say.
    Chunked,
}

/// What must be known of an acceptable head to hand its request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// How many bytes the head took.
    pub end: usize,
    /// The body behind it.
    pub body: BodyLength,
    /// Whether it asks for a WebSocket or an event stream.
    pub is_client: bool,
}

/// Reads until the head is complete, of which `bytes` have been read already.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
) -> Result<RequestHead, HeadError> {
    loop {
        if !bytes.is_empty()
            && let Some((parts, end)) = parse(&bytes).map_err(HeadError::Bad)?
        {
            return Ok(RequestHead { parts, bytes, end });
        }
        let count = stream.read_buf(&mut bytes).await.map_err(|_broken| HeadError::Gone)?;
        if count == 0 {
            return Err(HeadError::Gone);
        }
    }
}

/// Parses a complete head; `None` while it is not complete.
///
/// # Errors
///
/// It breaks a rule.
pub fn parse(bytes: &[u8]) -> Result<Option<(Parts, usize)>, BadHead> {
    examine(bytes, |request, uri, outline| {
        let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
            .map_err(|error| bad(&error.to_string()))?;
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri, parts.version) = (method, uri, version(request));
        for header in request.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|error| bad(&error.to_string()))?;
            let value =
                HeaderValue::from_bytes(header.value).map_err(|error| bad(&error.to_string()))?;
            parts.headers.append(name, value);
        }
        Ok((parts, outline.end))
    })
}

/// Examines a head as [`parse`] does, without keeping it; `None` while it is not complete.
///
/// # Errors
///
/// It breaks a rule.
pub fn outline(bytes: &[u8]) -> Result<Option<Outline>, BadHead> {
    examine(bytes, |_request, _uri, outline| Ok(outline))
}

/// Applies the rules of a head, and gives one that keeps them to `take`.
fn examine<T>(
    bytes: &[u8],
    take: impl FnOnce(&httparse::Request<'_, '_>, Uri, Outline) -> Result<T, Refusal>,
) -> Result<Option<T>, BadHead> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let end = match request.parse(bytes) {
        Ok(httparse::Status::Complete(end)) if end <= HEAD_BYTES_MAX => end,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) => {
            let sentence = format!("the request head is longer than {HEAD_BYTES_MAX} bytes");
            return Err(Refusal::new(Code::HeadTooLarge, sentence).into());
        }
        Err(httparse::Error::TooManyHeaders) => {
            let sentence = format!("more than {HEADERS_MAX} header lines");
            return Err(Refusal::new(Code::HeadTooLarge, sentence).into());
        }
        Err(error) => {
            return Err(other_protocol(bytes).unwrap_or_else(|| bad(&error.to_string()).into()));
        }
    };
    let target = request.path.unwrap_or_default();
    let uri: Uri = target.parse().map_err(|_invalid| bad("invalid target"))?;
    // A host alone is the target of CONNECT only (RFC 9112 section 3.2.3).
    if uri.path().is_empty() && request.method != Some("CONNECT") {
        return Err(bad("the target is not a path that begins with `/`").into());
    }
    check_host(&request)?;
    let body = body_length(&request)?;
    let is_client = transport_at(request.method.unwrap_or_default(), uri.path()).is_some();
    let taken = take(&request, uri, Outline { end, body, is_client })?;
    Ok(Some(taken))
}

fn version(request: &httparse::Request<'_, '_>) -> Version {
    if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 }
}

fn values<'a>(
    headers: &'a [Header<'_>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let named = move |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
    headers.iter().filter(named).map(|header| header.value)
}

/// Exactly one `Host`, which HTTP/1.0 may leave out (RFC 9112 section 3.2).
fn check_host(request: &httparse::Request<'_, '_>) -> Result<(), Refusal> {
    let mut hosts = values(request.headers, "host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (None, _) if request.version == Some(0) => Ok(()),
        (None, _) => Err(Refusal::field("Host", "HTTP/1.1 needs the header `Host`")),
        (Some(_), Some(_)) => Err(Refusal::field("Host", "more than one header `Host`")),
        (Some(_), None) => Err(Refusal::field("Host", "the header `Host` is not a host and port")),
    }
}

/// A host with or without a port; empty where the target has none (RFC 9110 section 7.2).
fn is_host(value: &[u8]) -> bool {
    value.is_empty() || (!value.contains(&b'@') && Authority::try_from(value).is_ok())
}

/// How long the body is (RFC 9112 section 6.3). What two readers might take for two lengths is
/// refused: what the first one reads as a body the other would read as the next request.
fn body_length(request: &httparse::Request<'_, '_>) -> Result<BodyLength, Refusal> {
    let mut codings = values(request.headers, "transfer-encoding");
    let mut lengths = values(request.headers, "content-length");
    let length = match lengths.next() {
        None => None,
        Some(text) if lengths.all(|other| other == text) => match parse_length(text) {
            Some(length) => Some(length),
            None => return Err(bad("invalid Content-Length")),
        },
        Some(_) => return Err(bad("several lengths in Content-Length")),
    };
    match (codings.next(), codings.next()) {
        (None, _) => Ok(BodyLength::Bytes(length.unwrap_or(0))),
        (Some(_), _) if length.is_some() => {
            Err(bad("both Content-Length and Transfer-Encoding say how long the body is"))
        }
        (Some(coding), None)
            if coding.eq_ignore_ascii_case(b"chunked") && request.version == Some(1) =>
        {
            Ok(BodyLength::Chunked)
        }
        _ => Err(bad("the only Transfer-Encoding understood is `chunked`, in HTTP/1.1")),
    }
}

/// Digits only; no real body comes near the bound, and sums with it cannot overflow.
fn parse_length(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?;
    digits.parse().ok().filter(|length| *length <= u64::MAX / 2)
}

fn bad(what: &str) -> Refusal {
    Refusal::new(Code::Validation, format!("not an HTTP/1.1 request: {what}"))
}

/// Whether these bytes are a PROXY protocol header. That of version 2 begins with empty lines.
pub fn begins_proxy_header(bytes: &[u8]) -> bool {
    bytes.starts_with(PROXY_V1) || bytes.starts_with(PROXY_V2)
}

/// What it is, where the bytes are plainly those of another protocol.
fn other_protocol(bytes: &[u8]) -> Option<BadHead> {
    let refuse = |sentence| Refusal::new(Code::Validation, sentence);
    if begins_proxy_header(bytes) {
        let sentence = "this is a PROXY protocol header, which is not expected here: set \
                        server.proxy_protocol = true (which is about the address of clients), or \
                        switch it off for this backend at the proxy or load balancer (`send-proxy` in HAProxy, `proxy_protocol on` in nginx, the \
                        target group's attribute at AWS)";
        return Some(BadHead { refusal: refuse(sentence), warning: Some(sentence) });
    }
    if bytes.starts_with(TLS_HANDSHAKE) {
        let sentence = "this is a TLS handshake, and this port speaks plain HTTP: use http:// or \
                        ws://, or put a proxy that ends TLS before it";
        return Some(refuse(sentence).into());
    }
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        return Some(refuse("this is HTTP/2, and HTTP/1.1 is what is spoken here").into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> Refusal {
        parse(bytes).unwrap_err().refusal
    }

    #[test]
    fn a_head_is_taken_whole_and_no_further() {
        let bytes = b"GET /ws?token=a HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let (parts, end) = parse(bytes).unwrap().unwrap();
        assert_eq!(&bytes[end..], b"rest");
        assert_eq!(parts.uri.path(), "/ws");
        assert_eq!(parts.headers["host"], "x");
        let body = BodyLength::Bytes(0);
        assert_eq!(outline(bytes).unwrap(), Some(Outline { end, body, is_client: true }));
        assert!(parse(&bytes[..20]).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        assert_eq!(refusal(b"hello\r\n\r\n").code, Code::Validation);
        assert!(refusal(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").message.contains("TLS"));
        assert!(refusal(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").message.contains("HTTP/2"));
    }

    #[test]
    fn a_target_is_a_path_or_a_whole_address() {
        for (line, is_good) in [
            ("GET /a?b", true),
            ("GET http://x/a", true),
            ("GET http://x", true),
            ("OPTIONS *", true),
            ("CONNECT x:1", true),
            ("GET x", false),
            ("GET a/b", false),
            ("GET ?a", false),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(outline(head.as_bytes()).is_ok(), is_good, "{line}");
        }
    }

    #[test]
    fn a_proxy_protocol_header_is_called_by_its_name() {
        let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x13\x88\0\x50GET";
        for bytes in [v1.as_slice(), v2] {
            let bad = parse(bytes).unwrap_err();
            assert!(bad.warning.is_some_and(|warning| warning.contains("PROXY protocol")));
            assert!(bad.refusal.message.contains("PROXY protocol"));
        }
        assert!(
            parse(b"PROXY /x HTTP/1.1\r\nHost: x\r\n\r\n").is_ok(),
            "a method may be called so"
        );
    }

    #[test]
    fn the_limits_of_a_head_are_exact() {
        let head = |bytes: usize| {
            let shell = "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(bytes - shell))
        };
        assert!(parse(head(HEAD_BYTES_MAX).as_bytes()).unwrap().is_some());
        assert_eq!(refusal(head(HEAD_BYTES_MAX + 1).as_bytes()).code, Code::HeadTooLarge);
        assert_eq!(refusal(&[b'G'; HEAD_BYTES_MAX]).code, Code::HeadTooLarge);
        let lines = |count: usize| {
            format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(count - 1))
        };
        assert!(parse(lines(HEADERS_MAX).as_bytes()).unwrap().is_some());
        assert_eq!(refusal(lines(HEADERS_MAX + 1).as_bytes()).code, Code::HeadTooLarge);
    }

    #[test]
    fn there_is_exactly_one_host_and_it_is_one() {
        for (line, version, is_good) in [
            ("Host: ara.example:8081\r\n", 1, true),
            ("hOST: [::1]:80\r\n", 1, true),
            ("Host:\r\n", 1, true),
            ("", 0, true),
            ("", 1, false),
            ("Host: a\r\nHost: a\r\n", 1, false),
            ("Host: a\r\nHost: b\r\n", 0, false),
            ("Host: a b\r\n", 1, false),
            ("Host: user@a\r\n", 1, false),
            ("Host: a/b\r\n", 1, false),
        ] {
            let head = format!("GET / HTTP/1.{version}\r\n{line}\r\n");
            assert_eq!(outline(head.as_bytes()).is_ok(), is_good, "{head:?}");
        }
    }

    #[test]
    fn the_length_of_a_body_has_one_meaning_or_none() {
        use BodyLength::{Bytes, Chunked};
        for (lines, expected) in [
            ("", Some(Bytes(0))),
            ("Content-Length: 12\r\n", Some(Bytes(12))),
            ("Content-Length: 12\r\ncontent-length: 12\r\n", Some(Bytes(12))),
            ("Transfer-Encoding: Chunked\r\n", Some(Chunked)),
            ("Content-Length: 1\r\nContent-Length: 2\r\n", None),
            ("Content-Length: 1, 1\r\n", None),
            ("Content-Length: -1\r\n", None),
            ("Content-Length: +1\r\n", None),
            ("Content-Length:\r\n", None),
            ("Content-Length: 18446744073709551615\r\n", None),
            ("Transfer-Encoding: gzip, chunked\r\n", None),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", None),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            let found = outline(head.as_bytes()).ok().flatten().map(|outline| outline.body);
            assert_eq!(found, expected, "{lines:?}");
        }
        assert!(outline(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
