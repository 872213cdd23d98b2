//! The writer: the thread that waits for the disk in place of the shard.
//!
//! **Runs on**: a thread of its own, one for each journal. It alone may wait: for work, for the
//! disk, for the shard to take a report. **Owns**: the [`Files`], the reserve, when to try again.
//! **Never**: reports bytes as committed before the policy's write or sync has returned.
//!
//! A round takes every order in the lane, reads, writes all batches and syncs once, then deletes
//! and reports. The more comes in during one sync, the more the next one commits.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::chunk::Chunk;
use super::files::{Batch, Files, is_full};
use super::reserve::Reserve;
use super::storage::Storage;
use super::{CommitPoint, Condition};
use crate::base::limits::{JOURNAL_RETRY, JOURNAL_RETRY_MAX};
use crate::link::doorbell::Doorbell;

/// From the shard to its writer. Lost only if the writer is gone, which fails the journal.
#[derive(Debug)]
pub(super) enum Order {
    /// Frames for the end of the log.
    Write(Batch),
    /// Delete all segments below a block, once everything up to the commit point is durable.
    Delete { below: u64, after: CommitPoint },
    /// Read frames from a block on.
    Read { from: u64 },
}

/// From the writer to its shard, after every round: what is committed, what is deleted, and whether
/// the files can be written.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) committed: CommitPoint,
    /// Everything below this block is deleted.
    pub(super) deleted_below: u64,
    pub(super) syncs: u64,
    pub(super) condition: Condition,
    pub(super) last_error: Option<Arc<str>>,
    /// The answer to `Order::Read`.
    pub(super) chunk: Option<io::Result<Chunk>>,
    /// An emptied buffer, to save an allocation.
    pub(super) spare: Option<Vec<u8>>,
}

/// The writer's ends of the lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) orders: Receiver<Order>,
    pub(super) reports: Sender<Report>,
    pub(super) bell: Arc<Doorbell>,
}

/// The writer's state.
#[derive(Debug)]
pub(super) struct Writer<S> {
    lanes: Lanes,
    files: Files<S>,
    reserve: Reserve,
    deletion: Option<(u64, CommitPoint)>,
    deleted_below: u64,
    reading: Option<u64>,
    /// When to try again; `None` while the files can be written.
    retry_at: Option<Instant>,
    backoff: Duration,
    condition: Condition,
    last_error: Option<Arc<str>>,
}

#[expect(clippy::disallowed_methods, reason = "intervals and retries, on the writer's own thread")]
pub(super) fn now() -> Instant {
    Instant::now()
}

impl<S: Storage> Writer<S> {
    pub(super) fn new(lanes: Lanes, files: Files<S>, reserve: Reserve) -> Self {
        Self {
            lanes,
            files,
            condition: Condition::writable(&reserve),
            reserve,
            deletion: None,
            deleted_below: 0,
            reading: None,
            retry_at: None,
            backoff: JOURNAL_RETRY,
            last_error: None,
        }
    }

    /// Works until the journal drops its end of the lane, then writes and syncs what is left, once.
    pub(super) fn run(mut self) {
        loop {
            let open = self.receive();
            if let Some(from) = self.reading.take() {
                // Reported before the round's sync, so that compaction goes on meanwhile.
                let chunk = self.files.read(from);
                if let Err(error) = &chunk {
                    self.last_error = Some(format!("reading for compaction: {error}").into());
                }
                self.send(Some(chunk));
            }
            self.work(!open);
            self.send(None);
            if !open {
                return;
            }
        }
    }

    /// Waits for an order or a deadline, then takes all orders in the lane. False when the journal
    /// has dropped its end, so that none can come.
    #[expect(clippy::disallowed_methods, reason = "the writer's thread is there to wait")]
    fn receive(&mut self) -> bool {
        let due = [self.files.sync_at(), self.reserve.make_at()];
        let first = match self.retry_at.or_else(|| due.into_iter().flatten().min()) {
            None => self.lanes.orders.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
            Some(at) => self.lanes.orders.recv_timeout(at.saturating_duration_since(now())),
        };
        match first {
            Ok(order) => self.take(order),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(order) = self.lanes.orders.try_recv() {
            self.take(order);
        }
        true
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Write(batch) => self.files.push(batch),
            Order::Delete { below, after } => {
                // An earlier order may not be carried out yet: then this one replaces it, and waits
                // for the later commit point of the two.
                let after = self.deletion.map_or(after, |(_, older)| older.max(after));
                self.deletion = Some((below, after));
            }
            Order::Read { from } => self.reading = Some(from),
        }
    }

