//! What the state should be, said in the plainest way: a list of people, searched every time.
//!
//! **Runs on**: a test. **Owns**: the people connected and the counts expected.
//! **Never**: shares a line with what it is compared to.

use std::collections::{BTreeMap, BTreeSet};

use super::steps::{Audience, Newcomer, Target, Utterance};
use super::wire::Got;
use crate::base::counters::Counters;
use crate::base::id::Tick;
use crate::base::limits::Limits;
use crate::protocol::Transport;

/// A connection as the contract knows it.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) who: Newcomer,
    pub(super) subscriptions: Vec<String>,
    pub(super) last_frame_at: Tick,
    /// When it was first pinged since it was last heard.
    pub(super) pinged_at: Option<Tick>,
    /// When it came or last had a heartbeat.
    pub(super) beaten_at: Tick,
}

impl Person {
    /// Whether it can be silent, and when it is pinged or, if it was, counts as silent.
    pub(super) fn sign_of_life_at(&self, limits: &Limits) -> Option<Tick> {
        let timeout = limits.connection_timeout;
        let is_judged = self.who.transport == Transport::WebSocket && !timeout.is_zero();
        is_judged.then(|| self.pinged_at.unwrap_or(self.last_frame_at).after(timeout))
    }

    pub(super) fn subscribes_to_all(&self) -> bool {
        self.who.transport == Transport::Sse && self.who.channels.is_none()
    }

    fn may_subscribe(&self, channel: &str) -> bool {
        let Some(grants) = &self.who.grants else { return true };
        grants.iter().any(|grant| match grant.split_once('*') {
            Some((prefix, _)) => channel.starts_with(prefix),
            None => channel == *grant,
        })
    }

    fn receives(&self, channel: &str) -> bool {
        let subscribed = self.subscriptions.iter().any(|name| name == channel);
        subscribed || (self.subscribes_to_all() && self.may_subscribe(channel))
    }

    fn matches_audience(&self, audience: Option<&Audience>) -> bool {
        match audience {
            None => true,
            Some(Audience::Roles(roles)) => roles.iter().any(|role| self.who.roles.contains(role)),
            Some(Audience::Users(users)) => users.contains(&self.who.user),
            Some(Audience::Channels(names)) => names.iter().any(|name| self.receives(name)),
        }
    }
}

/// Everyone who is connected.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) people: BTreeMap<u32, Person>,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
}

impl Reference {
    pub(super) fn new(limits: Limits) -> Self {
        Self { people: BTreeMap::new(), limits, counters: Counters::default() }
    }

    /// Whether the newcomer is taken in.
    pub(super) fn connect(&mut self, key: u32, who: &Newcomer, now: Tick) -> bool {
        let is_same =
            |other: &&Person| other.who.tenant == who.tenant && other.who.user == who.user;
        let most = self.limits.connections_per_user_max;
        if most != 0 && self.people.values().filter(is_same).count() >= most {
            self.counters.connections_refused += 1;
            return false;
        }
        self.counters.connections_opened += 1;
        let subscriptions = Vec::new();
        let (who, channels) = (who.clone(), who.channels.iter().flatten());
        let (last_frame_at, beaten_at) = (now, now);
        let person = Person { who, subscriptions, last_frame_at, pinged_at: None, beaten_at };
        self.people.insert(key, person);
        for channel in channels {
            let _refusal = self.subscribe(key, channel);
        }
        true
    }

    pub(super) fn leave(&mut self, key: u32) {
        self.people.remove(&key).unwrap();
        self.counters.connections_closed += 1;
    }

    fn subscribe(&mut self, key: u32, channel: &str) -> Result<(), &'static str> {
        let most = self.limits.subscriptions_per_connection_max;
        let person = self.people.get_mut(&key).unwrap();
        if !is_name(channel) {
            return Err("INVALID_CHANNEL");
        }
        if !person.may_subscribe(channel) {
            return Err("FORBIDDEN_CHANNEL");
        }
        if person.subscriptions.iter().any(|name| name == channel) {
            return Ok(());
        }
        if most != 0 && person.subscriptions.len() >= most {
            return Err("SUBSCRIPTION_LIMIT");
        }
        person.subscriptions.push(channel.to_owned());
        Ok(())
    }

    /// What is said in answer.
    pub(super) fn hear(&mut self, key: u32, said: &Utterance) -> Vec<Got> {
        self.counters.messages_received += 1;
        let mut replies = Vec::new();
        let mut errors: Vec<&str> = Vec::new();
        let list = |kind: &str, names: &[String]| {
            format!("{kind} {}", serde_json::to_string(names).unwrap())
        };
        match said {
            Utterance::Ping => replies.push("pong".to_owned()),
            Utterance::Ack => errors.push("ACK_UNKNOWN"),
            Utterance::Garbage(_) => errors.push("INVALID_MESSAGE"),
            Utterance::Unsubscribe(names) => {
                let person = self.people.get_mut(&key).unwrap();
                person.subscriptions.retain(|name| !names.contains(name));
                let valid: Vec<String> =
                    names.iter().filter(|name| is_name(name)).cloned().collect();
                replies.push(list("unsubscribed", &valid));
            }
            Utterance::Subscribe(names) => {
                let mut done = Vec::new();
                for name in names {
                    match self.subscribe(key, name) {
                        Ok(()) => done.push(name.clone()),
                        Err(code) if errors.contains(&code) => {}
                        Err(code) => errors.push(code),
                    }
                }
                if !done.is_empty() || errors.is_empty() {
                    replies.push(list("subscribed", &done));
                }
            }
        }
        self.counters.messages_refused += errors.len() as u64;
        replies.extend(errors.iter().map(|code| format!("error {code}")));
        replies.into_iter().map(Got::Said).collect()
    }

    /// Who is meant by each part of a delivery; nobody is meant by two.
    pub(super) fn recipients(&self, tenant: &str, target: &Target) -> Vec<Vec<u32>> {
        let audience = target.audience();
        let mut had = BTreeSet::new();
        let mut part = |is_in: &dyn Fn(&Person) -> bool| -> Vec<u32> {
            let here = self.people.iter().filter(|(_, person)| {
                person.who.tenant == tenant
                    && target.has_encoding(person.who.transport)
                    && person.matches_audience(audience)
                    && is_in(person)
            });
            let keys: Vec<u32> = here.map(|(key, _)| *key).collect();
            keys.into_iter().filter(|key| had.insert(*key)).collect()
        };
        match target {
            Target::Everyone { .. } => vec![part(&|_| true)],
            Target::Users { users, .. } => {
                users.iter().map(|user| part(&|person| person.who.user == *user)).collect()
            }
            Target::Channels { names, .. } => {
                names.iter().map(|name| part(&|person| person.receives(name))).collect()
            }
        }
    }

    /// What the router should think is listened to.
    pub(super) fn interest(&self) -> BTreeSet<(String, Option<String>)> {
        let mut interest = BTreeSet::new();
        for person in self.people.values() {
            let tenant = person.who.tenant;
            for channel in &person.subscriptions {
                interest.insert((tenant.to_owned(), Some(channel.clone())));
            }
            if person.subscribes_to_all() {
                interest.insert((tenant.to_owned(), None));
            }
        }
        interest
    }
}

fn is_name(channel: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !channel.is_empty() && channel.chars().count() <= 64 && channel.chars().all(is_part)
}
