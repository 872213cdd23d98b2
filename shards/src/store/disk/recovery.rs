//! Reading back what an earlier run has left: who is still owed what.
//!
//! **Runs on**: any thread, before its shard starts. **Owns**: what it has read.
//! **Never**: brings back what was noted as ended, or whose time is over.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;

use super::DiskStore;
use super::record::{self, Dead, Entry, MessageRecord};
use super::watch::CommitWatch;
use crate::base::clock::Clock;
use crate::base::id::Tick;
use crate::base::placement::Placement;
use crate::journal::{CommitPoint, Journal, OpenError, Options, Position, RecoveryReport};
use crate::link::doorbell::Doorbell;
use crate::link::message::DiskHealth;
use crate::notification::{Metadata, SharedMessage};
use crate::state::user_queue::QueuedMessage;

/// One shard's messages, read back, and the journal they are in.
#[derive(Debug)]
pub struct Recovered {
    pub(crate) store: DiskStore,
    pub(crate) users: Vec<Owed>,
    /// The highest sequence of any record, of those that have ended too: what comes must not be
    /// taken for one of them by the next recovery.
    pub(crate) sequence: u64,
    summary: Summary,
}

/// What a recovery found.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// What the journal found.
    pub report: RecoveryReport,
    /// Messages that wait, or are given up.
    pub messages: usize,
    /// Messages whose time ended while nobody ran.
    pub expired: usize,
    /// Whole records that make no sense; they are left alone.
    pub strange: usize,
}

impl Recovered {
    /// What was found.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }
}

/// What one user is owed.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) tenant: Box<str>,
    pub(crate) name: Box<str>,
    /// In the order of their sequence.
    pub(crate) waiting: Vec<QueuedMessage>,
    /// In the order they are forgotten, and when that is; `None` = not noted, by an earlier version.
    pub(crate) dead: Vec<(QueuedMessage, Option<Tick>)>,
}

/// Opens a shard's journal and reads it. Blocks until all is read.
///
/// # Errors
///
/// The journal cannot be opened; see [`OpenError`].
pub fn open(
    options: &Options,
    clock: Clock,
    placement: &Placement,
    bell: Arc<Doorbell>,
) -> Result<Recovered, OpenError> {
    let mut reading = Reading::new(clock);
    let (mut journal, report) =
        Journal::open(options, |position, bytes| reading.take(position, bytes), bell)?;
    let (strange, sequence) = (reading.strange, reading.sequence);
    let (users, gone) = reading.finish();
    gone.places.iter().for_each(|place| {
        journal.release(*place);
    });
    let messages = users.iter().map(|user| user.waiting.len() + user.dead.len()).sum();
    let store = DiskStore {
        journal,
        clock,
        placement: placement.clone(),
        bytes_max: options.max_disk_bytes,
        ended: Vec::new(),
        changed: Vec::new(),
        buried: Vec::new(),
        is_stopping: false,
        refusals: Vec::new(),
        held: VecDeque::new(),
        fresh: VecDeque::new(),
        last: CommitPoint::default(),
        health: DiskHealth::Sound,
        told: DiskHealth::Sound,
        logged_at: None,
        watch: CommitWatch::default(),
        buffer: Vec::new(),
    };
    let summary = Summary { report, messages, expired: gone.expired, strange };
    Ok(Recovered { store, users, sequence, summary })
}

/// The messages read so far.
#[derive(Debug)]
pub(super) struct Reading {
    clock: Clock,
    users: Vec<Reader>,
    by_name: AHashMap<Box<[u8]>, u32>,
    /// Where the message of a position is: its user and sequence.
    by_place: AHashMap<Position, (u32, u64)>,
    /// Copies that a later one has replaced.
    superseded: Vec<Position>,
    /// The notification read last: those to many users stand together, and share it.
    last: Option<SharedMessage>,
    sequence: u64,
    strange: usize,
    name: Vec<u8>,
}

#[derive(Debug)]
struct Reader {
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
    pub(super) places: Vec<Position>,
    pub(super) expired: usize,
}

