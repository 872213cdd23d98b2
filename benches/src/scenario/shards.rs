//! `shards`: the same fan-out and unicast load for several shard counts, rounds in turn, so that a
//! machine that gets slower meanwhile does so for all of them.

use super::{fanout, unicast};
use crate::cli::{FanoutLoad, ShardsArgs, UnicastLoad};
use crate::fault::Outcome;
use crate::figures::{Figure, join};
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::subscriber::Reply;
use crate::{limits, progress};

const PAYLOAD_BYTES: u32 = 150;

pub(crate) fn run(args: &ShardsArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.connections.max(args.unicast_connections))?;
    let fanout_load = FanoutLoad {
        connections: args.connections,
        payload_bytes: PAYLOAD_BYTES,
        publishes: 30,
        groups: 10,
        group_size: 16,
        pipelined: false,
    };
    let unicast_load = UnicastLoad {
        connections: args.unicast_connections,
        callers: 64,
        seconds: args.seconds,
        payload_bytes: PAYLOAD_BYTES,
        reply: Reply::None,
    };
    let mut rounds: Vec<Vec<Vec<Figure>>> = args.counts.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for (&count, samples) in args.counts.iter().zip(&mut rounds) {
            progress(&format!("round {round} of {}: shard count {count}", args.rounds));
            let shards = count as usize;
            let (mut figures, _) = fanout::gateway_round(&args.common, &fanout_load, shards, stop)?;
            figures.extend(unicast::round(&args.common, &unicast_load, shards, stop)?);
            samples.push(figures);
        }
    }
    let name = |count: &u32| format!("{count} shard{}", if *count == 1 { "" } else { "s" });
    let groups = args.counts.iter().zip(rounds);
    Ok(Report {
        scenario: "shards",
        title: format!(
            "Shards: fan-out to {} subscribers, unicast to {} users",
            args.connections, args.unicast_connections
        ),
        groups: groups
            .map(|(count, samples)| Group { name: name(count), figures: join(samples) })
            .collect(),
        notes: vec![
            "More shards than the gateway's cores can only cost. The generator needs a core of its \
             own to show what more shards bring."
                .to_owned(),
        ],
    })
}
