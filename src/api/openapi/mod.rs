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

use super::is_health_check;
use super::routes::{Handler, ROUTES, Route};
use crate::figures::{FIGURES, Figure};

/// The frame of the document, what several resources use, and as `every_response` the headers that
/// each has.
const BASE: &str = include_str!("base.json");
/// Paths, and the schemas and parameters they use.
const RESOURCES: &[&str] = &[
    include_str!("notifications.json"),
    include_str!("templates.json"),
    include_str!("queries.json"),
    include_str!("tenants.json"),
    include_str!("user_queue.json"),
    include_str!("connections.json"),
    include_str!("drain.json"),
    include_str!("clients.json"),
    include_str!("health.json"),
    include_str!("stats.json"),
];
/// Every code of a refusal.
const ERRORS: &str = include_str!("errors.json");

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

type Members = Map<String, Value>;

/// What operations are completed from.
struct Composer {
    codes: BTreeMap<String, ErrorCode>,
    /// The headers of every response.
    headers: Members,
    /// The responses of refusals that were needed so far, by their names among the components.
    refusals: Members,
}

/// The document, as it is served.
pub(super) fn document() -> Bytes {
    serde_json::to_vec(&compose()).expect("serializing to memory cannot fail").into()
}

fn compose() -> Value {
    let mut document: Value = read(BASE);
    *at(&mut document, &["info", "version"]) = env!("CARGO_PKG_VERSION").into();
    for resource in RESOURCES {
        let resource: Members = read(resource);
        for (kind, members) in resource {
            let path: &[&str] =
                if kind == "paths" { &["paths"] } else { &["components", kind.as_str()] };
            merge(at(&mut document, path), members);
        }
    }
    add_figures(at(&mut document, &["components", "schemas"]));
    let headers = document.as_object_mut().and_then(|members| members.remove("every_response"));
    let headers = headers.map(members_of).unwrap_or_default();
    let mut composer = Composer { codes: read(ERRORS), headers, refusals: Map::new() };
    let preflight = at(&mut document, &["components", "responses", "Preflight"]);
    composer.add_headers(preflight);
    for route in ROUTES {
        let method = route.method.as_str().to_ascii_lowercase();
        composer.complete(at(&mut document, &["paths", route.path, &method]), route);
    }
    composer.group(ELSEWHERE);
    merge(at(&mut document, &["components", "responses"]), composer.refusals.into());
    document
}

fn read<T: for<'a> Deserialize<'a>>(text: &str) -> T {
    serde_json::from_str(text).expect("a test reads every file of this folder")
}

/// What stands at this path of members, made where it is not there.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(value, |value, name| {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        let members = value.as_object_mut().expect("a test reads every file of this folder");
        members.entry(*name).or_insert(Value::Null)
    })
}

fn members_of(value: Value) -> Members {
    if let Value::Object(members) = value { members } else { Map::new() }
}

/// Adds the members of an object to another.
fn merge(object: &mut Value, more: Value) {
    let mut members = members_of(object.take());
    members.extend(members_of(more));
    *object = members.into();
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

impl Composer {
    /// Adds to an operation what its route decides.
    fn complete(&mut self, operation: &mut Value, route: &Route) {
        *at(operation, &["security"]) = security(route.handler);
        let mut parameters: Vec<_> =
            parameters_of(route).map(|name| reference("parameters", name)).collect();
        if let Value::Array(own) = at(operation, &["parameters"]).take() {
            parameters.extend(own);
        }
        *at(operation, &["parameters"]) = parameters.into();
        if let Some(bytes_max) = route.body_bytes_max {
            let sentence = format!("At most {} KiB.", bytes_max / 1024);
            merge(
                at(operation, &["requestBody"]),
                json!({ "required": true, "description": sentence }),
            );
        }
        let responses = at(operation, &["responses"]).as_object_mut();
        for response in responses.into_iter().flat_map(Map::values_mut) {
            self.add_headers(response);
        }
        self.add_refusals(operation, route);
    }

    /// Adds the headers that every response has; the one that begins a WebSocket is none.
    fn add_headers(&self, response: &mut Value) {
        if response.pointer("/headers/Sec-WebSocket-Accept").is_none() {
            merge(at(response, &["headers"]), self.headers.clone().into());
        }
    }

    /// Adds the refusals that come with the route, and those that the operation names.
    fn add_refusals(&mut self, operation: &mut Value, route: &Route) {
        let own = operation.as_object_mut().and_then(|members| members.remove("errors"));
        let own = own.as_ref().and_then(Value::as_array).into_iter().flatten();
        let names: Vec<&str> = refusals_of(route).chain(own.filter_map(Value::as_str)).collect();
        for (status, name) in self.group(&names) {
            let response = at(operation, &["responses", &status]);
            if response.is_null() {
                *response = reference("responses", &name);
            } else if let Some(refusal) = self.refusals.get(&name) {
                widen(response, refusal.clone());
            }
        }
    }

    /// The responses that these codes make: each status, and the name among the components.
    fn group(&mut self, names: &[&str]) -> Vec<(String, String)> {
        let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
        for name in names {
            let code = self.codes.get(*name).expect("a test looks up every code that is named");
            by_status.entry(code.status).or_default().insert(name);
        }
        let mut responses = Vec::new();
        for (status, names) in by_status {
            let names: Vec<_> = names.into_iter().collect();
            let component = format!("{status}-{}", names.join("-"));
            if !self.refusals.contains_key(&component) {
                self.refusals.insert(component.clone(), self.refusal(&names));
            }
            responses.push((status.to_string(), component));
        }
        responses
    }

    /// The response whose code is one of these.
    fn refusal(&self, names: &[&str]) -> Value {
        let known = || names.iter().filter_map(|name| Some((*name, self.codes.get(*name)?)));
        let told: Vec<_> =
            known().map(|(name, code)| format!("`{name}`: {}", code.description)).collect();
        let mut headers = self.headers.clone();
        for name in known().flat_map(|(_, code)| &code.headers) {
            headers.insert(name.clone(), reference("headers", name));
        }
        let mut error = json!({
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": { "enum": names },
                "message": {
                    "type": "string",
                    "minLength": 1,
                    "description": "What was wrong and what to do.",
                },
            },
            "additionalProperties": false,
        });
        let details: Vec<_> = known().filter_map(|(_, code)| code.details.as_ref()).collect();
        if !details.is_empty() {
            *at(&mut error, &["properties", "details"]) = json!({ "anyOf": details });
        }
        json!({
            "description": told.join(" "),
            "headers": headers,
            "content": { "application/json": { "schema": {
                "type": "object",
                "required": ["error"],
                "properties": { "error": error },
                "additionalProperties": false,
            } } },
        })
    }
}

