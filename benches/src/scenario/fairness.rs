//! `fairness`: how long a tenant's notifications take while another tenant sends many times as much.
//!
//! The one that is measured has this thread, its connections and its callers; the flood has a thread of its
//! own, which gives way to this one.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::{LATE, check_no_strays, repeat};
use crate::caller::Api;
use crate::cli::{Common, FairnessArgs};
use crate::fault::{Context, Outcome, failed};
use crate::figures::{Figure, percentile_us};
use crate::gateway::Gateway;
use crate::limits;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::swarm::Swarm;

/// Whose time is taken.
const CALM: &str = "calm";
/// Who sends many times as much.
const FLOOD: &str = "flood";
/// Callers of each; the rate is kept by the clock.
const CALLERS: usize = 16;
/// How often the flood's thread looks whether there is something to be sent.
const BUSY_TURN: Duration = Duration::from_millis(1);
/// The same while there is no flood: well below what a change is given.
const IDLE_TURN: Duration = Duration::from_millis(50);
/// How long a flood goes on before the time is taken.
const WARM_UP: Duration = Duration::from_millis(500);
/// What the 99th percentile may be, beside that without a flood.
const RATIO_TARGET: f64 = 2.0;

/// What the other tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Load {
    Nothing,
    /// Notifications to single users of its own.
    Sends,
    /// Notifications to all of its own.
    Broadcasts,
    /// It is over.
    End,
}

/// What the two threads know of each other.
#[derive(Debug, Default)]
struct Shared {
    load: AtomicU8,
    is_ready: AtomicU8,
    /// Frames that were delivered to the flood's connections.
    frames: AtomicU64,
    /// Triggers that were refused for want of room.
    refused: AtomicU64,
}

impl Shared {
    fn set(&self, load: Load) {
        self.load.store(load as u8, Ordering::Relaxed);
    }

    fn load(&self) -> Load {
        let loads = [Load::Nothing, Load::Sends, Load::Broadcasts];
        let load = self.load.load(Ordering::Relaxed);
        loads.into_iter().find(|known| *known as u8 == load).unwrap_or(Load::End)
    }
}

pub(crate) fn run(args: &FairnessArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.connections + args.flood_connections)?;
    if args.common.stand_in {
        return failed("the stand-in has no tenants".to_owned());
    }
    let figures = repeat(args.rounds, || round(args, stop))?;
    Ok(Report {
        scenario: "fairness",
        title: format!(
            "Fairness: a tenant with {} users and {} sends a second, another with {} connections that gets {} times as many frames",
            args.connections, args.rate, args.flood_connections, args.factor,
        ),
        groups: vec![Group { name: "fairness".to_owned(), figures }],
        notes: vec![
            "Every notification of the measured tenant arrived exactly once. Its times, from writing \
             the request to reading the frame, hold what the flood's thread of this tool takes from \
             the core that both are on, though it has the lowest priority."
                .to_owned(),
        ],
    })
}

fn round(args: &FairnessArgs, stop: &Stop) -> Outcome<Vec<Figure>> {
    let own = [("TENANT_ENABLED", "true"), ("TENANT_DEFAULT_LIMITS_MAX_CONNECTIONS", "0")];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let common = args.common.with_environment(own);
    let gateway = Gateway::start(&common, common.shards, stop)?;
    let shared = Shared::default();
    let figures = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&gateway, args, &common, &shared, stop));
        let measured = measure(&gateway, args, &common, &shared, stop);
        shared.set(Load::End);
        match flood.join() {
            Ok(flooded) => flooded.and(measured),
            Err(_panic) => failed("the flood's thread panicked"),
        }
    })?;
    gateway.end()?;
    Ok(figures)
}

/// The measured tenant: without a flood, and beside each kind of one.
fn measure(
    gateway: &Gateway,
    args: &FairnessArgs,
    common: &Common,
    shared: &Shared,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let mut swarm = gateway.swarm_of(CALM, common, stop)?;
    swarm.connect_all(0, args.connections, common.at_once)?;
    swarm.add_callers(CALLERS)?;
    swarm.turn_until("the flood's connections", |_swarm| {
        let is_ready = shared.is_ready.load(Ordering::Relaxed) != 0;
        Ok((u64::from(is_ready), is_ready))
    })?;
    let api = gateway.api_of(CALM, args.payload_bytes as usize);
    let mut calm = Calm { swarm: &mut swarm, api, args, next_seq: 0 };
    calm.times(WARM_UP)?;
    let time = Duration::from_secs(args.seconds);
    let mut alone = calm.times(time)?;
    let mut beside = Vec::new();
    for (load, keys) in [
        (Load::Sends, ["sends_p99_us", "sends_ratio", "sends_factor", "sends_refused"]),
        (
            Load::Broadcasts,
            ["broadcasts_p99_us", "broadcasts_ratio", "broadcasts_factor", "broadcasts_refused"],
        ),
    ] {
        shared.set(load);
        calm.times(WARM_UP)?;
        let (frames, refused) = counts(shared);
        let times = calm.times(time)?;
        let (frames_then, refused_then) = counts(shared);
        shared.set(Load::Nothing);
        calm.times(WARM_UP)?;
        // Both sides of a ratio see what else the machine does.
        alone.extend(calm.times(time)?);
        beside.push((keys, times, frames_then - frames, refused_then - refused));
    }
    swarm.run_for(LATE)?;
    check_no_strays(&mut swarm)?;
    alone.sort_unstable();
    let alone_p99 = percentile_us(&alone, 99);
    let mut figures = vec![
        Figure::one(
            "alone_p50_us",
            "Alone: request to arrival, p50",
            "µs",
            percentile_us(&alone, 50),
        ),
        Figure::one("alone_p99_us", "Alone: p99", "µs", alone_p99),
    ];
    for ([p99_key, ratio_key, factor_key, refused_key], mut times, frames, refused) in beside {
        let name = p99_key.split('_').next().unwrap_or_default();
        let factor = frames as f64 / times.len().max(1) as f64;
        times.sort_unstable();
        let p99 = percentile_us(&times, 99);
        figures.extend([
            Figure::one(p99_key, format!("Beside {name}: p99"), "µs", p99),
            Figure::one(ratio_key, format!("Beside {name}, over alone"), "×", p99 / alone_p99)
                .at_most(RATIO_TARGET),
            Figure::one(factor_key, format!("Frames of the {name}, for each measured"), "", factor),
            Figure::one(refused_key, format!("Refused of the {name}"), "", refused as f64),
        ]);
    }
    Ok(figures)
}

