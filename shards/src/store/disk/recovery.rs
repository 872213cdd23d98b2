//! Reading back the messages that an earlier run has left.
//!
//! **Runs on**: any thread, before its shard starts. **Owns**: what it has read.
//! **Never**: brings back what was noted as ended, or whose time is over.

use std::sync::Arc;

use ahash::AHashMap;

use super::record::{self, Dead, Entry, MessageRecord};
use super::{DiskStore, key_of, position_of};
use crate::base::clock::Clock;
use crate::base::id::Tick;
use crate::base::placement::Placement;
use crate::journal::{Journal, OpenError, Options, Position, RecoveryReport};
use crate::link::doorbell::Doorbell;
use crate::notification::{Metadata, SharedMessage};
use crate::queued_message::QueuedMessage;
use crate::store::{Recovered, RecoveredUser};

/// What a recovery found.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// What the journal found.
    pub report: RecoveryReport,
    /// Messages that wait, and dead letters.
    pub messages: usize,
    /// Messages whose time ended while nobody ran.
    pub expired: usize,
    /// Whole records that make no sense; they are left alone.
    pub strange: usize,
}

/// Opens a shard's journal and reads it: the store, the messages in it, and what there is to say of
/// them. Blocks until all is read.
///
/// # Errors
///
/// The journal cannot be opened; see [`OpenError`].
pub fn open(
    options: &Options,
    clock: Clock,
    placement: &Placement,
    bell: Arc<Doorbell>,
) -> Result<(Recovered, Summary), OpenError> {
    let mut reading = Reading::new(clock);
    let (mut journal, report) =
        Journal::open(options, |position, bytes| reading.take(position, bytes), bell)?;
    let (strange, sequence) = (reading.strange, reading.sequence);
    let (users, gone) = reading.finish(placement);
    gone.positions.iter().for_each(|position| {
        journal.release(*position);
    });
    let messages = users.iter().map(|user| user.waiting.len() + user.dead_letters.len()).sum();
    let store = DiskStore::new(journal, clock, placement.clone(), options.max_disk_bytes);
    let summary = Summary { report, messages, expired: gone.expired, strange };
    Ok((Recovered { store: Box::new(store), users, sequence }, summary))
}

/// The messages read so far.
#[derive(Debug)]
pub(super) struct Reading {
    clock: Clock,
    users: Vec<FoundUser>,
    by_name: AHashMap<Box<[u8]>, u32>,
    /// Where the message of a position is: its user and sequence.
    by_position: AHashMap<Position, (u32, u64)>,
    /// Copies that a later one has replaced.
    superseded: Vec<Position>,
    /// The notification read last: those to many users stand together, and share it.
    last: Option<SharedMessage>,
    sequence: u64,
    strange: usize,
    name: Vec<u8>,
}

#[derive(Debug)]
struct FoundUser {
    tenant: Box<str>,
    name: Box<str>,
    /// In the order of their sequence.
    messages: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    message: QueuedMessage,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Dead(Dead),
    Ended,
}

impl Found {
    fn change(&mut self, attempts: u8, fate: Fate) {
        self.message = self.message.clone().sent(attempts);
        if self.fate != Fate::Ended {
            self.fate = fate;
        }
    }
}

/// Records that are not needed any more.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) positions: Vec<Position>,
    pub(super) expired: usize,
}

