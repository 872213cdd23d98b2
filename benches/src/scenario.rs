//! The scenarios: each starts what it needs, measures, and returns a report or the reason why its
//! figures would mean nothing.

pub(crate) mod batch;
pub(crate) mod churn;
pub(crate) mod drain;
pub(crate) mod fairness;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod queue;
pub(crate) mod shards;
pub(crate) mod templates;
pub(crate) mod unicast;

use std::time::Duration;

use crate::fault::{Outcome, failed};
use crate::figures::{Figure, join};
use crate::swarm::Swarm;
use crate::{procfs, progress};

/// The channel of every scenario without an option for it.
const CHANNEL: &str = "bench";
/// How long to wait before a reading: until the last turn of the server's loop has ended and its
/// CPU time is accounted for.
const QUIET: Duration = Duration::from_millis(20);
/// How long to wait after the last publish: a second copy of a message would arrive within it.
const LATE: Duration = Duration::from_millis(300);

/// Repeats a round so often, and joins what its figures were.
fn repeat(rounds: u32, mut round: impl FnMut() -> Outcome<Vec<Figure>>) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for number in 1..=rounds {
        progress(&format!("round {number} of {rounds}"));
        figures.push(round()?);
    }
    Ok(join(figures))
}

/// CPU time of the server, read once it is idle.
fn quiet_cpu_ns(swarm: &mut Swarm, pid: u32) -> Outcome<u64> {
    swarm.run_for(QUIET)?;
    procfs::cpu_ns(pid)
}

fn check_no_strays(swarm: &mut Swarm) -> Outcome<()> {
    match swarm.arrivals().strays {
        0 => Ok(()),
        strays => failed(format!("{strays} notifications arrived twice, or where not expected")),
    }
}

/// Microseconds of `ns` for each of `count`.
fn us_each(ns: u64, count: u64) -> f64 {
    ns as f64 / 1e3 / count.max(1) as f64
}
