//! A journal at work on the router's thread: tasks change it, and wait until the disk has that.
//!
//! **Runs on**: the router's thread; [`Bell::new`] on main. **Owns**: a log until it is closed.
//! **Never**: blocks for the disk; knows what the log says.

use std::cell::RefCell;
use std::fs::DirBuilder;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ara_shards::journal::storage::file_system_bytes;
use ara_shards::journal::{AppendError, CommitPoint, Condition, Fsync, Full, OpenError, Options};
use ara_shards::link::doorbell::Doorbell;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::supervise::Supervisor;

/// The longest a change waits for the disk.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(2);

/// A journal, and what its records mean to its owner.
pub trait Log: 'static {
    /// What is to be done once per turn. Whether there is more to do at once.
    fn turn(&mut self) -> bool;
    /// That there is somebody who writes.
    ///
    /// # Errors
    ///
    /// The writer is gone.
    fn check(&self) -> io::Result<()>;
    /// How far the records under this commit point have come, as of the last turn.
    fn progress(&self, commit_point: CommitPoint) -> Progress;
}

/// How far a record has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is on its way.
    Waiting,
    /// It is where the fsync policy wants it.
    Committed,
    /// The files cannot be written.
    Failing(Condition),
}

impl Progress {
    /// That of a record, from what its journal said last.
    #[must_use]
    pub fn of(commit_point: CommitPoint, committed: CommitPoint, condition: &Condition) -> Self {
        match condition {
            _ if commit_point <= committed => Self::Committed,
            Condition::Sound => Self::Waiting,
            condition => Self::Failing(condition.clone()),
        }
    }
}

/// What a journal's writer rings, and what that wakes.
#[derive(Debug, Clone)]
pub struct Bell {
    /// For the journal.
    pub doorbell: Arc<Doorbell>,
    wake: Arc<Notify>,
}

impl Bell {
    /// A bell that has been rung once: a log that was just opened has something to hand over.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is no value but a connection")]
    pub fn new() -> Self {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        wake.notify_one();
        Self { doorbell: Arc::new(Doorbell::new(move || waker.notify_one())), wake }
    }
}

/// Makes the directory of a journal if it is missing, and says how the journal is opened there. A
/// journal reserves room for a segment: on a small file system it gets the smaller ones of the range.
///
/// # Errors
///
/// The directory cannot be made.
pub fn directory_options(
    directory: PathBuf,
    segment_bytes: RangeInclusive<u64>,
    max_disk_bytes: u64,
    fsync: Fsync,
) -> Result<Options, OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
    let (smallest, largest) = segment_bytes.into_inner();
    let fitting = file_system_bytes(&directory).map_or(largest, |bytes| bytes / 64);
    let segment_bytes = fitting.clamp(smallest, largest);
    Ok(Options { directory, segment_bytes, max_disk_bytes, fsync })
}

/// A log, for tasks of the router's thread.
#[derive(Debug)]
pub struct JournalTask<L> {
    /// `None` once it is closed.
    log: RefCell<Option<L>>,
    bell: Bell,
    /// A turn is over.
    progress: Notify,
}

impl<L: Log> JournalTask<L> {
    /// Begins to serve a log whose journal rings this bell.
    pub fn start(name: &'static str, log: L, bell: Bell, supervisor: &Supervisor) -> Rc<Self> {
        let log = RefCell::new(Some(log));
        let task = Rc::new(Self { log, bell, progress: Notify::new() });
        supervisor.spawn(name, Rc::clone(&task).serve());
        task
    }

    /// Until the log is closed, or its writer is gone.
    async fn serve(self: Rc<Self>) -> io::Result<()> {
        loop {
            self.bell.wake.notified().await;
            self.bell.doorbell.answer();
            let Some(more) = self.with_log(|log| {
                let more = log.turn();
                log.check().map(|()| more)
            }) else {
                return Ok(());
            };
            let more = more?;
            self.progress.notify_waiters();
            if more {
                self.bell.wake.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Writes with `put` and returns when that is committed.
    ///
    /// # Errors
    ///
    /// It is not, for this reason: it may be on the disk later all the same.
    pub async fn persist(
        &self,
        put: impl FnMut(&mut L) -> Result<CommitPoint, AppendError>,
    ) -> Result<(), String> {
        let late = |_elapsed| format!("the disk needs longer than {COMMIT_DEADLINE:?}");
        timeout(COMMIT_DEADLINE, self.try_to_persist(put)).await.map_err(late)?
    }

    async fn try_to_persist(
        &self,
        mut put: impl FnMut(&mut L) -> Result<CommitPoint, AppendError>,
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
    pub fn change<T>(&self, change: impl FnOnce(&mut L) -> T) -> Option<T> {
        self.bell.wake.notify_one();
        self.with_log(change)
    }

    /// Takes the log away, to be closed. What waits for it hears that.
    pub fn take(&self) -> Option<L> {
        self.bell.wake.notify_one();
        self.progress.notify_waiters();
        self.log.borrow_mut().take()
    }

    fn with_log<T>(&self, with: impl FnOnce(&mut L) -> T) -> Option<T> {
        self.log.borrow_mut().as_mut().map(with)
    }
}
