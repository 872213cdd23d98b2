//! `churn`: connections come and go without a pause while a publisher goes on. At the end all leave;
//! the gateway must have closed every socket and removed every subscription, and its memory is
//! compared with what it was before.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{CHANNEL, QUIET, check_no_strays, quiet_cpu_ns, us_each};
use crate::caller::Api;
use crate::cli::ChurnArgs;
use crate::fault::{Outcome, failed};
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::report::{Group, Report};
use crate::stop::{LOOK_EVERY, Stop};
use crate::subscriber::Transport;
use crate::swarm::Swarm;
use crate::{http, limits, procfs, progress};

const REST: Duration = Duration::from_secs(1);
/// Connections being opened or closed beside the standing ones, as a multiple of `--at-once`.
const BESIDE: u32 = 3;

#[derive(Deserialize)]
struct Channel {
    subscriber_count: u64,
}

/// The outcome of the churn.
struct Churned {
    cycles: u64,
    publishes: u32,
    arrived: u64,
    took: Duration,
}

pub(crate) fn run(args: &ChurnArgs, stop: &Stop) -> Outcome<Report> {
    let most = args.connections.saturating_add(BESIDE * args.common.at_once);
    limits::check(most)?;
    let gateway = Gateway::start(&args.common, args.common.shards, stop)?;
    let mut swarm = gateway.swarm(&args.common, Transport::Ws, Some(CHANNEL), stop)?;
    let api = gateway.api(args.payload_bytes as usize);
    open_caller(&mut swarm, &api)?;
    let pid = gateway.pid();
    let (rss_start, files_start) = (procfs::rss_bytes(pid)?, procfs::open_files(pid)?);
    progress(&format!("connecting {} users", args.connections));
    swarm.connect_all(0, args.connections, args.common.at_once)?;
    swarm.run_for(REST)?;
    let rss_full = procfs::rss_bytes(pid)?;
    progress(&format!("churning for {} s", args.seconds));
    let cpu = procfs::cpu_ns(pid)?;
    let churned = churn(args, &api, &mut swarm)?;
    let used = quiet_cpu_ns(&mut swarm, pid)?.saturating_sub(cpu);
    swarm.run_for(REST)?;
    let rss_churned = procfs::rss_bytes(pid)?;
    progress("all leave");
    swarm.drop_subscribers();
    wait_gone(&gateway, files_start, &args.common.stall_timeout(), stop)?;
    swarm.run_for(REST)?;
    let rss_gone = procfs::rss_bytes(pid)?;
    drop(swarm);
    gateway.end()?;
    let kib = |bytes: u64| (bytes / 1024) as f64;
    let rate = churned.cycles as f64 / churned.took.as_secs_f64();
    let each = us_each(used, churned.cycles);
    let figures = vec![
        Figure::one("cycles", "Connections replaced", "", churned.cycles as f64),
        Figure::one("cycles_per_second", "Connections replaced", "/s", rate),
        Figure::one("publishes", "Publishes meanwhile", "", f64::from(churned.publishes)),
        Figure::one("arrived", "Notifications received", "", churned.arrived as f64),
        Figure::one("us_per_cycle", "CPU per replaced connection, deliveries included", "µs", each),
        Figure::one("rss_start_kib", "RSS before", "KiB", kib(rss_start)),
        Figure::one("rss_full_kib", "RSS, all connected, before the churn", "KiB", kib(rss_full)),
        Figure::one("rss_churned_kib", "RSS, all connected, after it", "KiB", kib(rss_churned)),
        Figure::one("rss_gone_kib", "RSS when all have left", "KiB", kib(rss_gone)),
    ];
    Ok(Report {
        scenario: "churn",
        title: format!("Churn: {} connections for {} s", args.connections, args.seconds),
        groups: vec![Group { name: "churn".to_owned(), figures }],
        notes: vec![
            "The gateway let go of every socket and of the channel. Nobody received a notification \
             twice or out of order. Allocators keep memory: a leak shows in the two middle readings."
                .to_owned(),
        ],
    })
}

/// Connects the publisher and waits for one answer, so that the gateway has surely accepted its
/// socket, which then counts among the files open at the start.
fn open_caller(swarm: &mut Swarm, api: &Api) -> Outcome<()> {
    swarm.add_callers(1)?;
    swarm.post(0, &api.to_channel(CHANNEL, 0))?;
    swarm.turn_until("the first answer", |swarm| Ok((0, !swarm.take_answers().is_empty())))?;
    swarm.run_for(QUIET)
}

/// Replaces connections, half of them closed in order and half dropped, and publishes one at a time.
fn churn(args: &ChurnArgs, api: &Api, swarm: &mut Swarm) -> Outcome<Churned> {
    let start = Instant::now();
    let most = u64::from(args.connections + (BESIDE - 1) * args.common.at_once);
    let (mut opened, mut publishes, mut answered) = (swarm.arrivals().ready, 0u32, 0u32);
    let first = opened;
    let pause = Duration::from_secs(1) / args.publish_rate;
    swarm.arrivals().expect_rising();
    while start.elapsed() < Duration::from_secs(args.seconds) {
        swarm.turn(LOOK_EVERY)?;
        check_no_strays(swarm)?;
        answered += u32::try_from(swarm.take_answers().len()).unwrap_or(u32::MAX);
        if answered == publishes && start.elapsed() >= pause * publishes {
            swarm.post(0, &api.to_channel(CHANNEL, publishes))?;
            publishes += 1;
        }
        // A bounded number of tries: places may be empty or not subscribed yet.
        for _ in 0..args.common.at_once {
            let under_way = opened - swarm.arrivals().ready;
            if under_way >= u64::from(args.common.at_once) || swarm.len() as u64 >= most {
                break;
            }
            if let Some(user) =
                swarm.disconnect(fastrand::usize(..swarm.places()), opened % 2 == 0)?
            {
                swarm.connect(user)?;
                opened += 1;
            }
        }
    }
    let took = start.elapsed();
    swarm.turn_until("the last replacements", |swarm| {
        answered += u32::try_from(swarm.take_answers().len()).unwrap_or(u32::MAX);
        let ready = swarm.arrivals().ready;
        let closed = swarm.len() as u64 == u64::from(args.connections);
        let done = ready == opened && answered == publishes && closed;
        Ok((ready + u64::from(answered) + swarm.len() as u64, done))
    })?;
    check_no_strays(swarm)?;
    Ok(Churned { cycles: opened - first, publishes, arrived: swarm.arrivals().arrived, took })
}

/// Waits until the gateway has closed all sockets of the swarm and counts no subscriber.
fn wait_gone(
    gateway: &Gateway,
    files: usize,
    stall_timeout: &Duration,
    stop: &Stop,
) -> Outcome<()> {
    let mut last = String::new();
    let gone = stop.poll(*stall_timeout, || {
        let open = procfs::open_files(gateway.pid())?;
        let path = format!("/api/v1/channels/{CHANNEL}");
        let (status, body) = http::get(gateway.address, &path, &gateway.api_key)?;
        let subscribers = match status {
            404 => 0,
            _ => serde_json::from_slice::<Channel>(&body)
                .map_or(u64::MAX, |channel| channel.subscriber_count),
        };
        last = format!(
            "{} open files above the start, {subscribers} subscribers",
            open.saturating_sub(files)
        );
        Ok((open <= files && subscribers == 0).then_some(()))
    })?;
    match gone {
        Some(()) => Ok(()),
        None => failed(format!("all have left, but the gateway still has {last}")),
    }
}
