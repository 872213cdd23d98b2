//! How fast messages get into the queue and out of it, and what CPU each takes.
//!
//! **Runs on**: the tool's one thread. **Owns**: the gateway of a round. **Never**: counts a
//! message that the gateway does not have, or that did not arrive exactly once.

use std::time::{Duration, Instant};

use super::pump::{self, DEEP, Pumped, WIDE, is_queued, pump};
use super::setup::{Scratch, check_held, with_queue};
use crate::caller::{Api, ENVELOPE_BYTES, NUMBERED_BYTES, Users};
use crate::cli::{QueueArgs, Store};
use crate::fault::Outcome;
use crate::figures::{Figure, percentile_us};
use crate::gateway::Gateway;
use crate::procfs;
use crate::scenario::{LATE, QUIET, check_no_strays, us_each};
use crate::stop::Stop;
use crate::subscriber::Transport;
use crate::swarm::Swarm;

/// The first of those who stay away, of those who connect with nothing waiting, of those who
/// return, and the one with the long queue.
const STAYING: u32 = 0;
const EMPTY: u32 = 100_000;
const RETURNING: u32 = 200_000;
const LONG: u32 = 300_000;
/// After all have left: their sockets are closed and the gateway has dealt with what they left.
const REST: Duration = Duration::from_millis(500);

/// A gateway under load, and the next sequence number.
struct Drive<'a> {
    args: &'a QueueArgs,
    gateway: &'a Gateway,
    swarm: &'a mut Swarm,
    api: Api,
    next_seq: u32,
    /// Messages of those who stay away.
    staying: u64,
}

/// CPU time of the gateway, and of its shards alone.
#[derive(Clone, Copy)]
struct Cpu {
    all: u64,
    shards: u64,
}

pub(super) fn round(
    args: &QueueArgs,
    store: Store,
    scratch: &Scratch,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let common = with_queue(&args.common, store, &scratch.fresh()?, false);
    let gateway = Gateway::start(&common, common.shards, stop)?;
    let mut swarm = gateway.swarm(&common, Transport::Ws, None, stop)?;
    swarm.add_callers(WIDE.callers)?;
    let payload = (args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES).max(NUMBERED_BYTES);
    let mut drive = Drive {
        args,
        gateway: &gateway,
        swarm: &mut swarm,
        api: gateway.api(payload),
        next_seq: 0,
        staying: u64::from(args.users) * u64::from(args.messages),
    };
    pump::warm_up(drive.swarm, &drive.api, args.users)?;
    let mut figures = vec![Figure::one(
        "json_bytes",
        "Notification's JSON",
        "B",
        (ENVELOPE_BYTES + payload) as f64,
    )];
    figures.extend(drive.enqueue()?);
    let connecting = drive.connecting()?;
    figures.extend(drive.many_return(connecting)?);
    figures.extend(drive.one_returns(connecting)?);
    drop(swarm);
    gateway.end()?;
    Ok(figures)
}

