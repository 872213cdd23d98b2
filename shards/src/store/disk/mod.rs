//! The store on disk: a record in a journal for each message, a note for each end.
//!
//! **Runs on**: a shard. **Owns**: its journal, and what waits to be written down or committed.
//! **Never**: waits for the disk, except to close; says that a message is queued before the fsync
//! policy holds.
//!
//! A message's record is appended when the message begins, and its [`Position`] is its key. Ends and
//! changes are collected over a turn and noted together; only then are the records released, as
//! the journal demands. A report that says "queued" is held until what it speaks of is committed.

mod health;
mod notes;
mod record;
mod recovery;
mod rehome;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;

use super::{Moved, NotPersisted, Progress, RecordState, Store, Unconfirmed, UserNames};
use crate::base::clock::Clock;
use crate::base::counters::DiskSnapshot;
use crate::base::id::{RecordKey, Tick, UserSlot};
use crate::base::limits::{CHANGES_WAITING_MAX, COMPACTION_BYTES_PER_TURN};
use crate::base::placement::Placement;
use crate::journal::{AppendError, CommitPoint, Full, Journal, Position};
use crate::link::message::{DiskHealth, Report};
use crate::notification::Audience;
use crate::queued_message::QueuedMessage;
use notes::Notes;
use record::{Change, DeadLetterNote, Entry, MessageRecord};
use watch::CommitWatch;

pub use recovery::{Summary, open};
pub use rehome::{RehomeError, Rehomed, rehome};

/// The messages of one shard, on disk.
#[derive(Debug)]
pub struct DiskStore {
    journal: Journal,
    clock: Clock,
    /// What chooses users' homes.
    placement: Placement,
    bytes_max: u64,
    notes: Notes,
    /// The process stops.
    is_stopping: bool,
    /// Reports that say why nothing is queued: they wait for nothing but the word on the disk.
    refusals: Vec<Report>,
    /// Reports that wait for a commit, in order.
    held: VecDeque<(CommitPoint, Report)>,
    /// The messages they speak of, in order.
    unconfirmed: VecDeque<Unconfirmed>,
    /// Covers the message that was persisted last.
    last: CommitPoint,
    health: DiskHealth,
    /// What the router has been told of it.
    reported_health: DiskHealth,
    logged_at: Option<Tick>,
    watch: CommitWatch,
    buffer: Vec<u8>,
}

impl DiskStore {
    fn new(journal: Journal, clock: Clock, placement: Placement, bytes_max: u64) -> Self {
        Self {
            journal,
            clock,
            placement,
            bytes_max,
            notes: Notes::default(),
            is_stopping: false,
            refusals: Vec::new(),
            held: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            last: CommitPoint::default(),
            health: DiskHealth::Sound,
            reported_health: DiskHealth::Sound,
            logged_at: None,
            watch: CommitWatch::default(),
            buffer: Vec::new(),
        }
    }

    /// Moves some live records out of segments that are mostly dead. A copy has the state its record
    /// was written with, so what has happened since is noted again behind it.
    fn compact(&mut self, find: &mut dyn FnMut(&Moved<'_>) -> Option<RecordState>) -> bool {
        let Self { journal, placement, clock, notes, .. } = self;
        journal.compact(COMPACTION_BYTES_PER_TURN, |from, to, bytes| {
            let state = match record::decode(bytes) {
                Some(Entry::Message(MessageRecord { tenant, user, sequence, id, .. })) => {
                    let hash = placement.hash(tenant, user);
                    let (from, to) = (key_of(from), key_of(to));
                    find(&Moved { tenant, user, hash, sequence, id, from, to })
                }
                _ => None,
            };
            match state {
                // Its end is still to be noted, or nobody knows it.
                None => notes.ended.push(to),
                Some(RecordState { attempts, dead_until: Some(until) }) => {
                    let until_unix_ms = clock.unix_ms_of(until);
                    notes.dead_letters.push(DeadLetterNote {
                        position: to,
                        attempts,
                        until_unix_ms,
                    });
                }
                Some(RecordState { attempts: 0, dead_until: None }) => {}
                Some(RecordState { attempts, dead_until: None }) => {
                    notes.changed.push(Change { position: to, attempts, is_dead: false });
                }
            }
        })
    }

    /// Hands over the reports that speak of what is committed, and on a broken disk all others too,
    /// as refusals.
    fn release_reports(&mut self, committed: CommitPoint, reports: &mut VecDeque<Report>) {
        reports.extend(self.refusals.drain(..));
        while let Some((commit_point, report)) = self.held.pop_front() {
            if commit_point <= committed {
                reports.push_back(report);
            } else if self.is_broken() {
                reports.push_back(refused(report));
            } else {
                self.held.push_front((commit_point, report));
                break;
            }
        }
    }

    /// Records compaction has moved.
    #[cfg(test)]
    pub(crate) fn moved_records(&self) -> u64 {
        self.journal.stats().moved_records
    }

    /// Whether nothing waits to be written down.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.notes.is_empty() && self.journal.stats().uncommitted_bytes == 0
    }

    #[cfg(test)]
    pub(crate) fn lose_writer(&mut self) {
        self.journal.writer_is_gone();
    }
}

