//! The HTTP API: one table of routes (`routes`), one file per resource.
//!
//! **Runs on**: the router's thread. **Owns**: what a request needs while it is served.
//! **Never**: answers in another shape than the contract's; names a secret in an error.

mod authorize;
mod batch;
mod body;
mod call;
mod caller;
mod connections;
mod drain;
mod framing;
mod health;
mod notifications;
mod openapi;
mod queries;
mod requests;
mod routes;
pub mod serve;
mod stats;
mod templates;
mod tenants;
mod user_queue;
mod watch;

use std::cell::LazyCell;
use std::rc::Rc;
use std::sync::Arc;

use ara_shards::base::socket::PeerAddress;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;

use crate::access::{Caller, Keyring, Scope};
use crate::idempotency::StoredResponses;
use crate::listener::handshake::Handshake;
use crate::origin;
use crate::query::Query;
use crate::ratelimit::{Quota, RateLimiter, Requester};
use crate::redis::Status as RedisStatus;
use crate::refusal::{Code, NO_STORE, Refusal};
use crate::router::Router;
use crate::settings::{self, Settings};
use crate::templates::TemplateStore;
use authorize::{Authorizer, no_key};
use call::Call;
use routes::{Found, Handler};
use watch::Watch;

/// The body of every response: complete before it is sent.
pub type HttpResponse = Response<Full<Bytes>>;

/// Everything a request may need.
#[derive(Debug)]
pub struct Api {
    /// The way to the shards.
    pub router: Router,
    /// Origins and, for clients on API connections, tokens.
    pub handshake: Arc<Handshake>,
    authorizer: Authorizer,
    /// The Redis subscriber's state.
    pub redis: Rc<RedisStatus>,
    enabled: Enabled,
    /// What triggers may name.
    templates: Rc<TemplateStore>,
    /// Responses by `Idempotency-Key`.
    responses: Rc<StoredResponses>,
    /// How often somebody may do something.
    pub rate_limiter: RateLimiter,
    /// What `/openapi.json` answers, made when it is first asked for.
    document: LazyCell<Bytes>,
}

/// How a request came.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Where from.
    peer: PeerAddress,
    /// Whether to the clients' address while the API has one of its own.
    is_client_side: bool,
}

/// What is switched on.
#[derive(Debug, Clone, Copy)]
struct Enabled {
    /// Notifications wait for users who are away.
    queue: bool,
    /// Notifications are awaited to be acknowledged.
    ack: bool,
}

impl Api {
    /// An API that accepts the settings' keys.
    #[must_use]
    pub fn new(
        router: Router,
        handshake: Arc<Handshake>,
        settings: &Settings,
        redis: Rc<RedisStatus>,
        templates: Rc<TemplateStore>,
        responses: Rc<StoredResponses>,
    ) -> Self {
        let rate_limiter = router.rate_limiter();
        let keyring = Keyring::new(settings.api.key.as_deref(), &settings.api.keys);
        let only_tenant =
            (!handshake.tenants_enabled).then(|| Arc::clone(&handshake.default_tenant));
        let enabled =
            Enabled { queue: settings.limits.queue.is_some(), ack: settings.limits.ack.is_some() };
        Self {
            router,
            handshake,
            authorizer: Authorizer::new(keyring, only_tenant, rate_limiter.clone()),
            redis,
            enabled,
            templates,
            responses,
            rate_limiter,
            document: LazyCell::new(openapi::document),
        }
    }

    /// Takes these keys from now on, and no others.
    pub fn set_keys(&self, api: &settings::Api) {
        self.authorizer.set_keyring(Keyring::new(api.key.as_deref(), &api.keys));
    }

    /// `GET /openapi.json`.
    fn document(&self) -> HttpResponse {
        json_bytes(StatusCode::OK, Bytes::clone(&self.document))
    }

