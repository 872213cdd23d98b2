//! What can happen to messages, drawn from a small world, so that things meet.
//!
//! **Runs on**: a test. **Owns**: nothing. **Never**: draws what the router would not send.

use std::time::Duration;

use std::sync::Arc;

use crate::base::tenant_limits::{LimitsByTenant, TenantLimits};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use crate::base::limits::{AckLimits, Limits, QueueLimits};
use crate::link::message::Source;
use crate::notification::Priority;
use crate::protocol::Transport;
use crate::wire::close::CloseReason;

/// The users: the same name in two tenants, and all with the same hash, so that a mix-up shows.
pub(super) const USERS: [(&str, &str); 3] = [("acme", "ann"), ("acme", "bob"), ("zenith", "ann")];

/// A client that comes.
#[derive(Debug, Clone)]
pub(super) struct Newcomer {
    pub(super) user: usize,
    pub(super) transport: Transport,
    /// Whether its token carries the role that some messages are for.
    pub(super) in_role: bool,
    pub(super) notify_settled: bool,
    /// The message it says it has seen last, among all there were.
    pub(super) seen: Option<Index>,
}

/// A trigger to single users.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    pub(super) users: Vec<usize>,
    pub(super) priority: Priority,
    pub(super) ttl: Option<Duration>,
    pub(super) for_role: bool,
    /// What a frame of it counts as in an outbox; see [`super::sockets`].
    pub(super) weight: u8,
    /// Whether it was made when an SSE client was there.
    pub(super) for_sse: bool,
}

/// One thing that happens. An [`Index`] picks among the connections, or the messages so far.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Connect(Newcomer),
    /// The socket is gone (`true`), or its end was read.
    Leave(Index, bool),
    Dismiss(Index, CloseReason<'static>),
    Trigger(Trigger),
    /// A client acknowledges one of its user's messages, or of anybody's (`true`).
    Ack(Index, Index, bool),
    ApiAck(usize, Vec<Index>),
    Clear(usize, Source),
    Stall(Index),
    Flow(Index),
    /// A stalled client reads some frames, and perhaps the beginning of one more.
    Drip(Index, usize, bool),
    Admission(u32),
}

/// An action, and whether the turn ends after it.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) ends_turn: bool,
}

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let seconds = Duration::from_secs;
    let sizes =
        (select(vec![0, 1, 2, 5]), select(vec![4_u64, 60, 7_200]), select(vec![0_u64, 5, 600]));
    let queue = sizes.prop_map(move |(per_user_max, ttl, dead_letter_ttl)| QueueLimits {
        per_user_max,
        ttl: seconds(ttl),
        dead_letter_ttl: seconds(dead_letter_ttl),
    });
    let window = select(vec![1_u32, 2, 5, 1000, 1000]);
    let ack = (select(vec![1_u64, 30]), prop::bool::weighted(0.75), 1..=3_u8, window).prop_map(
        |(timeout, requeue, attempts_max, in_flight_max)| AckLimits {
            timeout: Duration::from_secs(timeout),
            requeue,
            attempts_max,
            in_flight_max,
        },
    );
    // One tenant has a limit on what waits; another has none.
    let tenants = select(vec![None, Some(1), Some(3), Some(6)]);
    (prop::option::weighted(0.8, queue), prop::option::weighted(0.6, ack), tenants).prop_map(
        |(queue, ack, queued_max)| Limits {
            tenants: queued_max.map(|queued_max| {
                let default = TenantLimits {
                    connections_max: 0,
                    connections_per_user_max: 3,
                    subscriptions_per_connection_max: 0,
                    queued_max: 0,
                };
                let acme = ("acme".into(), TenantLimits { queued_max, ..default });
                Arc::new(LimitsByTenant { default, overrides: [acme].into_iter().collect() })
            }),
            connections_per_user_max: 3,
            heartbeat_interval: Duration::ZERO,
            connection_timeout: Duration::ZERO,
            queue,
            ack,
            ..Limits::default()
        },
    )
}

pub(super) fn limits_with_queue() -> impl Strategy<Value = Limits> {
    limits().prop_map(|limits| {
        let (ttl, dead_letter_ttl) = (Duration::from_secs(60), Duration::from_secs(90));
        let queue = QueueLimits { per_user_max: 0, ttl, dead_letter_ttl };
        Limits { queue: limits.queue.or(Some(queue)), ..limits }
    })
}

fn newcomer() -> impl Strategy<Value = Newcomer> {
    let transport = select(vec![Transport::WebSocket, Transport::WebSocket, Transport::Sse]);
    let seen = prop::option::weighted(0.15, any::<Index>());
    (0..USERS.len(), transport, any::<bool>(), any::<bool>(), seen).prop_map(
        |(user, transport, in_role, notify_settled, seen)| Newcomer {
            user,
            transport,
            in_role,
            notify_settled,
            seen,
        },
    )
}

fn trigger() -> impl Strategy<Value = Trigger> {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let ttl = select(vec![None, None, seconds(0), seconds(1), seconds(50), seconds(9_000)]);
    let users = subsequence((0..USERS.len()).collect::<Vec<_>>(), 1..=3).prop_shuffle();
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.9));
    (users, select(Priority::ALL.to_vec()), ttl, select(vec![0, 1, 2, 2, 3_u8]), flags).prop_map(
        |(users, priority, ttl, weight, (for_role, for_sse))| Trigger {
            users,
            priority,
            ttl,
            for_role,
            weight,
            for_sse,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let one = any::<Index>;
    let user = || 0..USERS.len();
    let reason = select(vec![
        CloseReason::SLOW_CONSUMER,
        CloseReason::SILENT,
        CloseReason::SHUTDOWN,
        CloseReason::OVERLOADED,
    ]);
    let source = select(vec![Source::Queue, Source::DeadLetters]);
    let time = prop_oneof![4 => 1..15_u32, 3 => 15..700_u32, 1 => 30_000..200_000_u32];
    prop_oneof![
        6 => newcomer().prop_map(Action::Connect),
        3 => (one(), any::<bool>()).prop_map(|(at, abrupt)| Action::Leave(at, abrupt)),
        1 => (one(), reason).prop_map(|(at, reason)| Action::Dismiss(at, reason)),
        14 => trigger().prop_map(Action::Trigger),
        6 => (one(), one(), prop::bool::weighted(0.2))
            .prop_map(|(at, message, any)| Action::Ack(at, message, any)),
        1 => (user(), prop::collection::vec(one(), 0..4))
            .prop_map(|(user, messages)| Action::ApiAck(user, messages)),
        1 => (user(), source).prop_map(|(user, source)| Action::Clear(user, source)),
        4 => one().prop_map(Action::Stall),
        3 => one().prop_map(Action::Flow),
        2 => (one(), 0..3_usize, any::<bool>())
            .prop_map(|(at, count, begins)| Action::Drip(at, count, begins)),
        6 => time.prop_map(Action::Admission),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    (action(), prop::bool::weighted(0.75))
        .prop_map(|(action, ends_turn)| Step { action, ends_turn })
}
