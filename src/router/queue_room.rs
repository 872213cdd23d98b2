//! How many more notifications may wait for each tenant that has a limit.
//!
//! **Runs on**: the router. **Owns**: for each such tenant, what waits on all shards, and the room that is on
//! its way to them. **Never**: gives the same room twice.
//!
//! A delivery carries the room it may use on its shard, and the shard reports what it has used. So what waits
//! never exceeds the limit by what is new; what comes back to a queue from a connection waits whatever the
//! limit, and counts.

use std::sync::Arc;

use ahash::AHashMap;
use ara_shards::base::tenant_limits::LimitsByTenant;

/// The room of all tenants with a limit.
#[derive(Debug)]
pub(super) struct QueueRoom {
    limits: Arc<LimitsByTenant>,
    /// Those for whom something waits, or may.
    by_tenant: AHashMap<Arc<str>, Use>,
}

/// One tenant's use.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// What waits, as the shards have reported. A shard that is told of its first limit has yet to count.
    waiting: i64,
    /// Room given to deliveries whose shards have not reported.
    reserved: u64,
}

impl Use {
    fn left(self, most: usize) -> u64 {
        let used = u64::try_from(self.waiting).unwrap_or(0) + self.reserved;
        u64::try_from(most).unwrap_or(u64::MAX).saturating_sub(used)
    }
}

impl QueueRoom {
    pub(super) fn new(limits: Arc<LimitsByTenant>) -> Self {
        Self { limits, by_tenant: AHashMap::new() }
    }

    pub(super) fn set_limits(&mut self, limits: Arc<LimitsByTenant>) {
        self.limits = limits;
    }

    /// Reserves room for so many messages, or as much as there is; `None` = it needs none.
    pub(super) fn reserve(&mut self, tenant: &Arc<str>, wanted: usize) -> Option<u32> {
        let most = self.limits.of(tenant).queued_max;
        if most == 0 {
            return None;
        }
        let known = self.by_tenant.get(tenant).copied().unwrap_or_default();
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let room = u32::try_from(known.left(most)).unwrap_or(u32::MAX).min(wanted);
        if room > 0 {
            self.by_tenant.entry(Arc::clone(tenant)).or_default().reserved += u64::from(room);
        }
        Some(room)
    }

    /// Whether there is too little room for so many because of room that may be given back.
    pub(super) fn is_uncertain(&self, tenant: &str, wanted: usize) -> bool {
        let most = self.limits.of(tenant).queued_max;
        let Some(known) = self.by_tenant.get(tenant).filter(|_known| most > 0) else {
            return false;
        };
        known.reserved > 0 && known.left(most) < u64::try_from(wanted.min(most)).unwrap_or(u64::MAX)
    }

    /// A shard's report.
    pub(super) fn settle(&mut self, tenant: Arc<str>, change: i64, settled: u32) {
        let known = self.by_tenant.entry(Arc::clone(&tenant)).or_default();
        known.waiting += change;
        let left = known.reserved.checked_sub(u64::from(settled));
        known.reserved = left.expect("a shard settles what a delivery has brought it");
        if known.reserved == 0 && known.waiting == 0 {
            self.by_tenant.remove(&tenant);
        }
    }

    /// How many wait for a tenant, if it has a limit.
    pub(super) fn waiting(&self, tenant: &str) -> Option<u64> {
        let known = self.by_tenant.get(tenant).copied().unwrap_or_default();
        let waiting = u64::try_from(known.waiting).unwrap_or(0);
        (self.limits.of(tenant).queued_max > 0).then_some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use ara_shards::base::tenant_limits::TenantLimits;
    use proptest::prelude::*;

    use super::*;

    fn limits(queued_max: usize) -> Arc<LimitsByTenant> {
        let default = TenantLimits {
            connections_max: 0,
            connections_per_user_max: 0,
            subscriptions_per_connection_max: 0,
            queued_max,
        };
        Arc::new(LimitsByTenant { default, overrides: AHashMap::new() })
    }

    proptest! {
        /// Whatever the shards use of what they are given, and whenever they report it, what waits is never
        /// more than the limit; with every report in, all room that is not used can be had.
        #[test]
        fn room_is_exact_however_reports_are_late(
            most in 1..12_usize,
            steps in proptest::collection::vec((0..4_usize, 0..5_usize, 0..5_u32), 0..300),
        ) {
            let mut room = QueueRoom::new(limits(most));
            let tenant: Arc<str> = "t".into();
            let mut waits = 0_i64;
            // (change, settled), on their way.
            let mut late: VecDeque<(i64, u32)> = VecDeque::new();
            for (action, wanted, used) in steps {
                match action {
                    0 | 1 => {
                        let given = room.reserve(&tenant, wanted).unwrap();
                        prop_assert!(given as usize <= wanted);
                        let used = used.min(given);
                        waits += i64::from(used);
                        if given > 0 {
                            late.push_back((used.into(), given));
                        }
                    }
                    2 if waits > 0 => {
                        waits -= 1;
                        late.push_back((-1, 0));
                    }
                    _ => {
                        if let Some((change, settled)) = late.pop_front() {
                            room.settle(Arc::clone(&tenant), change, settled);
                        }
                    }
                }
                prop_assert!(waits <= most as i64, "{waits} wait");
            }
            for (change, settled) in late {
                room.settle(Arc::clone(&tenant), change, settled);
            }
            prop_assert!(!room.is_uncertain("t", most));
            prop_assert_eq!(room.waiting("t"), u64::try_from(waits).ok());
            let left = u32::try_from(i64::try_from(most).unwrap() - waits).unwrap();
            prop_assert_eq!(room.reserve(&tenant, 1_000), Some(left));
            room.settle(Arc::clone(&tenant), -waits, left);
            prop_assert!(room.by_tenant.is_empty());
        }
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let mut room = QueueRoom::new(limits(0));
        assert_eq!(room.reserve(&"t".into(), 7), None);
        assert!(room.by_tenant.is_empty() && !room.is_uncertain("t", 7));
        assert_eq!(room.waiting("t"), None);
    }
}
