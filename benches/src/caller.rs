//! One keep-alive connection to the HTTP API. Owns its socket and the requests that await their
//! responses, in order, so that it can pipeline; knows no sequence numbers.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use serde::Deserialize;

use crate::arrivals::SEQ_DIGITS;
use crate::http::{self, Body, Chunks};

/// The gateway's answer to one publish.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) caller: usize,
    pub(crate) delivered_to: u64,
    pub(crate) failed: u64,
    /// It waits for a user: of several, for at least one.
    pub(crate) queued: bool,
    /// The gateway had no room for it.
    pub(crate) refused: bool,
    pub(crate) took: Duration,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Verdict {
    /// On one notification.
    One {
        delivered_to: u64,
        failed: u64,
        #[serde(default)]
        queued: bool,
    },
    /// On a batch.
    Batch { summary: Summary },
}

#[derive(Deserialize)]
struct Summary {
    total_delivered: u64,
    failed: u64,
}

#[derive(Debug)]
pub(crate) struct Caller {
    stream: TcpStream,
    connected: bool,
    out: Vec<u8>,
    partial: Vec<u8>,
    waiting: VecDeque<Instant>,
    /// Whether an answer that there is no room is one like others.
    may_be_refused: bool,
}

impl Caller {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            connected: false,
            out: Vec::new(),
            partial: Vec::new(),
            waiting: VecDeque::new(),
            may_be_refused: false,
        }
    }

    /// Takes it from now on that the gateway has no room at times.
    pub(crate) const fn allow_refusals(&mut self) {
        self.may_be_refused = true;
    }

    pub(crate) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(crate) fn idle(&self) -> bool {
        self.connected && self.waiting.is_empty()
    }

    pub(crate) fn post(&mut self, request: &[u8]) -> Result<(), String> {
        self.out.extend_from_slice(request);
        self.waiting.push_back(Instant::now());
        if self.connected { self.flush() } else { Ok(()) }
    }

    pub(crate) fn on_writable(&mut self) -> Result<(), String> {
        if !self.connected {
            if let Ok(Some(error)) | Err(error) = self.stream.take_error() {
                return Err(format!("connecting a caller: {error}"));
            }
            self.connected = self.stream.peer_addr().is_ok();
        }
        if self.connected { self.flush() } else { Ok(()) }
    }

    pub(crate) fn on_readable(
        &mut self,
        number: usize,
        buffer: &mut [u8],
        answers: &mut Vec<Answer>,
    ) -> Result<(), String> {
        loop {
            let bytes = match self.stream.read(buffer) {
                Ok(0) => return Err("the gateway closed a caller's connection".to_owned()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("reading a response: {error}")),
            };
            self.partial.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
            while let Some(answer) = self.next_answer(number)? {
                answers.push(answer);
            }
            if bytes < buffer.len() {
                return Ok(());
            }
        }
    }

    fn next_answer(&mut self, caller: usize) -> Result<Option<Answer>, String> {
        if self.partial.is_empty() {
            return Ok(None);
        }
        let Some(head) = http::read_head(&self.partial)? else { return Ok(None) };
        let rest = self.partial.get(head.bytes..).unwrap_or_default();
        let mut decoded = Vec::new();
        let (body, used) = match head.body {
            Body::Length(length) => match rest.get(..length) {
                Some(body) => (body, length),
                None => return Ok(None),
            },
            Body::Chunked => {
                let mut chunks = Chunks::new();
                let used = chunks.feed(rest, &mut decoded)?;
                if !chunks.done() {
                    return Ok(None);
                }
                (decoded.as_slice(), used)
            }
            Body::UntilClose => return Err("a response without a length".to_owned()),
        };
        let bad = |why: &str| {
            format!(
                "a publish was answered {}, {why}: {}",
                head.status,
                String::from_utf8_lossy(body)
            )
        };
        let refused = head.status == 503 && self.may_be_refused;
        if head.status != 200 && !refused {
            return Err(bad("not 200"));
        }
        let verdict = match refused {
            true => Verdict::One { delivered_to: 0, failed: 0, queued: false },
            false => serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))?,
        };
        let Some(asked) = self.waiting.pop_front() else {
            return Err(bad("without a request"));
        };
        self.partial.drain(..head.bytes + used);
        let (delivered_to, failed, queued) = match verdict {
            Verdict::One { delivered_to, failed, queued } => (delivered_to, failed, queued),
            Verdict::Batch { summary } => (summary.total_delivered, summary.failed, false),
        };
        let took = asked.elapsed();
        Ok(Some(Answer { caller, delivered_to, failed, queued, refused, took }))
    }

    fn flush(&mut self) -> Result<(), String> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(bytes) => drop(self.out.drain(..bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("writing a request: {error}")),
            }
        }
        Ok(())
    }
}