    /// Writes unless it is too early to try again; deletes in any case, and if that has made room
    /// writes after all.
    fn work(&mut self, closing: bool) {
        let mut result = match self.retry_at {
            Some(at) if at > now() && !closing => None,
            _ => Some(self.write(closing)),
        };
        let mut deleted = self.delete();
        let stuck = self.retry_at.is_some() || matches!(result, Some(Err(_)));
        if deleted.as_ref().is_err_and(|error| self.use_reserve(error)) {
            result = Some(self.write(closing));
            deleted = self.delete();
        } else if stuck && matches!(deleted, Ok(true)) {
            result = Some(self.write(closing));
        }
        let easier = self.retry_at.is_some() || matches!(deleted, Ok(true));
        match result.map(|result| result.and_then(|()| deleted.map(drop))) {
            None => self.files.merge(),
            Some(Err(error)) => self.fail(&error),
            Some(Ok(())) => {
                self.retry_at = None;
                self.backoff = JOURNAL_RETRY;
                if !closing {
                    self.renew_reserve(easier);
                }
                self.condition = Condition::writable(&self.reserve);
            }
        }
    }

    /// After the first failure the write is tried again at once, in a new file. If there was no
    /// space, it is tried again at once with the space of the reserve.
    fn write(&mut self, closing: bool) -> io::Result<()> {
        let mut result = self.files.write(now(), closing);
        if let Err(error) = &result
            && self.retry_at.is_none()
            && !is_full(error)
        {
            self.last_error = Some(error.to_string().into());
            result = self.files.write(now(), closing);
        }
        if result.as_ref().is_err_and(|error| self.use_reserve(error)) {
            result = self.files.write(now(), closing);
        }
        result
    }

    /// Removes the reserve if the error is lack of space. True if that made room to try again.
    fn use_reserve(&mut self, error: &io::Error) -> bool {
        let used = is_full(error) && self.reserve.remove(&mut self.files.storage, now());
        if used {
            self.last_error = Some(error.to_string().into());
        }
        used
    }

    fn renew_reserve(&mut self, easier: bool) {
        if self.reserve.is_due(now(), easier)
            && let Err(error) = self.reserve.make(&mut self.files.storage, now())
        {
            self.last_error = Some(format!("making the reserve: {error}").into());
        }
    }

    /// Deletes released files. Returns whether one was deleted.
    fn delete(&mut self) -> io::Result<bool> {
        let released = match self.deletion {
            Some((below, after)) => self.files.release(below, after)?.then_some(below),
            None => None,
        };
        let deleted = self.files.delete_released()?;
        if let Some(below) = released {
            self.deletion = None;
            self.deleted_below = below;
        }
        Ok(deleted)
    }

    fn fail(&mut self, error: &io::Error) {
        let reason: Arc<str> = error.to_string().into();
        self.last_error = Some(Arc::clone(&reason));
        let mut wait = JOURNAL_RETRY;
        if is_full(error) {
            self.condition = Condition::Full;
        } else {
            self.condition = Condition::Failed(reason);
            wait = self.backoff;
            self.backoff = (self.backoff * 2).min(JOURNAL_RETRY_MAX);
        }
        self.retry_at = Some(now() + wait);
    }

    #[expect(clippy::disallowed_methods, reason = "the writer's thread is there to wait")]
    fn send(&mut self, chunk: Option<io::Result<Chunk>>) {
        let report = Report {
            committed: self.files.committed(),
            deleted_below: self.deleted_below,
            syncs: self.files.syncs,
            condition: self.condition.clone(),
            last_error: self.last_error.clone(),
            chunk,
            spare: self.files.spare.take(),
        };
        // Without a receiver the journal is closing; pending batches are written all the same.
        if self.lanes.reports.send(report).is_ok() {
            self.lanes.bell.ring();
        }
    }
}