impl Reading {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            users: Vec::new(),
            by_name: AHashMap::new(),
            by_place: AHashMap::new(),
            superseded: Vec::new(),
            last: None,
            sequence: 0,
            strange: 0,
            name: Vec::new(),
        }
    }

    /// Takes the next record of the journal.
    pub(super) fn take(&mut self, place: Position, bytes: &[u8]) {
        match record::decode(bytes) {
            Some(Entry::QueuedMessage(record)) => self.take_message(place, &record),
            Some(Entry::Ended(places)) => {
                for place in places {
                    if let Some(found) = self.find(place) {
                        found.fate = Fate::Ended;
                    }
                }
            }
            Some(Entry::Changed(changes)) => {
                for change in changes {
                    let Some(found) = self.find(change.place) else { continue };
                    let fate = if change.is_dead {
                        Fate::Dead(Dead { until_unix_ms: None })
                    } else {
                        Fate::Waiting
                    };
                    found.change(change.attempts, fate);
                }
            }
            Some(Entry::Buried(burials)) => {
                for burial in burials {
                    let Some(found) = self.find(burial.place) else { continue };
                    let dead = Dead { until_unix_ms: Some(burial.until_unix_ms) };
                    found.change(burial.attempts, Fate::Dead(dead));
                }
            }
            None => self.strange += 1,
        }
    }

    fn take_message(&mut self, place: Position, record: &MessageRecord<'_>) {
        self.sequence = self.sequence.max(record.sequence);
        let user = self.user(record.tenant, record.user);
        let kept = self.kept(record);
        let mut message = QueuedMessage::new(kept, record.sequence).sent(record.attempts);
        message.place = Some(place);
        let fate = record.dead.map_or(Fate::Waiting, Fate::Dead);
        self.by_place.insert(place, (user, record.sequence));
        let Some(user) = self.users.get_mut(user as usize) else { return };
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
                let Some(found) = messages.get_mut(at) else { return };
                self.superseded.extend(found.message.place.replace(place));
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
        let user = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        self.users.push(Reader { tenant: tenant.into(), name: name.into(), messages: Vec::new() });
        self.by_name.insert(self.name.as_slice().into(), user);
        user
    }

    /// The notification of a record, shared with the record before if that has the same.
    fn kept(&mut self, record: &MessageRecord<'_>) -> SharedMessage {
        let expires_at = match self.clock.tick_of(record.expires_unix_ms) {
            // Not "now or never", but over.
            Tick(0) => Tick(1),
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
        let kept = SharedMessage::new(head, record.json);
        self.last = Some(kept.clone());
        kept
    }

    fn find(&mut self, place: Position) -> Option<&mut Found> {
        let (user, sequence) = *self.by_place.get(&place)?;
        let messages = &mut self.users.get_mut(user as usize)?.messages;
        let at = messages.binary_search_by_key(&sequence, |found| found.message.sequence()).ok()?;
        messages.get_mut(at)
    }

    /// Who is owed what, and what may be released.
    pub(super) fn finish(self) -> (Vec<Owed>, Gone) {
        let now = self.clock.now().max(Tick(1));
        let mut gone = Gone { places: self.superseded, expired: 0 };
        let mut users = Vec::with_capacity(self.users.len());
        for user in self.users {
            let (tenant, name) = (user.tenant, user.name);
            let mut owed = Owed { tenant, name, waiting: Vec::new(), dead: Vec::new() };
            for Found { message, fate } in user.messages {
                let is_expired = message.expires_at() <= now;
                match fate {
                    Fate::Dead(Dead { until_unix_ms }) => {
                        let until = until_unix_ms.map(|until| self.clock.tick_of(until));
                        owed.dead.push((message, until));
                    }
                    Fate::Waiting if !is_expired => owed.waiting.push(message),
                    Fate::Waiting | Fate::Ended => {
                        gone.expired += usize::from(fate == Fate::Waiting);
                        gone.places.extend(message.place);
                    }
                }
            }
            // Those without a time were given up before those with one. The sort is stable.
            owed.dead.sort_by_key(|(_, until)| *until);
            if !owed.waiting.is_empty() || !owed.dead.is_empty() {
                users.push(owed);
            }
        }
        (users, gone)
    }
}
