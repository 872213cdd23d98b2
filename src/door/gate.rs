//! Who may become a client: from a request head to an identity and a ready response head.
//!
//! **Runs on**: doors (one gate shared read-only) and, for a request on a kept-alive API
//! connection, the router. **Owns**: the verifier and the origins. **Never**: counts anything:
//! limits are the router's; logs a query string, which may hold a token.

use std::borrow::Cow;
use std::sync::Arc;

use ara_shards::codec::dialect::parse_id;
use ara_shards::id::NotificationId;
use ara_shards::message::{Listens, Member, Transport};
use ara_shards::placement::Placement;
use ara_shards::state::session::is_granted;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, Version};
use tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use super::auth::{Identity, TokenError, Verifier};
use super::stream::Responder;
use crate::names;
use crate::origin::Origins;
use crate::refusal::{Code, Refusal};

/// The tenant of everyone where tenants are off, and of tokens that name none.
pub const DEFAULT_TENANT: &str = "default";
/// The subprotocol that carries a token in a browser's handshake.
const SUBPROTOCOL: &str = "ara.v1";
const BEARER_PROTOCOL: &str = "bearer.";
/// What an SSE client says it saw last when it comes back (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Decides who comes in.
#[derive(Debug)]
pub struct Gate {
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Pages that may connect.
    pub origins: Origins,
    /// Where users live.
    pub placement: Placement,
    /// Whether the `tenant_id` claim counts.
    pub tenants_enabled: bool,
    /// The tenant of all others.
    pub default_tenant: Arc<str>,
    /// The most channels of one connection; 0 = unlimited.
    pub subscriptions_max: usize,
}

/// A client that may come in if there is room.
#[derive(Debug)]
pub struct Pass {
    /// How it is spoken to.
    pub responder: Responder,
    /// Who it is.
    pub member: Member,
    /// The response head that welcomes it.
    pub greeting: Box<[u8]>,
    /// Its connection's public id.
    pub connection_id: NotificationId,
}

/// Which client transport a request asks for, if any.
pub fn transport_of(parts: &Parts) -> Option<Transport> {
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/ws") => Some(Transport::WebSocket),
        (&Method::GET, "/sse") => Some(Transport::Sse),
        _ => None,
    }
}

impl Gate {
    /// Examines a `GET /ws` or `GET /sse`.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn examine(&self, parts: &Parts, transport: Transport) -> Result<Pass, Refusal> {
        let cors_origin = self.check_origin(&parts.headers)?;
        let responder = Responder::new(parts, transport, cors_origin);
        let token = token_of(parts, transport);
        let greeting = match transport {
            Transport::WebSocket => upgrade(parts)?,
            Transport::Sse => responder.stream_head().into_bytes().into(),
        };
        let identity = match &token {
            Some(token) => self.verifier.verify(token),
            None => Err(TokenError::Missing),
        };
        let identity = identity.map_err(|error| {
            let hint = if error == TokenError::Missing {
                ": pass ?token=JWT or `Authorization: Bearer JWT`"
            } else {
                ""
            };
            Refusal::new(Code::Unauthorized, format!("{error}{hint}"))
        })?;
        let listens = match transport {
            Transport::WebSocket => Listens::Nothing,
            Transport::Sse => self.listens(parts.uri.query(), identity.channels.as_deref())?,
        };
        let mut member = self.member(identity, listens);
        let settled = query_value(parts.uri.query(), "settled");
        member.hears_settled = settled.is_some_and(|value| value == "true");
        member.seen = text_of(&parts.headers, &LAST_EVENT_ID).and_then(parse_id);
        Ok(Pass {
            responder,
            member,
            greeting,
            connection_id: NotificationId(*Uuid::new_v4().as_bytes()),
        })
    }

    /// The user a client's token speaks for, on a request of its own.
    ///
    /// # Errors
    ///
    /// There is no valid token.
    pub fn user(&self, parts: &Parts) -> Result<Member, Refusal> {
        let token = token_of(parts, Transport::Sse);
        let verified = token.ok_or(TokenError::Missing).and_then(|t| self.verifier.verify(&t));
        let identity =
            verified.map_err(|error| Refusal::new(Code::Unauthorized, error.to_string()))?;
        Ok(self.member(identity, Listens::Nothing))
    }

    /// The origin to allow in CORS headers: the request's own, where it is allowed.
    #[must_use]
    pub fn cors_origin(&self, headers: &HeaderMap) -> Option<String> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.origins.allows(origin, host).then(|| origin.to_owned())
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
        let allowed = self.cors_origin(headers);
        if headers.contains_key(header::ORIGIN) && allowed.is_none() {
            let sentence = "pages from this origin may not connect; see server.cors_origins";
            return Err(Refusal::new(Code::Forbidden, sentence));
        }
        Ok(allowed)
    }

    /// What an SSE client hears: `?channels=a,b`, or everything. It cannot be told later what it
    /// does not hear, so a channel too many or not allowed is a refusal.
    fn listens(
        &self,
        query: Option<&str>,
        grants: Option<&[Box<str>]>,
    ) -> Result<Listens, Refusal> {
        let Some(list) = query_value(query, "channels") else { return Ok(Listens::Everything) };
        let names: Box<[Box<str>]> =
            list.split(',').filter(|name| !name.is_empty()).map(Box::from).collect();
        let most = match self.subscriptions_max {
            0 => names::CHANNELS_MAX,
            most => most.min(names::CHANNELS_MAX),
        };
        if names.len() > most {
            return Err(Refusal::field("channels", format!("at most {most} channels")));
        }
        for name in &names {
            if !names::is_channel(name) {
                let shown: String = name.chars().take(64).collect();
                let sentence = format!("`{shown}` is not a channel name: {}", names::CHANNEL_RULE);
                return Err(Refusal::field("channels", sentence));
            }
            if !is_granted(grants, name) {
                let sentence = format!("your token does not allow channel `{name}`");
                return Err(Refusal::new(Code::Forbidden, sentence));
            }
        }
        Ok(Listens::Channels(names))
    }

    fn member(&self, identity: Identity, listens: Listens) -> Member {
        let tenant = match identity.tenant {
            Some(tenant) if self.tenants_enabled => Arc::from(tenant),
            _ => Arc::clone(&self.default_tenant),
        };
        let hash = self.placement.hash(&tenant, &identity.user);
        Member {
            tenant,
            user: identity.user,
            hash,
            roles: identity.roles,
            grants: identity.channels,
            listens,
            hears_settled: false,
            seen: None,
        }
    }
}

