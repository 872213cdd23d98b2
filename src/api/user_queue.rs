//! What waits for a user, its dead letters, and acknowledgement over HTTP.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: acknowledges for another user
//! than the token's, or tells an id of another user from an unknown one.

use std::sync::Arc;

use ara_shards::base::id::{NotificationId, parse_id};
use ara_shards::link::message::{
    Client, Query, QueuedMessageView, Recipient, Source, UserQueueView,
};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::call::Call;
use super::{Api, HttpResponse, body, json};
use crate::audit::{self, About, Event};
use crate::refusal::Refusal;

/// The most ids in one acknowledgement.
pub(super) const IDS_MAX: usize = 1000;

#[derive(Serialize)]
struct Shown<'a> {
    user_id: &'a str,
    count: usize,
    notifications: Vec<QueuedMessage<'a>>,
}

#[derive(Serialize)]
struct Cleared<'a> {
    user_id: &'a str,
    cleared: usize,
}

#[derive(Serialize)]
struct QueuedMessage<'a> {
    attempts: u8,
    in_flight: bool,
    notification: &'a RawValue,
}

impl<'a> QueuedMessage<'a> {
    fn new(view: &'a QueuedMessageView) -> Self {
        let notification = serde_json::from_slice(view.message.json());
        let notification = notification.expect("a notification is JSON: the gateway wrote it");
        Self { attempts: view.attempts, in_flight: view.in_flight, notification }
    }
}

/// `GET /api/v1/users/{user_id}/queue` and `…/dead-letters`.
pub(super) async fn show(
    api: &Api,
    call: Call<'_>,
    source: Source,
) -> Result<HttpResponse, Refusal> {
    let UserQueueView { shown, count } = ask(api, &call, source, false).await?;
    let notifications: Vec<QueuedMessage<'_>> = shown.iter().map(QueuedMessage::new).collect();
    Ok(json(StatusCode::OK, &Shown { user_id: call.parameter(), count, notifications }))
}

/// `DELETE /api/v1/users/{user_id}/queue` and `…/dead-letters`.
pub(super) async fn clear(
    api: &Api,
    call: Call<'_>,
    source: Source,
) -> Result<HttpResponse, Refusal> {
    let cleared = ask(api, &call, source, true).await?.count;
    let event = match source {
        Source::Queue => Event::QueueCleared,
        Source::DeadLetters => Event::DeadLettersCleared,
    };
    let (tenant, user) = (Some(&*call.tenant), Some(call.parameter()));
    let about = About { tenant, user, count: Some(cleared), ..About::default() };
    audit::record(event, &call.caller, about);
    Ok(json(StatusCode::OK, &Cleared { user_id: call.parameter(), cleared }))
}

async fn ask(
    api: &Api,
    call: &Call<'_>,
    source: Source,
    clear: bool,
) -> Result<UserQueueView, Refusal> {
    let user = api.router.recipient(Arc::clone(&call.tenant), call.parameter());
    let home = api.router.home(user.hash);
    let query = |reply_to| Query::UserQueue { user, source, clear, reply_to };
    api.router.ask(home, query).await
}

#[derive(Deserialize)]
struct Acks {
    notification_ids: Vec<String>,
}

#[derive(Serialize)]
struct Acknowledged<'a> {
    acked: Vec<&'a str>,
    unknown: Vec<&'a str>,
}

/// `POST /api/v1/acks`, by the client's own token.
pub(super) async fn acknowledge(
    api: &Api,
    client: Client,
    body: Bytes,
) -> Result<HttpResponse, Refusal> {
    let request: Acks = body::parse(&body)?;
    let given = &request.notification_ids;
    if given.is_empty() || given.len() > IDS_MAX {
        let sentence = format!("`notification_ids` has 1 to {IDS_MAX} entries");
        return Err(Refusal::field("notification_ids", sentence));
    }
    let parsed: Option<Box<[NotificationId]>> = given.iter().map(|id| parse_id(id)).collect();
    let Some(ids) = parsed else {
        let sentence = "an entry of `notification_ids` is not a UUID";
        return Err(Refusal::field("notification_ids", sentence));
    };
    let home = api.router.home(client.hash);
    let user = Recipient { tenant: client.tenant, user: client.user.into(), hash: client.hash };
    let query = |reply_to| Query::Acknowledge { user, ids, reply_to };
    let acknowledged = api.router.ask(home, query).await?;
    assert_eq!(given.len(), acknowledged.len(), "a shard says of each id whether it was awaited");
    let pairs = given.iter().map(String::as_str).zip(acknowledged);
    let (acked, unknown): (Vec<_>, Vec<_>) = pairs.partition(|(_, was_awaited)| *was_awaited);
    let acked = acked.into_iter().map(|(id, _)| id).collect();
    let unknown = unknown.into_iter().map(|(id, _)| id).collect();
    Ok(json(StatusCode::OK, &Acknowledged { acked, unknown }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ara_shards::wire::json::{self, Unknown};

    #[test]
    fn an_acknowledgement_keeps_the_rules_of_every_shape() {
        let read = |text: &str| json::read::<Acks>(text.as_bytes(), Unknown::Refused).map(drop);
        crate::json_shape_tests::examine(r#"{"notification_ids":["id"]}"#, &[], read);
    }
}
