//! The lanes between the router and a shard: bounded, `try_send` only, a bell at each end.
//!
//! **Runs on**: senders on the router, receivers on their shard (and the reverse for reports).
//! **Owns**: the queues. **Never**: blocks; drops a report; lets deliveries starve control.
//!
//! Control has a lane of its own and is drained first; deliveries have a lane for each priority.
//! Because the router is the only sender, room it has seen cannot vanish before it sends: checking
//! all shards and then sending to all is all-or-nothing without a lock.

use std::sync::Arc;
use std::vec;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::base::limits::{CONTROL_LANE_CAPACITY, REPORT_LANE_CAPACITY};
use crate::link::doorbell::Doorbell;
use crate::link::message::{Control, Delivery, Parcel, Report};
use crate::link::turns::Turns;
use crate::notification::Priority;

/// A message that found its lane full, handed back to whoever can answer for it.
#[derive(Debug)]
pub struct Refused<T>(pub T);

/// The router's end of one shard.
#[derive(Debug)]
pub struct ShardLink {
    control: Sender<Control>,
    deliveries: [Sender<Parcel>; 4],
    bell: Arc<Doorbell>,
    reports: Receiver<Report>,
}

impl ShardLink {
    /// Whether so many more parcels of that priority would be taken.
    #[must_use]
    pub fn has_room(&self, priority: Priority, count: usize) -> bool {
        let lane = self.lane(priority);
        lane.capacity().is_none_or(|capacity| lane.len() + count <= capacity)
    }

    /// Hands deliveries to the shard. Ring afterwards.
    pub fn deliver(
        &self,
        priority: Priority,
        parcel: impl Into<Parcel>,
    ) -> Result<(), Refused<Parcel>> {
        self.lane(priority).try_send(parcel.into()).map_err(give_back)
    }

    /// Hands a control message to the shard and rings.
    pub fn control(&self, message: Control) -> Result<(), Refused<Control>> {
        let sent = self.control.try_send(message).map_err(give_back);
        self.ring();
        sent
    }

    /// Wakes the shard.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Control messages waiting.
    #[must_use]
    pub fn controls_waiting(&self) -> usize {
        self.control.len()
    }

    /// Messages waiting in all lanes.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.control.len() + self.deliveries.iter().map(Sender::len).sum::<usize>()
    }

    /// The next report, if one has come.
    #[must_use]
    pub fn next_report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    fn lane(&self, priority: Priority) -> &Sender<Parcel> {
        let [low, normal, high, critical] = &self.deliveries;
        match priority {
            Priority::Low => low,
            Priority::Normal => normal,
            Priority::High => high,
            Priority::Critical => critical,
        }
    }
}

fn give_back<T>(error: TrySendError<T>) -> Refused<T> {
    Refused(error.into_inner())
}

/// One priority's deliveries, as the shard takes them.
#[derive(Debug)]
struct DeliveryLane {
    parcels: Receiver<Parcel>,
    /// What is left of the batch that was taken last.
    rest: vec::IntoIter<Delivery>,
}

impl DeliveryLane {
    fn new(parcels: Receiver<Parcel>) -> Self {
        Self { parcels, rest: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Option<Delivery> {
        if let Some(delivery) = self.rest.next() {
            return Some(delivery);
        }
        match self.parcels.try_recv().ok()? {
            Parcel::One(delivery) => Some(delivery),
            Parcel::Batch(deliveries) => {
                self.rest = deliveries.into_iter();
                self.rest.next()
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.rest.len() == 0 && self.parcels.is_empty()
    }
}

/// The shard's end: what it takes and where it reports.
#[derive(Debug)]
pub(crate) struct Inbox {
    control: Receiver<Control>,
    deliveries: [DeliveryLane; 4],
    /// Where tenants take turns, what has been taken from the lanes.
    turns: Option<Box<Turns<Delivery>>>,
    bell: Arc<Doorbell>,
    reports: Sender<Report>,
    router_bell: Arc<Doorbell>,
}

impl Inbox {
    /// Silences the bell; call before draining.
    pub(crate) fn answer_bell(&self) {
        self.bell.answer();
    }

    pub(crate) fn next_control(&self) -> Option<Control> {
        self.control.try_recv().ok()
    }

    /// The next delivery, of a batch one after another: the most urgent lane first, or, where tenants take
    /// turns, that of whose turn it is.
    pub(crate) fn next_delivery(&mut self) -> Option<Delivery> {
        let Some(turns) = &mut self.turns else {
            return self.deliveries.iter_mut().rev().find_map(DeliveryLane::next);
        };
        for (lane, priority) in self.deliveries.iter_mut().zip(Priority::ALL) {
            while !turns.is_full() {
                let Some(delivery) = lane.next() else { break };
                let tenant = delivery.audience.tenant().map(Arc::clone);
                turns.push(&tenant.unwrap_or_default(), priority, delivery);
            }
        }
        turns.take()
    }

    /// Whether the rest of a batch waits that has been taken in part.
    pub(crate) fn is_within_batch(&self) -> bool {
        self.turns.is_none() && self.deliveries.iter().any(|lane| lane.rest.len() > 0)
    }

    /// What the delivery that was taken last has put into outboxes.
    pub(crate) fn charge(&mut self, frames: u32) {
        if let Some(turns) = &mut self.turns {
            turns.charge(i64::from(frames) + 1);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty()
            && self.deliveries.iter().all(DeliveryLane::is_empty)
            && self.turns.as_ref().is_none_or(|turns| turns.is_empty())
    }

    /// Hands a report to the router, or hands it back when the lane is full.
    pub(crate) fn report(&self, report: Report) -> Result<(), Refused<Report>> {
        self.reports.try_send(report).map_err(give_back)
    }

    pub(crate) fn ring_router(&self) {
        self.router_bell.ring();
    }
}

/// Makes both ends for one shard. `bell` wakes the shard, `router_bell` the router. With `fair_turns`
/// the shard takes as much again out of the lanes, so that no tenant's deliveries stand before another's.
pub(crate) fn lanes(
    capacity: usize,
    fair_turns: bool,
    bell: Arc<Doorbell>,
    router_bell: Arc<Doorbell>,
) -> (ShardLink, Inbox) {
    let (control_in, control_out) = bounded(CONTROL_LANE_CAPACITY);
    let (reports_in, reports_out) = bounded(REPORT_LANE_CAPACITY);
    let lanes = [(); 4].map(|()| bounded(capacity));
    let turns = fair_turns.then(|| Box::new(Turns::new(capacity.saturating_mul(4))));
    let [low, normal, high, critical] = lanes;
    let link = ShardLink {
        control: control_in,
        deliveries: [low.0, normal.0, high.0, critical.0],
        bell: Arc::clone(&bell),
        reports: reports_out,
    };
    let inbox = Inbox {
        control: control_out,
        deliveries: [low.1, normal.1, high.1, critical.1].map(DeliveryLane::new),
        turns,
        bell,
        reports: reports_in,
        router_bell,
    };
    (link, inbox)
}

#[cfg(test)]
mod tests;
