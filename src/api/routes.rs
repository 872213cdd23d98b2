//! The one table of routes: each path with its method, who may call it, its body and its handler.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: serves what is not in the table;
//! `docs/protocol.md` shows it, and a test compares the two.
//!
//! A new route is a line here, its line there and its entry in `openapi/`. Matching, `Allow`, 404 and
//! 405, the check of the caller, its scope, the tenant, the bound of the body and the decoding of the
//! path come with it.

use std::pin::Pin;
use std::sync::Arc;

use ara_shards::link::message::{Client, Source};
use bytes::Bytes;
use http::Method;

use super::body::{BATCH_BYTES_MAX, BODY_BYTES_MAX, TARGETS_BYTES_MAX, TEMPLATE_BYTES_MAX};
use super::call::Call;
use super::notifications::{self, Kind};
use super::{
    Api, HttpResponse, batch, connections, drain, health, queries, stats, templates, tenants,
    user_queue,
};
use crate::access::Scope;
use crate::names;
use crate::query;
use crate::refusal::{Code, Refusal};
use crate::templates::template;

/// A response on its way.
pub(super) type Pending<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, Refusal>> + 'a>>;

/// One method of one path.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// The pattern: a segment in braces is one of [`PARAMETERS`].
    pub(super) path: &'static str,
    /// The most bytes of its body; `None` = it takes no body.
    pub(super) body_bytes_max: Option<usize>,
    /// What its query may have, where its handler reads it.
    pub(super) parameters: &'static [&'static str],
    pub(super) handler: Handler,
}

/// Who may call, and what is done then: a handler is given what its callers have shown.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handler {
    /// Anyone. The query is not looked at: a health check is answered whatever a probe adds.
    Public(fn(&Api) -> HttpResponse),
    /// A client that connects. A `GET` of these never comes here: see `requests`.
    Handshake,
    /// A client by its token, which may be in the query.
    Client(for<'a> fn(&'a Api, Client, Bytes) -> Pending<'a>),
    /// Whoever has an API key with this scope that is not bound to a tenant.
    Operator(Scope, for<'a> fn(&'a Api, Call<'a, ()>) -> Pending<'a>),
    /// Whoever has an API key with this scope. The handler looks at the tenant it is bound to, if it is.
    Caller(Scope, for<'a> fn(&'a Api, Call<'a, ()>) -> Pending<'a>),
    /// Whoever has an API key with this scope, for one tenant.
    Tenant(Scope, for<'a> fn(&'a Api, Call<'a>) -> Pending<'a>),
    /// Whoever has an API key with this scope: for the tenant it names or is bound to, else for all.
    AnyTenant(Scope, for<'a> fn(&'a Api, Call<'a, Option<Arc<str>>>) -> Pending<'a>),
}