impl Reading {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            users: Vec::new(),
            by_name: AHashMap::new(),
            by_position: AHashMap::new(),
            superseded: Vec::new(),
            last: None,
            sequence: 0,
            strange: 0,
            name: Vec::new(),
        }
    }

    /// Takes the next record of the journal.
    pub(super) fn take(&mut self, position: Position, bytes: &[u8]) {
        match record::decode(bytes) {
            Some(Entry::Message(record)) => self.take_message(position, &record),
            Some(Entry::Ended(positions)) => {
                for position in positions {
                    if let Some(found) = self.find(position) {
                        found.fate = Fate::Ended;
                    }
                }
            }
            Some(Entry::Changed(changes)) => {
                for change in changes {
                    let Some(found) = self.find(change.position) else { continue };
                    let fate = if change.is_dead {
                        Fate::Dead(Dead { until_unix_ms: None })
                    } else {
                        Fate::Waiting
                    };
                    found.change(change.attempts, fate);
                }
            }
            Some(Entry::DeadLetters(notes)) => {
                for note in notes {
                    let Some(found) = self.find(note.position) else { continue };
                    let dead = Dead { until_unix_ms: Some(note.until_unix_ms) };
                    found.change(note.attempts, Fate::Dead(dead));
                }
            }
            None => self.strange += 1,
        }
    }

    fn take_message(&mut self, position: Position, record: &MessageRecord<'_>) {
        self.sequence = self.sequence.max(record.sequence);
        let user = self.user(record.tenant, record.user);
        let shared = self.shared(record);
        let mut message = QueuedMessage::new(shared, record.sequence).sent(record.attempts);
        message.record = Some(key_of(position));
        let fate = record.dead.map_or(Fate::Waiting, Fate::Dead);
        self.by_position.insert(position, (user, record.sequence));
        let user = self.users.get_mut(user as usize).expect("it was just looked up, or entered");
        let messages = &mut user.messages;
        let at = match messages.last() {
            Some(last) if last.message.sequence() >= record.sequence => {
                messages.binary_search_by_key(&record.sequence, |found| found.message.sequence())
            }
            _ => Err(messages.len()),
        };
        match at {
            // A copy that compaction made: the later one counts, whatever was noted meanwhile.
            Ok(at) => {
                let found = messages.get_mut(at).expect("it was found there");
                let older = found.message.record.replace(key_of(position));
                self.superseded.extend(older.map(position_of));
            }
            Err(at) => messages.insert(at, Found { message, fate }),
        }
    }

    fn user(&mut self, tenant: &str, name: &str) -> u32 {
        self.name.clear();
        self.name.extend_from_slice(tenant.as_bytes());
        // No text has this byte.
        self.name.push(0xFF);
        self.name.extend_from_slice(name.as_bytes());
        if let Some(user) = self.by_name.get(&*self.name) {
            return *user;
        }
        let user = u32::try_from(self.users.len()).expect("a shard has far fewer users than 2³²");
        self.users.push(FoundUser {
            tenant: tenant.into(),
            name: name.into(),
            messages: Vec::new(),
        });
        self.by_name.insert(self.name.as_slice().into(), user);
        user
    }

    /// The notification of a record, shared with the record before if that has the same.
    fn shared(&mut self, record: &MessageRecord<'_>) -> SharedMessage {
        let expires_at = match self.clock.tick_of(record.expires_unix_ms) {
            Tick::START => Tick::OVER_BEFORE_START,
            tick => tick,
        };
        if let Some(last) = &self.last
            && last.head().id == record.id
            && last.head().expires_at == expires_at
            && last.head().audience.as_deref() == record.audience.as_ref()
            && last.json() == record.json
        {
            return last.clone();
        }
        let head = Metadata {
            id: record.id,
            audience: record.audience.clone().map(Arc::new),
            expires_at,
            priority: record.priority,
        };
        let shared = SharedMessage::new(head, record.json);
        self.last = Some(shared.clone());
        shared
    }

    fn find(&mut self, position: Position) -> Option<&mut Found> {
        let (user, sequence) = *self.by_position.get(&position)?;
        let messages = &mut self.users.get_mut(user as usize)?.messages;
        let at = messages.binary_search_by_key(&sequence, |found| found.message.sequence()).ok()?;
        messages.get_mut(at)
    }

    /// Whose messages there are, and which records may be released. `placement` chooses the users'
    /// homes from now on.
    pub(super) fn finish(self, placement: &Placement) -> (Vec<RecoveredUser>, Gone) {
        let now = self.clock.now().max(Tick::OVER_BEFORE_START);
        let mut gone = Gone { positions: self.superseded, expired: 0 };
        let mut users = Vec::with_capacity(self.users.len());
        for user in self.users {
            let (mut waiting, mut dead_letters) = (Vec::new(), Vec::new());
            for Found { message, fate } in user.messages {
                let is_expired = message.expires_at() <= now;
                match fate {
                    Fate::Dead(Dead { until_unix_ms }) => {
                        let until = until_unix_ms.map(|until| self.clock.tick_of(until));
                        dead_letters.push((message, until));
                    }
                    Fate::Waiting if !is_expired => waiting.push(message),
                    Fate::Waiting | Fate::Ended => {
                        gone.expired += usize::from(fate == Fate::Waiting);
                        gone.positions.extend(message.record.map(position_of));
                    }
                }
            }
            // Those without a time are older than those with one. The sort is stable.
            dead_letters.sort_by_key(|(_, until)| *until);
            if !waiting.is_empty() || !dead_letters.is_empty() {
                let (tenant, name) = (user.tenant, user.name);
                let hash = placement.hash(&tenant, &name);
                users.push(RecoveredUser { tenant, name, hash, waiting, dead_letters });
            }
        }
        (users, gone)
    }
}
