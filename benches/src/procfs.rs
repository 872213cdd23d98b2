//! What a process uses, from `/proc`. CPU time is in nanoseconds from the scheduler's own account
//! of each thread, which has no ten-millisecond steps.

use std::fs;
use std::path::PathBuf;

use crate::fault::{Context, Fault, Outcome};

/// Nanoseconds in one `utime`/`stime` tick, where the scheduler's account is not compiled in.
const TICK_NS: u64 = 10_000_000;

/// CPU time of all living threads of `pid`, in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> Outcome<u64> {
    match threads_ns(pid, "")? {
        Some(total) => Ok(total),
        None => ticks_ns(pid),
    }
}

/// The same of the threads whose name begins with `name`; 0 where the scheduler's account is not
/// compiled in.
pub(crate) fn cpu_ns_of(pid: u32, name: &str) -> Outcome<u64> {
    Ok(threads_ns(pid, name)?.unwrap_or(0))
}

fn threads_ns(pid: u32, name: &str) -> Outcome<Option<u64>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("cannot list threads")?;
    let mut total = 0;
    for task in tasks {
        let path = task.context("cannot list threads")?.path();
        if !name.is_empty()
            && !fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with(name))
        {
            continue;
        }
        let Ok(text) = fs::read_to_string(path.join("schedstat")) else { return Ok(None) };
        total += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Some(total))
}

/// Bytes it has caused to be written to a disk, now or later.
pub(crate) fn written_bytes(pid: u32) -> Outcome<u64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/io")).context("cannot read what it wrote")?;
    let field = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Fault::Failed("cannot understand /proc/PID/io".to_owned()))
}

fn ticks_ns(pid: u32) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read CPU time")?;
    // The command's name may hold anything but ends at the last parenthesis; utime and stime are
    // the 12th and 13th fields after it.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * TICK_NS)
}

/// Resident memory in bytes.
pub(crate) fn rss_bytes(pid: u32) -> Outcome<u64> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        && let Some(kib) = text.lines().find_map(|line| line.strip_prefix("Rss:"))
        && let Some(Ok(kib)) = kib.split_whitespace().next().map(str::parse::<u64>)
    {
        return Ok(kib * 1024);
    }
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).context("cannot read memory")?;
    let pages = text.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok());
    pages
        .map(|pages| pages * rustix::param::page_size() as u64)
        .ok_or_else(|| Fault::Failed("cannot understand /proc/PID/statm".to_owned()))
}

/// Open file descriptors.
pub(crate) fn open_files(pid: u32) -> Outcome<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("cannot list open files")?.count())
}

/// The kernel threads that finish network work which a process has left to them; a server can look
/// cheap by leaving more.
#[derive(Debug)]
pub(crate) struct Softirqs(Vec<PathBuf>);

impl Softirqs {
    pub(crate) fn find() -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let named = processes.map(|process| process.path()).filter(|path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
        });
        Self(named.map(|path| path.join("schedstat")).collect())
    }

    pub(crate) fn cpu_ns(&self) -> u64 {
        let texts = self.0.iter().filter_map(|path| fs::read_to_string(path).ok());
        texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_accounts_of_cpu_time_agree() {
        let (pid, mut sum, start) = (std::process::id(), 0u64, std::time::Instant::now());
        while start.elapsed().as_millis() < 200 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let (fine, coarse) = (cpu_ns(pid).expect("schedstat"), ticks_ns(pid).expect("stat"));
        assert!(fine > 0 && coarse > 0);
        // Other tests' threads may have ended, which only the coarse account keeps.
        assert!(fine <= coarse + 100_000_000, "{fine} {coarse}");
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let pid = std::process::id();
        assert!(rss_bytes(pid).expect("memory") > 100_000);
        assert!(open_files(pid).expect("files") >= 3);
        assert!(written_bytes(pid).is_ok());
        assert!(cpu_ns_of(pid, "no such thread").expect("threads") == 0);
    }
}
