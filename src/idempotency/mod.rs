//! `Idempotency-Key`: the same key answers the first response again and sends nothing.
//!
//! **Runs on**: the router's thread. **Owns**: the responses of the last 24 hours, in memory and,
//! with a store, on disk. **Never**: sends twice for one key while its response is known; sends
//! under two ids for one key where only a crash or a failure hid the response; knows what is sent.

mod clock;
mod keys;
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
use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http::StatusCode;
use uuid::Uuid;

use crate::refusal::{Code, Refusal};
use crate::supervise::{Supervisor, spawn_unsupervised};
use keys::{Attempt, Begin, KnownKeys, OwnedKey};
use record::{RequestRecord, Serial};
pub use store::ResponseStore;
use writer::LogWriter;

/// The longest key.
const KEY_BYTES_MAX: usize = 128;
/// What a key is, for error messages.
pub const KEY_RULE: &str = "is 1 to 128 visible ASCII characters";

/// What a caller repeats a request by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// The key of this text, if it may be one: see [`KEY_RULE`].
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_valid = (1..=KEY_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Self(text.into()))
    }
}

/// A request with a key.
#[derive(Debug)]
pub struct Request<'a> {
    /// Whose key it is.
    pub tenant: &'a Arc<str>,
    /// Its key.
    pub key: Key,
    /// Where it goes.
    pub path: &'a str,
    /// What it says.
    pub body: &'a [u8],
}

/// What a request was answered: all that is needed to answer it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its JSON.
    pub body: Bytes,
}

/// A response, and whether it is the first one again.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// What to answer.
    pub response: Response,
    /// Whether nothing was done for it.
    pub is_repeated: bool,
}

/// Of path and body: what must be the same where the key is.
type Digest = [u8; 32];

