//! What queue and acknowledgement cost a publish to one user who is connected.
//!
//! **Runs on**: the tool's one thread. **Owns**: nothing; each variant has a gateway of its own.
//! **Never**: compares variants of different rounds.

use super::setup::{Scratch, with_queue};
use crate::cli::{QueueArgs, Store, UnicastLoad};
use crate::fault::Outcome;
use crate::figures::{Figure, join};
use crate::progress;
use crate::scenario::unicast;
use crate::stop::Stop;
use crate::subscriber::Reply;

const PAYLOAD_BYTES: u32 = 150;
const TARGET_RATIO: f64 = 1.15;

/// One way to run the same load: without a store, queue and acknowledgement are off.
struct Variant {
    store: Option<Store>,
    reply: Reply,
    us: &'static str,
    ratio: &'static str,
    label: &'static str,
}

const OFF: Variant =
    Variant { store: None, reply: Reply::None, us: "off_us", ratio: "", label: "Off" };
const OFF_PING: Variant = Variant {
    store: None,
    reply: Reply::Ping,
    us: "off_ping_us",
    ratio: "off_ping_ratio",
    label: "Off, a Ping to each",
};
const MEMORY: [Variant; 2] = [
    Variant {
        store: Some(Store::Memory),
        reply: Reply::None,
        us: "memory_us",
        ratio: "memory_ratio",
        label: "Queue in memory, no Acks sent",
    },
    Variant {
        store: Some(Store::Memory),
        reply: Reply::Ack,
        us: "memory_ack_us",
        ratio: "memory_ack_ratio",
        label: "Queue in memory, an Ack to each",
    },
];
const DISK: [Variant; 2] = [
    Variant {
        store: Some(Store::Interval),
        reply: Reply::None,
        us: "disk_us",
        ratio: "disk_ratio",
        label: "Queue on disk (interval), no Acks sent",
    },
    Variant {
        store: Some(Store::Interval),
        reply: Reply::Ack,
        us: "disk_ack_us",
        ratio: "disk_ack_ratio",
        label: "Queue on disk (interval), an Ack to each",
    },
];

pub(super) fn measure(args: &QueueArgs, scratch: &Scratch, stop: &Stop) -> Outcome<Vec<Figure>> {
    let chosen = |store| args.stores.contains(&store);
    let memory = MEMORY.into_iter().filter(|_| chosen(Store::Memory));
    let disk = DISK.into_iter().filter(|_| chosen(Store::Interval));
    let variants: Vec<Variant> = [OFF, OFF_PING].into_iter().chain(memory).chain(disk).collect();
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        let mut spent = Vec::new();
        for variant in &variants {
            progress(&format!("connected, round {round} of {}: {}", args.rounds, variant.label));
            spent.push(us_per_publish(args, variant, scratch, stop)?);
        }
        rounds.push(figures(&variants, &spent));
    }
    Ok(join(rounds))
}

fn us_per_publish(
    args: &QueueArgs,
    variant: &Variant,
    scratch: &Scratch,
    stop: &Stop,
) -> Outcome<f64> {
    let load = UnicastLoad {
        connections: args.connections,
        callers: args.callers,
        seconds: args.seconds,
        payload_bytes: PAYLOAD_BYTES,
        reply: variant.reply,
    };
    let common = match variant.store {
        Some(store) => with_queue(&args.common, store, &scratch.fresh()?, true),
        None => args.common.clone(),
    };
    let figures = unicast::round(&common, &load, common.shards, stop)?;
    let spent = figures.iter().find(|figure| figure.key == "us_per_publish");
    Ok(spent.map_or(f64::NAN, Figure::median))
}

fn figures(variants: &[Variant], spent: &[f64]) -> Vec<Figure> {
    let off = spent.first().copied().unwrap_or(f64::NAN);
    let ping = spent.get(1).copied().unwrap_or(f64::NAN);
    let all = || variants.iter().zip(spent);
    let mut figures: Vec<Figure> = all()
        .map(|(variant, &us)| {
            Figure::one(variant.us, format!("{}, CPU per publish", variant.label), "µs", us)
        })
        .collect();
    for (variant, us) in all().skip(1) {
        let figure = Figure::one(variant.ratio, format!("{} / off", variant.label), "×", us / off);
        let judged = variant.store.is_some();
        figures.push(if judged { figure.at_most(TARGET_RATIO) } else { figure });
    }
    for (variant, us) in all().filter(|(variant, _)| variant.reply == Reply::Ack) {
        let key = if variant.store == Some(Store::Memory) {
            "memory_ack_ratio_to_ping"
        } else {
            "disk_ack_ratio_to_ping"
        };
        let label = format!("{} / off, a Ping to each", variant.label);
        figures.push(Figure::one(key, label, "×", us / ping));
    }
    figures
}
