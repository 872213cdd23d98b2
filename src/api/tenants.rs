//! `GET /api/v1/tenants` and `/{tenant_id}`: what each tenant has and has done.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: shows a tenant to a key that is bound to
//! another.

use std::collections::BTreeMap;
use std::sync::Arc;

use ara_shards::base::tenant_limits::TenantLimits;
use ara_shards::link::message::Query;
use http::StatusCode;
use serde::Serialize;

use super::call::Call;
use super::{Api, HttpResponse, json};
use crate::refusal::{Code, Refusal};
use crate::router::tenants::TenantFigures;

#[derive(Serialize)]
struct Tenants<'a> {
    enabled: bool,
    tenants: Vec<Listed<'a>>,
    total: usize,
}

#[derive(Serialize)]
struct Listed<'a> {
    tenant_id: &'a str,
    stats: Stats,
}

#[derive(Serialize)]
struct Shown<'a> {
    tenant_id: &'a str,
    stats: Stats,
    connection_stats: ConnectionStats,
    limits: Limits,
    /// Where there is a limit on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued: Option<u64>,
}

#[derive(Serialize)]
struct Stats {
    active_connections: usize,
    total_connections: u64,
    messages_sent: u64,
    messages_delivered: u64,
}

#[derive(Serialize)]
struct ConnectionStats {
    total_connections: usize,
    unique_users: usize,
}

#[derive(Serialize)]
struct Limits {
    max_connections: usize,
    max_connections_per_user: usize,
    max_subscriptions_per_connection: usize,
    max_queued: usize,
}

impl From<TenantFigures> for Stats {
    fn from(figures: TenantFigures) -> Self {
        let TenantFigures {
            active_connections,
            total_connections,
            messages_sent,
            messages_delivered,
        } = figures;
        Self { active_connections, total_connections, messages_sent, messages_delivered }
    }
}

impl From<TenantLimits> for Limits {
    fn from(limits: TenantLimits) -> Self {
        Self {
            max_connections: limits.connections_max,
            max_connections_per_user: limits.connections_per_user_max,
            max_subscriptions_per_connection: limits.subscriptions_per_connection_max,
            max_queued: limits.queued_max,
        }
    }
}

/// `GET /api/v1/tenants`.
pub(super) async fn list(api: &Api, call: Call<'_, ()>) -> Result<HttpResponse, Refusal> {
    let own = call.caller.key.tenant.as_deref();
    let all: BTreeMap<Arc<str>, TenantFigures> = api.router.tenants().into_iter().collect();
    let visible = all.iter().filter(|(name, _)| own.is_none_or(|own| own == &***name));
    let tenants: Vec<_> = visible
        .map(|(name, figures)| Listed { tenant_id: name, stats: (*figures).into() })
        .collect();
    let enabled = api.handshake.tenants_enabled;
    let total = tenants.len();
    Ok(json(StatusCode::OK, &Tenants { enabled, tenants, total }))
}

/// `GET /api/v1/tenants/{tenant_id}`.
pub(super) async fn show(api: &Api, call: Call<'_, ()>) -> Result<HttpResponse, Refusal> {
    let name = call.parameter();
    api.authorizer.check_tenant(&call.caller, name)?;
    let unknown = || {
        let sentence = if api.handshake.tenants_enabled {
            "nothing has been heard of this tenant since the gateway started"
        } else {
            "tenants are off (tenant.enabled): all traffic is of one tenant"
        };
        Refusal::new(Code::TenantNotFound, sentence)
    };
    let tenant: Arc<str> = name.into();
    let query = |reply_to| Query::Tenant { tenant: Arc::clone(&tenant), reply_to };
    api.router.tenant(name).ok_or_else(unknown)?;
    let views = api.router.ask_all(query).await?;
    // Read behind the shards' replies, so that both are of about one moment.
    let (figures, limits, queued) = api.router.tenant(name).ok_or_else(unknown)?;
    let connection_stats = ConnectionStats {
        total_connections: views.iter().map(|view| view.connections).sum(),
        unique_users: views.iter().map(|view| view.users).sum(),
    };
    let stats = figures.into();
    let limits = limits.into();
    let shown = Shown { tenant_id: name, stats, connection_stats, limits, queued };
    Ok(json(StatusCode::OK, &shown))
}
