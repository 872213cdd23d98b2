//! Answering questions about the shard between two turns.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: mixes two moments in one answer.

use std::sync::Arc;

use super::{Outgoing, State};
use crate::id::{NotificationId, Tick};
use crate::message::{Answer, Question};
use crate::meter::ShardSnapshot;

impl State {
    /// Answers a question; what only the worker knows of a snapshot is left at zero.
    pub fn handle_question(
        &mut self,
        question: &Question,
        now: Tick,
        out: &mut impl Outgoing,
    ) -> Answer {
        self.now = now;
        match question {
            Question::Snapshot => Answer::Snapshot(Box::new(self.snapshot())),
            Question::Channels { tenant } => {
                let channels = self.directory.tenant(tenant).map(|tenant| {
                    let slots = tenant.channels.values();
                    slots.filter_map(|slot| self.directory.channels.get(*slot as usize))
                });
                let counts = channels.map(|channels| {
                    channels.map(|c| (Arc::clone(&c.name), c.subscribers.len())).collect()
                });
                Answer::Channels(counts.unwrap_or_default())
            }
            Question::Channel { tenant, name } => {
                let tenant = self.directory.tenant(tenant);
                let channel = tenant.and_then(|tenant| self.directory.channel(tenant, name));
                let count = channel.map(|c| (Arc::clone(&c.name), c.subscribers.len()));
                Answer::Channels(count.into_iter().collect())
            }
            Question::User(user) => {
                let keys = self.directory.connections(&user.tenant, &user.user, user.hash);
                let sessions = keys.iter().filter_map(|key| self.directory.session(*key));
                let mut subscriptions: Vec<_> =
                    sessions.flat_map(|s| self.directory.channel_names(s)).cloned().collect();
                subscriptions.sort_unstable();
                subscriptions.dedup();
                Answer::User { connections: keys.len(), subscriptions }
            }
            Question::Letters { user, shelf, clear } => {
                Answer::Letters(self.letters(user, *shelf, *clear))
            }
            Question::Acknowledge { user, ids } => {
                let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
                let settle = |id: &NotificationId| {
                    slot.is_some_and(|slot| self.settle(slot, *id, None, out))
                };
                Answer::Acknowledged(ids.iter().map(settle).collect())
            }
        }
    }

    fn snapshot(&self) -> ShardSnapshot {
        let totals = self.directory.totals;
        let (queue_users, queued) = self.directory.queue_sizes();
        ShardSnapshot {
            meter: self.meter,
            websocket_connections: totals.websocket,
            sse_connections: totals.sse,
            users: self.directory.connected_users(),
            queue_size: queued,
            queue_users,
            ack_pending: self.flights.len(),
            channels: self.directory.channels.len(),
            subscriptions: totals.subscriptions,
            ..ShardSnapshot::default()
        }
    }
}
