//! Triggers and questions whose shards have not all reported.
//!
//! **Runs on**: the router. **Owns**: one entry per ticket, until its last report.
//! **Never**: leaks: a caller that stopped waiting costs its entry only until then.

use ahash::AHashMap;
use ara_shards::id::Ticket;
use ara_shards::message::{Answer, Tally};
use tokio::sync::oneshot;

/// What all shards together reported.
#[derive(Debug)]
pub enum Outcome {
    /// Of a trigger.
    Tallies {
        /// The sum.
        total: Tally,
        /// One entry for each target of the trigger, in its order.
        targets: Vec<Tally>,
    },
    /// Of a question, in shard order.
    Answers(Vec<Answer>),
}

/// The open tickets.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: AHashMap<Ticket, Waiting>,
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    /// Reports still to come.
    left: usize,
    gathered: Gathered,
    caller: oneshot::Sender<Outcome>,
}

#[derive(Debug)]
enum Gathered {
    Tallies {
        total: Tally,
        targets: Vec<Tally>,
        /// Which targets each shard was given, in the order it was given them.
        shares: Vec<(usize, Vec<usize>)>,
    },
    Answers(Vec<(usize, Answer)>),
}

impl Pending {
    /// Opens a ticket for a trigger with `targets` targets; `shares` says which of them went to
    /// each shard.
    pub fn open_tallies(
        &mut self,
        targets: usize,
        shares: Vec<(usize, Vec<usize>)>,
    ) -> (Ticket, oneshot::Receiver<Outcome>) {
        let left = shares.len();
        let targets = vec![Tally::default(); targets];
        self.open(left, Gathered::Tallies { total: Tally::default(), targets, shares })
    }

    /// Opens a ticket for a question to `shards` shards.
    pub fn open_answers(&mut self, shards: usize) -> (Ticket, oneshot::Receiver<Outcome>) {
        self.open(shards, Gathered::Answers(Vec::with_capacity(shards)))
    }

    fn open(&mut self, left: usize, gathered: Gathered) -> (Ticket, oneshot::Receiver<Outcome>) {
        self.last += 1;
        let ticket = Ticket(self.last);
        let (caller, receiver) = oneshot::channel();
        let waiting = Waiting { left, gathered, caller };
        if left == 0 {
            waiting.answer();
        } else {
            self.waiting.insert(ticket, waiting);
        }
        (ticket, receiver)
    }

    /// Gives a ticket up; reports still to come for it are ignored.
    pub fn forget(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// A shard's report on a trigger.
    pub fn delivered(&mut self, ticket: Ticket, shard: usize, sum: Tally, parts: &[Tally]) {
        if let Some(waiting) = self.waiting.get_mut(&ticket)
            && let Gathered::Tallies { total, targets, shares } = &mut waiting.gathered
        {
            total.add(sum);
            // A shard that was sent two parts has at most one with targets.
            let is_it =
                |(index, places): &&(usize, Vec<usize>)| *index == shard && !places.is_empty();
            let share = shares.iter().find(is_it);
            let places = share.map_or(&[][..], |(_, places)| places);
            // A shard with one target reports only the sum.
            let parts = if parts.is_empty() { std::slice::from_ref(&sum) } else { parts };
            for (place, part) in places.iter().zip(parts) {
                if let Some(target) = targets.get_mut(*place) {
                    target.add(*part);
                }
            }
        }
        self.count_down(ticket);
    }

    /// A shard's answer to a question.
    pub fn answered(&mut self, ticket: Ticket, shard: usize, answer: Answer) {
        if let Some(waiting) = self.waiting.get_mut(&ticket)
            && let Gathered::Answers(answers) = &mut waiting.gathered
        {
            answers.push((shard, answer));
        }
        self.count_down(ticket);
    }

    fn count_down(&mut self, ticket: Ticket) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        waiting.left -= 1;
        if waiting.left == 0
            && let Some(waiting) = self.waiting.remove(&ticket)
        {
            waiting.answer();
        }
    }
}

impl Waiting {
    fn answer(self) {
        let outcome = match self.gathered {
            Gathered::Tallies { total, targets, .. } => Outcome::Tallies { total, targets },
            Gathered::Answers(mut answers) => {
                answers.sort_unstable_by_key(|(shard, _)| *shard);
                Outcome::Answers(answers.into_iter().map(|(_, answer)| answer).collect())
            }
        };
        // A caller that has hung up does not need its answer.
        let _hung_up = self.caller.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(delivered: u32) -> Tally {
        Tally { delivered, ..Tally::default() }
    }

    #[test]
    fn the_last_report_answers_with_every_target_in_its_place() {
        let mut pending = Pending::default();
        let (ticket, mut receiver) = pending.open_tallies(3, vec![(0, vec![0, 2]), (1, vec![1])]);
        pending.delivered(ticket, 1, tally(5), &[]);
        assert!(receiver.try_recv().is_err());
        pending.delivered(ticket, 0, tally(3), &[tally(1), tally(2)]);
        let Ok(Outcome::Tallies { total, targets }) = receiver.try_recv() else { panic!() };
        assert_eq!(total, tally(8));
        assert_eq!(targets, [tally(1), tally(5), tally(2)]);
        assert!(pending.waiting.is_empty());
    }

    #[test]
    fn nothing_to_wait_for_is_answered_at_once() {
        let (_, mut receiver) = Pending::default().open_tallies(2, Vec::new());
        assert!(receiver.try_recv().is_ok());
    }
}
