//! `idle`: what a connection costs to open and to keep, in memory and CPU.

use std::time::{Duration, Instant};

use super::{quiet_cpu_ns, us_each};
use crate::cli::IdleArgs;
use crate::fault::Outcome;
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::subscriber::Spread;
use crate::swarm::Swarm;
use crate::{limits, procfs, progress};

/// Steps in which the population grows beyond the first one.
const GROWTH_STEPS: u32 = 3;
/// Fewer further connections than this say nothing above the allocator's steps.
const GROWTH_LEAST: u32 = 300;
/// Between the last `subscribed` and the reading of memory.
const REST: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &IdleArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.connections)?;
    let most = ("WEBSOCKET_MAX_SUBSCRIPTIONS_PER_CONNECTION".to_owned(), "0".to_owned());
    let common = args.common.with_environment(std::iter::once(most));
    let gateway = Gateway::start(&common, common.shards, stop)?;
    let channel = (!args.no_subscribe).then_some(args.subscribe.as_str());
    let mut swarm = gateway.swarm(&args.common, args.transport, channel, stop)?;
    let (channels_each, distinct) = (args.channels_each, args.distinct);
    swarm.spread_with(Spread { channels_each, distinct });
    let mut figures = connect(args, &gateway, &mut swarm)?;
    if args.idle_seconds > 0 {
        figures.extend(watch(args, &gateway, &mut swarm)?);
    }
    let mut notes = vec![
        "Memory is the gateway's resident set; the kernel's own part of a socket (about 4 KB) is \
         outside it."
            .to_owned(),
    ];
    let room = limits::connections_max().saturating_sub(args.connections);
    let growth = args.grow.min(room);
    if growth >= GROWTH_LEAST {
        figures.extend(grow(args, growth, &gateway, &mut swarm)?);
    } else if args.grow > 0 {
        notes.push(format!("Growth left out: the open-file limit has room for {room} more."));
    }
    drop(swarm);
    gateway.end()?;
    if channels_each > 1 || distinct {
        let whose = if distinct { "of its own" } else { "that all share" };
        notes.push(format!("Each connection has {channels_each} channel(s) {whose}."));
    }
    let transport = format!("{:?}", args.transport).to_uppercase();
    Ok(Report {
        scenario: "idle",
        title: format!("Idle: {} {transport} connections", args.connections),
        groups: vec![Group { name: "gateway".to_owned(), figures }],
        notes,
    })
}

fn connect(args: &IdleArgs, gateway: &Gateway, swarm: &mut Swarm) -> Outcome<Vec<Figure>> {
    progress(&format!("connecting {} users", args.connections));
    let (rss, cpu) = (procfs::rss_bytes(gateway.pid())?, quiet_cpu_ns(swarm, gateway.pid())?);
    let start = Instant::now();
    swarm.connect_all(0, args.connections, args.common.at_once)?;
    let took = start.elapsed();
    let used = quiet_cpu_ns(swarm, gateway.pid())?.saturating_sub(cpu);
    swarm.run_for(REST)?;
    let rss_now = procfs::rss_bytes(gateway.pid())?;
    let count = f64::from(args.connections);
    let each = (rss_now as f64 - rss as f64) / count;
    Ok(vec![
        Figure::one("rss_start_kib", "RSS before the first connection", "KiB", kib(rss)),
        Figure::one("rss_connected_kib", "RSS with all connected", "KiB", kib(rss_now)),
        Figure::one("rss_per_connection_bytes", "RSS growth per connection", "B", each),
        Figure::one(
            "cpu_per_connect_us",
            "CPU per connect + subscribe",
            "µs",
            us_each(used, u64::from(args.connections)),
        ),
        Figure::one("connects_per_second", "Connects", "/s", count / took.as_secs_f64()),
    ])
}

fn watch(args: &IdleArgs, gateway: &Gateway, swarm: &mut Swarm) -> Outcome<Vec<Figure>> {
    progress(&format!("watching them for {} s", args.idle_seconds));
    let (heartbeats, pings) = (swarm.arrivals().heartbeats, swarm.arrivals().pings);
    let (cpu, start) = (procfs::cpu_ns(gateway.pid())?, Instant::now());
    swarm.run_for(Duration::from_secs(args.idle_seconds))?;
    let used = procfs::cpu_ns(gateway.pid())?.saturating_sub(cpu);
    let percent = used as f64 / 1e7 / start.elapsed().as_secs_f64();
    let arrivals = swarm.arrivals();
    let (heartbeats, pings) = (arrivals.heartbeats - heartbeats, arrivals.pings - pings);
    let rss = procfs::rss_bytes(gateway.pid())?;
    Ok(vec![
        Figure::one("idle_cpu_percent", "CPU while idle", "% of a core", percent),
        Figure::one("heartbeats", "Heartbeats received", "", heartbeats as f64),
        Figure::one("pings", "Pings answered", "", pings as f64),
        Figure::one("rss_after_idle_kib", "RSS after the idle time", "KiB", kib(rss)),
    ])
}

/// Connects more on top: what one more costs once the first thousands have come.
fn grow(
    args: &IdleArgs,
    growth: u32,
    gateway: &Gateway,
    swarm: &mut Swarm,
) -> Outcome<Vec<Figure>> {
    progress(&format!("connecting {growth} more"));
    let keys = ["rss_growth_1_bytes", "rss_growth_2_bytes", "rss_growth_3_bytes"];
    let (mut figures, mut from) = (Vec::new(), args.connections);
    let first = procfs::rss_bytes(gateway.pid())?;
    let mut before = first;
    for (key, step) in keys.into_iter().zip(1..) {
        let to = args.connections + growth * step / GROWTH_STEPS;
        swarm.connect_all(from, to - from, args.common.at_once)?;
        swarm.run_for(REST)?;
        let rss = procfs::rss_bytes(gateway.pid())?;
        let each = (rss as f64 - before as f64) / f64::from(to - from);
        let label = format!("RSS growth per connection, {from} to {to}");
        figures.push(Figure::one(key, label, "B", each));
        (before, from) = (rss, to);
    }
    let each = (before as f64 - first as f64) / f64::from(growth);
    let label = format!("RSS growth per connection, {} to {from}", args.connections);
    figures.push(Figure::one("rss_growth_bytes", label, "B", each));
    Ok(figures)
}

fn kib(bytes: u64) -> f64 {
    (bytes / 1024) as f64
}
