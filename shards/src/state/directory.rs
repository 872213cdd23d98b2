//! Who is connected and who is subscribed to what: the shard's indexes, kept consistent in one place.
//!
//! **Runs on**: a shard. **Owns**: sessions, users, tenants, channels. **Never**: keeps an entry
//! that the last connection has left, but for a user who has messages in the queue: an empty shard's
//! indexes are empty.
//!
//! The lists are plain vectors. A session remembers its index in each list it is on, so
//! that leaving is a swap with the last entry, whatever the list's length. Each list and index gives
//! its room back when most of it is not needed any more.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::channels::{ChannelSlot, Channels, Index};
use super::session::{ListIndex, Places, Session};
use super::subscriptions::Subscription;
use crate::base::id::{ConnectionKey, TenantSlot, UserSlot};
use crate::base::placement::UserHash;
use crate::base::table::Table;
use crate::link::message::{Client, Report, TenantView};
use crate::protocol::Transport;

/// Why a user's slot is followed without a question.
const KNOWN: &str = "a session, and the index of names, name only users that are known";
/// Why a tenant's slot is.
const HAS_USERS: &str = "a tenant stays while it has users";
/// Why a key from a list is.
const CONNECTED: &str = "the lists of a user, a tenant and a channel name only open sessions";

/// The indexes of one shard.
#[derive(Debug, Default)]
pub struct Directory {
    /// By connection key.
    sessions: Vec<Option<Session>>,
    users: Table<User>,
    /// User slots by hash.
    users_by_name: HashTable<UserSlot>,
    tenants: Table<Tenant>,
    tenants_by_name: AHashMap<Arc<str>, TenantSlot>,
    pub(super) channels: Channels,
    /// The number of the connection that was taken last.
    last_number: u32,
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
    tenant: TenantSlot,
    name: Box<str>,
    /// A user without any stays while it has messages in the queue.
    connections: SmallVec<[ConnectionKey; 2]>,
}

