//! `/stats` has the fields it always had, in their order, each with the value of its own counter.
//!
//! Set-up: figures of which no two are the same. Property: the bytes of the body. Why it matters:
//! dashboards and scripts read them by name, and a figure under another's name is believed.

use std::time::Duration;

use ara_shards::base::counters::{Counters, DiskSnapshot};

use super::*;
use crate::ratelimit::{Counts, RateLimitCounts};
use crate::redis::{Rejected, Status};
use crate::router::{self, Overview};

/// Counter by counter 1, 2, 3 … and so many more.
fn counters(more: u64) -> Counters {
    let mut counters = Counters::default();
    for ((_, field), number) in Counters::FIELDS.iter().zip(1..) {
        *field(&mut counters) = number + more;
    }
    counters
}

fn shards() -> Vec<ShardSnapshot> {
    let first = ShardSnapshot {
        counters: counters(0),
        websocket_connections: 40,
        sse_connections: 2,
        users: 43,
        channels: 44,
        subscriptions: 45,
        outbox_bytes: 46,
        unfinished_bytes: 47,
        queue_size: 48,
        queue_users: 49,
        ack_pending: 50,
        disk: None,
        core: Some(3),
    };
    let counters =
        Counters { ack_tracked: 1979, acked: 978, ack_latency_ms_sum: 4473, ..counters(1000) };
    vec![first, ShardSnapshot { counters, core: None, ..first }]
}

fn overview() -> Overview {
    Overview {
        counters: router::Counters {
            triggers: 71,
            overloaded: 72,
            batches: 78,
            batch_notifications: 79,
            refused_full: 73,
            refused_per_tenant: 74,
        },
        admitted: router::Admitted::default(),
        connections_max: 74,
        rate_limits: rate_limits(),
        inbox_depths: vec![75, 76],
        uptime: Duration::from_millis(77_900),
    }
}

fn rate_limits() -> RateLimitCounts {
    let counts = |allowed| Counts { allowed, denied: allowed + 1, untracked: allowed + 2 };
    RateLimitCounts {
        enabled: true,
        requests: counts(61),
        connections: counts(63),
        failed_tokens: counts(65),
        failed_keys: counts(67),
        buckets: 69,
    }
}

fn redis() -> crate::redis::Snapshot {
    crate::redis::Snapshot {
        connected: true,
        breaker_failures: 81,
        reconnection_attempts: 82,
        total_reconnections: 83,
        messages_received: 84,
        not_sent: 85,
        rejected: Rejected::ALL.map(|reason| (reason.reason(), 86)),
        ..Status::new().snapshot()
    }
}

fn body(sources: &Sources) -> String {
    serde_json::to_string(&Stats::new(sources, true, false)).unwrap()
}

