//! `fanout`: CPU per delivery to one channel's subscribers, with one publish in flight and with
//! groups back to back, beside a bare loop that writes the same bytes to as many sockets.
//! Every notification is accounted for: one lost or doubled ends the run.

use std::time::{Duration, Instant};

use super::{CHANNEL, LATE, check_no_strays, quiet_cpu_ns, us_each};
use crate::caller::Api;
use crate::cli::{Common, FanoutArgs, FanoutLoad};
use crate::fault::{Fault, Outcome, failed};
use crate::figures::{Figure, join, percentile_us};
use crate::gateway::Gateway;
use crate::procfs::Softirqs;
use crate::reference::Reference;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::subscriber::Transport;
use crate::swarm::Swarm;
use crate::{limits, progress};

/// Publishes before the first that counts, one at a time. A receiver's kernel acknowledges the first
/// 16 segments after a pause at once, which costs the sender's core several microseconds each, and
/// after that with a delay. Both servers must be past it: one that coalesces gets there later.
const WARM_UP: u32 = 20;

/// What sends to all subscribers when asked.
enum Source<'a> {
    Gateway { api: Api, callers: usize },
    Bare(&'a mut Reference),
}

/// One load on one server.
struct Drive<'a> {
    swarm: &'a mut Swarm,
    source: Source<'a>,
    subscribers: u32,
    pid: u32,
    next_seq: u32,
}

/// What a phase of publishes cost.
struct Phase {
    us_per_delivery: f64,
    softirq_us_per_delivery: f64,
    /// From a publish (or group) to its last arrival, sorted.
    times: Vec<Duration>,
}

/// The keys of one server's figures.
struct Keys {
    single: &'static str,
    group: &'static str,
    time: &'static str,
    softirq: &'static str,
    name: &'static str,
}

const GATEWAY: Keys = Keys {
    single: "gateway_us_per_delivery",
    group: "gateway_group_us_per_delivery",
    time: "gateway_publish_us",
    softirq: "gateway_softirq_us_per_delivery",
    name: "Gateway",
};
const BARE: Keys = Keys {
    single: "bare_us_per_delivery",
    group: "bare_group_us_per_delivery",
    time: "bare_publish_us",
    softirq: "bare_softirq_us_per_delivery",
    name: "Bare loop",
};

pub(crate) fn run(args: &FanoutArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.load.connections)?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        progress(&format!("round {round} of {}: gateway", args.rounds));
        let (mut figures, frame) =
            gateway_round(&args.common, &args.load, args.common.shards, stop)?;
        if !args.no_reference {
            progress(&format!("round {round} of {}: bare loop", args.rounds));
            figures.extend(bare_round(&args.common, &args.load, &frame, stop)?);
            figures.extend(ratios(&figures));
        }
        rounds.push(figures);
    }
    let load = &args.load;
    Ok(Report {
        scenario: "fanout",
        title: format!(
            "Fan-out: {} subscribers, payload {} B, {} publishes one at a time, {} groups of {}",
            load.connections, load.payload_bytes, load.publishes, load.groups, load.group_size,
        ),
        groups: vec![Group { name: "fanout".to_owned(), figures: join(rounds) }],
        notes: vec![
            "Every notification arrived exactly once. CPU is the server's user + system time; on \
             loopback it holds a part of the receivers' work, the same for both servers."
                .to_owned(),
        ],
    })
}

/// A fresh gateway under the whole load; also returns one frame as it sent it.
pub(crate) fn gateway_round(
    common: &Common,
    load: &FanoutLoad,
    shards: usize,
    stop: &Stop,
) -> Outcome<(Vec<Figure>, Vec<u8>)> {
    let gateway = Gateway::start(common, shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, Some(CHANNEL), stop)?;
    swarm.connect_all(0, load.connections, common.at_once)?;
    let callers = if load.pipelined { 1 } else { load.group_size as usize };
    swarm.add_callers(callers)?;
    swarm.arrivals().start_capture();
    let api = gateway.api(load.payload_bytes as usize);
    let mut drive = Drive {
        swarm: &mut swarm,
        source: Source::Gateway { api, callers },
        subscribers: load.connections,
        pid: gateway.pid(),
        next_seq: 0,
    };
    let mut figures = drive.measure(load, &GATEWAY)?;
    let frame = swarm.arrivals().capture.take().unwrap_or_default();
    figures.push(Figure::one("frame_bytes", "Frame on the wire", "B", frame.len() as f64));
    drop(swarm);
    gateway.end()?;
    Ok((figures, frame))
}

