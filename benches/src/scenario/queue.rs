//! `queue`: what queued messages cost, those that wait for their user and those that await an Ack.
//!
//! **Runs on**: the tool's one thread. **Owns**: the order of the parts and what is said about
//! them. **Never**: reports a rate of messages that were not all accounted for.

mod connected;
mod depth;
mod device;
mod memory;
mod pending;
mod pump;
mod rates;
mod recovery;
mod setup;

use std::fs;
use std::path::Path;

use self::setup::Scratch;
use crate::cli::{Part, QueueArgs, Store};
use crate::fault::Outcome;
use crate::figures::join;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::{limits, progress};

pub(crate) fn run(args: &QueueArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.replay_users.max(args.pending_users).max(args.connections))?;
    let scratch = Scratch::new(&args.directory)?;
    let mut groups = rates_and_device(args, &scratch, stop)?;
    if args.measures(Part::Memory) {
        for store in in_memory_and_on_disk(args) {
            progress(&format!("memory of what waits, {}", store.name()));
            let figures = memory::measure(args, store, &scratch, stop)?;
            let name = format!("waiting, {}", store.name());
            groups.push(Group { name, figures });
        }
    }
    if args.measures(Part::Pending) {
        for store in in_memory_and_on_disk(args) {
            progress(&format!("memory of what awaits its Ack, {}", store.name()));
            let figures = pending::measure(args, store, &scratch, stop)?;
            let name = format!("pending, {}", store.name());
            groups.push(Group { name, figures });
        }
    }
    if args.measures(Part::Recovery) {
        for &store in args.stores.iter().filter(|store| store.fsync().is_some()) {
            progress(&format!("recovery, {}", store.name()));
            let figures = recovery::measure(args, store, &scratch, stop)?;
            groups.push(Group { name: format!("recovery, {}", store.name()), figures });
        }
    }
    if args.measures(Part::Connected) {
        let figures = connected::measure(args, &scratch, stop)?;
        groups.push(Group { name: "a connected user".to_owned(), figures });
    }
    if args.measures(Part::Depth) {
        let figures = depth::measure(args, &scratch, stop)?;
        groups.push(Group { name: "depth".to_owned(), figures });
    }
    Ok(Report {
        scenario: "queue",
        title: format!("Queue and acknowledgement, {} shard(s)", args.common.shards),
        groups,
        notes: notes(args),
    })
}

/// Rounds in turn over all stores and the plain file, so that a disk that gets slower meanwhile
/// does so for all of them.
fn rates_and_device(args: &QueueArgs, scratch: &Scratch, stop: &Stop) -> Outcome<Vec<Group>> {
    let mut stores: Vec<_> = args.stores.iter().map(|&store| (store, Vec::new())).collect();
    let mut device = Vec::new();
    for round in 1..=args.rounds {
        for (store, rounds) in stores.iter_mut().filter(|_| args.measures(Part::Rates)) {
            progress(&format!("rates, round {round} of {}: {}", args.rounds, store.name()));
            rounds.push(rates::round(args, *store, scratch, stop)?);
        }
        if args.measures(Part::Device) {
            progress(&format!("plain writes, round {round} of {}", args.rounds));
            device.push(device::round(args, scratch, stop)?);
        }
    }
    let mut groups = Vec::new();
    for (store, rounds) in stores.into_iter().filter(|(_, rounds)| !rounds.is_empty()) {
        groups.push(Group { name: store.name().to_owned(), figures: join(rounds) });
    }
    if !device.is_empty() {
        groups.push(Group { name: "plain file".to_owned(), figures: join(device) });
    }
    Ok(groups)
}

/// Memory, and one disk: how often that is synced makes no difference to what is kept.
fn in_memory_and_on_disk(args: &QueueArgs) -> Vec<Store> {
    let memory = args.stores.iter().find(|store| store.fsync().is_none());
    let disk = args.stores.iter().find(|store| store.fsync().is_some());
    memory.into_iter().chain(disk).copied().collect()
}

fn notes(args: &QueueArgs) -> Vec<String> {
    let mut notes = vec![format!("Disk: {}", mount(&args.directory))];
    if args.measures(Part::Rates) {
        notes.push(
            "Rates: a message is one notification for one user. One trigger names all the users, so \
             that HTTP is a small part; every message was counted in the queue and arrived exactly \
             once. The shard's CPU is a part of the gateway's; the reciprocal of the shard's is \
             what one core could take. To return, a user connects, whose cost was measured \
             beforehand and is left out of the CPU."
                .to_owned(),
        );
    }
    if args.measures(Part::Memory) || args.measures(Part::Pending) {
        notes.push(
            "Memory is the growth of the resident set. What waits: each message is a notification \
             of its own by `send`, so nothing is shared, and its JSON is part of the figure. What \
             awaits its Ack: connected users, each notification shared by all of them, so that \
             its bytes do not count; what the same traffic takes without acknowledgement is \
             subtracted. The first ones bear what is there once: tables that double, buffers of a \
             journal, what the allocator keeps of both."
                .to_owned(),
        );
    }
    if args.measures(Part::Depth) {
        notes.push(
            "Depth: what an operation costs must not depend on how much waits. Acks go over the \
             user's own connection, each answered; each enqueued message is a `send`; compaction is of 20,000 \
             messages whatever the depth, which are then of 200, 20 or 2 users."
                .to_owned(),
        );
    }
    if args.measures(Part::Connected) {
        notes.push(
            "A connected user: publishes to one user at a time as in `unicast`, variants in turn \
             in each round, ratios within a round. An Ack is one more message in and one more \
             out, which the variant without a queue does not have; with a Ping to each \
             notification it has the like."
                .to_owned(),
        );
    }
    notes
}

/// The file system a directory is on, as the kernel lists it.
fn mount(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = directory.canonicalize().unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holds = fields.filter(|fields| fields.get(1).is_some_and(|at| path.starts_with(at)));
    let longest = holds.max_by_key(|fields| fields.get(1).map(|at| at.len()));
    longest.map_or_else(
        || "unknown".to_owned(),
        |fields| fields.get(..4).unwrap_or_default().join(" "),
    )
}
