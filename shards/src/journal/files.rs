//! The segment files of an open journal: writes and syncs them, replaces one that failed by a new
//! one, and deletes those that are no longer needed.
//!
//! **Runs on**: the writer's thread. **Owns**: the bytes that are not yet safe in the files.
//! **Never**: waits for anything but the disk; frees a byte in memory before it is durable.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use super::format::{BLOCK_BYTES, FileId, HEADER_BYTES};
use super::storage::Storage;
use super::{CommitPoint, Fsync};
use crate::base::limits::{JOURNAL_SPARE_BYTES_MAX, JOURNAL_UNSYNCED_BYTES_MAX};

/// Consecutive frames of one segment, written together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) base: u64,
    pub(super) bytes: Vec<u8>,
    /// Whether this batch is the first of a new file.
    pub(super) begins: bool,
}

impl Batch {
    pub(super) fn end(&self) -> u64 {
        self.base + (self.bytes.len() / BLOCK_BYTES) as u64
    }
}

/// One file of the log.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) name: String,
    pub(super) id: FileId,
    pub(super) end: u64,
}

/// The log as recovery left it.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) files: VecDeque<SegmentFile>,
    pub(super) end: u64,
    /// The number of the next file.
    pub(super) number: u32,
    /// The salt of this session's files.
    pub(super) salt: u32,
}

/// All files of the log, and the batches that are not yet durable.
#[derive(Debug)]
pub(super) struct Files<S> {
    pub(super) storage: S,
    fsync: Fsync,
    pub(super) log: Log,
    /// Whether the last of the files is open for writing.
    active: bool,
    /// Batches that are not written, or whose bytes are uncertain after a failed sync.
    pending: VecDeque<Batch>,
    /// How many of the pending batches had been written when a sync failed.
    uncertain: usize,
    /// The file they had been written to, and how many bytes of it count.
    stale: Option<(String, u64)>,
    /// Batches that are written but not synced. They are kept until they are synced. Always empty
    /// with [`Fsync::Never`].
    unsynced: VecDeque<Batch>,
    unsynced_bytes: usize,
    sync_at: Option<Instant>,
    written: u64,
    durable: u64,
    committed: u64,
    pub(super) syncs: u64,
    /// Files that end at or before this block may be deleted.
    floor: u64,
    /// An empty buffer for the next batch, to save an allocation.
    pub(super) spare: Option<Vec<u8>>,
}

