//! Which records are live, segment by segment.
//!
//! **Runs on**: the shard. **Owns**: one bit per 16 bytes of log, and the sums of them.
//! **Never**: does I/O; counts a release that does not match a live record.

use std::collections::VecDeque;

use super::{CommitPoint, Position};

/// A run of blocks that is deleted as a whole.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) end: u64,
    pub(super) live: u64,
    pub(super) live_blocks: u64,
    /// A set bit is the first block of a live record. Empty once nothing is live for good.
    bits: Vec<u64>,
    /// The copies of records that were moved out of this segment are safe once this is committed.
    moved: CommitPoint,
}

/// All segments, the oldest first. The last one is being appended to if `active`.
#[derive(Debug)]
pub(super) struct Segments {
    segments: VecDeque<Segment>,
    active: bool,
    live: u64,
    live_blocks: u64,
}

impl Segments {
    pub(super) const fn new() -> Self {
        Self { segments: VecDeque::new(), active: false, live: 0, live_blocks: 0 }
    }

    /// Begins a segment at `base` and seals the one before it.
    pub(super) fn begin(&mut self, base: u64) {
        self.seal();
        self.active = true;
        if self.segments.back().is_some_and(|last| last.base == base && last.end == base) {
            return;
        }
        self.segments.push_back(Segment {
            base,
            end: base,
            live: 0,
            live_blocks: 0,
            bits: Vec::new(),
            moved: CommitPoint(0),
        });
    }

    /// Ends the last segment: nothing is appended to it any more.
    pub(super) fn seal(&mut self) {
        self.active = false;
        if let Some(last) = self.segments.back_mut().filter(|last| last.live == 0) {
            last.bits = Vec::new();
        }
    }

    /// Blocks in the segment being appended to; `None` without one.
    pub(super) fn active_blocks(&self) -> Option<u64> {
        let last = self.segments.back().filter(|_| self.active)?;
        Some(last.end - last.base)
    }

    /// Extends the last segment to `end`.
    pub(super) fn extend(&mut self, end: u64) {
        if let Some(last) = self.segments.back_mut() {
            last.end = last.end.max(end);
        }
    }

    /// Counts the record at `position`, in the last segment, as live.
    pub(super) fn insert(&mut self, position: Position) {
        let Some(last) = self.segments.back_mut() else { return };
        let (word, bit) = place(last.base, position.block());
        if last.bits.len() <= word {
            last.bits.resize(word + 1, 0);
        }
        if let Some(bits) = last.bits.get_mut(word).filter(|bits| **bits & bit == 0) {
            *bits |= bit;
            last.live += 1;
            last.live_blocks += position.blocks();
            self.live += 1;
            self.live_blocks += position.blocks();
        }
    }

    /// Counts a record as dead. False if it was not live.
    pub(super) fn remove(&mut self, position: Position) -> bool {
        let Some(index) = self.index_of(position.block()) else { return false };
        let sealed = !self.active || index + 1 < self.segments.len();
        let Some(segment) = self.segments.get_mut(index) else { return false };
        let (word, bit) = place(segment.base, position.block());
        let Some(bits) = segment.bits.get_mut(word).filter(|bits| **bits & bit != 0) else {
            return false;
        };
        *bits &= !bit;
        segment.live -= 1;
        self.live -= 1;
        // With the last live record go the bytes of damaged ones, whose lengths were unknown.
        let last = segment.live == 0;
        let blocks =
            if last { segment.live_blocks } else { position.blocks().min(segment.live_blocks) };
        segment.live_blocks -= blocks;
        self.live_blocks -= blocks;
        if last && sealed {
            segment.bits = Vec::new();
        }
        true
    }

    /// The record at `position` has been copied; its segment stays until `copied` is committed.
    pub(super) fn moved(&mut self, position: Position, copied: CommitPoint) -> bool {
        let segment = self.index_of(position.block()).and_then(|at| self.segments.get_mut(at));
        if let Some(segment) = segment {
            segment.moved = copied;
        }
        self.remove(position)
    }

    pub(super) fn is_live(&self, position: Position) -> bool {
        self.segment_of(position.block()).is_some_and(|segment| {
            let (word, bit) = place(segment.base, position.block());
            segment.bits.get(word).is_some_and(|bits| bits & bit != 0)
        })
    }

    /// The first live block of the oldest segment, from `from` on, if that segment is sealed.
    pub(super) fn oldest_live(&self, from: u64) -> Option<u64> {
        let oldest = self.oldest_sealed()?;
        let (first, bit) = place(oldest.base, from.max(oldest.base));
        oldest.bits.iter().enumerate().skip(first).find_map(|(word, bits)| {
            // Of the first word only the bits from `from` on.
            let bits = if word == first { bits & !(bit - 1) } else { *bits };
            let block = oldest.base + word as u64 * 64 + u64::from(bits.trailing_zeros());
            (bits != 0).then_some(block)
        })
    }

    /// Counts the live records between two blocks as dead because they cannot be read. Returns how
    /// many there were.
    pub(super) fn lose(&mut self, from: u64, until: u64) -> u64 {
        let mut lost = 0;
        while let Some(block) = self.oldest_live(from).filter(|block| *block < until) {
            // Their lengths are unknown: one block is subtracted for each, the rest with the last.
            let removed = Position::new(block, 1).is_some_and(|position| self.remove(position));
            if !removed {
                break;
            }
            lost += 1;
        }
        lost
    }

    /// Removes the oldest segments that hold no live record and whose copied records are
    /// `committed` at their new position. Returns the block the log begins at now, if that has
    /// changed, and the commit point that covers the copies.
    pub(super) fn prune(&mut self, committed: CommitPoint) -> Option<(u64, CommitPoint)> {
        let mut pruned: Option<(u64, CommitPoint)> = None;
        while let Some(oldest) = self.oldest_sealed()
            && oldest.live == 0
            && oldest.moved <= committed
        {
            let copies = pruned.map_or(oldest.moved, |(_, copies)| copies.max(oldest.moved));
            pruned = Some((oldest.end, copies));
            self.segments.pop_front();
        }
        pruned
    }

    /// The oldest segment, if it is not appended to any more.
    pub(super) fn oldest_sealed(&self) -> Option<&Segment> {
        self.segments.front().filter(|_| self.segments.len() > usize::from(self.active))
    }

    pub(super) fn longest_blocks(&self) -> u64 {
        let blocks = self.segments.iter().map(|segment| segment.end - segment.base);
        blocks.max().unwrap_or(0)
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    pub(super) const fn live_blocks(&self) -> u64 {
        self.live_blocks
    }

    fn index_of(&self, block: u64) -> Option<usize> {
        self.segments.partition_point(|segment| segment.base <= block).checked_sub(1)
    }

    fn segment_of(&self, block: u64) -> Option<&Segment> {
        self.segments.get(self.index_of(block)?)
    }
}

/// Word and bit of a block in the bits of a segment that begins at `base`.
fn place(base: u64, block: u64) -> (usize, u64) {
    let at = block.saturating_sub(base);
    (usize::try_from(at / 64).unwrap_or(usize::MAX), 1 << (at % 64))
}
