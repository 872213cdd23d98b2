//! Reading a piece of a segment back, for compaction.
//!
//! **Runs on**: the writer's thread; the piece goes to the shard. **Owns**: its bytes.
//! **Never**: reads more than its bound, except for a single record that is longer.

use std::io;
use std::ops::Range;

use super::Position;
use super::files::Files;
use super::format::{self, BLOCK_BYTES, Found, HEADER_BYTES, Kind, Scan};
use super::storage::Storage;
use crate::base::limits::JOURNAL_READ_BYTES;

/// A run of frames that was read from a segment file for compaction.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The records that are complete in `bytes`, in order.
    pub(super) records: Vec<(Position, Range<usize>)>,
    pub(super) bytes: Vec<u8>,
    /// Every complete record between the requested block and this one is in `records`.
    pub(super) until: u64,
}

impl<S: Storage> Files<S> {
    /// Reads frames from block `from` on: as many as fit the bound, and at least one, so that a
    /// record longer than the bound can be moved too.
    pub(super) fn read(&mut self, from: u64) -> io::Result<Chunk> {
        let mut chunk = Chunk { records: Vec::new(), bytes: Vec::new(), until: from + 1 };
        let at = self.log.files.partition_point(|file| file.id.base <= from);
        let file = at.checked_sub(1).and_then(|at| self.log.files.get(at));
        let file = file.filter(|file| from < file.end).ok_or_else(|| {
            // It is not written yet, or is about to be written again after a failed sync.
            io::Error::other("not on disk at the moment")
        })?;
        let offset = HEADER_BYTES as u64 + (from - file.id.base) * BLOCK_BYTES as u64;
        let left = file.end.saturating_sub(from).saturating_mul(BLOCK_BYTES as u64);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(left.min(JOURNAL_READ_BYTES));
        self.storage.read(&file.name, offset, left.min(JOURNAL_READ_BYTES), &mut bytes)?;
        let claimed = format::claimed_bytes(&bytes).unwrap_or(0).min(left);
        if claimed > bytes.len() {
            let more = claimed - bytes.len();
            self.storage.read(&file.name, offset + bytes.len() as u64, more, &mut bytes)?;
        }
        chunk.until = from + (bytes.len() / BLOCK_BYTES).max(1) as u64;
        for found in Scan::new(&bytes, file.id.salt, from) {
            match found {
                Found::Frame { position, kind: Kind::Record, record } => {
                    let start = chunk.bytes.len();
                    chunk.bytes.extend_from_slice(record);
                    chunk.records.push((position, start..chunk.bytes.len()));
                }
                Found::Frame { kind: Kind::Note, .. } | Found::Damage { .. } => {}
                // Most likely the bound has cut this frame. If it is the first one, it is damaged.
                Found::Tail { bytes: tail } if tail < bytes.len() => {
                    chunk.until = from + ((bytes.len() - tail) / BLOCK_BYTES) as u64;
                }
                Found::Tail { .. } => {}
            }
        }
        Ok(chunk)
    }
}
