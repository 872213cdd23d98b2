//! What waits for a user, what was given up, and acknowledgement over HTTP.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: settles for another user than
//! the token's, or tells an id of another user from an unknown one.

use std::sync::Arc;

use ara_shards::base::id::NotificationId;
use ara_shards::link::message::{Client, Query, QueuedMessageView, Recipient, Reply, Source};
use ara_shards::protocol::ara::parse_id;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{HttpResponse, body, json};
use crate::names;
use crate::refusal::Refusal;
use crate::router::Router;

/// The most ids in one acknowledgement.
const IDS_MAX: usize = 1000;

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
    fn new(view: &'a QueuedMessageView) -> Option<Self> {
        let notification = serde_json::from_slice(view.kept.json()).ok()?;
        Some(Self { attempts: view.attempts, in_flight: view.in_flight, notification })
    }
}

/// `GET` and `DELETE /api/v1/users/{user_id}/queue` and `…/dead-letters`.
pub(super) async fn show(
    router: &Router,
    tenant: Arc<str>,
    user: &str,
    source: Source,
    clear: bool,
) -> Result<HttpResponse, Refusal> {
    if !names::is_user(user) {
        let sentence = format!("not a user id: {}", names::USER_RULE);
        return Err(Refusal::field("user_id", sentence));
    }
    let hash = router.hash(&tenant, user);
    let recipient = Recipient { tenant, user: user.into(), hash };
    let query = Query::UserQueue { user: recipient, source, clear };
    let answers = router.ask(Some(router.home(hash)), &query).await?;
    let (views, count) = match answers.into_iter().next() {
        Some(Reply::UserQueue { shown, count }) => (shown, count),
        _ => (Vec::new(), 0),
    };
    if clear {
        return Ok(json(StatusCode::OK, &Cleared { user_id: user, cleared: count }));
    }
    let notifications: Vec<QueuedMessage<'_>> =
        views.iter().filter_map(QueuedMessage::new).collect();
    let shown = Shown { user_id: user, count, notifications };
    Ok(json(StatusCode::OK, &shown))
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
    router: &Router,
    member: Client,
    bytes: &[u8],
) -> Result<HttpResponse, Refusal> {
    let request: Acks = body::parse(bytes)?;
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
    let home = router.home(member.hash);
    let user = Recipient { tenant: member.tenant, user: member.user.into(), hash: member.hash };
    let answers = router.ask(Some(home), &Query::Acknowledge { user, ids }).await?;
    let settled = match answers.into_iter().next() {
        Some(Reply::Acknowledged(settled)) => settled,
        _ => Box::default(),
    };
    let pairs = given.iter().map(String::as_str).zip(settled);
    let (acked, unknown): (Vec<_>, Vec<_>) = pairs.partition(|(_, settled)| *settled);
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
