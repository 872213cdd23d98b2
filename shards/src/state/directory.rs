//! Who is here and who listens to what: the shard's indexes, kept consistent in one place.
//!
//! **Runs on**: a shard. **Owns**: sessions, users, tenants, channels. **Never**: keeps an entry
//! that the last connection has left, but for a user who has messages in the queue: an empty shard's
//! indexes are empty.
//!
//! Membership lists are plain vectors. A session remembers its place in each list it is on, so
//! that leaving is a swap with the last entry, whatever the list's length. Each list and index gives
//! its room back when most of it is not needed any more.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::channels::{ChannelSlot, Channels, Index};
use super::session::Session;
use super::subscriptions::Subscription;
use crate::base::id::{ConnectionKey, UserSlot};
use crate::base::placement::UserHash;
use crate::base::table::Table;
use crate::link::message::{Client, Report};
use crate::protocol::Transport;

/// Why a user's slot is followed without a question.
const KNOWN: &str = "a session, and the index of names, name only users that are known";

/// The indexes of one shard.
#[derive(Debug, Default)]
pub struct Directory {
    /// By connection key.
    sessions: Vec<Option<Session>>,
    users: Table<User>,
    /// User slots by hash.
    users_by_name: HashTable<UserSlot>,
    pub(super) tenants: Slab<Tenant>,
    tenants_by_name: AHashMap<Arc<str>, u32>,
    pub(super) channels: Channels,
    /// How many connections, and subscriptions, there are.
    pub(super) totals: Totals,
}

/// Sums over the directory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) websocket: usize,
    pub(super) sse: usize,
    pub(super) subscriptions: usize,
}

#[derive(Debug)]
struct User {
    hash: UserHash,
    tenant: u32,
    name: Box<str>,
    /// A user without any stays while it has messages in the queue.
    connections: SmallVec<[ConnectionKey; 2]>,
}

/// One tenant's members and channels.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) name: Arc<str>,
    /// All its connections.
    pub(super) members: Vec<ConnectionKey>,
    /// Those that hear every channel their token allows.
    pub(super) listeners: Vec<ConnectionKey>,
    pub(super) channels: Index,
    /// Its users, connected or with messages; the tenant stays while there are some.
    users: usize,
}

impl Directory {
    /// The session under a key.
    pub(super) fn session(&self, key: ConnectionKey) -> Option<&Session> {
        self.sessions.get(key.index())?.as_ref()
    }

