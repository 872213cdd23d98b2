//! The connections there are, and the end of them, for operators.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: shows or closes another tenant's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ara_shards::link::listing::{ConnectionFilter, ConnectionPage, ConnectionView};
use ara_shards::link::message::Query;
use ara_shards::protocol::Transport;
use ara_shards::wire::close::REASON_BYTES_MAX;
use http::StatusCode;
use serde::Serialize;

use super::call::Call;
use super::{Api, HttpResponse, json};
use crate::access::Scope;
use crate::audit::{self, About, Event};
use crate::names;
use crate::query;
use crate::refusal::{Code, Refusal};

/// What the query of [`list`] may have.
pub(super) const LIST_PARAMETERS: [&str; 5] =
    ["user_id", "channel", "transport", "limit", "cursor"];
/// How many connections a page has where the caller does not say.
const SHOWN_DEFAULT: usize = 100;
/// The most connections of a page.
const SHOWN_MAX: usize = 1000;
/// How often the shards are asked for one page: each time they look at 4,096 connections at most, so
/// that a filter which finds nothing among a million comes back with a cursor instead of working on.
const QUERIES_MAX: usize = 64;

#[derive(Serialize)]
struct Listed<'a> {
    connections: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    connection_id: String,
    tenant_id: &'a str,
    user_id: &'a str,
    transport: &'static str,
    connected_at: String,
    age_seconds: u64,
    subscription_count: usize,
    receives_all_channels: bool,
    sent_bytes: u64,
    outbox_bytes: usize,
    shard: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// Where a page begins: a shard, and a key there. What it is made of is nobody's business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    shard: usize,
    key: u32,
}

impl Cursor {
    fn read(text: &str) -> Option<Self> {
        let (shard, key) = text.split_once('-')?;
        Some(Self { shard: shard.parse().ok()?, key: key.parse().ok()? })
    }

    fn write(self) -> String {
        format!("{}-{}", self.shard, self.key)
    }
}

/// `GET /api/v1/connections`: of one tenant, or of all.
pub(super) async fn list(
    api: &Api,
    call: Call<'_, Option<Arc<str>>>,
) -> Result<HttpResponse, Refusal> {
    let query = query::Query::parse(&call.parts.uri, &LIST_PARAMETERS, &[])?;
    let filter = filter(api, &call, &query)?;
    let shown_max = shown_max(query.get("limit"))?;
    let mut at = match query.get("cursor") {
        None => Cursor::default(),
        Some(text) => Cursor::read(text).ok_or_else(|| {
            Refusal::field("cursor", "`cursor` is not one: pass on what `next_cursor` was")
        })?,
    };
    // A user's connections are all on one shard.
    let shards = match &filter.user {
        Some(user) => {
            let home = api.router.home(user.hash);
            at.shard = at.shard.max(home);
            home + 1
        }
        None => api.router.shards(),
    };
    let mut found: Vec<(usize, ConnectionView)> = Vec::new();
    for _ in 0..QUERIES_MAX {
        if at.shard >= shards || found.len() >= shown_max {
            break;
        }
        let left = shown_max - found.len();
        let ask = |reply_to| Query::Connections {
            filter: filter.clone(),
            from: at.key,
            shown_max: left,
            reply_to,
        };
        let ConnectionPage { connections, next } = api.router.ask(at.shard, ask).await?;
        found.extend(connections.into_iter().map(|view| (at.shard, view)));
        at = match next {
            Some(key) => Cursor { key, ..at },
            None => Cursor { shard: at.shard + 1, key: 0 },
        };
    }
    let shows_addresses = call.caller.key.scopes.contains(Scope::Admin);
    let now = SystemTime::now();
    let connections =
        found.iter().map(|(shard, view)| shown(view, *shard, now, shows_addresses)).collect();
    let next_cursor = (at.shard < shards).then(|| at.write());
    Ok(json(StatusCode::OK, &Listed { connections, next_cursor }))
}

