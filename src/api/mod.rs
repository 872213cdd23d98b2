//! The HTTP API: one table of routes, one file per resource.
//!
//! **Runs on**: the router's thread. **Owns**: what a request needs while it is served.
//! **Never**: answers in another shape than the contract's; names a secret in an error.

mod body;
mod caller;
mod framing;
mod health;
mod notifications;
mod queries;
mod requests;
pub mod serve;
mod stats;
mod user_queue;
mod watch;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use ara_shards::link::message::Source;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;

use crate::config::settings::Settings;
use crate::idempotency::{ResponseStore, StoredResponses};
use crate::listener::handshake::Handshake;
use crate::names;
use crate::origin;
use crate::query;
use crate::redis::Status as RedisStatus;
use crate::refusal::{Code, NO_STORE, Refusal};
use crate::router::Router;
use crate::supervise::Supervisor;
use watch::Watch;

/// The body of every response: complete before it is sent.
pub type HttpResponse = Response<Full<Bytes>>;

/// Everything a request may need.
#[derive(Debug)]
pub struct Api {
    /// The way to the shards.
    pub router: Router,
    /// Origins and, for clients on API connections, tokens.
    pub gate: Arc<Handshake>,
    /// SHA-256 of the API key: comparing digests takes the same time whatever was sent.
    key_digest: Vec<u8>,
    /// The Redis subscriber's state.
    pub redis: Rc<RedisStatus>,
    messages: Letters,
    /// StoredResponses by `Idempotency-Key`.
    answers: Rc<StoredResponses>,
}

/// What becomes of notifications nobody took.
#[derive(Debug, Clone, Copy)]
struct Letters {
    /// They wait.
    queue: bool,
    /// They are awaited to be acknowledged.
    ack: bool,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Health,
    Live,
    Ready,
    Trigger(notifications::Kind),
    Channels,
    Channel(&'a str),
    Subscriptions(&'a str),
    /// A user's messages: GET shows them, DELETE throws them away as well.
    Letters(&'a str, Source),
    /// A client's acknowledgement over HTTP, by its token.
    Acks,
    Stats,
    /// `/ws` and `/sse` by another method than GET.
    Client,
}

impl<'a> Route<'a> {
    fn find(path: &'a str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Some(match segments.as_slice() {
            ["health"] => Self::Health,
            ["health", "live"] => Self::Live,
            ["health", "ready"] => Self::Ready,
            ["ws" | "sse"] => Self::Client,
            ["stats"] | ["api", "v1", "stats"] => Self::Stats,
            ["api", "v1", "notifications", kind] => {
                Self::Trigger(notifications::Kind::from_path(kind)?)
            }
            ["api", "v1", "channels"] => Self::Channels,
            ["api", "v1", "channels", name] => Self::Channel(name),
            ["api", "v1", "users", user, "subscriptions"] => Self::Subscriptions(user),
            ["api", "v1", "users", user, "queue"] => Self::Letters(user, Source::Queue),
            ["api", "v1", "users", user, "dead-messages"] => {
                Self::Letters(user, Source::DeadLetters)
            }
            ["api", "v1", "acks"] => Self::Acks,
            _ => return None,
        })
    }

    /// The methods it takes, as `Allow` lists them.
    const fn methods(self) -> &'static [Method] {
        match self {
            Self::Trigger(_) | Self::Acks => &[Method::POST],
            Self::Letters(..) => &[Method::GET, Method::DELETE],
            _ => &[Method::GET],
        }
    }

    /// The header `Allow`: with HEAD where GET is served, but no stream has a HEAD.
    fn allow(self) -> String {
        let mut names: Vec<&str> = self.methods().iter().map(Method::as_str).collect();
        if self != Self::Client && names.contains(&"GET") {
            names.push("HEAD");
        }
        names.push("OPTIONS");
        names.join(", ")
    }

    /// Whether a query is not looked at: a health check is answered whatever a probe adds, and
    /// acknowledgement reads its own.
    const fn ignores_query(self) -> bool {
        matches!(self, Self::Health | Self::Live | Self::Ready | Self::Acks)
    }

    /// Whether it needs no API key.
    const fn is_public(self) -> bool {
        matches!(self, Self::Health | Self::Live | Self::Ready | Self::Client | Self::Acks)
    }
}

impl Api {
    /// An API that accepts the settings' key. `answers`: where those by `Idempotency-Key` outlive
    /// the process.
    #[must_use]
    pub fn new(
        router: Router,
        gate: Arc<Handshake>,
        settings: &Settings,
        redis: Rc<RedisStatus>,
        answers: Option<ResponseStore>,
        supervisor: &Supervisor,
    ) -> Self {
        let key_digest = digest(&SHA256, settings.api.key.as_bytes()).as_ref().to_vec();
        let messages =
            Letters { queue: settings.limits.queue.is_some(), ack: settings.limits.ack.is_some() };
        Self {
            router,
            gate,
            key_digest,
            redis,
            messages,
            answers: StoredResponses::new(answers, supervisor),
        }
    }

    /// Brings to the disk what belongs there. Blocks for it; call when nobody is served any more.
    pub fn close(&self) {
        self.answers.close();
    }

