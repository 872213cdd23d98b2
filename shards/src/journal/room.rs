//! How much a journal holds, and how much more it may hold.
//!
//! **Runs on**: the shard. **Owns**: nothing; sums over the journal's own numbers.
//! **Never**: lets records take the space that the notes about them and their copies will need.

use super::format::{self, HEADER_BYTES};
use super::handle::{BLOCK, Journal};
use super::segments::Segment;
use super::{AppendError, Condition, RECORD_BYTES_MAX, Stats, reserve};
use crate::base::limits::JOURNAL_BUFFER_BYTES_MAX;

impl Journal {
    /// Figures as of the last [`Self::poll`], for `/stats`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            segments: self.segments.segments(),
            live_records: self.segments.live(),
            live_bytes: self.segments.live_blocks() * BLOCK,
            disk_bytes: self.disk_bytes(),
            uncommitted_bytes: (self.end - self.committed.0) * BLOCK,
            syncs: self.syncs,
            moved_records: self.compaction.moved,
            lost_records: self.compaction.lost,
            condition: self.condition.clone(),
            last_error: self.last_error.clone(),
        }
    }

    /// Whether the files can be written, as of the last [`Self::poll`].
    #[must_use]
    pub const fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Whether there is room for a record of an eighth of a segment, which is more than most need.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let bytes = self.segment_bytes / 8;
        let uncommitted_bytes = (self.end - self.committed.0) * BLOCK;
        uncommitted_bytes + bytes <= JOURNAL_BUFFER_BYTES_MAX
            && self.disk_bytes() + bytes <= self.room_for_records()
    }

    pub(super) const fn room_for_records(&self) -> u64 {
        self.max_disk_bytes - 2 * self.segment_bytes - 4 * HEADER_BYTES as u64
    }

    pub(super) const fn room_for_notes(&self) -> u64 {
        self.room_for_records() + self.segment_bytes + self.excess_bytes
    }

    /// Room for copies: beyond the notes everything that one segment holds must fit in, with the
    /// headers of the files that begin meanwhile, or compaction could never finish.
    pub(super) const fn room_for_copies(&self) -> u64 {
        self.max_disk_bytes + self.excess_bytes
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        (self.end - self.begin) * BLOCK + (self.segments.segments() * HEADER_BYTES) as u64
    }

    /// How much of the reserve is used, at most.
    pub(super) fn reserve_used(&self) -> u64 {
        self.full_at.map_or(0, |full_at| self.disk_bytes().saturating_sub(full_at))
    }

    /// Whether the live records of a segment can be copied. While the reserve is in use, they must
    /// fit into what is left of it: copies that got stuck halfway would keep their segment from
    /// being deleted even if they were released. The estimate is careful, because how much is left
    /// is known only roughly.
    pub(super) fn has_room_to_empty(&self, segment: &Segment) -> bool {
        let live_bytes = segment.live_blocks * BLOCK;
        self.condition != Condition::Tight
            || live_bytes <= self.segment_bytes / 4
            || self.reserve_used() + live_bytes <= reserve::bytes(self.segment_bytes)
    }

    /// Refuses a record that is longer than a segment, since compaction would have no room for it.
    pub(super) fn check_length(&self, record: &[u8]) -> Result<(), AppendError> {
        let bytes = record.len();
        let frame_bytes = HEADER_BYTES as u64 + format::frame_blocks(bytes) * BLOCK;
        let fits = bytes <= RECORD_BYTES_MAX && frame_bytes <= self.segment_bytes;
        if fits { Ok(()) } else { Err(AppendError::TooLong { bytes }) }
    }
}