fn bare_round(
    common: &Common,
    load: &FanoutLoad,
    frame: &[u8],
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let mut bare = Reference::start(common, frame, stop)?;
    let mut swarm = bare.swarm(common, CHANNEL, stop)?;
    swarm.connect_all(0, load.connections, common.at_once)?;
    let pid = bare.pid();
    let mut drive = Drive {
        swarm: &mut swarm,
        source: Source::Bare(&mut bare),
        subscribers: load.connections,
        pid,
        next_seq: 0,
    };
    let figures = drive.measure(load, &BARE)?;
    drop(swarm);
    bare.end()?;
    Ok(figures)
}

fn ratios(figures: &[Figure]) -> Vec<Figure> {
    let value = |key| {
        let figure = figures.iter().find(|figure| figure.key == key);
        figure.map_or(f64::NAN, Figure::median)
    };
    let (single, group) = (value(GATEWAY.single), value(GATEWAY.group));
    vec![
        Figure::one(
            "ratio_to_bare",
            "Gateway / bare loop, 1 in flight",
            "×",
            single / value(BARE.single),
        ),
        Figure::one("ratio_group", "Gateway, back to back / 1 in flight", "×", group / single),
        Figure::one(
            "ratio_group_to_bare",
            "Gateway / bare loop, back to back",
            "×",
            group / value(BARE.group),
        ),
    ]
}

impl Drive<'_> {
    fn measure(&mut self, load: &FanoutLoad, keys: &Keys) -> Outcome<Vec<Figure>> {
        self.phase(WARM_UP, 1)?;
        self.phase(1, load.group_size)?;
        let single = self.phase(load.publishes, 1)?;
        let group = self.phase(load.groups, load.group_size)?;
        self.swarm.run_for(LATE)?;
        check_no_strays(self.swarm)?;
        let name = keys.name;
        Ok(vec![
            Figure::one(
                keys.single,
                format!("{name}, CPU per delivery, 1 in flight"),
                "µs",
                single.us_per_delivery,
            ),
            Figure::one(
                keys.group,
                format!("{name}, CPU per delivery, {} back to back", load.group_size),
                "µs",
                group.us_per_delivery,
            ),
            Figure::one(
                keys.time,
                format!("{name}, publish to last arrival, p50"),
                "µs",
                percentile_us(&single.times, 50),
            ),
            Figure::one(
                keys.softirq,
                format!("{name}, ksoftirqd beside it, per delivery, 1 in flight"),
                "µs",
                single.softirq_us_per_delivery,
            ),
        ])
    }

    /// `times` groups of `size` publishes; the next one starts when the last has arrived everywhere.
    fn phase(&mut self, times: u32, size: u32) -> Outcome<Phase> {
        let softirqs = Softirqs::find();
        let cpu = quiet_cpu_ns(self.swarm, self.pid)?;
        let softirq_cpu = softirqs.cpu_ns();
        let mut all = Vec::new();
        for _ in 0..times {
            all.push(self.group(size)?);
        }
        all.sort_unstable();
        let softirq_used = softirqs.cpu_ns().saturating_sub(softirq_cpu);
        let used = quiet_cpu_ns(self.swarm, self.pid)?.saturating_sub(cpu);
        let deliveries = u64::from(times) * u64::from(size) * u64::from(self.subscribers);
        Ok(Phase {
            us_per_delivery: us_each(used, deliveries),
            softirq_us_per_delivery: us_each(softirq_used, deliveries),
            times: all,
        })
    }

    /// Publishes `size` back to back and waits until each subscriber has each of them.
    fn group(&mut self, size: u32) -> Outcome<Duration> {
        let base = self.next_seq;
        self.next_seq += size;
        let wanted = u64::from(size) * u64::from(self.subscribers);
        self.swarm.arrivals().expect_group(base, size);
        let start = Instant::now();
        let mut unanswered = match &mut self.source {
            Source::Gateway { api, callers } => {
                for place in 0..size {
                    let request = api.to_channel(CHANNEL, base + place);
                    self.swarm.post(place as usize % *callers, &request)?;
                }
                u64::from(size)
            }
            Source::Bare(bare) => {
                bare.ring(size)?;
                0
            }
        };
        let subscribers = u64::from(self.subscribers);
        let what = format!("{wanted} deliveries");
        let mut took = None;
        self.swarm.turn_until(&what, |swarm| {
            for answer in swarm.take_answers() {
                unanswered = unanswered.saturating_sub(1);
                if answer.delivered_to != subscribers || answer.failed > 0 {
                    return failed(format!(
                        "the gateway said delivered_to {}, failed {}, with {subscribers} subscribed",
                        answer.delivered_to, answer.failed
                    ));
                }
            }
            check_no_strays(swarm)?;
            let arrived = swarm.arrivals().arrived;
            if arrived == wanted && took.is_none() {
                took = Some(start.elapsed());
            }
            Ok((arrived, arrived == wanted && unanswered == 0))
        })?;
        took.ok_or_else(|| Fault::Failed("a group that never arrived".to_owned()))
    }
}
