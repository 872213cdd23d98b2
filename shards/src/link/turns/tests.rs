//! Turns: equal shares of what it costs, nothing lost, nobody passed over.
//!
//! Set-up: random arrivals and takes, without time, beside a plain list of what waits. Properties: a
//! delivery comes out once, in the order of its tenant and priority; something comes as long as anything
//! waits; tenants that always have something get the same, within one turn and one delivery; who comes
//! new is not kept waiting by what others have. Why it matters: a tenant that floods may wait for itself.

use proptest::prelude::*;

use super::*;

const NORMAL: Priority = Priority::Normal;

fn name(tenant: u8) -> Arc<str> {
    format!("tenant-{tenant}").into()
}

/// A delivery as the tests see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    tenant: u8,
    priority: Priority,
    number: u64,
    cost: i64,
}

#[derive(Debug, Clone)]
enum Step {
    Push { tenant: u8, priority: Priority, cost: i64 },
    Take,
}

fn cost() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 1..4i64, 2 => 1..200i64, 1 => 1..100_000i64]
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop::sample::select(Priority::ALL.to_vec());
    prop_oneof![
        (0..12u8, priority, cost()).prop_map(|(tenant, priority, cost)| Step::Push {
            tenant,
            priority,
            cost
        }),
        Just(Step::Take),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled_and_each_list_keeps_its_order(
        steps in prop::collection::vec(step(), 1..600),
    ) {
        const CAPACITY: usize = 40;
        let mut turns = Turns::new(CAPACITY);
        let mut model: Vec<Item> = Vec::new();
        let takes = std::iter::repeat_n(Step::Take, CAPACITY);
        for (step, number) in steps.into_iter().chain(takes).zip(0..) {
            match step {
                Step::Push { tenant, priority, cost } => {
                    prop_assert_eq!(turns.is_full(), model.len() == CAPACITY);
                    if !turns.is_full() {
                        let item = Item { tenant, priority, number, cost };
                        turns.push(&name(tenant), priority, item);
                        model.push(item);
                    }
                }
                Step::Take => {
                    let taken = turns.take();
                    prop_assert_eq!(taken.is_some(), !model.is_empty(), "it idles");
                    let Some(taken) = taken else { continue };
                    let is_of = |item: &Item| item.tenant == taken.tenant;
                    // What is first among its tenant's most urgent ones.
                    let most_urgent = model.iter().filter(|i| is_of(i)).map(|i| i.priority).max();
                    let first = model
                        .iter()
                        .position(|i| is_of(i) && Some(i.priority) == most_urgent)
                        .unwrap();
                    prop_assert_eq!(model.remove(first), taken);
                    turns.charge(taken.cost);
                }
            }
            prop_assert_eq!(turns.is_empty(), model.is_empty());
            // Bounded: at most twice the tenants that have something, but for those it may remember.
            prop_assert!(turns.accounts.len() <= TENANTS_REMEMBERED.max(2 * CAPACITY));
            prop_assert_eq!(turns.accounts.len(), turns.of_tenant.len());
        }
    }

    /// Whatever each sends and however urgent it calls it.
    #[test]
    fn tenants_that_always_have_something_get_the_same(
        tenants in prop::collection::vec((prop::sample::select(Priority::ALL.to_vec()), prop::collection::vec(cost(), 1..8)), 2..6),
        depth in 1..5usize,
    ) {
        let mut turns = Turns::new(1_000);
        let mut spent = vec![0; tenants.len()];
        let push = |turns: &mut Turns<usize>, index: usize| {
            let (priority, _) = tenants[index];
            turns.push(&name(u8::try_from(index).unwrap()), priority, index);
        };
        for index in 0..tenants.len() {
            (0..depth).for_each(|_| push(&mut turns, index));
        }
        let dearest = tenants.iter().flat_map(|(_, costs)| costs).max().unwrap();
        for number in 0..3_000 {
            let index = turns.take().unwrap();
            let (_, costs) = &tenants[index];
            let cost = costs[number % costs.len()];
            turns.charge(cost);
            spent[index] += cost;
            push(&mut turns, index);
            let (least, most) = (spent.iter().min().unwrap(), spent.iter().max().unwrap());
            prop_assert!(most - least <= TURN_COST + dearest, "{spent:?}");
        }
    }
}

/// Whoever comes while another has thousands waiting is next but one, in debt or not.
#[test]
fn who_comes_new_waits_for_one_delivery_of_each_other() {
    let mut turns = Turns::new(10_000);
    for _ in 0..8_000 {
        turns.push(&name(0), Priority::Critical, 0);
    }
    for taken in 0..4_000 {
        assert!(turns.take().is_some());
        turns.charge(if taken % 7 == 0 { 100_000 } else { 2 });
        if taken % 100 == 0 {
            turns.push(&name(1), Priority::Low, 1);
            // At most what is left of the flooding tenant's turn, then this one.
            let before = std::iter::from_fn(|| {
                let tenant = turns.take();
                turns.charge(2);
                tenant
            });
            assert!(before.take_while(|tenant| *tenant == 0).count() <= 32, "after {taken}");
        }
    }
}

#[test]
fn among_tenants_with_credit_the_most_urgent_goes_first() {
    let mut turns = Turns::new(100);
    for (tenant, priority) in (0..).zip(Priority::ALL) {
        turns.push(&name(tenant), priority, priority);
    }
    let order = std::iter::from_fn(|| turns.take()).collect::<Vec<_>>();
    assert!(order.iter().rev().eq(&Priority::ALL), "{order:?}");
}

/// Debt made while nobody else waited is not held against a tenant.
#[test]
fn debts_end_when_nothing_waits() {
    let mut turns = Turns::new(100);
    turns.push(&name(0), NORMAL, 0);
    assert_eq!(turns.take(), Some(0));
    turns.charge(1_000_000);
    turns.push(&name(0), NORMAL, 0);
    turns.push(&name(1), NORMAL, 1);
    assert_eq!(turns.take(), Some(0));
}

/// And debt made while somebody did is, although its tenant had nothing waiting meanwhile.
#[test]
fn debts_last_while_others_wait() {
    let mut turns = Turns::new(100);
    turns.push(&name(0), NORMAL, 0);
    (0..50).for_each(|_| turns.push(&name(1), NORMAL, 1));
    assert_eq!(turns.take(), Some(0));
    turns.charge(TURN_COST * 10);
    turns.push(&name(0), NORMAL, 0);
    for _ in 0..10 {
        assert_eq!(turns.take(), Some(1));
        turns.charge(TURN_COST);
    }
    let next = [turns.take(), turns.take()];
    assert!(next.contains(&Some(0)), "{next:?}");
}
