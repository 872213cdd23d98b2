//! From a trigger to the shards: encode once, check room everywhere, send to all or to none.
//!
//! **Runs on**: the router. **Owns**: nothing beyond the call. **Never**: sends to one shard what
//! another has no room for; encodes a second time for another recipient.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ara_shards::Limits;
use ara_shards::base::clock::Clock;
use ara_shards::base::id::{NotificationId, RequestId, Tick};
use ara_shards::link::message::{Delivery, DeliveryCounts, Recipient, Recipients};
use ara_shards::notification::{Audience, Metadata, Notification, Priority};
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use uuid::Uuid;

use super::interest::ShardSet;
use super::pending::Counts;
use super::shares::Room;
use super::{
    Phase, REPORT_DEADLINE, Router, State, by, overloaded, queue_full, queue_unavailable,
    share_used,
};
use crate::intake::trigger::{Target, Trigger};
use crate::refusal::Refusal;

/// A trigger the shards have taken.
#[derive(Debug)]
pub struct Dispatched {
    pub(super) id: NotificationId,
    pub(super) occurred_at: String,
    pub(super) target: Target,
    pub(super) counts: oneshot::Receiver<Counts>,
    pub(super) router: Router,
}

/// How long what is sent now may be kept.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    clock: Clock,
    /// The longest time; `None` = for ever.
    longest: Option<Duration>,
    /// Whether the shards queue notifications or await their Acks.
    pub(super) keeps_messages: bool,
}

impl Lifetimes {
    /// As the shards' bounds say.
    #[must_use]
    pub fn new(clock: Clock, limits: &Limits) -> Self {
        let longest = limits.queue.map(|queue| queue.ttl);
        let keeps_messages = limits.queue.is_some() || limits.ack.is_some();
        Self { clock, longest, keeps_messages }
    }

    /// When an event of this time to live, in seconds, ends. With 0 it is never kept.
    fn end_of(&self, ttl: Option<u64>) -> Tick {
        if ttl == Some(0) {
            return Tick::NOW_OR_NEVER;
        }
        let shortest = ttl.map(Duration::from_secs).into_iter().chain(self.longest).min();
        shortest.map_or(Tick::NEVER, |shortest| self.clock.now().after(shortest))
    }
}

/// What became of a trigger.
#[derive(Debug)]
pub struct Receipt {
    /// The notification's id.
    pub id: NotificationId,
    /// When it happened, RFC 3339.
    pub occurred_at: String,
    /// Who was meant.
    pub target: Target,
    counts: Counts,
}

impl Receipt {
    /// The sum over all connections.
    #[must_use]
    pub const fn total(&self) -> DeliveryCounts {
        self.counts.total
    }

    /// Each user or channel that was named, with what became of its part.
    pub fn of_each(&self) -> impl Iterator<Item = (&str, &DeliveryCounts)> {
        self.target.names().iter().map(|name| &**name).zip(&self.counts.targets)
    }
}

impl Dispatched {
    /// Waits until every shard has reported.
    ///
    /// # Errors
    ///
    /// A shard did not report in time, or nobody is there and the disk takes nothing, or the tenant's
    /// limit does not allow more to wait.
    pub async fn receipt(self) -> Result<Receipt, Refusal> {
        self.receipt_by(Instant::now() + REPORT_DEADLINE).await
    }

    /// As [`Self::receipt`], by a time that several have in common.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn receipt_by(self, deadline: Instant) -> Result<Receipt, Refusal> {
        let Self { id, occurred_at, target, counts, router } = self;
        let counts = by(deadline, counts).await?;
        let total = counts.total;
        if total.delivered == 0 && total.queued == 0 {
            if total.refused > 0 {
                return Err(queue_unavailable(router.disk()));
            }
            if total.over_limit > 0 {
                return Err(queue_full());
            }
        }
        Ok(Receipt { id, occurred_at, target, counts })
    }
}

/// One shard's part of a trigger.
pub(super) struct ShardPart {
    pub(super) shard: usize,
    pub(super) recipients: Recipients,
    /// Which of the trigger's targets it holds.
    targets: Vec<usize>,
}

