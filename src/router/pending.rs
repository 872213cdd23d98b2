//! Triggers whose shards have not all reported.
//!
//! **Runs on**: the router. **Owns**: one entry per trigger, until its last report.
//! **Never**: leaks: a caller that stopped waiting costs its entry only until then.

use std::sync::Arc;

use ahash::AHashMap;
use ara_shards::base::id::RequestId;
use ara_shards::link::message::DeliveryCounts;
use ara_shards::notification::Priority;
use tokio::sync::oneshot;

/// What became of a trigger, over all shards.
#[derive(Debug)]
pub struct Counts {
    /// The sum over all connections.
    pub total: DeliveryCounts,
    /// One entry for each target user or channel, in the trigger's order.
    pub targets: Vec<DeliveryCounts>,
}

/// The triggers that await reports.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: AHashMap<RequestId, Waiting>,
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    /// Reports still to come.
    left: usize,
    counts: Counts,
    /// Which targets each shard was given, in the order it was given them.
    parts: Vec<(usize, Vec<usize>)>,
    caller: oneshot::Sender<Counts>,
    /// Whose it is and how urgent, where tenants are counted.
    owner: Option<(Arc<str>, Priority)>,
}

impl Pending {
    /// Opens a trigger with `targets` targets; `parts` says which of them went to each shard, and
    /// `tenant` whose it is, where tenants are counted.
    pub fn open(
        &mut self,
        targets: usize,
        parts: Vec<(usize, Vec<usize>)>,
        owner: Option<(Arc<str>, Priority)>,
    ) -> (RequestId, oneshot::Receiver<Counts>) {
        self.last += 1;
        let request = RequestId(self.last);
        let (caller, receiver) = oneshot::channel();
        let targets = vec![DeliveryCounts::default(); targets];
        let counts = Counts { total: DeliveryCounts::default(), targets };
        let waiting = Waiting { left: parts.len(), counts, parts, caller, owner };
        if waiting.left == 0 {
            waiting.answer();
        } else {
            self.waiting.insert(request, waiting);
        }
        (request, receiver)
    }

    /// A shard's report. Returns whose trigger it is about and how urgent that is, where tenants are
    /// counted.
    pub fn delivered(
        &mut self,
        request: RequestId,
        shard: usize,
        sum: DeliveryCounts,
        counts: &[DeliveryCounts],
    ) -> Option<(Arc<str>, Priority)> {
        let waiting = self.waiting.get_mut(&request);
        let waiting = waiting.expect("a trigger is open until each of its deliveries is reported");
        waiting.add(shard, sum, counts);
        waiting.left -= 1;
        if waiting.left > 0 {
            return waiting.owner.clone();
        }
        let mut done = self.waiting.remove(&request).expect("it was there a moment ago");
        let owner = done.owner.take();
        done.answer();
        owner
    }
}

impl Waiting {
    fn add(&mut self, shard: usize, sum: DeliveryCounts, counts: &[DeliveryCounts]) {
        self.counts.total.add(sum);
        // A shard that was sent two deliveries has at most one with targets.
        let is_it = |(index, places): &&(usize, Vec<usize>)| *index == shard && !places.is_empty();
        let Some((_, places)) = self.parts.iter().find(is_it) else { return };
        let counts = match (&places[..], counts) {
            // Of one target the sum says all.
            ([_], []) => std::slice::from_ref(&sum),
            // The delivery to the users who are away, which has no targets of its own.
            (_, []) => return,
            _ => counts,
        };
        assert_eq!(places.len(), counts.len(), "a shard counts each target it was given");
        for (place, count) in places.iter().zip(counts) {
            let target = self.counts.targets.get_mut(*place);
            target.expect("a part names targets of its trigger").add(*count);
        }
    }

    fn answer(self) {
        // A caller that has hung up does not need its answer.
        let _hung_up = self.caller.send(self.counts);
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
        let (request, mut receiver) = pending.open(3, vec![(0, vec![0, 2]), (1, vec![1])], None);
        pending.delivered(request, 1, counts(5), &[]);
        assert!(receiver.try_recv().is_err());
        pending.delivered(request, 0, counts(3), &[counts(1), counts(2)]);
        let Counts { total, targets } = receiver.try_recv().unwrap();
        assert_eq!(total, counts(8));
        assert_eq!(targets, [counts(1), counts(5), counts(2)]);
        assert!(pending.waiting.is_empty());
    }

    #[test]
    fn nothing_to_wait_for_is_answered_at_once() {
        let (_, mut receiver) = Pending::default().open(2, Vec::new(), None);
        assert!(receiver.try_recv().is_ok());
    }

    /// The delivery to those who are away is reported beside that to the channels, and is no channel's.
    #[test]
    fn who_is_away_is_counted_in_the_sum_alone() {
        let mut pending = Pending::default();
        let (request, mut receiver) = pending.open(2, vec![(0, vec![]), (0, vec![0, 1])], None);
        let away = DeliveryCounts { queued: 4, ..DeliveryCounts::default() };
        pending.delivered(request, 0, away, &[]);
        pending.delivered(request, 0, counts(3), &[counts(1), counts(2)]);
        let Counts { total, targets } = receiver.try_recv().unwrap();
        assert_eq!(total, DeliveryCounts { delivered: 3, ..away });
        assert_eq!(targets, [counts(1), counts(2)]);
    }

    #[test]
    fn a_caller_that_has_hung_up_leaves_nothing() {
        let mut pending = Pending::default();
        let (request, receiver) = pending.open(1, vec![(0, vec![0]), (1, vec![])], None);
        drop(receiver);
        pending.delivered(request, 0, counts(1), &[]);
        pending.delivered(request, 1, counts(1), &[]);
        assert!(pending.waiting.is_empty());
    }

    #[test]
    #[should_panic(expected = "until each of its deliveries is reported")]
    fn a_report_too_many_is_not_overlooked() {
        let mut pending = Pending::default();
        let (request, _receiver) = pending.open(1, vec![(0, vec![0])], None);
        pending.delivered(request, 0, counts(1), &[]);
        pending.delivered(request, 0, counts(1), &[]);
    }
}
