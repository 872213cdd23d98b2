//! Several triggers that are dispatched together: what goes to one shard with one priority is one
//! parcel there.
//!
//! **Runs on**: the router. **Owns**: what is to be sent, until the end of the call. **Never**: sends
//! one shard's part of a trigger where another has no room for its own; lets anything else be sent in
//! between.

use std::time::SystemTime;

use ara_shards::base::id::NotificationId;
use ara_shards::link::message::{Delivery, Parcel};
use ara_shards::notification::Priority;

use super::dispatch::{Dispatched, ShardPart};
use super::shares::Room;
use super::{Phase, Router, State, overloaded, share_used};
use crate::intake::trigger::Trigger;
use crate::refusal::Refusal;

/// The triggers of one call, on their way to the shards.
#[derive(Debug)]
pub struct Batch<'a> {
    state: &'a mut State,
    router: &'a Router,
    occurred_at: String,
    parcels: Vec<Waiting>,
}

/// What goes to one shard with one priority.
#[derive(Debug)]
struct Waiting {
    shard: usize,
    priority: Priority,
    deliveries: Vec<Delivery>,
}

impl Router {
    /// Has `fill` add the triggers of a batch of `count` notifications, and sends all that were taken.
    /// Nothing is awaited meanwhile, so the room
    /// that was there for a trigger is there when it is sent.
    ///
    /// # Errors
    ///
    /// The gateway is stopping; then `fill` is not called.
    pub fn dispatch_batch<T>(
        &self,
        count: usize,
        fill: impl FnOnce(&mut Batch<'_>) -> T,
    ) -> Result<T, Refusal> {
        let mut state = self.0.borrow_mut();
        if state.phase == Phase::Stopping {
            return Err(state.shutting_down());
        }
        state.counters.batches += 1;
        state.counters.batch_notifications += u64::try_from(count).unwrap_or(u64::MAX);
        // Whatever a client was told before the batch came, the router knows now.
        state.take_reports();
        let occurred_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut batch = Batch { state: &mut state, router: self, occurred_at, parcels: Vec::new() };
        let filled = fill(&mut batch);
        batch.send();
        Ok(filled)
    }
}

impl Batch<'_> {
    /// Takes a trigger, under this id.
    ///
    /// # Errors
    ///
    /// A shard has no room; then no shard is sent anything of it.
    pub fn add(&mut self, trigger: Trigger, id: NotificationId) -> Result<Dispatched, Refusal> {
        let shares = self.state.shares(&trigger, id, &self.occurred_at);
        let priority = trigger.event.priority;
        let room = |share: &ShardPart| {
            let messages = shares.iter().filter(|other| other.shard == share.shard).count();
            self.room(share.shard, priority, &trigger.tenant, messages)
        };
        if let Some(lacking) = shares.iter().map(room).find(|room| *room != Room::Enough) {
            self.state.counters.overloaded += 1;
            return Err(if lacking == Room::ShareUsed { share_used() } else { overloaded() });
        }
        let (request, counts) = self.state.open(&trigger, &shares);
        for share in shares {
            let room = self.state.reserve_room(&share.recipients);
            let delivery = Delivery { request, audience: share.recipients, room };
            self.parcel(share.shard, priority).push(delivery);
        }
        Ok(Dispatched {
            id,
            occurred_at: self.occurred_at.clone(),
            target: trigger.target,
            counts,
            router: self.router.clone(),
        })
    }

    /// Whether a shard takes so many more deliveries of a tenant. A parcel takes one place in its lane,
    /// whatever it holds; where tenants have shares, each delivery counts.
    fn room(&self, shard: usize, priority: Priority, tenant: &str, messages: usize) -> Room {
        let is_it = |parcel: &Waiting| (parcel.shard, parcel.priority) == (shard, priority);
        if self.state.tenant_shares.is_none() && self.parcels.iter().any(is_it) {
            return Room::Enough;
        }
        let places = if self.state.tenant_shares.is_none() { 1 } else { messages };
        self.state.room(shard, priority, tenant, places)
    }

    fn parcel(&mut self, shard: usize, priority: Priority) -> &mut Vec<Delivery> {
        let is_it = |parcel: &Waiting| (parcel.shard, parcel.priority) == (shard, priority);
        let place = self.parcels.iter().position(is_it).unwrap_or_else(|| {
            self.parcels.push(Waiting { shard, priority, deliveries: Vec::new() });
            self.parcels.len() - 1
        });
        &mut self.parcels.get_mut(place).expect("it was found or put there").deliveries
    }

    fn send(self) {
        for Waiting { shard, priority, mut deliveries } in self.parcels {
            let parcel = match deliveries.pop() {
                Some(only) if deliveries.is_empty() => Parcel::One(only),
                last => {
                    deliveries.extend(last);
                    Parcel::Batch(deliveries)
                }
            };
            let shard = self.state.shard(shard);
            let sent = shard.deliver(priority, parcel);
            sent.expect("there was room a moment ago, and nobody else sends to a shard");
            shard.ring();
        }
    }
}
