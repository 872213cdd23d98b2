//! Answering queries about the shard between two turns.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: mixes two moments in one answer.

use std::sync::Arc;

use super::{Outgoing, State};
use crate::base::counters::ShardSnapshot;
use crate::base::id::{ConnectionKey, NotificationId};
use crate::link::listing::ConnectionFilter;
use crate::link::message::{Query, Recipient, Reply, Source, UserQueueView, UserView};
use crate::protocol::Transport;
use crate::wire::close::CloseReason;

/// What the state knows of a connection in a list.
#[derive(Debug)]
pub(crate) struct SessionView {
    pub(crate) tenant: Arc<str>,
    pub(crate) user: Box<str>,
    pub(crate) transport: Transport,
    pub(crate) subscriptions: usize,
    pub(crate) receives_all_channels: bool,
}

impl State {
    /// One more than the highest key in use.
    pub(crate) fn key_bound(&self) -> usize {
        self.directory.key_bound()
    }

    /// The connections of a user.
    pub(crate) fn connections_of(&self, user: &Recipient) -> &[ConnectionKey] {
        self.directory.connections(&user.tenant, &user.user, user.hash)
    }

    /// The session under a key, if there is one and the filter means it. Of whom `filter.user` is, the
    /// caller has looked at.
    pub(crate) fn find_session(
        &self,
        key: ConnectionKey,
        filter: &ConnectionFilter,
    ) -> Option<SessionView> {
        let session = self.directory.session(key)?;
        let transport = session.protocol.transport();
        let tenant = self.directory.tenant_name(session);
        let is_meant = filter.transport.is_none_or(|wanted| wanted == transport)
            && filter.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
            && filter.channel.as_ref().is_none_or(|name| self.directory.receives(session, name));
        is_meant.then(|| SessionView {
            tenant: Arc::clone(tenant),
            user: self.directory.user_name(session).into(),
            transport,
            subscriptions: session.subscriptions.len(),
            receives_all_channels: session.places.subscribed_to_all_index.is_some(),
        })
    }

    /// Replies to a query; what only the worker knows of a snapshot is left at zero.
    pub fn handle_query(&mut self, query: Query, out: &mut impl Outgoing) -> Reply {
        match query {
            Query::Snapshot(to) => Reply::Snapshot(to, Box::new(self.snapshot())),
            Query::Channels { tenant, reply_to } => {
                let tenant = self.directory.tenant(&tenant).into_iter();
                let channels = tenant.flat_map(|tenant| self.directory.channels_of(tenant));
                let counts = channels.map(|(name, count)| (name.into(), count)).collect();
                Reply::Channels(reply_to, counts)
            }
            Query::Tenant { tenant, reply_to } => {
                let tenant = self.directory.tenant(&tenant);
                let view = tenant.map(|tenant| self.directory.view_of(tenant));
                Reply::Tenant(reply_to, view.unwrap_or_default())
            }
            Query::Channel { tenant, name, reply_to } => {
                let tenant = self.directory.tenant(&tenant);
                let count = tenant.map_or(0, |t| self.directory.subscribers(t, &name).len());
                Reply::Channel(reply_to, count)
            }
            Query::User { user, reply_to } => Reply::User(reply_to, self.user(&user)),
            Query::UserQueue { user, source, clear, reply_to } => {
                Reply::UserQueue(reply_to, self.messages(&user, source, clear))
            }
            Query::Acknowledge { user, ids, reply_to } => {
                Reply::Acknowledged(reply_to, self.acknowledge(&user, &ids, out))
            }
            Query::Connections { .. } | Query::SendAway { .. } => {
                panic!("the shard answers what needs its sockets")
            }
            Query::Disconnect { user, reason, reply_to } => {
                Reply::Disconnected(reply_to, self.disconnect(&user, &reason, out))
            }
        }
    }

    fn user(&self, user: &Recipient) -> UserView {
        let keys = self.directory.connections(&user.tenant, &user.user, user.hash);
        let sessions = keys.iter().filter_map(|key| self.directory.session(*key));
        let mut names: Vec<&str> = sessions.flat_map(|s| self.directory.channel_names(s)).collect();
        names.sort_unstable();
        names.dedup();
        let subscriptions = names.into_iter().map(Arc::from).collect();
        UserView { connections: keys.len(), subscriptions }
    }

    /// Acknowledges all first: a connection that is told, and is too slow for that, would take
    /// messages away that are acknowledged here.
    fn acknowledge(
        &mut self,
        user: &Recipient,
        ids: &[NotificationId],
        out: &mut impl Outgoing,
    ) -> Box<[bool]> {
        let Some(slot) = self.directory.find_user(&user.tenant, &user.user, user.hash) else {
            return ids.iter().map(|_| false).collect();
        };
        let (queues, mut cx) = self.queues();
        let settled: Box<[bool]> =
            ids.iter().map(|id| queues.acknowledge(&mut cx, slot, *id)).collect();
        for (id, _) in ids.iter().zip(&settled).filter(|(_, settled)| **settled) {
            self.notify_settled_to_others(slot, *id, None, out);
        }
        self.queues.tidy(&mut self.directory, slot);
        settled
    }

    /// Closes all connections of a user; what it has not read goes back to its queue.
    fn disconnect(&mut self, user: &Recipient, reason: &str, out: &mut impl Outgoing) -> usize {
        let keys = self.directory.connections(&user.tenant, &user.user, user.hash).to_vec();
        for key in &keys {
            self.close_connection(*key, CloseReason::disconnected(reason), out);
        }
        keys.len()
    }

    fn snapshot(&self) -> ShardSnapshot {
        let totals = self.directory.totals;
        let (queue_users, queue_size) = self.queues.waiting_totals();
        ShardSnapshot {
            counters: self.counters,
            websocket_connections: totals.websocket,
            sse_connections: totals.sse,
            users: self.directory.connected_users(),
            queue_size,
            queue_users,
            ack_pending: self.queues.awaiting_ack(),
            channels: self.directory.channels.len(),
            subscriptions: totals.subscriptions,
            disk: self.store().snapshot(),
            ..ShardSnapshot::default()
        }
    }

    /// A user's messages of one source, oldest first, and how many they are; with `clear` they are
    /// thrown away and counted.
    fn messages(&mut self, user: &Recipient, source: Source, clear: bool) -> UserQueueView {
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        let Some(slot) = slot else { return UserQueueView::default() };
        let (queues, mut cx) = self.queues();
        if clear {
            return UserQueueView { shown: Vec::new(), count: queues.clear(&mut cx, slot, source) };
        }
        let (shown, count) = queues.show(slot, source);
        UserQueueView { shown, count }
    }
}
