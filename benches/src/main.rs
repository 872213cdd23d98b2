//! `ara-bench`: the load generator and measuring tool of the Ara gateway. Starts the gateway as a
//! child, drives one scenario against it from a single thread, and prints what it cost.

mod arrivals;
mod bare;
mod caller;
mod child;
mod cli;
mod fault;
mod figures;
mod frame;
mod gateway;
mod http;
mod limits;
mod procfs;
mod reference;
mod report;
mod scenario;
mod sse;
mod stand_in;
mod stop;
mod subscriber;
mod swarm;
mod token;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Common};
use crate::fault::{Context, Fault, Outcome};
use crate::report::Report;
use crate::scenario::{
    batch, churn, drain, fairness, fanout, idle, queue, shards, templates, unicast,
};
use crate::stop::Stop;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Idle(args) => measure(&args.common, |stop| idle::run(&args, stop)),
        Command::Fanout(args) => measure(&args.common, |stop| fanout::run(&args, stop)),
        Command::Unicast(args) => measure(&args.common, |stop| unicast::run(&args, stop)),
        Command::Churn(args) => measure(&args.common, |stop| churn::run(&args, stop)),
        Command::Shards(args) => measure(&args.common, |stop| shards::run(&args, stop)),
        Command::Queue(args) => measure(&args.common, |stop| queue::run(&args, stop)),
        Command::Templates(args) => measure(&args.common, |stop| templates::run(&args, stop)),
        Command::Batch(args) => measure(&args.common, |stop| batch::run(&args, stop)),
        Command::Fairness(args) => measure(&args.common, |stop| fairness::run(&args, stop)),
        Command::Drain(args) => measure(&args.common, |stop| drain::run(&args, stop)),
        Command::BareServer => bare::serve(),
        Command::StandIn => stand_in::serve(),
        Command::Launch(args) => {
            return child::launch(args.parent, &args.cores, &args.program, &args.args);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault::Interrupted) => ExitCode::from(130),
        Err(Fault::Failed(why)) => {
            progress(&format!("FAILED: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// What all scenarios have in common: limits, signals, this process's core, and the report.
fn measure(common: &Common, run: impl FnOnce(&Stop) -> Outcome<Report>) -> Outcome<()> {
    let stop = Stop::install()?;
    limits::raise();
    if let Some(core) = common.generator_core() {
        child::pin(&[core]).context("cannot pin this process")?;
    }
    let mut report = run(&stop)?;
    if common.stand_in {
        report.notes.push("THE STAND-IN WAS MEASURED, NOT THE GATEWAY.".to_owned());
    }
    report.print()?;
    match &common.json {
        Some(path) => report.write_json(path),
        None => Ok(()),
    }
}

/// A line of progress on standard error.
pub(crate) fn progress(line: &str) {
    // A write fails where nobody reads standard error; that is no reason to stop.
    _ = writeln!(std::io::stderr(), "ara-bench: {line}");
}

/// A line of the result.
pub(crate) fn say(line: &str) -> Outcome<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}
