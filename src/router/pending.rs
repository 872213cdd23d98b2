//! Triggers and queries whose shards have not all reported.
//!
//! **Runs on**: the router. **Owns**: one entry per request, until its last report.
//! **Never**: leaks: a caller that stopped waiting costs its entry only until then.

use ahash::AHashMap;
use ara_shards::base::id::RequestId;
use ara_shards::link::message::{DeliveryCounts, Reply};
use tokio::sync::oneshot;

/// What all shards together reported.
#[derive(Debug)]
pub enum Outcome {
    /// Of a trigger.
    Counts {
        /// The sum.
        total: DeliveryCounts,
        /// One entry for each target of the trigger, in its order.
        targets: Vec<DeliveryCounts>,
    },
    /// Of a query, in shard order.
    Replies(Vec<Reply>),
}

/// The open requests.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: AHashMap<RequestId, Waiting>,
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
    Counts {
        total: DeliveryCounts,
        targets: Vec<DeliveryCounts>,
        /// Which targets each shard was given, in the order it was given them.
        shares: Vec<(usize, Vec<usize>)>,
    },
    Replies(Vec<(usize, Reply)>),
}

impl Pending {
    /// Opens a request for a trigger with `targets` targets; `shares` says which of them went to
    /// each shard.
    pub fn open_trigger(
        &mut self,
        targets: usize,
        shares: Vec<(usize, Vec<usize>)>,
    ) -> (RequestId, oneshot::Receiver<Outcome>) {
        let left = shares.len();
        let targets = vec![DeliveryCounts::default(); targets];
        self.open(left, Gathered::Counts { total: DeliveryCounts::default(), targets, shares })
    }

    /// Opens a request for a query to `shards` shards.
    pub fn open_query(&mut self, shards: usize) -> (RequestId, oneshot::Receiver<Outcome>) {
        self.open(shards, Gathered::Replies(Vec::with_capacity(shards)))
    }

    fn open(&mut self, left: usize, gathered: Gathered) -> (RequestId, oneshot::Receiver<Outcome>) {
        self.last += 1;
        let request = RequestId(self.last);
        let (caller, receiver) = oneshot::channel();
        let waiting = Waiting { left, gathered, caller };
        if left == 0 {
            waiting.answer();
        } else {
            self.waiting.insert(request, waiting);
        }
        (request, receiver)
    }

    /// Gives a request up; reports still to come for it are ignored.
    pub fn forget(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }

    /// A shard's report on a trigger.
    pub fn delivered(
        &mut self,
        request: RequestId,
        shard: usize,
        sum: DeliveryCounts,
        parts: &[DeliveryCounts],
    ) {
        if let Some(waiting) = self.waiting.get_mut(&request)
            && let Gathered::Counts { total, targets, shares } = &mut waiting.gathered
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
        self.count_down(request);
    }

    /// A shard's answer to a query.
    pub fn replied(&mut self, request: RequestId, shard: usize, answer: Reply) {
        if let Some(waiting) = self.waiting.get_mut(&request)
            && let Gathered::Replies(answers) = &mut waiting.gathered
        {
            answers.push((shard, answer));
        }
        self.count_down(request);
    }

    fn count_down(&mut self, request: RequestId) {
        let Some(waiting) = self.waiting.get_mut(&request) else { return };
        waiting.left -= 1;
        if waiting.left == 0
            && let Some(waiting) = self.waiting.remove(&request)
        {
            waiting.answer();
        }
    }
}

impl Waiting {
    fn answer(self) {
        let outcome = match self.gathered {
            Gathered::Counts { total, targets, .. } => Outcome::Counts { total, targets },
            Gathered::Replies(mut answers) => {
                answers.sort_unstable_by_key(|(shard, _)| *shard);
                Outcome::Replies(answers.into_iter().map(|(_, answer)| answer).collect())
            }
        };
        // A caller that has hung up does not need its answer.
        let _hung_up = self.caller.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(delivered: u32) -> DeliveryCounts {
        DeliveryCounts { delivered, ..DeliveryCounts::default() }
    }

    #[test]
    fn the_last_report_answers_with_every_target_in_its_place() {
        let mut pending = Pending::default();
        let (request, mut receiver) = pending.open_trigger(3, vec![(0, vec![0, 2]), (1, vec![1])]);
        pending.delivered(request, 1, counts(5), &[]);
        assert!(receiver.try_recv().is_err());
        pending.delivered(request, 0, counts(3), &[counts(1), counts(2)]);
        let Ok(Outcome::Counts { total, targets }) = receiver.try_recv() else { panic!() };
        assert_eq!(total, counts(8));
        assert_eq!(targets, [counts(1), counts(5), counts(2)]);
        assert!(pending.waiting.is_empty());
    }

    #[test]
    fn nothing_to_wait_for_is_answered_at_once() {
        let (_, mut receiver) = Pending::default().open_trigger(2, Vec::new());
        assert!(receiver.try_recv().is_ok());
    }
}
