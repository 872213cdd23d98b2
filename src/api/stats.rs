//! `GET /stats`: every shard as it was between two of its turns.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: mixes two moments of one shard;
//! counts, or names a figure that [`FIGURES`] could name.

use ara_shards::base::counters::ShardSnapshot;
use ara_shards::base::disk_health::DiskHealth;
use ara_shards::link::message::Query;
use http::StatusCode;
use serde::Serialize;
use serde::ser::Serializer;

use super::{Api, HttpResponse, json};
use crate::figures::{ByShard, FIGURES, Sources};
use crate::refusal::Refusal;

/// The body of the response. What is flattened comes from the table, the rest is made of it.
#[derive(Serialize)]
struct Stats<'a> {
    uptime_seconds: u64,
    connections: Section<'a>,
    users: Section<'a>,
    channels: Section<'a>,
    messages: Section<'a>,
    queue: Queue<'a>,
    ack: Ack<'a>,
    ratelimit: RateLimit<'a>,
    redis: Redis<'a>,
    log: Section<'a>,
    tasks: Section<'a>,
    shards: Vec<Shard<'a>>,
}

/// The figures of one section.
struct Section<'a> {
    name: &'static str,
    sources: &'a Sources,
}

#[derive(Serialize)]
struct Queue<'a> {
    enabled: bool,
    backend: &'static str,
    #[serde(flatten)]
    figures: Section<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Disk<'a>>,
}

/// The disk backend, over all shards.
#[derive(Serialize)]
struct Disk<'a> {
    /// The worst of them.
    status: &'static str,
    #[serde(flatten)]
    figures: Section<'a>,
}

#[derive(Serialize)]
struct Ack<'a> {
    enabled: bool,
    #[serde(flatten)]
    figures: Section<'a>,
    ack_rate: f64,
    avg_latency_ms: f64,
}

#[derive(Serialize)]
struct RateLimit<'a> {
    enabled: bool,
    #[serde(flatten)]
    figures: Section<'a>,
}

#[derive(Serialize)]
struct Redis<'a> {
    status: &'static str,
    connected: bool,
    circuit_breaker_state: &'static str,
    #[serde(flatten)]
    figures: Section<'a>,
    messages_rejected: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Shard<'a> {
    shard: usize,
    core: Option<usize>,
    #[serde(flatten)]
    figures: FiguresOfShard<'a>,
}

/// The figures that are shown for each shard, of one.
struct FiguresOfShard<'a> {
    shard: usize,
    sources: &'a Sources,
}

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let figures = FIGURES.iter().filter(|figure| figure.section == self.name);
        let shown = figures.filter_map(|figure| Some((figure.field?, self.sources.value(figure))));
        serializer.collect_map(shown)
    }
}

impl Serialize for FiguresOfShard<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(FIGURES.iter().filter_map(|figure| {
            let ByShard { field, .. } = figure.by_shard?;
            Some((field, self.sources.value_of_shard(figure, self.shard)))
        }))
    }
}

/// Asks every shard and adds up.
pub(super) async fn show(api: &Api) -> Result<HttpResponse, Refusal> {
    let shards = api.router.ask_all(Query::Snapshot).await?;
    let shards = shards.into_iter().map(|snapshot| *snapshot).collect();
    let sources = Sources { shards, router: api.router.overview(), redis: api.redis.snapshot() };
    let stats = Stats::new(&sources, api.enabled.queue, api.enabled.ack);
    Ok(json(StatusCode::OK, &stats))
}

impl<'a> Stats<'a> {
    fn new(sources: &'a Sources, queue_enabled: bool, ack_enabled: bool) -> Self {
        let section = |name| Section { name, sources };
        Self {
            uptime_seconds: sources.router.uptime.as_secs(),
            connections: section("connections"),
            users: section("users"),
            channels: section("channels"),
            messages: section("messages"),
            queue: Queue::new(sources, queue_enabled),
            ack: Ack::new(sources, ack_enabled),
            ratelimit: RateLimit {
                enabled: sources.router.rate_limits.enabled,
                figures: section("ratelimit"),
            },
            redis: Redis::new(sources),
            log: section("log"),
            tasks: section("tasks"),
            shards: sources
                .shards
                .iter()
                .enumerate()
                .map(|(shard, snapshot)| Shard {
                    shard,
                    core: snapshot.core,
                    figures: FiguresOfShard { shard, sources },
                })
                .collect(),
        }
    }
}

impl<'a> Queue<'a> {
    fn new(sources: &'a Sources, enabled: bool) -> Self {
        let disks = sources.shards.iter().filter_map(|shard| shard.disk.as_ref());
        let worst = disks.map(|disk| disk.health).max();
        let figures = Section { name: "disk", sources };
        Self {
            enabled,
            backend: if worst.is_some() { "disk" } else { "memory" },
            figures: Section { name: "queue", sources },
            disk: worst.map(|worst| Disk { status: disk_status(worst), figures }),
        }
    }
}

/// The word for a disk's health.
const fn disk_status(health: DiskHealth) -> &'static str {
    match health {
        DiskHealth::Sound => "ok",
        DiskHealth::Behind => "behind",
        DiskHealth::Limit => "limit",
        DiskHealth::Full => "full",
        DiskHealth::Failed => "failing",
    }
}

impl<'a> Ack<'a> {
    fn new(sources: &'a Sources, enabled: bool) -> Self {
        let sum = |of: fn(&ShardSnapshot) -> u64| sources.shards.iter().map(of).sum();
        let acked = sum(|shard| shard.counters.acked);
        Self {
            enabled,
            figures: Section { name: "ack", sources },
            ack_rate: ratio(acked, sum(|shard| shard.counters.ack_tracked)),
            avg_latency_ms: ratio(sum(|shard| shard.counters.ack_latency_ms_sum), acked),
        }
    }
}

/// `part / whole`, 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl<'a> Redis<'a> {
    fn new(sources: &'a Sources) -> Self {
        let redis = &sources.redis;
        let rejected = redis.rejected.iter().map(|(name, count)| ((*name).into(), (*count).into()));
        Self {
            status: redis.state.as_str(),
            connected: redis.connected,
            circuit_breaker_state: redis.breaker_state.as_str(),
            figures: Section { name: "redis", sources },
            messages_rejected: rejected.collect(),
        }
    }
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
