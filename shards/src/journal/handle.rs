//! The journal as its shard sees it: append, release, flush, poll, compact.
//!
//! **Runs on**: the shard's thread. **Owns**: the segments, the frames that are not handed over
//! yet, and the lanes to the writer. **Never**: touches a file (except to open); waits (except to
//! close).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use super::CommitPoint;
use super::compaction::Compaction;
use super::files::{Batch, Files};
use super::format::{self, BLOCK_BYTES, HEADER_BYTES, Kind};
use super::recovery::{self, RecoveryReport};
use super::reserve::Reserve;
use super::segments::Segments;
use super::storage::{Disk, Storage};
use super::writer::{self, Lanes, Order, Report, Writer};
use super::{AppendError, Condition, Full, OpenError, Options, Position};
use crate::base::limits::{
    JOURNAL_BUFFER_BYTES_MAX, JOURNAL_LANE_CAPACITY, JOURNAL_REPORT_LANE_CAPACITY,
};
use crate::link::doorbell::Doorbell;

pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
const SEGMENT_BYTES_MIN: u64 = 4096;

/// The journal of one shard. See the [module](super) for what its owner must do.
#[derive(Debug)]
pub struct Journal {
    pub(super) segments: Segments,
    pub(super) compaction: Compaction,
    /// The block the next frame gets.
    pub(super) end: u64,
    pub(super) segment_bytes: u64,
    pub(super) max_disk_bytes: u64,
    /// Bytes that were found when the journal was opened and are more than the options allow now.
    /// Notes and copies may use that much more, or the log could never shrink.
    pub(super) excess_bytes: u64,
    salt: u32,
    /// Frames of the last segment that are not yet sent to the writer.
    buffer: Batch,
    /// Batches that the lane had no room for.
    sealed: VecDeque<Batch>,
    /// Whether the buffer is to be sent to the writer as soon as the lane has room.
    flushing: bool,
    /// The deletion that is to be ordered as soon as the lane has room.
    deletion: Option<(u64, CommitPoint)>,
    /// Everything below this block is deleted.
    pub(super) begin: u64,
    /// The first block of the log: everything before it is deleted or about to be.
    pub(super) dead_below: u64,
    orders: Sender<Order>,
    reports: Receiver<Report>,
    /// An empty buffer the writer has given back.
    spare: Option<Vec<u8>>,
    writer: JoinHandle<()>,
    pub(super) committed: CommitPoint,
    pub(super) syncs: u64,
    pub(super) condition: Condition,
    /// Bytes of log that were surely on disk when space ran out; `None` while there is space.
    pub(super) full_at: Option<u64>,
    pub(super) last_error: Option<Arc<str>>,
    /// Whether the writer has ended without being told to.
    is_writer_gone: bool,
}

impl Journal {
    /// Opens the journal in `options.directory`, hands every record and note of it to `on_record`
    /// in the order they were appended, and starts the writer, which rings the doorbell `bell`
    /// after each commit. Blocks until all is read.
    pub fn open(
        options: &Options,
        on_record: impl FnMut(Position, &[u8]),
        bell: Arc<Doorbell>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        Self::open_on(Disk::open(&options.directory)?, options, on_record, bell)
    }

    /// As [`Self::open`], on another implementation of [`Storage`].
    pub fn open_on(
        mut storage: impl Storage,
        options: &Options,
        mut on_record: impl FnMut(Position, &[u8]),
        bell: Arc<Doorbell>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        if options.segment_bytes < SEGMENT_BYTES_MIN {
            return Err(OpenError::Options("segment_bytes must be at least 4096"));
        }
        if options.max_disk_bytes / 4 < options.segment_bytes {
            return Err(OpenError::Options("max_disk_bytes must be at least 4 × segment_bytes"));
        }
        let found = recovery::recover(&mut storage, &options.directory, &mut on_record)?;
        let (end, salt, segment_bytes) = (found.log.end, found.log.salt, options.segment_bytes);
        let begin = found.log.files.front().map_or(end, |oldest| oldest.id.base);
        let (reserve, made) = Reserve::open(&mut storage, segment_bytes, writer::now());
        let condition = Condition::writable(&reserve);
        let (orders, taken) = bounded(JOURNAL_LANE_CAPACITY);
        let (given, reports) = bounded(JOURNAL_REPORT_LANE_CAPACITY);
        let last_ring = WriterEnd(Arc::clone(&bell));
        let lanes = Lanes { orders: taken, reports: given, bell };
        let writer = Writer::new(lanes, Files::new(storage, options.fsync, found.log), reserve);
        let start = Builder::new().name("journal".to_owned()).spawn(move || {
            let _last_ring = last_ring;
            writer.run();
        });
        let writer = start.map_err(|source| OpenError::Io {
            path: options.directory.clone(),
            doing: "starting the writer's thread",
            source,
        })?;
        let mut journal = Self {
            segments: found.segments,
            compaction: Compaction::default(),
            end,
            segment_bytes,
            max_disk_bytes: options.max_disk_bytes,
            excess_bytes: 0,
            salt,
            buffer: Batch { base: end, bytes: Vec::new(), begins: true },
            sealed: VecDeque::new(),
            flushing: false,
            deletion: None,
            begin,
            dead_below: begin,
            orders,
            reports,
            spare: None,
            writer,
            committed: CommitPoint(end),
            syncs: 0,
            condition,
            full_at: None,
            last_error: made.err().map(|error| format!("making the reserve: {error}").into()),
            is_writer_gone: false,
        };
        journal.full_at = (journal.condition == Condition::Tight).then(|| journal.disk_bytes());
        journal.excess_bytes = journal.disk_bytes().saturating_sub(journal.room_for_records())
            + journal.segments.longest_blocks().saturating_mul(BLOCK).saturating_sub(segment_bytes);
        journal.pump();
        Ok((journal, found.report))
    }

