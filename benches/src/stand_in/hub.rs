//! Who the stand-in's clients are, what they subscribe to, and who gets a notification. No sockets.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

/// A fault shows in every publish whose number is a multiple of this.
const FAULT_EVERY: u64 = 20;

/// How the stand-in misbehaves, so that the tool can be seen to notice.
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
    event_type: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct Command<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    payload: Channels<'a>,
}

#[derive(Deserialize)]
struct Channels<'a> {
    #[serde(borrow)]
    channels: Vec<&'a str>,
}

#[derive(Debug)]
pub(super) struct Hub {
    users: BTreeMap<String, BTreeSet<usize>>,
    channels: BTreeMap<String, BTreeSet<usize>>,
    /// What a connection has to be taken out of when it goes.
    members: BTreeMap<usize, (String, BTreeSet<String>)>,
    publishes: u64,
    fault: Fault,
}

impl Hub {
    pub(super) fn new(fault: Fault) -> Self {
        Self {
            users: BTreeMap::new(),
            channels: BTreeMap::new(),
            members: BTreeMap::new(),
            publishes: 0,
            fault,
        }
    }

    pub(super) fn join(&mut self, at: usize, user: String) {
        self.users.entry(user.clone()).or_default().insert(at);
        self.members.entry(at).or_default().0 = user;
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
        if command.r#type != "Subscribe" {
            return None;
        }
        for channel in &command.payload.channels {
            self.subscribe(at, channel);
        }
        let names = serde_json::to_string(&command.payload.channels).ok()?;
        Some(format!(r#"{{"type":"subscribed","payload":{names}}}"#))
    }

    /// The notification a trigger asks for, and the connections it goes to.
    pub(super) fn publish(&mut self, body: &[u8]) -> Option<(String, Vec<usize>)> {
        let publish: Publish<'_> = serde_json::from_slice(body).ok()?;
        let (index, target) = match (publish.channel, publish.target_user_id) {
            (Some(channel), None) => (&self.channels, channel),
            (None, Some(user)) => (&self.users, user),
            _ => return None,
        };
        let targets = index.get(target).map(|set| set.iter().copied().collect());
        self.publishes += 1;
        let channel =
            publish.channel.map_or(String::new(), |name| format!(r#","channel":"{name}""#));
        let text = format!(
            r#"{{"type":"notification","id":"00000000-0000-7000-8000-{:012x}","occurred_at":"2026-01-01T00:00:00.000Z","event_type":"{}","payload":{},"metadata":{{"source":"http-api","priority":"Normal"}}{channel}}}"#,
            self.publishes, publish.event_type, publish.payload,
        );
        Some((text, targets.unwrap_or_default()))
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
