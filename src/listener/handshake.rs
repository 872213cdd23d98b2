//! Who may become a client: from a request head to an identity and a ready response head.
//!
//! **Runs on**: doors (one [`Handshake`] shared read-only) and, for a request on a kept-alive API
//! connection, the router. **Owns**: the verifier and the origins, which
//! a SIGHUP may change. **Never**: counts anything:
//! limits are the router's; logs a query string, which may hold a token.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use ara_shards::Limits;
use ara_shards::base::clock::Clock;
use ara_shards::base::id::{NotificationId, parse_id};
use ara_shards::base::placement::Placement;
use ara_shards::base::socket::PeerAddress;
use ara_shards::base::token_bucket::Rate;
use ara_shards::link::message::{Client, InitialSubscriptions};
use ara_shards::link::tokens::{Expiry, Renewal, Tokens};
use ara_shards::protocol::Transport;
use ara_shards::state::session::is_granted;
use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Uri, Version};
use tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use super::auth::{Identity, TokenError, Verifier};
use super::stream::Responder;
use crate::names;
use crate::origin::Origins;
use crate::proxies::Proxies;
use crate::query::Query;
use crate::ratelimit::{BlockedAddresses, Limited, too_many};
use crate::refusal::{Code, Refusal};
use crate::settings::{RunMode, Settings};

/// The subprotocol that carries a token in a browser's handshake.
const SUBPROTOCOL: &str = "ara.v1";
const BEARER_PROTOCOL: &str = "bearer.";
/// What an SSE client says it saw last when it comes back (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The same in the query, as `EventSource` polyfills and some clients spell it. It is the older
/// where both are there: a client puts it into its URL, and a reconnecting library into the header.
const LAST_EVENT_ID_QUERY: [&str; 6] = [
    "lastEventId",
    "last_event_id",
    "lastEventID",
    "Last-Event-ID",
    "Last-Event-Id",
    "evs_last_event_id",
];
const TOKEN: &str = "token";
/// The end of the year 9999: later times have no four digits for their year.
const LAST_UNIX_SECOND: u64 = 253_402_300_799;
const CHANNELS: &str = "channels";
const SETTLED: &str = "settled";

/// Decides who may become a client.
#[derive(Debug)]
pub struct Handshake {
    /// What a SIGHUP may change. The doors load it anew for each request: that takes no lock.
    pub rules: ArcSwap<Rules>,
    /// Where users live.
    pub placement: Placement,
    /// What a token's end is in ticks.
    pub clock: Clock,
    /// Addresses whose tokens are not looked at.
    pub blocked: Arc<BlockedAddresses>,
    /// Whether the `tenant_id` claim counts.
    pub tenants_enabled: bool,
    /// The tenant of all others.
    pub default_tenant: Arc<str>,
}

/// What clients are held against.
#[derive(Debug)]
pub struct Rules {
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Pages that may connect.
    pub origins: Origins,
    /// What a connection may have, by its tenant.
    pub limits: Limits,
    /// The cookie that may hold a token.
    pub cookie: Option<Box<str>>,
    /// Whether a connection ends with its token.
    pub expire_connections: bool,
    /// Whose word on clients' addresses is taken.
    pub proxies: Proxies,
    /// How many tokens of an address may fail before no further one is looked at.
    pub token_failures: Option<Rate>,
}

impl Rules {
    /// The rules of a configuration whose tokens this verifier verifies.
    #[must_use]
    pub fn new(settings: &Settings, verifier: Verifier) -> Self {
        let origins = settings.server.cors_origins.clone();
        let local = settings.mode == RunMode::Development && origins.is_empty();
        Self {
            verifier,
            origins: Origins::new(origins, local),
            limits: settings.limits.clone(),
            cookie: settings.jwt.cookie.as_deref().map(Box::from),
            expire_connections: settings.jwt.expire_connections,
            proxies: settings.server.proxies.clone(),
            token_failures: settings.rate_limits.auth_failures,
        }
    }
}

/// What the router needs to admit a client, once its handshake is found right.
#[derive(Debug)]
pub struct Admission {
    /// How it is spoken to.
    pub responder: Responder,
    /// Who it is.
    pub client: Client,
    /// The response head that begins its connection.
    pub response_head: Box<[u8]>,
    /// Its connection's public id: a UUID of version 7, which tells when it was made (RFC 9562 section 5.7).
    pub connection_id: NotificationId,
}

