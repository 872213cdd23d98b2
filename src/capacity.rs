//! How many connections this process can hold by its file limit.
//!
//! **Runs on**: main, at start. **Owns**: nothing. **Never**: allows more than the limit holds, nor
//! lets the gateway start where it leaves no room for clients.

use crate::failure::Failure;

/// How the open-file limit is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The limit itself.
    pub files: usize,
    /// Client connections: as many as wanted, and never more than `clients_max`.
    pub clients: usize,
    /// The most client connections that fit.
    pub clients_max: usize,
    /// Callers of the HTTP API at a time.
    pub callers: usize,
    /// Sockets at each door that have not said who they are, or are being refused.
    pub handshakes_per_door: usize,
}

/// The most handshakes at all doors, however large the limit is. A head of 16 KiB each: 64 MiB.
const HANDSHAKES_MAX: usize = 4096;
/// The least of them.
const HANDSHAKES_MIN: usize = 16;
/// Logs, configuration, listeners, epoll and event descriptors of the process itself.
const OWN: usize = 64;
/// Descriptors of one shard: its poller twice, its doorbell, its runtime's three, its listener.
const PER_SHARD: usize = 8;
/// The most API callers, however large the limit is.
const CALLERS_MAX: usize = 4096;
/// The least room for API callers, however small the limit is.
const CALLERS_MIN: usize = 16;

/// The least room for clients to start with: where there is less, the limit is surely a mistake.
/// 128 open files, the smallest limit in use anywhere, are below it; 256, that of some desktops,
/// are not.
const CLIENTS_MIN: usize = 64;

/// Raises the open-file limit to its hard maximum and shares it out. `wanted` client connections
/// (0 = as many as fit) are never more than what fits.
///
/// # Errors
///
/// The limit leaves too little room, or cannot be read.
pub fn claim(shards: usize, wanted: usize) -> Result<Capacity, Failure> {
    let files = rlimit::increase_nofile_limit(u64::MAX)
        .or_else(|_not_raised| rlimit::Resource::NOFILE.get_soft())
        .map_err(|error| Failure::new(format!("the open-file limit cannot be read: {error}")))?;
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let capacity = share(files, shards, wanted);
    let enough = if wanted == 0 { CLIENTS_MIN } else { wanted.min(CLIENTS_MIN) };
    if capacity.clients < enough {
        return Err(Failure::new(too_few_files(capacity, shards, enough)));
    }
    Ok(capacity)
}

fn too_few_files(capacity: Capacity, shards: usize, enough: usize) -> String {
    let Capacity { files, clients, .. } = capacity;
    // The reserved part grows with the limit, so the needed limit is searched for.
    let holds = |files: &usize| share(*files, shards, 0).clients >= enough;
    let needed = (files..).find(holds).expect("what is reserved has a bound");
    format!(
        "the open-file limit of {files} leaves room for {clients} clients, and each client is an \
         open file: raise the hard limit to {needed} at the very least, better to the number of \
         clients and a tenth (ulimit -Hn; LimitNOFILE= under systemd; --ulimit nofile= with Docker)"
    )
}

fn share(files: usize, shards: usize, wanted: usize) -> Capacity {
    let callers = (files / 32).clamp(CALLERS_MIN, CALLERS_MAX);
    let handshakes = (files / 32).clamp(HANDSHAKES_MIN, HANDSHAKES_MAX);
    let reserved = callers + handshakes + OWN + PER_SHARD * shards;
    let fits = files.saturating_sub(reserved);
    let handshakes_per_door = (handshakes / shards).max(8);
    Capacity { files, clients: fits, clients_max: fits, callers, handshakes_per_door }
        .wanting(wanted)
}

impl Capacity {
    /// The same for `wanted` client connections; 0 = as many as fit.
    #[must_use]
    pub fn wanting(self, wanted: usize) -> Self {
        let clients = if wanted == 0 { self.clients_max } else { wanted.min(self.clients_max) };
        Self { clients, ..self }
    }

    /// Says so where fewer fit than are wanted.
    pub fn warn_if_short(self, wanted: usize) {
        if wanted > self.clients_max {
            tracing::warn!(
                wanted,
                possible = self.clients_max,
                file_limit = self.files,
                "server.max_connections is more than the open-file limit holds; raise it (ulimit -Hn)"
            );
        }
    }
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

    #[test]
    fn the_limit_that_a_refusal_names_is_enough_and_one_less_is_not() {
        for (shards, enough) in [(1, CLIENTS_MIN), (2, CLIENTS_MIN), (7, 10), (256, CLIENTS_MIN)] {
            let told = too_few_files(share(100, shards, 0), shards, enough);
            let needed: Vec<usize> = told
                .split(|character: char| !character.is_ascii_digit())
                .filter_map(|digits| digits.parse().ok())
                .collect();
            let [100, 0, needed] = needed[..] else { panic!("{told}") };
            assert!(share(needed, shards, 0).clients >= enough, "{told}");
            assert!(share(needed - 1, shards, 0).clients < enough, "{told}");
        }
    }
}
