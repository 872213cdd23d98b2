//! What a disk's state means for the shard's callers, and what is logged of it.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: logs a disk that is merely
//! behind, or full by configuration, more than once in ten seconds.

use std::time::Duration;

use super::DiskStore;
use crate::base::id::Tick;
use crate::journal::Condition;
use crate::link::message::DiskHealth;

/// How often at most a disk that is behind, or at its limit, is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl DiskStore {
    /// Whether nothing can be committed.
    pub(super) fn is_broken(&self) -> bool {
        self.health >= DiskHealth::Full
    }

    /// Looks after the disk's health, and logs what somebody has to do something about.
    pub(super) fn examine(&mut self, now: Tick) {
        let before = self.reported_health;
        self.health = match self.journal.condition() {
            Condition::Full | Condition::Tight => DiskHealth::Full,
            Condition::Failed(_) => DiskHealth::Failed,
            Condition::Sound if self.watch.is_slow(now) => DiskHealth::Behind,
            Condition::Sound if self.journal.has_room() => DiskHealth::Sound,
            // What was refused stays so until there is some room; what was not is as it was.
            Condition::Sound => self.health.min(DiskHealth::Limit),
        };
        if self.health == before {
            return;
        }
        let is_due = self.logged_at.is_none_or(|at| now >= at.after(LOG_INTERVAL));
        match (self.health, self.journal.condition()) {
            (DiskHealth::Full, _) => {
                tracing::error!(
                    "queue.path: its file system is full; nothing new is queued until there is room"
                );
            }
            (_, Condition::Failed(reason)) => {
                tracing::error!(
                    %reason,
                    "queue.path cannot be written; nothing new is queued, trying again"
                );
            }
            (DiskHealth::Behind, _) if is_due => {
                self.logged_at = Some(now);
                tracing::warn!(
                    "queue.path: its disk does not keep up; who is to be queued for waits for it"
                );
            }
            (DiskHealth::Limit, _) if is_due => {
                self.logged_at = Some(now);
                tracing::warn!(
                    bytes_max = self.bytes_max,
                    "this shard's share of queue.max_disk_bytes is used up; nothing new is queued"
                );
            }
            (DiskHealth::Sound, _) if before >= DiskHealth::Full => {
                tracing::info!("queue.path can be written again");
            }
            _ => {}
        }
    }
}
