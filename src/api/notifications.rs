//! `POST /api/v1/notifications/…`: from a JSON body to a trigger, and from its receipt to JSON.
//!
//! **Runs on**: the router's thread. **Owns**: one request. **Never**: parses a payload.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use ara_shards::base::id::NotificationId;
use ara_shards::link::message::DeliveryCounts;
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::call::Call;
use super::{Api, HttpResponse, body, json_bytes};
use crate::idempotency::{KEY_RULE, Key, Reply, Request, Response};
use crate::intake::draft::{self, AudienceDraft, EventDraft, TargetDraft};
use crate::intake::fault::Problem;
use crate::intake::trigger::JsonText;
use crate::intake::{Draft, Fault, Trigger};
use crate::refusal::Refusal;
use crate::router::Router;
use crate::router::dispatch::Receipt;
use crate::templates::{Catalog, TemplateStore};

/// Which trigger a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Send,
    SendToUsers,
    Broadcast,
    Channel,
    Channels,
}

/// The body of every trigger; each kind uses one of the target fields.
#[derive(Deserialize)]
struct Body<'a> {
    target_user_id: Option<String>,
    target_user_ids: Option<Vec<String>>,
    channel: Option<String>,
    channels: Option<Vec<String>>,
    event_type: Option<String>,
    #[serde(borrow, default, deserialize_with = "draft::any_json")]
    payload: Option<&'a RawValue>,
    template_id: Option<String>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    priority: Option<String>,
    ttl: Option<u64>,
    source: Option<String>,
    correlation_id: Option<String>,
    audience: Option<AudienceDraft>,
    queue: Option<bool>,
}

/// Where a notification comes from when the caller does not say.
pub(super) const SOURCE: &str = "http-api";

/// Sends what the body asks for, once for an `Idempotency-Key`, and answers with the exact counts.
pub(super) async fn serve(api: &Api, kind: Kind, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let Call { parts, tenant, body, .. } = call;
    let Some(key) = idempotency_key(&parts.headers)? else {
        let trigger = read(&api.templates, kind, tenant, &body)?;
        let Response { status, body } = send(&api.router, kind, trigger, None).await?;
        return Ok(json_bytes(status, body));
    };
    let (router, templates) = (api.router.clone(), Rc::clone(&api.templates));
    let (owner, bytes) = (Arc::clone(&tenant), body.clone());
    let request = Request { tenant: &tenant, key, path: parts.uri.path(), body: &body };
    once(api, request, move |id| async move {
        let trigger = read(&templates, kind, owner, &bytes)?;
        send(&router, kind, trigger, id).await
    })
    .await
}

/// Does the work of a request once for its key, and answers.
pub(super) async fn once<W>(
    api: &Api,
    request: Request<'_>,
    work: impl FnOnce(Option<NotificationId>) -> W + 'static,
) -> Result<HttpResponse, Refusal>
where
    W: Future<Output = Result<Response, Refusal>> + 'static,
{
    let Reply { response: Response { status, body }, is_repeated } =
        api.responses.once(request, work).await?;
    let mut response = json_bytes(status, body);
    if is_repeated {
        let value = HeaderValue::from_static("true");
        response.headers_mut().insert("idempotent-replayed", value);
    }
    Ok(response)
}

/// The request's key, if it has one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Key>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().and_then(Key::new);
    key.map(Some)
        .ok_or_else(|| Refusal::field("Idempotency-Key", format!("`Idempotency-Key` {KEY_RULE}")))
}

/// The trigger that the body of a request asks for, by the templates there are now.
fn read(
    templates: &TemplateStore,
    kind: Kind,
    tenant: Arc<str>,
    bytes: &Bytes,
) -> Result<Trigger, Refusal> {
    parse(kind, tenant, bytes, &templates.catalog()).map_err(|fault| body::refuse(&fault))
}

/// Dispatch and answer; by the name of `id` if there is one.
async fn send(
    router: &Router,
    kind: Kind,
    trigger: Trigger,
    id: Option<NotificationId>,
) -> Result<Response, Refusal> {
    router.await_room(&trigger).await;
    let receipt = router.dispatch(trigger, id)?.receipt().await?;
    Ok(answer(kind, &receipt))
}

/// What a caller hears of what became of its trigger.
fn answer(kind: Kind, receipt: &Receipt) -> Response {
    let body = serde_json::to_vec(&TriggerResponse::new(kind, receipt))
        .expect("memory takes whatever has string keys");
    Response { status: StatusCode::OK, body: body.into() }
}

