//! How many messages wait for the users of each tenant that has a limit: what has changed since the router
//! was told last.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: those changes. **Never**: costs anything where no
//! tenant has a limit; decides who may queue: that is the router, which knows all shards.
//!
//! Whoever changes a user's queue touches it, and what waits is counted again before the router is told
//! anything: so no way in or out can be forgotten.

use std::mem;
use std::sync::Arc;

use ahash::AHashMap;

use super::user_queue::UserQueue;
use super::{Queues, Users};
use crate::base::id::UserSlot;
use crate::base::limits::Limits;
use crate::link::message::Report;

/// What the router has not been told.
#[derive(Debug, Default)]
pub(super) struct TenantCounts {
    /// Whether some tenant has a limit.
    is_on: bool,
    /// Users whose queue may have changed.
    touched: Vec<UserSlot>,
    changes: AHashMap<Arc<str>, Change>,
}

#[derive(Debug, Default)]
struct Change {
    /// So many more wait; or fewer.
    waiting: i64,
    /// Of so much room that the router has reserved, the use is known.
    settled: u32,
}

impl TenantCounts {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { is_on: is_limited(limits), ..Self::default() }
    }

    /// A user's queue is about to change.
    pub(super) fn touch(&mut self, user: UserSlot, queue: &mut UserQueue) {
        if self.is_on && !mem::replace(&mut queue.is_touched, true) {
            self.touched.push(user);
        }
    }

    /// A queue with nothing in it is about to be forgotten.
    pub(super) fn forget(&mut self, tenant: &str, queue: &UserQueue) {
        if queue.counted > 0 {
            self.change(tenant).waiting -= i64::from(queue.counted);
        }
    }

    fn change(&mut self, tenant: &str) -> &mut Change {
        if !self.changes.contains_key(tenant) {
            self.changes.insert(tenant.into(), Change::default());
        }
        self.changes.get_mut(tenant).expect("it was just entered")
    }
}

/// Whether some tenant has a limit on what waits.
fn is_limited(limits: &Limits) -> bool {
    let tenants = limits.tenants.as_ref().filter(|_tenants| limits.queue.is_some());
    tenants.is_some_and(|tenants| tenants.limits_what_waits())
}

impl Queues {
    /// Other limits from now on. Everything is counted again: a tenant may have its first.
    pub(crate) fn set_tenant_limits(&mut self, limits: &Limits) {
        let is_on = is_limited(limits);
        if is_on || self.tenant_counts.is_on {
            self.tenant_counts.is_on = true;
            let users: Vec<_> = self.users.places().map(UserSlot).collect();
            for user in users {
                // Touched, for it is looked at in order to be changed.
                let _touched = self.queue_mut(user);
            }
            self.tenant_counts.is_on = is_on;
        }
    }

    /// The room that the router had reserved for a delivery has been used, or not.
    pub(crate) fn settle_room(&mut self, tenant: &str, room: u32) {
        let change = self.tenant_counts.change(tenant);
        change.settled = change.settled.saturating_add(room);
    }

    /// Whether [`Self::report_tenants`] has something to do.
    pub(crate) fn has_tenant_changes(&self) -> bool {
        !(self.tenant_counts.touched.is_empty() && self.tenant_counts.changes.is_empty())
    }

    /// Tells the router what has changed, one report a tenant.
    pub(crate) fn report_tenants(
        &mut self,
        users: &impl Users,
        limits: &Limits,
        mut report: impl FnMut(Report),
    ) {
        for user in mem::take(&mut self.tenant_counts.touched) {
            let messages = self.users.get_mut(user.0);
            let Some(queue) = messages.and_then(|messages| messages.queue.as_deref_mut()) else {
                continue;
            };
            queue.is_touched = false;
            let (tenant, _) = users.names(user);
            let is_limited = limits.tenants.as_ref().is_some_and(|t| t.of(tenant).queued_max > 0);
            let waiting = if is_limited { queue.waiting().len() } else { 0 };
            let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
            let before = mem::replace(&mut queue.counted, waiting);
            if before != waiting {
                let change = self.tenant_counts.change(tenant);
                change.waiting += i64::from(waiting) - i64::from(before);
            }
        }
        for (tenant, change) in self.tenant_counts.changes.drain() {
            let Change { waiting, settled } = change;
            if (waiting, settled) != (0, 0) {
                report(Report::Waiting { tenant, change: waiting, settled });
            }
        }
    }
}
