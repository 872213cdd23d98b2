//! What one tenant may have: the limits of all, and of those that have their own.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: counts; who counts is the router
//! for connections, and a shard for its users and connections.

use std::sync::Arc;

use ahash::AHashMap;

/// What one tenant may have. 0 = unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantLimits {
    /// The most connections, over all shards.
    pub connections_max: usize,
    /// The most connections of one of its users.
    pub connections_per_user_max: usize,
    /// The most channels one of its connections may subscribe to.
    pub subscriptions_per_connection_max: usize,
    /// The most notifications that wait for its users, over all shards.
    pub queued_max: usize,
}

/// The limits of every tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsByTenant {
    /// Of those without limits of their own.
    pub default: TenantLimits,
    /// Limits of their own.
    pub overrides: AHashMap<Arc<str>, TenantLimits>,
}

impl LimitsByTenant {
    /// The limits of a tenant.
    #[must_use]
    pub fn of(&self, tenant: &str) -> TenantLimits {
        self.overrides.get(tenant).copied().unwrap_or(self.default)
    }

    /// Whether some tenant has a limit on what waits for it.
    #[must_use]
    pub fn limits_what_waits(&self) -> bool {
        let own = self.overrides.values();
        own.chain([&self.default]).any(|limits| limits.queued_max > 0)
    }
}
