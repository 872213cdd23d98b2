//! `Idempotency-Key`: the same key answers the first response again and sends nothing.
//!
//! **Runs on**: the router's thread. **Owns**: the answers of the last 24 hours, so many at most.
//! **Never**: sends twice for one key while its answer is known.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use tokio::task::spawn_local;

use super::{Reply, json_bytes};
use crate::refusal::{Code, Refusal};

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// The most answers remembered; then the oldest goes. At some 600 bytes each, 60 MB.
const ANSWERS_MAX: usize = 100_000;
/// The most bytes of all remembered answers: those of large triggers are larger.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest key.
const KEY_BYTES_MAX: usize = 128;

type Name = (Arc<str>, Box<str>);

/// The remembered answers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Answered {
    by_name: AHashMap<Name, Entry>,
    order: VecDeque<(Name, Instant)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// Of path and body.
    digest: [u8; 32],
    since: Instant,
    /// `None` while the first request is under way.
    answer: Option<(StatusCode, Bytes)>,
}

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

/// Does `work` once for a key. Refusals are not remembered: nothing was sent, so it may be tried
/// again. The work goes on when its caller hangs up: the next one with the key hears the answer.
pub(super) async fn once(
    answered: &Rc<RefCell<Answered>>,
    key: Option<Box<str>>,
    request: &Request<'_>,
    work: impl Future<Output = Result<Reply, Refusal>> + 'static,
) -> Result<Reply, Refusal> {
    let Some(key) = key else { return work.await };
    let name = (Arc::clone(request.tenant), key);
    if let Some(reply) = answered.borrow_mut().begin(&name, request.digest())? {
        return Ok(reply);
    }
    let claim = Claim { answered: Rc::clone(answered), name };
    let task = spawn_local(async move {
        let (parts, body) = work.await?.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        claim.answered.borrow_mut().finish(&claim.name, parts.status, &body);
        Ok(Reply::from_parts(parts, Full::new(body)))
    });
    task.await.unwrap_or_else(|_panicked| {
        Err(Refusal::new(Code::Internal, "the request was not finished; it may have been sent"))
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

/// A key whose first request is under way; given up if that ends without an answer.
struct Claim {
    answered: Rc<RefCell<Answered>>,
    name: Name,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.answered.borrow_mut().abandon(&self.name);
    }
}

impl Answered {
    /// The answer known for a key, or `None` after noting that the request is under way.
    fn begin(&mut self, name: &Name, digest: [u8; 32]) -> Result<Option<Reply>, Refusal> {
        self.forget_old();
        match self.by_name.get(name) {
            Some(entry) if entry.digest != digest => {
                let sentence = "this Idempotency-Key was used with another request";
                Err(Refusal::new(Code::IdempotencyConflict, sentence))
            }
            Some(Entry { answer: Some((status, body)), .. }) => {
                let mut reply = json_bytes(*status, body.to_vec());
                let value = HeaderValue::from_static("true");
                reply.headers_mut().insert("idempotent-replayed", value);
                Ok(Some(reply))
            }
            Some(_under_way) => {
                let sentence = "the first request with this Idempotency-Key is still under way";
                Err(Refusal::new(Code::IdempotencyConflict, sentence)
                    .with_header("retry-after", "1"))
            }
            None => {
                let since = Instant::now();
                self.by_name.insert(name.clone(), Entry { digest, since, answer: None });
                self.order.push_back((name.clone(), since));
                Ok(None)
            }
        }
    }

    fn finish(&mut self, name: &Name, status: StatusCode, body: &Bytes) {
        if let Some(entry) = self.by_name.get_mut(name) {
            self.bytes += body.len();
            entry.answer = Some((status, body.clone()));
        }
    }

    fn abandon(&mut self, name: &Name) {
        if self.by_name.get(name).is_some_and(|entry| entry.answer.is_none()) {
            self.by_name.remove(name);
        }
    }

    fn forget_old(&mut self) {
        while let Some((name, since)) = self.order.front() {
            let too_many = self.order.len() > ANSWERS_MAX || self.bytes > BYTES_MAX;
            if !too_many && since.elapsed() < REMEMBERED {
                return;
            }
            let is_this = self.by_name.get(name).is_some_and(|entry| entry.since == *since);
            if is_this && let Some(entry) = self.by_name.remove(name) {
                self.bytes -= entry.answer.map_or(0, |(_, body)| body.len());
            }
            self.order.pop_front();
        }
    }
}
