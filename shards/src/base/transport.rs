//! The transports there are. What is written for each is made in `wire/`.
//!
//! **Runs on**: any thread (a plain value). **Owns**: nothing. **Never**: knows bytes.

/// The transport a client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 6455 frames, both ways.
    WebSocket,
    /// A `text/event-stream` response, one way.
    Sse,
}