/// Every route. Those of one path stand together, in the order in which `Allow` lists their methods.
pub(super) const ROUTES: &[Route] = &[
    get("/health", Handler::Public(health::report)),
    get("/health/live", Handler::Public(health::live)),
    get("/health/ready", Handler::Public(health::ready)),
    get("/openapi.json", Handler::Public(Api::document)),
    get("/ws", Handler::Handshake),
    get("/sse", Handler::Handshake),
    post(
        "/api/v1/acks",
        BODY_BYTES_MAX,
        Handler::Client(|api, client, body| Box::pin(user_queue::acknowledge(api, client, body))),
    ),
    get("/stats", Handler::Operator(Scope::Read, |api, _call| Box::pin(stats::show(api)))),
    get("/api/v1/stats", Handler::Operator(Scope::Read, |api, _call| Box::pin(stats::show(api)))),
    post(
        "/api/v1/notifications/send",
        BODY_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| {
            Box::pin(notifications::serve(api, Kind::Send, call))
        }),
    ),
    post(
        "/api/v1/notifications/send-to-users",
        TARGETS_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| {
            Box::pin(notifications::serve(api, Kind::SendToUsers, call))
        }),
    ),
    post(
        "/api/v1/notifications/broadcast",
        BODY_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| {
            Box::pin(notifications::serve(api, Kind::Broadcast, call))
        }),
    ),
    post(
        "/api/v1/notifications/channel",
        BODY_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| {
            Box::pin(notifications::serve(api, Kind::Channel, call))
        }),
    ),
    post(
        "/api/v1/notifications/channels",
        BODY_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| {
            Box::pin(notifications::serve(api, Kind::Channels, call))
        }),
    ),
    post(
        "/api/v1/notifications/batch",
        BATCH_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| Box::pin(batch::serve(api, call))),
    ),
    get(
        "/api/v1/channels",
        Handler::Tenant(Scope::Read, |api, call| Box::pin(queries::channels(api, call))),
    ),
    get(
        "/api/v1/channels/{name}",
        Handler::Tenant(Scope::Read, |api, call| Box::pin(queries::channel(api, call))),
    ),
    get(
        "/api/v1/users/{user_id}/subscriptions",
        Handler::Tenant(Scope::Read, |api, call| Box::pin(queries::subscriptions(api, call))),
    ),
    post(
        "/api/v1/drain",
        BODY_BYTES_MAX,
        Handler::Operator(Scope::Admin, |api, call| Box::pin(drain::start(api, call))),
    ),
    get("/api/v1/drain", Handler::Operator(Scope::Read, |api, _call| Box::pin(drain::show(api)))),
    delete(
        "/api/v1/drain",
        Handler::Operator(Scope::Admin, |api, call| Box::pin(drain::stop(api, call))),
    ),
    get_with(
        "/api/v1/connections",
        &connections::LIST_PARAMETERS,
        Handler::AnyTenant(Scope::Read, |api, call| Box::pin(connections::list(api, call))),
    ),
    delete_with(
        "/api/v1/users/{user_id}/connections",
        &connections::DISCONNECT_PARAMETERS,
        Handler::Tenant(Scope::Admin, |api, call| Box::pin(connections::disconnect(api, call))),
    ),
    get(
        "/api/v1/users/{user_id}/queue",
        Handler::Tenant(Scope::Read, |api, call| {
            Box::pin(user_queue::show(api, call, Source::Queue))
        }),
    ),
    delete(
        "/api/v1/users/{user_id}/queue",
        Handler::Tenant(Scope::Admin, |api, call| {
            Box::pin(user_queue::clear(api, call, Source::Queue))
        }),
    ),
    get(
        "/api/v1/users/{user_id}/dead-letters",
        Handler::Tenant(Scope::Read, |api, call| {
            Box::pin(user_queue::show(api, call, Source::DeadLetters))
        }),
    ),
    delete(
        "/api/v1/users/{user_id}/dead-letters",
        Handler::Tenant(Scope::Admin, |api, call| {
            Box::pin(user_queue::clear(api, call, Source::DeadLetters))
        }),
    ),
    get(
        "/api/v1/tenants",
        Handler::Caller(Scope::Read, |api, call| Box::pin(tenants::list(api, call))),
    ),
    get(
        "/api/v1/tenants/{tenant_id}",
        Handler::Caller(Scope::Read, |api, call| Box::pin(tenants::show(api, call))),
    ),
    get_with(
        "/api/v1/templates",
        &templates::LIST_PARAMETERS,
        Handler::Tenant(Scope::Read, |api, call| Box::pin(templates::list(api, call))),
    ),
    post(
        "/api/v1/templates",
        TEMPLATE_BYTES_MAX,
        Handler::Tenant(Scope::Admin, |api, call| Box::pin(templates::create(api, call))),
    ),
    get(
        "/api/v1/templates/{template_id}",
        Handler::Tenant(Scope::Read, |api, call| Box::pin(templates::show(api, call))),
    ),
    put(
        "/api/v1/templates/{template_id}",
        TEMPLATE_BYTES_MAX,
        Handler::Tenant(Scope::Admin, |api, call| Box::pin(templates::replace(api, call))),
    ),
    delete(
        "/api/v1/templates/{template_id}",
        Handler::Tenant(Scope::Admin, |api, call| Box::pin(templates::remove(api, call))),
    ),
    post(
        "/api/v1/templates/{template_id}/render",
        BODY_BYTES_MAX,
        Handler::Tenant(Scope::Send, |api, call| Box::pin(templates::render(api, call))),
    ),
];

const fn get(path: &'static str, handler: Handler) -> Route {
    Route { method: Method::GET, path, body_bytes_max: None, parameters: &[], handler }
}

/// As [`get`], with a query.
const fn get_with(
    path: &'static str,
    parameters: &'static [&'static str],
    handler: Handler,
) -> Route {
    Route { method: Method::GET, path, body_bytes_max: None, parameters, handler }
}

const fn put(path: &'static str, body_bytes_max: usize, handler: Handler) -> Route {
    let body_bytes_max = Some(body_bytes_max);
    Route { method: Method::PUT, path, body_bytes_max, parameters: &[], handler }
}

const fn delete(path: &'static str, handler: Handler) -> Route {
    Route { method: Method::DELETE, path, body_bytes_max: None, parameters: &[], handler }
}

/// As [`delete`], with a query.
const fn delete_with(
    path: &'static str,
    parameters: &'static [&'static str],
    handler: Handler,
) -> Route {
    Route { method: Method::DELETE, path, body_bytes_max: None, parameters, handler }
}

const fn post(path: &'static str, body_bytes_max: usize, handler: Handler) -> Route {
    let body_bytes_max = Some(body_bytes_max);
    Route { method: Method::POST, path, body_bytes_max, parameters: &[], handler }
}

