//! One connection as the state sees it.
//!
//! **Runs on**: a shard. **Owns**: its subscriptions and what its token allows.
//! **Never**: knows its socket.

use std::num::NonZero;

use super::subscriptions::Subscriptions;
use crate::base::id::{TenantSlot, Tick, UserSlot};
use crate::protocol::Protocol;

/// A connection's record.
#[derive(Debug)]
pub struct Session {
    /// What is spoken with its client.
    pub protocol: Protocol,
    /// What its token allows; `None` = no roles and all channels.
    pub grants: Option<Box<Grants>>,
    /// When it was last known to be there, or asked, in running time.
    contact_at: Tick,
    /// Whether it was asked then.
    is_pinged: bool,
    /// When its next heartbeat is due, in running time.
    pub heartbeat_at: Tick,
    /// When its token ends it, by the clock.
    pub expires_at: Tick,
    /// Its channels.
    pub subscriptions: Subscriptions,
    /// Whether it is told what the user's other connections have settled.
    pub notify_settled: bool,
    /// Where the directory keeps it.
    pub(super) places: Places,
}

/// What is known of whether a client is still there. Only one that was pinged can be silent: a
/// client that merely listens has nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It connected, or its last frame came, at this time, and it was not pinged since.
    Received(Tick),
    /// It was pinged at this time, and no frame came since.
    Pinged(Tick),
}

/// A session's places in the directory's tables and lists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) tenant: TenantSlot,
    pub(super) user: UserSlot,
    /// Index among its user's connections.
    pub(super) user_index: u32,
    /// Index among its tenant's connections.
    pub(super) tenant_index: u32,
    /// Index among those of the tenant that are subscribed to all channels, if it is.
    pub(super) subscribed_to_all_index: Option<ListIndex>,
    /// Its number in the order in which the shard took connections, which may have wrapped around.
    pub(super) number: u32,
}

/// An index in a list, stored as one more, so that an `Option` of it takes no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListIndex(NonZero<u32>);

impl ListIndex {
    /// A list of connections has fewer than 2³² entries.
    pub(super) fn new(index: u32) -> Option<Self> {
        index.checked_add(1).and_then(NonZero::new).map(Self)
    }

    pub(super) const fn get(self) -> u32 {
        self.0.get() - 1
    }
}

impl Places {
    /// Of a session that no directory has entered yet: no table has these places.
    const NOT_ENTERED: Self = Self {
        tenant: TenantSlot(u32::MAX),
        user: UserSlot(u32::MAX),
        user_index: u32::MAX,
        tenant_index: u32::MAX,
        subscribed_to_all_index: None,
        number: 0,
    };
}

/// What a token allows.
#[derive(Debug)]
pub struct Grants {
    roles: Box<[Box<str>]>,
    channels: Option<Box<[Box<str>]>>,
}

impl Grants {
    /// `None` where there is nothing to remember.
    #[must_use]
    pub fn new(roles: Box<[Box<str>]>, channels: Option<Box<[Box<str>]>>) -> Option<Box<Self>> {
        (!roles.is_empty() || channels.is_some()).then(|| Box::new(Self { roles, channels }))
    }
}

/// Whether a token's list of channels allows one: by name, or by a `prefix.*` pattern. No list
/// allows all.
#[must_use]
pub fn is_granted(allowed: Option<&[Box<str>]>, channel: &str) -> bool {
    allowed.is_none_or(|allowed| {
        allowed.iter().any(|pattern| {
            let prefix = pattern.strip_suffix('*');
            prefix.map_or(channel == &**pattern, |prefix| channel.starts_with(prefix))
        })
    })
}

impl Session {
    pub(super) fn new(
        protocol: Protocol,
        grants: Option<Box<Grants>>,
        connected_at: Tick,
        heartbeat_at: Tick,
    ) -> Self {
        Self {
            protocol,
            grants,
            contact_at: connected_at,
            is_pinged: false,
            heartbeat_at,
            expires_at: Tick::NEVER,
            subscriptions: Subscriptions::default(),
            notify_settled: false,
            places: Places::NOT_ENTERED,
        }
    }

    /// What is known of whether its client is there.
    #[must_use]
    pub const fn contact(&self) -> Contact {
        let at = self.contact_at;
        if self.is_pinged { Contact::Pinged(at) } else { Contact::Received(at) }
    }

    /// Something else is known of that.
    pub(super) const fn set_contact(&mut self, contact: Contact) {
        (self.is_pinged, self.contact_at) = match contact {
            Contact::Received(at) => (false, at),
            Contact::Pinged(at) => (true, at),
        };
    }

    /// Whether the token allows this channel.
    #[must_use]
    pub fn may_subscribe(&self, channel: &str) -> bool {
        is_granted(self.grants.as_ref().and_then(|grants| grants.channels.as_deref()), channel)
    }

    /// Whether the token carries one of these roles.
    #[must_use]
    pub fn has_role(&self, roles: &[Box<str>]) -> bool {
        self.grants.as_ref().is_some_and(|grants| grants.roles.iter().any(|r| roles.contains(r)))
    }
}

// A million connections: every eight bytes here are eight megabytes.
const _: () = assert!(size_of::<Option<Session>>() <= 72);
