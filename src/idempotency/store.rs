//! The store of the keys: opening it, and what it was opened with until the router takes it over.
//!
//! **Runs on**: main, before any thread is started. **Owns**: a directory.
//! **Never**: starts on a directory that another process has open.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ara_shards::journal::{Fsync, Journal, OpenError, Position, RecoveryReport};
use ara_shards::link::doorbell::Doorbell;

use super::clock::{Clock, wall_ms};
use super::keys::KnownRequest;
use super::log::Log;
use super::record::Serial;
use super::recovery::Recovery;
use crate::journal_task::{Bell, directory_options};

/// Where the store is, below `queue.path`.
const DIRECTORY: &str = "answers";
/// The longest record, an answer with thousands of names, is 1 MiB.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// What is too long for a segment as small as this is remembered in memory only.
const SEGMENT_BYTES_MIN: u64 = 256 * 1024;
/// Live are at most 64 MiB of bodies and 100,000 times 288 bytes of what goes with them, which is
/// 92 MiB. A journal wants twice that and two segments.
const DISK_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// The answers of a former process, and the journal for those of this one.
#[derive(Debug)]
pub struct ResponseStore {
    pub(super) log: Log,
    pub(super) known: Vec<KnownRequest>,
    pub(super) next_serial: Serial,
    pub(super) clock: Clock,
    /// Rung by the journal's writer.
    pub(super) bell: Bell,
}

impl ResponseStore {
    /// Opens the store below `queue_path`, which is made if it is missing. Blocks until all is
    /// read.
    ///
    /// # Errors
    ///
    /// The directory cannot be used, or another process has it open.
    pub fn open(queue_path: &Path, fsync: Fsync) -> Result<Self, OpenError> {
        let directory = queue_path.join(DIRECTORY);
        let segment_bytes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES;
        let options = directory_options(directory, segment_bytes, DISK_BYTES_MAX, fsync)?;
        Self::open_with(wall_ms(), |take, bell| Journal::open(&options, take, bell))
    }

    /// The store over whatever journal `open` opens, at `wall_ms` by the wall clock.
    pub(super) fn open_with(
        wall_ms: u64,
        open: impl FnOnce(
            &mut dyn FnMut(Position, &[u8]),
            Arc<Doorbell>,
        ) -> Result<(Journal, RecoveryReport), OpenError>,
    ) -> Result<Self, OpenError> {
        let bell = Bell::new();
        let mut recovery = Recovery::default();
        let mut take = |position, bytes: &[u8]| recovery.take(position, bytes);
        let (journal, report) = open(&mut take, Arc::clone(&bell.doorbell))?;
        let mut recovered = recovery.conclude(wall_ms);
        let known = std::mem::take(&mut recovered.known);
        tell(&report, known.len(), recovered.unknown);
        let next_serial = recovered.next_serial;
        let clock = Clock::new(recovered.now_ms, Instant::now());
        Ok(Self { log: Log::new(journal, recovered), known, next_serial, clock, bell })
    }
}

fn tell(report: &RecoveryReport, remembered: usize, unknown: u64) {
    if report.is_damaged() || report.read_error.is_some() || unknown > 0 {
        tracing::warn!(
            remembered,
            damages = report.damages,
            damaged_bytes = report.damaged_bytes,
            read_error = report.read_error,
            unknown,
            "some answers by Idempotency-Key could not be read and are forgotten"
        );
    } else if report.files > 0 {
        tracing::info!(remembered, "answers by Idempotency-Key of a former run");
    }
}
