//! The router: the one owner of everything that is exact across shards.
//!
//! **Runs on**: a thread of its own, with a current-thread runtime shared by the HTTP API and the
//! Redis subscriber. **Owns**: the links to the shards, admission, interest, pending triggers.
//! **Never**: blocks, locks, or holds a borrow of its state over an await.
//!
//! Its state sits in one `RefCell` behind [`Router`]; every method borrows, acts and returns.

pub mod batch;
pub mod dispatch;
pub mod drain;
pub mod interest;
pub mod pending;
mod queue_room;
mod shares;
mod stop;
pub mod tenants;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ara_shards::base::disk_health::DiskHealth;
use ara_shards::base::placement::{Placement, UserHash};
use ara_shards::base::socket::Socket;
use ara_shards::base::tenant_limits::TenantLimits;
use ara_shards::encoding::{Encoding, Encodings};
use ara_shards::link::message::{Adoption, Control, Query, Recipient, Report};
use ara_shards::link::reply::ReplyTo;
use ara_shards::protocol::Protocol;
use ara_shards::{Limits, Refused, ShardLink};
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::listener::handshake::Admission;
use crate::ratelimit::{RateLimitCounts, RateLimiter};
use crate::refusal::{Code, Refusal};
use dispatch::Lifetimes;
use interest::Interest;
use pending::Pending;
use queue_room::QueueRoom;
use shares::Shares;
pub use stop::shutting_down;
use tenants::{TenantFigures, Tenants};

/// The longest a caller waits for the shards. A shard answers within a turn (milliseconds); this
/// long, something is broken and the caller must know that the outcome is not known.
pub const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// Where the gateway is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Taking clients and triggers.
    Ready,
    /// A stop is announced: readiness is off, and all goes on until its delay is over.
    StopAnnounced,
    /// Sending clients away as the operator has ordered, and taking no new ones. Triggers go on.
    Draining,
    /// Saying goodbye.
    Stopping,
}

/// What the router counts, since start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Triggers the shards took.
    pub triggers: u64,
    /// Triggers refused because an inbox was full.
    pub overloaded: u64,
    /// Batches that were read apart.
    pub batches: u64,
    /// Notifications in them, whatever became of each.
    pub batch_notifications: u64,
    /// Clients refused because the gateway is full.
    pub refused_full: u64,
    /// Clients refused because their tenant has as many connections as it may have.
    pub refused_per_tenant: u64,
}

/// A handle on the router's state, for tasks of the router's thread.
#[derive(Debug, Clone)]
pub struct Router(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    shards: Vec<ShardLink>,
    placement: Placement,
    interest: Interest,
    pending: Pending,
    /// What each tenant has on its way; `None` with tenants off.
    tenant_shares: Option<Shares>,
    phase: Phase,
    /// Whether main has announced the stop, whatever the phase.
    stop_is_announced: bool,
    paced_drain: Option<drain::PacedDrain>,
    drain_changed: Rc<Notify>,
    counters: Counters,
    admitted: Admitted,
    connections_max: usize,
    rate_limiter: RateLimiter,
    lifetimes: Lifetimes,
    /// `None` = all traffic is of one tenant, and nothing is counted by tenant.
    tenants: Option<Tenants>,
    /// `None` = nothing waits, or all traffic is of one tenant.
    queue_room: Option<QueueRoom>,
    /// Room has been given back.
    room_settled: Rc<Notify>,
    /// Each shard's disk.
    disks: Vec<DiskHealth>,
    /// Shards that have said goodbye to all their clients.
    drained: usize,
    all_drained: Rc<Notify>,
    started: Instant,
    /// When the next process is there at the latest, as far as can be known; `None` until the stop.
    next_start: Option<Instant>,
}

/// Clients admitted and not reported closed, by what is spoken with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Admitted([usize; Protocol::COUNT]);

impl Admitted {
    /// All of them.
    #[must_use]
    pub fn total(self) -> usize {
        self.0.iter().sum()
    }

    /// The encodings that somebody reads.
    fn encodings(self) -> Encodings {
        let counts = Protocol::ALL.into_iter().zip(self.0);
        counts.filter(|(_, count)| *count > 0).map(|(protocol, _)| protocol.encoding()).collect()
    }

    fn of(&mut self, protocol: Protocol) -> &mut usize {
        self.0.get_mut(protocol.index()).expect("every protocol has its count")
    }
}