/// Finds the token a request carries.
fn token_of(parts: &Parts, transport: Transport) -> Option<Cow<'_, str>> {
    if let Some(text) = query_value(parts.uri.query(), "token").filter(|text| !text.is_empty()) {
        return Some(text);
    }
    let authorization = text_of(&parts.headers, &header::AUTHORIZATION);
    if let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Some(Cow::Borrowed(token.trim()));
    }
    if transport == Transport::Sse {
        return None;
    }
    let mut offered = offered_protocols(&parts.headers);
    offered.find_map(|entry| entry.strip_prefix(BEARER_PROTOCOL)).map(Cow::Borrowed)
}

/// The subprotocols a client offers, over all its header lines (RFC 6455 section 11.3.4).
fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Checks an opening handshake and answers it (RFC 6455 section 4.2).
///
/// # Errors
///
/// It is none, or of another version.
pub fn upgrade(parts: &Parts) -> Result<Box<[u8]>, Refusal> {
    let accept = derive_accept_key(client_key(parts)?.as_bytes());
    let is_offered = offered_protocols(&parts.headers).any(|entry| entry == SUBPROTOCOL);
    let protocol = if is_offered { "sec-websocket-protocol: ara.v1\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n{protocol}\r\n"
    );
    Ok(head.into_bytes().into())
}

/// Checks an opening handshake (RFC 6455 section 4.2.1) and returns the client's key.
fn client_key(parts: &Parts) -> Result<&str, Refusal> {
    let headers = &parts.headers;
    let has_token =
        |name: &HeaderName, wanted: &str| {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
                value.split(',').any(|entry| entry.trim().eq_ignore_ascii_case(wanted))
            })
        };
    if !has_token(&header::UPGRADE, "websocket") || !has_token(&header::CONNECTION, "upgrade") {
        let sentence = "this path speaks WebSocket: send `Connection: Upgrade` and \
                        `Upgrade: websocket`";
        return Err(
            Refusal::new(Code::UpgradeRequired, sentence).with_header("upgrade", "websocket")
        );
    }
    if text_of(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let sentence = "only WebSocket version 13 is spoken here";
        return Err(Refusal::new(Code::UpgradeRequired, sentence)
            .with_header("upgrade", "websocket")
            .with_header("sec-websocket-version", "13"));
    }
    if parts.version != Version::HTTP_11 {
        return Err(Refusal::new(Code::Validation, "a WebSocket handshake needs HTTP/1.1"));
    }
    match text_of(headers, &header::SEC_WEBSOCKET_KEY) {
        // 16 bytes in base64.
        Some(key) if key.len() == 24 && key.ends_with("==") => Ok(key),
        _ => Err(Refusal::new(Code::Validation, "Sec-WebSocket-Key is missing or malformed")),
    }
}
