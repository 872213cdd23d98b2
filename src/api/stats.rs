//! `GET /stats`: every shard as it was between two of its turns.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: mixes two moments of one shard.

use ara_shards::base::counters::{DiskSnapshot, ShardSnapshot};
use ara_shards::base::disk_health::DiskHealth;
use ara_shards::link::message::Query;
use serde::Serialize;

use super::Api;
use crate::refusal::Refusal;
use crate::telemetry;

#[derive(Serialize)]
pub(super) struct Stats {
    uptime_seconds: u64,
    connections: Connections,
    users: Users,
    channels: Channels,
    messages: Messages,
    queue: Queue,
    ack: Ack,
    redis: Redis,
    log: LogLines,
    tasks: Tasks,
    shards: Vec<Shard>,
}

#[derive(Serialize)]
struct LogLines {
    /// Not read in time, or not to be written.
    dropped: u64,
}

#[derive(Serialize)]
struct Tasks {
    /// Connections and requests that ended by a panic. That of anything else ends the process.
    panicked: u64,
}

#[derive(Serialize)]
struct Queue {
    enabled: bool,
    backend: &'static str,
    size: usize,
    users: usize,
    enqueued: u64,
    replayed: u64,
    expired: u64,
    dropped: u64,
    /// What the disk did not take.
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Disk>,
}

/// The disk backend, over all shards.
#[derive(Serialize)]
struct Disk {
    /// The worst of them.
    status: &'static str,
    bytes: u64,
    max_bytes: u64,
    records: u64,
    uncommitted_bytes: u64,
    syncs: u64,
    lost_records: u64,
}

#[derive(Serialize)]
struct Ack {
    enabled: bool,
    total_tracked: u64,
    total_acked: u64,
    total_expired: u64,
    total_timeouts: u64,
    dead_letters: u64,
    /// Of those, how many were forgotten at the end of their time.
    dead_letters_expired: u64,
    pending_count: usize,
    ack_rate: f64,
    avg_latency_ms: f64,
}

#[derive(Serialize)]
struct Connections {
    total: usize,
    websocket: usize,
    sse: usize,
    max: usize,
    opened: u64,
    closed: u64,
    refused_full: u64,
    refused_per_user: u64,
    slow_consumers: u64,
    timeouts: u64,
    protocol_violations: u64,
}

#[derive(Serialize)]
struct Users {
    connected: usize,
}

#[derive(Serialize)]
struct Channels {
    active_on_shards: usize,
    subscriptions: usize,
}

#[derive(Serialize)]
struct Messages {
    triggers: u64,
    refused_overloaded: u64,
    delivered: u64,
    failed: u64,
    shed: u64,
    discarded: u64,
    received: u64,
    received_refused: u64,
    heartbeats: u64,
}

#[derive(Serialize)]
struct Redis {
    status: &'static str,
    connected: bool,
    circuit_breaker_state: &'static str,
    circuit_breaker_failures: u32,
    reconnection_attempts: u64,
    total_reconnections: u64,
    messages_received: u64,
    messages_not_sent: u64,
    messages_rejected: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Shard {
    shard: usize,
    core: Option<usize>,
    connections: usize,
    users: usize,
    channels: usize,
    subscriptions: usize,
    inbox_depth: usize,
    outbox_bytes: usize,
    unfinished_bytes: usize,
    queue_size: usize,
    ack_pending: usize,
    delivered: u64,
    failed: u64,
    turns: u64,
    writes: u64,
}

/// Asks every shard and adds up.
pub(super) async fn report(api: &Api) -> Result<Stats, Refusal> {
    let snapshots = api.router.ask_all(Query::Snapshot).await?;
    let snapshots: Vec<ShardSnapshot> = snapshots.into_iter().map(|snapshot| *snapshot).collect();
    let overview = api.router.overview();
    let sum = |of: fn(&ShardSnapshot) -> u64| snapshots.iter().map(of).sum();
    let count = |of: fn(&ShardSnapshot) -> usize| snapshots.iter().map(of).sum();
    let websocket: usize = count(|s| s.websocket_connections);
    let sse: usize = count(|s| s.sse_connections);
    let depths = overview.inbox_depths.iter();
    Ok(Stats {
        uptime_seconds: overview.uptime.as_secs(),
        connections: Connections {
            total: websocket + sse,
            websocket,
            sse,
            max: overview.connections_max,
            opened: sum(|s| s.counters.connections_opened),
            closed: sum(|s| s.counters.connections_closed),
            refused_full: overview.counters.refused_full,
            refused_per_user: sum(|s| s.counters.connections_refused),
            slow_consumers: sum(|s| s.counters.slow_consumers),
            timeouts: sum(|s| s.counters.timeouts),
            protocol_violations: sum(|s| s.counters.violations),
        },
        users: Users { connected: count(|s| s.users) },
        channels: Channels {
            active_on_shards: count(|s| s.channels),
            subscriptions: count(|s| s.subscriptions),
        },
        messages: Messages {
            triggers: overview.counters.triggers,
            refused_overloaded: overview.counters.overloaded,
            delivered: sum(|s| s.counters.frames_delivered),
            failed: sum(|s| s.counters.frames_failed),
            shed: sum(|s| s.counters.frames_shed),
            discarded: sum(|s| s.counters.frames_discarded),
            received: sum(|s| s.counters.messages_received),
            received_refused: sum(|s| s.counters.messages_refused),
            heartbeats: sum(|s| s.counters.heartbeats),
        },
        queue: queue(api.messages.queue, &snapshots),
        ack: ack(api.messages.ack, &snapshots),
        redis: redis(api),
        log: LogLines { dropped: telemetry::dropped_lines() },
        tasks: Tasks { panicked: telemetry::panics() },
        shards: snapshots.iter().zip(depths).enumerate().map(Shard::from).collect(),
    })
}

fn disk(snapshots: &[ShardSnapshot]) -> Option<Disk> {
    let disks = || snapshots.iter().filter_map(|snapshot| snapshot.disk.as_ref());
    let sum = |of: fn(&DiskSnapshot) -> u64| disks().map(of).sum();
    let worst = disks().map(|disk| disk.health).max()?;
    Some(Disk {
        status: disk_status(worst),
        bytes: sum(|disk| disk.bytes),
        max_bytes: sum(|disk| disk.bytes_max),
        records: sum(|disk| disk.records),
        uncommitted_bytes: sum(|disk| disk.uncommitted_bytes),
        syncs: sum(|disk| disk.syncs),
        lost_records: sum(|disk| disk.lost_records),
    })
}

/// The word for a disk's health.
pub(super) const fn disk_status(health: DiskHealth) -> &'static str {
    match health {
        DiskHealth::Sound => "ok",
        DiskHealth::Behind => "behind",
        DiskHealth::Limit => "limit",
        DiskHealth::Full => "full",
        DiskHealth::Failed => "failing",
    }
}

