//! The HTTP side of an event stream: its response head, and a refusal that an `EventSource` survives.
//!
//! **Runs on**: doors and the router. **Owns**: nothing. **Never**: refuses for good by a stream:
//! who must mend something first gets a status.

use std::ops::Range;

use ara_shards::protocol::{Protocol, Transport, ara};
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{StatusCode, Version};

use crate::origin;
use crate::refusal::{Code, Refusal, date};

const MEDIA_TYPE: &str = "text/event-stream";

/// How a client is spoken to, and what its answers depend on.
#[derive(Debug, Clone)]
pub struct Responder {
    /// What is spoken with it.
    pub protocol: Protocol,
    /// The origin that may read the answer, if it came from a page that is allowed.
    pub cors_origin: Option<String>,
    /// Whether it is an `EventSource`, which never tries again after any status but 200.
    is_event_source: bool,
}

impl Responder {
    /// For a request that asks for this transport.
    #[must_use]
    pub fn new(parts: &Parts, transport: Transport, cors_origin: Option<String>) -> Self {
        let protocol = match transport {
            Transport::WebSocket => Protocol::AraWebSocket,
            Transport::Sse if parts.version == Version::HTTP_11 => Protocol::AraSseChunked,
            Transport::Sse => Protocol::AraSsePlain,
        };
        let is_event_source = transport == Transport::Sse && accepts_events(&parts.headers);
        Self { protocol, cors_origin, is_event_source }
    }

    /// The head of an endless event stream.
    ///
    /// - `no-transform`: a proxy that compresses what it passes would hold events back.
    /// - `charset`: without one some clients take `text/*` for Latin-1, as HTTP once had it.
    /// - `x-accel-buffering`: nginx then passes each event on as it comes.
    #[must_use]
    pub fn stream_head(&self) -> String {
        let is_chunked = self.protocol == Protocol::AraSseChunked;
        let chunked = if is_chunked { "transfer-encoding: chunked\r\n" } else { "" };
        let (date, cors) = (date(), origin::head_lines(self.cors_origin.as_deref()));
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {MEDIA_TYPE}; charset=utf-8\r\n\
             cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n\
             {chunked}connection: close\r\ndate: {date}\r\n{cors}\r\n"
        )
    }

    /// The whole response that refuses the client. What passes by itself is told to an
    /// `EventSource` as an `error` event with the time to come back; all else by its status.
    #[must_use]
    pub fn refusal(&self, refusal: &Refusal) -> Vec<u8> {
        match retry_ms(refusal).filter(|_| self.is_event_source) {
            Some(range) => self.refusing_stream(refusal, fastrand::u32(range)),
            None => refusal.response(self.cors_origin.as_deref()),
        }
    }

    fn refusing_stream(&self, refusal: &Refusal, retry_ms: u32) -> Vec<u8> {
        let (code, message) = (refusal.code.name(), &refusal.message);
        let mut bytes = self.stream_head().into_bytes();
        bytes.extend(ara::refusing_stream(self.protocol, code, message, retry_ms));
        bytes
    }
}

/// When to come back after a refusal that passes by itself, in milliseconds; each client at a time
/// of its own, so that those refused together do not return together.
fn retry_ms(refusal: &Refusal) -> Option<Range<u32>> {
    match refusal.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {}
        _ => return None,
    }
    Some(match refusal.code {
        // A lane is emptied within a second.
        Code::Overloaded => 1_000..3_000,
        // Others must leave first.
        Code::ConnectionLimit => 5_000..15_000,
        // A stop, and the start of the next process.
        _ => {
            let after_ms = retry_after_seconds(refusal).unwrap_or(2).saturating_mul(1_000);
            after_ms..after_ms.saturating_add(4_000)
        }
    })
}

/// What `Retry-After` of a refusal says, if it has one.
fn retry_after_seconds(refusal: &Refusal) -> Option<u32> {
    let (_, value) = refusal.headers.iter().find(|(name, _)| *name == "retry-after")?;
    value.parse().ok()
}

/// Whether a request asks for an event stream by name, as every `EventSource` does.
fn accepts_events(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|entry| {
        let media_type = entry.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responder(version: Version, accept: &str, transport: Transport) -> Responder {
        let request = http::Request::builder().version(version).header("accept", accept);
        let parts = request.body(()).unwrap().into_parts().0;
        Responder::new(&parts, transport, Some("https://a.example".to_owned()))
    }

    /// The event in a stream of one.
    fn event_of(version: Version, body: &str) -> &str {
        if version == Version::HTTP_10 {
            return body;
        }
        let (size, rest) = body.split_once("\r\n").unwrap();
        let event = rest.strip_suffix("\r\n0\r\n\r\n").expect("the last chunk");
        assert_eq!(usize::from_str_radix(size, 16), Ok(event.len()));
        event
    }

    #[test]
    fn what_passes_is_told_to_an_event_source_in_a_stream() {
        let codes = [
            (Code::ShuttingDown, 2_000..6_000),
            (Code::Overloaded, 1_000..3_000),
            (Code::ConnectionLimit, 5_000..15_000),
        ];
        for version in [Version::HTTP_11, Version::HTTP_10] {
            let accept = "text/html, Text/Event-Stream;q=0.9";
            let responder = responder(version, accept, Transport::Sse);
            for (code, pauses_ms) in codes.clone() {
                let text = responder.refusal(&Refusal::new(code, "not now"));
                let text = String::from_utf8(text).unwrap();
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                assert!(head.contains("\r\naccess-control-allow-origin: https://a.example"));
                assert_eq!(head.contains("transfer-encoding"), version == Version::HTTP_11);
                let (retry, event) = event_of(version, body).split_once('\n').unwrap();
                let pause_ms = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
                assert!(pauses_ms.contains(&pause_ms), "{pause_ms}");
                let name = code.name();
                let json = format!(r#"{{"type":"error","code":"{name}","message":"not now"}}"#);
                assert_eq!(event, format!("event: error\ndata: {json}\n\n"));
            }
        }
    }

    #[test]
    fn all_else_is_told_by_its_status() {
        let busy = Refusal::new(Code::Overloaded, "not now");
        let bad = Refusal::new(Code::Unauthorized, "no");
        for (accept, transport, refusal, status) in [
            ("*/*", Transport::Sse, &busy, "503"),
            ("text/*", Transport::Sse, &busy, "503"),
            (MEDIA_TYPE, Transport::WebSocket, &busy, "503"),
            (MEDIA_TYPE, Transport::Sse, &bad, "401"),
        ] {
            let text = responder(Version::HTTP_11, accept, transport).refusal(refusal);
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
            assert!(text.contains("\r\ncontent-type: application/json\r\n"), "{text}");
        }
    }
}
