//! From the records of a former process to what is remembered of it.
//!
//! **Runs on**: main, while the store opens. **Owns**: what was read so far.
//! **Never**: does I/O or reads a clock; fails because of what it reads.
//!
//! A beginning and an answer are told apart from those of other requests by their serial, so it
//! matters neither in which order copies come nor how often.

use std::collections::BTreeMap;
use std::time::Duration;

use ahash::AHashSet;
use ara_shards::journal::Position;
use bytes::Bytes;

use super::keys::{Attempt, BYTES_MAX, KnownRequest, OwnedKey, REMEMBERED, RESPONSES_MAX};
use super::record::{Record, RequestRecord, Serial};
use super::{Digest, Key, Response};

/// Where the records of one request are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) begun: Option<Position>,
    pub(super) answered: Option<Position>,
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    requests: BTreeMap<Serial, Request>,
    /// The latest time anything speaks of.
    latest_ms: u64,
    floor: Serial,
    next_serial: Serial,
    dead: Vec<Position>,
    unknown: u64,
}

#[derive(Debug)]
struct Request {
    key: OwnedKey,
    digest: Digest,
    attempt: Attempt,
    response: Option<Response>,
    places: Places,
}

/// What a former process leaves behind.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// What is remembered, oldest first.
    pub(super) known: Vec<KnownRequest>,
    /// Where the records are: of what is remembered, and of what is forgotten now.
    pub(super) places: BTreeMap<Serial, Places>,
    /// To be released: copies, what notes declare dead, what nobody can read.
    pub(super) dead: Vec<Position>,
    /// Everything below is forgotten.
    pub(super) floor: Serial,
    /// Requests whose key has been used again since.
    pub(super) replaced: Vec<Serial>,
    /// The time, by a clock that never goes back.
    pub(super) now_ms: u64,
    /// The first serial that was never used.
    pub(super) next_serial: Serial,
    /// Records of a kind or version that this program does not know.
    pub(super) unknown: u64,
}

impl Recovery {
    /// Takes a record or note, in the journal's order.
    pub(super) fn take(&mut self, position: Position, bytes: &[u8]) {
        match Record::decode(bytes) {
            Some(Record::Begun(head)) => self.found(&head, position, None),
            Some(Record::Answered(head, status, body)) => {
                let response = Response { status, body: Bytes::copy_from_slice(body) };
                self.found(&head, position, Some(response));
            }
            Some(Record::Abandoned { serial }) => {
                self.used(serial.next());
                if let Some(request) = self.requests.remove(&serial) {
                    self.release(&request.places);
                }
            }
            Some(Record::Forgotten { below }) => {
                self.used(below);
                self.floor = self.floor.max(below);
                while let Some(oldest) = self.requests.first_entry()
                    && *oldest.key() < below
                {
                    let request = oldest.remove();
                    self.release(&request.places);
                }
            }
            Some(Record::Clock { ms }) => self.latest_ms = self.latest_ms.max(ms),
            None => {
                self.unknown += 1;
                self.dead.push(position);
            }
        }
    }

    fn found(&mut self, head: &RequestRecord<'_>, position: Position, response: Option<Response>) {
        self.used(head.serial.next());
        self.latest_ms = self.latest_ms.max(head.since_ms);
        if head.serial < self.floor {
            self.dead.push(position);
            return;
        }
        let request = self.requests.entry(head.serial).or_insert_with(|| Request {
            key: OwnedKey { tenant: head.tenant.into(), key: Key(head.key.into()) },
            digest: head.digest,
            attempt: Attempt { id: head.id, since_ms: head.since_ms },
            response: None,
            places: Places::default(),
        });
        let is_answer = response.is_some();
        request.response = response.or_else(|| request.response.take());
        let Places { begun, answered } = &mut request.places;
        let place = if is_answer { answered } else { begun };
        // A copy that was interrupted: the later one stays.
        self.dead.extend(place.replace(position));
    }

    fn used(&mut self, next_serial: Serial) {
        self.next_serial = self.next_serial.max(next_serial);
    }

    fn release(&mut self, places: &Places) {
        self.dead.extend(places.begun);
        self.dead.extend(places.answered);
    }

    /// All has been read; by the wall clock it is `wall_ms`.
    pub(super) fn conclude(mut self, wall_ms: u64) -> Recovered {
        let now_ms = self.latest_ms.max(wall_ms);
        for request in self.requests.values_mut() {
            if request.places.answered.is_some() {
                self.dead.extend(request.places.begun.take());
            }
        }
        let floor = self.floor.max(self.first_kept(now_ms));
        let mut recovered = Recovered {
            places: self.requests.iter().map(|(serial, found)| (*serial, found.places)).collect(),
            dead: self.dead,
            floor,
            now_ms,
            next_serial: self.next_serial,
            unknown: self.unknown,
            ..Recovered::default()
        };
        let mut keys = AHashSet::with_capacity(self.requests.len());
        for (serial, request) in self.requests.split_off(&floor).into_iter().rev() {
            if !keys.insert(request.key.clone()) {
                recovered.replaced.push(serial);
                continue;
            }
            let Request { key, digest, attempt, response, .. } = request;
            let age = Duration::from_millis(now_ms.saturating_sub(attempt.since_ms));
            let known = KnownRequest { key, digest, serial, attempt, response, age };
            recovered.known.push(known);
        }
        recovered.known.reverse();
        recovered
    }

    /// The serial of the oldest request that is neither too old nor too much.
    fn first_kept(&self, now_ms: u64) -> Serial {
        let (mut requests, mut bytes) = (0, 0);
        for (serial, request) in self.requests.iter().rev() {
            requests += 1;
            bytes += request.response.as_ref().map_or(0, |response| response.body.len());
            let age = Duration::from_millis(now_ms.saturating_sub(request.attempt.since_ms));
            if age >= REMEMBERED || requests > RESPONSES_MAX || bytes > BYTES_MAX {
                return serial.next();
            }
        }
        Serial(0)
    }
}
