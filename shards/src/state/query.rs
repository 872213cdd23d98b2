//! Answering queries about the shard between two turns.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: mixes two moments in one answer.

use std::sync::Arc;

use super::enqueue::End;
use super::user_queue::{QueuedMessage, UserQueue};
use super::{Outgoing, State};
use crate::base::counters::ShardSnapshot;
use crate::base::id::{NotificationId, Tick};
use crate::base::limits::{LETTERS_PER_TURN, MESSAGES_SHOWN_MAX};
use crate::link::message::{
    Query, QueuedMessageView, Recipient, Reply, Source, UserQueueView, UserView,
};

impl State {
    /// Replies to a query; what only the worker knows of a snapshot is left at zero.
    pub fn handle_query(&mut self, query: Query, now: Tick, out: &mut impl Outgoing) -> Reply {
        self.now = now;
        match query {
            Query::Snapshot(to) => Reply::Snapshot(to, Box::new(self.snapshot())),
            Query::Channels { tenant, reply_to } => {
                let tenant = self.directory.tenant(&tenant).into_iter();
                let channels = tenant.flat_map(|tenant| self.directory.channels_of(tenant));
                let counts = channels.map(|(name, count)| (name.into(), count)).collect();
                Reply::Channels(reply_to, counts)
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

    /// Settles all first: a connection that is told and is too slow for that would take messages
    /// away that are acknowledged here.
    fn acknowledge(
        &mut self,
        user: &Recipient,
        ids: &[NotificationId],
        out: &mut impl Outgoing,
    ) -> Box<[bool]> {
        let Some(slot) = self.directory.find_user(&user.tenant, &user.user, user.hash) else {
            return ids.iter().map(|_| false).collect();
        };
        let settled: Box<[bool]> = ids.iter().map(|id| self.settle(slot, *id)).collect();
        for (id, _) in ids.iter().zip(&settled).filter(|(_, settled)| **settled) {
            self.notify_settled_to_others(slot, *id, None, out);
        }
        self.directory.tidy_user(slot);
        settled
    }

    fn snapshot(&self) -> ShardSnapshot {
        let totals = self.directory.totals;
        let (queue_users, queued) = self.directory.queue_sizes();
        ShardSnapshot {
            counters: self.counters,
            websocket_connections: totals.websocket,
            sse_connections: totals.sse,
            users: self.directory.connected_users(),
            queue_size: queued,
            queue_users,
            ack_pending: if self.limits.ack.is_some() { self.flights.len() } else { 0 },
            channels: self.directory.channels.len(),
            subscriptions: totals.subscriptions,
            disk: self.store.as_ref().map(|store| store.snapshot()),
            ..ShardSnapshot::default()
        }
    }

    /// A user's messages on one shelf, oldest first, and how many they are; with `clear` they are
    /// thrown away and counted.
    fn messages(&mut self, user: &Recipient, source: Source, clear: bool) -> UserQueueView {
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        let Some(slot) = slot else { return UserQueueView::default() };
        if clear {
            let count = self.clear_source(slot, source);
            self.directory.tidy_user(slot);
            return UserQueueView { shown: Vec::new(), count };
        }
        let view = |message: &QueuedMessage, in_flight| QueuedMessageView {
            kept: message.kept().clone(),
            attempts: message.attempts(),
            in_flight,
        };
        let queue = self.directory.queue(slot);
        if source == Source::DeadLetters {
            let dead = || queue.into_iter().flat_map(UserQueue::dead);
            let shown = dead().take(MESSAGES_SHOWN_MAX).map(|dead| view(&dead.message, false));
            return UserQueueView { shown: shown.collect(), count: dead().count() };
        }
        // So many of each at most: of more, none would be shown.
        let mut all: Vec<(&QueuedMessage, bool)> = Vec::new();
        let flights = self.flights.of(self.directory.flights(slot));
        all.extend(flights.map(|entry| (&entry.message, true)));
        let waiting = queue.into_iter().flat_map(|queue| queue.waiting().iter());
        all.extend(waiting.take(MESSAGES_SHOWN_MAX).map(|message| (message, false)));
        all.sort_unstable_by_key(|(message, _)| message.sequence());
        let shown = all.iter().take(MESSAGES_SHOWN_MAX);
        let shown = shown.map(|(message, in_flight)| view(message, *in_flight)).collect();
        let waiting = queue.map_or(0, |queue| queue.waiting().len());
        UserQueueView { shown, count: self.directory.flights(slot).count as usize + waiting }
    }

    /// Ends all messages of a shelf. What waits leaves at once and is counted; how many turns it takes
    /// to let go of it does not matter to anybody.
    fn clear_source(&mut self, slot: u32, source: Source) -> usize {
        let mut count = 0;
        if source == Source::DeadLetters {
            let dead = self.directory.queue_mut(slot).map(UserQueue::take_dead);
            for message in dead.into_iter().flatten() {
                self.finish(&message, End::Dropped);
                count += 1;
            }
            return count;
        }
        if let Some(queue) = self.directory.queue_mut(slot) {
            let waiting = queue.take_waiting();
            count = waiting.len();
            self.counters.queue_dropped += count as u64;
            self.cleared.push_back(waiting);
            self.release_cleared(LETTERS_PER_TURN);
        }
        while let Some(landed) = self.land(self.directory.flights(slot).first()) {
            self.finish(&landed.message, End::Dropped);
            count += 1;
        }
        self.list_replay(slot);
        count
    }
}
