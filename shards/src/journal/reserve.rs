//! The reserve: room on the file system that is given up when there is no other.
//!
//! **Runs on**: the shard's thread while the journal opens, then its writer's. **Owns**: the file
//! `reserve`. **Never**: holds anything of value; counts as log; keeps a journal from opening.

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
    /// There is no space for it. To be made no later than this.
    Wanted(Instant),
    /// It cannot be made, but not for lack of space: the journal does without.
    Forgone,
}

/// What a journal holds back of the file system for notes and copies.
#[derive(Debug)]
pub(super) struct Reserve {
    bytes: u64,
    state: State,
}

impl Reserve {
    /// Takes what an earlier life has left, or makes one. An error only says why there is none.
    pub(super) fn open(
        storage: &mut impl Storage,
        segment_bytes: u64,
        now: Instant,
    ) -> (Self, io::Result<()>) {
        let mut reserve = Self { bytes: bytes(segment_bytes), state: State::Forgone };
        let made = reserve.make(storage, now);
        (reserve, made)
    }

    pub(super) fn make(&mut self, storage: &mut impl Storage, now: Instant) -> io::Result<()> {
        let made = storage.reserve(NAME, self.bytes);
        self.state = match &made {
            Ok(()) => State::Held,
            Err(error) if is_full(error) => State::Wanted(now + JOURNAL_RETRY),
            Err(_) => State::Forgone,
        };
        made
    }

    /// Gives its room to whoever needs it. False if there is none to give.
    pub(super) fn give_up(&mut self, storage: &mut impl Storage, now: Instant) -> bool {
        if !matches!(self.state, State::Held) || storage.remove(NAME).is_err() {
            return false;
        }
        // Some file systems free the space only with this; nothing depends on its result.
        storage.sync_directory().ok();
        self.state = State::Wanted(now + JOURNAL_RETRY);
        true
    }

    /// It is lacking for want of space.
    pub(super) const fn is_wanted(&self) -> bool {
        matches!(self.state, State::Wanted(_))
    }

    /// Whether it is to be made now; `easier` if there may be more room than last time.
    pub(super) fn is_due(&self, now: Instant, easier: bool) -> bool {
        match self.state {
            State::Held => false,
            State::Wanted(at) => easier || at <= now,
            State::Forgone => easier,
        }
    }

    /// When it is to be made whatever happens.
    pub(super) const fn make_at(&self) -> Option<Instant> {
        if let State::Wanted(at) = self.state { Some(at) } else { None }
    }
}
