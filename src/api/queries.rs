//! Who is connected and who listens: queries to the shards, answered for one tenant.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: shows another tenant's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use ara_shards::link::message::Query;
use http::StatusCode;
use serde::Serialize;

use super::{HttpResponse, json};
use crate::names;
use crate::refusal::{Code, Refusal};
use crate::router::Router;

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
pub(super) async fn channels(router: &Router, tenant: Arc<str>) -> Result<HttpResponse, Refusal> {
    let replies = router
        .ask_all(|reply_to| Query::Channels { tenant: Arc::clone(&tenant), reply_to })
        .await?;
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
pub(super) async fn channel(
    router: &Router,
    tenant: Arc<str>,
    name: &str,
) -> Result<HttpResponse, Refusal> {
    if !names::is_channel(name) {
        let sentence = format!("not a channel name: {}", names::CHANNEL_RULE);
        return Err(Refusal::field("name", sentence));
    }
    let asked: Arc<str> = name.into();
    let query = |reply_to| Query::Channel {
        tenant: Arc::clone(&tenant),
        name: Arc::clone(&asked),
        reply_to,
    };
    let subscriber_count = router.ask_all(query).await?.into_iter().sum();
    if subscriber_count == 0 {
        let sentence = format!("channel `{name}` has no subscribers");
        return Err(Refusal::new(Code::ChannelNotFound, sentence));
    }
    Ok(json(StatusCode::OK, &Channel { name, subscriber_count }))
}

/// `GET /api/v1/users/{user_id}/subscriptions`.
pub(super) async fn subscriptions(
    router: &Router,
    tenant: Arc<str>,
    user: &str,
) -> Result<HttpResponse, Refusal> {
    if !names::is_user(user) {
        let sentence = format!("not a user id: {}", names::USER_RULE);
        return Err(Refusal::field("user_id", sentence));
    }
    let asked = router.recipient(tenant, user);
    let home = router.home(asked.hash);
    let view = router.ask(home, |reply_to| Query::User { user: asked, reply_to }).await?;
    if view.connections == 0 {
        return Err(Refusal::new(Code::UserNotConnected, "this user has no connection"));
    }
    let answer = Subscriptions {
        user_id: user,
        connection_count: view.connections,
        subscriptions: view.subscriptions,
    };
    Ok(json(StatusCode::OK, &answer))
}
