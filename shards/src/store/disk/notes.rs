//! Notes on older records: what has changed, and what has ended, collected over a turn.
//!
//! **Runs on**: a shard. **Owns**: the notes that are not written yet. **Never**: releases a record
//! before its end is noted.

use std::time::Duration;

use super::record::{self, Change, DeadLetterNote};
use crate::base::limits::MESSAGES_PER_NOTE;
use crate::journal::{Condition, Journal, Position};

/// How often, at a millisecond each, a closing store waits for a writer that is behind.
const CLOSING_TRIES: usize = 3000;

/// What is to be noted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Records whose messages have ended, to be noted and released.
    pub(super) ended: Vec<Position>,
    pub(super) changed: Vec<Change>,
    pub(super) dead_letters: Vec<DeadLetterNote>,
}

impl Notes {
    /// Whether everything is noted.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.changed.is_empty() && self.dead_letters.is_empty()
    }

    /// Notes what has changed and ended, then releases what has. What finds no room waits.
    pub(super) fn write(&mut self, journal: &mut Journal, buffer: &mut Vec<u8>) {
        let Self { changed, dead_letters, ended } = self;
        // An older attempt must not be read after the note that its message is a dead letter.
        if note_all(journal, buffer, changed, record::encode_changed, |_, _| {}) {
            note_all(journal, buffer, dead_letters, record::encode_dead_letters, |_, _| {});
        }
        note_all(journal, buffer, ended, record::encode_ended, |journal, position| {
            // False for one whose record was moved meanwhile: its copy is noted too.
            journal.release(position);
        });
    }

    /// Notes everything, and waits where the writer is behind. False if the disk does not take it.
    #[expect(clippy::disallowed_methods, reason = "closing waits for the disk")]
    pub(super) fn write_all(&mut self, journal: &mut Journal, buffer: &mut Vec<u8>) -> bool {
        for _ in 0..CLOSING_TRIES {
            self.write(journal, buffer);
            if self.is_empty() || *journal.condition() != Condition::Sound {
                break;
            }
            journal.flush();
            std::thread::sleep(Duration::from_millis(1));
            journal.poll();
        }
        self.is_empty()
    }
}

/// Writes notes of all that is listed, so many to a note, and hands each to `noted`. False if the
/// journal took no more.
fn note_all<T: Copy>(
    journal: &mut Journal,
    buffer: &mut Vec<u8>,
    listed: &mut Vec<T>,
    encode: fn(&[T], &mut Vec<u8>),
    mut noted: impl FnMut(&mut Journal, T),
) -> bool {
    let mut done = 0;
    for some in listed.chunks(MESSAGES_PER_NOTE) {
        encode(some, buffer);
        if journal.note(buffer).is_err() {
            break;
        }
        some.iter().for_each(|entry| noted(journal, *entry));
        done += some.len();
    }
    listed.drain(..done);
    listed.is_empty()
}
