//! `Idempotency-Key`: the same key answers the first response again and sends nothing.
//!
//! **Runs on**: the router's thread. **Owns**: the answers of the last 24 hours, in memory and,
//! with a store, on disk. **Never**: sends twice for one key while its answer is known; sends
//! under two names for one key where only a crash or a failure hid the answer.

mod answered;
mod clock;
mod log;
mod record;
mod recovery;
mod store;
mod writer;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ara_shards::base::id::NotificationId;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use uuid::Uuid;

use super::{HttpResponse, json_bytes};
use crate::refusal::{Code, Refusal};
use crate::supervise::{Supervisor, spawn_unsupervised};
use answered::{Answered, Attempt, Begin, Name};
use record::RequestRecord;
pub use store::ResponseStore;
use writer::LogWriter;

/// The longest key.
const KEY_BYTES_MAX: usize = 128;

/// The request's key, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<Box<str>>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| {
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    });
    text.map(|text| Some(text.into())).ok_or_else(|| {
        let sentence = "`Idempotency-Key` is 1 to 128 visible ASCII characters";
        Refusal::field("Idempotency-Key", sentence)
    })
}

/// What a key stands for.
pub(super) struct Request<'a> {
    pub(super) tenant: &'a Arc<str>,
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
}

impl Request<'_> {
    fn digest(&self) -> [u8; 32] {
        digest_of(self.path, self.body)
    }
}

fn digest_of(path: &str, body: &[u8]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(path.len() + body.len() + 1);
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    let mut array = [0; 32];
    array.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    array
}

/// The known keys and, if they outlive the process, their store.
#[derive(Debug)]
pub(super) struct StoredResponses {
    answered: RefCell<Answered>,
    writer: Option<Rc<LogWriter>>,
}

impl StoredResponses {
    /// With a store, what it holds; without, nothing yet. On a runtime for local tasks.
    pub(super) fn new(store: Option<ResponseStore>, supervisor: &Supervisor) -> Rc<Self> {
        let Some(store) = store else {
            return Rc::new(Self { answered: RefCell::default(), writer: None });
        };
        let ResponseStore { log, remembered, next_serial, clock, bell, wake } = store;
        let answered = Answered::recovered(remembered, next_serial, Instant::now());
        let writer = Some(LogWriter::start(log, clock, (bell, wake), supervisor));
        Rc::new(Self { answered: RefCell::new(answered), writer })
    }

    /// Ends the store, if there is one. Blocks, for the disk only.
    pub(super) fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    /// Does `work` once for a key. Refusals are not remembered: nothing was sent, so it may be
    /// tried again. The work goes on when its caller hangs up: the next one with the key hears the
    /// answer. With a store, `work` hears under which name to send.
    pub(super) async fn once<W>(
        self: &Rc<Self>,
        key: Option<Box<str>>,
        request: &Request<'_>,
        work: impl FnOnce(Option<NotificationId>) -> W + 'static,
    ) -> Result<HttpResponse, Refusal>
    where
        W: Future<Output = Result<HttpResponse, Refusal>> + 'static,
    {
        let Some(key) = key else { return work(None).await };
        let name = (Arc::clone(request.tenant), key);
        let claim = match self.begin(name, request.digest())? {
            Start::Serve(claim) => claim,
            Start::Repeat(reply) => return Ok(reply),
        };
        let task = spawn_unsupervised(claim.see_through(work));
        task.await.unwrap_or_else(|_panicked| {
            Err(Refusal::new(Code::Internal, "the request was not finished; it may have been sent"))
        })
    }

