//! The reserve: a preallocated file whose space is freed when the file system is full, so that
//! notes and copies can still be written.
//!
//! **Runs on**: the shard's thread while the journal opens, then its writer's. **Owns**: the file
//! `reserve`. **Never**: holds data; counts as log; keeps a journal from opening.

use std::io;
use std::time::Instant;

use super::files::is_full;
use super::format::HEADER_BYTES;
use super::storage::Storage;
use crate::base::limits::JOURNAL_RETRY;

const NAME: &str = "reserve";

/// All that is live in one segment, and a quarter more for what was on its way, and for notes.
pub(super) const fn bytes(segment_bytes: u64) -> u64 {
    segment_bytes + segment_bytes / 4 + 4 * HEADER_BYTES as u64
}

#[derive(Debug)]
enum State {
    Held,
    /// There is no space for it. It is tried again at this time at the latest.
    Wanted(Instant),
    /// It cannot be made, for another reason than lack of space: the journal works without it.
    Unavailable,
}

/// The reserve of one journal: space of the file system that is kept for notes and copies.
#[derive(Debug)]
pub(super) struct Reserve {
    bytes: u64,
    state: State,
}

impl Reserve {
    /// Takes the file that an earlier process has left, or makes one. An error only says why there
    /// is none.
    pub(super) fn open(
        storage: &mut impl Storage,
        segment_bytes: u64,
        now: Instant,
    ) -> (Self, io::Result<()>) {
        let mut reserve = Self { bytes: bytes(segment_bytes), state: State::Unavailable };
        let made = reserve.make(storage, now);
        (reserve, made)
    }

    pub(super) fn make(&mut self, storage: &mut impl Storage, now: Instant) -> io::Result<()> {
        let made = storage.reserve(NAME, self.bytes);
        self.state = match &made {
            Ok(()) => State::Held,
            Err(error) if is_full(error) => State::Wanted(now + JOURNAL_RETRY),
            Err(_) => State::Unavailable,
        };
        made
    }

    /// Removes the file, which frees its space. False if there is none.
    pub(super) fn remove(&mut self, storage: &mut impl Storage, now: Instant) -> bool {
        if !matches!(self.state, State::Held) || storage.remove(NAME).is_err() {
            return false;
        }
        // Some file systems free the space only with this; nothing depends on its result.
        storage.sync_directory().ok();
        self.state = State::Wanted(now + JOURNAL_RETRY);
        true
    }

    /// Whether it is missing because the file system has no space for it.
    pub(super) const fn is_wanted(&self) -> bool {
        matches!(self.state, State::Wanted(_))
    }

    /// Whether it is to be made now; `easier` if there may be more room than last time.
    pub(super) fn is_due(&self, now: Instant, easier: bool) -> bool {
        match self.state {
            State::Held => false,
            State::Wanted(at) => easier || at <= now,
            State::Unavailable => easier,
        }
    }

    /// When making it is tried again even if nothing was deleted.
    pub(super) const fn make_at(&self) -> Option<Instant> {
        if let State::Wanted(at) = self.state { Some(at) } else { None }
    }
}