impl Router {
    /// A router over these shards that admits `connections_max` clients, and of each tenant as many as
    /// `limits` say.
    #[must_use]
    pub fn new(
        shards: Vec<ShardLink>,
        placement: Placement,
        connections_max: usize,
        lifetimes: Lifetimes,
        limits: &Limits,
    ) -> Self {
        let count = shards.len();
        Self(Rc::new(RefCell::new(State {
            shards,
            placement,
            interest: Interest::new(count),
            pending: Pending::default(),
            tenant_shares: None,
            phase: Phase::Ready,
            stop_is_announced: false,
            paced_drain: None,
            drain_changed: Rc::new(Notify::new()),
            counters: Counters::default(),
            admitted: Admitted::default(),
            connections_max,
            rate_limiter: RateLimiter::default(),
            lifetimes,
            tenants: limits.tenants.clone().map(Tenants::new),
            queue_room: limits.queue.and_then(|_on| limits.tenants.clone()).map(QueueRoom::new),
            room_settled: Rc::new(Notify::new()),
            disks: vec![DiskHealth::Sound; count],
            drained: 0,
            all_drained: Rc::new(Notify::new()),
            started: Instant::now(),
            next_start: None,
        })))
    }

    /// Lets no tenant have more of a lane, which has room for `capacity`, than is free. Before the first
    /// trigger; the shards have fair turns then.
    pub fn share_lanes(&self, capacity: usize) {
        let mut state = self.0.borrow_mut();
        state.tenant_shares = Some(Shares::new(state.shards.len(), capacity));
    }

    /// Lets clients and callers come only so often. Before the first of them.
    pub fn limit_rates(&self, rate_limiter: RateLimiter) {
        self.0.borrow_mut().rate_limiter = rate_limiter;
    }

    /// How often somebody may do something.
    #[must_use]
    pub fn rate_limiter(&self) -> RateLimiter {
        self.0.borrow().rate_limiter.clone()
    }

    /// Takes every report the shards have sent.
    pub fn take_reports(&self) {
        self.0.borrow_mut().take_reports();
    }

    /// Sends a client to its home shard, or gives its socket back with the refusal to write.
    ///
    /// # Errors
    ///
    /// The gateway is full, overloaded or stopping.
    pub fn admit(
        &self,
        socket: Socket,
        admission: Admission,
        leftover: Box<[u8]>,
    ) -> Result<(), (Socket, Vec<u8>)> {
        let mut state = self.0.borrow_mut();
        let responder = admission.responder;
        let refuse = |socket, refusal: Refusal| Err((socket, responder.refusal(&refusal)));
        match state.phase {
            Phase::Ready | Phase::StopAnnounced => {}
            Phase::Draining => return refuse(socket, drain::draining()),
            Phase::Stopping => return refuse(socket, state.shutting_down()),
        }
        if let Err(refusal) = state.rate_limiter.connection(socket.peer()) {
            return refuse(socket, refusal);
        }
        state.take_reports();
        if state.admitted.total() >= state.connections_max {
            state.counters.refused_full += 1;
            let sentence = format!("the gateway is full: {} connections", state.connections_max);
            return refuse(socket, Refusal::new(Code::ConnectionLimit, sentence));
        }
        let tenants = state.tenants.as_ref();
        if let Some(most) = tenants.and_then(|tenants| tenants.is_full(&admission.client.tenant)) {
            state.counters.refused_per_tenant += 1;
            return refuse(socket, per_tenant_refusal(most));
        }
        let tenant = state.tenants.is_some().then(|| Arc::clone(&admission.client.tenant));
        let home = state.placement.home(admission.client.hash);
        let adoption = Box::new(Adoption {
            socket,
            protocol: responder.protocol,
            client: admission.client,
            response_head: admission.response_head,
            // Made for each: it has a `Date`, and a page must be allowed to read why.
            refusal: responder.refusal(&per_user_refusal()).into(),
            leftover,
            connection_id: admission.connection_id,
        });
        match state.shard(home).control(Control::Adopt(adoption)) {
            Ok(()) => {
                *state.admitted.of(responder.protocol) += 1;
                if let (Some(tenants), Some(tenant)) = (&mut state.tenants, &tenant) {
                    tenants.opened(tenant);
                }
                Ok(())
            }
            Err(Refused(Control::Adopt(adoption))) => refuse(adoption.socket, overloaded()),
            Err(Refused(other)) => panic!("a lane gives back what it was given, not {other:?}"),
        }
    }

    /// Asks one shard and waits for its reply.
    ///
    /// # Errors
    ///
    /// The shard has no room for the query, or did not reply in time.
    pub async fn ask<T>(
        &self,
        shard: usize,
        query: impl FnOnce(ReplyTo<T>) -> Query,
    ) -> Result<T, Refusal> {
        let reply = self.0.borrow().ask(shard, query)?;
        in_time(reply).await
    }