impl Store for DiskStore {
    fn persist(
        &mut self,
        user: UserSlot,
        names: &dyn UserNames,
        message: &mut QueuedMessage,
    ) -> Result<(), NotPersisted> {
        if self.health != DiskHealth::Sound && !self.journal.has_room() {
            // It was refused a moment ago: this one need not be written out to be refused too.
            return Err(NotPersisted);
        }
        let (tenant, user) = names.names(user);
        let head = message.shared().head();
        let record = MessageRecord {
            tenant,
            user,
            sequence: message.sequence(),
            expires_unix_ms: self.clock.unix_ms_of(head.expires_at),
            id: head.id,
            priority: head.priority,
            attempts: message.attempts(),
            dead: None,
            audience: None,
            json: message.shared().json(),
        };
        // An audience of users has had its say when the message was enqueued for one of them.
        let audience = head.audience.as_deref();
        let audience = audience.filter(|audience| !matches!(audience, Audience::Users(_)));
        record.encode(audience, &mut self.buffer);
        match self.journal.append(&self.buffer) {
            Ok(position) => {
                message.record = Some(key_of(position));
                self.last = position.commit_point();
                Ok(())
            }
            Err(error) => {
                self.health = match error {
                    AppendError::Full(Full::Buffer) => DiskHealth::Behind,
                    AppendError::Full(Full::Limit) | AppendError::TooLong { .. } => {
                        DiskHealth::Limit
                    }
                    AppendError::Full(Full::Disk) => DiskHealth::Full,
                    AppendError::Failed { .. } => DiskHealth::Failed,
                };
                Err(NotPersisted)
            }
        }
    }

    fn confirm(&mut self, user: UserSlot, message: &QueuedMessage) -> bool {
        let record = message.record.expect("only what was persisted is confirmed");
        self.unconfirmed.push_back(Unconfirmed { user, sequence: message.sequence(), record });
        false
    }

    fn note_attempts(&mut self, record: RecordKey, attempts: u8) {
        // While the disk takes no notes, only so many wait: a crash would lose the others' count.
        if self.notes.changed.len() < CHANGES_WAITING_MAX {
            let position = position_of(record);
            self.notes.changed.push(Change { position, attempts, is_dead: false });
        }
    }

    fn note_dead_letter(&mut self, record: RecordKey, attempts: u8, until: Tick) {
        let (position, until_unix_ms) = (position_of(record), self.clock.unix_ms_of(until));
        self.notes.dead_letters.push(DeadLetterNote { position, attempts, until_unix_ms });
    }

    fn end(&mut self, record: RecordKey) {
        self.notes.ended.push(position_of(record));
    }

    /// One that says only that something is refused waits until the router knows why.
    fn hold(&mut self, report: Report) -> Option<Report> {
        if matches!(&report, Report::Delivered { total, .. } if total.queued == 0) {
            self.refusals.push(report);
        } else {
            self.held.push_back((self.last, report));
        }
        None
    }

    fn poll(
        &mut self,
        now: Tick,
        reports: &mut VecDeque<Report>,
        find: &mut dyn FnMut(&Moved<'_>) -> Option<RecordState>,
    ) -> Progress {
        let committed = self.journal.poll();
        self.notes.write(&mut self.journal, &mut self.buffer);
        let more = !self.is_stopping && self.compact(find);
        let waiting = self.journal.flush() > committed;
        self.watch.look(committed, waiting, now);
        self.examine(now);
        if self.health != self.reported_health {
            self.reported_health = self.health;
            reports.push_back(Report::Disk(self.health));
        }
        let mut confirmed = 0;
        let is_committed =
            |unconfirmed: &Unconfirmed| position_of(unconfirmed.record).commit_point() <= committed;
        while self.unconfirmed.front().is_some_and(is_committed) {
            self.unconfirmed.pop_front();
            confirmed += 1;
        }
        self.release_reports(committed, reports);
        let mut refused = VecDeque::new();
        if self.is_broken() {
            refused = std::mem::take(&mut self.unconfirmed);
        }
        Progress { more, confirmed, refused }
    }

    fn next_poll_at(&self, now: Tick) -> Option<Tick> {
        self.watch.next(now)
    }

    fn begin_stop(&mut self) -> bool {
        self.is_stopping = true;
        true
    }

    fn check(&self) -> io::Result<()> {
        self.journal.check()
    }

    fn snapshot(&self) -> Option<DiskSnapshot> {
        let stats = self.journal.stats();
        Some(DiskSnapshot {
            health: self.health,
            bytes: stats.disk_bytes,
            bytes_max: self.bytes_max,
            records: stats.live_records,
            uncommitted_bytes: stats.uncommitted_bytes,
            syncs: stats.syncs,
            lost_records: stats.lost_records,
        })
    }

    fn close(mut self: Box<Self>) -> io::Result<()> {
        let is_noted = self.notes.write_all(&mut self.journal, &mut self.buffer);
        self.journal.close()?;
        if is_noted { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    #[cfg(test)]
    fn as_disk(&mut self) -> Option<&mut Self> {
        Some(self)
    }
}

/// The key of the record at a position.
fn key_of(position: Position) -> RecordKey {
    RecordKey(NonZero::new(position.to_bits()).expect("no position is 0"))
}

/// The position of a record.
fn position_of(record: RecordKey) -> Position {
    Position::from_bits(record.0.get()).expect("this store gives out positions as keys")
}

/// The same report, saying that what was to be queued is not.
fn refused(report: Report) -> Report {
    let Report::Delivered { request, mut total, mut parts } = report else {
        panic!("only reports on deliveries are held")
    };
    for counts in parts.iter_mut().chain([&mut total]) {
        counts.refused = counts.refused.saturating_add(std::mem::take(&mut counts.queued));
    }
    Report::Delivered { request, total, parts }
}

#[cfg(test)]
mod bounds;
