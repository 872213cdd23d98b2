//! Every figure the gateway counts, in one table: its names, its meaning, and where it is read.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: counts: the owners do.
//!
//! `/stats` is made from this table, and so is whatever else shows figures, so that a counter has
//! one entry and the same word everywhere. A new counter of a shard is a line in `base::counters`
//! and a line here; `every_counter_of_a_shard_is_in_the_table` fails for one that is forgotten.

use ara_shards::base::counters::{DiskSnapshot, ShardSnapshot};

use crate::router::Overview;
use crate::{redis, telemetry};

/// Whether a figure only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows from 0 at the start of the process.
    Counter,
    /// How much there is at the moment.
    Gauge,
}

/// What a figure is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds in `/stats`; metrics are in seconds.
    Milliseconds,
}

/// Where a figure is read.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// On every shard; the figure is the sum.
    Shards(fn(&ShardSnapshot) -> u64),
    /// On the router: the depth of each shard's inbox; the figure is the sum.
    Inboxes,
    /// On the disk of every shard that has one; the figure is the sum.
    Disks(fn(&DiskSnapshot) -> u64),
    /// On the router.
    Router(fn(&Overview) -> u64),
    /// On the Redis subscriber.
    Redis(fn(&redis::Snapshot) -> u64),
    /// Once for the whole process.
    Process(fn() -> u64),
}

/// A figure's names where it is shown for each shard.
#[derive(Debug, Clone, Copy)]
pub struct ByShard {
    /// Its field in the entries of `shards` in `/stats`.
    pub field: &'static str,
    /// Its metric, labelled with the shard.
    pub metric: &'static str,
}

/// One figure.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its section in `/stats`.
    pub section: &'static str,
    /// Its field there; `None` = `/stats` shows it for each shard only, or what is made of it.
    pub field: Option<&'static str>,
    /// Its metrics: none where it is shown for each shard only, two where the first has a name that
    /// is not usual for its kind.
    pub metrics: &'static [&'static str],
    /// Its names where it is shown for each shard, if it is.
    pub by_shard: Option<ByShard>,
    /// What it means, in a sentence.
    pub help: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// Whether it only grows.
    pub kind: Kind,
    /// Where it is read.
    pub source: Source,
}

/// What the figures are read from, all of one moment.
#[derive(Debug)]
pub struct Sources {
    /// The shards, in their order.
    pub shards: Vec<ShardSnapshot>,
    /// The router.
    pub router: Overview,
    /// The Redis subscriber.
    pub redis: redis::Snapshot,
}

impl Sources {
    /// The value of a figure over the whole gateway.
    #[must_use]
    pub fn value(&self, figure: &Figure) -> u64 {
        match figure.source {
            Source::Shards(read) => self.shards.iter().map(read).sum(),
            Source::Inboxes => self.router.inbox_depths.iter().copied().map(size).sum(),
            Source::Disks(read) => {
                self.shards.iter().filter_map(|shard| shard.disk.as_ref()).map(read).sum()
            }
            Source::Router(read) => read(&self.router),
            Source::Redis(read) => read(&self.redis),
            Source::Process(read) => read(),
        }
    }

    /// The value of a figure that is shown for each shard, of one of them.
    #[must_use]
    pub fn value_of_shard(&self, figure: &Figure, shard: usize) -> u64 {
        const KNOWN: &str = "every shard has replied, and has an inbox";
        match figure.source {
            Source::Shards(read) => read(self.shards.get(shard).expect(KNOWN)),
            Source::Inboxes => size(*self.router.inbox_depths.get(shard).expect(KNOWN)),
            other => panic!("{other:?} is not read on shards"),
        }
    }
}

/// A size as a figure.
const fn size(count: usize) -> u64 {
    count as u64
}

/// The name of a field, or `_` where there is none.
macro_rules! field {
    (_) => {
        None
    };
    ($name:ident) => {
        Some(stringify!($name))
    };
}

/// The names for each shard, if there are any.
macro_rules! by_shard {
    () => {
        None
    };
    ($field:ident $metric:ident) => {
        Some(ByShard { field: stringify!($field), metric: stringify!($metric) })
    };
}

