//! Which web pages may use the gateway (CORS, and the `Origin` of WebSocket handshakes).
//!
//! **Runs on**: doors and router, read-only. **Owns**: the configured origins.
//! **Never**: reflects an origin that is not allowed.

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

    /// Whether a page from `origin` may talk to us. `host` is the request's own `Host`: a page
    /// that came from here may always.
    #[must_use]
    pub fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.trim_end_matches('/').to_ascii_lowercase();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let same = host.is_some_and(|host| is_same(&origin, host));
        let local = self.local && authority.is_some_and(is_loopback);
        same || local || self.allowed.iter().any(|known| known == "*" || *known == origin)
    }
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
        assert!(strict.allows("https://app.example", None));
        assert!(strict.allows("https://APP.example/", None));
        assert!(!strict.allows("https://app.example.evil.test", None));
        assert!(!strict.allows("http://app.example", None));
        assert!(!strict.allows("http://localhost:3000", None));
        assert!(strict.allows("http://gateway:8081", Some("gateway:8081")));
        assert!(!strict.allows("null", Some("gateway:8081")));
        let local = Origins::new(Vec::new(), true);
        assert!(local.allows("http://localhost:3000", None));
        assert!(local.allows("http://127.0.0.1:5173", None));
        assert!(!local.allows("http://localhost.evil.test", None));
        assert!(Origins::new(vec!["*".into()], false).allows("https://any.test", None));
    }
}