fn parse(
    kind: Kind,
    tenant: Arc<str>,
    bytes: &Bytes,
    templates: &Catalog,
) -> Result<Trigger, Fault> {
    let mut body: Body<'_> = draft::read(bytes)?;
    let target = body.take_target(kind)?;
    let event = EventDraft {
        path: "",
        event_type: body.event_type,
        payload: body.payload.map(|json| JsonText::within(bytes, json)),
        template_id: body.template_id,
        variables: body.variables.map(|json| JsonText::within(bytes, json)),
        priority: body.priority,
        ttl: body.ttl,
        source: body.source.map_or(Cow::Borrowed(SOURCE), Cow::Owned),
        correlation_id: body.correlation_id,
        audience: body.audience,
        queue: body.queue.unwrap_or(false),
    };
    Draft { target, event }.into_trigger(tenant, templates)
}

impl Body<'_> {
    /// The target of the kind; a target field of another kind is a fault.
    fn take_target(&mut self, kind: Kind) -> Result<TargetDraft, Fault> {
        let target = match kind {
            Kind::Send => take("target_user_id", &mut self.target_user_id, TargetDraft::User)?,
            Kind::SendToUsers => {
                take("target_user_ids", &mut self.target_user_ids, TargetDraft::Users)?
            }
            Kind::Broadcast => TargetDraft::Everyone,
            Kind::Channel => take("channel", &mut self.channel, TargetDraft::Channel)?,
            Kind::Channels => take("channels", &mut self.channels, TargetDraft::Channels)?,
        };
        let left = [
            ("target_user_id", self.target_user_id.is_some()),
            ("target_user_ids", self.target_user_ids.is_some()),
            ("channel", self.channel.is_some()),
            ("channels", self.channels.is_some()),
        ];
        match left.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(target),
            Some((path, _)) => Err(Fault::at(path, Problem::Misplaced { beside: "this path" })),
        }
    }
}

/// The target in the field at this path, which must be there.
fn take<T>(
    path: &'static str,
    field: &mut Option<T>,
    target: impl FnOnce(&'static str, T) -> TargetDraft,
) -> Result<TargetDraft, Fault> {
    let names = field.take().ok_or_else(|| Fault::at(path, Problem::Missing))?;
    Ok(target(path, names))
}

/// What a trigger is answered.
#[derive(Serialize)]
struct TriggerResponse<'a> {
    success: bool,
    notification_id: String,
    delivered_to: u32,
    failed: u32,
    queued: bool,
    /// Users who are away and whose queue could not take it.
    #[serde(skip_serializing_if = "is_zero")]
    not_queued: u32,
    timestamp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Named<'a, UserResult>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Named<'a, ChannelResult>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_delivered: Option<u32>,
}

#[derive(Serialize)]
struct UserResult {
    delivered: u32,
    connections: u32,
    queued: bool,
}

#[derive(Serialize)]
struct ChannelResult {
    delivered_to: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// An object with one member per name, in the request's order.
struct Named<'a, T>(Vec<(&'a str, T)>);

impl<'a, T> Named<'a, T> {
    fn new(receipt: &'a Receipt, result: impl Fn(&DeliveryCounts) -> T) -> Self {
        Self(receipt.of_each().map(|(name, counts)| (name, result(counts))).collect())
    }
}

impl<T: Serialize> Serialize for Named<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'a> TriggerResponse<'a> {
    fn new(kind: Kind, receipt: &'a Receipt) -> Self {
        let total = receipt.total();
        let mut response = Self {
            success: true,
            notification_id: receipt.id.to_string(),
            delivered_to: total.delivered,
            failed: total.failed,
            queued: total.queued > 0,
            not_queued: total.refused + total.over_limit,
            timestamp: &receipt.occurred_at,
            results: None,
            channel: None,
            channels: None,
            total_delivered: None,
        };
        match kind {
            Kind::Send | Kind::Broadcast => {}
            Kind::SendToUsers => {
                response.results = Some(Named::new(receipt, |counts| UserResult {
                    delivered: counts.delivered,
                    connections: counts.delivered + counts.failed,
                    queued: counts.queued > 0,
                }));
            }
            Kind::Channel => response.channel = receipt.target.names().first().map(|name| &**name),
            Kind::Channels => {
                response.channels = Some(Named::new(receipt, |counts| ChannelResult {
                    delivered_to: counts.delivered,
                }));
                response.total_delivered = Some(total.delivered);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_shape_tests::examine;
    use ara_shards::wire::json::{self, Unknown};

    #[test]
    fn a_trigger_keeps_the_rules_of_every_shape() {
        let sample = r#"{"target_user_id":"u","target_user_ids":["u"],"channel":"c","channels":["c"],
            "event_type":"e","payload":{"any":1},"template_id":"t","variables":{"any":1},"priority":"Low","ttl":1,"source":"s",
            "correlation_id":"c","audience":{"type":"Roles","value":["r"]},"queue":true}"#;
        let read = |text: &str| json::read::<Body<'_>>(text.as_bytes(), Unknown::Refused).map(drop);
        examine(sample, &["payload", "variables"], read);
    }
}
