//! `/api/v1/templates`: a tenant's templates, and what one would send.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: shows or changes a template of
//! another tenant; sends anything.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::call::Call;
use super::{Api, HttpResponse, body, json};
use crate::audit::{self, About, Event};
use crate::intake::draft::EventDraft;
use crate::intake::fault::{Fault, Problem};
use crate::intake::trigger::{JsonText, Target};
use crate::intake::validate;
use crate::query::Query;
use crate::refusal::{Code, Refusal};
use crate::templates::catalog::{self, CatalogFault, Page};
use crate::templates::store::ChangeFault;
use crate::templates::{Pattern, Template, template};

/// The parameters of the list's query.
pub(super) const LIST_PARAMETERS: [&str; 2] = ["limit", "cursor"];
/// How many templates a page has where nothing is said, and at most.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 100;
/// A page ends with the template that makes it as long as this.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What a caller writes of a template.
#[derive(Deserialize)]
struct Body<'a> {
    id: Option<String>,
    name: Option<String>,
    event_type: String,
    #[serde(borrow)]
    payload_template: &'a RawValue,
    default_priority: Option<String>,
    default_ttl: Option<u64>,
}

/// What a caller gives to see what a template would send.
#[derive(Deserialize)]
struct RenderBody<'a> {
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    event_type: Option<String>,
    priority: Option<String>,
    ttl: Option<u64>,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    event_type: &'a str,
    payload_template: &'a RawValue,
    default_priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_ttl: Option<u64>,
    created_at: String,
    updated_at: String,
}

impl<'a> Shown<'a> {
    fn new(template: &'a Template) -> Self {
        Self {
            id: &template.id,
            name: template.name.as_deref(),
            event_type: &template.event_type,
            payload_template: template.pattern.text(),
            default_priority: template.default_priority.name(),
            default_ttl: template.default_ttl,
            created_at: timestamp(template.created_ms),
            updated_at: timestamp(template.updated_ms),
        }
    }
}

#[derive(Serialize)]
struct ShownPage<'a> {
    templates: Vec<Shown<'a>>,
    total: usize,
    /// Where the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownEvent<'a> {
    event_type: &'a str,
    payload: &'a RawValue,
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

/// `GET /api/v1/templates`.
pub(super) async fn list(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&call.parts.uri, &LIST_PARAMETERS, &[])?;
    let limit = match query.get("limit") {
        None => PAGE_DEFAULT,
        Some(text) => {
            text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(|| {
                Refusal::field("limit", format!("`limit` is a number from 1 to {PAGE_MAX}"))
            })?
        }
    };
    let cursor = query.get("cursor");
    if cursor.is_some_and(|cursor| !template::is_id(cursor)) {
        let sentence = "`cursor` is not a `next_cursor` that this path has answered";
        return Err(Refusal::field("cursor", sentence));
    }
    let page = api.templates.catalog().page(&call.tenant, cursor, limit, PAGE_BYTES_MAX);
    let Page { templates, has_more, total } = page;
    let last = templates.last().filter(|_last| has_more);
    let page = ShownPage {
        templates: templates.iter().map(|template| Shown::new(template)).collect(),
        total,
        next_cursor: last.map(|template| &*template.id),
    };
    Ok(json(StatusCode::OK, &page))
}

/// `POST /api/v1/templates`.
pub(super) async fn create(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let body: Body<'_> = body::parse(&call.body)?;
    let template = template(body, None).map_err(|fault| body::refuse(&fault))?;
    let created = api.templates.create(&call.tenant, template).await;
    let template = created.map_err(refuse_change)?;
    record(Event::TemplateCreated, &call, &template.id);
    Ok(json(StatusCode::CREATED, &Shown::new(&template)))
}

/// `GET /api/v1/templates/{template_id}`.
pub(super) async fn show(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let template = find(api, &call)?;
    Ok(json(StatusCode::OK, &Shown::new(&template)))
}

/// `PUT /api/v1/templates/{template_id}`.
pub(super) async fn replace(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let body: Body<'_> = body::parse(&call.body)?;
    let template = template(body, Some(call.parameter())).map_err(|fault| body::refuse(&fault))?;
    let replaced = api.templates.replace(&call.tenant, template).await;
    let template = replaced.map_err(refuse_change)?;
    record(Event::TemplateChanged, &call, &template.id);
    Ok(json(StatusCode::OK, &Shown::new(&template)))
}

