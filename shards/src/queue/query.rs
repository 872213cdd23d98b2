//! What the API asks about a user's messages, and the sizes that the statistics show.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: shows more than a page.

use super::enqueue::End;
use super::{Context, Queues, Users};
use crate::base::id::UserSlot;
use crate::base::limits::{MESSAGES_PER_TURN, MESSAGES_SHOWN_MAX};
use crate::link::message::{QueuedMessageView, Source};
use crate::queued_message::QueuedMessage;

impl Queues {
    /// How many users have messages waiting, and how many messages wait.
    pub(crate) fn waiting_totals(&self) -> (usize, usize) {
        let queues = self.users.iter().filter_map(|messages| messages.queue.as_ref());
        let sizes = queues.map(|queue| queue.waiting().len()).filter(|size| *size > 0);
        sizes.fold((0, 0), |(users, messages), size| (users + 1, messages + size))
    }

    /// How many messages await their Ack.
    pub(crate) fn awaiting_ack(&self) -> usize {
        if self.ack.is_some() { self.in_flight.len() } else { 0 }
    }

    /// The first of a user's messages, oldest first, and how many there are.
    pub(crate) fn show(&self, user: UserSlot, source: Source) -> (Vec<QueuedMessageView>, usize) {
        let queue = self.queue(user);
        if source == Source::DeadLetters {
            let dead_letters = || queue.into_iter().flat_map(|queue| queue.dead_letters());
            let shown = dead_letters().take(MESSAGES_SHOWN_MAX);
            let shown = shown.map(|dead_letter| view(&dead_letter.message, false)).collect();
            return (shown, dead_letters().count());
        }
        // So many of each at most: of more, none would be shown.
        let mut all: Vec<(&QueuedMessage, bool)> = Vec::new();
        let in_flight = self.in_flight_of(user);
        all.extend(self.in_flight.of(in_flight).map(|entry| (&entry.message, true)));
        let waiting = queue.into_iter().flat_map(|queue| queue.waiting().iter());
        all.extend(waiting.take(MESSAGES_SHOWN_MAX).map(|message| (message, false)));
        all.sort_unstable_by_key(|(message, _)| message.sequence());
        let shown = all.iter().take(MESSAGES_SHOWN_MAX);
        let shown = shown.map(|(message, in_flight)| view(message, *in_flight)).collect();
        let waiting = queue.map_or(0, |queue| queue.waiting().len());
        (shown, in_flight.count as usize + waiting)
    }

    /// Ends all of a user's messages of a source, and returns how many they were. What waits leaves at
    /// once and is counted; its records end over the next turns.
    pub(crate) fn clear(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        source: Source,
    ) -> usize {
        let mut count = 0;
        match source {
            Source::DeadLetters => {
                let cleared = self.queue_mut(user).map(|queue| queue.take_dead_letters());
                for message in cleared.into_iter().flat_map(|cleared| cleared.into_messages()) {
                    self.end(cx.counters, &message, End::Dropped);
                    count += 1;
                }
            }
            Source::Queue => {
                if let Some(queue) = self.queue_mut(user) {
                    let waiting = queue.take_waiting();
                    count = waiting.len();
                    cx.counters.queue_dropped += count as u64;
                    self.cleared.push_back(waiting);
                    self.end_cleared(cx.counters, MESSAGES_PER_TURN);
                }
                while let Some(message) = self.pop_in_flight(user) {
                    self.end(cx.counters, &message, End::Dropped);
                    count += 1;
                }
                self.schedule_replay(user);
            }
        }
        self.tidy(cx.users, user);
        count
    }
}

fn view(message: &QueuedMessage, in_flight: bool) -> QueuedMessageView {
    QueuedMessageView { message: message.shared().clone(), attempts: message.attempts(), in_flight }
}