    pub(super) fn session_mut(&mut self, key: ConnectionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key.index())?.as_mut()
    }

    /// One more than the highest key in use.
    pub(super) fn key_bound(&self) -> usize {
        self.sessions.len()
    }

    /// Users with at least one connection.
    pub(super) fn connected_users(&self) -> usize {
        self.users.iter().filter(|user| !user.connections.is_empty()).count()
    }

    pub(super) fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.get(*self.tenants_by_name.get(name)? as usize)
    }

    /// The subscribers of a tenant's channel; empty if there are none.
    pub(super) fn subscribers(&self, tenant: &Tenant, name: &str) -> &[ConnectionKey] {
        let channel = self.channels.find(&tenant.channels, name);
        channel.map_or(&[], |channel| self.channels.subscribers(channel))
    }

    /// A user's connections; empty if there are none.
    pub(super) fn connections(&self, tenant: &str, user: &str, hash: UserHash) -> &[ConnectionKey] {
        let found = self
            .tenants_by_name
            .get(tenant)
            .and_then(|tenant| self.user_slot(*tenant, user, hash))
            .and_then(|slot| self.users.get(slot.0));
        found.map_or(&[], |user| &user.connections)
    }

    pub(super) fn connections_of(&self, member: &Client) -> usize {
        self.connections(&member.tenant, &member.user, member.hash).len()
    }

    /// The name of a session's user.
    pub(super) fn user_name(&self, session: &Session) -> &str {
        &self.user(session.home.user).name
    }

    fn user(&self, slot: UserSlot) -> &User {
        self.users.get(slot.0).expect(KNOWN)
    }

    fn user_slot(&self, tenant: u32, name: &str, hash: UserHash) -> Option<UserSlot> {
        let same = |slot: &UserSlot| {
            let user = self.user(*slot);
            user.tenant == tenant && &*user.name == name
        };
        self.users_by_name.find(hash.0, same).copied()
    }

    /// Enters a session under `key`, creating its tenant and user as needed. Returns the user's slot.
    pub(super) fn join(
        &mut self,
        key: ConnectionKey,
        member: &Client,
        mut session: Session,
    ) -> UserSlot {
        let user_slot = self.enter_user(&member.tenant, &member.user, member.hash);
        let user = self.users.get_mut(user_slot.0).expect("it was just entered");
        session.home.sibling_at = narrow(user.connections.len());
        user.connections.push(key);
        let tenant_slot = user.tenant;
        session.home.tenant = tenant_slot;
        session.home.user = user_slot;
        if let Some(tenant) = self.tenants.get_mut(tenant_slot as usize) {
            session.home.member_at = narrow(tenant.members.len());
            tenant.members.push(key);
        }
        *self.total_of(session.protocol.transport()) += 1;
        if self.sessions.len() <= key.index() {
            self.sessions.resize_with(key.index() + 1, || None);
        }
        if let Some(place) = self.sessions.get_mut(key.index()) {
            *place = Some(session);
        }
        user_slot
    }

    /// The slot of a user, made if there is none.
    pub(super) fn enter_user(&mut self, tenant: &Arc<str>, name: &str, hash: UserHash) -> UserSlot {
        let tenant = self.tenant_slot(tenant);
        if let Some(slot) = self.user_slot(tenant, name, hash) {
            return slot;
        }
        let connections = SmallVec::new();
        let name = name.into();
        let slot = UserSlot(self.users.insert(User { hash, tenant, name, connections }));
        let users = &self.users;
        let rehash = |slot: &UserSlot| users.get(slot.0).expect(KNOWN).hash.0;
        self.users_by_name.insert_unique(hash.0, slot, rehash);
        if let Some(tenant) = self.tenants.get_mut(tenant as usize) {
            tenant.users += 1;
        }
        slot
    }

    /// The slot of a user, if it is known here.
    pub(super) fn find_user(&self, tenant: &str, name: &str, hash: UserHash) -> Option<UserSlot> {
        self.user_slot(*self.tenants_by_name.get(tenant)?, name, hash)
    }

    /// The connections of a user; none of one that is forgotten.
    pub(super) fn user_connections(&self, slot: UserSlot) -> &[ConnectionKey] {
        self.users.get(slot.0).map_or(&[], |user| &user.connections)
    }

    /// The tenant's name and the user's.
    pub(super) fn user_names(&self, slot: UserSlot) -> (&str, &str) {
        let user = self.user(slot);
        let tenant = self.tenants.get(user.tenant as usize);
        (&tenant.expect("a tenant stays while it has users").name, &user.name)
    }

    /// Forgets a user who has no messages in the queue, unless it has connections.
    pub(super) fn forget_unconnected(&mut self, slot: UserSlot) {
        let Some(user) = self.users.get(slot.0).filter(|user| user.connections.is_empty()) else {
            return;
        };
        let (hash, tenant) = (user.hash, user.tenant);
        self.users.remove(slot.0);
        if let Ok(entry) = self.users_by_name.find_entry(hash.0, |other| *other == slot) {
            entry.remove();
        }
        if self.users_by_name.len() < self.users_by_name.capacity() / 4 {
            let (users, room) = (&self.users, self.users_by_name.len() * 2);
            let rehash = |slot: &UserSlot| users.get(slot.0).expect(KNOWN).hash.0;
            self.users_by_name.shrink_to(room, rehash);
        }
        if let Some(tenant) = self.tenants.get_mut(tenant as usize) {
            tenant.users -= 1;
        }
        self.tidy_tenant(tenant);
    }

    fn tidy_tenant(&mut self, slot: u32) {
        if let Some(tenant) = self.tenants.get(slot as usize)
            && tenant.users == 0
        {
            let name = Arc::clone(&tenant.name);
            self.tenants_by_name.remove(&name);
            self.tenants.remove(slot as usize);
        }
    }

    fn total_of(&mut self, transport: Transport) -> &mut usize {
        match transport {
            Transport::WebSocket => &mut self.totals.websocket,
            Transport::Sse => &mut self.totals.sse,
        }
    }

    fn tenant_slot(&mut self, name: &Arc<str>) -> u32 {
        if let Some(slot) = self.tenants_by_name.get(name) {
            return *slot;
        }
        let slot = narrow(self.tenants.insert(Tenant {
            name: Arc::clone(name),
            members: Vec::new(),
            listeners: Vec::new(),
            channels: Index::new(),
            users: 0,
        }));
        self.tenants_by_name.insert(Arc::clone(name), slot);
        slot
    }

    /// Removes a session from every index, and returns whose it was; `None` if there was none. The
    /// user stays, even if this was its last connection, until [`Self::forget_unconnected`].
    pub(super) fn leave(
        &mut self,
        key: ConnectionKey,
        reports: &mut VecDeque<Report>,
    ) -> Option<UserSlot> {
        let session = self.sessions.get_mut(key.index()).and_then(Option::take)?;
        let home = session.home;
        for entry in session.subscriptions.iter() {
            reports.extend(self.leave_channel(home.tenant, entry));
        }
        *self.total_of(session.protocol.transport()) -= 1;
        let tenant = self.tenants.get_mut(home.tenant as usize);
        let tenant = tenant.expect("a tenant stays while it has users");
        let moved_member = swap_remove(&mut tenant.members, home.member_at);
        let mut moved_listener = None;
        if let Some(at) = home.listener_at {
            moved_listener = swap_remove(&mut tenant.listeners, at);
            if tenant.listeners.is_empty() {
                reports.push_back(interest(&tenant.name, None, false));
            }
        }
        let user = self.users.get_mut(home.user.0).expect(KNOWN);
        user.connections.swap_remove(home.sibling_at as usize);
        let moved_sibling = user.connections.get(home.sibling_at as usize).copied();
        if user.connections.spilled() && user.connections.len() < user.connections.capacity() / 4 {
            user.connections.grow(user.connections.len() * 2);
        }
        if let Some(moved) = moved_member.and_then(|moved| self.session_mut(moved)) {
            moved.home.member_at = home.member_at;
        }
        if let Some(moved) = moved_listener.and_then(|moved| self.session_mut(moved)) {
            moved.home.listener_at = home.listener_at;
        }
        if let Some(moved) = moved_sibling.and_then(|moved| self.session_mut(moved)) {
            moved.home.sibling_at = home.sibling_at;
        }
        Some(home.user)
    }

    /// Makes a session hear every channel. Returns the news for the router, if any.
    pub(super) fn listen_to_all(&mut self, key: ConnectionKey) -> Option<Report> {
        let session = self.sessions.get_mut(key.index())?.as_mut()?;
        if session.home.listener_at.is_some() {
            return None;
        }
        let tenant = self.tenants.get_mut(session.home.tenant as usize)?;
        session.home.listener_at = Some(narrow(tenant.listeners.len()));
        tenant.listeners.push(key);
        (tenant.listeners.len() == 1).then(|| interest(&tenant.name, None, true))
    }

    pub(super) fn is_subscribed(&self, session: &Session, name: &str) -> bool {
        self.channel_of(session, name).is_some()
    }

    /// The slot of a channel that a session is subscribed to.
    fn channel_of(&self, session: &Session, name: &str) -> Option<ChannelSlot> {
        let tenant = self.tenants.get(session.home.tenant as usize)?;
        let channel = self.channels.find(&tenant.channels, name)?;
        session.subscriptions.has(channel).then_some(channel)
    }

    /// Adds a session to a channel it is not on. Returns the news for the router, if any.
    pub(super) fn subscribe(&mut self, key: ConnectionKey, name: &str) -> Option<Report> {
        let session = self.sessions.get_mut(key.index())?.as_mut()?;
        let tenant = self.tenants.get_mut(session.home.tenant as usize)?;
        let known = self.channels.find(&tenant.channels, name);
        let (channel, at) = match known {
            Some(channel) => (channel, self.channels.push(channel, key)),
            None => (self.channels.insert(&mut tenant.channels, name, key), 0),
        };
        session.subscriptions.insert(Subscription { channel, at });
        self.totals.subscriptions += 1;
        known.is_none().then(|| interest(&tenant.name, Some(name), true))
    }

    /// Ends a subscription if there is one.
    pub(super) fn unsubscribe(
        &mut self,
        key: ConnectionKey,
        name: &str,
        reports: &mut VecDeque<Report>,
    ) {
        let Some(session) = self.session(key) else { return };
        let (tenant, channel) = (session.home.tenant, self.channel_of(session, name));
        let Some((session, channel)) = self.session_mut(key).zip(channel) else { return };
        if let Some(entry) = session.subscriptions.remove(channel) {
            reports.extend(self.leave_channel(tenant, entry));
        }
    }

    /// Takes a subscriber off a channel's list; its session has forgotten the entry already.
    fn leave_channel(&mut self, tenant: u32, entry: Subscription) -> Option<Report> {
        self.totals.subscriptions -= 1;
        if let Some(moved) = self.channels.swap_remove(entry.channel, entry.at) {
            self.session_mut(moved)?.subscriptions.set_index(entry.channel, entry.at);
            return None;
        }
        if !self.channels.subscribers(entry.channel).is_empty() {
            return None;
        }
        let tenant = self.tenants.get_mut(tenant as usize)?;
        let news = interest(&tenant.name, Some(self.channels.name(entry.channel)), false);
        self.channels.remove(&mut tenant.channels, entry.channel);
        Some(news)
    }

    /// A tenant's channels, and how many subscribers each has.
    pub(super) fn channels_of(&self, tenant: &Tenant) -> impl Iterator<Item = (&str, usize)> {
        tenant.channels.iter().map(|channel| {
            (self.channels.name(*channel), self.channels.subscribers(*channel).len())
        })
    }

    /// The names of the channels a session subscribed to.
    pub(super) fn channel_names(&self, session: &Session) -> impl Iterator<Item = &str> {
        session.subscriptions.channels().map(|channel| self.channels.name(channel))
    }

    /// Whether the session hears this channel, by subscription or because it hears all.
    pub(super) fn receives(&self, session: &Session, channel: &str) -> bool {
        self.is_subscribed(session, channel)
            || (session.home.listener_at.is_some() && session.may_subscribe(channel))
    }

    /// Whether every index is empty, as it must be when the last client has left.
    #[cfg(test)]
    pub(super) fn is_clear(&self) -> bool {
        self.sessions.iter().all(Option::is_none)
            && self.users.is_empty()
            && self.users_by_name.is_empty()
            && self.tenants.is_empty()
            && self.tenants_by_name.is_empty()
            && self.channels.is_clear()
            && self.totals == Totals::default()
    }
}

fn interest(tenant: &Arc<str>, channel: Option<&str>, present: bool) -> Report {
    Report::Interest { tenant: Arc::clone(tenant), channel: channel.map(Arc::from), present }
}

/// Takes the entry at a place off a list, and returns who has that place now.
fn swap_remove(list: &mut Vec<ConnectionKey>, at: u32) -> Option<ConnectionKey> {
    list.swap_remove(at as usize);
    if list.len() < list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
    list.get(at as usize).copied()
}

/// A table index as stored: a shard holds far fewer than 2³² of anything.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