/// Whether an error says that there is no room, rather than that something is broken.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl<S: Storage> Files<S> {
    pub(super) fn new(storage: S, fsync: Fsync, log: Log) -> Self {
        Self {
            storage,
            fsync,
            active: false,
            pending: VecDeque::new(),
            uncertain: 0,
            stale: None,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            sync_at: None,
            written: log.end,
            durable: log.end,
            committed: log.end,
            syncs: 0,
            floor: 0,
            spare: None,
            log,
        }
    }

    pub(super) const fn committed(&self) -> CommitPoint {
        CommitPoint(self.committed)
    }

    /// When an interval's sync is due.
    pub(super) const fn sync_at(&self) -> Option<Instant> {
        self.sync_at
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.pending.push_back(batch);
    }

    /// Joins the batches of one segment that wait for the disk to recover, so that they are few.
    pub(super) fn merge(&mut self) {
        let waiting = self.pending.split_off(self.uncertain);
        for batch in waiting {
            let last = self.pending.len() > self.uncertain && !batch.begins;
            match self.pending.back_mut().filter(|_| last) {
                Some(last) => last.bytes.extend_from_slice(&batch.bytes),
                None => self.pending.push_back(batch),
            }
        }
    }

    /// Writes everything pending, as far as possible, then syncs what was written if the policy
    /// says so or the journal is `closing`.
    pub(super) fn write(&mut self, now: Instant, closing: bool) -> io::Result<()> {
        let written = self.write_pending(now);
        let due = match self.fsync {
            Fsync::Always => true,
            Fsync::Interval(_) => {
                self.unsynced_bytes >= JOURNAL_UNSYNCED_BYTES_MAX
                    || self.sync_at.is_some_and(|at| at <= now)
            }
            Fsync::Never => false,
        };
        if !self.unsynced.is_empty() && (due || closing) {
            self.sync()?;
        }
        if closing && self.fsync == Fsync::Never && self.active {
            self.sync()?;
            self.storage.sync_directory()?;
        }
        written
    }

    fn write_pending(&mut self, now: Instant) -> io::Result<()> {
        while let Some(batch) = self.pending.front() {
            let base = batch.base;
            if batch.begins || !self.active {
                // A sealed file must be durable before the next one exists.
                if !self.unsynced.is_empty() {
                    self.sync()?;
                }
                self.create(base, now)?;
                // Beginning the new file may have written the pending batches already.
                continue;
            }
            self.write_front(now)?;
        }
        Ok(())
    }

    /// Begins a file at `base` and writes into it everything whose state on disk is uncertain. It
    /// gets its name once that is written: until then the bytes in the file before it count.
    fn create(&mut self, base: u64, now: Instant) -> io::Result<()> {
        self.active = false;
        let id = FileId { number: self.log.number, base, salt: self.log.salt };
        self.log.number = id.number.checked_add(1).ok_or_else(|| {
            io::Error::other("all file numbers are used up: drain the journal and begin anew")
        })?;
        let (name, draft) = (id.name(), id.draft_name());
        let mut bytes = id.header().to_vec();
        for batch in self.pending.iter().take(self.uncertain) {
            bytes.extend_from_slice(&batch.bytes);
        }
        let made = self.storage.create(&draft).and_then(|()| {
            self.storage.write(0, &bytes)?;
            self.storage.rename(&draft, &name)?;
            if self.fsync == Fsync::Never { Ok(()) } else { self.storage.sync_directory() }
        });
        if let Err(error) = made {
            // Not tried twice: recovery can handle both outcomes.
            self.storage.remove(&draft).ok();
            self.storage.remove(&name).ok();
            return Err(error);
        }
        self.log.files.push_back(SegmentFile { name, id, end: base });
        self.active = true;
        if let Some(batch) = self.pending.front_mut() {
            batch.begins = false;
        }
        for _ in 0..std::mem::take(&mut self.uncertain) {
            self.front_is_written(now);
        }
        self.drop_stale();
        Ok(())
    }

    /// Removes the file that the new one replaces, or cuts it to its durable part. It does not
    /// matter if that fails: recovery does not read a file beyond the base of the next one.
    fn drop_stale(&mut self) {
        match self.stale.take() {
            Some((name, 0)) => self.storage.remove(&name).ok(),
            Some((name, bytes)) => self.storage.truncate(&name, bytes).ok(),
            None => None,
        };
    }

    /// Writes the first pending batch to the current file.
    fn write_front(&mut self, now: Instant) -> io::Result<()> {
        let (Some(file), Some(batch)) = (self.log.files.back(), self.pending.front()) else {
            return Ok(());
        };
        let offset = HEADER_BYTES as u64 + (batch.base - file.id.base) * BLOCK_BYTES as u64;
        if let Err(error) = self.storage.write(offset, &batch.bytes) {
            // With no space left the same bytes are written at the same offset later.
            if !is_full(&error) {
                self.mark_uncertain();
            }
            return Err(error);
        }
        self.front_is_written(now);
        Ok(())
    }

    fn front_is_written(&mut self, now: Instant) {
        let Some(batch) = self.pending.pop_front() else { return };
        self.written = batch.end();
        if let Some(file) = self.log.files.back_mut() {
            file.end = self.written;
        }
        if self.fsync == Fsync::Never {
            self.durable = self.written;
            self.reuse(batch);
        } else {
            self.unsynced_bytes += batch.bytes.len();
            self.unsynced.push_back(batch);
        }
        if self.fsync != Fsync::Always {
            // `committed` never goes back: bytes that a failed sync made uncertain are written
            // again.
            self.committed = self.committed.max(self.written);
        }
        if let Fsync::Interval(interval) = self.fsync {
            self.sync_at.get_or_insert(now + interval);
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        self.sync_at = None;
        if let Err(error) = self.storage.sync() {
            self.mark_uncertain();
            return Err(error);
        }
        self.durable = self.written;
        self.committed = self.committed.max(self.durable);
        self.unsynced_bytes = 0;
        while let Some(batch) = self.unsynced.pop_front() {
            self.reuse(batch);
        }
        Ok(())
    }

    /// After a failed write or sync nobody knows what the file holds beyond its durable part. That
    /// part is kept, the rest goes to a new file, whose base tells recovery where to stop here.
    fn mark_uncertain(&mut self) {
        self.active = false;
        self.sync_at = None;
        self.unsynced_bytes = 0;
        self.uncertain = self.unsynced.len();
        while let Some(batch) = self.unsynced.pop_back() {
            self.pending.push_front(batch);
        }
        self.written = self.durable;
        let Some(mut file) = self.log.files.pop_back() else { return };
        file.end = self.durable;
        let kept_blocks = file.end - file.id.base;
        if kept_blocks == 0 {
            self.stale = Some((file.name, 0));
        } else {
            let kept_bytes = HEADER_BYTES as u64 + kept_blocks * BLOCK_BYTES as u64;
            self.stale = Some((file.name.clone(), kept_bytes));
            self.log.files.push_back(file);
        }
        // With another policy a part of the cut bytes is committed, and must stay readable until it
        // is written again.
        if self.fsync == Fsync::Always {
            self.drop_stale();
        }
    }

    fn reuse(&mut self, mut batch: Batch) {
        if batch.bytes.capacity() <= JOURNAL_SPARE_BYTES_MAX {
            batch.bytes.clear();
            self.spare = Some(batch.bytes);
        }
    }

    /// Allows the files that end at or before `below` to be deleted, once everything up to `after`
    /// is durable. Returns false if it is not, and cannot be made durable now.
    pub(super) fn release(&mut self, below: u64, after: CommitPoint) -> io::Result<bool> {
        if self.durable < after.0 {
            if self.written < after.0 {
                return Ok(false);
            }
            self.sync()?;
        }
        self.floor = self.floor.max(below);
        Ok(true)
    }

    /// Deletes the files that [`Self::release`] has allowed, oldest first. It is called again and
    /// again, since some of them were not written, or were still written to, when they were
    /// released. Returns whether it has deleted one.
    pub(super) fn delete_released(&mut self) -> io::Result<bool> {
        let mut deleted = false;
        while self.log.files.len() > usize::from(self.active)
            && let Some(oldest) = self.log.files.front().filter(|oldest| oldest.end <= self.floor)
        {
            self.storage.remove(&oldest.name)?;
            if self.fsync != Fsync::Never {
                // One by one and oldest first: if a note were deleted before the record it refers
                // to, recovery would bring that record back.
                self.storage.sync_directory()?;
            }
            self.log.files.pop_front();
            deleted = true;
        }
        Ok(deleted)
    }
}
