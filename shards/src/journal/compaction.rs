//! Compaction: the live records of the oldest segment are copied to the end of the log, so that the
//! segment can be deleted.
//!
//! **Runs on**: the shard; reading runs on the writer. **Owns**: the chunk being copied.
//! **Never**: copies more than its budget in one call; deletes a record whose copy is not
//! committed.
//!
//! It begins when half of the log is dead, so that over a round of the log it writes at most as
//! much as was appended; under pressure, near the limit or with the reserve in use, it
//! begins when an eighth is dead, which is at most seven times as much. Released records and notes
//! count as dead.

use std::io;

use super::chunk::Chunk;
use super::format::BLOCK_BYTES;
use super::segments::Segment;
use super::{Condition, Journal, Position};

/// How far the compaction of the oldest segment has come.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// The next read begins at this block; it has not been ordered yet.
    Wanted(u64),
    /// The writer reads from this block on.
    Reading(u64),
    /// A chunk has been read; its records before `next` are copied or were not live.
    Copying { from: u64, chunk: Chunk, next: usize },
}

/// The state of a journal's compaction.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    stage: Stage,
    /// Reading failed: it is not tried again before the log has grown to this block.
    paused_until: u64,
    pub(super) moved: u64,
    pub(super) lost: u64,
}

impl Compaction {
    pub(super) const fn wanted_read(&self) -> Option<u64> {
        if let Stage::Wanted(from) = self.stage { Some(from) } else { None }
    }

    /// Call once the read has been sent to the writer.
    pub(super) fn ordered(&mut self) {
        if let Stage::Wanted(from) = self.stage {
            self.stage = Stage::Reading(from);
        }
    }

    /// Takes the writer's answer to the read.
    pub(super) fn arrive(&mut self, chunk: io::Result<Chunk>, retry: u64) {
        let Stage::Reading(from) = self.stage else { return };
        self.stage = if let Ok(chunk) = chunk {
            Stage::Copying { from, chunk, next: 0 }
        } else {
            self.paused_until = retry;
            Stage::Idle
        };
    }
}

impl Journal {
    /// Copies live records of the oldest segment to the end, if that is worth it: about
    /// `bytes_max` in one call. `moved` is called with the old position, the new one and the
    /// record; the old position is released already. Returns whether another call would find more
    /// to do at once. If not, call again after the doorbell has rung or something was committed.
    pub fn compact(
        &mut self,
        bytes_max: usize,
        mut moved: impl FnMut(Position, Position, &[u8]),
    ) -> bool {
        let (from, chunk, mut next) = match std::mem::take(&mut self.compaction.stage) {
            Stage::Copying { from, chunk, next } => (from, chunk, next),
            Stage::Idle => {
                self.choose();
                return false;
            }
            waiting @ (Stage::Wanted(_) | Stage::Reading(_)) => {
                self.compaction.stage = waiting;
                return false;
            }
        };
        let mut bytes_left = bytes_max;
        let mut refused = false;
        while let Some((old, range)) = chunk.records.get(next)
            && bytes_left > 0
        {
            if self.segments.is_live(*old) {
                let record = chunk.bytes.get(range.clone()).unwrap_or_default();
                let Some(new) = self.copy(record) else {
                    refused = true;
                    break;
                };
                self.segments.moved(*old, new.commit_point());
                self.compaction.moved += 1;
                moved(*old, new, record);
                bytes_left = bytes_left.saturating_sub(record.len().max(BLOCK_BYTES));
            }
            next += 1;
        }
        if next < chunk.records.len() {
            self.compaction.stage = Stage::Copying { from, chunk, next };
            return !refused;
        }
        // Records that are still counted as live in these blocks could not be read: they are lost.
        self.compaction.lost += self.segments.lose(from, chunk.until);
        self.choose();
        false
    }

    /// Orders the next read, if the oldest segment is worth compacting.
    fn choose(&mut self) {
        if let Some(oldest) = self.segments.oldest_sealed()
            && self.is_worth_emptying(oldest)
            && let Some(from) = self.segments.oldest_live(oldest.base)
        {
            self.compaction.stage = Stage::Wanted(from);
            self.pump();
        }
    }

    fn is_worth_emptying(&self, oldest: &Segment) -> bool {
        if !self.can_write() || self.end < self.compaction.paused_until {
            return false;
        }
        // It is read from its file, so it must have been written there.
        if oldest.end > self.committed().0 || !self.has_room_to_empty(oldest) {
            return false;
        }
        let total = self.end - oldest.base;
        let dead = total.saturating_sub(self.segments.live_blocks());
        let half = dead * 2 >= total && total * BLOCK_BYTES as u64 >= 2 * self.segment_bytes;
        let near_limit = self.disk_bytes() / 3 >= self.room_for_records() / 4;
        let pressed = near_limit || self.condition == Condition::Tight;
        half || (pressed && dead * 8 >= total)
    }

    /// Whether notes are refused for now: they have used their part of the reserve, and compaction
    /// can make room.
    pub(super) fn compaction_goes_first(&self) -> bool {
        self.condition == Condition::Tight
            && self.reserve_used() > self.segment_bytes / 4
            && (!matches!(self.compaction.stage, Stage::Idle)
                || self.dead_below > self.begin
                // Nothing is live in it any more: the next commit deletes it.
                || self.segments.oldest_sealed().is_some_and(|oldest| {
                    oldest.live == 0 || self.is_worth_emptying(oldest)
                }))
    }
}
