//! The directory of the disk backend: whose it is, which shard's messages are where, and moving
//! them when the number of shards has changed.
//!
//! **Runs on**: main, before any shard starts. **Owns**: the directory, by its lock.
//! **Never**: leaves two truths behind: until the new layout's file has its name, the old counts.
//!
//! ```text
//! queue.path/lock              locked while a gateway runs
//! queue.path/layout            which generation counts, its shards, and what chooses among them
//! queue.path/generation-7/shard-0/*.journal
//! ```
//!
//! Users' homes come from a keyed hash. Its keys are drawn for each directory and kept in the
//! layout, so that the next run finds everybody where they were. If the number of shards differs,
//! or this processor's hash does, all messages are copied to a new generation first.

mod layout;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ara_shards::base::clock::Clock;
use ara_shards::base::placement::Placement;
use ara_shards::journal::storage::file_system_bytes;
use ara_shards::journal::{Fsync, Options};
use ara_shards::store::disk;

use crate::failure::Failure;
use crate::settings::Disk;
use layout::Layout;

/// The least a shard's journal needs: four segments of the least length that holds any record.
const SHARD_BYTES_MIN: u64 = 4 * SEGMENT_BYTES_MIN;
/// A record has at most the 64 KiB of a request's body, its audience once more, and its envelope.
const SEGMENT_BYTES_MIN: u64 = 256 * 1024;
/// Segments are deleted whole: many small ones free space sooner, few large ones cost less.
const SEGMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A journal's share in segments.
const SEGMENTS: u64 = 16;
/// What to do where a shard's share is too small.
pub const ENLARGE: &str = "raise queue.max_disk_bytes, or lower shards.count";
/// The file that names what counts.
const LAYOUT: &str = "layout";

/// The disk backend's directory, ours until it is dropped.
#[derive(Debug)]
pub struct Storage {
    /// Held, not read.
    _lock: File,
    options: Vec<Options>,
    placement: Placement,
}

impl Storage {
    /// Takes the directory, makes what is missing, and moves messages if that is needed.
    ///
    /// # Errors
    ///
    /// It cannot be made, locked, read or written.
    pub fn open(disk: &Disk, shards: usize, clock: Clock) -> Result<Self, Failure> {
        let fault = |doing: &str, error: &dyn std::fmt::Display| fault(&disk.path, doing, error);
        let bytes_max = share(disk.bytes_max, shards).map_err(|problem| {
            Failure::new(format!("queue.max_disk_bytes: {problem}: {ENLARGE}"))
        })?;
        fs::create_dir_all(&disk.path).map_err(|error| cannot_write(&disk.path, &error))?;
        // Its own entry must survive a loss of power too, as far as we may ask for that.
        let parent = disk.path.parent().and_then(|parent| File::open(parent).ok());
        let _best_effort = parent.map(|parent| parent.sync_all());
        let lock = lock(&disk.path)?;
        let file = disk.path.join(LAYOUT);
        let found = Layout::read(&file).map_err(|error| fault("reading its layout", &error))?;
        let layout = match found {
            Some(layout) if layout.serves(shards) => layout,
            Some(old) => migrate(disk, &old, shards, clock)?,
            None => {
                refuse_orphans(&disk.path)?;
                let first = Layout::first(shards);
                make(&disk.path, &first).map_err(|error| fault("making it", &error))?;
                first.write(&file).map_err(|error| fault("writing its layout", &error))?;
                first
            }
        };
        sweep(&disk.path, &layout);
        let options = journals(disk, &layout, bytes_max);
        Ok(Self { _lock: lock, options, placement: layout.placement() })
    }

    /// Where each shard's journal is, and within which bounds.
    #[must_use]
    pub fn options(&self) -> &[Options] {
        &self.options
    }

    /// What chooses users' homes.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// What each shard may keep of `bytes_max`, or why that is too little.
///
/// # Errors
///
/// It is less than a shard's journal needs.
pub fn share(bytes_max: u64, shards: usize) -> Result<u64, String> {
    let each = bytes_max / shards as u64;
    if each >= SHARD_BYTES_MIN {
        return Ok(each);
    }
    Err(format!(
        "{bytes_max} bytes are {each} for each of {shards} shards, which need {SHARD_BYTES_MIN} each"
    ))
}

/// What is most often wrong with a new directory, and its cure.
fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!(
        "queue.path: the directory {} cannot be made or written ({error}): set queue.path \
         (QUEUE_PATH) to a directory on a local disk that the gateway's user may write; under \
         systemd, StateDirectory=ara-gateway and WorkingDirectory=%S/ara-gateway make one",
        path.display()
    ))
}

fn fault(path: &Path, doing: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("queue.path: {}: {doing} failed: {error}", path.display()))
}