/// `DELETE /api/v1/templates/{template_id}`.
pub(super) async fn remove(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    api.templates.remove(&call.tenant, call.parameter()).await.map_err(refuse_change)?;
    record(Event::TemplateDeleted, &call, call.parameter());
    let mut reply = HttpResponse::new(Full::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    Ok(reply)
}

/// `POST /api/v1/templates/{template_id}/render`.
pub(super) async fn render(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    find(api, &call)?;
    let body: RenderBody<'_> = body::parse(&call.body)?;
    let event = EventDraft {
        path: "",
        event_type: body.event_type,
        payload: None,
        template_id: Some(call.parameter().to_owned()),
        variables: body.variables.map(|json| JsonText::within(&call.body, json)),
        priority: body.priority,
        ttl: body.ttl,
        source: "render".into(),
        correlation_id: None,
        audience: None,
        queue: false,
    };
    let event = event.check(&call.tenant, &Target::Everyone, &api.templates.catalog());
    let event = event.map_err(|fault| body::refuse(&fault))?;
    let mut payload = Vec::with_capacity(event.payload.len());
    event.payload.write_to(&mut payload);
    let payload = String::from_utf8(payload).expect("parts of texts make a text");
    let payload = RawValue::from_string(payload).expect("a template gives JSON");
    let shown = ShownEvent {
        event_type: &event.event_type,
        payload: &payload,
        priority: event.priority.name(),
        ttl: event.ttl,
    };
    Ok(json(StatusCode::OK, &shown))
}

fn find(api: &Api, call: &Call<'_>) -> Result<Rc<Template>, Refusal> {
    let catalog = api.templates.catalog();
    let found = catalog.find(&call.tenant, call.parameter()).map(Rc::clone);
    found.ok_or_else(|| refuse(CatalogFault::NotFound))
}

/// The template that a body describes, for the path's id if there is one.
fn template(body: Body<'_>, path_id: Option<&str>) -> Result<Template, Fault> {
    let id = match (body.id, path_id) {
        (Some(id), Some(path_id)) if id != path_id => {
            let advice = "leave it out, or write the one in the path";
            return Err(Fault::at("id", Problem::Invalid { advice }));
        }
        (_, Some(path_id)) => path_id.to_owned(),
        (Some(id), None) => id,
        (None, None) => return Err(Fault::at("id", Problem::Missing)),
    };
    validate::check_template_id("id", &id)?;
    if let Some(name) = &body.name {
        validate::check_label("name", name)?;
    }
    validate::check_label("event_type", &body.event_type)?;
    let priority = body.default_priority.as_deref();
    let default_priority = validate::check_priority("default_priority", priority)?;
    let pattern = Pattern::parse(body.payload_template.to_owned());
    let now_ms = now_ms();
    Ok(Template {
        id: id.into(),
        name: body.name.map(String::into_boxed_str),
        event_type: body.event_type.into(),
        pattern: pattern.map_err(Fault::from)?,
        default_priority: default_priority.unwrap_or_default(),
        default_ttl: body.default_ttl,
        created_ms: now_ms,
        updated_ms: now_ms,
    })
}

/// What a change that was not made is answered.
fn refuse_change(fault: ChangeFault) -> Refusal {
    match fault {
        ChangeFault::Refused(fault) => refuse(fault),
        ChangeFault::NotOnDisk(reason) => {
            let sentence = format!("the change is not made, since it is not on the disk: {reason}");
            Refusal::new(Code::TemplatesUnavailable, sentence)
        }
        ChangeFault::Unknown => {
            Refusal::new(Code::Internal, "the change was not finished; it may have been made")
        }
    }
}

/// What is answered where the catalog says no.
fn refuse(fault: CatalogFault) -> Refusal {
    let (code, sentence) = match fault {
        CatalogFault::Exists => {
            let sentence =
                "there is a template of this id: change it with PUT, or choose another id";
            (Code::TemplateExists, sentence.to_owned())
        }
        CatalogFault::NotFound => {
            (Code::TemplateNotFound, "there is no template of this id".to_owned())
        }
        CatalogFault::TooMany => {
            let sentence = format!("a tenant has at most {} templates", catalog::TEMPLATES_MAX);
            (Code::TemplateLimit, sentence)
        }
        CatalogFault::TooLarge => {
            let sentence =
                "the templates of all tenants have no more room: delete some, or shorten them";
            (Code::TemplateLimit, sentence.to_owned())
        }
    };
    Refusal::new(code, sentence)
}

fn record(event: Event, call: &Call<'_>, id: &str) {
    let (tenant, template) = (Some(&*call.tenant), Some(id));
    audit::record(event, &call.caller, About { tenant, template, ..About::default() });
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time of a template, RFC 3339.
fn timestamp(ms: u64) -> String {
    // The year 9999 is the last that can be written. A damaged file may hold any number.
    const LATEST_MS: u64 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(LATEST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_shape_tests::examine;
    use ara_shards::wire::json::{self, Unknown};

    #[test]
    fn a_template_keeps_the_rules_of_every_shape() {
        let sample = r#"{"id":"i","name":"n","event_type":"e","payload_template":{"any":1},
            "default_priority":"Low","default_ttl":1}"#;
        let read = |text: &str| json::read::<Body<'_>>(text.as_bytes(), Unknown::Refused).map(drop);
        examine(sample, &["payload_template"], read);
    }

    #[test]
    fn what_is_rendered_keeps_the_rules_of_every_shape() {
        let sample = r#"{"variables":{"any":1},"event_type":"e","priority":"Low","ttl":1}"#;
        let read =
            |text: &str| json::read::<RenderBody<'_>>(text.as_bytes(), Unknown::Refused).map(drop);
        examine(sample, &["variables"], read);
    }

    #[test]
    fn any_number_is_a_time() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
