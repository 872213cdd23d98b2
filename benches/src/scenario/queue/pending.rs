//! Memory for each notification that was sent and awaits its Ack.
//!
//! **Runs on**: the tool's one thread. **Owns**: the gateway. **Never**: counts what a connection or
//! the notification itself takes: the ones are there before, the others are shared by all.

use std::time::Duration;

use super::pump::{self, WIDE, pump};
use super::setup::{Scratch, check_letters, with_queue};
use crate::caller::{ENVELOPE_BYTES, NUMBERED_BYTES, Users};
use crate::cli::{QueueArgs, Store};
use crate::fault::Outcome;
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::procfs;
use crate::scenario::{LATE, check_no_strays};
use crate::stop::Stop;
use crate::subscriber::Transport;

const REST: Duration = Duration::from_secs(1);
const TARGET_BYTES: f64 = 64.0;
/// Broadcasts before the first reading: the way out to every client has been used.
const WARM_UP: u32 = 5;

pub(super) fn measure(
    args: &QueueArgs,
    store: Store,
    scratch: &Scratch,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let common = with_queue(&args.common, store, &scratch.fresh()?, true);
    let gateway = Gateway::start(&common, common.shards, stop)?;
    let mut swarm = gateway.swarm(&common, Transport::Ws, None, stop)?;
    let (users, letters) = (args.pending_users, args.pending_letters);
    swarm.connect_all(0, users, common.at_once)?;
    swarm.add_callers(WIDE.callers)?;
    let payload = (args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES).max(NUMBERED_BYTES);
    let api = gateway.api(payload);
    pump::warm_up(&mut swarm, &api, users)?;
    let took_it = |answer: &crate::caller::Answer| answer.delivered_to == u64::from(users);
    swarm.ledger().expect_letters(0, users, 0, WARM_UP + 2 * letters);
    pump(&mut swarm, WIDE, WARM_UP, |seq| api.to_all(seq), took_it)?;
    swarm.run_for(REST)?;
    let everyone = Users::new(0, users);
    let mut figures = Vec::new();
    let (before, mut sent) = (procfs::rss_bytes(gateway.pid())?, WARM_UP);
    for (key, each) in [("pending_bytes", letters), ("pending_bytes_twice", 2 * letters)] {
        let (first, more) = (sent, WARM_UP + each - sent);
        let request = |number| api.to_users(&everyone, first + number, None);
        pump(&mut swarm, WIDE, more, request, took_it)?;
        sent += more;
        let wanted = u64::from(sent) * u64::from(users);
        swarm.turn_until("notifications", |swarm| {
            let arrived = swarm.ledger().arrived;
            Ok((arrived, arrived == wanted))
        })?;
        swarm.run_for(LATE.max(REST))?;
        check_no_strays(&mut swarm)?;
        let pending = u64::from(each) * u64::from(users);
        check_letters(&gateway, 0, pending)?;
        let grown = procfs::rss_bytes(gateway.pid())? as f64 - before as f64;
        let label = format!("RSS per pending Ack, {users} users × {each}, notifications shared");
        figures.push(Figure::one(key, label, "B", grown / pending as f64).at_most(TARGET_BYTES));
    }
    drop(swarm);
    gateway.end()?;
    Ok(figures)
}
