//! The options of `queue`: what is measured, where messages wait, and how many of them.
//!
//! **Runs on**: the tool's one thread. **Owns**: nothing. **Never**: lets a load through that has
//! no bound.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

use super::{Common, connections};

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Part {
    /// Messages a second into the queue and out of it, in each store
    Rates,
    /// The same bytes by plain writes, in the same directory
    Device,
    /// Memory for each notification that waits
    Memory,
    /// Memory for each notification that awaits its Ack
    Pending,
    /// Time from a start after SIGKILL until all that waited is there
    Recovery,
    /// What queue and acknowledgement cost a publish to a client that is connected
    Connected,
    /// What one operation costs with 100, 1,000 and 10,000 waiting for its user
    Depth,
}

/// Where messages wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Store {
    /// In memory
    Memory,
    /// On disk, never synced
    Never,
    /// On disk, synced at an interval
    Interval,
    /// On disk, synced before they count as queued
    Always,
}

impl Store {
    /// As a heading.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Never => "disk, never",
            Self::Interval => "disk, interval",
            Self::Always => "disk, always",
        }
    }

    /// `queue.fsync`, where it is the disk.
    pub(crate) fn fsync(self) -> Option<&'static str> {
        match self {
            Self::Memory => None,
            Self::Never => Some("never"),
            Self::Interval => Some("interval"),
            Self::Always => Some("always"),
        }
    }
}

/// The options of `queue`.
#[derive(Clone, Debug, Args)]
pub(crate) struct QueueArgs {
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "rates,device,memory,pending,recovery,connected,depth"
    )]
    pub(crate) parts: Vec<Part>,
    /// Where messages wait, in turn
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "memory,never,interval,always"
    )]
    pub(crate) stores: Vec<Store>,
    /// On the disk to measure; what is written there is removed
    #[arg(long, default_value = "target", value_name = "PATH")]
    pub(crate) directory: PathBuf,
    /// A notification's JSON as the client gets it; at least 215 where arrivals are counted
    #[arg(long, default_value_t = 200, value_name = "COUNT", value_parser = value_parser!(u32).range(196..=60_000))]
    pub(crate) json_bytes: u32,
    /// rates: absent users of one trigger
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) users: u32,
    /// rates: messages for each of them
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) messages: u32,
    /// rates: users who return
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) replay_users: u32,
    /// rates: messages that wait for each of them
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) replay_messages: u32,
    /// rates: messages that wait for one more user
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) long_queue: u32,
    /// memory: absent users with 10 messages each; a fifth as many have 100 each
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u32).range(10..=200_000))]
    pub(crate) memory_users: u32,
    /// pending: connected users
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) pending_users: u32,
    /// pending: notifications that each of them leaves unacknowledged
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) pending_messages: u32,
    /// recovery: absent users with 10 messages each
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) recovery_users: u32,
    /// connected: users
    #[arg(long, default_value_t = 1_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// connected: keep-alive API connections, each with one publish in flight
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=2_000))]
    pub(crate) callers: u32,
    /// connected: how long each variant publishes
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(0..=600))]
    pub(crate) seconds: u64,
    /// Rounds of rates, device, connected and depth: all variants in turn, each with a fresh gateway
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl QueueArgs {
    pub(crate) fn measures(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}