fn filter(
    api: &Api,
    call: &Call<'_, Option<Arc<str>>>,
    query: &query::Query<'_>,
) -> Result<ConnectionFilter, Refusal> {
    let user = match query.get("user_id") {
        None => None,
        Some(user) if !names::is_user(user) => {
            return Err(Refusal::field("user_id", format!("not a user id: {}", names::USER_RULE)));
        }
        Some(user) => {
            let tenant = call.tenant.as_ref().ok_or_else(|| {
                let sentence = "with `user_id`, the header X-Tenant-ID must say whose user it is";
                Refusal::field("X-Tenant-ID", sentence)
            })?;
            Some(api.router.recipient(Arc::clone(tenant), user))
        }
    };
    let channel = query.get("channel");
    if channel.is_some_and(|name| !names::is_channel(name)) {
        let sentence = format!("not a channel name: {}", names::CHANNEL_RULE);
        return Err(Refusal::field("channel", sentence));
    }
    let transport = match query.get("transport") {
        None => None,
        Some("websocket") => Some(Transport::WebSocket),
        Some("sse") => Some(Transport::Sse),
        Some(_) => {
            return Err(Refusal::field("transport", "`transport` is `websocket` or `sse`"));
        }
    };
    let tenant = call.tenant.clone();
    Ok(ConnectionFilter { tenant, user, channel: channel.map(Arc::from), transport })
}

fn shown_max(limit: Option<&str>) -> Result<usize, Refusal> {
    let Some(limit) = limit else { return Ok(SHOWN_DEFAULT) };
    let read = limit.parse().ok().filter(|limit| (1..=SHOWN_MAX).contains(limit));
    read.ok_or_else(|| {
        Refusal::field("limit", format!("`limit` is a number from 1 to {SHOWN_MAX}"))
    })
}

fn shown(view: &ConnectionView, shard: usize, now: SystemTime, shows_address: bool) -> Shown<'_> {
    let connected_at = connected_at(view);
    let age = now.duration_since(connected_at).unwrap_or_default();
    Shown {
        connection_id: view.id.to_string(),
        tenant_id: &view.tenant,
        user_id: &view.user,
        transport: match view.transport {
            Transport::WebSocket => "websocket",
            Transport::Sse => "sse",
        },
        connected_at: humantime::format_rfc3339_millis(connected_at).to_string(),
        age_seconds: age.as_secs(),
        subscription_count: view.subscriptions,
        receives_all_channels: view.receives_all_channels,
        sent_bytes: view.sent_bytes,
        outbox_bytes: view.outbox_bytes,
        shard,
        address: shows_address.then(|| view.peer.to_string()),
    }
}

/// When a connection was made: its id begins with that, in milliseconds of Unix time
/// (RFC 9562 section 5.7).
fn connected_at(view: &ConnectionView) -> SystemTime {
    let [a, b, c, d, e, f, ..] = view.id.0;
    let ms = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

/// What the query of [`disconnect`] may have.
pub(super) const DISCONNECT_PARAMETERS: [&str; 1] = ["reason"];
/// What clients are told where the caller gives no reason.
const REASON: &str = "disconnected by the operator";

#[derive(Serialize)]
struct Disconnected<'a> {
    user_id: &'a str,
    disconnected: usize,
}

/// `DELETE /api/v1/users/{user_id}/connections`.
pub(super) async fn disconnect(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let query = query::Query::parse(&call.parts.uri, &DISCONNECT_PARAMETERS, &[])?;
    let reason = query.get("reason").unwrap_or(REASON);
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control)
    {
        let sentence = format!(
            "`reason` has 1 to {REASON_BYTES_MAX} bytes and no control characters: a close frame \
             has no more room"
        );
        return Err(Refusal::field("reason", sentence));
    }
    let user = api.router.recipient(call.tenant.clone(), call.parameter());
    let home = api.router.home(user.hash);
    let ask = |reply_to| Query::Disconnect { user, reason: reason.into(), reply_to };
    let disconnected = api.router.ask(home, ask).await?;
    if disconnected == 0 {
        return Err(Refusal::new(Code::UserNotConnected, "this user has no connection"));
    }
    let about = About {
        tenant: Some(&*call.tenant),
        user: Some(call.parameter()),
        reason: query.get("reason"),
        count: Some(disconnected),
        ..About::default()
    };
    audit::record(Event::UserDisconnected, &call.caller, about);
    Ok(json(StatusCode::OK, &Disconnected { user_id: call.parameter(), disconnected }))
}
