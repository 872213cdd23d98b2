//! The keys that are known and what they were answered, in memory.
//!
//! **Runs on**: the router's thread. **Owns**: the answers of the last 24 hours, so many at most.
//! **Never**: reads a clock; lets a second request begin while one with its key is under way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use ara_shards::base::id::NotificationId;
use bytes::Bytes;
use http::StatusCode;

use crate::refusal::{Code, Refusal};

/// How long an answer is remembered.
pub(super) const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// The most answers remembered; then the oldest goes. At some 600 bytes each, 60 MB.
pub(super) const ANSWERS_MAX: usize = 100_000;
/// The most bytes of all remembered answers: those of large triggers are larger.
pub(super) const BYTES_MAX: usize = 64 * 1024 * 1024;

/// A tenant and its key.
pub(super) type Name = (Arc<str>, Box<str>);

/// The remembered answers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Answered {
    by_name: AHashMap<Name, Entry>,
    /// With the serial of each, which tells it from a later one of the same name, and its end.
    order: VecDeque<(Name, u64, Instant)>,
    bytes: usize,
    next_serial: u64,
}

#[derive(Debug)]
struct Entry {
    /// Of path and body.
    digest: [u8; 32],
    serial: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    UnderWay,
    Unanswered(Attempt),
    Answered(StatusCode, Bytes),
}

/// A request of which it is not known whether anything was sent: by this name, if so.
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
    /// To repeat this answer.
    Known(StatusCode, Bytes),
    /// To serve it; it is under way from now on. With an attempt: once more, as that one.
    Serve(u64, Option<Attempt>),
}

/// A request that a former process knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) name: Name,
    pub(super) digest: [u8; 32],
    pub(super) serial: u64,
    pub(super) attempt: Attempt,
    pub(super) answer: Option<(StatusCode, Bytes)>,
    /// How long ago it began.
    pub(super) age: Duration,
}

impl Answered {
    /// What a former process knew, oldest first. New serials begin at `next_serial`.
    pub(super) fn recovered(found: Vec<Remembered>, next_serial: u64, now: Instant) -> Self {
        let mut answered = Self { next_serial, ..Self::default() };
        for Remembered { name, digest, serial, attempt, answer, age } in found {
            answered.bytes += answer.as_ref().map_or(0, |(_, body)| body.len());
            let state = answer
                .map_or(State::Unanswered(attempt), |(status, body)| State::Answered(status, body));
            answered.by_name.insert(name.clone(), Entry { digest, serial, state });
            answered.order.push_back((name, serial, now + REMEMBERED.saturating_sub(age)));
        }
        answered
    }

    /// What is to be done about a request with this key.
    pub(super) fn begin(
        &mut self,
        name: &Name,
        digest: [u8; 32],
        now: Instant,
    ) -> Result<Begin, Refusal> {
        let Some(entry) = self.by_name.get_mut(name) else {
            let serial = self.next_serial;
            self.next_serial = serial.saturating_add(1);
            self.by_name.insert(name.clone(), Entry { digest, serial, state: State::UnderWay });
            self.order.push_back((name.clone(), serial, now + REMEMBERED));
            return Ok(Begin::Serve(serial, None));
        };
        if entry.digest != digest {
            let sentence = "this Idempotency-Key was used with another request";
            return Err(Refusal::new(Code::IdempotencyConflict, sentence));
        }
        match std::mem::replace(&mut entry.state, State::UnderWay) {
            State::Unanswered(attempt) => Ok(Begin::Serve(entry.serial, Some(attempt))),
            State::Answered(status, body) => {
                entry.state = State::Answered(status, body.clone());
                Ok(Begin::Known(status, body))
            }
            State::UnderWay => {
                let sentence = "the first request with this Idempotency-Key is still under way";
                Err(Refusal::new(Code::IdempotencyConflict, sentence)
                    .with_header("retry-after", "1"))
            }
        }
    }

    pub(super) fn finish(&mut self, name: &Name, serial: u64, status: StatusCode, body: &Bytes) {
        if let Some(state) = self.under_way(name, serial) {
            *state = State::Answered(status, body.clone());
            self.bytes += body.len();
        }
    }

    /// What was sent is not known: the key stands for this attempt.
    pub(super) fn interrupt(&mut self, name: &Name, serial: u64, attempt: Attempt) {
        if let Some(state) = self.under_way(name, serial) {
            *state = State::Unanswered(attempt);
        }
    }

    /// Nothing was sent: the key is free again.
    pub(super) fn abandon(&mut self, name: &Name, serial: u64) {
        if self.under_way(name, serial).is_some() {
            self.by_name.remove(name);
        }
    }

    /// Forgets what is too old or too much, oldest first. Returns the serial below which nothing
    /// is remembered any more, if that has changed.
    pub(super) fn forget_old(&mut self, now: Instant) -> Option<u64> {
        let mut below = None;
        while let Some((name, serial, until)) = self.order.front() {
            let too_many = self.order.len() > ANSWERS_MAX || self.bytes > BYTES_MAX;
            if !too_many && now < *until {
                break;
            }
            let is_this = self.by_name.get(name).is_some_and(|entry| entry.serial == *serial);
            if is_this
                && let Some(entry) = self.by_name.remove(name)
                && let State::Answered(_, body) = entry.state
            {
                self.bytes -= body.len();
            }
            below = Some(serial.saturating_add(1));
            self.order.pop_front();
        }
        below
    }

    fn under_way(&mut self, name: &Name, serial: u64) -> Option<&mut State> {
        let entry = self.by_name.get_mut(name).filter(|entry| entry.serial == serial)?;
        matches!(entry.state, State::UnderWay).then_some(&mut entry.state)
    }
}
