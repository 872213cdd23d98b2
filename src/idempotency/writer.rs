//! The store at work: writes, waits for the disk with a deadline, and says when it did not keep up.
//!
//! **Runs on**: the router's thread. **Owns**: the log until it is closed.
//! **Never**: fails a request: what the disk does not take is known in memory only.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ara_shards::journal::{AppendError, CommitPoint, Condition, Full};
use ara_shards::link::doorbell::Doorbell;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::clock::{Clock, wall_ms};
use super::log::{Log, Progress};
use crate::supervise::Supervisor;
use crate::telemetry::LogLimiter;

/// The longest a request waits for the disk at its beginning, and again at its end.
const COMMIT_DEADLINE: Duration = Duration::from_secs(2);
/// At most one line about what is known in memory only in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The log, for tasks of the router's thread.
#[derive(Debug)]
pub(super) struct LogWriter {
    /// `None` once it is closed.
    log: RefCell<Option<Log>>,
    clock: RefCell<Clock>,
    bell: Arc<Doorbell>,
    /// Something was appended, or the bell has rung.
    wake: Arc<Notify>,
    /// A turn is over.
    progress: Notify,
    limiter: RefCell<LogLimiter>,
}

impl LogWriter {
    /// Begins to serve the log.
    pub(super) fn start(
        log: Log,
        clock: Clock,
        (bell, wake): (Arc<Doorbell>, Arc<Notify>),
        supervisor: &Supervisor,
    ) -> Rc<Self> {
        let writer = Rc::new(Self {
            log: RefCell::new(Some(log)),
            clock: RefCell::new(clock),
            bell,
            wake,
            progress: Notify::new(),
            limiter: RefCell::new(LogLimiter::new(WARN_INTERVAL)),
        });
        supervisor.spawn("idempotency-writer", Rc::clone(&writer).serve());
        writer
    }

    /// Until the log is closed, or its writer is gone.
    async fn serve(self: Rc<Self>) -> io::Result<()> {
        loop {
            self.wake.notified().await;
            self.bell.answer();
            let Some(more) = self.with_log(|log| {
                let more = log.turn();
                log.check().map(|()| more)
            }) else {
                return Ok(());
            };
            let more = more?;
            self.progress.notify_waiters();
            if more {
                self.wake.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Writes with `put` and returns when that is committed, or warns that it is not.
    pub(super) async fn persist(
        &self,
        put: impl FnMut(&mut Log) -> Result<CommitPoint, AppendError>,
    ) {
        let reason = match timeout(COMMIT_DEADLINE, self.try_to_persist(put)).await {
            Ok(Ok(())) => return,
            Ok(Err(reason)) => reason,
            Err(_elapsed) => format!("the disk needs longer than {COMMIT_DEADLINE:?}"),
        };
        if let Some(suppressed) = self.limiter.borrow_mut().admit(Instant::now()) {
            tracing::warn!(%reason, suppressed, "an Idempotency-Key may not survive a restart");
        }
    }

    async fn try_to_persist(
        &self,
        mut put: impl FnMut(&mut Log) -> Result<CommitPoint, AppendError>,
    ) -> Result<(), String> {
        let closed = || "the gateway is stopping".to_owned();
        let commit_point = loop {
            let progress = self.progress.notified();
            match self.change(&mut put).ok_or_else(closed)? {
                Ok(commit_point) => break commit_point,
                Err(AppendError::Full(Full::Buffer)) => progress.await,
                Err(error) => return Err(error.to_string()),
            }
        };
        loop {
            let progress = self.progress.notified();
            match self.with_log(|log| log.progress(commit_point)).ok_or_else(closed)? {
                Progress::Committed => return Ok(()),
                Progress::Waiting => progress.await,
                Progress::Failing(Condition::Failed(reason)) => return Err(reason.to_string()),
                Progress::Failing(_) => return Err("the disk is full".to_owned()),
            }
        }
    }

    /// Changes the log and has it handed to the disk once this turn's other tasks have added
    /// theirs. Does nothing once it is closed.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> Option<T> {
        self.wake.notify_one();
        self.with_log(change)
    }

    /// The time, by the store's clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.borrow_mut().now(wall_ms(), Instant::now())
    }

    /// Writes what is left and gives the directory back. Blocks, for the disk only.
    pub(super) fn close(&self) {
        let Some(log) = self.log.borrow_mut().take() else { return };
        self.wake.notify_one();
        let (now_ms, wall_ms) = (self.now_ms(), wall_ms());
        if let Err(error) = log.close((now_ms > wall_ms).then_some(now_ms)) {
            tracing::error!(%error, "the last answers by Idempotency-Key are not on disk");
        }
    }

    fn with_log<T>(&self, with: impl FnOnce(&mut Log) -> T) -> Option<T> {
        self.log.borrow_mut().as_mut().map(with)
    }
}