    /// Takes a record that is live until it is released. It is in memory only; see
    /// [`Self::flush`].
    pub fn append(&mut self, record: &[u8]) -> Result<Position, AppendError> {
        match &self.condition {
            Condition::Sound => {}
            Condition::Tight | Condition::Full => return Err(AppendError::Full(Full::Disk)),
            Condition::Failed(reason) => {
                return Err(AppendError::Failed { reason: Arc::clone(reason) });
            }
        }
        self.check_length(record)?;
        let position = self.append_frame(Kind::Record, record, self.room_for_records())?;
        self.segments.insert(position);
        Ok(position)
    }

    /// Takes a note: a record about older ones, such as that they are deleted. It is never live and
    /// must not be released; it stays as long as anything older does. It is taken even where
    /// [`Self::append`] refuses, because notes are what frees space, and refused only while
    /// compaction needs the space that is left.
    pub fn note(&mut self, record: &[u8]) -> Result<(), AppendError> {
        self.check_length(record)?;
        if self.compaction_goes_first() {
            return Err(AppendError::Full(Full::Disk));
        }
        self.append_frame(Kind::Note, record, self.room_for_notes()).map(drop)
    }

    /// As [`Self::append`], for compaction.
    pub(super) fn copy(&mut self, record: &[u8]) -> Option<Position> {
        let room = self.room_for_copies();
        let position =
            self.can_write().then(|| self.append_frame(Kind::Record, record, room))?.ok()?;
        self.segments.insert(position);
        Some(position)
    }

    /// Releases a record: it may be deleted from the disk at once. False if it was not live.
    pub fn release(&mut self, position: Position) -> bool {
        self.segments.remove(position)
    }

    /// Hands everything appended so far to the writer. What it returns is covered by
    /// [`Self::committed`] once that has come as far.
    pub fn flush(&mut self) -> CommitPoint {
        self.flushing = !self.buffer.bytes.is_empty();
        self.pump();
        CommitPoint(self.end)
    }

    /// Everything up to here satisfies the fsync policy, as of the last [`Self::poll`].
    #[must_use]
    pub const fn committed(&self) -> CommitPoint {
        self.committed
    }

