//! The time from SIGKILL until every queued message is loaded again.
//!
//! **Runs on**: the tool's one thread. **Owns**: the gateways, one after the other on the same
//! directory. **Never**: lets a gateway that is killed shut down in good order first.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::pump::{WIDE, is_queued, pump};
use super::setup::{Scratch, check_held, held, with_queue};
use crate::caller::{ENVELOPE_BYTES, NUMBERED_BYTES, Users};
use crate::cli::{Common, QueueArgs, Store};
use crate::fault::{Context, Outcome};
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::stop::Stop;
use crate::subscriber::Transport;
use crate::{http, procfs, progress};

const EACH: u32 = 10;
const TARGET_SECONDS: f64 = 5.0;
const HEALTHY_WITHIN: Duration = Duration::from_secs(300);
/// Users of one trigger, at most.
const USERS_AT_ONCE: u32 = 10_000;

pub(super) fn measure(
    args: &QueueArgs,
    store: Store,
    scratch: &Scratch,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let directory = scratch.fresh()?;
    let common = with_queue(&args.common, store, &directory, false);
    let gateway = Gateway::start(&common, common.shards, stop)?;
    fill(args, &gateway, &common, stop)?;
    let count = u64::from(args.recovery_users) * u64::from(EACH);
    check_held(&gateway, count, 0)?;
    let filled = procfs::rss_bytes(gateway.pid())?;
    gateway.kill()?;
    let (on_disk, _) = all_files(&directory, |_| Ok(()))?;
    progress("killed; starting again, files in the page cache");
    let (healthy, there, gateway) = restart(&common, count, stop)?;
    let recovered = procfs::rss_bytes(gateway.pid())?;
    gateway.kill()?;
    all_files(&directory, |file| {
        file.sync_all().context("cannot sync a file")?;
        fadvise(file, 0, None, Advice::DontNeed).context("cannot drop a file's cached pages")
    })?;
    progress("killed; starting again, files on the disk only");
    let (cold_healthy, cold_there, gateway) = restart(&common, count, stop)?;
    gateway.end()?;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    let seconds = |key, label: &str, time: Duration| {
        Figure::one(key, label, "s", time.as_secs_f64()).at_most(TARGET_SECONDS)
    };
    Ok(vec![
        Figure::one("messages", "Messages that waited at SIGKILL", "", count as f64),
        Figure::one("on_disk_mib", "Files", "MiB", mib(on_disk)),
        seconds("healthy_s", "Start to an answer of /health", healthy),
        seconds("recovered_s", "Start until /stats counts all messages", there),
        seconds("cold_healthy_s", "Start to an answer of /health, nothing cached", cold_healthy),
        seconds(
            "cold_recovered_s",
            "Start until /stats counts all messages, nothing cached",
            cold_there,
        ),
        Figure::one("rss_filled_mib", "RSS before SIGKILL", "MiB", mib(filled)),
        Figure::one("rss_recovered_mib", "RSS after recovery", "MiB", mib(recovered)),
    ])
}

fn fill(args: &QueueArgs, gateway: &Gateway, common: &Common, stop: &Stop) -> Outcome<()> {
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.add_callers(WIDE.callers)?;
    let payload = (args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES).max(NUMBERED_BYTES);
    let api = gateway.api(payload);
    let mut first = 0;
    while first < args.recovery_users {
        let count = USERS_AT_ONCE.min(args.recovery_users - first);
        let users = Users::new(first, count);
        pump(&mut swarm, WIDE, EACH, |seq| api.to_users(&users, seq, None), is_queued)?;
        first += count;
    }
    Ok(())
}

/// Starts it on what is there; the times until it answers, and until it has `count` messages.
fn restart(common: &Common, count: u64, stop: &Stop) -> Outcome<(Duration, Duration, Gateway)> {
    let begin = Instant::now();
    let mut gateway = Gateway::launch(common, common.shards, stop)?;
    gateway.wait(HEALTHY_WITHIN, "did not answer /health", stop, |gateway| {
        let answer = http::get(gateway.address, "/health", &gateway.api_key);
        Ok(matches!(answer, Ok((200, _))).then_some(()))
    })?;
    let healthy = begin.elapsed();
    gateway.wait(HEALTHY_WITHIN, "did not have all messages", stop, |gateway| {
        Ok((held(gateway)?.waiting == count).then_some(()))
    })?;
    Ok((healthy, begin.elapsed(), gateway))
}

/// Does this with every file below the directory; returns their bytes and their number.
fn all_files(
    directory: &Path,
    mut with: impl FnMut(&File) -> Outcome<()>,
) -> Outcome<(u64, usize)> {
    let (mut bytes, mut count) = (0, 0);
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).context("cannot list the gateway's files")? {
            let path = entry.context("cannot list the gateway's files")?.path();
            let file = File::open(&path).context("cannot open a file of the gateway")?;
            let about = file.metadata().context("cannot read about a file of the gateway")?;
            if about.is_dir() {
                directories.push(path);
            } else {
                with(&file)?;
                (bytes, count) = (bytes + about.len(), count + 1);
            }
        }
    }
    Ok((bytes, count))
}