fn counts(shared: &Shared) -> (u64, u64) {
    (shared.frames.load(Ordering::Relaxed), shared.refused.load(Ordering::Relaxed))
}

/// The tenant whose time is taken.
struct Calm<'a> {
    swarm: &'a mut Swarm,
    api: Api,
    args: &'a FairnessArgs,
    next_seq: u32,
}

impl Calm<'_> {
    /// Sends at the rate for this long. From request to arrival, of each.
    fn times(&mut self, time: Duration) -> Outcome<Vec<Duration>> {
        let (base, began) = (self.next_seq, Instant::now());
        let interval = Duration::from_secs(1) / self.args.rate;
        self.swarm.arrivals().latencies.clear();
        self.swarm.arrivals().expect_unicasts(base);
        let mut next_at = began;
        let mut answered = 0;
        while began.elapsed() < time {
            let now = Instant::now();
            if now >= next_at
                && let Some(caller) = self.swarm.idle_caller()
            {
                let user = fastrand::u32(0..self.args.connections);
                let request = self.api.to_user(user, self.next_seq);
                self.next_seq += 1;
                self.swarm.arrivals().sent(user);
                self.swarm.post(caller, &request)?;
                // Late ones are made up for, but not all at once.
                next_at = (next_at + interval).max(now.checked_sub(interval).unwrap_or(now));
            }
            self.swarm.turn(next_at.saturating_duration_since(Instant::now()))?;
            check_no_strays(self.swarm)?;
            answered += self.swarm.take_answers().len() as u64;
        }
        let sent = u64::from(self.next_seq - base);
        self.swarm.turn_until(&format!("{sent} deliveries"), |swarm| {
            answered += swarm.take_answers().len() as u64;
            check_no_strays(swarm)?;
            let arrived = swarm.arrivals().arrived;
            Ok((arrived + answered, arrived == sent && answered == sent))
        })?;
        Ok(std::mem::take(&mut self.swarm.arrivals().latencies))
    }
}

/// From now on this thread runs only while no other wants to on its core.
fn give_way() -> Outcome<()> {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    set.map_err(|error| format!("{error:?}")).context("cannot lower a thread's priority")
}

/// The other tenant, until it is over.
fn flood(
    gateway: &Gateway,
    args: &FairnessArgs,
    common: &Common,
    shared: &Shared,
    stop: &Stop,
) -> Outcome<()> {
    give_way()?;
    let mut swarm = gateway.swarm_of(FLOOD, common, stop)?;
    swarm.connect_all(0, args.flood_connections, common.at_once)?;
    swarm.add_callers(CALLERS)?;
    swarm.allow_refusals();
    shared.is_ready.store(1, Ordering::Relaxed);
    let api = gateway.api_of(FLOOD, args.payload_bytes as usize);
    let frames_per_second = u64::from(args.rate) * u64::from(args.factor);
    let (mut was, mut began, mut posted) = (Load::Nothing, Instant::now(), 0_u64);
    loop {
        let load = shared.load();
        if load != was {
            (was, began, posted) = (load, Instant::now(), 0);
        }
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let frames = ms.saturating_mul(frames_per_second) / 1_000;
        let due = match load {
            Load::End => return Ok(()),
            Load::Nothing => 0,
            Load::Sends => frames,
            Load::Broadcasts => frames / u64::from(args.flood_connections),
        };
        while posted < due
            && let Some(caller) = swarm.idle_caller()
        {
            let request = match load {
                Load::Sends => api.to_user(fastrand::u32(0..args.flood_connections), 0),
                _ => api.to_all(0),
            };
            swarm.post(caller, &request)?;
            posted += 1;
        }
        swarm.turn(if load == Load::Nothing { IDLE_TURN } else { BUSY_TURN })?;
        for answer in swarm.take_answers() {
            shared.frames.fetch_add(answer.delivered_to, Ordering::Relaxed);
            shared.refused.fetch_add(u64::from(answer.refused), Ordering::Relaxed);
        }
    }
}