/// Which client transport a request asks for, if any.
pub fn transport_of(parts: &Parts) -> Option<Transport> {
    transport_at(parts.method.as_str(), parts.uri.path())
}

/// The same from the method and the path. A base address that ends with a slash makes `//ws`, and
/// what is meant by that is plain.
pub(super) fn transport_at(method: &str, path: &str) -> Option<Transport> {
    match (method, path.trim_start_matches('/')) {
        ("GET", "ws") => Some(Transport::WebSocket),
        ("GET", "sse") => Some(Transport::Sse),
        _ => None,
    }
}

impl Handshake {
    /// Examines a `GET /ws` or `GET /sse` that came from `peer`.
    ///
    /// # Errors
    ///
    /// The refusal to answer with. Where it is a [`Code::InvalidToken`], that is to be counted first.
    pub fn examine(
        &self,
        parts: &Parts,
        transport: Transport,
        peer: PeerAddress,
    ) -> Result<Admission, Refusal> {
        let cors_origin = self.check_origin(&parts.headers)?;
        let responder = Responder::new(parts, transport, cors_origin);
        let query = client_query(&parts.uri, transport)?;
        let cookie = self.rules.load().cookie.clone();
        let token = token_of(&query, &parts.headers, transport, cookie.as_deref());
        self.check_page(token.as_ref(), &parts.headers, responder.cors_origin.as_deref())?;
        let response_head = match transport {
            Transport::WebSocket => upgrade(parts)?,
            Transport::Sse => responder.stream_head().into_bytes().into(),
        };
        let identity = self.verify(token.map(Token::text), peer)?;
        let subscribes_to = match transport {
            Transport::WebSocket => InitialSubscriptions::Nothing,
            Transport::Sse => self.subscribes_to(&query, &identity)?,
        };
        let mut client = self.client(identity, subscribes_to);
        client.notify_settled = notify_settled(&query)?;
        client.seen = last_seen(&query, &parts.headers)?;
        Ok(Admission {
            responder,
            client,
            response_head,
            connection_id: NotificationId(*Uuid::now_v7().as_bytes()),
        })
    }

    /// The user a client's token speaks for, on a request of its own.
    ///
    /// # Errors
    ///
    /// There is no valid token, or something else in the query; see [`Self::examine`].
    pub fn user(&self, parts: &Parts, peer: PeerAddress) -> Result<Client, Refusal> {
        let query = Query::parse(&parts.uri, &[TOKEN], &[])?;
        let cookie = self.rules.load().cookie.clone();
        let token = token_of(&query, &parts.headers, Transport::Sse, cookie.as_deref());
        let allowed = self.cors_origin(&parts.headers);
        self.check_page(token.as_ref(), &parts.headers, allowed.as_deref())?;
        let identity = self.verify(token.map(Token::text), peer)?;
        Ok(self.client(identity, InitialSubscriptions::Nothing))
    }

    /// Who a token speaks for.
    fn verify(&self, token: Option<&str>, peer: PeerAddress) -> Result<Identity, Refusal> {
        let token = token.ok_or_else(|| unauthorized(TokenError::Missing))?;
        let rules = self.rules.load();
        if let Some(rate) = rules.token_failures {
            let checked = self.blocked.check(peer.into(), rate);
            checked.map_err(|quota| too_many(Limited::FailedTokens, quota))?;
        }
        rules.verifier.verify(token).map_err(unauthorized)
    }

    /// Who sent a request that came from this peer.
    #[must_use]
    pub fn client_address(&self, peer: PeerAddress, headers: &HeaderMap) -> PeerAddress {
        self.rules.load().proxies.client_of(peer, headers)
    }

    /// Whether a connection from this peer begins with a PROXY protocol header.
    #[must_use]
    pub fn expects_proxy_header(&self, peer: PeerAddress) -> bool {
        self.rules.load().proxies.expect_proxy_header(peer)
    }

    /// Whether tokens that fail are counted.
    #[must_use]
    pub fn counts_failures(&self) -> bool {
        self.rules.load().token_failures.is_some()
    }

