//! The store at work: what it does where the disk does not keep up.
//!
//! **Runs on**: the router's thread. **Owns**: the log until it is closed.
//! **Never**: fails a request: what the disk does not take is known in memory only.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ara_shards::journal::{AppendError, CommitPoint};

use super::clock::{Clock, wall_ms};
use super::log::Log;
use crate::journal_task::{Bell, JournalTask};
use crate::supervise::Supervisor;
use crate::telemetry::LogLimiter;

/// At most one line about what is known in memory only in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The log, for tasks of the router's thread.
#[derive(Debug)]
pub(super) struct LogWriter {
    task: Rc<JournalTask<Log>>,
    clock: RefCell<Clock>,
    limiter: RefCell<LogLimiter>,
}

impl LogWriter {
    /// Begins to serve the log.
    pub(super) fn start(log: Log, clock: Clock, bell: Bell, supervisor: &Supervisor) -> Rc<Self> {
        Rc::new(Self {
            task: JournalTask::start("idempotency-writer", log, bell, supervisor),
            clock: RefCell::new(clock),
            limiter: RefCell::new(LogLimiter::new(WARN_INTERVAL)),
        })
    }

    /// Writes with `put` and returns when that is committed, or warns that it is not.
    pub(super) async fn persist(
        &self,
        put: impl FnMut(&mut Log) -> Result<CommitPoint, AppendError>,
    ) {
        let Err(reason) = self.task.persist(put).await else { return };
        if let Some(suppressed) = self.limiter.borrow_mut().admit(Instant::now()) {
            tracing::warn!(%reason, suppressed, "an Idempotency-Key may not survive a restart");
        }
    }

    /// Changes the log. Does nothing once it is closed.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> Option<T> {
        self.task.change(change)
    }

    /// The time, by the store's clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.borrow_mut().now(wall_ms(), Instant::now())
    }

    /// Writes what is left and gives the directory back. Blocks, for the disk only.
    pub(super) fn close(&self) {
        let Some(log) = self.task.take() else { return };
        let (now_ms, wall_ms) = (self.now_ms(), wall_ms());
        if let Err(error) = log.close((now_ms > wall_ms).then_some(now_ms)) {
            tracing::error!(%error, "the last answers by Idempotency-Key are not on disk");
        }
    }
}