/// Makes of a response one that may be a refusal too.
fn widen(response: &mut Value, mut refusal: Value) {
    const SCHEMA: &[&str] = &["content", "application/json", "schema"];
    let either = [at(response, SCHEMA).take(), at(&mut refusal, SCHEMA).take()];
    *at(response, SCHEMA) = json!({ "oneOf": either });
    merge(at(response, &["headers"]), at(&mut refusal, &["headers"]).take());
    let text = |value: &Value| value.get("description").and_then(Value::as_str).map(str::to_owned);
    let texts: Vec<_> = [text(response), text(&refusal)].into_iter().flatten().collect();
    *at(response, &["description"]) = texts.join(" ").into();
}

/// Who may call; of a key, the scope it needs.
fn security(handler: Handler) -> Value {
    match handler {
        Handler::Public(_) => json!([]),
        Handler::Handshake | Handler::Client(_) => json!([{ "token": [] }, { "tokenInQuery": [] }]),
        Handler::Operator(scope, _)
        | Handler::Caller(scope, _)
        | Handler::Tenant(scope, _)
        | Handler::AnyTenant(scope, _) => {
            json!([{ "apiKey": [scope.name()] }])
        }
    }
}

/// The parameters that the path and the caller bring.
fn parameters_of(route: &Route) -> impl Iterator<Item = &'static str> {
    let segments = route.path.split('/');
    let in_path =
        segments.filter_map(|segment| segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')));
    let tenant = match route.handler {
        Handler::Tenant(..) => Some("X-Tenant-ID"),
        Handler::AnyTenant(..) => Some("X-Tenant-ID-or-all"),
        _ => None,
    };
    in_path.chain(tenant)
}

/// The codes that come with a route, whatever it does.
fn refusals_of<'a>(route: &Route) -> impl Iterator<Item = &'a str> + use<'a> {
    let of_handler: &[&str] = match route.handler {
        Handler::Public(_) => &[],
        Handler::Handshake => &["UNAUTHORIZED", "FORBIDDEN", "CONNECTION_LIMIT_EXCEEDED"],
        Handler::Client(_) => &["UNAUTHORIZED", "INTERNAL_ERROR"],
        // With `api.listen` the clients' address does not know these paths.
        Handler::Operator(..)
        | Handler::Caller(..)
        | Handler::Tenant(..)
        | Handler::AnyTenant(..) => &["UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "INTERNAL_ERROR"],
    };
    let of_body: &[&str] = if route.body_bytes_max.is_some() { WITH_BODY } else { &[] };
    let of_rate: &[&str] = if is_health_check(route.path) { &[] } else { &["RATE_LIMITED"] };
    [ANY, of_rate, of_handler, of_body].into_iter().flatten().copied()
}

/// Adds the fields of the table of figures to the schemas of `/stats`.
fn add_figures(schemas: &mut Value) {
    let mut add = |path: &[&str], name: &str, Figure { help, .. }: &Figure| {
        let schema = at(schemas, path);
        *at(schema, &["properties", name]) =
            json!({ "type": "integer", "minimum": 0, "description": help });
        if let Some(required) = at(schema, &["required"]).as_array_mut() {
            required.push(name.into());
        }
    };
    for figure in FIGURES {
        match (figure.section, figure.field) {
            ("disk", Some(name)) => add(&["DiskStats"], name, figure),
            (section, Some(name)) => add(&["Stats", "properties", section], name, figure),
            (_, None) => {}
        }
        if let Some(names) = figure.by_shard {
            add(&["ShardStats"], names.field, figure);
        }
    }
}

#[cfg(test)]
mod tests;
