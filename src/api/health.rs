//! `/health`, `/health/live`, `/health/ready`.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: needs a key, asks a shard, or
//! tells more than a load balancer should know.

use ara_shards::base::disk_health::DiskHealth;
use http::StatusCode;
use serde::Serialize;

use super::{Api, HttpResponse, json};
use crate::redis::State;
use crate::router::Phase;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    redis: Redis,
    queue: Queue,
}

#[derive(Serialize)]
struct Queue {
    status: &'static str,
}

#[derive(Serialize)]
struct Redis {
    status: &'static str,
    connected: bool,
}

#[derive(Serialize)]
struct Simple {
    status: &'static str,
}

/// `GET /health/live`: the process answers.
pub(super) fn live(_api: &Api) -> HttpResponse {
    json(StatusCode::OK, &Simple { status: "live" })
}

/// `GET /health`: how the gateway is. Redis away, or a disk that takes nothing new or does not keep up,
/// means degraded: HTTP triggers and clients go on.
pub(super) fn report(api: &Api) -> HttpResponse {
    let redis = api.redis.snapshot();
    let disk = api.router.disk();
    let healthy =
        matches!(redis.state, State::Disabled | State::Healthy) && disk == DiskHealth::Sound;
    let health = Health {
        status: if healthy { "healthy" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: api.router.overview().uptime.as_secs(),
        redis: Redis { status: redis.state.as_str(), connected: redis.connected },
        queue: Queue { status: queue_status(api.enabled.queue, disk) },
    };
    json(StatusCode::OK, &health)
}

const fn queue_status(enabled: bool, disk: DiskHealth) -> &'static str {
    match disk {
        _ if !enabled => "disabled",
        DiskHealth::Sound => "healthy",
        DiskHealth::Behind => "disk_behind",
        DiskHealth::Limit => "disk_limit",
        DiskHealth::Full => "disk_full",
        DiskHealth::Failed => "disk_failing",
    }
}

/// `GET /health/ready`: whether to send clients here.
pub(super) fn ready(api: &Api) -> HttpResponse {
    match api.router.phase() {
        Phase::Ready => json(StatusCode::OK, &Simple { status: "ready" }),
        _ => json(StatusCode::SERVICE_UNAVAILABLE, &Simple { status: "draining" }),
    }
}
