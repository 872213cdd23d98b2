//! What one operation costs the shard with 100, 1,000 and 10,000 notifications waiting for the user.
//!
//! **Runs on**: the tool's one thread. **Owns**: a gateway for each figure. **Never**: measures an
//! operation on a queue that does not hold what it says.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::pump::{self, DEEP, is_queued, pump};
use super::setup::{Scratch, check_held, held, with_queue};
use crate::caller::ENVELOPE_BYTES;
use crate::cli::{Common, QueueArgs, Store};
use crate::fault::{Context, Outcome, failed};
use crate::figures::{Figure, join};
use crate::frame::{self, Opcode};
use crate::gateway::Gateway;
use crate::scenario::QUIET;
use crate::stop::Stop;
use crate::subscriber::Transport;
use crate::swarm::Swarm;
use crate::token::Tokens;
use crate::{http, procfs, progress};

/// How much waits.
const DEPTHS: [u32; 3] = [100, 1_000, 10_000];
/// Notifications the gateway sends a user who acknowledges none; the rest waits.
const IN_FLIGHT: u32 = 1_000;
/// Acks in a round, so many between two pongs.
const ACKS: u32 = 20_000;
const ACKS_AT_ONCE: u32 = 500;
/// Puts on a full queue in a round.
const PUTS: u32 = 20_000;
/// Live records that compaction moves, whoever they belong to.
const LIVE: u32 = 20_000;
/// What makes the log worth compacting: so many of the largest notifications, which expire at once.
const FILLERS: u32 = 1_200;
const FILLER_BYTES: usize = 50_000;
/// What is left when they are gone.
const COMPACTED_BYTES_MAX: u64 = 48 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

struct Operation {
    name: &'static str,
    label: &'static str,
    /// The names of its figures, one for each depth.
    keys: [&'static str; DEPTHS.len()],
    cost_us: fn(&QueueArgs, u32, &Scratch, &Stop) -> Outcome<f64>,
}

const OPERATIONS: [Operation; 3] = [
    Operation {
        name: "an Ack of an unknown id",
        label: "Ack of an unknown id, shard's CPU",
        keys: ["ack_100_us", "ack_1000_us", "ack_10000_us"],
        cost_us: unknown_acks,
    },
    Operation {
        name: "a put on a full queue",
        label: "Put on a full queue, shard's CPU",
        keys: ["put_100_us", "put_1000_us", "put_10000_us"],
        cost_us: full_puts,
    },
    Operation {
        name: "compaction",
        label: "Live record moved, fillers included, shard's CPU",
        keys: ["moved_100_us", "moved_1000_us", "moved_10000_us"],
        cost_us: compaction,
    },
];

/// One figure for each operation and depth. Depths have their turn in each round.
pub(super) fn measure(args: &QueueArgs, scratch: &Scratch, stop: &Stop) -> Outcome<Vec<Figure>> {
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        let mut figures = Vec::new();
        for Operation { name, label, keys, cost_us } in &OPERATIONS {
            progress(&format!("{name}, round {round} of {}", args.rounds));
            for (depth, key) in DEPTHS.into_iter().zip(keys) {
                let cost = cost_us(args, depth, scratch, stop)?;
                figures.push(Figure::one(key, format!("{label}, {depth} waiting"), "µs", cost));
            }
        }
        rounds.push(figures);
    }
    Ok(join(rounds))
}