    /// What the CORS headers of an answer allow: see [`Origins::allowed`].
    #[must_use]
    pub fn cors_origin(&self, headers: &HeaderMap) -> Option<String> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.rules.load().origins.allowed(origin, host)
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
        let allowed = self.cors_origin(headers);
        if headers.contains_key(header::ORIGIN) && allowed.is_none() {
            let sentence = "pages from this origin may not connect; see server.cors_origins";
            return Err(Refusal::new(Code::Forbidden, sentence));
        }
        Ok(allowed)
    }

    /// A browser sends a cookie for whatever page asks, so the page must be one that may: of a listed origin,
    /// or the gateway's own. A `GET` of those has no `Origin`, but says that it is from here (W3C Fetch
    /// Metadata, section 2.3).
    fn check_page(
        &self,
        token: Option<&Token<'_>>,
        headers: &HeaderMap,
        allowed: Option<&str>,
    ) -> Result<(), Refusal> {
        let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
        let is_own = !headers.contains_key(header::ORIGIN) && site == Some("same-origin");
        let is_listed = allowed.is_some_and(|origin| origin != "*");
        if matches!(token, Some(Token::Cookie(_))) && !is_own && !is_listed {
            let sentence = "a token in a cookie is taken from pages of a listed origin only \
                            (server.cors_origins): send the header Origin, or show the token";
            return Err(Refusal::new(Code::Forbidden, sentence));
        }
        Ok(())
    }

    /// What an SSE client hears: `?channels=a,b`, or everything. It cannot be told later what it
    /// does not hear, so a channel too many or not allowed is a refusal.
    fn subscribes_to(
        &self,
        query: &Query<'_>,
        identity: &Identity,
    ) -> Result<InitialSubscriptions, Refusal> {
        if query.get(CHANNELS).is_none() {
            return Ok(InitialSubscriptions::Everything);
        }
        let names = query.all(CHANNELS).flat_map(|list| list.split(','));
        let names: Box<[Box<str>]> = names.filter(|name| !name.is_empty()).map(Box::from).collect();
        let tenant = identity.tenant.as_deref().filter(|_named| self.tenants_enabled);
        let tenant = tenant.unwrap_or(&self.default_tenant);
        let most = match self.rules.load().limits.subscriptions_per_connection_max_of(tenant) {
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
            if !is_granted(identity.channels.as_deref(), name) {
                let sentence = format!("your token does not allow channel `{name}`");
                return Err(Refusal::new(Code::Forbidden, sentence));
            }
        }
        Ok(InitialSubscriptions::Channels(names))
    }

    /// When the connection of a token's bearer ends, where it does with the token.
    fn expiry(&self, identity: &Identity) -> Option<Expiry> {
        let rules = self.rules.load();
        let seconds = identity.expires_at_unix_seconds.min(LAST_UNIX_SECOND);
        let shown = UNIX_EPOCH + Duration::from_secs(seconds);
        // As for a token that is shown: it is over when the leeway is.
        let end_ms = seconds.saturating_add(rules.verifier.leeway_seconds()).saturating_mul(1_000);
        rules.expire_connections.then(|| Expiry {
            at: self.clock.tick_of(end_ms),
            shown: humantime::format_rfc3339_seconds(shown).to_string().into(),
        })
    }

    fn client(&self, identity: Identity, subscribes_to: InitialSubscriptions) -> Client {
        let expiry = self.expiry(&identity);
        let tenant = match identity.tenant {
            Some(tenant) if self.tenants_enabled => Arc::from(tenant),
            _ => Arc::clone(&self.default_tenant),
        };
        let hash = self.placement.hash(&tenant, &identity.user);
        Client {
            tenant,
            user: identity.user,
            hash,
            roles: identity.roles,
            grants: identity.channels,
            subscribes_to,
            notify_settled: false,
            seen: None,
            expiry,
        }
    }
}

impl Tokens for Handshake {
    fn read(&self, token: &str) -> Result<Renewal, String> {
        let verified = self.rules.load().verifier.verify(token);
        let identity = verified.map_err(|error| error.to_string())?;
        let client = self.client(identity, InitialSubscriptions::Nothing);
        let Client { tenant, user, roles, grants, expiry, .. } = client;
        Ok(Renewal { tenant, user, roles, grants, expiry })
    }
}

/// A request without a valid token.
fn unauthorized(error: TokenError) -> Refusal {
    if error == TokenError::Missing {
        let hint = "pass ?token=JWT or `Authorization: Bearer JWT`";
        return Refusal::new(Code::Unauthorized, format!("{error}: {hint}"));
    }
    Refusal::new(Code::InvalidToken, error.to_string())
}