    /// Asks every shard and waits for their replies, which are in shard order.
    ///
    /// # Errors
    ///
    /// A shard has no room for the query, or did not reply in time.
    pub async fn ask_all<T>(&self, query: impl Fn(ReplyTo<T>) -> Query) -> Result<Vec<T>, Refusal> {
        let replies: Vec<_> = {
            let state = self.0.borrow();
            let ask = |shard| state.ask(shard, &query);
            (0..state.shards.len()).map(ask).collect::<Result<_, _>>()?
        };
        in_time(async {
            let mut values = Vec::with_capacity(replies.len());
            for reply in replies {
                values.push(reply.await?);
            }
            Ok(values)
        })
        .await
    }

    /// A user as shards know it.
    #[must_use]
    pub fn recipient(&self, tenant: Arc<str>, user: &str) -> Recipient {
        let hash = self.0.borrow().placement.hash(&tenant, user);
        Recipient { tenant, user: user.into(), hash }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.borrow().shards.len()
    }

    /// The home shard of a user.
    #[must_use]
    pub fn home(&self, hash: UserHash) -> usize {
        self.0.borrow().placement.home(hash)
    }

    /// Every tenant that is known, with its figures; none where tenants are not kept apart.
    #[must_use]
    pub fn tenants(&self) -> Vec<(Arc<str>, TenantFigures)> {
        self.0.borrow().tenants.as_ref().map(Tenants::all).unwrap_or_default()
    }

    /// A tenant's figures and limits, if it is known, and how many notifications wait for it, if it has a
    /// limit on them.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<(TenantFigures, TenantLimits, Option<u64>)> {
        let state = self.0.borrow();
        let tenants = state.tenants.as_ref()?;
        let queued = state.queue_room.as_ref().and_then(|room| room.waiting(name));
        tenants.figures_of(name).map(|figures| (figures, tenants.limits_of(name), queued))
    }

    /// Where the gateway is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.borrow().phase
    }

    /// The worst health of the shards' disks.
    #[must_use]
    pub fn disk(&self) -> DiskHealth {
        self.0.borrow().disks.iter().max().copied().unwrap_or_default()
    }

    /// What was counted, who is admitted, each inbox's depth, and since when.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let state = self.0.borrow();
        Overview {
            counters: state.counters,
            admitted: state.admitted,
            connections_max: state.connections_max,
            rate_limits: state.rate_limiter.counts(),
            inbox_depths: state.inbox_depths(),
            uptime: state.started.elapsed(),
        }
    }

    /// Other limits from now on, here and on every shard. Whoever is beyond one of them already stays.
    /// Whether every shard was told; those that were not work within the limits they had.
    #[must_use]
    pub async fn reconfigure(&self, connections_max: usize, limits: &Limits) -> bool {
        {
            let mut state = self.0.borrow_mut();
            state.connections_max = connections_max;
            if let (Some(tenants), Some(limits)) = (&mut state.tenants, &limits.tenants) {
                tenants.set_limits(Arc::clone(limits));
            }
            if let (Some(room), Some(limits)) = (&mut state.queue_room, &limits.tenants) {
                room.set_limits(Arc::clone(limits));
            }
        }
        self.tell_all(|| Control::Limits(Box::new(limits.clone()))).await
    }
}

/// The router's figures for `/stats`.
#[derive(Debug)]
pub struct Overview {
    /// Its counters.
    pub counters: Counters,
    /// Clients admitted now.
    pub admitted: Admitted,
    /// The most it admits.
    pub connections_max: usize,
    /// What rate limits have counted.
    pub rate_limits: RateLimitCounts,
    /// Messages waiting, by shard.
    pub inbox_depths: Vec<usize>,
    /// Time since start.
    pub uptime: Duration,
}

