//! What each tenant has and has done, where tenants are kept apart.
//!
//! **Runs on**: the router. **Owns**: the connections admitted for each tenant, and its figures since start.
//! **Never**: lets a tenant have one connection more than it may; remembers more than [`REMEMBERED_MAX`]
//! tenants that have none.

use std::sync::Arc;

use ahash::AHashMap;
use ara_shards::base::tenant_limits::{LimitsByTenant, TenantLimits};

/// How many tenants without a connection are remembered for their figures: some 2 MB. Beyond it, the
/// half of them that was heard of the longest ago is forgotten.
const REMEMBERED_MAX: usize = if cfg!(test) { 8 } else { 10_000 };

/// The tenants.
#[derive(Debug)]
pub(super) struct Tenants {
    limits: Arc<LimitsByTenant>,
    by_name: AHashMap<Arc<str>, Tenant>,
    /// Of them, those without a connection.
    idle: usize,
    /// Counts what is heard of tenants, to know of which it was the longest ago.
    moment: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    figures: TenantFigures,
    last_heard: u64,
}

/// One tenant's figures since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantFigures {
    /// Connections admitted and not reported closed.
    pub active_connections: usize,
    /// Connections admitted.
    pub total_connections: u64,
    /// Triggers the shards took.
    pub messages_sent: u64,
    /// Deliveries of them to connections.
    pub messages_delivered: u64,
}

impl Tenants {
    pub(super) fn new(limits: Arc<LimitsByTenant>) -> Self {
        Self { limits, by_name: AHashMap::new(), idle: 0, moment: 0 }
    }

    /// Other limits from now on. Whoever is beyond one of them already stays.
    pub(super) fn set_limits(&mut self, limits: Arc<LimitsByTenant>) {
        self.limits = limits;
    }

    /// What a tenant may have.
    pub(super) fn limits_of(&self, tenant: &str) -> TenantLimits {
        self.limits.of(tenant)
    }

    /// How many connections a tenant may have, if it has as many already.
    pub(super) fn is_full(&self, tenant: &str) -> Option<usize> {
        let most = self.limits.of(tenant).connections_max;
        let has = self.by_name.get(tenant).map_or(0, |known| known.figures.active_connections);
        (most != 0 && has >= most).then_some(most)
    }

    /// A connection was admitted.
    pub(super) fn opened(&mut self, tenant: &Arc<str>) {
        let figures = self.hear_of(tenant);
        figures.active_connections += 1;
        figures.total_connections += 1;
        let is_first = figures.active_connections == 1;
        self.idle -= usize::from(is_first);
    }

    /// An admitted connection is gone.
    pub(super) fn closed(&mut self, tenant: &Arc<str>) {
        let figures = self.hear_of(tenant);
        let left = figures.active_connections.checked_sub(1);
        let left = left.expect("an admitted client closes once");
        figures.active_connections = left;
        if left == 0 {
            self.idle += 1;
            self.forget_some();
        }
    }

    /// The shards took a trigger.
    pub(super) fn sent(&mut self, tenant: &Arc<str>) {
        self.hear_of(tenant).messages_sent += 1;
        self.forget_some();
    }

    /// A trigger has reached so many connections.
    pub(super) fn delivered(&mut self, tenant: &str, count: u32) {
        // One that was forgotten meanwhile begins anew when it is heard of.
        if let Some(known) = self.by_name.get_mut(tenant) {
            known.figures.messages_delivered += u64::from(count);
        }
    }

    /// The figures of a tenant that is known, or has limits of its own.
    pub(super) fn figures_of(&self, tenant: &str) -> Option<TenantFigures> {
        let known = self.by_name.get(tenant).map(|known| known.figures);
        known.or_else(|| self.limits.overrides.contains_key(tenant).then(TenantFigures::default))
    }

    /// All that are known, or have limits of their own.
    pub(super) fn all(&self) -> Vec<(Arc<str>, TenantFigures)> {
        let known = self.by_name.iter().map(|(name, known)| (Arc::clone(name), known.figures));
        let silent = self.limits.overrides.keys().filter(|name| !self.by_name.contains_key(*name));
        let silent = silent.map(|name| (Arc::clone(name), TenantFigures::default()));
        known.chain(silent).collect()
    }

