//! `batch`: notifications to single users, each in a request of its own and many in one, in turn on one
//! gateway: CPU for each notification, and the ratio.

use super::unicast::Drive;
use super::{LATE, check_no_strays, repeat};
use crate::cli::BatchArgs;
use crate::fault::{Outcome, failed};
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::limits;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::subscriber::Transport;

/// What a notification in a batch may cost, beside one alone.
const RATIO_TARGET: f64 = 0.2;

pub(crate) fn run(args: &BatchArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.connections)?;
    if args.common.stand_in {
        return failed("the stand-in takes no batches".to_owned());
    }
    let figures = repeat(args.rounds, || round(args, stop))?;
    Ok(Report {
        scenario: "batch",
        title: format!(
            "Batches: {} users, {} callers, {} notifications in a batch, payload {} B, alone and together in turn",
            args.connections, args.callers, args.batch_size, args.payload_bytes,
        ),
        groups: vec![Group { name: "batch".to_owned(), figures }],
        notes: vec![
            "Every notification arrived exactly once. The ratio is taken within a round. Each connection \
             that gets something is written to once, so what a batch can save depends on how many of \
             its notifications go to one connection: compare with fewer --connections."
                .to_owned(),
        ],
    })
}

fn round(args: &BatchArgs, stop: &Stop) -> Outcome<Vec<Figure>> {
    let common = &args.common;
    let gateway = Gateway::start(common, common.shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.connect_all(0, args.connections, common.at_once)?;
    swarm.add_callers(args.callers as usize)?;
    let mut drive = Drive {
        swarm: &mut swarm,
        api: gateway.api(args.payload_bytes as usize),
        template: None,
        users: args.connections,
        callers: args.callers,
        batch_size: 1,
        replies: false,
        next_seq: 0,
    };
    let kinds =
        [1, args.batch_size].map(|size| move |drive: &mut Drive<'_>| drive.batch_size = size);
    let [alone, together] = drive.compare(gateway.pid(), args.seconds, kinds)?;
    swarm.run_for(LATE)?;
    check_no_strays(&mut swarm)?;
    drop(swarm);
    gateway.end()?;
    let ratio = Figure::one("ratio", "In a batch beside alone", "×", together / alone);
    Ok(vec![
        Figure::one("us_alone", "Gateway, CPU per notification alone", "µs", alone),
        Figure::one("us_in_batch", "Gateway, CPU per notification in a batch", "µs", together),
        ratio.at_most(RATIO_TARGET),
    ])
}
