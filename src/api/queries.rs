//! Who is connected and who listens: queries to the shards, answered for one tenant.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: shows another tenant's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use ara_shards::link::message::{Query, Recipient, Reply};
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
    let answers = router.ask(None, &Query::Channels { tenant }).await?;
    let counts = sum(answers);
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
    let query = Query::Channel { tenant, name: name.into() };
    let counts = sum(router.ask(None, &query).await?);
    match counts.get(name) {
        Some(count) => Ok(json(StatusCode::OK, &Channel { name, subscriber_count: *count })),
        None => {
            let sentence = format!("channel `{name}` has no subscribers");
            Err(Refusal::new(Code::ChannelNotFound, sentence))
        }
    }
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
    let hash = router.hash(&tenant, user);
    let query = Query::User(Recipient { tenant, user: user.into(), hash });
    let answers = router.ask(Some(router.home(hash)), &query).await?;
    match answers.into_iter().next() {
        Some(Reply::User { connections, subscriptions }) if connections > 0 => {
            let answer =
                Subscriptions { user_id: user, connection_count: connections, subscriptions };
            Ok(json(StatusCode::OK, &answer))
        }
        _ => Err(Refusal::new(Code::UserNotConnected, "this user has no connection")),
    }
}

/// Subscriber counts over all shards, by name.
fn sum(answers: Vec<Reply>) -> BTreeMap<Arc<str>, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        if let Reply::Channels(channels) = answer {
            for (name, count) in channels {
                *counts.entry(name).or_default() += count;
            }
        }
    }
    counts
}
