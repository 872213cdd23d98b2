//! The HTTP API: one table of routes (`routes`), one file per resource.
//!
//! **Runs on**: the router's thread. **Owns**: what a request needs while it is served.
//! **Never**: answers in another shape than the contract's; names a secret in an error.

mod body;
mod call;
mod caller;
mod framing;
mod health;
mod notifications;
mod queries;
mod requests;
mod routes;
pub mod serve;
mod stats;
mod user_queue;
mod watch;

use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;

use crate::idempotency::{ResponseStore, StoredResponses};
use crate::listener::handshake::Handshake;
use crate::names;
use crate::origin;
use crate::query;
use crate::redis::Status as RedisStatus;
use crate::refusal::{Code, NO_STORE, Refusal};
use crate::router::Router;
use crate::settings::Settings;
use crate::supervise::Supervisor;
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
    /// SHA-256 of the API key: comparing digests takes the same time whatever was sent.
    key_digest: Vec<u8>,
    /// The Redis subscriber's state.
    pub redis: Rc<RedisStatus>,
    enabled: Enabled,
    /// Responses by `Idempotency-Key`.
    responses: Rc<StoredResponses>,
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
    /// An API that accepts the settings' key. `store`: where responses by `Idempotency-Key`
    /// outlive the process.
    #[must_use]
    pub fn new(
        router: Router,
        handshake: Arc<Handshake>,
        settings: &Settings,
        redis: Rc<RedisStatus>,
        store: Option<ResponseStore>,
        supervisor: &Supervisor,
    ) -> Self {
        let key_digest = digest(&SHA256, settings.api.key.as_bytes()).as_ref().to_vec();
        let enabled =
            Enabled { queue: settings.limits.queue.is_some(), ack: settings.limits.ack.is_some() };
        Self {
            router,
            handshake,
            key_digest,
            redis,
            enabled,
            responses: StoredResponses::new(store, supervisor),
        }
    }

    /// Brings to the disk what belongs there. Blocks for it; call when nobody is served any more.
    pub fn close(&self) {
        self.responses.close();
    }

    /// Answers one request.
    ///
    /// `from_client_side`: it came to the clients' address while the API has one of its own.
    async fn answer(
        &self,
        parts: Parts,
        body: Incoming,
        from_client_side: bool,
        watch: &Watch,
    ) -> HttpResponse {
        let cors = self.handshake.cors_origin(&parts.headers);
        let mut body = Some(body);
        let mut reply = if parts.method == Method::OPTIONS {
            preflight(cors.as_deref())
        } else {
            let answered = self.serve(&parts, &mut body, from_client_side, watch).await;
            answered.unwrap_or_else(|refusal| refuse(&refusal))
        };
        let headers = reply.headers_mut();
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

    async fn serve(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        from_client_side: bool,
        watch: &Watch,
    ) -> Result<HttpResponse, Refusal> {
        let found = Found::at(parts.uri.path())
            .filter(|found| found.is_public() || !from_client_side)
            .ok_or_else(|| Refusal::new(Code::NotFound, "no such path; see docs/protocol.md"))?;
        let route = found.route(&parts.method)?;
        match route.handler {
            Handler::Public(serve) => Ok(serve(self)),
            Handler::Handshake => panic!("a handshake has no route for a method"),
            Handler::Client(serve) => {
                let client = self.handshake.user(parts)?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, client, body).await
            }
            Handler::Operator(serve) => {
                self.check_key(parts, watch)?;
                serve(self).await
            }
            Handler::Tenant(serve) => {
                self.check_key(parts, watch)?;
                let tenant = self.tenant(&parts.headers)?;
                let parameter = found.parameter()?;
                let body = body::read(parts, body, route.body_bytes_max, watch).await?;
                serve(self, Call { parts, tenant, parameter, body }).await
            }
        }
    }

    /// Whether the caller has the API key. Only then its query is looked at: these paths take none.
    fn check_key(&self, parts: &Parts, watch: &Watch) -> Result<(), Refusal> {
        let Some(key) = parts.headers.get("x-api-key") else {
            let sentence = "this path needs the header X-API-Key";
            return Err(Refusal::new(Code::KeyRequired, sentence));
        };
        let digest = digest(&SHA256, key.as_bytes());
        verify_slices_are_equal(digest.as_ref(), &self.key_digest)
            .map_err(|_differs| Refusal::new(Code::KeyRequired, "the API key is not valid"))?;
        watch.key_was_valid();
        query::refuse_all(&parts.uri)
    }

    /// The tenant a call acts for.
    fn tenant(&self, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        if !self.handshake.tenants_enabled {
            return Ok(Arc::clone(&self.handshake.default_tenant));
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