impl Drive<'_> {
    /// Messages for users who stay away.
    fn enqueue(&mut self) -> Outcome<Vec<Figure>> {
        let pid = self.gateway.pid();
        let (cpu, written) = (self.cpu()?, procfs::written_bytes(pid)?);
        let pumped = self.queue_for(STAYING, self.args.users, self.args.messages)?;
        let used = self.cpu()?.since(cpu);
        let written = procfs::written_bytes(pid)?.saturating_sub(written);
        check_held(self.gateway, self.staying, 0)?;
        let rate = self.staying as f64 / pumped.took.as_secs_f64();
        Ok(vec![
            Figure::one("enqueued_per_second", "Into the queue, messages", "/s", rate),
            Figure::one(
                "enqueue_us",
                "Into the queue, gateway's CPU per message",
                "µs",
                us_each(used.all, self.staying),
            ),
            Figure::one(
                "enqueue_shard_us",
                "Into the queue, shard's CPU per message",
                "µs",
                us_each(used.shards, self.staying),
            ),
            Figure::one(
                "enqueue_response_p50_us",
                format!("Trigger to {} users, request to response, p50", self.args.users),
                "µs",
                percentile_us(&pumped.responses, 50),
            ),
            Figure::one(
                "written_bytes",
                "Written to the disk per message",
                "B",
                written as f64 / self.staying as f64,
            ),
        ])
    }

    /// CPU of one connection with nothing waiting.
    fn connecting(&mut self) -> Outcome<Cpu> {
        let (count, at_once) = (self.args.replay_users, self.args.common.at_once);
        let cpu = self.cpu()?;
        self.swarm.connect_all(EMPTY, count, at_once)?;
        let used = self.cpu()?.since(cpu);
        self.leave()?;
        let each = |ns: u64| ns / u64::from(count);
        Ok(Cpu { all: each(used.all), shards: each(used.shards) })
    }

    fn many_return(&mut self, connecting: Cpu) -> Outcome<Vec<Figure>> {
        let (users, messages) = (self.args.replay_users, self.args.replay_messages);
        let first = self.next_seq;
        self.queue_for(RETURNING, users, messages)?;
        let (rate, used) = self.replay(RETURNING, users, (first, messages), connecting)?;
        let count = u64::from(users) * u64::from(messages);
        let who = format!("To {users} users who return, {messages} each");
        Ok(vec![
            Figure::one("replayed_per_second", format!("{who}, messages"), "/s", rate),
            Figure::one(
                "replay_us",
                format!("{who}, gateway's CPU per message"),
                "µs",
                us_each(used.all, count),
            ),
            Figure::one(
                "replay_shard_us",
                format!("{who}, shard's CPU per message"),
                "µs",
                us_each(used.shards, count),
            ),
        ])
    }

    fn one_returns(&mut self, connecting: Cpu) -> Outcome<Vec<Figure>> {
        let (messages, first) = (self.args.long_queue, self.next_seq);
        let api = &self.api;
        pump(self.swarm, DEEP, messages, |number| api.to_user(LONG, first + number), is_queued)?;
        self.next_seq += messages;
        let (rate, used) = self.replay(LONG, 1, (first, messages), connecting)?;
        let who = format!("To one user who returns, {messages}");
        Ok(vec![
            Figure::one("long_replayed_per_second", format!("{who}, messages"), "/s", rate),
            Figure::one(
                "long_replay_us",
                format!("{who}, gateway's CPU per message"),
                "µs",
                us_each(used.all, u64::from(messages)),
            ),
        ])
    }

    fn queue_for(&mut self, first: u32, count: u32, messages: u32) -> Outcome<Pumped> {
        let (users, api, base) = (Users::new(first, count), &self.api, self.next_seq);
        let request = |number| api.to_users(&users, base + number, None);
        let pumped = pump(self.swarm, WIDE, messages, request, is_queued)?;
        self.next_seq += messages;
        Ok(pumped)
    }

    /// The users connect; returns messages a second until the last has arrived, and the CPU of the
    /// messages alone.
    fn replay(
        &mut self,
        first: u32,
        users: u32,
        (base, messages): (u32, u32),
        connecting: Cpu,
    ) -> Outcome<(f64, Cpu)> {
        let count = u64::from(users) * u64::from(messages);
        check_held(self.gateway, self.staying + count, 0)?;
        self.swarm.arrivals().expect_queued(first, users, base, messages);
        let (cpu, start) = (self.cpu()?, Instant::now());
        self.swarm.connect_all(first, users, self.args.common.at_once)?;
        self.swarm.turn_until("messages that waited", |swarm| {
            let arrived = swarm.arrivals().arrived;
            Ok((arrived, arrived == count))
        })?;
        let took = start.elapsed();
        let used = self.cpu()?.since(cpu);
        self.swarm.run_for(LATE)?;
        check_no_strays(self.swarm)?;
        self.leave()?;
        check_held(self.gateway, self.staying, 0)?;
        let messages_alone = |used: u64, each: u64| used.saturating_sub(each * u64::from(users));
        let used = Cpu {
            all: messages_alone(used.all, connecting.all),
            shards: messages_alone(used.shards, connecting.shards),
        };
        Ok((count as f64 / took.as_secs_f64(), used))
    }

    fn leave(&mut self) -> Outcome<()> {
        self.swarm.drop_subscribers();
        self.swarm.run_for(REST)
    }

    fn cpu(&mut self) -> Outcome<Cpu> {
        self.swarm.run_for(QUIET)?;
        let pid = self.gateway.pid();
        Ok(Cpu { all: procfs::cpu_ns(pid)?, shards: procfs::cpu_ns_of(pid, "shard-")? })
    }
}

impl Cpu {
    fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            shards: self.shards.saturating_sub(before.shards),
        }
    }
}
