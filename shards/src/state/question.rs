//! Answering questions about the shard between two turns.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: mixes two moments in one answer.

use std::sync::Arc;

use super::mailbox::{Letter, Mailbox};
use super::post::End;
use super::{Outgoing, State};
use crate::id::{NotificationId, Tick};
use crate::limits::{LETTERS_PER_TURN, LETTERS_SHOWN_MAX};
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
                let tenant = self.directory.tenant(tenant).into_iter();
                let channels = tenant.flat_map(|tenant| self.directory.channels_of(tenant));
                Answer::Channels(channels.map(|(name, count)| (name.into(), count)).collect())
            }
            Question::Channel { tenant, name } => {
                let tenant = self.directory.tenant(tenant);
                let count = tenant.map_or(0, |t| self.directory.subscribers(t, name).len());
                let count = (count > 0).then(|| (Arc::clone(name), count));
                Answer::Channels(count.into_iter().collect())
            }
            Question::User(user) => {
                let keys = self.directory.connections(&user.tenant, &user.user, user.hash);
                let sessions = keys.iter().filter_map(|key| self.directory.session(*key));
                let mut names: Vec<&str> =
                    sessions.flat_map(|s| self.directory.channel_names(s)).collect();
                names.sort_unstable();
                names.dedup();
                let subscriptions = names.into_iter().map(Arc::from).collect();
                Answer::User { connections: keys.len(), subscriptions }
            }
            Question::Letters { user, shelf, clear } => self.letters(user, *shelf, *clear),
            Question::Acknowledge { user, ids } => {
                Answer::Acknowledged(self.acknowledge(user, ids, out))
            }
        }
    }

    /// Settles all first: a connection that is told and is too slow for that would take letters
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
            self.tell_settled(slot, *id, None, out);
        }
        self.directory.tidy_user(slot);
        settled
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
            ack_pending: if self.limits.ack.is_some() { self.flights.len() } else { 0 },
            channels: self.directory.channels.len(),
            subscriptions: totals.subscriptions,
            disk: self.vault.as_ref().map(|vault| vault.snapshot()),
            ..ShardSnapshot::default()
        }
    }

    /// A user's letters on one shelf, oldest first, and how many they are; with `clear` they are
    /// thrown away and counted.
    fn letters(&mut self, user: &Recipient, shelf: Shelf, clear: bool) -> Answer {
        let slot = self.directory.find_user(&user.tenant, &user.user, user.hash);
        let Some(slot) = slot else { return Answer::Letters { shown: Vec::new(), count: 0 } };
        if clear {
            let count = self.clear_shelf(slot, shelf);
            self.directory.tidy_user(slot);
            return Answer::Letters { shown: Vec::new(), count };
        }
        let view = |letter: &Letter, in_flight| LetterView {
            kept: letter.kept().clone(),
            attempts: letter.attempts(),
            in_flight,
        };
        let mailbox = self.directory.mailbox(slot);
        if shelf == Shelf::DeadLetters {
            let dead = || mailbox.into_iter().flat_map(Mailbox::dead);
            let shown = dead().take(LETTERS_SHOWN_MAX).map(|dead| view(&dead.letter, false));
            return Answer::Letters { shown: shown.collect(), count: dead().count() };
        }
        // So many of each at most: of more, none would be shown.
        let mut all: Vec<(&Letter, bool)> = Vec::new();
        let flights = self.flights.of(self.directory.flights(slot));
        all.extend(flights.map(|flight| (&flight.letter, true)));
        let waiting = mailbox.into_iter().flat_map(|mailbox| mailbox.waiting().iter());
        all.extend(waiting.take(LETTERS_SHOWN_MAX).map(|letter| (letter, false)));
        all.sort_unstable_by_key(|(letter, _)| letter.sequence());
        let shown = all.iter().take(LETTERS_SHOWN_MAX);
        let shown = shown.map(|(letter, in_flight)| view(letter, *in_flight)).collect();
        let waiting = mailbox.map_or(0, |mailbox| mailbox.waiting().len());
        Answer::Letters { shown, count: self.directory.flights(slot).count as usize + waiting }
    }

    /// Ends all letters of a shelf. What waits leaves at once and is counted; how many turns it takes
    /// to let go of it does not matter to anybody.
    fn clear_shelf(&mut self, slot: u32, shelf: Shelf) -> usize {
        let mut count = 0;
        if shelf == Shelf::DeadLetters {
            let dead = self.directory.mailbox_mut(slot).map(Mailbox::take_dead);
            for letter in dead.into_iter().flatten() {
                self.finish(&letter, End::Dropped);
                count += 1;
            }
            return count;
        }
        if let Some(mailbox) = self.directory.mailbox_mut(slot) {
            let waiting = mailbox.take_waiting();
            count = waiting.len();
            self.meter.queue_dropped += count as u64;
            self.cleared.push_back(waiting);
            self.release_cleared(LETTERS_PER_TURN);
        }
        while let Some(landed) = self.land(self.directory.flights(slot).first()) {
            self.finish(&landed.letter, End::Dropped);
            count += 1;
        }
        self.list_replay(slot);
        count
    }
}
