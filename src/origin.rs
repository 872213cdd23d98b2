//! Which web pages may use the gateway (CORS, and the `Origin` of WebSocket handshakes).
//!
//! Every CORS header of every answer is written here, from one table: [`apply`] for answers that
//! hyper writes, [`head_lines`] for heads written by hand, [`apply_preflight`] for `OPTIONS`.
//!
//! **Runs on**: doors and router, read-only. **Owns**: the configured origins.
//! **Never**: reflects an origin that is not allowed; lets a page that only `*` allows use the
//! browser's credentials.

use std::fmt::Write as _;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Every origin, in the configuration and in the answer's header.
const ANY: &str = "*";
/// What a page may send (Fetch standard, section 4.8): what the API takes, what stock event stream
/// clients send, and the headers of distributed tracing (W3C Trace Context, W3C Baggage).
const ALLOW_HEADERS: &str = "Authorization, Content-Type, X-API-Key, X-Tenant-ID, Idempotency-Key, \
                             Last-Event-ID, Cache-Control, traceparent, tracestate, baggage";
const ALLOW_METHODS: &str = "GET, POST, PUT, DELETE, OPTIONS";
/// What a page may read beside the body.
const EXPOSE_HEADERS: &str = "Retry-After, idempotent-replayed, X-RateLimit-Limit, \
                              X-RateLimit-Remaining, X-RateLimit-Reset";
/// How long a browser may keep the answer to a preflight.
const PREFLIGHT_SECONDS: &str = "600";

/// The pages that may connect and call.
#[derive(Debug, Clone)]
pub struct Origins {
    allowed: Vec<String>,
    /// In development with nothing configured, pages served from this machine may come.
    local: bool,
}

impl Origins {
    /// `allowed` as configured; `local`: also any origin on a loopback host.
    #[must_use]
    pub const fn new(allowed: Vec<String>, local: bool) -> Self {
        Self { allowed, local }
    }

    /// What `Access-Control-Allow-Origin` says to a page from `origin`: the origin itself, `*`
    /// where only that is configured, or nothing where the page may not talk to us. `host` is the
    /// request's own `Host`: a page that came from here may always.
    #[must_use]
    pub fn allowed(&self, origin: &str, host: Option<&str>) -> Option<String> {
        let folded = origin.trim_end_matches('/').to_ascii_lowercase();
        let authority = folded.split_once("://").map(|(_, authority)| authority);
        let same = host.is_some_and(|host| is_same(&folded, host));
        let local = self.local && authority.is_some_and(is_loopback);
        if same || local || self.allowed.contains(&folded) {
            return Some(origin.to_owned());
        }
        self.allowed.iter().any(|known| known == ANY).then(|| ANY.to_owned())
    }
}

/// The headers of an answer to a page that [`Origins::allowed`] lets read it, or to another.
///
/// Caches must keep the answers to different origins apart, those to none included.
fn answer_headers(allowed: Option<&str>) -> impl Iterator<Item = (HeaderName, &str)> {
    let credentials = allowed.filter(|origin| *origin != ANY).map(|_exact| "true");
    [
        (header::VARY, Some("Origin")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, allowed.map(|_allowed| EXPOSE_HEADERS)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

/// Adds the CORS headers of an answer.
pub fn apply(allowed: Option<&str>, headers: &mut HeaderMap) {
    for (name, value) in answer_headers(allowed) {
        let value = HeaderValue::from_str(value).expect("an origin was a header's value before");
        headers.insert(name, value);
    }
}

/// Adds what the answer to a preflight says, beside [`apply`].
pub fn apply_preflight(allowed: Option<&str>, headers: &mut HeaderMap) {
    if allowed.is_none() {
        return;
    }
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The CORS headers as lines of a head that is written by hand.
#[must_use]
pub fn head_lines(allowed: Option<&str>) -> String {
    let mut lines = String::new();
    for (name, value) in answer_headers(allowed) {
        // Writing to a String cannot fail.
        let _written = write!(lines, "{name}: {value}\r\n");
    }
    lines
}

/// Whether an origin, in lower case, is the one a request with this `Host` was sent to. Behind a
/// proxy its scheme is the origin's word; browsers leave the scheme's own port out, proxies do not.
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = host.to_ascii_lowercase();
    let without_port = |text| str::strip_suffix(text, own_port).unwrap_or(text).to_owned();
    without_port(authority) == without_port(&host)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_port_of_a_scheme_may_be_written_or_left_out() {
        for (origin, host) in [
            ("https://x.test", "x.test:443"),
            ("https://x.test:443", "X.test"),
            ("http://x.test", "x.test:80"),
            ("http://[::1]", "[::1]:80"),
            ("https://x.test:8443", "x.test:8443"),
        ] {
            assert!(is_same(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://x.test", "x.test:80"),
            ("http://x.test", "x.test:443"),
            ("https://x.test", "x.test:8443"),
            ("https://x.test:8443", "x.test"),
            ("https://x.test", "y.test:443"),
            ("https://x.test:4443", "x.test"),
            ("null", "null"),
            ("https://", ":443x"),
        ] {
            assert!(!is_same(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn only_listed_same_and_in_development_local_pages_may_come() {
        let strict = Origins::new(vec!["https://app.example".into()], false);
        let allows = |origins: &Origins, origin: &str, host| match origins.allowed(origin, host) {
            Some(allowed) => {
                assert_eq!(allowed, origin, "the page's own words, as the browser compares them");
                true
            }
            None => false,
        };
        assert!(allows(&strict, "https://app.example", None));
        assert!(allows(&strict, "https://APP.example/", None));
        assert!(!allows(&strict, "https://app.example.evil.test", None));
        assert!(!allows(&strict, "http://app.example", None));
        assert!(!allows(&strict, "http://localhost:3000", None));
        assert!(allows(&strict, "http://gateway:8081", Some("gateway:8081")));
        assert!(!allows(&strict, "null", Some("gateway:8081")));
        let local = Origins::new(Vec::new(), true);
        assert!(allows(&local, "http://localhost:3000", None));
        assert!(allows(&local, "http://127.0.0.1:5173", None));
        assert!(!allows(&local, "http://localhost.evil.test", None));
    }

    #[test]
    fn credentials_are_for_pages_that_are_named() {
        let origins = Origins::new(vec!["*".into(), "https://app.example".into()], false);
        let named = origins.allowed("https://app.example", None);
        let other = origins.allowed("https://any.test", None);
        assert_eq!(other.as_deref(), Some("*"));
        let with = "access-control-allow-credentials: true\r\n";
        assert!(head_lines(named.as_deref()).contains(with));
        assert!(!head_lines(other.as_deref()).contains("credentials"));
        assert_eq!(head_lines(None), "vary: Origin\r\n");
    }

    #[test]
    fn both_ways_of_writing_say_the_same() {
        for allowed in [None, Some("*"), Some("https://app.example")] {
            let mut headers = HeaderMap::new();
            apply(allowed, &mut headers);
            let lines: String = headers
                .iter()
                .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()))
                .collect();
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort_unstable();
                lines
            };
            assert_eq!(sorted(&lines), sorted(&head_lines(allowed)));
        }
    }
}
