//! Why the server closes a connection: the code and reason a client is told.
//!
//! **Runs on**: a shard. **Owns**: the codes of the contract. **Never**: writes bytes (the
//! connection's protocol does), or decides when a connection is closed (that is `state`).

use crate::base::limits::{SSE_RETRY_DISMISSED_MS, SSE_RETRY_MS};

/// The longest reason a close frame has room for, in bytes (RFC 6455 section 5.5).
pub const REASON_BYTES_MAX: usize = 123;

/// Why a connection is closed by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseReason<'a> {
    /// The WebSocket close code.
    pub code: u16,
    /// A short reason.
    pub reason: &'a str,
    /// Whether what waits unwritten is still written first.
    pub flush: bool,
    /// What an `error` event says that ends a stream; `None` = the stream just ends, and the browser
    /// comes back soon.
    pub stream_error: Option<StreamError>,
    /// When the client is to come back, in milliseconds: it is told `shutdown` last, behind what is
    /// flushed. `None` = it is not told.
    pub reconnect_after_ms: Option<u32>,
}

/// What the `error` event that ends a stream says, beside the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamError {
    /// Its code.
    pub code: &'static str,
    /// When the client may come back by itself, in milliseconds.
    pub retry_ms: u32,
}

impl StreamError {
    /// The client is not to come back by itself for a while.
    const fn dismissed(code: &'static str) -> Self {
        Self { code, retry_ms: SSE_RETRY_DISMISSED_MS }
    }
}

impl CloseReason<'static> {
    /// Its token has expired. A stream's page makes another one with a fresh token; who comes back with
    /// the old one is refused.
    pub const TOKEN_EXPIRED: Self = Self {
        stream_error: Some(StreamError { code: "TOKEN_EXPIRED", retry_ms: SSE_RETRY_MS }),
        ..Self::new(4401, "token expired", true)
    };
    /// The client has shut its side of the connection.
    pub const CLIENT_LEFT: Self = Self::new(1000, "", true);
    /// Its outbox was full, or did not move for the connection timeout.
    pub const SLOW_CONSUMER: Self = Self::new(4429, "slow consumer: outbox full", false);
    /// A ping of ours stayed unanswered, and no other frame came, for the connection timeout.
    pub const SILENT: Self = Self::new(4408, "no frame from the client", true);
    /// A newer connection of the user has taken its place.
    pub const REPLACED: Self = Self {
        stream_error: Some(StreamError::dismissed("CONNECTION_REPLACED")),
        ..Self::new(4409, "replaced by a newer connection", true)
    };
    /// It went on sending more often than it may.
    pub const RATE_LIMITED: Self = Self::new(1008, "rate limit exceeded", true);
    /// The gateway stops.
    pub const SHUTDOWN: Self = Self::new(1001, "server shutting down", true);
    /// The shard holds too many unfinished client messages.
    pub const OVERLOADED: Self = Self::new(1013, "overloaded, try later", true);
}

impl<'a> CloseReason<'a> {
    /// A reason that lets a stream's client come back soon.
    #[must_use]
    pub const fn new(code: u16, reason: &'a str, flush: bool) -> Self {
        Self { code, reason, flush, stream_error: None, reconnect_after_ms: None }
    }

    /// The gateway is drained, and goes on without this client until it comes back.
    #[must_use]
    pub const fn drained(reconnect_after_ms: u32) -> Self {
        let reconnect_after_ms = Some(reconnect_after_ms);
        Self { reconnect_after_ms, ..Self::new(1001, "server draining", true) }
    }

    /// The operator has disconnected the user, and says why in at most [`REASON_BYTES_MAX`] bytes.
    #[must_use]
    pub const fn disconnected(reason: &'a str) -> Self {
        Self {
            stream_error: Some(StreamError::dismissed("DISCONNECTED")),
            ..Self::new(4403, reason, true)
        }
    }
}