    /// Claims a key, or repeats its answer.
    fn begin(self: &Rc<Self>, name: Name, digest: [u8; 32]) -> Result<Start, Refusal> {
        let now = Instant::now();
        let mut answered = self.answered.borrow_mut();
        if let Some(below) = answered.forget_old(now)
            && let Some(writer) = &self.writer
        {
            writer.change(|log| log.forget(below));
        }
        Ok(match answered.begin(&name, digest, now)? {
            Begin::Known(status, body) => {
                let mut reply = json_bytes(status, body.to_vec());
                let value = HeaderValue::from_static("true");
                reply.headers_mut().insert("idempotent-replayed", value);
                Start::Repeat(reply)
            }
            Begin::Serve(serial, former) => {
                let kept = self.writer.as_ref().map(|writer| Kept {
                    writer: Rc::clone(writer),
                    attempt: former.unwrap_or_else(|| Attempt::new(writer)),
                    digest,
                });
                // A repeated attempt that is refused does not undo the first.
                let refused = if former.is_some() { Ending::Unknown } else { Ending::NothingSent };
                let answers = Rc::clone(self);
                let ending = Ending::Unknown;
                Start::Serve(Claim { answers, name, serial, kept, refused, ending })
            }
        })
    }
}

impl Attempt {
    fn new(writer: &LogWriter) -> Self {
        Self { id: NotificationId(*Uuid::now_v7().as_bytes()), since_ms: writer.now_ms() }
    }
}

/// What is done about a request.
enum Start {
    Serve(Claim),
    Repeat(HttpResponse),
}

/// A key whose request is under way; settled however that ends.
struct Claim {
    answers: Rc<StoredResponses>,
    name: Name,
    serial: u64,
    /// With a store.
    kept: Option<Kept>,
    /// What a refusal means.
    refused: Ending,
    ending: Ending,
}

struct Kept {
    writer: Rc<LogWriter>,
    attempt: Attempt,
    digest: [u8; 32],
}

/// How a request ends.
#[derive(Clone, Copy)]
enum Ending {
    /// With an answer.
    Answered,
    /// Refused before anything was sent.
    NothingSent,
    /// It may have been sent.
    Unknown,
}

impl Claim {
    async fn see_through<W>(
        mut self,
        work: impl FnOnce(Option<NotificationId>) -> W,
    ) -> Result<HttpResponse, Refusal>
    where
        W: Future<Output = Result<HttpResponse, Refusal>>,
    {
        if let Some(kept) = &self.kept {
            // Before anything is sent: whoever asks again after a crash sends by the same name.
            kept.writer.keep(|log| log.begin(&self.head(kept))).await;
        }
        let reply = match work(self.kept.as_ref().map(|kept| kept.attempt.id)).await {
            Ok(reply) => reply,
            Err(refusal) => {
                if refusal.code != Code::Internal {
                    self.ending = self.refused;
                }
                return Err(refusal);
            }
        };
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if let Some(kept) = &self.kept {
            let put = |log: &mut log::Log| log.answer(&self.head(kept), parts.status, &body);
            kept.writer.keep(put).await;
        }
        self.finish(parts.status, &body);
        Ok(HttpResponse::from_parts(parts, Full::new(body)))
    }

    fn finish(&mut self, status: StatusCode, body: &Bytes) {
        self.answers.answered.borrow_mut().finish(&self.name, self.serial, status, body);
        self.ending = Ending::Answered;
    }

    fn head<'a>(&'a self, kept: &Kept) -> RequestRecord<'a> {
        RequestRecord {
            serial: self.serial,
            since_ms: kept.attempt.since_ms,
            id: kept.attempt.id,
            digest: kept.digest,
            tenant: &self.name.0,
            key: &self.name.1,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut answered = self.answers.answered.borrow_mut();
        match (self.ending, &self.kept) {
            (Ending::Answered, _) => {}
            (Ending::Unknown, Some(kept)) => {
                answered.interrupt(&self.name, self.serial, kept.attempt);
            }
            (Ending::NothingSent, Some(kept)) => {
                answered.abandon(&self.name, self.serial);
                kept.writer.change(|log| log.abandon(self.serial));
            }
            // Without a name of its own an attempt cannot be told from another.
            (Ending::NothingSent | Ending::Unknown, None) => {
                answered.abandon(&self.name, self.serial);
            }
        }
    }
}

#[cfg(test)]
mod tests;
