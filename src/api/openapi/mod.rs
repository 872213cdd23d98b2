//! `GET /openapi.json`: the OpenAPI 3.1 description of the API.
//!
//! What only a person can say of a path stands in the JSON files of this folder, one a resource, in
//! the words of OpenAPI. What the code decides is added here, so that it cannot differ: from the
//! table of routes who may call, the parameters of the path, the tenant's header and the refusals
//! that come with them; from the table of figures what `/stats` shows. An operation names the codes
//! of its own as `errors`; what they mean, their status and headers are in `errors.json`.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: says anything of this instance
//! but its version.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::routes::{Handler, ROUTES, Route};
use crate::figures::{FIGURES, Figure};

/// The frame of the document, and what several resources use.
const BASE: &str = include_str!("base.json");
/// Paths, and the schemas and parameters they use.
const RESOURCES: &[&str] = &[
    include_str!("notifications.json"),
    include_str!("queries.json"),
    include_str!("user_queue.json"),
    include_str!("clients.json"),
    include_str!("health.json"),
    include_str!("stats.json"),
];
/// Every code of a refusal.
const ERRORS: &str = include_str!("errors.json");

/// The headers of every response: see `origin` and `NO_STORE`.
const HEADERS: &[&str] = &[
    "Cache-Control",
    "Vary",
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Expose-Headers",
];

/// What any request may be answered, for its head alone or before it is looked at.
const ANY: &[&str] =
    &["VALIDATION_ERROR", "REQUEST_HEADER_FIELDS_TOO_LARGE", "OVERLOADED", "SHUTTING_DOWN"];
/// What a request with a body may be answered.
const WITH_BODY: &[&str] = &["REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"];
/// What is answered where no operation is.
const ELSEWHERE: &[&str] = &["NOT_FOUND", "METHOD_NOT_ALLOWED"];

/// What a code means to a caller.
#[derive(Deserialize)]
struct ErrorCode {
    status: u16,
    description: String,
    /// Of the components.
    #[serde(default)]
    headers: Vec<String>,
    /// The schema of `details`, where it may have some.
    details: Option<Value>,
}

type ErrorCodes = BTreeMap<String, ErrorCode>;

/// The document, as it is served.
pub(super) fn document() -> Bytes {
    serde_json::to_vec(&compose()).expect("serializing to memory cannot fail").into()
}

fn compose() -> Value {
    let mut document: Value = read(BASE);
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    for resource in RESOURCES {
        let mut resource: Map<String, Value> = read(resource);
        merge(&mut document["paths"], resource.remove("paths"));
        for (kind, components) in resource {
            merge(&mut document["components"][kind], Some(components));
        }
    }
    add_figures(&mut document["components"]["schemas"]);
    let codes: ErrorCodes = read(ERRORS);
    let mut refusals = Map::new();
    for route in ROUTES {
        let method = route.method.as_str().to_ascii_lowercase();
        complete(&mut document["paths"][route.path][method], route, &codes, &mut refusals);
    }
    group(ELSEWHERE, &codes, &mut refusals);
    merge(&mut document["components"]["responses"], Some(refusals.into()));
    document
}

fn read<T: for<'a> Deserialize<'a>>(text: &str) -> T {
    serde_json::from_str(text).expect("a test reads every file of this folder")
}

/// Adds the members of an object to another.
fn merge(object: &mut Value, more: Option<Value>) {
    if let (Some(object), Some(Value::Object(more))) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn headers_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    let named = names.into_iter().map(|name| (name.to_owned(), reference("headers", name)));
    Value::Object(named.collect())
}

/// Adds to an operation what its route decides.
fn complete(
    operation: &mut Value,
    route: &Route,
    codes: &ErrorCodes,
    refusals: &mut Map<String, Value>,
) {
    let own = operation.as_object_mut().and_then(|members| members.remove("errors"));
    let own: Vec<String> = own.map(|own| read(&own.to_string())).unwrap_or_default();
    operation["security"] = security(route.handler);
    let parameters = parameters(route).map(|name| reference("parameters", name));
    let mut all: Vec<Value> = parameters.collect();
    if let Some(Value::Array(more)) = operation.get("parameters") {
        all.extend(more.iter().cloned());
    }
    operation["parameters"] = all.into();
    if let Some(bytes_max) = route.body_bytes_max {
        let kib = bytes_max / 1024;
        operation["requestBody"]["required"] = true.into();
        operation["requestBody"]["description"] = format!("At most {kib} KiB.").into();
    }
    let responses = operation["responses"].as_object_mut();
    for response in responses.into_iter().flat_map(Map::values_mut) {
        // The one that is no answer but the beginning of a connection.
        let is_upgrade = response["headers"].get("Sec-WebSocket-Accept").is_some();
        let names = if is_upgrade { &[] } else { HEADERS };
        let headers = headers_of(names.iter().copied());
        if response["headers"].is_null() {
            response["headers"] = headers;
        } else {
            merge(&mut response["headers"], Some(headers));
        }
    }
    let mut names: Vec<&str> = refusals_of(route).collect();
    names.extend(own.iter().map(String::as_str));
    for (status, name) in group(&names, codes, refusals) {
        let response = &mut operation["responses"][&status];
        if response.is_null() {
            *response = reference("responses", &name);
        } else {
            widen(response, &refusals[&name]);
        }
    }
}