impl State {
    fn take_reports(&mut self) {
        let mut drained = 0;
        for (index, (shard, disk)) in self.shards.iter().zip(&mut self.disks).enumerate() {
            while let Some(report) = shard.next_report() {
                match report {
                    Report::Delivered { request, total, parts } => {
                        let owner = self.pending.delivered(request, index, total, &parts);
                        if let Some((tenant, priority)) = owner {
                            if let Some(tenants) = &mut self.tenants {
                                tenants.delivered(&tenant, total.delivered);
                            }
                            if let Some(tenant_shares) = &mut self.tenant_shares {
                                tenant_shares.reported(index, priority, &tenant);
                            }
                        }
                    }
                    Report::Interest { tenant, channel, present } => {
                        self.interest.update(index, &tenant, channel.as_deref(), present);
                    }
                    Report::Closed { protocol, tenant } => {
                        if let (Some(tenants), Some(tenant)) = (&mut self.tenants, tenant) {
                            tenants.closed(&tenant);
                        }
                        let count = self.admitted.of(protocol);
                        *count = count.checked_sub(1).expect("an admitted client closes once");
                    }
                    Report::Waiting { tenant, change, settled } => {
                        if let Some(room) = &mut self.queue_room {
                            room.settle(tenant, change, settled);
                            self.room_settled.notify_waiters();
                        }
                    }
                    Report::Replied(reply) => reply.deliver(),
                    Report::Disk(health) => *disk = health,
                    Report::Drained => drained += 1,
                }
            }
        }
        self.drained += drained;
        if drained > 0 && self.drained >= self.shards.len() {
            self.all_drained.notify_one();
        }
    }

    /// What waits for each shard: where tenants take turns, some of it not in the lanes any more.
    fn inbox_depths(&self) -> Vec<usize> {
        let depth = |(index, link): (usize, &ShardLink)| match &self.tenant_shares {
            Some(tenant_shares) => tenant_shares.waiting(index) + link.controls_waiting(),
            None => link.depth(),
        };
        self.shards.iter().enumerate().map(depth).collect()
    }

    /// The encodings a notification is made in. What may be kept is kept as text, so that a reader
    /// of text who comes while it is on its way to the shards can have it.
    fn encodings(&self) -> Encodings {
        let read = self.admitted.encodings();
        if self.lifetimes.keeps_messages { read.with(Encoding::AraText) } else { read }
    }

    fn shard(&self, index: usize) -> &ShardLink {
        self.shards.get(index).expect("the placement and the interest name shards that there are")
    }

    fn ask<T>(
        &self,
        shard: usize,
        query: impl FnOnce(ReplyTo<T>) -> Query,
    ) -> Result<oneshot::Receiver<T>, Refusal> {
        let (reply_to, reply) = ReplyTo::new();
        let sent = self.shard(shard).control(Control::Ask(query(reply_to)));
        sent.map(|()| reply).map_err(|_query| overloaded())
    }
}

/// What the shards report, or a refusal if that takes too long.
async fn in_time<T>(report: impl Future<Output = Result<T, RecvError>>) -> Result<T, Refusal> {
    by(Instant::now() + REPORT_DEADLINE, report).await
}

/// As [`in_time`], where the time is known.
async fn by<T>(
    deadline: Instant,
    report: impl Future<Output = Result<T, RecvError>>,
) -> Result<T, Refusal> {
    match timeout_at(deadline.into(), report).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(_)) | Err(_) => {
            let sentence = "a shard did not report in time; what it was sent may still arrive";
            Err(Refusal::new(Code::Internal, sentence))
        }
    }
}

/// The user has too many connections.
fn per_user_refusal() -> Refusal {
    let sentence = "this user has as many connections as it may have; close another first";
    Refusal::new(Code::ConnectionLimit, sentence)
}

/// The tenant has too many connections.
fn per_tenant_refusal(most: usize) -> Refusal {
    let sentence = format!(
        "this tenant has as many connections as it may have: {most} (max_connections); close others first"
    );
    Refusal::new(Code::ConnectionLimit, sentence)
}

/// Nobody got it, and as much waits for its tenant as may.
fn queue_full() -> Refusal {
    let sentence = "it cannot be queued: as many notifications wait for this tenant as may \
                    (max_queued); nobody got it";
    Refusal::new(Code::QueueFull, sentence)
}

/// A lane is full.
fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "a shard's inbox is full; nothing was sent, try again")
}

/// The tenant has as much in a lane as is left for all others.
fn share_used() -> Refusal {
    let sentence = "this tenant has its share of a shard's inbox; nothing was sent, try again";
    Refusal::new(Code::Overloaded, sentence)
}

/// Whoever should get it is away, and the disk does not take it.
fn queue_unavailable(disk: DiskHealth) -> Refusal {
    let why = match disk {
        // It has recovered meanwhile, or was only behind.
        DiskHealth::Sound | DiskHealth::Behind => "the disk is behind with what it was given",
        DiskHealth::Limit => "queue.max_disk_bytes is used up",
        DiskHealth::Full => "the disk is full",
        DiskHealth::Failed => "the disk cannot be written",
    };
    let sentence = format!("it cannot be queued: {why}; nobody got it, try again later");
    Refusal::new(Code::QueueUnavailable, sentence)
}

#[cfg(test)]
mod tests;
