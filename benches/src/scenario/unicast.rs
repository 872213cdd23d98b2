//! `unicast`: publishes to single users from many callers at once: CPU per publish, publishes per
//! second, and the time from request to arrival. A closed loop: each caller waits for its response.

use std::time::{Duration, Instant};

use super::{LATE, check_no_strays, quiet_cpu_ns, repeat, us_each};
use crate::caller::{Answer, Api, Template};
use crate::cli::{Common, UnicastArgs, UnicastLoad};
use crate::fault::{Outcome, failed};
use crate::figures::{Figure, percentile_us};
use crate::gateway::Gateway;
use crate::limits;
use crate::report::{Group, Report};
use crate::stop::{LOOK_EVERY, Stop};
use crate::subscriber::{Reply, Transport};
use crate::swarm::Swarm;

pub(super) const WARM_UP: Duration = Duration::from_millis(500);

/// The publishing side of a round.
pub(super) struct Drive<'a> {
    pub(super) swarm: &'a mut Swarm,
    pub(super) api: Api,
    /// What triggers name instead of having a payload.
    pub(super) template: Option<Template>,
    pub(super) users: u32,
    pub(super) callers: u32,
    /// How many notifications a request has; more than one make a batch.
    pub(super) batch_size: u32,
    /// Whether a notification is answered, and that answered in turn.
    pub(super) replies: bool,
    pub(super) next_seq: u32,
}

/// One stretch of publishing, all of it delivered.
pub(super) struct Stretch {
    pub(super) publishes: u64,
    took: Duration,
    /// Request to response.
    responses: Vec<Duration>,
}

pub(crate) fn run(args: &UnicastArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.load.connections)?;
    let load = &args.load;
    let figures = repeat(args.rounds, || round(&args.common, load, args.common.shards, stop))?;
    Ok(Report {
        scenario: "unicast",
        title: format!(
            "Unicast: {} users, {} callers, {} s, payload {} B",
            load.connections, load.callers, load.seconds, load.payload_bytes,
        ),
        groups: vec![Group { name: "unicast".to_owned(), figures }],
        notes: vec![
            "Every notification arrived exactly once. With one generator process the rate may be \
             the generator's; latency holds the time spent waiting in it."
                .to_owned(),
        ],
    })
}

pub(crate) fn round(
    common: &Common,
    load: &UnicastLoad,
    shards: usize,
    stop: &Stop,
) -> Outcome<Vec<Figure>> {
    let gateway = Gateway::start(common, shards, stop)?;
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.connect_all(0, load.connections, common.at_once)?;
    swarm.add_callers(load.callers as usize)?;
    swarm.reply_with(load.reply);
    let mut drive = Drive {
        swarm: &mut swarm,
        api: gateway.api(load.payload_bytes as usize),
        template: None,
        users: load.connections,
        callers: load.callers,
        batch_size: 1,
        replies: load.reply != Reply::None,
        next_seq: 0,
    };
    drive.publish(WARM_UP)?;
    let cpu = quiet_cpu_ns(drive.swarm, gateway.pid())?;
    let mut stretch = drive.publish(Duration::from_secs(load.seconds))?;
    let used = quiet_cpu_ns(&mut swarm, gateway.pid())?.saturating_sub(cpu);
    let mut latencies = std::mem::take(&mut swarm.arrivals().latencies);
    swarm.run_for(LATE)?;
    check_no_strays(&mut swarm)?;
    drop(swarm);
    gateway.end()?;
    latencies.sort_unstable();
    stretch.responses.sort_unstable();
    let rate = stretch.publishes as f64 / stretch.took.as_secs_f64();
    let arrival = |percent| percentile_us(&latencies, percent);
    let response = |percent| percentile_us(&stretch.responses, percent);
    Ok(vec![
        Figure::one(
            "us_per_publish",
            "Gateway, CPU per publish",
            "µs",
            us_each(used, stretch.publishes),
        ),
        Figure::one("publishes_per_second", "Publishes", "/s", rate),
        Figure::one("arrival_p50_us", "Request to arrival, p50", "µs", arrival(50)),
        Figure::one("arrival_p99_us", "Request to arrival, p99", "µs", arrival(99)),
        Figure::one("response_p50_us", "Request to response, p50", "µs", response(50)),
        Figure::one("response_p99_us", "Request to response, p99", "µs", response(99)),
    ])
}

