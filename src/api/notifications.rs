//! `POST /api/v1/notifications/…`: from a JSON body to a trigger, and from its receipt to JSON.
//!
//! **Runs on**: the router's thread. **Owns**: one request. **Never**: parses a payload.

use std::sync::Arc;

use ahash::AHashSet;
use ara_shards::base::id::NotificationId;
use ara_shards::link::message::DeliveryCounts;
use ara_shards::notification::{Audience, Priority};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{HttpResponse, body, json};
use crate::intake::trigger::{Event, Target, Trigger};
use crate::names;
use crate::refusal::{Code, Refusal};
use crate::router::Router;
use crate::router::dispatch::Receipt;

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
struct Request<'a> {
    target_user_id: Option<String>,
    target_user_ids: Option<Vec<String>>,
    channel: Option<String>,
    channels: Option<Vec<String>>,
    event_type: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    priority: Option<String>,
    ttl: Option<u64>,
    source: Option<String>,
    correlation_id: Option<String>,
    audience: Option<WireAudience>,
    queue: Option<bool>,
}

#[derive(Deserialize)]
struct WireAudience {
    #[serde(rename = "type")]
    kind: AudienceKind,
    value: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum AudienceKind {
    All,
    Roles,
    Users,
    Channels,
}

/// Where a notification comes from when the caller does not say.
const SOURCE: &str = "http-api";

/// Sends what the body asks for, by the name of `id` if there is one, and answers with the exact
/// counts.
pub(super) async fn trigger(
    router: &Router,
    tenant: Arc<str>,
    kind: Kind,
    bytes: &[u8],
    id: Option<NotificationId>,
) -> Result<HttpResponse, Refusal> {
    let mut request: Request<'_> = body::parse(bytes)?;
    let target = request.take_target(kind)?;
    let audience = request.audience.take().map(audience).transpose()?.flatten();
    request.check()?;
    let queue = request.queue.unwrap_or(false);
    if queue
        && (matches!(target, Target::Users(_)) || !matches!(audience, Some(Audience::Users(_))))
    {
        let sentence = "`queue` is for broadcasts and channels with an `audience` of users";
        return Err(Refusal::field("queue", sentence));
    }
    let priority = match request.priority.as_deref() {
        None => Priority::default(),
        Some(name) => Priority::from_name(name).ok_or_else(|| {
            Refusal::field("priority", "`priority` is one of Low, Normal, High, Critical")
        })?,
    };
    let event = Event {
        event_type: &request.event_type,
        payload: request.payload,
        priority,
        ttl: request.ttl,
        source: request.source.as_deref().unwrap_or(SOURCE),
        correlation_id: request.correlation_id.as_deref(),
        audience,
        queue,
    };
    let trigger = Trigger { tenant, target, event };
    let dispatched = router.dispatch(&trigger, id)?;
    let (id, occurred_at) = (dispatched.id.to_string(), dispatched.occurred_at.clone());
    let receipt = dispatched.receipt().await?;
    let mut answer = TriggerResponse::new(&id, &occurred_at, receipt.total);
    answer.describe(kind, &trigger.target, &receipt);
    Ok(json(StatusCode::OK, &answer))
}

impl Request<'_> {
    /// The target of the kind; a target field of another kind is a fault.
    fn take_target(&mut self, kind: Kind) -> Result<Target, Refusal> {
        let given = [
            ("target_user_id", self.target_user_id.is_some(), kind == Kind::Send),
            ("target_user_ids", self.target_user_ids.is_some(), kind == Kind::SendToUsers),
            ("channel", self.channel.is_some(), kind == Kind::Channel),
            ("channels", self.channels.is_some(), kind == Kind::Channels),
        ];
        for (field, is_given, is_wanted) in given {
            if is_given != is_wanted {
                let problem = if is_wanted { "is missing" } else { "does not belong to this path" };
                return Err(Refusal::field(field, format!("`{field}` {problem}")));
            }
        }
        match kind {
            Kind::Broadcast => Ok(Target::Everyone),
            Kind::Send => {
                let user = self.target_user_id.take().into_iter().collect();
                users("target_user_id", user).map(Target::Users)
            }
            Kind::SendToUsers => {
                let list = self.target_user_ids.take().unwrap_or_default();
                users("target_user_ids", list).map(Target::Users)
            }
            Kind::Channel => {
                let channel = self.channel.take().into_iter().collect();
                channels("channel", channel).map(Target::Channels)
            }
            Kind::Channels => {
                let list = self.channels.take().unwrap_or_default();
                channels("channels", list).map(Target::Channels)
            }
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let label = |field: &str, text: Option<&str>, bytes_max: usize| match text {
            Some(text) if !names::is_visible(text, bytes_max) => {
                let sentence = format!("`{field}` is 1 to {bytes_max} bytes of visible text");
                Err(Refusal::field(field, sentence))
            }
            _ => Ok(()),
        };
        label("event_type", Some(&self.event_type), names::EVENT_TYPE_BYTES_MAX)?;
        label("source", self.source.as_deref(), names::LABEL_BYTES_MAX)?;
        label("correlation_id", self.correlation_id.as_deref(), names::LABEL_BYTES_MAX)?;
        if self.payload.get().len() > body::BODY_BYTES_MAX {
            let sentence = format!("`payload` is longer than {} bytes", body::BODY_BYTES_MAX);
            return Err(Refusal::new(Code::PayloadTooLarge, sentence));
        }
        Ok(())
    }
}

fn users(field: &str, list: Vec<String>) -> Result<Vec<Arc<str>>, Refusal> {
    check_list(field, list, names::USERS_MAX, names::is_user, names::USER_RULE)
}

fn channels(field: &str, list: Vec<String>) -> Result<Vec<Arc<str>>, Refusal> {
    check_list(field, list, names::CHANNELS_MAX, names::is_channel, names::CHANNEL_RULE)
}

/// Checks a list of names and drops repetitions, keeping the order.
fn check_list(
    field: &str,
    list: Vec<String>,
    most: usize,
    is_valid: impl Fn(&str) -> bool,
    rule: &str,
) -> Result<Vec<Arc<str>>, Refusal> {
    if list.is_empty() || list.len() > most {
        let sentence = format!("`{field}` has {} entries; 1 to {most} are allowed", list.len());
        return Err(Refusal::field(field, sentence));
    }
    if let Some((place, _)) = list.iter().enumerate().find(|(_, name)| !is_valid(name)) {
        let place = if most > 1 && list.len() > 1 { format!("[{place}]") } else { String::new() };
        return Err(Refusal::field(field, format!("`{field}{place}` is not valid: {rule}")));
    }
    let mut seen = AHashSet::with_capacity(list.len());
    let list = list.into_iter().map(Arc::<str>::from);
    Ok(list.filter(|name| seen.insert(Arc::clone(name))).collect())
}

fn audience(wire: WireAudience) -> Result<Option<Audience>, Refusal> {
    const FIELD: &str = "audience.value";
    let list = match (wire.kind, wire.value) {
        (AudienceKind::All, None) => return Ok(None),
        (AudienceKind::All, Some(_)) => {
            let sentence = "`audience.value` does not belong to the type `All`";
            return Err(Refusal::field(FIELD, sentence));
        }
        (_, Some(list)) => list,
        (_, None) => return Err(Refusal::field(FIELD, "`audience.value` is missing")),
    };
    let most =
        if wire.kind == AudienceKind::Users { names::USERS_MAX } else { names::CHANNELS_MAX };
    if list.is_empty() || list.len() > most {
        let sentence =
            format!("`audience.value` has {} entries; 1 to {most} are allowed", list.len());
        return Err(Refusal::field(FIELD, sentence));
    }
    let is_visible = |name: &String| names::is_visible(name, names::LABEL_BYTES_MAX);
    if let Some(place) = list.iter().position(|name| !is_visible(name)) {
        let field = format!("audience.value[{place}]");
        let sentence = format!("`{field}` is not valid: use 1 to 128 bytes of visible text");
        return Err(Refusal::field(&field, sentence));
    }
    let names = |list: Vec<String>| list.into_iter().map(String::into_boxed_str).collect();
    Ok(Some(match wire.kind {
        AudienceKind::Roles => Audience::Roles(names(list)),
        AudienceKind::Channels => Audience::Channels(names(list)),
        AudienceKind::Users | AudienceKind::All => {
            let mut list = list;
            list.sort_unstable();
            list.dedup();
            Audience::Users(names(list))
        }
    }))
}

#[derive(Serialize)]
struct TriggerResponse<'a> {
    success: bool,
    notification_id: &'a str,
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

impl<T: Serialize> Serialize for Named<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'a> TriggerResponse<'a> {
    const fn new(id: &'a str, timestamp: &'a str, total: DeliveryCounts) -> Self {
        Self {
            success: true,
            notification_id: id,
            delivered_to: total.delivered,
            failed: total.failed,
            queued: total.queued > 0,
            not_queued: total.refused,
            timestamp,
            results: None,
            channel: None,
            channels: None,
            total_delivered: None,
        }
    }

