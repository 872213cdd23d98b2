//! `drain`: all clients are sent away at a stated rate, and how well it is kept.

use std::time::{Duration, Instant};

use super::repeat;
use crate::cli::DrainArgs;
use crate::fault::{Outcome, failed};
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::subscriber::Transport;
use crate::{http, limits};

/// What a second of the drain may differ from its rate, in percent.
const DEVIATION_TARGET: f64 = 10.0;

pub(crate) fn run(args: &DrainArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.connections)?;
    if args.common.stand_in {
        return failed("the stand-in cannot be drained".to_owned());
    }
    let figures = repeat(args.rounds, || round(args, stop))?;
    Ok(Report {
        scenario: "drain",
        title: format!("Drain: {} clients at {} a second", args.connections, args.rate),
        groups: vec![Group { name: "drain".to_owned(), figures }],
        notes: vec![
            "Every client was told to leave exactly once. A second counts from the drain's request on; \
             the last one counts if it is a whole one."
                .to_owned(),
        ],
    })
}

fn round(args: &DrainArgs, stop: &Stop) -> Outcome<Vec<Figure>> {
    let common = &args.common;
    let gateway = Gateway::start(common, common.shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.connect_all(0, args.connections, common.at_once)?;
    swarm.arrivals().departures = Some(Vec::new());
    let order = format!(r#"{{"rate_per_second":{}}}"#, args.rate);
    let began = Instant::now();
    let (status, answer) = http::post(gateway.address, "/api/v1/drain", &gateway.api_key, &order)?;
    if status != 200 && status != 202 {
        let answer = String::from_utf8_lossy(&answer);
        return failed(format!("the drain was answered {status}: {answer}"));
    }
    let clients = args.connections as usize;
    swarm.turn_until("departures", |swarm| {
        let gone = swarm.arrivals().departures.as_ref().map_or(0, Vec::len);
        Ok((gone as u64, gone >= clients && swarm.len() == 0))
    })?;
    let departures = swarm.arrivals().departures.take().unwrap_or_default();
    drop(swarm);
    gateway.end()?;
    if departures.len() != clients {
        return failed(format!("{} departures of {clients} clients", departures.len()));
    }
    let after: Vec<Duration> =
        departures.iter().map(|at| at.saturating_duration_since(began)).collect();
    let took = after.iter().max().copied().unwrap_or_default();
    let rate = f64::from(args.rate);
    Ok(vec![
        Figure::one("seconds", "Until the last was told", "s", took.as_secs_f64()),
        Figure::one("rate", "Clients told", "/s", clients as f64 / took.as_secs_f64()),
        Figure::one(
            "worst_second",
            "The second that differs most from the rate",
            "%",
            worst(&after, rate),
        )
        .at_most(DEVIATION_TARGET),
    ])
}

/// How much the whole second that differs most from the rate does, in percent.
fn worst(after: &[Duration], rate: f64) -> f64 {
    let last = after.iter().map(Duration::as_secs).max().unwrap_or(0);
    let count = |second| after.iter().filter(|at| at.as_secs() == second).count();
    let differences = (0..last).map(|second| (count(second) as f64 - rate).abs() / rate * 100.0);
    differences.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_second_is_found_and_the_last_left_out() {
        let after: Vec<_> = [100, 500, 1100, 1200, 1300, 2000].map(Duration::from_millis).to_vec();
        assert!((worst(&after, 2.0) - 50.0).abs() < 1e-9);
        assert!(worst(&[], 2.0).abs() < 1e-9);
    }
}