impl Router {
    /// Hands a trigger to the shards it concerns, under `id` if it had one before.
    ///
    /// # Errors
    ///
    /// The gateway is stopping, or a shard has no room; then no shard was sent anything.
    pub fn dispatch(
        &self,
        trigger: Trigger,
        id: Option<NotificationId>,
    ) -> Result<Dispatched, Refusal> {
        let mut state = self.0.borrow_mut();
        if state.phase == Phase::Stopping {
            return Err(state.shutting_down());
        }
        // Whatever a client was told before this trigger came, the router knows now.
        state.take_reports();
        let id = id.unwrap_or_else(|| NotificationId(*Uuid::now_v7().as_bytes()));
        let occurred_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let shares = state.shares(&trigger, id, &occurred_at);
        let priority = trigger.event.priority;
        let room = |share: &ShardPart| {
            let messages = shares.iter().filter(|other| other.shard == share.shard).count();
            state.room(share.shard, priority, &trigger.tenant, messages)
        };
        if let Some(lacking) = shares.iter().map(room).find(|room| *room != Room::Enough) {
            state.counters.overloaded += 1;
            return Err(if lacking == Room::ShareUsed { share_used() } else { overloaded() });
        }
        let (request, counts) = state.open(&trigger, &shares);
        for share in shares {
            let room = state.reserve_room(&share.recipients);
            let delivery = Delivery { request, audience: share.recipients, room };
            let shard = state.shard(share.shard);
            // Not a refusal: another shard may have been sent its part already.
            let sent = shard.deliver(priority, delivery);
            sent.expect("there was room a moment ago, and nobody else sends to a shard");
            shard.ring();
        }
        let target = trigger.target;
        Ok(Dispatched { id, occurred_at, target, counts, router: self.clone() })
    }
}

