//! Whose delivery is next where tenants share a shard: they take turns, by what their deliveries cost.
//!
//! **Runs on**: a shard. **Owns**: the deliveries it has taken from the lanes, each in the list of its
//! tenant and priority. **Never**: allocates once warm; reads a clock; idles while something waits.
//!
//! Round robin by credit (surplus round robin: what a delivery costs is known only when it has been
//! made). In a round each tenant may spend [`TURN_COST`]; who has overspent pays before its next turn.
//! Among tenants with credit the most urgent delivery goes first, so that urgency orders what a tenant
//! may send and cannot buy what is others'. When nothing waits, debts are forgiven: nobody was kept
//! waiting for them.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use slab::Slab;

use crate::base::limits::{TENANTS_REMEMBERED, TURN_COST};
use crate::notification::Priority;

/// More rounds than any debt lasts: a delivery costs less than 2^33.
const FORGIVENESS: i64 = 1 << 33;

/// The deliveries that wait on this side of the lanes. `T` is a delivery.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    waiting: Slab<Waiting<T>>,
    /// The most that may wait here.
    capacity: usize,
    accounts: Slab<Account>,
    of_tenant: AHashMap<Arc<str>, usize>,
    /// So many accounts are there before those without a delivery are dropped.
    accounts_max: usize,
    /// Least urgent first.
    rings: [Ring; 4],
    round: i64,
    /// Rounds until the first of those who wait for a later one has credit.
    rounds_to_credit: i64,
    /// Whose delivery was given out last.
    served: Option<usize>,
}

#[derive(Debug)]
struct Waiting<T> {
    delivery: T,
    /// The next of the same tenant and priority.
    next: Option<usize>,
}

/// What a tenant may still spend, and the first and last of its deliveries by priority.
#[derive(Debug, Default)]
struct Account {
    /// As of `round`.
    credit: i64,
    round: i64,
    lists: [Option<(usize, usize)>; 4],
}

/// The accounts with deliveries of one priority, each in one of the two.
#[derive(Debug, Default)]
struct Ring {
    this_round: VecDeque<usize>,
    later: VecDeque<usize>,
}

impl Account {
    fn update(&mut self, round: i64) {
        let rounds = (round - self.round).min(FORGIVENESS);
        self.credit = (self.credit + rounds * TURN_COST).min(TURN_COST);
        self.round = round;
    }

    fn has_deliveries(&self) -> bool {
        self.lists.iter().any(Option::is_some)
    }
}

impl<T> Turns<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: Slab::new(),
            capacity,
            accounts: Slab::new(),
            of_tenant: AHashMap::new(),
            accounts_max: TENANTS_REMEMBERED,
            rings: Default::default(),
            round: 0,
            rounds_to_credit: FORGIVENESS,
            served: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= self.capacity
    }

    /// Takes a delivery in, behind those of its tenant and priority. There must be room.
    pub(crate) fn push(&mut self, tenant: &Arc<str>, priority: Priority, delivery: T) {
        assert!(!self.is_full(), "a delivery stays in its lane until there is room");
        if self.is_empty() {
            self.round += FORGIVENESS;
        }
        let index = self.account_of(tenant);
        let place = self.waiting.insert(Waiting { delivery, next: None });
        let list = list_mut(account(&mut self.accounts, index), priority);
        match list {
            Some((_, last)) => {
                let before = self.waiting.get_mut(*last).expect("a list's last delivery waits");
                before.next = Some(place);
                *last = place;
            }
            None => {
                *list = Some((place, place));
                ring_mut(&mut self.rings, priority).this_round.push_back(index);
            }
        }
    }

    /// The next delivery. Say what it has cost with [`Self::charge`].
    pub(crate) fn take(&mut self) -> Option<T> {
        while !self.is_empty() {
            for priority in Priority::ALL.into_iter().rev() {
                if let Some(index) = self.next_with_credit(priority) {
                    self.served = Some(index);
                    return Some(self.take_from(index, priority));
                }
            }
            // All who wait have spent their credit: on to the round in which one has some.
            self.round += self.rounds_to_credit;
            self.rounds_to_credit = FORGIVENESS;
            for ring in &mut self.rings {
                std::mem::swap(&mut ring.this_round, &mut ring.later);
            }
        }
        None
    }

    /// What the delivery that was taken last has cost.
    pub(crate) fn charge(&mut self, cost: i64) {
        let Some(index) = self.served.take() else { return };
        account(&mut self.accounts, index).credit -= cost;
    }

    fn next_with_credit(&mut self, priority: Priority) -> Option<usize> {
        let ring = ring_mut(&mut self.rings, priority);
        while let Some(index) = ring.this_round.pop_front() {
            let account = account(&mut self.accounts, index);
            account.update(self.round);
            if account.credit > 0 {
                return Some(index);
            }
            let rounds = -account.credit / TURN_COST + 1;
            self.rounds_to_credit = self.rounds_to_credit.min(rounds);
            ring.later.push_back(index);
        }
        None
    }

    fn take_from(&mut self, index: usize, priority: Priority) -> T {
        let list = list_mut(account(&mut self.accounts, index), priority);
        let (first, last) = list.expect("who is in a ring has a delivery of its priority");
        let Waiting { delivery, next } = self.waiting.remove(first);
        *list = next.map(|next| (next, last));
        if next.is_some() {
            ring_mut(&mut self.rings, priority).this_round.push_back(index);
        }
        delivery
    }

    fn account_of(&mut self, tenant: &Arc<str>) -> usize {
        if let Some(index) = self.of_tenant.get(&**tenant) {
            return *index;
        }
        if self.accounts.len() >= self.accounts_max {
            self.forget_tenants();
        }
        let account = Account { credit: TURN_COST, round: self.round, ..Account::default() };
        let index = self.accounts.insert(account);
        self.of_tenant.insert(Arc::clone(tenant), index);
        index
    }

    /// Drops the accounts without deliveries. As many again must come before the next time, so that a
    /// tenant costs the same however many there are.
    fn forget_tenants(&mut self) {
        let (accounts, served) = (&mut self.accounts, self.served);
        self.of_tenant.retain(|_, index| {
            let stays = account(accounts, *index).has_deliveries() || served == Some(*index);
            if !stays {
                accounts.remove(*index);
            }
            stays
        });
        self.accounts_max = TENANTS_REMEMBERED.max(2 * self.accounts.len());
    }
}

fn account(accounts: &mut Slab<Account>, index: usize) -> &mut Account {
    accounts.get_mut(index).expect("an account stays while a delivery of its tenant waits")
}

fn list_mut(account: &mut Account, priority: Priority) -> &mut Option<(usize, usize)> {
    account.lists.get_mut(priority as usize).expect("there is a list for each priority")
}

fn ring_mut(rings: &mut [Ring; 4], priority: Priority) -> &mut Ring {
    rings.get_mut(priority as usize).expect("there is a ring for each priority")
}

#[cfg(test)]
mod tests;
