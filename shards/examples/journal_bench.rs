//! What the journal costs: `cargo run --release -p ara-shards --example journal_bench --
//! DIRECTORY`.
//!
//! Appends records of 300 bytes in commits of 256, by fsync policy: as fast as the journal takes
//! them, and one commit at a time. Beside it, the same bytes by plain writes. Then recovery,
//! compaction and the release of 60,000 live records. Removes what it has written.

#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ara_shards::journal::{AppendError, Fsync, Full, Journal, Options, Position};
use ara_shards::link::doorbell::Doorbell;

const RECORD: [u8; 300] = [0x61; 300];
const COMMIT: u32 = 256;
const LIVE: usize = 60_000;
const SEGMENT_BYTES: usize = 16 * 1024 * 1024;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// CPU time of one thread or of all, in nanoseconds.
fn cpu(all: bool) -> Outcome<u64> {
    let mut sum = 0;
    let own = fs::read_link("/proc/thread-self")?;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if all || own.file_name() == task.file_name() {
            let text = fs::read_to_string(task.join("schedstat"))?;
            sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// A doorbell that wakes this thread, and a journal that rings it.
fn open(options: &Options) -> Outcome<(Journal, Arc<Doorbell>)> {
    let this = thread::current();
    let bell = Arc::new(Doorbell::new(move || this.unpark()));
    let (journal, _) = Journal::open(options, |_, _| {}, Arc::clone(&bell))?;
    Ok((journal, bell))
}

fn fresh(directory: &Path) -> Outcome<PathBuf> {
    let directory = directory.join("journal_bench");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir(&directory)?;
    Ok(directory)
}

fn options(directory: &Path, fsync: Fsync) -> Options {
    let directory = directory.to_owned();
    Options { directory, segment_bytes: SEGMENT_BYTES as u64, fsync, ..Options::default() }
}

/// Waits until the doorbell has rung, then takes the reports.
fn wait(journal: &mut Journal, bell: &Doorbell) {
    while !bell.answer() {
        thread::park();
    }
    journal.poll();
}

/// Appends `commits` × 256 records as fast as they are taken; beyond 60,000 live the oldest are
/// released.
fn throughput(name: &str, directory: &Path, fsync: Fsync, commits: u32) -> Outcome<()> {
    let (mut journal, bell) = open(&options(&fresh(directory)?, fsync))?;
    let mut live: VecDeque<Position> = VecDeque::new();
    let (own, all, begin) = (cpu(false)?, cpu(true)?, Instant::now());
    for _ in 0..commits {
        for _ in 0..COMMIT {
            let position = loop {
                match journal.append(&RECORD) {
                    Ok(position) => break position,
                    Err(AppendError::Full(Full::Buffer)) => {
                        journal.flush();
                        wait(&mut journal, &bell);
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            live.push_back(position);
            if live.len() > LIVE {
                live.pop_front().map(|position| journal.release(position));
            }
        }
        journal.flush();
        if bell.answer() {
            journal.poll();
        }
    }
    let commit_point = journal.flush();
    while journal.committed() < commit_point {
        wait(&mut journal, &bell);
    }
    let records = f64::from(commits * COMMIT);
    let took = begin.elapsed();
    let (own, all) = ((cpu(false)? - own) as f64, (cpu(true)? - all) as f64);
    println!(
        "{name:<22} {:>7.0} k/s   CPU/record: shard {:>4.0} ns, both {:>4.0} ns   {} syncs",
        records / took.as_secs_f64() / 1000.0,
        own / records,
        all / records,
        journal.stats().syncs
    );
    Ok(journal.close()?)
}

/// Plain writes of the same bytes, with a sync after each commit or without.
fn raw(name: &str, directory: &Path, sync: bool, commits: u32) -> Outcome<()> {
    let directory = fresh(directory)?;
    let commit = RECORD.repeat(COMMIT as usize);
    let (own, begin) = (cpu(false)?, Instant::now());
    let (mut file, mut bytes, mut files) = (None::<File>, 0, 0);
    for _ in 0..commits {
        if file.is_none() || bytes + commit.len() > SEGMENT_BYTES {
            file = Some(File::create(directory.join(format!("{files}")))?);
            (bytes, files) = (0, files + 1);
            if files > 2 {
                fs::remove_file(directory.join(format!("{}", files - 3)))?;
            }
        }
        if let Some(file) = &mut file {
            file.write_all(&commit)?;
            if sync {
                file.sync_data()?;
            }
        }
        bytes += commit.len();
    }
    let records = f64::from(commits * COMMIT);
    println!(
        "{name:<22} {:>7.0} k/s   CPU/record: {:>4.0} ns",
        records / begin.elapsed().as_secs_f64() / 1000.0,
        (cpu(false)? - own) as f64 / records,
    );
    Ok(())
}

/// One commit at a time: the time from the flush until the doorbell rings.
fn latency(name: &str, directory: &Path, fsync: Fsync, commits: u32) -> Outcome<()> {
    let (mut journal, bell) = open(&options(&fresh(directory)?, fsync))?;
    let mut times = Vec::new();
    for _ in 0..commits {
        let positions: Vec<_> =
            (0..COMMIT).map(|_| journal.append(&RECORD)).collect::<Result<_, _>>()?;
        let begin = Instant::now();
        let commit_point = journal.flush();
        while journal.committed() < commit_point {
            wait(&mut journal, &bell);
        }
        times.push(begin.elapsed());
        for position in positions {
            journal.release(position);
        }
    }
    times.sort_unstable();
    let at = |percent: usize| {
        let index = (times.len() * percent / 100).min(times.len() - 1);
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    println!("{name:<22} commit p50 {:.2} ms, p99 {:.2}, max {:.2}", at(50), at(99), at(100));
    Ok(journal.close()?)
}

/// Recovery of 60,000 live records among as many dead ones, their compaction, and their release.
fn recovery(directory: &Path) -> Outcome<()> {
    let options = options(&fresh(directory)?, Fsync::Always);
    let options = Options { segment_bytes: 4 * 1024 * 1024, ..options };
    let (mut journal, bell) = open(&options)?;
    for _ in 0..3 * LIVE {
        while let Err(AppendError::Full(Full::Buffer)) = journal.append(&RECORD) {
            journal.flush();
            wait(&mut journal, &bell);
        }
    }
    journal.close()?;
    let begin = Instant::now();
    let mut live = Vec::new();
    let this = thread::current();
    let bell = Arc::new(Doorbell::new(move || this.unpark()));
    let on_record = |position, _: &[u8]| live.push(position);
    let (mut journal, _) = Journal::open(&options, on_record, Arc::clone(&bell))?;
    println!("recovery of {} records: {:.0} ms", live.len(), begin.elapsed().as_secs_f64() * 1e3);

    let mut index = 0;
    live.retain(|position| {
        index += 1;
        index % 3 == 0 || !journal.release(*position)
    });
    let (own, begin) = (cpu(false)?, Instant::now());
    let mut moved = 0_u32;
    let mut idle = Instant::now();
    while idle.elapsed() < Duration::from_millis(200) {
        let more = journal.compact(64 * 1024, |_, _, _| moved += 1);
        journal.flush();
        if more || bell.answer() {
            idle = Instant::now();
        } else {
            thread::park_timeout(Duration::from_millis(1));
        }
        journal.poll();
    }
    let took = begin.elapsed().saturating_sub(Duration::from_millis(200));
    println!(
        "compaction: {moved} records moved in {:.0} ms, {:.0} ns of the shard's CPU each; {} MB left",
        took.as_secs_f64() * 1e3,
        (cpu(false)? - own) as f64 / f64::from(moved.max(1)),
        journal.stats().disk_bytes / 1_000_000
    );
    Ok(journal.close()?)
}

fn notes(directory: &Path) -> Outcome<()> {
    let (mut journal, bell) = open(&options(&fresh(directory)?, Fsync::Always))?;
    let mut live = Vec::new();
    while live.len() < LIVE {
        match journal.append(&RECORD) {
            Ok(position) => live.push(position),
            Err(_) => {
                journal.flush();
                wait(&mut journal, &bell);
            }
        }
    }
    let (own, begin) = (cpu(false)?, Instant::now());
    for positions in live.chunks(COMMIT as usize) {
        for position in positions {
            while journal.note(&[0; 24]).is_err() {
                wait(&mut journal, &bell);
            }
            journal.release(*position);
        }
        journal.flush();
        journal.poll();
    }
    let commit_point = journal.flush();
    while journal.committed() < commit_point {
        wait(&mut journal, &bell);
    }
    println!(
        "death of {LIVE} records, each with a note: {:.1} ms, {:.0} ns of the shard's CPU each",
        begin.elapsed().as_secs_f64() * 1e3,
        (cpu(false)? - own) as f64 / LIVE as f64
    );
    Ok(journal.close()?)
}

fn main() -> Outcome<()> {
    let directory = std::env::args().nth(1).ok_or("name a directory on the disk to measure")?;
    let directory = Path::new(&directory);
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find(|line| line.starts_with("model name")).unwrap_or("unknown CPU");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let path = fs::canonicalize(directory)?;
    let mount = mounts
        .lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|at| path.starts_with(at)))
        .max_by_key(|line| line.split(' ').nth(1).map(str::len));
    println!("{model}, {} threads, Linux {}", thread::available_parallelism()?, kernel.trim());
    println!("{}\n", mount.unwrap_or("unknown mount"));

    let second = Fsync::Interval(Duration::from_secs(1));
    raw("write", directory, false, 8000)?;
    throughput("journal, never", directory, Fsync::Never, 8000)?;
    throughput("journal, interval 1 s", directory, second, 8000)?;
    raw("write + fdatasync", directory, true, 4000)?;
    throughput("journal, always", directory, Fsync::Always, 8000)?;
    println!();
    latency("always", directory, Fsync::Always, 2000)?;
    latency("interval 1 s", directory, second, 2000)?;
    latency("never", directory, Fsync::Never, 2000)?;
    println!();
    recovery(directory)?;
    notes(directory)?;
    Ok(fs::remove_dir_all(directory.join("journal_bench"))?)
}
