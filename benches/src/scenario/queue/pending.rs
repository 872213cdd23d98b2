//! Memory for each notification that was sent and awaits its Ack.
//!
//! **Runs on**: the tool's one thread. **Owns**: the gateway. **Never**: counts what a connection or
//! the notification itself takes: the ones are there before, the others are shared by all.

use std::time::Duration;

use super::pump::{self, WIDE, pump};
use super::setup::{Scratch, check_held, with_queue};
use crate::caller::{Answer, ENVELOPE_BYTES, NUMBERED_BYTES, Users};
use crate::cli::{Common, QueueArgs, Store};
use crate::fault::Outcome;
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::procfs;
use crate::scenario::check_no_strays;
use crate::stop::Stop;
use crate::subscriber::Transport;

const REST: Duration = Duration::from_secs(1);
const TARGET_BYTES: f64 = 64.0;
/// Broadcasts before the first reading, so that every client's outbox and socket have been used.
const WARM_UP: u32 = 5;

/// Each of the users gets this many, then as many again.
#[derive(Clone, Copy)]
struct Load {
    users: u32,
    messages: u32,
    payload_bytes: usize,
}

pub(super) fn measure(
    args: &QueueArgs,
    store: Store,
    scratch: &Scratch,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let payload = (args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES).max(NUMBERED_BYTES);
    let load =
        Load { users: args.pending_users, messages: args.pending_messages, payload_bytes: payload };
    let common = with_queue(&args.common, store, &scratch.fresh()?, false);
    let [sent, _] = growth(&common, load, false, stop)?;
    let common = with_queue(&args.common, store, &scratch.fresh()?, true);
    let [tracked, twice] = growth(&common, load, true, stop)?;
    let Load { users, messages, .. } = load;
    let count = f64::from(users) * f64::from(messages);
    Ok(vec![
        Figure::one(
            "sent_kib",
            format!("RSS growth of {users} users × {messages}, acknowledgement off"),
            "KiB",
            sent / 1024.0,
        ),
        Figure::one(
            "tracked_kib",
            format!("RSS growth of {users} users × {messages} pending"),
            "KiB",
            tracked / 1024.0,
        ),
        Figure::one(
            "pending_bytes",
            "The difference, per pending Ack",
            "B",
            (tracked - sent) / count,
        )
        .at_most(TARGET_BYTES),
        Figure::one(
            "more_pending_bytes",
            format!("RSS per pending Ack, {messages} more for each"),
            "B",
            (twice - tracked) / count,
        )
        .at_most(TARGET_BYTES),
    ])
}

/// How much the gateway's resident set has grown once all have got theirs, and twice theirs.
fn growth(common: &Common, load: Load, ack: bool, stop: &Stop) -> Outcome<[f64; 2]> {
    let Load { users, messages, payload_bytes } = load;
    let gateway = Gateway::start(common, common.shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.connect_all(0, users, common.at_once)?;
    swarm.add_callers(WIDE.callers)?;
    let api = gateway.api(payload_bytes);
    pump::warm_up(&mut swarm, &api, users)?;
    let took_it = |answer: &Answer| answer.delivered_to == u64::from(users);
    swarm.arrivals().expect_queued(0, users, 0, WARM_UP + 2 * messages);
    pump(&mut swarm, WIDE, WARM_UP, |seq| api.to_all(seq), took_it)?;
    swarm.run_for(REST)?;
    let everyone = Users::new(0, users);
    let before = procfs::rss_bytes(gateway.pid())? as f64;
    let mut grown = [0.0; 2];
    for (times, grown) in (1..).zip(&mut grown) {
        let first = WARM_UP + (times - 1) * messages;
        let request = |number| api.to_users(&everyone, first + number, None);
        pump(&mut swarm, WIDE, messages, request, took_it)?;
        let wanted = u64::from(first + messages) * u64::from(users);
        swarm.turn_until("notifications", |swarm| {
            let arrived = swarm.arrivals().arrived;
            Ok((arrived, arrived == wanted))
        })?;
        swarm.run_for(REST)?;
        check_no_strays(&mut swarm)?;
        let pending = if ack { u64::from(times * messages) * u64::from(users) } else { 0 };
        check_held(&gateway, 0, pending)?;
        *grown = procfs::rss_bytes(gateway.pid())? as f64 - before;
    }
    drop(swarm);
    gateway.end()?;
    Ok(grown)
}