/// One tenant's connections and channels.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) name: Arc<str>,
    pub(super) connections: Vec<ConnectionKey>,
    /// Those that are subscribed to every channel their token allows.
    pub(super) subscribed_to_all: Vec<ConnectionKey>,
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
        self.tenants_by_name.get(name).map(|slot| self.tenant_at(*slot))
    }

    /// Who of a tenant is connected.
    pub(super) fn view_of(&self, tenant: &Tenant) -> TenantView {
        let sessions = tenant.connections.iter().filter_map(|key| self.session(*key));
        // Each connected user has one connection that is the first on its list.
        let users = sessions.filter(|session| session.places.user_index == 0).count();
        TenantView { connections: tenant.connections.len(), users }
    }

    /// The name of a session's tenant.
    pub(super) fn tenant_name(&self, session: &Session) -> &Arc<str> {
        &self.tenant_at(session.places.tenant).name
    }

    /// The subscribers of a tenant's channel; empty if there are none.
    pub(super) fn subscribers(&self, tenant: &Tenant, name: &str) -> &[ConnectionKey] {
        let channel = self.channels.find(&tenant.channels, name);
        channel.map_or(&[], |channel| self.channels.subscribers(channel))
    }

    /// A user's connections; empty if there are none.
    pub(super) fn connections(&self, tenant: &str, user: &str, hash: UserHash) -> &[ConnectionKey] {
        self.find_user(tenant, user, hash).map_or(&[], |user| self.user_connections(user))
    }

    pub(super) fn connections_of(&self, client: &Client) -> usize {
        self.connections(&client.tenant, &client.user, client.hash).len()
    }

    /// The user's connection that was taken before all its others.
    pub(super) fn oldest_connection_of(&self, client: &Client) -> Option<ConnectionKey> {
        let keys = self.connections(&client.tenant, &client.user, client.hash).iter().copied();
        let age = |key: &ConnectionKey| {
            let session = self.session(*key);
            session.map(|session| self.last_number.wrapping_sub(session.places.number))
        };
        keys.max_by_key(age)
    }

    /// The name of a session's user.
    pub(super) fn user_name(&self, session: &Session) -> &str {
        &self.user(session.places.user).name
    }

    fn user(&self, slot: UserSlot) -> &User {
        self.users.get(slot.0).expect(KNOWN)
    }

    fn tenant_at(&self, slot: TenantSlot) -> &Tenant {
        self.tenants.get(slot.0).expect(HAS_USERS)
    }

    fn tenant_at_mut(&mut self, slot: TenantSlot) -> &mut Tenant {
        self.tenants.get_mut(slot.0).expect(HAS_USERS)
    }

    /// The session of a key that another part of the directory names.
    fn connected(&mut self, key: ConnectionKey) -> &mut Session {
        self.session_mut(key).expect(CONNECTED)
    }

    fn user_slot(&self, tenant: TenantSlot, name: &str, hash: UserHash) -> Option<UserSlot> {
        let same = |slot: &UserSlot| {
            let user = self.user(*slot);
            user.tenant == tenant && &*user.name == name
        };
        self.users_by_name.find(hash.0, same).copied()
    }

    /// Enters a session under `key`, which no session has, and its tenant and user as needed. Returns
    /// the user's slot.
    pub(super) fn insert(
        &mut self,
        key: ConnectionKey,
        client: &Client,
        mut session: Session,
    ) -> UserSlot {
        let user_slot = self.enter_user(&client.tenant, &client.user, client.hash);
        let user = self.users.get_mut(user_slot.0).expect("it was just entered");
        let tenant = self.tenants.get_mut(user.tenant.0).expect(HAS_USERS);
        session.places = Places {
            tenant: user.tenant,
            user: user_slot,
            user_index: narrow(user.connections.len()),
            tenant_index: narrow(tenant.connections.len()),
            subscribed_to_all_index: None,
            number: self.last_number.wrapping_add(1),
        };
        self.last_number = session.places.number;
        user.connections.push(key);
        tenant.connections.push(key);
        *self.total_of(session.protocol.transport()) += 1;
        if self.sessions.len() <= key.index() {
            self.sessions.resize_with(key.index() + 1, || None);
        }
        let place = self.sessions.get_mut(key.index()).expect("room was just made");
        assert!(place.replace(session).is_none(), "a key has one session at a time");
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
        self.tenant_at_mut(tenant).users += 1;
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
        (&self.tenant_at(user.tenant).name, &user.name)
    }

    /// Forgets a user who has no messages in the queue, unless it has connections.
    pub(super) fn forget_unconnected(&mut self, slot: UserSlot) {
        let Some(user) = self.users.get(slot.0).filter(|user| user.connections.is_empty()) else {
            return;
        };
        let (hash, tenant) = (user.hash, user.tenant);
        self.users.remove(slot.0);
        let entry = self.users_by_name.find_entry(hash.0, |other| *other == slot);
        entry.expect("a user is in the index of names").remove();
        if self.users_by_name.len() < self.users_by_name.capacity() / 4 {
            let (users, room) = (&self.users, self.users_by_name.len() * 2);
            let rehash = |slot: &UserSlot| users.get(slot.0).expect(KNOWN).hash.0;
            self.users_by_name.shrink_to(room, rehash);
        }
        self.remove_user_of(tenant);
    }

    /// One of a tenant's users was forgotten; with its last one the tenant is.
    fn remove_user_of(&mut self, slot: TenantSlot) {
        let tenant = self.tenant_at_mut(slot);
        tenant.users -= 1;
        if tenant.users == 0 {
            let tenant = self.tenants.remove(slot.0).expect(HAS_USERS);
            self.tenants_by_name.remove(&tenant.name);
        }
    }

    fn total_of(&mut self, transport: Transport) -> &mut usize {
        match transport {
            Transport::WebSocket => &mut self.totals.websocket,
            Transport::Sse => &mut self.totals.sse,
        }
    }

    /// The slot of a tenant, made if there is none. It has no users yet: enter one at once.
    fn tenant_slot(&mut self, name: &Arc<str>) -> TenantSlot {
        if let Some(slot) = self.tenants_by_name.get(name) {
            return *slot;
        }
        let slot = TenantSlot(self.tenants.insert(Tenant {
            name: Arc::clone(name),
            connections: Vec::new(),
            subscribed_to_all: Vec::new(),
            channels: Index::new(),
            users: 0,
        }));
        self.tenants_by_name.insert(Arc::clone(name), slot);
        slot
    }

    /// Removes a session from every index, and returns whose it was; `None` if there was none. The
    /// user stays, even if this was its last connection, until [`Self::forget_unconnected`].
    pub(super) fn remove(
        &mut self,
        key: ConnectionKey,
        reports: &mut VecDeque<Report>,
    ) -> Option<UserSlot> {
        let session = self.sessions.get_mut(key.index()).and_then(Option::take)?;
        let places = session.places;
        for entry in session.subscriptions.iter() {
            reports.extend(self.remove_subscriber(places.tenant, entry));
        }
        *self.total_of(session.protocol.transport()) -= 1;
        let tenant = self.tenant_at_mut(places.tenant);
        if let Some(moved) = swap_remove(&mut tenant.connections, places.tenant_index) {
            self.connected(moved).places.tenant_index = places.tenant_index;
        }
        if let Some(at) = places.subscribed_to_all_index {
            let tenant = self.tenant_at_mut(places.tenant);
            let moved = swap_remove(&mut tenant.subscribed_to_all, at.get());
            if tenant.subscribed_to_all.is_empty() {
                reports.push_back(interest(&tenant.name, None, false));
            }
            if let Some(moved) = moved {
                self.connected(moved).places.subscribed_to_all_index = Some(at);
            }
        }
        let at = places.user_index as usize;
        let user = self.users.get_mut(places.user.0).expect(KNOWN);
        user.connections.swap_remove(at);
        let moved = user.connections.get(at).copied();
        if user.connections.spilled() && user.connections.len() < user.connections.capacity() / 4 {
            user.connections.grow(user.connections.len() * 2);
        }
        if let Some(moved) = moved {
            self.connected(moved).places.user_index = places.user_index;
        }
        Some(places.user)
    }

    /// Subscribes a session to every channel its token allows. Returns the report for the router, if
    /// it is its tenant's first.
    pub(super) fn subscribe_to_all(&mut self, key: ConnectionKey) -> Option<Report> {
        let session = self.sessions.get_mut(key.index())?.as_mut()?;
        if session.places.subscribed_to_all_index.is_some() {
            return None;
        }
        let tenant = self.tenants.get_mut(session.places.tenant.0).expect(HAS_USERS);
        session.places.subscribed_to_all_index =
            ListIndex::new(narrow(tenant.subscribed_to_all.len()));
        tenant.subscribed_to_all.push(key);
        (tenant.subscribed_to_all.len() == 1).then(|| interest(&tenant.name, None, true))
    }

    pub(super) fn is_subscribed(&self, session: &Session, name: &str) -> bool {
        self.channel_of(session, name).is_some()
    }

    /// The slot of a channel that a session is subscribed to.
    fn channel_of(&self, session: &Session, name: &str) -> Option<ChannelSlot> {
        let tenant = self.tenant_at(session.places.tenant);
        let channel = self.channels.find(&tenant.channels, name)?;
        session.subscriptions.has(channel).then_some(channel)
    }

    /// Adds a session to a channel it is not on. Returns the report for the router, if it is the
    /// channel's first subscriber.
    pub(super) fn subscribe(&mut self, key: ConnectionKey, name: &str) -> Option<Report> {
        let session = self.sessions.get_mut(key.index())?.as_mut()?;
        let tenant = self.tenants.get_mut(session.places.tenant.0).expect(HAS_USERS);
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
        let Some(channel) = self.channel_of(session, name) else { return };
        let tenant = session.places.tenant;
        let entry = self.connected(key).subscriptions.remove(channel);
        let entry = entry.expect("it was just found subscribed");
        reports.extend(self.remove_subscriber(tenant, entry));
    }

    /// Takes a subscriber off a channel's list; its session has forgotten the entry already. Returns
    /// the report for the router, if it was the channel's last.
    fn remove_subscriber(&mut self, tenant: TenantSlot, entry: Subscription) -> Option<Report> {
        self.totals.subscriptions -= 1;
        if let Some(moved) = self.channels.swap_remove(entry.channel, entry.at) {
            self.connected(moved).subscriptions.set_index(entry.channel, entry.at);
            return None;
        }
        if !self.channels.subscribers(entry.channel).is_empty() {
            return None;
        }
        let tenant = self.tenants.get_mut(tenant.0).expect(HAS_USERS);
        let report = interest(&tenant.name, Some(self.channels.name(entry.channel)), false);
        self.channels.remove(&mut tenant.channels, entry.channel);
        Some(report)
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

    /// Whether the session is subscribed to this channel, by name or to all.
    pub(super) fn receives(&self, session: &Session, channel: &str) -> bool {
        self.is_subscribed(session, channel)
            || (session.places.subscribed_to_all_index.is_some() && session.may_subscribe(channel))
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

/// Takes the entry at an index off a list, and returns who is at that index now.
fn swap_remove(list: &mut Vec<ConnectionKey>, at: u32) -> Option<ConnectionKey> {
    list.swap_remove(at as usize);
    if list.len() < list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
    list.get(at as usize).copied()
}

/// An index in a list of connections as it is stored.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("a key is a u32, so there are no more connections")
}
