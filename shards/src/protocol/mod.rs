//! What is said on a connection: events of the state as bytes, and a client's messages read.
//!
//! **Runs on**: a shard (its connections) and the router (notifications, encoded once).
//! **Owns**: the JSON of client messages and of server messages. **Never**: decides what a message
//! means or who is told something (that is `state`); sees a socket.
//!
//! A [`Protocol`] is a value of each connection. To add one: a variant here, a module beside `ara`,
//! an [`Encoding`] if its notifications look different, and the path or subprotocol that chooses it
//! in the gateway's handshake.

pub mod ara;
mod echo;

pub use crate::base::transport::Transport;
use std::borrow::Cow;

use crate::base::id::NotificationId;
use crate::encoding::Encoding;
use crate::wire::close::CloseReason;
use ara::Framing;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The gateway's contract over WebSocket.
    AraWebSocket,
    /// The gateway's contract over server-sent events, each in a chunk of an HTTP/1.1 response.
    AraSseChunked,
    /// The gateway's contract over server-sent events as they are, to the end of the connection:
    /// for HTTP/1.0, which knows no chunks.
    AraSsePlain,
    /// Every message sent back as it came, over WebSocket: what the conformance suite drives.
    Echo,
}

/// What the state tells one connection. Notifications are not among them: they are for many, and
/// are encoded once for all that share an [`Encoding`] ([`encode_notification`]).
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// It was taken in.
    Connected {
        /// The connection's public id.
        connection_id: NotificationId,
        /// Whose connection it is.
        user_id: &'a str,
        /// When its token ends, where that ends the connection.
        expires_at: Option<&'a str>,
    },
    /// Another token has taken the place of its own.
    Refreshed {
        /// When that one ends, where it ends the connection.
        expires_at: Option<&'a str>,
    },
    /// These channels of its request are subscribed now.
    Subscribed(&'a [Cow<'a, str>]),
    /// These channels of its request are not subscribed any more.
    Unsubscribed(&'a [Cow<'a, str>]),
    /// The answer to its ping.
    Pong,
    /// A sign of life, which makes a client that can answer do so.
    Heartbeat,
    /// Only makes a client that can answer do so.
    Probe,
    /// Something it sent could not be done; the connection stays open.
    Error {
        /// What kind of fault it is.
        code: ErrorCode,
        /// What was wrong and what to do.
        message: &'a str,
    },
    /// Its acknowledgement has settled this notification.
    Acked(NotificationId),
    /// Another of the user's connections, or the API, has settled this notification.
    Settled(NotificationId),
    /// The gateway is going away.
    Shutdown {
        /// When this client should come back.
        reconnect_after_ms: u32,
    },
}

/// What was wrong with a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// It is no message of the protocol.
    InvalidMessage,
    /// A channel's name is none.
    InvalidChannel,
    /// The token does not allow the channel.
    ForbiddenChannel,
    /// The connection has as many subscriptions as it may have.
    SubscriptionLimit,
    /// No notification of that id awaits an acknowledgement.
    AckUnknown,
    /// It sends more often than it may.
    RateLimited,
    /// The token it shows is not valid, or not for it.
    Unauthorized,
}

/// What a client asks of the state.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Listen to these channels.
    Subscribe(Vec<Cow<'a, str>>),
    /// Stop listening to these channels.
    Unsubscribe(Vec<Cow<'a, str>>),
    /// Are you there?
    Ping,
    /// This notification was taken; `None` = what the client named cannot be a notification's id.
    Ack(Option<NotificationId>),
    /// Take this token instead of the one I came with.
    Refresh(Cow<'a, str>),
}

/// A whole message as it came from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// What an incoming message comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// It is for the state; the error is a sentence for the client.
    Message(Result<ClientMessage<'a>, String>),
    /// The protocol has answered it by itself with these bytes; the state need not know.
    Answered(Box<[u8]>),
}

/// What is marked on a notification that is not sent for the first time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// It comes from the user's queue.
    pub replayed: bool,
    /// How often it has been sent, this time included; marked from the second time on.
    pub attempt: u8,
}

impl Protocol {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// Each, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT] =
        [Self::AraWebSocket, Self::AraSseChunked, Self::AraSsePlain, Self::Echo];

    /// Its place in a table with one entry for each protocol.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// How its clients are connected.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::AraWebSocket | Self::Echo => Transport::WebSocket,
            Self::AraSseChunked | Self::AraSsePlain => Transport::Sse,
        }
    }

    /// Whether its clients can send messages, and so can be asked whether they are there.
    #[must_use]
    pub const fn is_two_way(self) -> bool {
        matches!(self.transport(), Transport::WebSocket)
    }

    /// The encoding of the notifications its clients are sent.
    #[must_use]
    pub const fn encoding(self) -> Encoding {
        match self {
            // An echo client is sent no notification by those who use it; one would be Ara's.
            Self::AraWebSocket | Self::Echo => Encoding::AraText,
            Self::AraSseChunked => Encoding::AraSseChunk,
            Self::AraSsePlain => Encoding::AraSsePlain,
        }
    }

    /// An event as it is written to a client; `None` where the protocol has no word for it.
    #[must_use]
    pub fn encode(self, event: &Event<'_>) -> Option<Box<[u8]>> {
        match self {
            Self::AraWebSocket => ara::encode(event, Framing::WebSocket),
            Self::AraSseChunked => ara::encode(event, Framing::SseChunked),
            Self::AraSsePlain => ara::encode(event, Framing::SsePlain),
            Self::Echo => None,
        }
    }

    /// The last bytes a client is written; `None` where the end of the connection says enough.
    #[must_use]
    pub fn close(self, reason: CloseReason<'_>) -> Option<Box<[u8]>> {
        match self {
            Self::AraWebSocket | Self::Echo => Framing::WebSocket.close(reason),
            Self::AraSseChunked => Framing::SseChunked.close(reason),
            Self::AraSsePlain => Framing::SsePlain.close(reason),
        }
    }

    /// Reads a client's message.
    #[must_use]
    pub fn read(self, incoming: Incoming<'_>) -> Request<'_> {
        match self {
            Self::AraWebSocket | Self::AraSseChunked | Self::AraSsePlain => {
                Request::Message(ara::read(incoming))
            }
            Self::Echo => Request::Answered(echo::answer(incoming)),
        }
    }
}

/// The bytes of a notification for all who read an encoding. `json` is the notification's object.
#[must_use]
pub fn encode_notification(
    encoding: Encoding,
    id: NotificationId,
    json: &[u8],
    marks: Marks,
) -> Box<[u8]> {
    match encoding {
        Encoding::AraText => ara::encode_notification(Framing::WebSocket, id, json, marks),
        Encoding::AraSseChunk => ara::encode_notification(Framing::SseChunked, id, json, marks),
        Encoding::AraSsePlain => ara::encode_notification(Framing::SsePlain, id, json, marks),
    }
}

#[cfg(test)]
mod tests;
