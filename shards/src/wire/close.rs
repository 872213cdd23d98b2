//! Why the server closes a connection: the code and reason a client is told.
//!
//! **Runs on**: a shard. **Owns**: the codes of the contract. **Never**: writes bytes (the
//! connection's protocol does), or decides when a connection is closed (that is `state`).

/// Why a connection is closed by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseReason {
    /// The WebSocket close code.
    pub code: u16,
    /// A short reason.
    pub reason: &'static str,
    /// Whether what waits unwritten is still written first.
    pub flush: bool,
}

impl CloseReason {
    /// The client has shut its side of the connection.
    pub const CLIENT_LEFT: Self = Self { code: 1000, reason: "", flush: true };
    /// Its outbox was full, or did not move for the connection timeout.
    pub const SLOW_CONSUMER: Self =
        Self { code: 4429, reason: "slow consumer: outbox full", flush: false };
    /// A ping of ours stayed unanswered, and no other frame came, for the connection timeout.
    pub const SILENT: Self = Self { code: 4408, reason: "no frame from the client", flush: true };
    /// A newer connection of the user has taken its place.
    pub const REPLACED: Self =
        Self { code: 4409, reason: "replaced by a newer connection", flush: true };
    /// The gateway stops.
    pub const SHUTDOWN: Self = Self { code: 1001, reason: "server shutting down", flush: true };
    /// The shard holds too many unfinished client messages.
    pub const OVERLOADED: Self = Self { code: 1013, reason: "overloaded, try later", flush: true };
}