impl Request<'_> {
    fn digest(&self) -> Digest {
        let mut context = digest::Context::new(&SHA256);
        context.update(self.path.as_bytes());
        context.update(b"\n");
        context.update(self.body);
        let digest = context.finish();
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The known keys and, if they outlive the process, their store.
#[derive(Debug)]
pub struct StoredResponses {
    keys: RefCell<KnownKeys>,
    writer: Option<Rc<LogWriter>>,
}

impl StoredResponses {
    /// With a store, what it holds; without, nothing yet. On a runtime for local tasks.
    #[must_use]
    pub fn new(store: Option<ResponseStore>, supervisor: &Supervisor) -> Rc<Self> {
        let Some(store) = store else {
            return Rc::new(Self { keys: RefCell::default(), writer: None });
        };
        let ResponseStore { log, known, next_serial, clock, bell } = store;
        let keys = KnownKeys::recovered(known, next_serial, Instant::now());
        let writer = Some(LogWriter::start(log, clock, bell, supervisor));
        Rc::new(Self { keys: RefCell::new(keys), writer })
    }

    /// Ends the store, if there is one. Blocks, for the disk only.
    pub fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    /// Does `work` once for a key. Refusals are not remembered: nothing was sent, so it may be
    /// tried again. The work goes on when its caller hangs up: the next one with the key hears the
    /// response. With a store, `work` hears under which id to send.
    ///
    /// # Errors
    ///
    /// `work` was refused, or the key is in use for another request or for this one.
    pub async fn once<W>(
        self: &Rc<Self>,
        request: Request<'_>,
        work: impl FnOnce(Option<NotificationId>) -> W + 'static,
    ) -> Result<Reply, Refusal>
    where
        W: Future<Output = Result<Response, Refusal>> + 'static,
    {
        let digest = request.digest();
        let key = OwnedKey { tenant: Arc::clone(request.tenant), key: request.key };
        let claim = match self.begin(key, digest)? {
            Start::Serve(claim) => claim,
            Start::Repeat(response) => return Ok(Reply { response, is_repeated: true }),
        };
        let task = spawn_unsupervised(claim.serve(work));
        let served = task.await.unwrap_or_else(|_panicked| {
            Err(Refusal::new(Code::Internal, "the request was not finished; it may have been sent"))
        });
        served.map(|response| Reply { response, is_repeated: false })
    }

    /// Claims a key, or repeats its response.
    fn begin(self: &Rc<Self>, key: OwnedKey, digest: Digest) -> Result<Start, Refusal> {
        let now = Instant::now();
        let mut keys = self.keys.borrow_mut();
        if let Some(below) = keys.forget_old(now)
            && let Some(writer) = &self.writer
        {
            writer.change(|log| log.forget(below));
        }
        Ok(match keys.begin(&key, digest, now)? {
            Begin::Known(response) => Start::Repeat(response),
            Begin::Serve(serial, former) => {
                let on_disk = self.writer.as_ref().map(|writer| OnDisk {
                    writer: Rc::clone(writer),
                    attempt: former.unwrap_or_else(|| Attempt::new(writer)),
                    digest,
                });
                // A repeated attempt that is refused does not undo the first.
                let refused = if former.is_some() { Ending::Unknown } else { Ending::NothingSent };
                let responses = Rc::clone(self);
                let ending = Ending::Unknown;
                Start::Serve(Claim { responses, key, serial, on_disk, refused, ending })
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
    Repeat(Response),
}

/// A key whose request is under way. However that ends, `drop` says what the key stands for then.
struct Claim {
    responses: Rc<StoredResponses>,
    key: OwnedKey,
    serial: Serial,
    /// With a store.
    on_disk: Option<OnDisk>,
    /// What a refusal means.
    refused: Ending,
    ending: Ending,
}

/// What a claim writes to the store.
struct OnDisk {
    writer: Rc<LogWriter>,
    attempt: Attempt,
    digest: Digest,
}

/// How a request ends.
#[derive(Clone, Copy)]
enum Ending {
    /// With a response.
    Answered,
    /// Refused before anything was sent.
    NothingSent,
    /// It may have been sent.
    Unknown,
}

impl Claim {
    async fn serve<W>(
        mut self,
        work: impl FnOnce(Option<NotificationId>) -> W,
    ) -> Result<Response, Refusal>
    where
        W: Future<Output = Result<Response, Refusal>>,
    {
        if let Some(on_disk) = &self.on_disk {
            // Before anything is sent: whoever asks again after a crash sends by the same id.
            on_disk.writer.persist(|log| log.begin(&self.record(on_disk))).await;
        }
        let response = match work(self.on_disk.as_ref().map(|on_disk| on_disk.attempt.id)).await {
            Ok(response) => response,
            Err(refusal) => {
                if refusal.code != Code::Internal {
                    self.ending = self.refused;
                }
                return Err(refusal);
            }
        };
        if let Some(on_disk) = &self.on_disk {
            let answer = |log: &mut log::Log| log.answer(&self.record(on_disk), &response);
            on_disk.writer.persist(answer).await;
        }
        self.responses.keys.borrow_mut().finish(&self.key, self.serial, &response);
        self.ending = Ending::Answered;
        Ok(response)
    }

    fn record<'a>(&'a self, on_disk: &OnDisk) -> RequestRecord<'a> {
        RequestRecord {
            serial: self.serial,
            since_ms: on_disk.attempt.since_ms,
            id: on_disk.attempt.id,
            digest: on_disk.digest,
            tenant: &self.key.tenant,
            key: &self.key.key.0,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut keys = self.responses.keys.borrow_mut();
        match (self.ending, &self.on_disk) {
            (Ending::Answered, _) => {}
            (Ending::Unknown, Some(on_disk)) => {
                keys.interrupt(&self.key, self.serial, on_disk.attempt);
            }
            (Ending::NothingSent, Some(on_disk)) => {
                keys.abandon(&self.key, self.serial);
                on_disk.writer.change(|log| log.abandon(self.serial));
            }
            // Without an id of its own an attempt cannot be told from another.
            (Ending::NothingSent | Ending::Unknown, None) => {
                keys.abandon(&self.key, self.serial);
            }
        }
    }
}

#[cfg(test)]
mod tests;
