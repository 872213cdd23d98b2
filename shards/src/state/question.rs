//! Answering questions about the shard between two turns.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: mixes two moments in one answer.

use std::sync::Arc;

use super::mailbox::Letter;
use super::{Outgoing, State};
use crate::id::{NotificationId, Tick};
use crate::message::{Answer, LetterView, Question, Recipient, Shelf};
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
    /// A user's letters on one shelf, oldest first; with `clear` they are thrown away and counted.
    fn letters(&mut self, user: &Recipient, shelf: Shelf, clear: bool) -> Vec<LetterView> {
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        let Some(slot) = slot else { return Vec::new() };
        let Some(mailbox) = self.directory.mailbox(slot) else { return Vec::new() };
        let view = |(letter, in_flight): (&Letter, bool)| LetterView {
            frame: Arc::clone(&letter.frame),
            attempts: letter.attempts,
            in_flight,
        };
        let mut views: Vec<LetterView> = match shelf {
            Shelf::DeadLetters => {
                mailbox.dead().iter().map(|letter| view((letter, false))).collect()
            }
            Shelf::Queue => {
                let flights = mailbox.flights.iter().filter_map(|slot| self.flights.get(*slot));
                let sent = flights.map(|flight| (&flight.letter, true));
                let waiting = mailbox.waiting().iter().map(|letter| (letter, false));
                let mut all: Vec<(&Letter, bool)> = sent.chain(waiting).collect();
                all.sort_unstable_by_key(|(letter, _)| letter.sequence);
                all.into_iter().map(view).collect()
            }
        };
        if clear {
            let cleared = self.clear_shelf(slot, shelf);
            self.meter.queue_dropped += cleared;
            self.directory.tidy_user(slot);
        } else {
            views.truncate(1000);
        }
        views
    }

    fn clear_shelf(&mut self, slot: u32, shelf: Shelf) -> u64 {
        let Some(mailbox) = self.directory.mailbox_mut(slot) else { return 0 };
        if shelf == Shelf::DeadLetters {
            return u64::try_from(mailbox.take_dead().len()).unwrap_or(0);
        }
        let waiting = mailbox.take_waiting().len();
        let flights = std::mem::take(&mut mailbox.flights);
        let called_back = flights.iter().filter(|flight| self.flights.land(**flight).is_some());
        u64::try_from(waiting + called_back.count()).unwrap_or(0)
    }
}
