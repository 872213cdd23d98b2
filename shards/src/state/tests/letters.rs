//! No letter is ever lost: whatever happens, each one accepted is in exactly one known place.
//!
//! Set-up: random schedules of triggers, clients that come, stall, drip, acknowledge and go, API
//! calls and clock jumps, in virtual time, on a [`State`](super::super::State) whose sockets keep
//! real frames until they are read ([`sockets`]).
//! Property, after every single call: each accepted letter of each user, by identity, is waiting,
//! in flight, given up, in an outbox (acknowledgement off), or gone for a reason that holds
//! ([`ledger`]), and the counters say how many went for which. What waits is replayed before
//! anything newer, in order, as soon as somebody has room; what is overdue is dealt with; nothing
//! is sent more often than allowed; and no letter leaves nothing behind.
//! Why it matters: at-least-once delivery is this, and nothing else shows when it is broken.

mod ledger;
mod office;
mod script;
mod sockets;
mod turn;

use proptest::prelude::*;

use office::Office;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn every_accepted_letter_is_in_one_known_place(
        limits in script::limits(),
        seed: u64,
        steps in prop::collection::vec(script::step(), 1..60),
    ) {
        let mut office = Office::new(limits, seed);
        for step in &steps {
            office.step(step);
        }
        office.close();
    }
}
