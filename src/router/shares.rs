//! What each tenant has on its way to the shards, so that none fills a lane alone.
//!
//! **Runs on**: the router. **Owns**: a count for each tenant with deliveries in a lane.
//! **Never**: counts where tenants are off; keeps a tenant that has nothing on its way.
//!
//! A tenant may have as much of a lane as is free (a dynamic threshold, after Choudhury and Hahne): one
//! that floods stops at half, two at a third each, and there is always room for who has nothing yet.

use std::sync::Arc;

use ahash::AHashMap;
use ara_shards::notification::Priority;

/// Whether a lane takes a tenant's deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It does.
    Enough,
    /// The tenant would have more of the lane than is free.
    ShareUsed,
    /// The lane is full.
    Full,
}

/// All lanes of all shards.
#[derive(Debug)]
pub(super) struct Shares {
    capacity: usize,
    /// By shard, then by priority.
    lanes: Vec<[Lane; 4]>,
}

/// Deliveries sent and not reported.
#[derive(Debug, Default)]
struct Lane {
    waiting: usize,
    of_tenant: AHashMap<Arc<str>, usize>,
}

impl Shares {
    pub(super) fn new(shards: usize, capacity: usize) -> Self {
        let mut lanes = Vec::new();
        lanes.resize_with(shards, Default::default);
        Self { capacity, lanes }
    }

    pub(super) fn room(
        &self,
        shard: usize,
        priority: Priority,
        tenant: &str,
        count: usize,
    ) -> Room {
        let lanes = self.lanes.get(shard).expect("the placement names shards that there are");
        let lane = lanes.get(priority as usize).expect("there is a lane for each priority");
        let free = self.capacity.saturating_sub(lane.waiting);
        let held = lane.of_tenant.get(tenant).copied().unwrap_or(0);
        if count > free {
            Room::Full
        } else if held + count > free {
            Room::ShareUsed
        } else {
            Room::Enough
        }
    }

    /// One more delivery is on its way.
    pub(super) fn sent(&mut self, shard: usize, priority: Priority, tenant: &Arc<str>) {
        let lane = self.lane_mut(shard, priority);
        lane.waiting += 1;
        if let Some(held) = lane.of_tenant.get_mut(&**tenant) {
            *held += 1;
        } else {
            lane.of_tenant.insert(Arc::clone(tenant), 1);
        }
    }

    /// One of them was reported.
    pub(super) fn reported(&mut self, shard: usize, priority: Priority, tenant: &str) {
        let lane = self.lane_mut(shard, priority);
        let held = lane.of_tenant.get_mut(tenant).expect("what is reported was sent");
        *held -= 1;
        lane.waiting -= 1;
        if *held == 0 {
            lane.of_tenant.remove(tenant);
        }
    }

    /// Deliveries on their way to a shard.
    pub(super) fn waiting(&self, shard: usize) -> usize {
        self.lanes.get(shard).map_or(0, |lanes| lanes.iter().map(|lane| lane.waiting).sum())
    }

    fn lane_mut(&mut self, shard: usize, priority: Priority) -> &mut Lane {
        let lanes = self.lanes.get_mut(shard).expect("the placement names shards that there are");
        lanes.get_mut(priority as usize).expect("there is a lane for each priority")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 120;

    fn fill(shares: &mut Shares, tenant: &Arc<str>) -> usize {
        let mut sent = 0;
        while shares.room(0, Priority::Low, tenant, 1) == Room::Enough {
            shares.sent(0, Priority::Low, tenant);
            sent += 1;
        }
        sent
    }

    #[test]
    fn a_flood_leaves_room_for_who_has_nothing_yet() {
        let mut shares = Shares::new(1, CAPACITY);
        let tenants: Vec<Arc<str>> = (0..3).map(|tenant| tenant.to_string().into()).collect();
        assert_eq!(fill(&mut shares, &tenants[0]), CAPACITY / 2);
        assert_eq!(shares.room(0, Priority::Low, "0", 1), Room::ShareUsed);
        assert_eq!(shares.room(0, Priority::High, "0", 1), Room::Enough, "another lane");
        assert_eq!(fill(&mut shares, &tenants[1]), CAPACITY / 4);
        assert_eq!(fill(&mut shares, &tenants[2]), CAPACITY / 8);
        assert_eq!(shares.room(0, Priority::Low, "3", CAPACITY / 8), Room::Enough);
        assert_eq!(shares.room(0, Priority::Low, "3", CAPACITY / 8 + 1), Room::Full);
        assert_eq!(shares.waiting(0), CAPACITY / 8 * 7);
    }

    #[test]
    fn what_is_reported_makes_room_and_leaves_nothing() {
        let mut shares = Shares::new(1, CAPACITY);
        let tenant: Arc<str> = "acme".into();
        for _ in 0..fill(&mut shares, &tenant) {
            shares.reported(0, Priority::Low, &tenant);
        }
        assert_eq!(shares.room(0, Priority::Low, &tenant, CAPACITY), Room::Enough);
        assert!(shares.lanes[0].iter().all(|lane| lane.of_tenant.is_empty()));
    }
}
