//! The keys that are known and what their requests were answered, in memory.
//!
//! **Runs on**: the router's thread. **Owns**: the responses of the last 24 hours, so many at most.
//! **Never**: reads a clock; lets a second request begin while one with its key is under way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use ara_shards::base::id::NotificationId;

use super::record::Serial;
use super::{Digest, Key, Response};
use crate::refusal::{Code, Refusal};

/// How long a response is remembered.
pub(super) const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// The most responses remembered; then the oldest goes. At some 600 bytes each, 60 MB.
pub(super) const RESPONSES_MAX: usize = 100_000;
/// The most bytes of all remembered responses: those of large triggers are larger.
pub(super) const BYTES_MAX: usize = 64 * 1024 * 1024;

/// A key, which belongs to a tenant: that of another is another key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OwnedKey {
    pub(super) tenant: Arc<str>,
    pub(super) key: Key,
}

/// The known keys, oldest first.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    by_key: AHashMap<OwnedKey, Entry>,
    /// With the serial of each, which tells it from a later request with the same key, and its end.
    order: VecDeque<(OwnedKey, Serial, Instant)>,
    /// Of all bodies that are remembered.
    bytes: usize,
    next_serial: Serial,
}

#[derive(Debug)]
struct Entry {
    digest: Digest,
    serial: Serial,
    state: State,
}

#[derive(Debug)]
enum State {
    UnderWay,
    Unanswered(Attempt),
    Answered(Response),
}

/// A request of which it is not known whether anything was sent: under this id, if so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The notification's.
    pub(super) id: NotificationId,
    /// When it began, by the store's clock.
    pub(super) since_ms: u64,
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// To repeat this response.
    Known(Response),
    /// To serve it; it is under way from now on. With an attempt: once more, as that one.
    Serve(Serial, Option<Attempt>),
}

/// A request that a former process knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownRequest {
    pub(super) key: OwnedKey,
    pub(super) digest: Digest,
    pub(super) serial: Serial,
    pub(super) attempt: Attempt,
    pub(super) response: Option<Response>,
    /// How long ago it began.
    pub(super) age: Duration,
}

impl KnownKeys {
    /// What a former process knew, oldest first. New serials begin at `next_serial`.
    pub(super) fn recovered(found: Vec<KnownRequest>, next_serial: Serial, now: Instant) -> Self {
        let mut keys = Self { next_serial, ..Self::default() };
        for KnownRequest { key, digest, serial, attempt, response, age } in found {
            keys.bytes += response.as_ref().map_or(0, |response| response.body.len());
            let state = response.map_or(State::Unanswered(attempt), State::Answered);
            keys.by_key.insert(key.clone(), Entry { digest, serial, state });
            keys.order.push_back((key, serial, now + REMEMBERED.saturating_sub(age)));
        }
        keys
    }

    /// What is to be done about a request with this key.
    pub(super) fn begin(
        &mut self,
        key: &OwnedKey,
        digest: Digest,
        now: Instant,
    ) -> Result<Begin, Refusal> {
        let Some(entry) = self.by_key.get_mut(key) else {
            let serial = self.next_serial;
            self.next_serial = serial.next();
            self.by_key.insert(key.clone(), Entry { digest, serial, state: State::UnderWay });
            self.order.push_back((key.clone(), serial, now + REMEMBERED));
            return Ok(Begin::Serve(serial, None));
        };
        if entry.digest != digest {
            let sentence = "this Idempotency-Key was used with another request";
            return Err(Refusal::new(Code::IdempotencyConflict, sentence));
        }
        match std::mem::replace(&mut entry.state, State::UnderWay) {
            State::Unanswered(attempt) => Ok(Begin::Serve(entry.serial, Some(attempt))),
            State::Answered(response) => {
                entry.state = State::Answered(response.clone());
                Ok(Begin::Known(response))
            }
            State::UnderWay => {
                let sentence = "the first request with this Idempotency-Key is still under way";
                Err(Refusal::new(Code::IdempotencyConflict, sentence)
                    .with_header("retry-after", "1"))
            }
        }
    }

    /// It was answered so. Nothing happens if it was forgotten meanwhile, as below.
    pub(super) fn finish(&mut self, key: &OwnedKey, serial: Serial, response: &Response) {
        if let Some(state) = self.under_way(key, serial) {
            *state = State::Answered(response.clone());
            self.bytes += response.body.len();
        }
    }

    /// What was sent is not known: the key stands for this attempt.
    pub(super) fn interrupt(&mut self, key: &OwnedKey, serial: Serial, attempt: Attempt) {
        if let Some(state) = self.under_way(key, serial) {
            *state = State::Unanswered(attempt);
        }
    }

    /// Nothing was sent: the key is free again.
    pub(super) fn abandon(&mut self, key: &OwnedKey, serial: Serial) {
        if self.under_way(key, serial).is_some() {
            self.by_key.remove(key);
        }
    }

    /// Forgets what is too old or too much, oldest first. Returns the serial below which nothing
    /// is remembered any more, if that has changed.
    pub(super) fn forget_old(&mut self, now: Instant) -> Option<Serial> {
        let mut below = None;
        while let Some((key, serial, until)) = self.order.front() {
            let too_many = self.order.len() > RESPONSES_MAX || self.bytes > BYTES_MAX;
            if !too_many && now < *until {
                break;
            }
            let is_this = self.by_key.get(key).is_some_and(|entry| entry.serial == *serial);
            if is_this
                && let Some(entry) = self.by_key.remove(key)
                && let State::Answered(response) = entry.state
            {
                self.bytes -= response.body.len();
            }
            below = Some(serial.next());
            self.order.pop_front();
        }
        below
    }

    fn under_way(&mut self, key: &OwnedKey, serial: Serial) -> Option<&mut State> {
        let entry = self.by_key.get_mut(key).filter(|entry| entry.serial == serial)?;
        matches!(entry.state, State::UnderWay).then_some(&mut entry.state)
    }
}
