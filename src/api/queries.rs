//! Who is connected and who listens: queries to the shards, answered for one tenant.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: shows another tenant's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use ara_shards::link::message::Query;
use http::StatusCode;
use serde::Serialize;

use super::call::Call;
use super::{Api, HttpResponse, json};
use crate::refusal::{Code, Refusal};

#[derive(Serialize)]
struct Channel<'a> {
    name: &'a str,
    subscriber_count: usize,
}

#[derive(Serialize)]
struct Channels<'a> {
    channels: Vec<Channel<'a>>,
    total_channels: usize,
}

#[derive(Serialize)]
struct Subscriptions<'a> {
    user_id: &'a str,
    connection_count: usize,
    subscriptions: Vec<Arc<str>>,
}

/// `GET /api/v1/channels`.
pub(super) async fn channels(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let query = |reply_to| Query::Channels { tenant: Arc::clone(&call.tenant), reply_to };
    let replies = api.router.ask_all(query).await?;
    // One shard's count of a channel is of its own subscribers.
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for (name, count) in replies.into_iter().flatten() {
        *counts.entry(name).or_default() += count;
    }
    let channels: Vec<_> =
        counts.iter().map(|(name, count)| Channel { name, subscriber_count: *count }).collect();
    let total_channels = channels.len();
    Ok(json(StatusCode::OK, &Channels { channels, total_channels }))
}

/// `GET /api/v1/channels/{name}`.
pub(super) async fn channel(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let name = call.parameter();
    let asked: Arc<str> = name.into();
    let query = |reply_to| Query::Channel {
        tenant: Arc::clone(&call.tenant),
        name: Arc::clone(&asked),
        reply_to,
    };
    let subscriber_count = api.router.ask_all(query).await?.into_iter().sum();
    if subscriber_count == 0 {
        let sentence = format!("channel `{name}` has no subscribers");
        return Err(Refusal::new(Code::ChannelNotFound, sentence));
    }
    Ok(json(StatusCode::OK, &Channel { name, subscriber_count }))
}

/// `GET /api/v1/users/{user_id}/subscriptions`.
pub(super) async fn subscriptions(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let asked = api.router.recipient(Arc::clone(&call.tenant), call.parameter());
    let home = api.router.home(asked.hash);
    let view = api.router.ask(home, |reply_to| Query::User { user: asked, reply_to }).await?;
    if view.connections == 0 {
        return Err(Refusal::new(Code::UserNotConnected, "this user has no connection"));
    }
    let answer = Subscriptions {
        user_id: call.parameter(),
        connection_count: view.connections,
        subscriptions: view.subscriptions,
    };
    Ok(json(StatusCode::OK, &answer))
}