/// How often a comparison has each kind.
const TURNS: usize = 2;

impl Drive<'_> {
    /// Publishes what two kinds are in turn, each so long and so often, after a warm-up. Microseconds of
    /// the gateway's CPU for each notification of each.
    pub(super) fn compare(
        &mut self,
        gateway: u32,
        seconds: u64,
        kinds: [impl Fn(&mut Self); 2],
    ) -> Outcome<[f64; 2]> {
        /// CPU and notifications of one kind so far.
        #[derive(Clone, Copy, Default)]
        struct Sum {
            cpu_ns: u64,
            notifications: u64,
        }
        let mut sums = [Sum::default(); 2];
        for turn in 0..=TURNS {
            for (sum, choose) in sums.iter_mut().zip(&kinds) {
                choose(self);
                if turn == 0 {
                    self.publish(WARM_UP)?;
                    continue;
                }
                let before = quiet_cpu_ns(self.swarm, gateway)?;
                let stretch = self.publish(Duration::from_secs(seconds))?;
                let after = quiet_cpu_ns(self.swarm, gateway)?;
                sum.cpu_ns += after.saturating_sub(before);
                sum.notifications += stretch.publishes;
            }
        }
        Ok(sums.map(|sum| us_each(sum.cpu_ns, sum.notifications)))
    }

    /// Keeps every caller busy for `time`, then waits until all has been answered and has arrived.
    pub(super) fn publish(&mut self, time: Duration) -> Outcome<Stretch> {
        let (base, start) = (self.next_seq, Instant::now());
        let mut responses = Vec::new();
        self.swarm.arrivals().latencies.clear();
        self.swarm.arrivals().replies = 0;
        let replies_each = u64::from(self.replies);
        self.swarm.arrivals().expect_unicasts(base);
        for caller in 0..self.callers {
            self.post(caller as usize)?;
        }
        while start.elapsed() < time {
            self.swarm.turn(LOOK_EVERY)?;
            check_no_strays(self.swarm)?;
            for answer in self.swarm.take_answers() {
                check(&answer, self.batch_size)?;
                responses.push(answer.took);
                self.post(answer.caller)?;
            }
        }
        let publishes = u64::from(self.next_seq - base);
        let (batch_size, requests) = (self.batch_size, publishes / u64::from(self.batch_size));
        self.swarm.turn_until(&format!("{publishes} deliveries"), |swarm| {
            for answer in swarm.take_answers() {
                check(&answer, batch_size)?;
                responses.push(answer.took);
            }
            check_no_strays(swarm)?;
            let (arrived, answered) = (swarm.arrivals().arrived, responses.len() as u64);
            let replies = swarm.arrivals().replies;
            let done =
                arrived == publishes && answered == requests && replies == replies_each * publishes;
            Ok((arrived + replies, done))
        })?;
        Ok(Stretch { publishes, took: start.elapsed(), responses })
    }

    fn post(&mut self, caller: usize) -> Outcome<()> {
        let users: Vec<u32> = (0..self.batch_size).map(|_| fastrand::u32(0..self.users)).collect();
        let request = match (&self.template, users.as_slice()) {
            (None, [user]) => self.api.to_user(*user, self.next_seq),
            (Some(template), [user]) => self.api.to_user_by(template, *user, self.next_seq),
            (_, users) => self.api.to_each(users, self.next_seq),
        };
        self.next_seq += self.batch_size;
        for user in users {
            self.swarm.arrivals().sent(user);
        }
        self.swarm.post(caller, &request)
    }
}

fn check(answer: &Answer, notifications: u32) -> Outcome<()> {
    if answer.delivered_to == u64::from(notifications) && answer.failed == 0 {
        return Ok(());
    }
    failed(format!(
        "the gateway said delivered {}, failed {} of {notifications} to users with one connection",
        answer.delivered_to, answer.failed
    ))
}