fn queue(enabled: bool, snapshots: &[ShardSnapshot]) -> Queue {
    let disk = disk(snapshots);
    let sum = |of: fn(&ShardSnapshot) -> u64| snapshots.iter().map(of).sum();
    let count = |of: fn(&ShardSnapshot) -> usize| snapshots.iter().map(of).sum();
    Queue {
        enabled,
        backend: if disk.is_some() { "disk" } else { "memory" },
        size: count(|s| s.queue_size),
        users: count(|s| s.queue_users),
        enqueued: sum(|s| s.counters.queue_enqueued),
        replayed: sum(|s| s.counters.queue_replayed),
        expired: sum(|s| s.counters.queue_expired),
        dropped: sum(|s| s.counters.queue_dropped),
        refused: sum(|s| s.counters.queue_refused),
        disk,
    }
}

fn ack(enabled: bool, snapshots: &[ShardSnapshot]) -> Ack {
    let sum = |of: fn(&ShardSnapshot) -> u64| snapshots.iter().map(of).sum();
    let (tracked, acked): (u64, u64) = (sum(|s| s.counters.ack_tracked), sum(|s| s.counters.acked));
    Ack {
        enabled,
        total_tracked: tracked,
        total_acked: acked,
        total_expired: sum(|s| s.counters.ack_expired),
        total_timeouts: sum(|s| s.counters.ack_timeouts),
        dead_letters: sum(|s| s.counters.dead_letters),
        dead_letters_expired: sum(|s| s.counters.dead_letters_expired),
        pending_count: snapshots.iter().map(|s| s.ack_pending).sum(),
        ack_rate: ratio(acked, tracked),
        avg_latency_ms: ratio(sum(|s| s.counters.ack_latency_ms_sum), acked),
    }
}

/// `part / whole`, 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl From<(usize, (&ShardSnapshot, &usize))> for Shard {
    fn from((shard, (snapshot, inbox_depth)): (usize, (&ShardSnapshot, &usize))) -> Self {
        Self {
            shard,
            core: snapshot.core,
            connections: snapshot.websocket_connections + snapshot.sse_connections,
            users: snapshot.users,
            channels: snapshot.channels,
            subscriptions: snapshot.subscriptions,
            inbox_depth: *inbox_depth,
            outbox_bytes: snapshot.outbox_bytes,
            unfinished_bytes: snapshot.unfinished_bytes,
            queue_size: snapshot.queue_size,
            ack_pending: snapshot.ack_pending,
            delivered: snapshot.counters.frames_delivered,
            failed: snapshot.counters.frames_failed,
            turns: snapshot.counters.turns,
            writes: snapshot.counters.writes,
        }
    }
}

fn redis(api: &Api) -> Redis {
    let snapshot = api.redis.snapshot();
    let rejected = snapshot.rejected.iter().map(|(name, count)| ((*name).into(), (*count).into()));
    Redis {
        status: snapshot.state.as_str(),
        connected: snapshot.connected,
        circuit_breaker_state: snapshot.breaker_state.as_str(),
        circuit_breaker_failures: snapshot.breaker_failures,
        reconnection_attempts: snapshot.reconnection_attempts,
        total_reconnections: snapshot.total_reconnections,
        messages_received: snapshot.messages_received,
        messages_not_sent: snapshot.not_sent,
        messages_rejected: rejected.collect(),
    }
}