/// Makes of a response one that may be a refusal too.
fn widen(response: &mut Value, refusal: &Value) {
    let schema = &mut response["content"]["application/json"]["schema"];
    let either = [schema.take(), refusal["content"]["application/json"]["schema"].clone()];
    *schema = json!({ "oneOf": either });
    merge(&mut response["headers"], Some(refusal["headers"].clone()));
    let text = |value: &Value| value["description"].as_str().unwrap_or_default().to_owned();
    response["description"] = format!("{} {}", text(response), text(refusal)).into();
}

/// Who may call.
fn security(handler: Handler) -> Value {
    match handler {
        Handler::Public(_) => json!([]),
        Handler::Handshake | Handler::Client(_) => json!([{ "token": [] }, { "tokenInQuery": [] }]),
        Handler::Operator(_) | Handler::Tenant(_) => json!([{ "apiKey": [] }]),
    }
}

/// The parameters that the path and the caller bring.
fn parameters(route: &Route) -> impl Iterator<Item = &'static str> {
    let segments = route.path.split('/');
    let in_path =
        segments.filter_map(|segment| segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')));
    let is_for_tenant = matches!(route.handler, Handler::Tenant(_));
    in_path.chain(is_for_tenant.then_some("X-Tenant-ID"))
}

/// The codes that come with a route, whatever it does.
fn refusals_of(route: &Route) -> impl Iterator<Item = &'static str> {
    let of_handler: &[&str] = match route.handler {
        Handler::Public(_) => &[],
        Handler::Handshake => &["UNAUTHORIZED", "FORBIDDEN", "CONNECTION_LIMIT_EXCEEDED"],
        Handler::Client(_) => &["UNAUTHORIZED", "INTERNAL_ERROR"],
        // With `api.listen` the clients' address does not know these paths.
        Handler::Operator(_) | Handler::Tenant(_) => {
            &["UNAUTHORIZED", "NOT_FOUND", "INTERNAL_ERROR"]
        }
    };
    let of_body: &[&str] = if route.body_bytes_max.is_some() { WITH_BODY } else { &[] };
    [ANY, of_handler, of_body].into_iter().flatten().copied()
}

/// The responses that these codes make, one for each status, by their names among the components.
fn group(
    names: &[&str],
    codes: &ErrorCodes,
    refusals: &mut Map<String, Value>,
) -> Vec<(String, String)> {
    let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        let code = codes.get(*name).expect("a test looks up every code that is named");
        by_status.entry(code.status).or_default().insert(name);
    }
    let mut responses = Vec::new();
    for (status, names) in by_status {
        let names: Vec<_> = names.into_iter().collect();
        let component = format!("{status}-{}", names.join("-"));
        refusals.entry(component.clone()).or_insert_with(|| refusal(&names, codes));
        responses.push((status.to_string(), component));
    }
    responses
}

/// The response whose code is one of these.
fn refusal(names: &[&str], codes: &ErrorCodes) -> Value {
    let known = || names.iter().filter_map(|name| Some((*name, codes.get(*name)?)));
    let told: Vec<_> = known().map(|(name, c)| format!("`{name}`: {}", c.description)).collect();
    let own = known().flat_map(|(_, code)| code.headers.iter().map(String::as_str));
    let mut error = json!({
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": { "enum": names },
            "message": { "type": "string", "minLength": 1, "description": "What was wrong and what to do." },
        },
        "additionalProperties": false,
    });
    let details: Vec<_> = known().filter_map(|(_, code)| code.details.as_ref()).collect();
    if !details.is_empty() {
        error["properties"]["details"] = json!({ "anyOf": details });
    }
    json!({
        "description": told.join(" "),
        "headers": headers_of(HEADERS.iter().copied().chain(own)),
        "content": { "application/json": { "schema": {
            "type": "object",
            "required": ["error"],
            "properties": { "error": error },
            "additionalProperties": false,
        } } },
    })
}

/// Adds the fields of the table of figures to the schemas of `/stats`.
fn add_figures(schemas: &mut Value) {
    let add = |schema: &mut Value, name: &str, Figure { help, .. }: &Figure| {
        schema["properties"][name] =
            json!({ "type": "integer", "minimum": 0, "description": help });
        if let Some(required) = schema["required"].as_array_mut() {
            required.push(name.into());
        }
    };
    for figure in FIGURES {
        if let Some(name) = figure.field {
            let schema = match figure.section {
                "disk" => &mut schemas["DiskStats"],
                section => &mut schemas["Stats"]["properties"][section],
            };
            add(schema, name, figure);
        }
        if let Some(names) = figure.by_shard {
            add(&mut schemas["ShardStats"], names.field, figure);
        }
    }
}

#[cfg(test)]
mod tests;
