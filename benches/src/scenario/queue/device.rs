//! The same bytes by plain writes in the same directory: what the disk itself can do.
//!
//! **Runs on**: the tool's one thread, which waits for the disk here as a gateway never may.
//! **Owns**: the files it writes. **Never**: measures anything else meanwhile.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::setup::Scratch;
use crate::cli::QueueArgs;
use crate::fault::{Context, Outcome};
use crate::figures::{Figure, percentile_us};
use crate::stop::Stop;

/// About the size of the record of one message: a notification of 200 bytes and its header.
const RECORD_BYTES: usize = 300;
/// Messages written together.
const BATCH: u32 = 256;

pub(super) fn round(args: &QueueArgs, scratch: &Scratch, stop: &Stop) -> Outcome<Vec<Figure>> {
    let directory = scratch.fresh()?;
    let batches = (args.users * args.messages).div_ceil(BATCH);
    let records = f64::from(batches * BATCH);
    let begin = Instant::now();
    write(&directory.join("plain"), batches, false, stop)?;
    let plain = records / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut syncs = write(&directory.join("synced"), batches, true, stop)?;
    let synced = records / begin.elapsed().as_secs_f64();
    syncs.sort_unstable();
    let label = |how: &str| format!("{how}, {BATCH} × {RECORD_BYTES} B at a time");
    Ok(vec![
        Figure::one("plain_per_second", label("Plain write") + ", records", "/s", plain),
        Figure::one("synced_per_second", label("Write and fdatasync") + ", records", "/s", synced),
        Figure::one("sync_p50_us", "One write and fdatasync, p50", "µs", percentile_us(&syncs, 50)),
        Figure::one("sync_p99_us", "One write and fdatasync, p99", "µs", percentile_us(&syncs, 99)),
    ])
}

/// Appends `batches` to a new file; returns how long each took.
fn write(path: &Path, batches: u32, sync: bool, stop: &Stop) -> Outcome<Vec<Duration>> {
    let batch = vec![0x61; RECORD_BYTES * BATCH as usize];
    let mut file = File::create(path).context("cannot write to the directory to measure")?;
    let mut times = Vec::new();
    for _ in 0..batches {
        stop.check()?;
        let begin = Instant::now();
        file.write_all(&batch).context("cannot write to the directory to measure")?;
        if sync {
            file.sync_data().context("cannot sync the file to measure")?;
        }
        times.push(begin.elapsed());
    }
    Ok(times)
}
