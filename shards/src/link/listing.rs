//! What a page of the list of connections is asked for by, and what it shows.
//!
//! **Runs on**: asked on the router, made on a shard. **Owns**: its own data. **Never**: decides who may
//! see an address: that is the API's.

use std::sync::Arc;

use crate::base::id::NotificationId;
use crate::base::socket::PeerAddress;
use crate::link::recipient::Recipient;
use crate::protocol::Transport;

/// Which connections are meant: those that are all of what is named.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFilter {
    /// Of this tenant.
    pub tenant: Option<Arc<str>>,
    /// Of this user.
    pub user: Option<Recipient>,
    /// That receive this channel.
    pub channel: Option<Arc<str>>,
    /// Over this transport.
    pub transport: Option<Transport>,
}

/// One connection as the API shows it.
#[derive(Debug)]
pub struct ConnectionView {
    /// Its public id, as its client was told.
    pub id: NotificationId,
    /// The tenant.
    pub tenant: Arc<str>,
    /// The user.
    pub user: Box<str>,
    /// How it is connected.
    pub transport: Transport,
    /// How many channels it is subscribed to by name.
    pub subscriptions: usize,
    /// Whether it receives every channel that its token allows.
    pub receives_all_channels: bool,
    /// Bytes its socket has taken.
    pub sent_bytes: u64,
    /// Bytes that wait for it.
    pub outbox_bytes: usize,
    /// The address of its client.
    pub peer: PeerAddress,
}

/// Some of a shard's connections, in the order of their keys.
#[derive(Debug, Default)]
pub struct ConnectionPage {
    /// Those that were found.
    pub connections: Vec<ConnectionView>,
    /// Where to go on; `None` = no more.
    pub next: Option<u32>,
}