    /// Takes the writer's reports, and sends it what its lane had no room for. Call when the
    /// doorbell rings.
    pub fn poll(&mut self) -> CommitPoint {
        loop {
            match self.reports.try_recv() {
                Ok(report) => self.apply(report),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.writer_is_gone();
                    break;
                }
            }
        }
        self.pump();
        self.committed
    }

    /// An error once [`Self::poll`] has found that the writer ended without being told to. That is
    /// a bug, after which nothing is stored any more. The thread rings the doorbell when it ends.
    pub fn check(&self) -> io::Result<()> {
        if self.is_writer_gone {
            return Err(io::Error::other("the journal's writer has panicked"));
        }
        Ok(())
    }

    /// Hands over, writes and syncs everything, whatever the policy, and ends the writer. Blocks.
    /// An error says that something appended is not on disk.
    #[expect(clippy::disallowed_methods, reason = "closing waits for the disk, as documented")]
    pub fn close(mut self) -> io::Result<()> {
        self.flush();
        while self.is_behind() {
            let Ok(report) = self.reports.recv() else { break };
            self.apply(report);
            self.pump();
        }
        let behind = self.is_behind();
        let Self { orders, reports, writer, end, mut committed, mut condition, .. } = self;
        drop(orders);
        while let Ok(report) = reports.recv() {
            committed = report.committed;
            condition = report.condition;
        }
        writer.join().map_err(|_panic| io::Error::other("the journal's writer has panicked"))?;
        match condition {
            Condition::Sound | Condition::Tight if !behind && committed == CommitPoint(end) => {
                Ok(())
            }
            Condition::Sound | Condition::Tight => {
                Err(io::Error::other("the journal's writer ended early"))
            }
            Condition::Full => Err(io::ErrorKind::StorageFull.into()),
            Condition::Failed(reason) => Err(io::Error::other(reason.as_ref())),
        }
    }

    /// Whether notes and copies can be written to the disk.
    pub(super) const fn can_write(&self) -> bool {
        matches!(self.condition, Condition::Sound | Condition::Tight)
    }

    /// Whether something is not sent to the writer yet.
    fn is_behind(&self) -> bool {
        !self.sealed.is_empty() || !self.buffer.bytes.is_empty()
    }

    fn append_frame(
        &mut self,
        kind: Kind,
        record: &[u8],
        room: u64,
    ) -> Result<Position, AppendError> {
        let blocks = format::frame_blocks(record.len());
        if (self.end + blocks - self.committed.0) * BLOCK > JOURNAL_BUFFER_BYTES_MAX {
            return Err(AppendError::Full(Full::Buffer));
        }
        if self.disk_bytes() + blocks * BLOCK + HEADER_BYTES as u64 > room {
            return Err(AppendError::Full(Full::Limit));
        }
        let position = Position::new(self.end, blocks).ok_or(AppendError::Full(Full::Limit))?;
        let segment_bytes = |used: u64| HEADER_BYTES as u64 + (used + blocks) * BLOCK;
        let begins = |used| used > 0 && segment_bytes(used) > self.segment_bytes;
        if self.segments.active_blocks().is_none_or(begins) {
            self.begin_segment();
        }
        format::encode(&mut self.buffer.bytes, self.salt, self.end, kind, record);
        self.end += blocks;
        self.segments.extend(self.end);
        Ok(position)
    }

    fn begin_segment(&mut self) {
        let full = self.take_buffer(true);
        if !full.bytes.is_empty() {
            self.sealed.push_back(full);
        }
        self.segments.begin(self.end);
    }

    /// Takes the buffer as a batch; the next frame begins an empty buffer.
    fn take_buffer(&mut self, begins: bool) -> Batch {
        let bytes = self.spare.take().unwrap_or_default();
        std::mem::replace(&mut self.buffer, Batch { base: self.end, bytes, begins })
    }

    fn apply(&mut self, report: Report) {
        match report.condition {
            Condition::Sound => self.full_at = None,
            Condition::Tight | Condition::Full if self.full_at.is_none() => {
                let uncommitted_bytes = (self.end - self.committed.0) * BLOCK;
                self.full_at = Some(self.disk_bytes().saturating_sub(uncommitted_bytes));
            }
            Condition::Tight | Condition::Full | Condition::Failed(_) => {}
        }
        self.committed = report.committed;
        self.begin = self.begin.max(report.deleted_below);
        self.syncs = report.syncs;
        self.condition = report.condition;
        self.last_error = report.last_error;
        if let Some(chunk) = report.chunk {
            let retry = self.end + self.segment_bytes / BLOCK;
            self.compaction.arrive(chunk, retry);
        }
        if report.spare.is_some() {
            self.spare = report.spare;
        }
    }

    /// Sends the writer its orders while its lane has room.
    pub(super) fn pump(&mut self) {
        while let Some(batch) = self.sealed.pop_front() {
            if let Err(order) = self.order(Order::Write(batch)) {
                if let Order::Write(batch) = order {
                    self.sealed.push_front(batch);
                }
                return;
            }
        }
        if self.flushing && !self.buffer.bytes.is_empty() {
            let batch = self.take_buffer(false);
            match self.order(Order::Write(batch)) {
                Err(Order::Write(batch)) => {
                    self.buffer = batch;
                    return;
                }
                Ok(()) | Err(_) => self.flushing = false,
            }
        }
        if let Some((below, after)) = self.segments.prune(self.committed) {
            self.dead_below = below;
            // The copies are committed, but with `Fsync::Interval` perhaps not durable yet.
            self.deletion =
                Some((below, self.deletion.map_or(after, |(_, older)| older.max(after))));
        }
        if let Some((below, after)) = self.deletion
            && self.order(Order::Delete { below, after }).is_ok()
        {
            self.deletion = None;
        }
        if let Some(from) = self.compaction.wanted_read()
            && self.order(Order::Read { from }).is_ok()
        {
            self.compaction.ordered();
        }
    }

    /// Sends the writer an order; hands it back where the lane has no room for it.
    fn order(&mut self, order: Order) -> Result<(), Order> {
        match self.orders.try_send(order) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(order)) => Err(order),
            Err(TrySendError::Disconnected(order)) => {
                self.writer_is_gone();
                Err(order)
            }
        }
    }

    pub(crate) fn writer_is_gone(&mut self) {
        let reason: Arc<str> = "the journal's writer has panicked".into();
        self.last_error = Some(Arc::clone(&reason));
        self.condition = Condition::Failed(reason);
        self.is_writer_gone = true;
    }
}

/// Rings the doorbell when the writer's thread ends, in whatever way: the shard must notice that
/// nothing is written any more. The lanes are closed by then, since the writer is dropped first.
struct WriterEnd(Arc<Doorbell>);

impl Drop for WriterEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}
