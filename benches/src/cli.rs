//! The command line: one subcommand for each scenario, and the options they share. Ranges are
//! checked here, so that every loop behind is bounded.

mod queue;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, value_parser};

pub(crate) use self::queue::{Part, QueueArgs, Store};
use crate::caller::PAYLOAD_BYTES_MIN;
use crate::subscriber::{Reply, Transport};

/// Measures the Ara gateway over loopback: memory and CPU for each connection, delivery and publish.
///
/// Starts the gateway itself, loads it from one non-blocking process, and stops it. The gateway and
/// this tool each need one file descriptor per connection: the soft open-file limit is raised to the
/// hard one, which is the most connections a run can have.
///
/// Exit codes: 0 the run is good, 1 it failed (a lost or duplicated message is a failure),
/// 2 bad usage, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "ara-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Memory and CPU of connections: opening them, and keeping them with heartbeats on
    Idle(IdleArgs),
    /// One channel, many subscribers: CPU per delivery, beside a bare loop of sends
    Fanout(FanoutArgs),
    /// One user at a time, many callers: CPU per publish, publishes per second, latency
    Unicast(UnicastArgs),
    /// Connect, subscribe and disconnect without a pause while publishing; all memory back after?
    Churn(ChurnArgs),
    /// Fan-out and unicast for several shard counts, side by side
    Shards(ShardsArgs),
    /// What waits and what awaits its Ack: rates, memory, recovery, the cost to who is connected
    Queue(QueueArgs),
    /// Triggers by a template beside plain ones of as many bytes: CPU per publish, and their ratio
    Templates(TemplatesArgs),
    /// Batches beside single sends: CPU for each notification, and the ratio
    Batch(BatchArgs),
    /// A tenant's notifications while another tenant sends many times as much: how long they take
    Fairness(FairnessArgs),
    /// All clients sent away at a stated rate, and how well that is kept
    Drain(DrainArgs),
    /// The reference server of `fanout`; started by the tool itself
    #[command(hide = true)]
    BareServer,
    /// A small server that answers like the gateway; started by `--stand-in`
    #[command(hide = true)]
    StandIn,
    /// Ties a child process to its parent and its cores, then runs its program
    #[command(hide = true)]
    Launch(LaunchArgs),
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// The gateway's program
    #[arg(long, default_value = "target/release/ara-gateway", value_name = "PATH")]
    pub(crate) gateway: PathBuf,
    /// Load a small built-in server instead: tests the tool, and shows what the generator can take
    #[arg(long)]
    pub(crate) stand_in: bool,
    /// Shards of the gateway (0: its own default)
    #[arg(long, default_value_t = 1)]
    pub(crate) shards: usize,
    /// Keep the gateway (and the reference) on --gateway-cores and this tool on --generator-core
    #[arg(long)]
    pub(crate) pin: bool,
    /// With --pin: cores of the servers
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "LIST")]
    gateway_cores: Vec<usize>,
    /// With --pin: core of this tool
    #[arg(long, default_value_t = 1, value_name = "CORE")]
    generator_core: usize,
    /// More environment variables for the gateway, which otherwise sees none of yours
    #[arg(long = "env", value_parser = key_value, value_name = "KEY=VALUE")]
    pub(crate) environment: Vec<(String, String)>,
    /// Keep what the gateway prints
    #[arg(long, value_name = "FILE")]
    pub(crate) gateway_log: Option<PathBuf>,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Fail when nothing arrives for this long
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Handshakes under way at a time
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=2_000))]
    pub(crate) at_once: u32,
}

impl Common {
    /// Empty where nothing is to be pinned.
    pub(crate) fn gateway_cores(&self) -> &[usize] {
        if self.pin { &self.gateway_cores } else { &[] }
    }

    pub(crate) fn generator_core(&self) -> Option<usize> {
        self.pin.then_some(self.generator_core)
    }

    /// With more of an environment for the gateway; what the command line says still wins.
    pub(crate) fn with_environment(&self, more: impl Iterator<Item = (String, String)>) -> Self {
        let environment = more.chain(self.environment.iter().cloned()).collect();
        Self { environment, ..self.clone() }
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    /// Connections, each of a user of its own
    #[arg(long, default_value_t = 10_000, value_parser = connections())]
    pub(crate) connections: u32,
    #[arg(long, value_enum, default_value_t = Transport::Ws)]
    pub(crate) transport: Transport,
    /// The channel each of them subscribes to
    #[arg(long, default_value = "bench", value_name = "CHANNEL", value_parser = channel)]
    pub(crate) subscribe: String,
    /// Connect without a channel
    #[arg(long, conflicts_with = "subscribe")]
    pub(crate) no_subscribe: bool,
    /// Channels of each connection: with more than one, the name gets a number
    #[arg(long, default_value_t = 1, value_name = "COUNT", conflicts_with = "no_subscribe", value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) channels_each: u32,
    /// Each connection has channels of its own instead of the same as all
    #[arg(long, conflicts_with = "no_subscribe")]
    pub(crate) distinct: bool,
    /// After the idle time, connect up to this many more in steps, as far as the limit allows
    #[arg(long, default_value_t = 9_000, value_name = "COUNT", value_parser = value_parser!(u32).range(0..=200_000))]
    pub(crate) grow: u32,
    /// How long to watch the idle connections
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(0..=3_600))]
    pub(crate) idle_seconds: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FanoutLoad {
    /// Subscribers of the channel
    #[arg(long, default_value_t = 10_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// Length of the notification's payload, as JSON
    #[arg(long, default_value_t = 150, value_parser = payload_bytes())]
    pub(crate) payload_bytes: u32,
    /// Publishes with one in flight
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) publishes: u32,
    /// Groups of back-to-back publishes
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) groups: u32,
    /// Publishes in a group
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(2..=64))]
    pub(crate) group_size: u32,
    /// Write a group on one keep-alive connection instead of one each
    #[arg(long)]
    pub(crate) pipelined: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) load: FanoutLoad,
    /// Rounds of gateway and reference, in turn, each with fresh processes
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Leave the reference out
    #[arg(long)]
    pub(crate) no_reference: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UnicastLoad {
    /// Connected users
    #[arg(long, default_value_t = 1_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// Keep-alive API connections, each with one publish in flight
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=2_000))]
    pub(crate) callers: u32,
    /// How long to publish
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Length of the notification's payload, as JSON
    #[arg(long, default_value_t = 150, value_parser = payload_bytes())]
    pub(crate) payload_bytes: u32,
    /// What a client sends in answer to each notification it gets
    #[arg(long, value_enum, default_value_t = Reply::None)]
    pub(crate) reply: Reply,
}

