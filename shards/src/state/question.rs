//! Answering questions about the shard between two turns.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: mixes two moments in one answer.

use std::sync::Arc;

use super::State;
use crate::message::{Answer, Question};
use crate::meter::ShardSnapshot;

impl State {
    /// Answers a question; what only the worker knows of a snapshot is left at zero.
    #[must_use]
    pub fn handle_question(&self, question: &Question) -> Answer {
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
        }
    }

    fn snapshot(&self) -> ShardSnapshot {
        let totals = self.directory.totals;
        ShardSnapshot {
            meter: self.meter,
            websocket_connections: totals.websocket,
            sse_connections: totals.sse,
            users: self.directory.user_count(),
            channels: self.directory.channels.len(),
            subscriptions: totals.subscriptions,
            ..ShardSnapshot::default()
        }
    }
}