/// Builds the publishing requests of one run.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) key: String,
    /// Whom requests act for, where the gateway keeps tenants apart.
    pub(crate) tenant: Option<&'static str>,
    /// Length of the JSON in `payload`; below [`NUMBERED_BYTES`] without a sequence number.
    pub(crate) payload_bytes: usize,
}

impl Api {
    pub(crate) fn to_channel(&self, channel: &str, seq: u32) -> Vec<u8> {
        self.request("channel", &format!(r#""channel":"{channel}""#), seq)
    }

    pub(crate) fn to_user(&self, number: u32, seq: u32) -> Vec<u8> {
        self.request("send", &format!(r#""target_user_id":"u{number}""#), seq)
    }

    /// To a user by a template, whose payload is then that of a plain one.
    pub(crate) fn to_user_by(&self, template: &Template, number: u32, seq: u32) -> Vec<u8> {
        let Template { variables, .. } = template;
        let body = format!(
            r#"{{"target_user_id":"u{number}","template_id":"bench","variables":{{"seq":"{seq:0SEQ_DIGITS$}"{variables}}}}}"#
        );
        self.post("send", &body)
    }

    /// To each of these users one of its own, numbered from `seq` on, in one request.
    pub(crate) fn to_each(&self, numbers: &[u32], seq: u32) -> Vec<u8> {
        let mut items = String::new();
        for (number, seq) in numbers.iter().zip(seq..) {
            let comma = if items.is_empty() { "" } else { "," };
            let payload = self.payload(seq);
            items += &format!(
                r#"{comma}{{"target":{{"type":"user","value":"u{number}"}},"event_type":"bench","payload":{payload}}}"#
            );
        }
        self.post("batch", &format!(r#"{{"notifications":[{items}]}}"#))
    }

    /// To all of these at once, waiting at most `ttl` seconds where it is given.
    pub(crate) fn to_users(&self, users: &Users, seq: u32, ttl: Option<u32>) -> Vec<u8> {
        let ttl = ttl.map_or(String::new(), |ttl| format!(r#","ttl":{ttl}"#));
        let target = format!(r#""target_user_ids":[{}]{ttl}"#, users.0);
        self.request("send-to-users", &target, seq)
    }

    /// To everyone, which never waits for anybody.
    pub(crate) fn to_all(&self, seq: u32) -> Vec<u8> {
        self.request("broadcast", r#""source":"http-api""#, seq)
    }

    fn request(&self, path: &str, target: &str, seq: u32) -> Vec<u8> {
        let body = format!(r#"{{{target},"event_type":"bench","payload":{}}}"#, self.payload(seq));
        self.post(path, &body)
    }

    fn post(&self, path: &str, body: &str) -> Vec<u8> {
        let tenant =
            self.tenant.map_or(String::new(), |tenant| format!("X-Tenant-ID: {tenant}\r\n"));
        format!(
            "POST /api/v1/notifications/{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\n\
             {tenant}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.key,
            body.len(),
        )
        .into_bytes()
    }

    /// `payload_bytes` of JSON, with the sequence number as far as there is room for it.
    fn payload(&self, seq: u32) -> String {
        if self.payload_bytes < NUMBERED_BYTES {
            return format!(r#""{}""#, "x".repeat(self.payload_bytes.saturating_sub(2)));
        }
        if self.payload_bytes < PAYLOAD_BYTES_MIN {
            return format!(r#"{{"ara_seq":"{seq:0SEQ_DIGITS$}"}}"#);
        }
        let pad = "x".repeat(self.payload_bytes - PAYLOAD_BYTES_MIN);
        format!(r#"{{"ara_seq":"{seq:0SEQ_DIGITS$}","pad":"{pad}"}}"#)
    }
}

/// A template that gives the payload of a plain trigger: the number, and a text with variables in it.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// What makes it.
    pub(crate) definition: String,
    /// All variables but the number, as members that follow it.
    variables: String,
}

impl Template {
    /// For payloads of `payload_bytes`, which have room for so many variables beside the number.
    pub(crate) fn new(payload_bytes: usize, variables: usize) -> Self {
        let text_bytes = payload_bytes - PAYLOAD_BYTES_MIN - variables * VARIABLE_BYTES;
        let (mut text, mut members) = (String::new(), String::new());
        let mut left = text_bytes;
        for number in 0..variables {
            let part = left / (variables - number + 1);
            left -= part;
            text += &format!("{}{{{{v{number}}}}}", "x".repeat(part));
            members += &format!(r#","v{number}":"{}""#, "y".repeat(VARIABLE_BYTES));
        }
        text += &"x".repeat(left);
        let definition = format!(
            r#"{{"id":"bench","event_type":"bench","payload_template":{{"ara_seq":"{{{{seq}}}}","pad":"{text}"}}}}"#
        );
        Self { definition, variables: members }
    }
}

/// The length of each variable of a [`Template`] but the number.
pub(crate) const VARIABLE_BYTES: usize = 8;

/// The users of a trigger to many, written once for all its repetitions.
#[derive(Clone, Debug)]
pub(crate) struct Users(String);

impl Users {
    /// `count` users from number `first` on.
    pub(crate) fn new(first: u32, count: u32) -> Self {
        let names: Vec<String> =
            (first..first + count).map(|number| format!(r#""u{number}""#)).collect();
        Self(names.join(","))
    }
}

/// A payload of the sequence number alone.
pub(crate) const NUMBERED_BYTES: usize = r#"{"ara_seq":"00000000"}"#.len();
/// The JSON of a notification to a user, as the client gets it, without its payload.
pub(crate) const ENVELOPE_BYTES: usize = concat!(
    r#"{"type":"notification","id":"00000000-0000-7000-8000-000000000000","#,
    r#""occurred_at":"2026-01-01T00:00:00.000Z","event_type":"bench","payload":,"#,
    r#""metadata":{"source":"http-api","priority":"Normal"}}"#
)
.len();
/// A payload with an empty `pad`.
pub(crate) const PAYLOAD_BYTES_MIN: usize = r#"{"ara_seq":"00000000","pad":""}"#.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_gives_as_many_bytes_as_a_plain_payload_has() {
        for (payload_bytes, variables) in [(150, 4), (150, 0), (PAYLOAD_BYTES_MIN + 8, 1)] {
            let template = Template::new(payload_bytes, variables);
            let json: serde_json::Value = serde_json::from_str(&template.definition).expect("JSON");
            let text = json.get("payload_template").expect("a payload").to_string();
            let holes = text.matches("{{v").count();
            assert_eq!(holes, variables);
            let names = variables * "{{v0}}".len() + "{{seq}}".len();
            let filled = text.len() - names + variables * VARIABLE_BYTES + SEQ_DIGITS;
            assert_eq!(filled, payload_bytes);
        }
    }

    #[test]
    fn payloads_are_json_of_exactly_the_length_asked_for() {
        for payload_bytes in [PAYLOAD_BYTES_MIN, 150, 4096] {
            let api = Api { key: "k".to_owned(), tenant: None, payload_bytes };
            let payload = api.payload(42);
            assert_eq!(payload.len(), payload_bytes);
            let json: serde_json::Value = serde_json::from_str(&payload).expect("JSON");
            assert_eq!(json.get("ara_seq").and_then(|seq| seq.as_str()), Some("00000042"));
        }
        for payload_bytes in [3, 21, NUMBERED_BYTES] {
            let payload = Api { key: "k".to_owned(), tenant: None, payload_bytes }.payload(42);
            assert_eq!(payload.len(), payload_bytes);
            let json: serde_json::Value = serde_json::from_str(&payload).expect("JSON");
            assert_eq!(json.is_object(), payload_bytes == NUMBERED_BYTES);
        }
    }
}