#[derive(Debug, Args)]
pub(crate) struct UnicastArgs {
    #[command(flatten)]
    pub(crate) load: UnicastLoad,
    /// Rounds, each with a fresh gateway
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct TemplatesArgs {
    /// Connected users
    #[arg(long, default_value_t = 1_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// Keep-alive connections that publish
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) callers: u32,
    /// How long to publish in each of a round's four stretches: plain, by the template, and again
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Length of the notification's payload, as JSON, by the template or not
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u32).range(300..=60_000))]
    pub(crate) payload_bytes: u32,
    /// Variables of eight characters within the payload's text, beside one that is a value
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(0..=30))]
    pub(crate) variables: u32,
    /// Rounds, each with a fresh gateway
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    /// Connected users
    #[arg(long, default_value_t = 1_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// Keep-alive connections that publish
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) callers: u32,
    /// Notifications in a batch
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(2..=100))]
    pub(crate) batch_size: u32,
    /// How long to publish in each of a round's four stretches: alone, in batches, and again
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Length of the notifications' payload, as JSON
    #[arg(long, default_value_t = 150, value_parser = payload_bytes())]
    pub(crate) payload_bytes: u32,
    /// Rounds, each with a fresh gateway
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct FairnessArgs {
    /// Connected users of the measured tenant
    #[arg(long, default_value_t = 100, value_parser = connections())]
    pub(crate) connections: u32,
    /// Sends a second of the measured tenant
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// Connections of the other tenant
    #[arg(long, default_value_t = 1_000, value_parser = connections())]
    pub(crate) flood_connections: u32,
    /// How many times as many frames the other tenant gets
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) factor: u32,
    /// How long to take the time in each of a round's five stretches: alone between two kinds of flood
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Length of the notifications' payload, as JSON
    #[arg(long, default_value_t = 150, value_parser = payload_bytes())]
    pub(crate) payload_bytes: u32,
    /// Rounds, each with a fresh gateway
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Connected clients
    #[arg(long, default_value_t = 5_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// How many of them are to be sent away in a second
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Rounds, each with a fresh gateway
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct ChurnArgs {
    /// Connections kept up while single ones come and go
    #[arg(long, default_value_t = 2_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// How long to go on
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// Publishes a second to all of them, one in flight
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) publish_rate: u32,
    /// Length of the notifications' payload, as JSON
    #[arg(long, default_value_t = 150, value_parser = payload_bytes())]
    pub(crate) payload_bytes: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct ShardsArgs {
    /// Shard counts to compare
    #[arg(long, default_value = "1,2", value_delimiter = ',', value_name = "LIST", value_parser = value_parser!(u32).range(1..=256))]
    pub(crate) counts: Vec<u32>,
    /// Subscribers of the fan-out
    #[arg(long, default_value_t = 5_000, value_parser = connections())]
    pub(crate) connections: u32,
    /// Connected users of the unicast part
    #[arg(long, default_value_t = 1_000, value_parser = connections())]
    pub(crate) unicast_connections: u32,
    /// How long each unicast part publishes
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Rounds of all counts, in turn, each with fresh gateways
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    #[arg(long = "core")]
    pub(crate) cores: Vec<usize>,
    #[arg(long)]
    pub(crate) parent: u32,
    pub(crate) program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

fn connections() -> clap::builder::RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=200_000)
}

fn payload_bytes() -> clap::builder::RangedI64ValueParser<u32> {
    let least = i64::try_from(PAYLOAD_BYTES_MIN).unwrap_or(i64::MAX);
    value_parser!(u32).range(least..=60_000)
}

fn channel(text: &str) -> Result<String, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(valid) {
        Ok(text.to_owned())
    } else {
        Err("a channel is 1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn unbounded_or_senseless_loads_are_refused() {
        for args in [
            &["ara-bench", "fanout", "--connections", "0"][..],
            &["ara-bench", "fanout", "--group-size", "65"],
            &["ara-bench", "fanout", "--payload-bytes", "3"],
            &["ara-bench", "unicast", "--seconds", "100000"],
            &["ara-bench", "idle", "--subscribe", "a b"],
            &["ara-bench", "idle", "--channels-each", "0"],
            &["ara-bench", "idle", "--no-subscribe", "--distinct"],
            &["ara-bench", "queue", "--users", "10001"],
            &["ara-bench", "queue", "--stores", "tape"],
            &["ara-bench", "templates", "--payload-bytes", "299"],
            &["ara-bench", "templates", "--variables", "31"],
            &["ara-bench", "batch", "--batch-size", "101"],
        ] {
            assert!(Cli::try_parse_from(args).is_err(), "{args:?}");
        }
    }
}
