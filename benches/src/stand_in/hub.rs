//! Who the stand-in's clients are, what they subscribe to, and who gets a notification. No sockets.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

/// A fault shows in every publish whose number is a multiple of this.
const FAULT_EVERY: u64 = 20;

/// How the stand-in misbehaves, so that a test can see that the tool notices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    None,
    Lose,
    Duplicate,
}

#[derive(Deserialize)]
struct Publish<'a> {
    channel: Option<&'a str>,
    target_user_id: Option<&'a str>,
    target_user_ids: Option<Vec<&'a str>>,
    ttl: Option<u64>,
    event_type: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct Command<'a> {
    r#type: &'a str,
    #[serde(borrow, default)]
    payload: Details<'a>,
}

#[derive(Default, Deserialize)]
struct Details<'a> {
    #[serde(borrow, default)]
    channels: Vec<&'a str>,
    notification_id: Option<&'a str>,
}

/// The outcome of a trigger.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) text: String,
    /// The connections it goes to.
    pub(super) targets: Vec<usize>,
    /// Whether it waits for somebody.
    pub(super) queued: bool,
}

#[derive(Debug)]
pub(super) struct Hub {
    users: BTreeMap<String, BTreeSet<usize>>,
    channels: BTreeMap<String, BTreeSet<usize>>,
    /// What a connection has to be taken out of when it goes.
    members: BTreeMap<usize, (String, BTreeSet<String>)>,
    publishes: u64,
    fault: Fault,
    /// What waits for each user, where the queue is on.
    waiting: Option<BTreeMap<String, Vec<String>>>,
    /// Users and the ids they have not acknowledged, where they must.
    pending: Option<BTreeSet<(String, String)>>,
}

impl Hub {
    pub(super) fn new(fault: Fault, queue: bool, ack: bool) -> Self {
        Self {
            users: BTreeMap::new(),
            channels: BTreeMap::new(),
            members: BTreeMap::new(),
            publishes: 0,
            fault,
            waiting: queue.then(BTreeMap::new),
            pending: ack.then(BTreeSet::new),
        }
    }

    /// A client has come; returns what waited for its user.
    pub(super) fn join(&mut self, at: usize, user: String) -> Vec<String> {
        let waiting = self.waiting.as_mut().and_then(|waiting| waiting.remove(&user));
        self.users.entry(user.clone()).or_default().insert(at);
        self.members.entry(at).or_default().0 = user;
        waiting.unwrap_or_default()
    }

    pub(super) fn subscribe(&mut self, at: usize, channel: &str) {
        self.channels.entry(channel.to_owned()).or_default().insert(at);
        self.members.entry(at).or_default().1.insert(channel.to_owned());
    }

    pub(super) fn leave(&mut self, at: usize) {
        let Some((user, channels)) = self.members.remove(&at) else { return };
        take_out(&mut self.users, &user, at);
        for channel in channels {
            take_out(&mut self.channels, &channel, at);
        }
    }

    pub(super) fn subscribers(&self, channel: &str) -> usize {
        self.channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// Carries out a client's message; returns the confirmation.
    pub(super) fn command(&mut self, at: usize, text: &[u8]) -> Option<String> {
        let command: Command<'_> = serde_json::from_slice(text).ok()?;
        match command.r#type {
            "Subscribe" => {}
            "Ping" => return Some(r#"{"type":"pong"}"#.to_owned()),
            "Ack" => {
                let id = command.payload.notification_id?;
                let user = self.members.get(&at)?.0.clone();
                let acknowledged = self.pending.as_mut()?.remove(&(user, id.to_owned()));
                let kind = if acknowledged { "acked" } else { "error" };
                return Some(format!(r#"{{"type":"{kind}","notification_id":"{id}"}}"#));
            }
            _ => return None,
        }
        for channel in &command.payload.channels {
            self.subscribe(at, channel);
        }
        let names = serde_json::to_string(&command.payload.channels).ok()?;
        Some(format!(r#"{{"type":"subscribed","payload":{names}}}"#))
    }

    /// The notification a trigger asks for, and what becomes of it.
    pub(super) fn publish(&mut self, body: &[u8]) -> Option<Published> {
        let publish: Publish<'_> = serde_json::from_slice(body).ok()?;
        self.publishes += 1;
        let id = format!("00000000-0000-7000-8000-{:012x}", self.publishes);
        let channel =
            publish.channel.map_or(String::new(), |name| format!(r#","channel":"{name}""#));
        let text = format!(
            r#"{{"type":"notification","id":"{id}","occurred_at":"2026-01-01T00:00:00.000Z","event_type":"{}","payload":{},"metadata":{{"source":"http-api","priority":"Normal"}}{channel}}}"#,
            publish.event_type, publish.payload,
        );
        let (mut targets, mut queued) = (Vec::new(), false);
        let users: Vec<&str> = publish
            .target_user_id
            .into_iter()
            .chain(publish.target_user_ids.unwrap_or_default())
            .collect();
        for &user in &users {
            match self.users.get(user) {
                Some(connections) => {
                    targets.extend(connections);
                    if let Some(pending) = &mut self.pending {
                        pending.insert((user.to_owned(), id.clone()));
                    }
                }
                None if publish.ttl == Some(0) => {}
                None => {
                    if let Some(waiting) = &mut self.waiting {
                        waiting.entry(user.to_owned()).or_default().push(text.clone());
                        queued = true;
                    }
                }
            }
        }
        if let Some(name) = publish.channel {
            targets.extend(self.channels.get(name).into_iter().flatten());
        } else if users.is_empty() {
            targets.extend(self.members.keys());
        }
        Some(Published { text, targets, queued })
    }

    pub(super) fn stats(&self) -> String {
        let waiting = self.waiting.iter().flat_map(BTreeMap::values).map(Vec::len).sum::<usize>();
        let pending = self.pending.as_ref().map_or(0, BTreeSet::len);
        format!(r#"{{"queue":{{"size":{waiting}}},"ack":{{"pending_count":{pending}}}}}"#)
    }

    /// `targets`, or what the fault in force makes of them.
    pub(super) fn pretend(&self, targets: &[usize]) -> Vec<usize> {
        let mut pretended = targets.to_vec();
        if self.publishes.is_multiple_of(FAULT_EVERY) {
            match self.fault {
                Fault::None => {}
                Fault::Lose => drop(pretended.pop()),
                Fault::Duplicate => pretended.extend(targets.last()),
            }
        }
        pretended
    }
}

fn take_out(index: &mut BTreeMap<String, BTreeSet<usize>>, key: &str, at: usize) {
    if let Some(set) = index.get_mut(key) {
        set.remove(&at);
        if set.is_empty() {
            index.remove(key);
        }
    }
}