    /// Answers one request.
    async fn answer(&self, parts: Parts, body: Incoming, way: Way, watch: &Watch) -> HttpResponse {
        let cors = self.handshake.cors_origin(&parts.headers);
        let mut body = Some(body);
        let peer = self.handshake.client_address(way.peer, &parts.headers);
        let way = Way { peer, ..way };
        let shown = if way.is_client_side {
            // Where the API is not, whether a key is valid must not show either.
            Err(no_key())
        } else {
            self.authorizer.caller(&parts.headers, way.peer)
        };
        let charged = self.charge(&parts, &shown, way.peer);
        let mut reply = match &charged {
            Err(refusal) => refuse(refusal),
            Ok(_quota) if parts.method == Method::OPTIONS => preflight(cors.as_deref()),
            Ok(_quota) => {
                let answered = self.serve(&parts, shown, &mut body, way, watch).await;
                answered.unwrap_or_else(|refusal| refuse(&refusal))
            }
        };
        let headers = reply.headers_mut();
        if let Ok(Some(quota)) = &charged {
            for (name, value) in quota.headers() {
                // A refusal that is about another limit has its own.
                headers.entry(name).or_insert_with(|| value.into());
            }
        }
        // A caller that waits to be asked for its body must not be asked for one that nobody wants.
        let is_asking = parts.headers.contains_key(header::EXPECT);
        // hyper closes a connection whose body nobody has read; the caller must know.
        if let Some(unread) = body
            && (is_asking || !body::discard(unread, watch).await)
        {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
        origin::apply(cors.as_deref(), headers);
        reply
    }

    /// Takes a request from what its sender may ask for: the caller whose key it shows, or its address.
    /// What is left, where there is a limit.
    ///
    /// # Errors
    ///
    /// Nothing is left. Health checks are answered all the same: who does not hear that the gateway is
    /// well may start it again.
    fn charge(
        &self,
        parts: &Parts,
        shown: &Result<Caller, Refusal>,
        peer: PeerAddress,
    ) -> Result<Option<Quota>, Refusal> {
        if is_health_check(parts.uri.path()) {
            return Ok(None);
        }
        self.rate_limiter.request(|| match shown {
            Ok(caller) => Requester::Key(Arc::clone(&caller.key.name)),
            Err(_refusal) => Requester::Address(peer.into()),
        })
    }

    async fn serve(
        &self,
        parts: &Parts,
        shown: Result<Caller, Refusal>,
        body: &mut Option<Incoming>,
        way: Way,
        watch: &Watch,
    ) -> Result<HttpResponse, Refusal> {
        let found = Found::at(parts.uri.path())
            .filter(|found| found.is_public() || !way.is_client_side)
            .ok_or_else(|| Refusal::new(Code::NotFound, "no such path; see docs/protocol.md"))?;
        let route = found.route(&parts.method)?;
        match route.handler {
            Handler::Public(serve) => Ok(serve(self)),
            Handler::Handshake => panic!("a handshake has no route for a method"),
            Handler::Client(serve) => {
                let client = self.handshake.user(parts, way.peer);
                let client = self.rate_limiter.count_token(way.peer, client)?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, client, body).await
            }
            Handler::Operator(scope, serve) => {
                let caller = self.caller(parts, shown, scope, route.parameters, watch)?;
                self.authorizer.check_unbound(&caller)?;
                let parameter = found.parameter()?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, Call { parts, caller, tenant: (), parameter, body }).await
            }
            Handler::Caller(scope, serve) => {
                let caller = self.caller(parts, shown, scope, route.parameters, watch)?;
                let parameter = found.parameter()?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, Call { parts, caller, tenant: (), parameter, body }).await
            }
            Handler::AnyTenant(scope, serve) => {
                let caller = self.caller(parts, shown, scope, route.parameters, watch)?;
                let tenant = self.authorizer.any_tenant(&caller, &parts.headers)?;
                let parameter = found.parameter()?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, Call { parts, caller, tenant, parameter, body }).await
            }
            Handler::Tenant(scope, serve) => {
                let caller = self.caller(parts, shown, scope, route.parameters, watch)?;
                let tenant = self.authorizer.tenant(&caller, &parts.headers)?;
                let parameter = found.parameter()?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, Call { parts, caller, tenant, parameter, body }).await
            }
        }
    }

    /// The caller, if its key is valid and has the scope. Only then its query is looked at, which may
    /// have these parameters.
    fn caller(
        &self,
        parts: &Parts,
        shown: Result<Caller, Refusal>,
        scope: Scope,
        parameters: &[&'static str],
        watch: &Watch,
    ) -> Result<Caller, Refusal> {
        let caller = shown?;
        watch.key_was_valid();
        self.authorizer.check_scope(&caller, scope)?;
        Query::parse(&parts.uri, parameters, &[])?;
        Ok(caller)
    }
}

/// Whether a path is one of those that say how the gateway is.
fn is_health_check(path: &str) -> bool {
    path.strip_prefix("/health").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn json(status: StatusCode, value: &impl Serialize) -> HttpResponse {
    json_bytes(status, serde_json::to_vec(value).expect("serializing to memory cannot fail"))
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
        let value = HeaderValue::from_str(value).expect("a refusal's headers are of our own words");
        reply.headers_mut().insert(HeaderName::from_static(name), value);
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