    fn describe(&mut self, kind: Kind, target: &'a Target, receipt: &Receipt) {
        let (Target::Users(names) | Target::Channels(names)) = target else { return };
        let pairs = names.iter().map(|name| &**name).zip(receipt.targets.iter());
        match kind {
            Kind::SendToUsers => {
                let result = |counts: &DeliveryCounts| UserResult {
                    delivered: counts.delivered,
                    connections: counts.delivered + counts.failed,
                    queued: counts.queued > 0,
                };
                self.results = Some(Named(pairs.map(|(name, t)| (name, result(t))).collect()));
            }
            Kind::Channel => self.channel = names.first().map(|name| &**name),
            Kind::Channels => {
                let result =
                    |counts: &DeliveryCounts| ChannelResult { delivered_to: counts.delivered };
                self.channels = Some(Named(pairs.map(|(name, t)| (name, result(t))).collect()));
                self.total_delivered = Some(receipt.total.delivered);
            }
            Kind::Send | Kind::Broadcast => {}
        }
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
            "event_type":"e","payload":{"any":1},"priority":"Low","ttl":1,"source":"s",
            "correlation_id":"c","audience":{"type":"Roles","value":["r"]},"queue":true}"#;
        let read =
            |text: &str| json::read::<Request<'_>>(text.as_bytes(), Unknown::Refused).map(drop);
        examine(sample, &["payload"], read);
    }

    #[test]
    fn an_audience_has_the_value_of_its_type() {
        let read = |json: &str| audience(json::read(json.as_bytes(), Unknown::Refused).unwrap());
        let list = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        for (json, expected) in [
            (r#"{"type":"All"}"#, None),
            (r#"{"type":"All","value":null}"#, None),
            (r#"{"value":["r"],"type":"Roles"}"#, Some(Audience::Roles(list(&["r"])))),
            (r#"{"type":"Users","value":["b","a","b"]}"#, Some(Audience::Users(list(&["a", "b"])))),
            (r#"{"type":"Channels","value":["c"]}"#, Some(Audience::Channels(list(&["c"])))),
        ] {
            assert_eq!(read(json).unwrap(), expected, "{json}");
        }
        for json in [
            r#"{"type":"All","value":["r"]}"#,
            r#"{"type":"All","value":[]}"#,
            r#"{"type":"Roles"}"#,
            r#"{"type":"Roles","value":null}"#,
            r#"{"type":"Users","value":[]}"#,
            r#"{"type":"Channels","value":["c",""]}"#,
        ] {
            let refusal = read(json).unwrap_err();
            assert!(refusal.message.contains("`audience.value"), "{json}: {}", refusal.message);
        }
    }
}
