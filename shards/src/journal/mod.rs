//! The journal: the embedded store of one shard, a segmented log of opaque records.
//!
//! **Runs on**: the shard's thread; one writer thread of its own does every file operation once
//! the journal is open. **Owns**: a directory. **Never**: waits for a disk on the shard's thread
//! (except in [`Journal::open`] and [`Journal::close`]); reads a record's content; reorders.
//!
//! # The rule that makes it crash-safe
//! The log is written at its end and deleted from its beginning, segment by segment, and from
//! nowhere else. That a record is deleted is itself written as a record (a *note*, elsewhere called
//! a tombstone), which is always younger than the record it refers to: while any copy of a record
//! is on disk, so is every note about it. So a deleted record can never come back, and no index on
//! disk is needed. The price is that one live record keeps every younger segment. So when half of
//! the log is dead (no longer needed), [`Journal::compact`] copies the live records of the oldest
//! segment to the end; the segment is deleted once the copies are committed and synced.
//!
//! # What the owner must do
//! 1. Append a note ([`Journal::note`]) *before* it releases the records the note refers to.
//! 2. Release a record that another one replaces only once that one is committed, since a released
//!    record may be deleted at once. (Compaction takes care of this by itself.)
//! 3. During recovery: take notes into account, and release afterwards the records they delete.
//!    A record may come twice, when a crash fell between its copy and the deletion of the
//!    original: release one of the two. A copy comes later than the original did; where order
//!    matters, the record must hold its own sequence number.
//! 4. Answer for a record (tell a client that it is stored) only once its commit point is
//!    committed. After a crash some records that were never committed may be there, others not.
//! 5. Drop a journal only after [`Journal::close`], or its writer goes on, with the directory's
//!    lock, until it has written what it was given.
//! 6. Call [`Journal::poll`] and [`Journal::compact`] when the doorbell rings and once per turn.
//!
//! # When the disk fails
//! A failed write or sync is never acknowledged. What a failed sync leaves behind is unknown, so
//! everything since the last good sync is cut off and written again, from memory, to a new file:
//! at once, and if that fails too, after 1 s, doubling to 30 s. Meanwhile [`Journal::append`]
//! refuses and says why; notes are taken as long as they find room in memory.
//!
//! With no space left the writer removes the *reserve*, a file of a good segment that holds
//! no data, and tries again at once ([`Condition::Tight`]). Records are refused from then on, but
//! what was taken, notes and copies are written, so compaction empties the oldest segment and its
//! deletion makes room: that is how a full disk heals itself. Notes may take a quarter of a
//! segment; beyond that they are refused as long as compaction can make room. After each deletion
//! and every second the writer tries to make the reserve anew; once it is there, records are taken
//! again. Only when the reserve is used up as well ([`Condition::Full`]) does nothing go to the
//! disk, except that segments without a live record are deleted; the write is tried again every
//! second and after each deletion.

mod chunk;
mod compaction;
mod error;
mod files;
mod format;
mod handle;
mod recovery;
mod reserve;
mod room;
mod segments;
pub mod storage;
mod writer;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::{AppendError, Full, OpenError};
pub use handle::Journal;
pub use recovery::RecoveryReport;

/// The longest record: a frame's length in blocks of 16 bytes fits 16 bits.
pub const RECORD_BYTES_MAX: usize = 65_535 * format::BLOCK_BYTES - 8;

/// Where a journal is and within which bounds.
#[derive(Debug, Clone)]
pub struct Options {
    /// An existing directory of its own.
    pub directory: PathBuf,
    /// A segment is sealed when the next record would make it longer than this; no record may be
    /// longer.
    pub segment_bytes: u64,
    /// The most bytes of log on disk, at least four segments. One segment's worth is kept for
    /// notes and one for compaction; records may fill the rest. The reserve, a segment and a
    /// quarter, comes on top.
    pub max_disk_bytes: u64,
    /// When a record counts as committed.
    pub fsync: Fsync,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            segment_bytes: 16 * 1024 * 1024,
            max_disk_bytes: 1024 * 1024 * 1024,
            fsync: Fsync::Always,
        }
    }
}

/// What "committed" promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// It survives a loss of power: `fdatasync` has returned.
    Always,
    /// It survives the end of the process; a loss of power may cost the last interval (less, if
    /// much was written). A segment is deleted only after what was moved from it is synced.
    Interval(Duration),
    /// It survives the end of the process; what a loss of power costs is up to the system.
    Never,
}

/// Identifies a live record. Positions are ordered as the records were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(NonZeroU64);

impl Position {
    /// 48 bits of block, 16 bits of length in blocks.
    fn new(block: u64, blocks: u64) -> Option<Self> {
        let fits = block < format::BLOCKS_MAX && (1..1 << 16).contains(&blocks);
        if fits { NonZeroU64::new((block << 16) | blocks).map(Self) } else { None }
    }

    /// The position as a number, to be written down.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The position of a number that was written down; `None` if it cannot be one.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Self::new(bits >> 16, bits & 0xFFFF)
    }

    const fn block(self) -> u64 {
        self.0.get() >> 16
    }

    const fn blocks(self) -> u64 {
        self.0.get() & 0xFFFF
    }

    /// The commit point that covers this record.
    #[must_use]
    pub const fn commit_point(self) -> CommitPoint {
        CommitPoint(self.block() + self.blocks())
    }
}

/// A point in the log, which covers everything appended before it. A later commit point covers an
/// earlier one; the default one covers nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitPoint(pub(crate) u64);

/// Whether the files can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// They can, as far as is known.
    Sound,
    /// There was no space, or at opening none for the reserve: records are refused, notes and
    /// copies are written. This ends once the reserve can be made, which is tried every second.
    Tight,
    /// They cannot: there is no space, not even that of the reserve. Tried again every second.
    Full,
    /// They cannot, for this reason. Tried again after 1 to 30 s.
    Failed(Arc<str>),
}

impl Condition {
    /// The condition of files that were written without an error.
    const fn writable(reserve: &reserve::Reserve) -> Self {
        if reserve.is_wanted() { Self::Tight } else { Self::Sound }
    }
}

/// What a journal holds and does, for `/stats`.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Segments on disk, or about to be deleted.
    pub segments: usize,
    /// Records appended or recovered and not released.
    pub live_records: u64,
    /// Their bytes, framing included.
    pub live_bytes: u64,
    /// Bytes of log on disk or on the way to it; the reserve is not among them.
    pub disk_bytes: u64,
    /// Bytes that are not committed.
    pub uncommitted_bytes: u64,
    /// Syncs of segment files since the journal opened.
    pub syncs: u64,
    /// Records compaction has moved since the journal opened.
    pub moved_records: u64,
    /// Live records compaction found damaged: they cannot be read and are gone.
    pub lost_records: u64,
    /// Whether the files can be written.
    pub condition: Condition,
    /// The last thing that went wrong, if anything has.
    pub last_error: Option<Arc<str>>,
}

#[cfg(test)]
mod tests;
