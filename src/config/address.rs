//! Hosts, socket addresses and web origins, from text.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing. **Never**: asks a name server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// Reads an IP address, with or without the brackets of IPv6, or `localhost`.
pub(super) fn parse_host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Reads a host as [`parse_host`] does, a colon and a port.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    host.eq_ignore_ascii_case("localhost").then(|| (Ipv4Addr::LOCALHOST, port).into())
}

/// Reads a network, or an address as the network that has no other.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().ok().or_else(|| parse_host(text).map(IpNet::from))?;
    // Of an address and a length only the network is meant.
    Some(network.trunc())
}

/// Brings an origin into the form browsers send: lower case, no trailing slash, no default port.
pub(super) fn origin(text: &str) -> Result<String, &'static str> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let lower = text.trim_end_matches('/').to_ascii_lowercase();
    let Some((scheme, authority)) = lower.split_once("://") else {
        return Err("is not an origin: it has no scheme://");
    };
    let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !scheme_fits {
        return Err("is not an origin: its scheme is malformed");
    }
    if authority.contains(['/', '?', '#', '@', '\\', '*', ',']) {
        return Err("is not an origin: only a host and a port may follow the scheme");
    }
    if !authority.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is not an origin: write an international name in its xn-- form");
    }
    let after_brackets = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    let (host, port) = match after_brackets.rsplit_once(':') {
        Some((_, port)) => match port.parse::<u16>() {
            Ok(number) => (authority.strip_suffix(port).unwrap_or(authority), Some(number)),
            Err(_) => return Err("is not an origin: its port is no number up to 65535"),
        },
        None => (authority, None),
    };
    let host = host.trim_end_matches(':');
    if host.is_empty() {
        return Err("is not an origin: it has no host");
    }
    Ok(match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses() {
        for host in ["127.0.0.1", "0.0.0.0", "::1", "[::1]", "localhost"] {
            assert!(parse_host(host).is_some(), "{host}");
        }
        for host in ["example.org", "127.0.0", "[127.0.0.1]", "1.2.3.4:80"] {
            assert!(parse_host(host).is_none(), "{host}");
        }
        assert_eq!(parse_address("localhost:9"), Some(([127, 0, 0, 1], 9).into()));
        assert!(parse_address("[::1]:9090").is_some());
        for address in ["127.0.0.1", "localhost", "localhost:", "localhost:+1", "::1:x", "h:70000"]
        {
            assert!(parse_address(address).is_none(), "{address}");
        }
    }

    #[test]
    fn networks_are_addresses_too() {
        for (input, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("[::1]", Some("::1/128")),
            ("localhost", Some("127.0.0.1/32")),
            ("10.0.0.0/33", None),
            ("10.0.0/8", None),
            ("", None),
            ("proxy.example", None),
        ] {
            let found = parse_network(input).map(|network| network.to_string());
            assert_eq!(found.as_deref(), expected, "{input}");
        }
    }

    #[test]
    fn origins_are_brought_into_the_form_browsers_send() {
        for (input, expected) in [
            ("https://App.Example.org/", "https://app.example.org"),
            ("https://a.org:443", "https://a.org"),
            ("http://a.org:80", "http://a.org"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[::1]", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "*"),
        ] {
            assert!(origin(input).is_ok_and(|found| found == expected), "{input}");
        }
        for input in [
            "a.org",
            "https://",
            "https://a.org/x",
            "https://u@a.org",
            "://a",
            "https://a b",
            "https://*.a.org",
            "https://a:99999",
            "https://:80",
            "1http://a",
            "https://ä.org",
        ] {
            assert!(origin(input).is_err(), "{input}");
        }
    }
}
