//! Templates on disk: beside what waits, in a journal of their own.
//!
//! **Runs on**: main opens it, the router's thread changes it. **Owns**: a directory. **Never**: says
//! that a change is made before the disk has it, as the fsync policy says; starts on a directory that
//! another process has open.
//!
//! A change has a number, and of two that concern one template the later counts. A template is
//! written whole; one that is deleted leaves a note. A change that the disk did not take in time is
//! undone by a note, since it may be on the disk later all the same.

mod log;
mod record;
mod recovery;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ara_shards::journal::{
    AppendError, CommitPoint, Fsync, Journal, OpenError, Position, RecoveryReport,
};
use ara_shards::link::doorbell::Doorbell;

use super::catalog::BYTES_MAX;
use super::template::Template;
use crate::journal_task::{Bell, JournalTask, directory_options};
use crate::supervise::Supervisor;
use crate::telemetry::LogLimiter;
use log::Log;
use recovery::Recovery;

/// Where the templates are, below `queue.path`.
const DIRECTORY: &str = "templates";
/// Many times the longest record.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// Still longer than the longest record, for small file systems.
const SEGMENT_BYTES_MIN: u64 = 256 * 1024;
/// At most one line about changes that were not made in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// What is live is counted with more than it is long here. A journal wants twice that and some
/// segments.
const DISK_BYTES_MAX: u64 = 2 * BYTES_MAX as u64 + 16 * SEGMENT_BYTES;

/// The templates of a former process, and the journal for changes of this one.
#[derive(Debug)]
pub struct TemplateFiles {
    log: Log,
    templates: Vec<(Arc<str>, Template)>,
    bell: Bell,
}

impl TemplateFiles {
    /// Opens the files below `queue_path`, which are made if they are missing. Blocks until all is
    /// read.
    ///
    /// # Errors
    ///
    /// The directory cannot be used, or another process has it open.
    pub fn open(queue_path: &Path, fsync: Fsync) -> Result<Self, OpenError> {
        let directory = queue_path.join(DIRECTORY);
        let segment_bytes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES;
        let options = directory_options(directory, segment_bytes, DISK_BYTES_MAX, fsync)?;
        Self::open_with(|take, bell| Journal::open(&options, take, bell))
    }

    /// The files over whatever journal `open` opens.
    fn open_with(
        open: impl FnOnce(
            &mut dyn FnMut(Position, &[u8]),
            Arc<Doorbell>,
        ) -> Result<(Journal, RecoveryReport), OpenError>,
    ) -> Result<Self, OpenError> {
        let bell = Bell::new();
        let mut recovery = Recovery::default();
        let mut take = |position, bytes: &[u8]| recovery.take(position, bytes);
        let (journal, report) = open(&mut take, Arc::clone(&bell.doorbell))?;
        let recovered = recovery.conclude();
        tell(&report, recovered.templates.len(), recovered.unknown);
        let (log, templates) = Log::new(journal, recovered);
        Ok(Self { log, templates, bell })
    }

    /// What was found, and the way for changes.
    pub(super) fn start(
        self,
        supervisor: &Supervisor,
    ) -> (Vec<(Arc<str>, Template)>, TemplateWriter) {
        let Self { log, templates, bell } = self;
        let task = JournalTask::start("template-writer", log, bell, supervisor);
        let limiter = RefCell::new(LogLimiter::new(WARN_INTERVAL));
        (templates, TemplateWriter { task, limiter })
    }
}

/// Writes changes, one at a time.
#[derive(Debug)]
pub(super) struct TemplateWriter {
    task: Rc<JournalTask<Log>>,
    limiter: RefCell<LogLimiter>,
}

impl TemplateWriter {
    /// Writes that a template is this from now on.
    ///
    /// # Errors
    ///
    /// The disk has not taken it, for this reason. It is as if it had never been written.
    pub(super) async fn store(&self, tenant: &Arc<str>, template: &Template) -> Result<(), String> {
        self.change(tenant, &template.id, |log, change| log.store(change, tenant, template)).await
    }

    /// Writes that a template is no more.
    ///
    /// # Errors
    ///
    /// As [`Self::store`].
    pub(super) async fn delete(&self, tenant: &Arc<str>, id: &str) -> Result<(), String> {
        self.change(tenant, id, |log, change| log.delete(change, tenant, id)).await
    }

    async fn change(
        &self,
        tenant: &Arc<str>,
        id: &str,
        put: impl Fn(&mut Log, record::Change) -> Result<CommitPoint, AppendError>,
    ) -> Result<(), String> {
        let change =
            self.task.change(Log::begin).ok_or_else(|| "the gateway is stopping".to_owned())?;
        let written = self.task.persist(|log| put(log, change)).await;
        self.task.change(|log| match &written {
            Ok(()) => log.confirm(change, tenant, id),
            Err(_reason) => log.undo(change),
        });
        if let Err(reason) = &written
            && let Some(suppressed) = self.limiter.borrow_mut().admit(Instant::now())
        {
            tracing::warn!(%reason, suppressed, "a template is not changed: the disk has not taken it");
        }
        written
    }

    /// Writes what is left and gives the directory back. Blocks, for the disk only.
    pub(super) fn close(&self) {
        let Some(log) = self.task.take() else { return };
        if let Err(error) = log.close() {
            tracing::error!(%error, "the last changes of templates are not on disk");
        }
    }
}

fn tell(report: &RecoveryReport, templates: usize, unknown: u64) {
    if report.is_damaged() || report.read_error.is_some() || unknown > 0 {
        tracing::error!(
            templates,
            damages = report.damages,
            damaged_bytes = report.damaged_bytes,
            read_error = report.read_error,
            unknown,
            "some templates could not be read and are gone: look through those that are left"
        );
    } else if report.files > 0 {
        tracing::info!(templates, "templates of a former run");
    }
}

#[cfg(test)]
mod tests;