    fn hear_of(&mut self, tenant: &Arc<str>) -> &mut TenantFigures {
        self.moment += 1;
        if !self.by_name.contains_key(tenant) {
            self.by_name.insert(Arc::clone(tenant), Tenant::default());
            self.idle += 1;
        }
        let known = self.by_name.get_mut(tenant).expect("it was just entered");
        known.last_heard = self.moment;
        &mut known.figures
    }

    /// Makes room among the tenants without a connection, by half, so that it is seldom to do.
    fn forget_some(&mut self) {
        if self.idle <= REMEMBERED_MAX {
            return;
        }
        let is_idle = |known: &Tenant| known.figures.active_connections == 0;
        let idle = self.by_name.values().filter(|known| is_idle(known));
        let mut moments: Vec<u64> = idle.map(|known| known.last_heard).collect();
        let (_, middle, _) = moments.select_nth_unstable(REMEMBERED_MAX / 2);
        let oldest_kept = *middle;
        self.by_name.retain(|_, known| !is_idle(known) || known.last_heard >= oldest_kept);
        self.idle = self.by_name.values().filter(|known| is_idle(known)).count();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn limits(default: usize, own: &[(usize, usize)]) -> Arc<LimitsByTenant> {
        let limits = |connections_max| TenantLimits {
            connections_max,
            connections_per_user_max: 0,
            subscriptions_per_connection_max: 0,
            queued_max: 0,
        };
        let overrides = own.iter().map(|(name, most)| (named(*name), limits(*most))).collect();
        Arc::new(LimitsByTenant { default: limits(default), overrides })
    }

    fn named(number: usize) -> Arc<str> {
        number.to_string().into()
    }

    proptest! {
        /// A tenant is full exactly when it has as many connections as it may have now; its figures are
        /// those of a count beside it, for as long as it has connections; and few without are kept.
        #[test]
        fn counts_are_exact_whatever_comes_and_goes(
            steps in proptest::collection::vec((0..40_usize, 0..5_usize), 0..600),
            default in 0..4_usize,
            own in 0..4_usize,
        ) {
            let mut tenants = Tenants::new(limits(default, &[(0, own)]));
            let mut model: BTreeMap<usize, TenantFigures> = BTreeMap::new();
            let (mut default, mut own) = (default, own);
            for (tenant, action) in steps {
                let name = named(tenant);
                let known = model.entry(tenant).or_default();
                let most = if tenant == 0 { own } else { default };
                let is_full = most != 0 && known.active_connections >= most;
                prop_assert_eq!(tenants.is_full(&name), is_full.then_some(most));
                match action {
                    0 | 1 if !is_full => {
                        tenants.opened(&name);
                        known.active_connections += 1;
                    }
                    2 if known.active_connections > 0 => {
                        tenants.closed(&name);
                        known.active_connections -= 1;
                    }
                    3 => tenants.sent(&name),
                    4 if tenant % 7 == 0 => {
                        (default, own) = (own, default);
                        tenants.set_limits(limits(default, &[(0, own)]));
                    }
                    _ => {}
                }
                let has = tenants.figures_of(&name).map_or(0, |figures| figures.active_connections);
                prop_assert_eq!(has, known.active_connections);
                let idle = tenants.by_name.values().filter(|known| known.figures.active_connections == 0);
                let idle = idle.count();
                prop_assert!(idle == tenants.idle && idle <= REMEMBERED_MAX);
            }
        }
    }

    #[test]
    fn a_tenant_that_has_left_keeps_its_figures_until_many_others_were_heard_of() {
        let mut tenants = Tenants::new(limits(0, &[(500, 1)]));
        let red = named(100);
        tenants.sent(&red);
        tenants.delivered(&red, 3);
        tenants.opened(&red);
        tenants.closed(&red);
        let figures = TenantFigures {
            active_connections: 0,
            total_connections: 1,
            messages_sent: 1,
            messages_delivered: 3,
        };
        assert_eq!(tenants.figures_of(&red), Some(figures));
        assert_eq!(tenants.figures_of("500"), Some(TenantFigures::default()), "it is configured");
        assert_eq!(tenants.all().len(), 2);
        assert_eq!(tenants.figures_of("nobody"), None);
        (0..REMEMBERED_MAX).for_each(|other| tenants.sent(&named(other)));
        assert_eq!(tenants.figures_of(&red), None, "it was heard of the longest ago");
    }
}
