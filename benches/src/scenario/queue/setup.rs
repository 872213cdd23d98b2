//! The gateway's settings for one store, the directories it writes to, and what its `/stats` counts.
//!
//! **Runs on**: the tool's one thread. **Owns**: a directory below the one to measure, removed with
//! all in it at the end. **Never**: touches a file beside it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::{Common, Store};
use crate::fault::{Context, Outcome, failed};
use crate::gateway::Gateway;
use crate::http;

/// Where this run may write.
#[derive(Debug)]
pub(super) struct Scratch {
    root: PathBuf,
}

impl Scratch {
    pub(super) fn new(parent: &Path) -> Outcome<Self> {
        fs::create_dir_all(parent).context("cannot make the directory to measure")?;
        let parent = parent.canonicalize().context("cannot find the directory to measure")?;
        let name = format!("ara-bench-queue-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let root = parent.join(name);
        fs::create_dir(&root).context("cannot make a directory on the disk to measure")?;
        Ok(Self { root })
    }

    /// An empty directory: what was in it before is deleted.
    pub(super) fn fresh(&self) -> Outcome<PathBuf> {
        fs::remove_dir_all(&self.root).context("cannot empty the directory to measure")?;
        let path = self.root.join("data");
        fs::create_dir_all(&path).context("cannot make a directory on the disk to measure")?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            crate::progress(&format!("cannot remove {}: {error}", self.root.display()));
        }
    }
}

/// The options with the environment that turns the queue on, and acknowledgement if asked for.
/// What the command line sets still wins.
pub(super) fn with_queue(common: &Common, store: Store, path: &Path, ack: bool) -> Common {
    let path = path.display().to_string();
    let mut settings = vec![
        ("QUEUE_ENABLED", "true"),
        ("QUEUE_MAX_SIZE_PER_USER", "0"),
        ("QUEUE_MESSAGE_TTL_SECONDS", "86400"),
        ("ACK_ENABLED", if ack { "true" } else { "false" }),
        ("ACK_TIMEOUT_SECONDS", "86400"),
    ];
    if let Some(fsync) = store.fsync() {
        settings.extend([
            ("QUEUE_BACKEND", "disk"),
            ("QUEUE_PATH", path.as_str()),
            ("QUEUE_FSYNC", fsync),
            ("QUEUE_MAX_DISK_BYTES", "68719476736"),
        ]);
    }
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    common.with_environment(settings.into_iter().map(owned))
}

/// What waits and what awaits its Ack, as the gateway counts it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Held {
    pub(super) waiting: u64,
    pub(super) pending: u64,
}

#[derive(Deserialize)]
struct Stats {
    queue: QueueStats,
    ack: AckStats,
}

#[derive(Deserialize)]
struct QueueStats {
    size: u64,
}

#[derive(Deserialize)]
struct AckStats {
    pending_count: u64,
}

pub(super) fn held(gateway: &Gateway) -> Outcome<Held> {
    let (status, body) = http::get(gateway.address, "/stats", &gateway.api_key)?;
    if status != 200 {
        return failed(format!("/stats answered {status}"));
    }
    let stats: Stats = serde_json::from_slice(&body).context("/stats")?;
    Ok(Held { waiting: stats.queue.size, pending: stats.ack.pending_count })
}

/// Fails if the gateway does not hold exactly this.
pub(super) fn check_held(gateway: &Gateway, waiting: u64, pending: u64) -> Outcome<()> {
    let (found, wanted) = (held(gateway)?, Held { waiting, pending });
    if found == wanted {
        return Ok(());
    }
    failed(format!("the gateway says {found:?} where there should be {wanted:?}"))
}