/// What may stand in a path.
struct Parameter {
    /// Its name in patterns, documents and refusals.
    name: &'static str,
    is_valid: fn(&str) -> bool,
    what: &'static str,
    rule: &'static str,
    /// What is answered where it is something else.
    code: Code,
}

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "user_id",
        is_valid: names::is_user,
        what: "a user id",
        rule: names::USER_RULE,
        code: Code::Validation,
    },
    Parameter {
        name: "tenant_id",
        is_valid: names::is_tenant,
        what: "a tenant id",
        rule: names::TENANT_RULE,
        code: Code::Validation,
    },
    Parameter {
        name: "name",
        is_valid: names::is_channel,
        what: "a channel name",
        rule: names::CHANNEL_RULE,
        code: Code::Validation,
    },
    Parameter {
        name: "template_id",
        is_valid: template::is_id,
        what: "the id of a template",
        rule: template::ID_RULE,
        code: Code::InvalidTemplateId,
    },
];

impl Parameter {
    /// The parameter that a segment of a pattern stands for, if it is none of the path itself.
    fn of(segment: &str) -> Option<&'static Self> {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        let known = PARAMETERS.iter().find(|known| known.name == name);
        Some(known.expect("a pattern names parameters that there are"))
    }

    /// A segment of a path with its percent-encoding undone, if it is what it must be.
    fn read(&self, segment: &str) -> Result<String, Refusal> {
        let Self { name, is_valid, what, rule, code } = self;
        let refuse = |sentence| Refusal { code: *code, ..Refusal::field(name, sentence) };
        let value = query::decode(segment)
            .map_err(|problem| refuse(format!("`{name}` in the path {problem}")))?;
        if is_valid(&value) {
            return Ok(value.into_owned());
        }
        Err(refuse(format!("not {what}: {rule}")))
    }
}

/// The routes of one path.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// At least one, all of one pattern.
    routes: &'static [Route],
    /// The parameter's place in the pattern, and what stands there.
    parameter: Option<(&'static str, &'a str)>,
}

impl<'a> Found<'a> {
    /// What is at a path. Several slashes at its beginning count as one: a base address that ends with
    /// a slash works.
    pub(super) fn at(path: &'a str) -> Option<Self> {
        let same_path = |one: &Route, next: &Route| one.path == next.path;
        // Triggers come by the thousand, and their paths have no parameter.
        let is_it = |routes: &&[Route]| routes.iter().any(|route| route.path == path);
        if !path.contains('{')
            && let Some(routes) = ROUTES.chunk_by(same_path).find(is_it)
        {
            return Some(Self { routes, parameter: None });
        }
        ROUTES.chunk_by(same_path).find_map(|routes| {
            let mut parameter = None;
            let mut segments = path.trim_start_matches('/').split('/');
            for wanted in routes.first()?.path.trim_start_matches('/').split('/') {
                let segment = segments.next()?;
                if Parameter::of(wanted).is_some() {
                    parameter = Some((wanted, segment));
                } else if wanted != segment {
                    return None;
                }
            }
            segments.next().is_none().then_some(Self { routes, parameter })
        })
    }

    /// Whether the clients' address serves it too where the API has an address of its own.
    pub(super) fn is_public(&self) -> bool {
        self.routes.iter().all(|route| route.handler.is_public())
    }

    /// The route for a method; what takes `GET` takes `HEAD`, and hyper leaves the body of the response
    /// out.
    ///
    /// # Errors
    ///
    /// The path takes other methods.
    pub(super) fn route(&self, method: &Method) -> Result<&'static Route, Refusal> {
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let route = self.routes.iter().find(|route| route.method == *wanted);
        route.filter(|route| !route.is_handshake()).ok_or_else(|| self.refuse_method())
    }

    fn refuse_method(&self) -> Refusal {
        let mut names: Vec<&str> = self.routes.iter().map(|route| route.method.as_str()).collect();
        let sentence = format!("this path takes {}", names.join(" and "));
        // No stream has a HEAD.
        if names.contains(&"GET") && !self.routes.iter().any(Route::is_handshake) {
            names.push("HEAD");
        }
        names.push("OPTIONS");
        Refusal::new(Code::MethodNotAllowed, sentence).with_header("allow", names.join(", "))
    }

    /// What stands in the path for the pattern's parameter, if it has one.
    ///
    /// # Errors
    ///
    /// It cannot be decoded, or is not what it must be.
    pub(super) fn parameter(&self) -> Result<Option<String>, Refusal> {
        let read = |(place, segment)| Parameter::of(place).map(|known| known.read(segment));
        self.parameter.and_then(read).transpose()
    }
}

impl Route {
    const fn is_handshake(&self) -> bool {
        matches!(self.handler, Handler::Handshake)
    }
}

impl Handler {
    const fn is_public(self) -> bool {
        match self {
            Self::Public(_) | Self::Handshake | Self::Client(_) => true,
            Self::Operator(..) | Self::Caller(..) | Self::Tenant(..) | Self::AnyTenant(..) => false,
        }
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
