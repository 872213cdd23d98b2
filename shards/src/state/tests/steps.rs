//! What can happen to a shard's state, drawn at random from a small world, so that things meet.
//!
//! **Runs on**: a test. **Owns**: nothing. **Never**: draws what the router would not send (a user
//! twice in one delivery).

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use crate::base::limits::Limits;
use crate::encoding::{Encoding, Encodings};
use crate::notification::Priority;
use crate::protocol::Transport;

/// The same names in both tenants, so that a mix-up shows.
pub(super) const TENANTS: [&str; 2] = ["acme", "zenith"];
pub(super) const USERS: [&str; 4] = ["ann", "bob", "cy", "dee"];
pub(super) const CHANNELS: [&str; 5] = ["a", "b", "news", "news.eu", "x-1_y"];
const ROLES: [&str; 3] = ["admin", "staff", "guest"];

/// A client that comes.
#[derive(Debug, Clone)]
pub(super) struct Newcomer {
    pub(super) tenant: &'static str,
    pub(super) user: &'static str,
    pub(super) transport: Transport,
    pub(super) roles: Vec<&'static str>,
    pub(super) grants: Option<Vec<&'static str>>,
    /// SSE: the channels it names; `None` = all.
    pub(super) channels: Option<Vec<String>>,
}

/// What a client says.
#[derive(Debug, Clone)]
pub(super) enum Utterance {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Ping,
    Ack,
    Garbage(&'static str),
}

#[derive(Debug, Clone)]
pub(super) enum Audience {
    Roles(Vec<&'static str>),
    Users(Vec<&'static str>),
    Channels(Vec<&'static str>),
}

/// Whom a delivery goes to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Users { users: Vec<&'static str>, common: Common },
    Everyone { common: Common },
    Channels { names: Vec<&'static str>, common: Common },
}

#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) priority: Priority,
    pub(super) readers: Encodings,
    pub(super) audience: Option<Audience>,
}

impl Target {
    pub(super) const fn common(&self) -> &Common {
        match self {
            Self::Users { common, .. } | Self::Channels { common, .. } => common,
            Self::Everyone { common } => common,
        }
    }

    pub(super) const fn audience(&self) -> Option<&Audience> {
        self.common().audience.as_ref()
    }

    pub(super) fn has_encoding(&self, transport: Transport) -> bool {
        let readers = self.common().readers;
        match transport {
            Transport::WebSocket => readers.contains(Encoding::AraText),
            Transport::Sse => readers.contains(Encoding::AraSseChunk),
        }
    }
}

/// The encodings of those transports.
pub(super) fn encodings(websocket: bool, sse: bool) -> Encodings {
    let sse = [Encoding::AraSseChunk, Encoding::AraSsePlain].into_iter().filter(|_| sse);
    let text = [Encoding::AraText].into_iter().filter(|_| websocket);
    text.chain(sse).collect()
}

/// One thing that happens. An [`Index`] picks among those connected.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Connect(Newcomer),
    Disconnect(Index),
    Say(Index, Utterance),
    Heard(Index),
    Deliver(&'static str, Target),
    /// Time goes by and every timer fires when it is due.
    Admission(u32),
    /// The shard was busy: time goes by first, the timers fire late.
    Lag(u32),
    /// The process is paused: time goes by, and is nobody's.
    Pause(u32),
    /// A timer from before fires too early.
    StaleTimer(Index),
    Stall(Index),
    Drain(Index),
    SendAway(Index),
}

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let seconds = |choices: [u64; 3]| select(choices.to_vec()).prop_map(Duration::from_secs);
    (select(vec![0, 1, 2]), select(vec![0, 1, 3]), seconds([0, 1, 3]), seconds([0, 2, 5])).prop_map(
        |(connections, subscriptions, heartbeat_interval, connection_timeout)| Limits {
            connections_per_user_max: connections,
            subscriptions_per_connection_max: subscriptions,
            heartbeat_interval,
            connection_timeout,
            ..Limits::default()
        },
    )
}

pub(super) fn newcomer() -> impl Strategy<Value = Newcomer> {
    let transport = prop_oneof![Just(Transport::WebSocket), Just(Transport::Sse)];
    let grants = select(vec![
        None,
        None,
        Some(vec![]),
        Some(vec!["a"]),
        Some(vec!["*"]),
        Some(vec!["news.*", "b"]),
    ]);
    let roles = subsequence(ROLES.to_vec(), 0..=2);
    let channels = prop::option::of(names(3));
    let who = (select(TENANTS.to_vec()), select(USERS.to_vec()));
    (who, transport, roles, grants, channels).prop_map(
        |((tenant, user), transport, roles, grants, channels)| Newcomer {
            tenant,
            user,
            transport,
            roles,
            grants,
            channels: channels.filter(|_| transport == Transport::Sse),
        },
    )
}

/// Channel names as clients write them: mostly good, some twice, some bad.
fn names(most: usize) -> impl Strategy<Value = Vec<String>> {
    let good = select(CHANNELS.to_vec()).prop_map(str::to_owned);
    let bad = select(vec![String::new(), "no blanks".into(), "ü".into(), "l".repeat(65)]);
    prop::collection::vec(prop_oneof![9 => good, 1 => bad], 0..=most)
}

fn utterance() -> impl Strategy<Value = Utterance> {
    prop_oneof![
        6 => names(4).prop_map(Utterance::Subscribe),
        4 => names(3).prop_map(Utterance::Unsubscribe),
        1 => Just(Utterance::Ping),
        1 => Just(Utterance::Ack),
        1 => select(vec!["", "{", "{}", "[]", "{\"type\":\"Sing\"}", "{\"type\":\"Subscribe\"}",
            "{\"type\":\"Subscribe\",\"payload\":{\"channels\":\"a\"}}"])
            .prop_map(Utterance::Garbage),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    let readers =
        select(vec![(true, true), (true, true), (true, true), (true, false), (false, true)])
            .prop_map(|(websocket, sse)| encodings(websocket, sse));
    let audience = prop_oneof![
        subsequence(ROLES.to_vec(), 0..=2).prop_map(Audience::Roles),
        subsequence(USERS.to_vec(), 0..=2).prop_map(Audience::Users),
        subsequence(CHANNELS.to_vec(), 0..=2).prop_map(Audience::Channels),
    ];
    let common = (select(Priority::ALL.to_vec()), readers, prop::option::weighted(0.3, audience))
        .prop_map(|(priority, readers, audience)| Common { priority, readers, audience });
    let users = subsequence(USERS.to_vec(), 0..=3).prop_shuffle();
    let names = prop::collection::vec(select(CHANNELS.to_vec()), 0..=4);
    (0..8_u8, common, users, names).prop_map(|(kind, common, users, names)| match kind {
        0..=2 => Target::Users { users, common },
        3..=4 => Target::Everyone { common },
        _ => Target::Channels { names, common },
    })
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let tenant = select(vec![TENANTS[0], TENANTS[0], TENANTS[1], TENANTS[1], "nobody"]);
    let one = any::<Index>;
    prop_oneof![
        7 => newcomer().prop_map(Step::Connect),
        3 => one().prop_map(Step::Disconnect),
        9 => (one(), utterance()).prop_map(|(at, what)| Step::Say(at, what)),
        2 => one().prop_map(Step::Heard),
        9 => (tenant, target()).prop_map(|(tenant, target)| Step::Deliver(tenant, target)),
        3 => (0..40_u32).prop_map(Step::Admission),
        1 => (0..90_u32).prop_map(Step::Lag),
        1 => (10..200_u32).prop_map(Step::Pause),
        1 => one().prop_map(Step::StaleTimer),
        3 => one().prop_map(Step::Stall),
        2 => one().prop_map(Step::Drain),
        1 => one().prop_map(Step::SendAway),
    ]
}
