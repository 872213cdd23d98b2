//! Why there is no connection to Redis, or no longer one.
//!
//! **Runs on**: the router. **Owns**: its words. **Never**: shows the URL, which may hold a password.

use std::{fmt, io};

use super::resp::Malformed;

/// Why there is no connection, or no longer one.
#[derive(Debug)]
pub(super) enum Fault {
    /// The URL cannot be used; only another configuration helps.
    Url(String),
    /// The host has no address, or none of them accepts connections.
    Unreachable(io::Error),
    /// Certificates or the TLS handshake.
    Tls(String),
    /// Not connected and subscribed within the deadline.
    Slow,
    /// The server refused a command: authentication, permissions, or its own state.
    Refused(String),
    /// What came is no reply of a Redis server.
    Protocol(&'static str),
    /// The server closed the connection.
    Closed,
    /// The server closed the connection before it said anything.
    ClosedAtOnce(&'static str),
    /// The connection broke.
    Broken(io::Error),
    /// The server did not answer a health check within its deadline.
    Silent,
}

impl Fault {
    /// The label in logs.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Url(_) => "bad_url",
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Slow => "connect_timeout",
            Self::Refused(_) => "refused",
            Self::Protocol(_) => "protocol",
            Self::Closed | Self::ClosedAtOnce(_) => "closed",
            Self::Broken(_) => "io",
            Self::Silent => "health_check_timeout",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => write!(formatter, "the URL cannot be used: {error}"),
            Self::Unreachable(error) => write!(formatter, "cannot connect: {error}"),
            Self::Tls(error) => write!(formatter, "TLS: {error}"),
            Self::Slow => formatter.write_str("no subscription within the deadline"),
            Self::Refused(error) => write!(formatter, "the server refused: {error}"),
            Self::Protocol(what) => write!(formatter, "unexpected data: {what}"),
            Self::Closed => formatter.write_str("the server closed the connection"),
            Self::ClosedAtOnce(hint) => {
                write!(formatter, "the server closed the connection without a word: {hint}")
            }
            Self::Broken(error) => write!(formatter, "the connection broke: {error}"),
            Self::Silent => formatter.write_str("no answer to a health check within the deadline"),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Protocol(what)
    }
}
