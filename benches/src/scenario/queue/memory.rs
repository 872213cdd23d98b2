//! Memory for each notification that waits for its user, its own bytes included.
//!
//! **Runs on**: the tool's one thread. **Owns**: a gateway for each population. **Never**: lets two
//! letters share a notification.

use std::time::Duration;

use super::pump::{self, DEEP, is_queued, pump};
use super::setup::{Scratch, check_letters, with_queue};
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

/// So many letters each for so many users.
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
    for (key, population) in [("waiting_bytes_10", few), ("waiting_bytes_100", many)] {
        let common = with_queue(&args.common, store, &scratch.fresh()?, false);
        let bytes = growth(&common, args.json_bytes, population, stop)?;
        let Population { users, each } = population;
        let label = format!(
            "RSS per notification of {} B JSON, {users} users × {each}, none shared",
            args.json_bytes
        );
        figures.push(Figure::one(key, label, "B", bytes).at_most(TARGET_BYTES));
    }
    Ok(figures)
}

fn growth(common: &Common, json_bytes: u32, people: Population, stop: &Stop) -> Outcome<f64> {
    let gateway = Gateway::start(common, common.shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.add_callers(DEEP.callers)?;
    let api = gateway.api((json_bytes as usize).saturating_sub(ENVELOPE_BYTES));
    pump::warm_up(&mut swarm, &api, 100)?;
    swarm.run_for(REST)?;
    let before = procfs::rss_bytes(gateway.pid())?;
    let count = people.users * people.each;
    // One for each user, then the next one for each, as it happens.
    let request = |number: u32| api.to_user(number % people.users, number);
    pump(&mut swarm, DEEP, count, request, is_queued)?;
    swarm.run_for(REST)?;
    let after = procfs::rss_bytes(gateway.pid())?;
    check_letters(&gateway, u64::from(count), 0)?;
    drop(swarm);
    gateway.end()?;
    Ok((after as f64 - before as f64) / f64::from(count))
}