macro_rules! figures {
    ($(
        $section:ident.$field:tt: $kind:ident, $unit:ident, [$($metric:ident),*],
            {$($shard_field:ident: $shard_metric:ident)?}, $source:expr, $help:literal;
    )+) => {
        /// All figures. Those of one section, and those for each shard, stand in the order in which
        /// `/stats` shows them.
        pub const FIGURES: &[Figure] = {
            use Source::{Disks, Inboxes, Process, Redis, Router, Shards};
            &[$(Figure {
                section: stringify!($section),
                field: field!($field),
                metrics: &[$(stringify!($metric)),*],
                by_shard: by_shard!($($shard_field $shard_metric)?),
                help: $help,
                unit: Unit::$unit,
                kind: Kind::$kind,
                source: $source,
            }),+]
        };
    };
}

// Section and field in `/stats` (`_`: not there), kind, unit, metrics, the field and the metric where it
// is shown for each shard; where it is read, and what it means.
figures! {
    connections.total: Gauge, Count, [ara_connections_total, ara_connections], {connections: ara_shard_connections},
        Shards(|s| size(s.connections())), "Open connections.";
    connections.websocket: Gauge, Count, [ara_websocket_connections], {},
        Shards(|s| size(s.websocket_connections)), "Open WebSocket connections.";
    connections.sse: Gauge, Count, [ara_sse_connections], {},
        Shards(|s| size(s.sse_connections)), "Open SSE connections.";
    connections.max: Gauge, Count, [ara_connections_limit], {},
        Router(|r| size(r.connections_max)), "Connections the gateway admits.";
    connections.opened: Counter, Count, [ara_ws_connections_opened_total], {},
        Shards(|s| s.counters.connections_opened), "Clients taken over by a shard.";
    connections.closed: Counter, Count, [ara_ws_connections_closed_total], {},
        Shards(|s| s.counters.connections_closed), "Clients gone.";
    connections.refused_full: Counter, Count, [ara_connections_refused_full_total], {},
        Router(|r| r.counters.refused_full), "Clients refused because the gateway was full.";
    connections.refused_per_user: Counter, Count, [ara_connections_refused_per_user_total], {},
        Shards(|s| s.counters.connections_refused), "Clients refused because their user had too many connections.";
    connections.refused_per_tenant: Counter, Count, [ara_connections_refused_per_tenant_total], {},
        Router(|r| r.counters.refused_per_tenant), "Clients refused because their tenant had too many connections.";
    connections.replaced: Counter, Count, [ara_connections_replaced_total], {},
        Shards(|s| s.counters.connections_replaced), "Connections closed in favour of a newer one of their user (4409).";
    connections.slow_consumers: Counter, Count, [ara_slow_consumers_total], {},
        Shards(|s| s.counters.slow_consumers), "Connections closed because their outbox was full or did not move (4429).";
    connections.expired: Counter, Count, [ara_connections_expired_total], {},
        Shards(|s| s.counters.connections_expired), "Connections closed because their token had expired (4401).";
    connections.tokens_refreshed: Counter, Count, [ara_tokens_refreshed_total], {},
        Shards(|s| s.counters.tokens_refreshed), "Tokens that took the place of a connection's own.";
    connections.timeouts: Counter, Count, [ara_connection_timeouts_total], {},
        Shards(|s| s.counters.timeouts), "Connections closed because a ping was not answered in time (4408).";
    connections.protocol_violations: Counter, Count, [ara_protocol_violations_total], {},
        Shards(|s| s.counters.violations), "Connections closed for breaking the protocol (1002, 1007, 1009).";
    connections.rate_abuses: Counter, Count, [ara_connection_rate_abuses_total], {},
        Shards(|s| s.counters.rate_abuses), "Connections closed because they went on beyond their rate of messages (1008).";
    connections._: Counter, Count, [ara_connection_overloads_total], {},
        Shards(|s| s.counters.overloads), "Connections closed because the shard held too many unfinished messages (1013).";

    users.connected: Gauge, Count, [ara_users_connected], {users: ara_shard_users},
        Shards(|s| size(s.users)), "Users with at least one connection.";

    channels.active_on_shards: Gauge, Count, [ara_channels_active_on_shards], {channels: ara_shard_channels},
        Shards(|s| size(s.channels)), "Channels with subscribers, counted on each shard that has some.";
    channels.subscriptions: Gauge, Count, [ara_subscriptions], {subscriptions: ara_shard_subscriptions},
        Shards(|s| size(s.subscriptions)), "Subscriptions of all connections.";

    shards._: Gauge, Count, [], {inbox_depth: ara_shard_inbox_depth},
        Inboxes, "Messages that wait in inboxes.";
    shards._: Gauge, Bytes, [], {outbox_bytes: ara_outbox_bytes},
        Shards(|s| size(s.outbox_bytes)), "Bytes that wait in outboxes.";
    shards._: Gauge, Bytes, [], {unfinished_bytes: ara_unfinished_bytes},
        Shards(|s| size(s.unfinished_bytes)), "Bytes of client messages that are not complete.";

    queue.size: Gauge, Count, [ara_queue_size_total, ara_queue_size], {queue_size: ara_shard_queue_size},
        Shards(|s| size(s.queue_size)), "Notifications that wait in queues.";
    queue.users: Gauge, Count, [ara_queue_users_total, ara_queue_users], {},
        Shards(|s| size(s.queue_users)), "Users for whom notifications wait.";
    queue.enqueued: Counter, Count, [ara_queue_enqueued_total], {},
        Shards(|s| s.counters.queue_enqueued), "Notifications put into queues.";
    queue.replayed: Counter, Count, [ara_queue_replayed_total], {},
        Shards(|s| s.counters.queue_replayed), "Notifications sent from queues.";
    queue.expired: Counter, Count, [ara_queue_expired_total], {},
        Shards(|s| s.counters.queue_expired), "Notifications whose time to live ended in a queue.";
    queue.dropped: Counter, Count, [ara_queue_dropped_total], {},
        Shards(|s| s.counters.queue_dropped), "Notifications that gave way to others in a full queue, or were cleared.";
    queue.refused: Counter, Count, [ara_queue_refused_total], {},
        Shards(|s| s.counters.queue_refused), "Notifications that were to be queued and that the disk did not take.";
    queue.over_limit: Counter, Count, [ara_queue_over_limit_total], {},
        Shards(|s| s.counters.queue_over_limit), "Notifications that were to be queued and for which their tenant had no room.";

    disk.bytes: Gauge, Bytes, [ara_queue_disk_bytes], {},
        Disks(|d| d.bytes), "Bytes of journals, on the disk or on their way there.";
    disk.max_bytes: Gauge, Bytes, [ara_queue_disk_limit_bytes], {},
        Disks(|d| d.bytes_max), "The most bytes the journals may have.";
    disk.records: Gauge, Count, [ara_queue_disk_records], {},
        Disks(|d| d.records), "Records of journals that still matter.";
    disk.uncommitted_bytes: Gauge, Bytes, [ara_queue_disk_uncommitted_bytes], {},
        Disks(|d| d.uncommitted_bytes), "Bytes appended to journals and not committed.";
    disk.syncs: Counter, Count, [ara_queue_disk_syncs_total], {},
        Disks(|d| d.syncs), "Syncs of journals to the disk.";
    disk.lost_records: Counter, Count, [ara_queue_disk_lost_records_total], {},
        Disks(|d| d.lost_records), "Records of journals found damaged.";

    ack.total_tracked: Counter, Count, [ara_ack_tracked_total], {},
        Shards(|s| s.counters.ack_tracked), "Notifications sent that await an Ack, each counted once.";
    ack.total_acked: Counter, Count, [ara_ack_received_total], {},
        Shards(|s| s.counters.acked), "Acks that ended a notification.";
    ack.total_expired: Counter, Count, [ara_ack_expired_total], {},
        Shards(|s| s.counters.ack_expired), "Notifications not acknowledged that are no longer awaited.";
    ack.total_timeouts: Counter, Count, [ara_ack_timeouts_total], {},
        Shards(|s| s.counters.ack_timeouts), "Notifications not acknowledged in time, each time.";
    ack.dead_letters: Counter, Count, [ara_dead_letters_total], {},
        Shards(|s| s.counters.dead_letters), "Notifications that became dead letters after their last attempt.";
    ack.dead_letters_expired: Counter, Count, [ara_dead_letters_expired_total], {},
        Shards(|s| s.counters.dead_letters_expired), "Dead letters forgotten at the end of their time.";
    ack.pending_count: Gauge, Count, [ara_ack_pending], {ack_pending: ara_shard_ack_pending},
        Shards(|s| size(s.ack_pending)), "Notifications sent that await an Ack at the moment.";
    ack._: Counter, Milliseconds, [ara_ack_latency_seconds_total], {},
        Shards(|s| s.counters.ack_latency_ms_sum), "Times from sending to Ack, summed.";

    messages.triggers: Counter, Count, [ara_triggers_total], {},
        Router(|r| r.counters.triggers), "Triggers the shards took.";
    messages.refused_overloaded: Counter, Count, [ara_triggers_refused_total], {},
        Router(|r| r.counters.overloaded), "Triggers refused because an inbox was full.";
    messages.batches: Counter, Count, [ara_batch_requests_total], {},
        Router(|r| r.counters.batches), "Batches over HTTP and Redis, but for those refused as a whole.";
    messages.batch_notifications: Counter, Count, [ara_batch_notifications_total], {},
        Router(|r| r.counters.batch_notifications), "Notifications in batches, whatever became of each.";
    messages.delivered: Counter, Count, [ara_messages_delivered_total], {delivered: ara_shard_messages_delivered_total},
        Shards(|s| s.counters.frames_delivered), "Messages a socket or outbox took, over all recipients.";
    messages.failed: Counter, Count, [ara_messages_failed_total], {failed: ara_shard_messages_failed_total},
        Shards(|s| s.counters.frames_failed), "Messages a recipient's outbox did not take.";
    messages.shed: Counter, Count, [ara_messages_shed_total], {},
        Shards(|s| s.counters.frames_shed), "Notifications of priority Low not given to readers that are far behind; among the failed.";
    messages.discarded: Counter, Count, [ara_messages_discarded_total], {},
        Shards(|s| s.counters.frames_discarded), "Messages an outbox had taken and its closing connection did not write.";
    messages.received: Counter, Count, [ara_ws_messages_received_total], {},
        Shards(|s| s.counters.messages_received), "Messages clients sent.";
    messages.received_refused: Counter, Count, [ara_ws_messages_refused_total], {},
        Shards(|s| s.counters.messages_refused), "Client messages answered with an error.";
    messages.heartbeats: Counter, Count, [ara_heartbeats_total], {},
        Shards(|s| s.counters.heartbeats), "Heartbeats sent.";
    messages._: Counter, Count, [ara_deliveries_total], {},
        Shards(|s| s.counters.deliveries), "Deliveries the shards applied.";

    shards._: Counter, Count, [], {turns: ara_shard_turns_total},
        Shards(|s| s.counters.turns), "Turns of the shards' loops.";
    shards._: Counter, Count, [], {writes: ara_shard_writes_total},
        Shards(|s| s.counters.writes), "Write system calls on client sockets.";

    ratelimit.requests_allowed: Counter, Count, [ara_ratelimit_requests_allowed_total], {},
        Router(|r| r.rate_limits.requests.allowed), "Requests within their rate.";
    ratelimit.requests_denied: Counter, Count, [ara_ratelimit_requests_denied_total], {},
        Router(|r| r.rate_limits.requests.denied), "Requests refused for their rate.";
    ratelimit.connections_allowed: Counter, Count, [ara_ratelimit_connections_allowed_total], {},
        Router(|r| r.rate_limits.connections.allowed), "New connections within the rate of their address.";
    ratelimit.connections_denied: Counter, Count, [ara_ratelimit_connections_denied_total], {},
        Router(|r| r.rate_limits.connections.denied), "New connections refused for the rate of their address.";
    ratelimit.messages_allowed: Counter, Count, [ara_ratelimit_messages_allowed_total], {},
        Shards(|s| s.counters.messages_allowed), "Messages of clients within their rate.";
    ratelimit.messages_denied: Counter, Count, [ara_ratelimit_messages_denied_total], {},
        Shards(|s| s.counters.messages_denied), "Messages of clients refused for their rate.";
    ratelimit.failed_tokens_allowed: Counter, Count, [ara_ratelimit_failed_tokens_allowed_total], {},
        Router(|r| r.rate_limits.failed_tokens.allowed), "Tokens that were not valid, within the rate of their address.";
    ratelimit.failed_tokens_denied: Counter, Count, [ara_ratelimit_failed_tokens_denied_total], {},
        Router(|r| r.rate_limits.failed_tokens.denied), "Tokens refused because too many of their address were not valid, most of them unseen.";
    ratelimit.failed_keys_allowed: Counter, Count, [ara_ratelimit_failed_keys_allowed_total], {},
        Router(|r| r.rate_limits.failed_keys.allowed), "API keys that were not valid, within the rate of their address.";
    ratelimit.failed_keys_denied: Counter, Count, [ara_ratelimit_failed_keys_denied_total], {},
        Router(|r| r.rate_limits.failed_keys.denied), "API keys refused unseen because too many of their address were not valid.";
    ratelimit.untracked: Counter, Count, [ara_ratelimit_untracked_total], {},
        Router(|r| r.rate_limits.untracked()), "What was let through because too many others are kept count of.";
    ratelimit.buckets: Gauge, Count, [ara_ratelimit_buckets], {},
        Router(|r| size(r.rate_limits.buckets)), "Keys and addresses that are kept count of.";

    redis.circuit_breaker_failures: Gauge, Count, [ara_redis_circuit_breaker_failures], {},
        Redis(|r| r.breaker_failures.into()), "Failures to connect in a row.";
    redis.reconnection_attempts: Gauge, Count, [ara_redis_reconnection_attempts], {},
        Redis(|r| r.reconnection_attempts), "Attempts to connect since the connection was last up.";
    redis.total_reconnections: Counter, Count, [ara_redis_reconnections_total], {},
        Redis(|r| r.total_reconnections), "How often a lost subscription was put in place again.";
    redis.messages_received: Counter, Count, [ara_redis_messages_received_total], {},
        Redis(|r| r.messages_received), "Messages that arrived from Redis.";
    redis.messages_not_sent: Counter, Count, [ara_redis_messages_not_sent_total], {},
        Redis(|r| r.not_sent), "Triggers from Redis that were not sent.";

    log.dropped: Counter, Count, [ara_log_lines_dropped_total], {},
        Process(telemetry::dropped_lines), "Log lines not read in time, or not to be written.";

    tasks.panicked: Counter, Count, [ara_task_panics_total], {},
        Process(telemetry::panics), "Connections and requests that ended by a panic.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use ara_shards::base::counters::Counters;

    #[test]
    fn every_counter_of_a_shard_is_in_the_table() {
        for (name, field) in Counters::FIELDS {
            let mut snapshot = ShardSnapshot::default();
            *field(&mut snapshot.counters) = 7;
            let reads = |figure: &&Figure| matches!(figure.source, Source::Shards(read) if read(&snapshot) == 7);
            let figures: Vec<_> = FIGURES.iter().filter(reads).collect();
            assert_eq!(figures.len(), 1, "{name} is read by one figure");
            assert_eq!(figures[0].kind, Kind::Counter, "{name}");
        }
    }

    #[test]
    fn every_figure_is_shown_somewhere_and_no_two_have_one_name() {
        let mut names: Vec<(&str, &str)> = Vec::new();
        for figure in FIGURES {
            assert!(!figure.metrics.is_empty() || figure.by_shard.is_some(), "{figure:?}");
            names.extend(figure.field.map(|field| (figure.section, field)));
            names.extend(figure.metrics.iter().map(|name| ("metric", *name)));
            if let Some(ByShard { field, metric }) = figure.by_shard {
                names.extend([("shards", field), ("metric", metric)]);
            }
        }
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// As Prometheus asks for it: `_total` for counters alone, and base units in the name. Three gauges
    /// have names of old that break this; their second names do not.
    #[test]
    fn metrics_are_named_for_their_kind_and_unit() {
        const NAMES_OF_OLD: [&str; 3] =
            ["ara_connections_total", "ara_queue_size_total", "ara_queue_users_total"];
        for figure in FIGURES {
            let by_shard = figure.by_shard.map(|names| names.metric);
            for name in figure.metrics.iter().copied().chain(by_shard) {
                let is_plain = |letter: char| letter.is_ascii_lowercase() || letter == '_';
                assert!(name.starts_with("ara_") && name.chars().all(is_plain), "{name}");
                let (stem, is_total) =
                    name.strip_suffix("_total").map_or((name, false), |stem| (stem, true));
                let is_of_old = NAMES_OF_OLD.contains(&name);
                assert_eq!(is_total, figure.kind == Kind::Counter || is_of_old, "{name}");
                assert_eq!(stem.ends_with("_bytes"), figure.unit == Unit::Bytes, "{name}");
                assert_eq!(stem.ends_with("_seconds"), figure.unit == Unit::Milliseconds, "{name}");
            }
            assert!(figure.help.ends_with('.'), "{figure:?}");
        }
    }
}