/// The query of a client's request. Whoever misspells `channels` would hear everything.
fn client_query(uri: &Uri, transport: Transport) -> Result<Query<'_>, Refusal> {
    let [a, b, c, d, e, f] = LAST_EVENT_ID_QUERY;
    let known = [TOKEN, CHANNELS, SETTLED, a, b, c, d, e, f];
    let query = Query::parse(uri, &known, &[CHANNELS])?;
    if transport == Transport::WebSocket && query.get(CHANNELS).is_some() {
        let sentence = "`channels` is a parameter of /sse only: send a `Subscribe` message here";
        return Err(Refusal::field(CHANNELS, sentence));
    }
    Ok(query)
}

/// A token, and how it came.
#[derive(Debug, Clone, Copy)]
enum Token<'a> {
    /// Its sender has put it there.
    Shown(&'a str),
    /// A browser sends it by itself, whatever page asks.
    Cookie(&'a str),
}

impl<'a> Token<'a> {
    const fn text(self) -> &'a str {
        match self {
            Self::Shown(text) | Self::Cookie(text) => text,
        }
    }
}

/// Finds the token a request carries: one that is shown, or else that of the cookie of this name.
fn token_of<'a>(
    query: &'a Query<'_>,
    headers: &'a HeaderMap,
    transport: Transport,
    cookie: Option<&str>,
) -> Option<Token<'a>> {
    let shown = shown_token(query, headers, transport).map(Token::Shown);
    shown.or_else(|| cookie.and_then(|name| cookie_of(headers, name)).map(Token::Cookie))
}

/// The value of a cookie (RFC 6265 section 4.2.1); the first one where there are several, whose path is
/// the longest.
fn cookie_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
    let value = value.trim();
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    Some(quoted.unwrap_or(value)).filter(|value| !value.is_empty())
}

fn shown_token<'a>(
    query: &'a Query<'_>,
    headers: &'a HeaderMap,
    transport: Transport,
) -> Option<&'a str> {
    if let Some(text) = query.get(TOKEN).filter(|text| !text.is_empty()) {
        return Some(text);
    }
    let authorization = text_of(headers, &header::AUTHORIZATION);
    if let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Some(token.trim());
    }
    if transport == Transport::Sse {
        return None;
    }
    offered_protocols(headers).find_map(|entry| entry.strip_prefix(BEARER_PROTOCOL))
}

/// Whether the client wants to be told what its user's other connections have acknowledged.
fn notify_settled(query: &Query<'_>) -> Result<bool, Refusal> {
    match query.get(SETTLED) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Refusal::field(SETTLED, "`settled` in the query is `true` or `false`")),
    }
}

/// What the client saw last, by the header or else the query. An id that is none of ours says as
/// little as one that we have forgotten.
fn last_seen(query: &Query<'_>, headers: &HeaderMap) -> Result<Option<NotificationId>, Refusal> {
    let mut given = LAST_EVENT_ID_QUERY.iter().filter_map(|name| query.get(name));
    let (in_query, another) = (given.next(), given.next());
    if another.is_some() {
        let [field, ..] = LAST_EVENT_ID_QUERY;
        let sentence = "the last event id is in the query more than once, under several names";
        return Err(Refusal::field(field, sentence));
    }
    Ok(text_of(headers, &LAST_EVENT_ID).or(in_query).and_then(parse_id))
}

/// The subprotocols a client offers, over all its header lines (RFC 6455 section 11.3.4).
fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Checks an opening handshake and answers it (RFC 6455 section 4.2).
///
/// # Errors
///
/// It is none, or of another version.
pub fn upgrade(parts: &Parts) -> Result<Box<[u8]>, Refusal> {
    let accept = derive_accept_key(client_key(parts)?.as_bytes());
    let is_any_offered = parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let is_offered = offered_protocols(&parts.headers).any(|entry| entry == SUBPROTOCOL);
    if is_any_offered && !is_offered {
        // A browser drops a connection for which none of its subprotocols was selected, and says
        // nothing of why.
        let sentence = "of the subprotocols only `ara.v1` is spoken here: offer it, with a token \
                        as `Sec-WebSocket-Protocol: ara.v1, bearer.JWT`, or offer none";
        return Err(Refusal::field("Sec-WebSocket-Protocol", sentence));
    }
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