impl Router {
    /// Waits while it is not certain whether what a trigger makes wait fits in its tenant's queue: room that
    /// others on their way to shards may give back. At once where there is no limit, or room enough.
    pub async fn await_room(&self, trigger: &Trigger) {
        let until = tokio::time::Instant::now() + REPORT_DEADLINE;
        loop {
            let settled = {
                let mut state = self.0.borrow_mut();
                if state.queue_room.is_none() {
                    return;
                }
                state.take_reports();
                if !state.is_room_uncertain(trigger) {
                    return;
                }
                Rc::clone(&state.room_settled)
            };
            if timeout_at(until, settled.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn is_room_uncertain(&self, trigger: &Trigger) -> bool {
        let Some(room) = &self.queue_room else { return false };
        let named = match (&trigger.target, &trigger.event.audience) {
            (Target::Users(users), _) => users.len(),
            (_, Some(Audience::Users(users))) if trigger.event.queue => users.len(),
            _ => 0,
        };
        named > 0 && trigger.event.ttl != Some(0) && room.is_uncertain(&trigger.tenant, named)
    }

    /// The room that a delivery may use on its shard, where its tenant has a limit.
    pub(super) fn reserve_room(&mut self, recipients: &Recipients) -> Option<u32> {
        let room = self.queue_room.as_mut()?;
        let (Recipients::Users { notification, users }
        | Recipients::Absent { notification, users }) = recipients
        else {
            return None;
        };
        let may_wait = notification.head().expires_at != Tick::NOW_OR_NEVER;
        let tenant = &users.first().filter(|_user| may_wait)?.tenant;
        room.reserve(tenant, users.len())
    }

    /// The shards take a trigger: their reports are awaited from now on.
    pub(super) fn open(
        &mut self,
        trigger: &Trigger,
        shares: &[ShardPart],
    ) -> (RequestId, oneshot::Receiver<Counts>) {
        let targets = trigger.target.names().len();
        let places = shares.iter().map(|share| (share.shard, share.targets.clone())).collect();
        let priority = trigger.event.priority;
        if let Some(tenants) = &mut self.tenants {
            tenants.sent(&trigger.tenant);
        }
        if let Some(tenant_shares) = &mut self.tenant_shares {
            for share in shares {
                tenant_shares.sent(share.shard, priority, &trigger.tenant);
            }
        }
        self.counters.triggers += 1;
        let is_counted = self.tenants.is_some() || self.tenant_shares.is_some();
        let owner = is_counted.then(|| (Arc::clone(&trigger.tenant), priority));
        self.pending.open(targets, places, owner)
    }

    /// Whether a shard takes so many more deliveries of a tenant.
    pub(super) fn room(
        &self,
        shard: usize,
        priority: Priority,
        tenant: &str,
        messages: usize,
    ) -> Room {
        match &self.tenant_shares {
            Some(tenant_shares) => tenant_shares.room(shard, priority, tenant, messages),
            None if self.shard(shard).has_room(priority, messages) => Room::Enough,
            None => Room::Full,
        }
    }

    pub(super) fn shares(
        &self,
        trigger: &Trigger,
        id: NotificationId,
        occurred_at: &str,
    ) -> Vec<ShardPart> {
        let encode_for = |channel: Option<&str>, audience: Option<&Audience>| {
            let event = &trigger.event;
            let json = event.to_json(id, occurred_at, channel, audience);
            let audience = audience.cloned().map(Arc::new);
            let expires_at = self.lifetimes.end_of(event.ttl);
            let head = Metadata { id, audience, expires_at, priority: event.priority };
            Arc::new(Notification::encode(head, &json, self.encodings()))
        };
        let encode = |channel: Option<&str>| encode_for(channel, trigger.event.audience.as_ref());
        match &trigger.target {
            Target::Users(users) => self.user_shares(&trigger.tenant, users, &encode(None)),
            Target::Everyone => {
                let notification = encode(None);
                let shares = self.in_each(self.interest.everywhere(), |_| Recipients::Everyone {
                    tenant: Arc::clone(&trigger.tenant),
                    notification: Arc::clone(&notification),
                });
                self.absent_shares(trigger, || encode_for(None, None)).chain(shares).collect()
            }
            Target::Channels(channels) => {
                let interested = |name: &Arc<str>| self.interest.of(&trigger.tenant, name);
                let places: Vec<usize> = (0..channels.len())
                    .filter(|place| channels.get(*place).is_some_and(|c| !interested(c).is_empty()))
                    .collect();
                let named = places.iter().filter_map(|place| channels.get(*place));
                let mut shards = ShardSet::default();
                let parts: Arc<[_]> = named
                    .map(|name| {
                        shards.unite(interested(name));
                        (Arc::clone(name), encode(Some(name)))
                    })
                    .collect();
                let shares = self.in_each(shards, |_| Recipients::Channels {
                    tenant: Arc::clone(&trigger.tenant),
                    parts: Arc::clone(&parts),
                });
                let shares = shares.map(|share| ShardPart { targets: places.clone(), ..share });
                // Who waits need not keep the names of all the others who do.
                let first = || encode_for(channels.first().map(|name| &**name), None);
                self.absent_shares(trigger, first).chain(shares).collect()
            }
        }
    }

    fn in_each(
        &self,
        shards: ShardSet,
        recipients: impl Fn(usize) -> Recipients,
    ) -> impl Iterator<Item = ShardPart> {
        (0..self.shards.len()).filter(move |index| shards.contains(*index)).map(move |shard| {
            ShardPart { shard, recipients: recipients(shard), targets: Vec::new() }
        })
    }

    /// What waits for the users an audience names, if it is to wait for them.
    fn absent_shares(
        &self,
        trigger: &Trigger,
        encode: impl FnOnce() -> Arc<Notification>,
    ) -> impl Iterator<Item = ShardPart> {
        let users = match &trigger.event.audience {
            Some(Audience::Users(users)) if trigger.event.queue => &users[..],
            _ => &[],
        };
        let notification = (!users.is_empty()).then(encode);
        let groups = notification.into_iter().flat_map(|notification| {
            let users = users.iter().map(|user| Arc::from(&**user)).enumerate();
            let groups = self.by_home(&trigger.tenant, users);
            let share = move |(shard, users, _)| (shard, users, Arc::clone(&notification));
            groups.into_iter().map(share)
        });
        groups.map(|(shard, users, notification)| ShardPart {
            shard,
            recipients: Recipients::Absent { notification, users },
            targets: Vec::new(),
        })
    }

    /// Each user's own delivery.
    fn user_shares(
        &self,
        tenant: &Arc<str>,
        users: &[Arc<str>],
        notification: &Arc<Notification>,
    ) -> Vec<ShardPart> {
        let groups = self.by_home(tenant, users.iter().cloned().enumerate());
        groups
            .into_iter()
            .map(|(shard, users, targets)| ShardPart {
                shard,
                recipients: Recipients::Users { notification: Arc::clone(notification), users },
                targets,
            })
            .collect()
    }

    /// Groups users by their home shard; each with its place among the trigger's targets.
    fn by_home(
        &self,
        tenant: &Arc<str>,
        users: impl Iterator<Item = (usize, Arc<str>)>,
    ) -> Vec<(usize, Box<[Recipient]>, Vec<usize>)> {
        let mut groups: Vec<(Vec<Recipient>, Vec<usize>)> = Vec::new();
        groups.resize_with(self.shards.len(), Default::default);
        for (place, user) in users {
            let hash = self.placement.hash(tenant, &user);
            let home = groups.get_mut(self.placement.home(hash));
            let (group, targets) = home.expect("every user's home is one of the shards");
            group.push(Recipient { tenant: Arc::clone(tenant), user, hash });
            targets.push(place);
        }
        let groups = groups.into_iter().enumerate().filter(|(_, (group, _))| !group.is_empty());
        groups.map(|(shard, (group, targets))| (shard, group.into(), targets)).collect()
    }
}