    /// StoredResponses one request.
    ///
    /// `from_client_side`: it came to the clients' address while the API has one of its own.
    async fn answer(
        &self,
        parts: Parts,
        body: Incoming,
        from_client_side: bool,
        watch: &Watch,
    ) -> HttpResponse {
        let cors = self.gate.cors_origin(&parts.headers);
        let mut reply = if parts.method == Method::OPTIONS {
            preflight(cors.as_deref())
        } else {
            let mut body = Some(body);
            let answered = self.route(&parts, &mut body, from_client_side, watch).await;
            let mut reply = answered.unwrap_or_else(|refusal| refuse(&refusal));
            // hyper closes a connection whose body nobody has read; the caller must know.
            if let Some(unread) = body
                && !body::discard(unread).await
            {
                let close = HeaderValue::from_static("close");
                reply.headers_mut().insert(header::CONNECTION, close);
            }
            reply
        };
        let headers = reply.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
        origin::apply(cors.as_deref(), headers);
        reply
    }

    async fn route(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        from_client_side: bool,
        watch: &Watch,
    ) -> Result<HttpResponse, Refusal> {
        let path = parts.uri.path();
        let route = Route::find(path)
            .filter(|route| route.is_public() || !from_client_side)
            .ok_or_else(|| Refusal::new(Code::NotFound, "no such path; see docs/protocol.md"))?;
        let methods = route.methods();
        // The body of an answer to HEAD is left out by hyper.
        let is_head = parts.method == Method::HEAD && methods.contains(&Method::GET);
        if !(methods.contains(&parts.method) || is_head) || route == Route::Client {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let sentence = format!("this path takes {}", names.join(" and "));
            return Err(
                Refusal::new(Code::MethodNotAllowed, sentence).with_header("allow", route.allow())
            );
        }
        if !route.is_public() {
            self.check_key(&parts.headers)?;
            watch.key_was_valid();
        }
        if !route.ignores_query() {
            query::refuse_all(&parts.uri)?;
        }
        match route {
            Route::Health => Ok(json(StatusCode::OK, &health::report(self))),
            Route::Live => Ok(json(StatusCode::OK, &health::LIVE)),
            Route::Ready | Route::Client => Ok(health::ready(self)),
            Route::Stats => stats::report(self).await.map(|stats| json(StatusCode::OK, &stats)),
            Route::Trigger(kind) => {
                let tenant = self.tenant(&parts.headers)?;
                let bytes = body::read(parts, body).await?;
                notifications::serve(self, parts, tenant, kind, bytes).await
            }
            Route::Acks => {
                let user = self.gate.user(parts)?;
                let bytes = body::read(parts, body).await?;
                user_queue::acknowledge(&self.router, user, &bytes).await
            }
            Route::Letters(user, source) => {
                let (tenant, user) = (self.tenant(&parts.headers)?, segment("user_id", user)?);
                let clear = parts.method == Method::DELETE;
                user_queue::show(&self.router, tenant, &user, source, clear).await
            }
            Route::Channels => queries::channels(&self.router, self.tenant(&parts.headers)?).await,
            Route::Channel(name) => {
                let name = segment("name", name)?;
                queries::channel(&self.router, self.tenant(&parts.headers)?, &name).await
            }
            Route::Subscriptions(user) => {
                let user = segment("user_id", user)?;
                queries::subscriptions(&self.router, self.tenant(&parts.headers)?, &user).await
            }
        }
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(key) = headers.get("x-api-key") else {
            let sentence = "this path needs the header X-API-Key";
            return Err(Refusal::new(Code::KeyRequired, sentence));
        };
        let digest = digest(&SHA256, key.as_bytes());
        verify_slices_are_equal(digest.as_ref(), &self.key_digest)
            .map_err(|_differs| Refusal::new(Code::KeyRequired, "the API key is not valid"))
    }

    /// The tenant a call acts for.
    fn tenant(&self, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        if !self.gate.tenants_enabled {
            return Ok(Arc::clone(&self.gate.default_tenant));
        }
        match headers.get("x-tenant-id").map(HeaderValue::to_str) {
            Some(Ok(tenant)) if names::is_tenant(tenant) => Ok(tenant.into()),
            given => {
                let problem = if given.is_some() { "is not a tenant id" } else { "is missing" };
                let sentence = format!("the header X-Tenant-ID {problem}: {}", names::TENANT_RULE);
                Err(Refusal::field("X-Tenant-ID", sentence))
            }
        }
    }
}

/// A path segment with its percent-encoding undone.
fn segment<'a>(field: &str, text: &'a str) -> Result<Cow<'a, str>, Refusal> {
    query::decode(text)
        .map_err(|problem| Refusal::field(field, format!("`{field}` in the path {problem}")))
}

fn json(status: StatusCode, value: &impl Serialize) -> HttpResponse {
    // Serializing to memory cannot fail.
    json_bytes(status, serde_json::to_vec(value).unwrap_or_default())
}

fn json_bytes(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

/// A refusal as an HTTP response.
pub(crate) fn refuse(refusal: &Refusal) -> HttpResponse {
    let mut reply = json_bytes(refusal.status(), refusal.body());
    for (name, value) in &refusal.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            reply.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    reply
}

/// The answer to a CORS preflight; without CORS headers where the origin is not allowed.
fn preflight(cors: Option<&str>) -> HttpResponse {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    origin::apply_preflight(cors, reply.headers_mut());
    reply
}