#[test]
fn every_figure_is_in_its_place_with_its_value() {
    let sources = Sources { shards: shards(), router: overview(), redis: redis() };
    let body = body(&sources);
    // The reasons have tests of their own, and the process's two figures are what they are.
    let (start, rest) = body.split_once(r#""messages_rejected":{"#).unwrap();
    let (rejected, end) = rest.split_once('}').unwrap();
    assert_eq!(
        start,
        concat!(
            r#"{"uptime_seconds":77,"#,
            r#""connections":{"total":84,"websocket":80,"sse":4,"max":74,"opened":1002,"#,
            r#""closed":1004,"refused_full":73,"refused_per_user":1006,"refused_per_tenant":74,"replaced":1062,"slow_consumers":1022,"expired":1070,"tokens_refreshed":1072,"#,
            r#""timeouts":1024,"protocol_violations":1026,"rate_abuses":1068},"#,
            r#""users":{"connected":86},"#,
            r#""channels":{"active_on_shards":88,"subscriptions":90},"#,
            r#""messages":{"triggers":71,"refused_overloaded":72,"batches":78,"#,
            r#""batch_notifications":79,"delivered":1010,"failed":1012,"#,
            r#""shed":1014,"discarded":1016,"received":1018,"received_refused":1020,"#,
            r#""heartbeats":1030},"#,
            r#""queue":{"enabled":true,"backend":"memory","size":96,"users":98,"enqueued":1032,"#,
            r#""replayed":1034,"expired":1036,"dropped":1040,"refused":1038,"over_limit":1060},"#,
            r#""ack":{"enabled":false,"total_tracked":2000,"total_acked":1000,"#,
            r#""total_expired":1048,"total_timeouts":1046,"dead_letters":1050,"#,
            r#""dead_letters_expired":1052,"pending_count":100,"ack_rate":0.5,"#,
            r#""avg_latency_ms":4.5},"#,
            r#""ratelimit":{"enabled":true,"requests_allowed":61,"requests_denied":62,"#,
            r#""connections_allowed":63,"connections_denied":64,"messages_allowed":1064,"#,
            r#""messages_denied":1066,"failed_tokens_allowed":65,"failed_tokens_denied":66,"#,
            r#""failed_keys_allowed":67,"failed_keys_denied":68,"untracked":264,"buckets":69},"#,
            r#""redis":{"status":"disabled","connected":true,"circuit_breaker_state":"closed","#,
            r#""circuit_breaker_failures":81,"reconnection_attempts":82,"#,
            r#""total_reconnections":83,"messages_received":84,"messages_not_sent":85,"#,
        )
    );
    assert_eq!(rejected.matches(":86").count(), Rejected::ALL.len());
    let (process, shards) = end.split_once(r#","shards":"#).unwrap();
    assert!(process.starts_with(r#"},"log":{"dropped":"#), "{process}");
    assert!(process.contains(r#"},"tasks":{"panicked":"#), "{process}");
    assert_eq!(
        shards,
        concat!(
            r#"[{"shard":0,"core":3,"connections":42,"users":43,"channels":44,"subscriptions":45,"#,
            r#""inbox_depth":75,"outbox_bytes":46,"unfinished_bytes":47,"queue_size":48,"#,
            r#""ack_pending":50,"delivered":5,"failed":6,"turns":28,"writes":29},"#,
            r#"{"shard":1,"core":null,"connections":42,"users":43,"channels":44,"#,
            r#""subscriptions":45,"inbox_depth":76,"outbox_bytes":46,"unfinished_bytes":47,"#,
            r#""queue_size":48,"ack_pending":50,"delivered":1005,"failed":1006,"turns":1028,"#,
            r#""writes":1029}]}"#,
        )
    );
}

#[test]
fn a_disk_is_shown_with_its_worst_health_over_all_shards() {
    let mut shards = shards();
    for (shard, health) in shards.iter_mut().zip([DiskHealth::Full, DiskHealth::Behind]) {
        shard.disk = Some(DiskSnapshot {
            health,
            bytes: 91,
            bytes_max: 92,
            records: 93,
            uncommitted_bytes: 94,
            syncs: 95,
            lost_records: 96,
        });
    }
    let body = body(&Sources { shards, router: overview(), redis: redis() });
    let disk = concat!(
        r#""backend":"disk","size":96,"users":98,"enqueued":1032,"replayed":1034,"expired":1036,"#,
        r#""dropped":1040,"refused":1038,"over_limit":1060,"disk":{"status":"full","bytes":182,"max_bytes":184,"#,
        r#""records":186,"uncommitted_bytes":188,"syncs":190,"lost_records":192}},"#,
    );
    assert!(body.contains(disk), "{body}");
}

#[test]
fn each_health_of_a_disk_has_its_word() {
    use DiskHealth::{Behind, Failed, Full, Limit, Sound};
    let words = [Sound, Behind, Limit, Full, Failed].map(disk_status);
    assert_eq!(words, ["ok", "behind", "limit", "full", "failing"]);
}
