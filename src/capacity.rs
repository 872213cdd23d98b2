//! How many connections this process can hold, from its file limit.
//!
//! **Runs on**: main, at start. **Owns**: nothing. **Never**: promises more than the limit holds.

/// What the open-file limit is shared out to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The limit itself.
    pub files: usize,
    /// Client connections.
    pub clients: usize,
    /// Callers of the HTTP API at a time.
    pub callers: usize,
    /// Sockets at each door that have not said who they are, or are being refused.
    pub newcomers_per_door: usize,
}

/// The most newcomers at all doors, however large the limit is. A head of 16 KiB each: 64 MiB.
const NEWCOMERS_MAX: usize = 4096;
/// Logs, configuration, listeners, epoll and event descriptors of the process itself.
const OWN: usize = 64;
/// Descriptors of one shard: its poller twice, its bell, its runtime's three, its listener.
const PER_SHARD: usize = 8;
/// The most API callers, however large the limit is.
const CALLERS_MAX: usize = 4096;

/// Raises the open-file limit to its hard maximum and shares it out. `wanted` client connections
/// (0 = as many as fit) are never more than what fits.
#[must_use]
pub fn claim(shards: usize, wanted: usize) -> Capacity {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    share(usize::try_from(files).unwrap_or(usize::MAX), shards, wanted)
}

fn share(files: usize, shards: usize, wanted: usize) -> Capacity {
    let callers = (files / 32).clamp(16, CALLERS_MAX);
    let newcomers = (files / 32).clamp(16, NEWCOMERS_MAX);
    let reserved = callers + newcomers + OWN + PER_SHARD * shards;
    let fits = files.saturating_sub(reserved);
    let clients = if wanted == 0 { fits } else { wanted.min(fits) };
    let newcomers_per_door = (newcomers / shards.max(1)).max(8);
    Capacity { files, clients, callers, newcomers_per_door }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_is_left_and_no_more() {
        assert_eq!(share(20_000, 2, 0).clients, 20_000 - 2 * 625 - 64 - 16);
        assert_eq!(share(20_000, 2, 100).clients, 100);
        assert_eq!(share(1024, 2, 5000).clients, 1024 - 2 * 32 - 64 - 16);
    }
}