fn lock(path: &Path) -> Result<File, Failure> {
    let open = File::options().create(true).truncate(false).write(true).open(path.join("lock"));
    let file = open.map_err(|error| cannot_write(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
            "queue.path: {}: another process uses it: stop that, or choose another directory",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(fault(path, "locking it", &error)),
    }
}

/// Without a layout nobody knows which generation counts: what is there is not to be swept away.
fn refuse_orphans(path: &Path) -> Result<(), Failure> {
    let files = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().flatten();
    let generations = files(path.to_owned())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("generation-"));
    let mut journals = generations
        .flat_map(|generation| files(generation.path()))
        .flat_map(|shard| files(shard.path()))
        .filter(|file| file.file_name().to_string_lossy().ends_with(".journal"));
    if journals.next().is_none() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "queue.path: {}: there are notifications in it, but its file `{LAYOUT}` is missing: put it \
         back from where the rest came from, or choose another directory",
        path.display()
    )))
}

fn generation(path: &Path, layout: &Layout) -> PathBuf {
    path.join(format!("generation-{}", layout.generation))
}

/// Makes the directories of a generation.
fn make(path: &Path, layout: &Layout) -> io::Result<()> {
    for shard in 0..layout.shards {
        fs::create_dir_all(generation(path, layout).join(format!("shard-{shard}")))?;
    }
    File::open(generation(path, layout))?.sync_all()?;
    File::open(path)?.sync_all()
}

fn journals(disk: &Disk, layout: &Layout, bytes_max: u64) -> Vec<Options> {
    // On a small file system small segments, whatever the bound: a journal reserves room for one.
    let shards = layout.shards as u64;
    let system_bytes = file_system_bytes(&disk.path).map_or(u64::MAX, |bytes| bytes / shards);
    let share = bytes_max.min(system_bytes);
    let options = |shard| Options {
        directory: generation(&disk.path, layout).join(format!("shard-{shard}")),
        segment_bytes: (share / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
        max_disk_bytes: bytes_max,
        fsync: disk.fsync,
    };
    (0..layout.shards).map(options).collect()
}

/// Copies all messages to a new generation for `shards` shards, and makes that the one that counts.
fn migrate(disk: &Disk, old: &Layout, shards: usize, clock: Clock) -> Result<Layout, Failure> {
    let fault = |doing: &str, error: &dyn std::fmt::Display| fault(&disk.path, doing, error);
    tracing::info!(from = old.shards, to = shards, "moving queued notifications to their shards");
    let new = old.next(shards);
    let directory = generation(&disk.path, &new);
    // What an earlier try may have left.
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(|error| fault("making room in it", &error))?;
    }
    make(&disk.path, &new).map_err(|error| fault("making room in it", &error))?;
    // However they are spread now: the bounds hold for what comes.
    let unbounded = u64::MAX / 2;
    // The old files go next: what is copied must be on the disk, whatever the policy.
    let synced = Disk { fsync: Fsync::Always, ..disk.clone() };
    let (from, to) = (journals(disk, old, unbounded), journals(&synced, &new, unbounded));
    let rehomed = disk::rehome(&from, &to, clock, &new.placement()).map_err(|error| {
        // The next start tries again from what still counts.
        let _left = fs::remove_dir_all(&directory);
        let count = old.shards;
        let doing = format!("moving what is queued from {count} shards to {shards}");
        let advice = format!("{error}; nothing is lost: start with shards.count = {count}");
        fault(&doing, &advice)
    })?;
    rehomed.reports.iter().for_each(log_damage);
    new.write(&disk.path.join(LAYOUT)).map_err(|error| fault("writing its layout", &error))?;
    tracing::info!(messages = rehomed.messages, expired = rehomed.expired, "moved");
    Ok(new)
}

/// Removes generations that do not count: of a move that was interrupted, or is over.
fn sweep(path: &Path, layout: &Layout) {
    let current = generation(path, layout);
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries {
        let is_generation = entry.file_name().to_string_lossy().starts_with("generation-");
        if is_generation
            && entry.path() != current
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "cannot be removed");
        }
    }
}

/// Says what a journal had lost.
pub fn log_damage(report: &ara_shards::journal::RecoveryReport) {
    if report.torn_bytes > 0 || report.gap_bytes > 0 {
        let bytes = report.torn_bytes + report.gap_bytes;
        tracing::warn!(
            bytes,
            "the last write to queue.path was interrupted; nothing that queue.fsync promised was in it"
        );
    }
    if report.is_damaged() {
        tracing::error!(
            places = report.damages,
            bytes = report.damaged_bytes,
            "records in queue.path are damaged: what they held is lost, all else is kept"
        );
    }
    if let Some(error) = &report.read_error {
        tracing::error!(%error, "a file in queue.path cannot be read");
    }
}

#[cfg(test)]
mod tests;
