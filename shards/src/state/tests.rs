//! Whatever happens in whatever order, the state does exactly what its plain reference does.
//!
//! Set-up: random interleavings of clients, messages, deliveries, timers and stalled sockets, in
//! virtual time, on a [`State`](super::State) and on a reference that searches a list of people.
//! Property, after every step: the same clients got the same frames and the same closes and nobody
//! else did; each delivery's report says exactly that; the interest the router was told is the
//! interest there is; every count and answer agrees; and when all have left nothing is left.
//! Why it matters: callers act on `delivered_to`, and a stale index entry sends one user's
//! notification to whoever gets its key next.

mod messages;
mod reference;
mod steps;
mod upgrade;
mod wire;
mod world;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Outgoing, State};
use crate::base::id::Tick;
use crate::base::limits::Limits;
use crate::link::message::{Drain, Query};
use crate::link::reply::ReplyTo;
use world::World;

/// What the state replies to a query.
fn ask<T>(
    state: &mut State,
    out: &mut impl Outgoing,
    query: impl FnOnce(ReplyTo<T>) -> Query,
) -> T {
    let (reply_to, mut reply) = ReplyTo::new();
    state.handle_query(query(reply_to), out).deliver();
    reply.try_recv().expect("the reply is to this query")
}

/// A stop's order to send clients away.
fn drain() -> Drain {
    let second = std::time::Duration::from_secs(1);
    Drain { return_after: second, reconnect_window: second, grace: 10 * second }
}

#[test]
#[should_panic(expected = "time goes on")]
fn time_does_not_go_back() {
    let mut state = State::new(Limits::default(), 0);
    state.begin_turn(Tick(2));
    state.begin_turn(Tick(1));
}

/// So many random cases (or `PROPTEST_CASES`), from a seed that is said: a failure on another
/// machine can be run again here. (What cargo captures it shows for a test that fails.)
fn seeded(cases: u32) -> ProptestConfig {
    let given = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    let seed = match given.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => fastrand::u64(..),
    };
    println!("{cases} cases from seed {seed}; PROPTEST_RNG_SEED={seed} runs them again");
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), ..given }
}

proptest! {
    #![proptest_config(seeded(1_500))]

    #[test]
    fn the_state_does_what_its_reference_does(
        limits in steps::limits(),
        seed: u64,
        steps in prop::collection::vec(steps::step(), 1..70),
    ) {
        let mut world = World::new(limits, seed);
        for step in &steps {
            world.step(step);
        }
        world.close();
    }
}

proptest! {
    #![proptest_config(seeded(24))]

    /// With enough connections for wide fan-outs, several words of marks, and long member lists.
    #[test]
    fn a_crowd_is_served_like_a_few(
        crowd in prop::collection::vec(steps::newcomer(), 90..160),
        seed: u64,
        steps in prop::collection::vec(steps::step(), 1..50),
    ) {
        let limits = Limits { connections_per_user_max: 0, ..Limits::default() };
        let mut world = World::new(limits, seed);
        for who in crowd {
            world.step(&steps::Step::Connect(who));
        }
        for step in &steps {
            world.step(step);
        }
        world.close();
    }
}
