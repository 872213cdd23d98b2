//! Memory for each notification that waits for its user, its own bytes included.
//!
//! **Runs on**: the tool's one thread. **Owns**: a gateway for each population. **Never**: lets two
//! messages share a notification.

use std::time::Duration;

use super::pump::{self, DEEP, is_queued, pump};
use super::setup::{Scratch, check_held, with_queue};
use crate::caller::ENVELOPE_BYTES;
use crate::cli::{Common, QueueArgs, Store};
use crate::fault::Outcome;
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::procfs;
use crate::stop::Stop;
use crate::subscriber::Transport;

/// Between the last answer and the reading of memory.
const REST: Duration = Duration::from_secs(1);
const TARGET_BYTES: f64 = 300.0;

/// A number of users, and how many messages each of them has.
#[derive(Clone, Copy)]
struct Population {
    users: u32,
    each: u32,
}

pub(super) fn measure(
    args: &QueueArgs,
    store: Store,
    scratch: &Scratch,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let few = Population { users: args.memory_users, each: 10 };
    let many = Population { users: args.memory_users / 5, each: 100 };
    let mut figures = Vec::new();
    let keys = [
        ("waiting_bytes_10", "waiting_bytes_10_second_half"),
        ("waiting_bytes_100", "waiting_bytes_100_second_half"),
    ];
    for ((key, key_second), population) in keys.into_iter().zip([few, many]) {
        let common = with_queue(&args.common, store, &scratch.fresh()?, false);
        let [all, second] = growth(&common, args.json_bytes, population, stop)?;
        let Population { users, each } = population;
        let label = format!(
            "RSS per notification of {} B JSON, {users} users × {each}, none shared",
            args.json_bytes
        );
        figures.push(Figure::one(key, label, "B", all).at_most(TARGET_BYTES));
        let label = format!("… of those, for the second half of the {users} users");
        figures.push(Figure::one(key_second, label, "B", second).at_most(TARGET_BYTES));
    }
    Ok(figures)
}

/// How much the resident set has grown for each message: over all users, and over the second half of
/// them, when what is allocated only once is there already.
fn growth(common: &Common, json_bytes: u32, people: Population, stop: &Stop) -> Outcome<[f64; 2]> {
    let gateway = Gateway::start(common, common.shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.add_callers(DEEP.callers)?;
    let api = gateway.api((json_bytes as usize).saturating_sub(ENVELOPE_BYTES));
    pump::warm_up(&mut swarm, &api, 100)?;
    swarm.run_for(REST)?;
    let mut readings = vec![procfs::rss_bytes(gateway.pid())? as f64];
    let half = people.users / 2;
    let mut messages = 0;
    for (first, users) in [(0, half), (half, people.users - half)] {
        // One for each user, then the next one for each, as it happens.
        let request = |number: u32| api.to_user(first + number % users, number);
        pump(&mut swarm, DEEP, users * people.each, request, is_queued)?;
        messages += users * people.each;
        swarm.run_for(REST)?;
        readings.push(procfs::rss_bytes(gateway.pid())? as f64);
        check_held(&gateway, u64::from(messages), 0)?;
    }
    drop(swarm);
    gateway.end()?;
    let [before, middle, after] = readings.as_slice() else { return Ok([f64::NAN; 2]) };
    let second = f64::from((people.users - half) * people.each);
    Ok([(after - before) / f64::from(messages), (after - middle) / second])
}
