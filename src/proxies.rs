//! Where a client is, when a proxy stands between: what the socket says, or what a trusted proxy says.
//!
//! **Runs on**: doors, and the router for requests of callers. **Owns**: the networks of trusted proxies.
//! **Never**: believes an address that nobody trusted has written: anybody can send these headers.

use std::net::{IpAddr, SocketAddr};

use ara_shards::base::socket::PeerAddress;
use http::header::{self, HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which proxies say who sent a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, which most proxies add to.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Whose word on clients' addresses is taken.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// The networks of those that are trusted.
    pub trusted: Vec<IpNet>,
    /// The header in which they say it.
    pub header: ForwardedHeader,
    /// Whether they begin each connection with a PROXY protocol header.
    pub speak_proxy_protocol: bool,
}

impl Proxies {
    /// Whether a connection from this address begins with a PROXY protocol header: one from a trusted proxy,
    /// or any where none is named.
    #[must_use]
    pub fn expect_proxy_header(&self, peer: PeerAddress) -> bool {
        self.speak_proxy_protocol && (self.trusted.is_empty() || self.trust(peer.ip()))
    }

    /// Who sent a request that came from this peer. Each proxy adds whom it heard it from, so the list is
    /// read from its end, for as long as it was a trusted proxy that wrote.
    #[must_use]
    pub fn client_of(&self, peer: PeerAddress, headers: &HeaderMap) -> PeerAddress {
        if self.trusted.is_empty() || !self.trust(peer.ip()) {
            return peer;
        }
        let mut client = peer;
        for hop in self.hops(headers).into_iter().rev() {
            // Behind a name that is no address nobody can be told apart.
            let Some(address) = hop else { break };
            client = address.into();
            if !self.trust(client.ip()) {
                break;
            }
        }
        client
    }

    fn trust(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    /// The addresses that were added, in their order.
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<SocketAddr>> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        let lines = headers.get_all(name).iter();
        // A line that is not text counts as a name that is no address.
        let lines = lines.map(|line| line.to_str().unwrap_or("?"));
        match self.header {
            ForwardedHeader::XForwardedFor => {
                lines.flat_map(|line| line.split(',')).map(|hop| node(hop.trim())).collect()
            }
            ForwardedHeader::Forwarded => {
                lines.flat_map(|line| split_unquoted(line, ',')).map(forwarded_for).collect()
            }
        }
    }
}

/// The `for` of an element (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<SocketAddr> {
    split_unquoted(element, ';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        name.trim().eq_ignore_ascii_case("for").then(|| node(quoted.unwrap_or(value)))?
    })
}

/// An address with or without a port; an IPv6 address in brackets, or alone (RFC 7239 section 6).
fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    Some(SocketAddr::new(inner.parse().ok()?, 0))
}

/// Splits a header's value where a separator stands outside of a quoted string (RFC 9110 section 5.6.4).
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character| {
        let is_separator = character == separator && !is_quoted;
        if is_escaped {
            is_escaped = false;
        } else {
            is_escaped = is_quoted && character == '\\';
            is_quoted ^= character == '"';
        }
        is_separator
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|text| text.parse().unwrap());
        Proxies { trusted: trusted.to_vec(), header, speak_proxy_protocol: false }
    }

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        let (used, other) = match header {
            ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, header::FORWARDED),
            ForwardedHeader::Forwarded => (header::FORWARDED, X_FORWARDED_FOR),
        };
        headers.insert(other, HeaderValue::from_static("for=6.6.6.6"));
        for line in lines {
            headers.append(&used, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let peer: SocketAddr = peer.parse().unwrap();
        proxies(header).client_of(peer.into(), &headers).to_string()
    }

    #[test]
    fn x_forwarded_for_is_read_from_its_end_while_proxies_are_trusted() {
        let client = |peer, lines| client(ForwardedHeader::XForwardedFor, peer, lines);
        for (peer, lines, expected) in [
            // Nobody trusts whoever sends this.
            ("192.0.2.1:1", ["1.1.1.1"].as_slice(), "192.0.2.1:1"),
            ("10.1.1.1:1", &[], "10.1.1.1:1"),
            ("10.1.1.1:1", &["198.51.100.7"], "198.51.100.7"),
            // The client has sent the first itself.
            ("10.1.1.1:1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            ("10.1.1.1:1", &["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
            ("10.1.1.1:1", &["198.51.100.7, 10.2.2.2 ,2001:db8:aaaa::1"], "198.51.100.7"),
            ("[2001:db8:aaaa::2]:1", &["2001:db8::7"], "2001:db8::7"),
            ("10.1.1.1:1", &["[2001:db8::7]:443"], "[2001:db8::7]:443"),
            ("10.1.1.1:1", &["198.51.100.7:5000"], "198.51.100.7:5000"),
            ("10.1.1.1:1", &["10.3.3.3"], "10.3.3.3"),
            ("10.1.1.1:1", &["1.1.1.1, unknown"], "10.1.1.1:1"),
            ("10.1.1.1:1", &["1.1.1.1, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.1.1.1:1", &[""], "10.1.1.1:1"),
            ("[::ffff:10.1.1.1]:1", &["198.51.100.7"], "198.51.100.7"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_likewise() {
        let client = |lines| client(ForwardedHeader::Forwarded, "10.1.1.1:1", lines);
        for (lines, expected) in [
            (["for=198.51.100.7"].as_slice(), "198.51.100.7"),
            (&["proto=https;For=198.51.100.7;by=10.1.1.1"], "198.51.100.7"),
            (&[r#"for="[2001:db8::7]:4711""#], "[2001:db8::7]:4711"),
            (&[r#"for=1.1.1.1, for="198.51.100.7:80";host="a,b;for=2.2.2.2""#], "198.51.100.7:80"),
            (&["for=1.1.1.1", "for=198.51.100.7, for=10.2.2.2"], "198.51.100.7"),
            (&["for=1.1.1.1, for=_hidden"], "10.1.1.1:1"),
            (&["for=1.1.1.1, proto=https"], "10.1.1.1:1"),
            (&[r#"for="1.1.1.1, for=2.2.2.2"#], "10.1.1.1:1"),
        ] {
            assert_eq!(client(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_proxy_header_is_expected_of_those_who_may_send_one() {
        let mut proxies = proxies(ForwardedHeader::XForwardedFor);
        let [proxy, stranger] = ["10.1.1.1:1", "192.0.2.1:1"]
            .map(|text| PeerAddress::from(text.parse::<SocketAddr>().unwrap()));
        assert!(!proxies.expect_proxy_header(proxy));
        proxies.speak_proxy_protocol = true;
        assert!(proxies.expect_proxy_header(proxy) && !proxies.expect_proxy_header(stranger));
        proxies.trusted.clear();
        assert!(proxies.expect_proxy_header(stranger));
    }

    proptest! {
        /// Whatever a client writes in front of what the trusted proxy adds.
        #[test]
        fn nothing_a_client_sends_changes_its_address(
            sent in "[ -~]{0,60}",
            is_forwarded: bool,
            is_one_line: bool,
        ) {
            let header =
                if is_forwarded { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
            let added = if is_forwarded { "for=198.51.100.7" } else { "198.51.100.7" };
            // An open quote swallows what a proxy adds to the same line: then no address is believed.
            prop_assume!(!(is_forwarded && is_one_line && sent.contains('"')));
            let joined = format!("{sent}, {added}");
            let lines = [sent.as_str(), added];
            let lines = if is_one_line { &[joined.as_str()][..] } else { &lines };
            prop_assert_eq!(client(header, "10.1.1.1:1", lines), "198.51.100.7");
        }
    }
}