fn start(common: &Common, stop: &Stop) -> Outcome<(Gateway, Swarm)> {
    let gateway = Gateway::start(common, common.shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.add_callers(DEEP.callers)?;
    Ok((gateway, swarm))
}

fn shard_cpu_ns(gateway: &Gateway) -> Outcome<u64> {
    procfs::cpu_ns_of(gateway.pid(), "shard-")
}

fn us_each(before: u64, after: u64, count: u32) -> f64 {
    after.saturating_sub(before) as f64 / 1000.0 / f64::from(count)
}

/// A connected user has as many in flight as may be, and the rest waits. It acknowledges what nobody
/// has sent.
fn unknown_acks(args: &QueueArgs, depth: u32, scratch: &Scratch, stop: &Stop) -> Outcome<f64> {
    let common = with_queue(&args.common, Store::Memory, &scratch.fresh()?, true);
    let (gateway, mut swarm) = start(&common, stop)?;
    let api = gateway.api((args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES));
    pump(&mut swarm, DEEP, IN_FLIGHT + depth, |number| api.to_user(0, number), is_queued)?;
    let mut client = Client::connect(&gateway, 0)?;
    client.read_until(IN_FLIGHT, |text| text.contains(r#""type":"notification""#))?;
    check_held(&gateway, u64::from(depth), u64::from(IN_FLIGHT))?;
    client.acknowledge_unknown(ACKS_AT_ONCE)?;
    let before = shard_cpu_ns(&gateway)?;
    for _ in 0..ACKS / ACKS_AT_ONCE {
        client.acknowledge_unknown(ACKS_AT_ONCE)?;
    }
    let after = shard_cpu_ns(&gateway)?;
    check_held(&gateway, u64::from(depth), u64::from(IN_FLIGHT))?;
    drop((client, swarm));
    gateway.end()?;
    Ok(us_each(before, after, ACKS))
}

/// The queue of an absent user is full, so that each new message makes the oldest give way.
fn full_puts(args: &QueueArgs, depth: u32, scratch: &Scratch, stop: &Stop) -> Outcome<f64> {
    let most = [("QUEUE_MAX_SIZE_PER_USER".to_owned(), depth.to_string())];
    let common = args.common.with_environment(most.into_iter());
    let common = with_queue(&common, Store::Memory, &scratch.fresh()?, false);
    let (gateway, mut swarm) = start(&common, stop)?;
    let api = gateway.api((args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES));
    let warm_up = depth + PUTS / 4;
    pump(&mut swarm, DEEP, warm_up, |number| api.to_user(0, number), is_queued)?;
    swarm.run_for(QUIET)?;
    let before = shard_cpu_ns(&gateway)?;
    pump(&mut swarm, DEEP, PUTS, |number| api.to_user(0, number), is_queued)?;
    let after = shard_cpu_ns(&gateway)?;
    check_held(&gateway, u64::from(depth), 0)?;
    drop(swarm);
    gateway.end()?;
    Ok(us_each(before, after, PUTS))
}

/// The same number of messages is live, of many users or of few, and is moved because what came
/// behind it has expired.
fn compaction(args: &QueueArgs, depth: u32, scratch: &Scratch, stop: &Stop) -> Outcome<f64> {
    let common = with_queue(&args.common, Store::Never, &scratch.fresh()?, false);
    let (gateway, mut swarm) = start(&common, stop)?;
    let api = gateway.api((args.json_bytes as usize).saturating_sub(ENVELOPE_BYTES));
    let users = LIVE / depth;
    pump(&mut swarm, DEEP, LIVE, |number| api.to_user(number % users, number), is_queued)?;
    let filler = gateway.api(FILLER_BYTES);
    let absent = crate::caller::Users::new(users, 1);
    swarm.run_for(QUIET)?;
    let before = shard_cpu_ns(&gateway)?;
    let request = |number| filler.to_users(&absent, number, Some(1));
    pump(&mut swarm, pump::WIDE, FILLERS, request, is_queued)?;
    let is_done = stop.poll(PATIENCE, || {
        swarm.run_for(QUIET)?;
        let is_expired = held(&gateway)?.waiting == u64::from(LIVE);
        let is_compacted = disk_bytes(&gateway)? < COMPACTED_BYTES_MAX;
        Ok((is_expired && is_compacted).then_some(()))
    })?;
    if is_done.is_none() {
        return failed("the journal was not compacted in time");
    }
    let after = shard_cpu_ns(&gateway)?;
    drop(swarm);
    gateway.end()?;
    Ok(us_each(before, after, LIVE))
}

fn disk_bytes(gateway: &Gateway) -> Outcome<u64> {
    #[derive(Deserialize)]
    struct Stats {
        queue: Queue,
    }
    #[derive(Deserialize)]
    struct Queue {
        disk: Disk,
    }
    #[derive(Deserialize)]
    struct Disk {
        bytes: u64,
    }
    let (_status, body) = http::get(gateway.address, "/stats", &gateway.api_key)?;
    let stats: Stats = serde_json::from_slice(&body).context("/stats")?;
    Ok(stats.queue.disk.bytes)
}

/// A client that says what the generator's clients never would.
struct Client {
    stream: TcpStream,
    input: VecDeque<u8>,
}

impl Client {
    fn connect(gateway: &Gateway, number: u32) -> Outcome<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let token = Tokens::new(&gateway.jwt_secret).issue(&format!("u{number}"), now.as_secs());
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
            http::WS_KEY
        );
        let mut stream = TcpStream::connect(gateway.address).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE)).context("cannot bound a read")?;
        stream.write_all(request.as_bytes()).context("cannot send a handshake")?;
        let mut client = Self { stream, input: VecDeque::new() };
        loop {
            client.fill()?;
            let input = client.input.make_contiguous();
            match http::read_head(input) {
                Ok(Some(head)) if head.status == 101 => {
                    client.input.drain(..head.bytes);
                    return Ok(client);
                }
                Ok(None) => {}
                other => return failed(format!("the handshake was answered {other:?}")),
            }
        }
    }

    fn fill(&mut self) -> Outcome<()> {
        let mut buffer = vec![0; 65_536];
        let count = self.stream.read(&mut buffer).context("cannot read")?;
        if count == 0 {
            return failed("the gateway closed the connection");
        }
        self.input.extend(buffer.iter().take(count));
        Ok(())
    }

    /// Reads until so many messages have come that are `wanted`.
    fn read_until(&mut self, count: u32, wanted: impl Fn(&str) -> bool) -> Outcome<()> {
        let mut seen = 0;
        loop {
            let input = self.input.make_contiguous();
            let mut used = 0;
            while seen < count {
                let rest = input.get(used..).unwrap_or_default();
                match frame::read(rest) {
                    Ok(Some(frame)) => {
                        used += frame.bytes;
                        seen +=
                            u32::from(wanted(str::from_utf8(frame.payload).unwrap_or_default()));
                    }
                    Ok(None) => break,
                    Err(why) => return failed(why),
                }
            }
            self.input.drain(..used);
            if seen == count {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn acknowledge_unknown(&mut self, count: u32) -> Outcome<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            let text = format!(
                r#"{{"type":"Ack","payload":{{"notification_id":"{:08x}-0000-7000-8000-000000000000"}}}}"#,
                fastrand::u32(..)
            );
            frame::write_client(&mut out, Opcode::Text, text.as_bytes(), [1, 2, 3, 4]);
        }
        self.stream.write_all(&out).context("cannot send Acks")?;
        self.read_until(count, |text| text.contains("ACK_UNKNOWN"))
    }
}
