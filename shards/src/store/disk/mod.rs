//! The durable side of a shard's messages: a record for each, a note for each end.
//!
//! **Runs on**: a shard. **Owns**: its journal, and what waits to be written down or committed.
//! **Never**: waits for the disk; says that a message is queued before the fsync policy holds.
//!
//! A message's record is appended when the message begins, and named by its [`Position`]. Ends and
//! changes are collected over a turn and noted together; only then are the records released, as
//! the journal demands. A report that says "queued" is held until what it speaks of is committed.

mod record;
mod recovery;
mod rehome;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::counters::DiskSnapshot;
use crate::base::id::{NotificationId, Tick};
use crate::base::limits::{CHANGES_WAITING_MAX, COMPACTION_BYTES_PER_TURN, MESSAGES_PER_NOTE};
use crate::base::placement::{Placement, UserHash};
use crate::journal::{AppendError, CommitPoint, Condition, Full, Journal, Position};
use crate::link::message::{DiskHealth, Report};
use crate::notification::Audience;
use crate::state::user_queue::{QueuedMessage, Standing};
use record::{Burial, Change, Entry, MessageRecord};
use watch::CommitWatch;

pub use recovery::{Recovered, Summary, open};
pub use rehome::{RehomeError, Rehomed, rehome};

/// How often, at a millisecond each, a closing store waits for a writer that is behind.
const CLOSING_TRIES: usize = 3000;
/// How often at most a full queue is logged.
const LOG_INTERVAL_TICKS: u32 = 100;

/// A record that compaction has moved.
pub(crate) struct Moved<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) user: &'a str,
    pub(crate) hash: UserHash,
    pub(crate) sequence: u64,
    pub(crate) id: NotificationId,
    pub(crate) from: Position,
    pub(crate) to: Position,
}

/// A message that was queued, and whose record is not committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    /// Its user's place in the directory.
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) place: Position,
}

/// What a turn's work has come to.
pub(crate) struct Progress {
    /// There is more to do at once.
    pub(crate) more: bool,
    /// So many messages are queued for good.
    pub(crate) queued: u64,
    /// These are refused after all.
    pub(crate) refused: VecDeque<Fresh>,
}

/// The store of one shard's messages.
#[derive(Debug)]
pub struct DiskStore {
    journal: Journal,
    clock: Clock,
    placement: Placement,
    bytes_max: u64,
    /// Records whose messages have ended, to be noted and released.
    ended: Vec<Position>,
    changed: Vec<Change>,
    buried: Vec<Burial>,
    /// The process stops.
    is_stopping: bool,
    /// Reports that say why nothing is queued: they wait for nothing.
    refusals: Vec<Report>,
    /// Reports that wait for a commit, in order.
    held: VecDeque<(CommitPoint, Report)>,
    /// The messages they speak of, in order.
    fresh: VecDeque<Fresh>,
    /// Covers the message kept last.
    last: CommitPoint,
    health: DiskHealth,
    /// What the router has been told.
    told: DiskHealth,
    logged_at: Option<Tick>,
    watch: CommitWatch,
    buffer: Vec<u8>,
}

impl DiskStore {
    /// What chooses users' homes.
    pub(crate) const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The time.
    pub(crate) fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Writes a message down and tells it its place. False if the disk does not take it.
    pub(crate) fn keep(
        &mut self,
        (tenant, user): (&str, &str),
        message: &mut QueuedMessage,
    ) -> bool {
        if self.health != DiskHealth::Sound && !self.journal.has_room() {
            // As a moment ago: it need not be written out to be refused.
            return false;
        }
        let head = message.kept().head();
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
            json: message.kept().json(),
        };
        // One of users has been looked at.
        let audience = head.audience.as_deref();
        let audience = audience.filter(|audience| !matches!(audience, Audience::Users(_)));
        record.encode(audience, &mut self.buffer);
        match self.journal.append(&self.buffer) {
            Ok(place) => {
                message.place = Some(place);
                self.last = place.commit_point();
                true
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
                false
            }
        }
    }

    /// The message at this place has ended.
    pub(crate) fn end(&mut self, place: Position) {
        self.ended.push(place);
    }

    /// The message at this place was sent so often. While the disk takes no notes, only so many
    /// attempts wait to be noted: a crash would lose the others' count.
    pub(crate) fn change(&mut self, place: Position, attempts: u8) {
        if self.changed.len() < CHANGES_WAITING_MAX {
            self.changed.push(Change { place, attempts, is_dead: false });
        }
    }

    /// The message at this place is a dead message now, until then.
    pub(crate) fn bury(&mut self, place: Position, attempts: u8, until: Tick) {
        self.buried.push(Burial { place, attempts, until_unix_ms: self.clock.unix_ms_of(until) });
    }

    /// The process stops: no record is moved from now on.
    pub(crate) const fn stop_moving(&mut self) {
        self.is_stopping = true;
    }

    /// A message that was kept is queued: said when its record is committed, or taken back.
    pub(crate) fn queued(&mut self, slot: u32, message: &QueuedMessage) {
        if let Some(place) = message.place {
            self.fresh.push_back(Fresh { slot, sequence: message.sequence(), place });
        }
    }

    /// Holds a report until all that has been kept so far is committed; or, if it says only that
    /// something is refused, until the router knows why.
    pub(crate) fn hold(&mut self, report: Report) {
        if matches!(&report, Report::Delivered { total, .. } if total.queued == 0) {
            self.refusals.push(report);
        } else {
            self.held.push_back((self.last, report));
        }
    }

    /// One turn's work: notes, a slice of compaction, what the disk has done. Reports that need
    /// not wait any longer go to `reports`; `find` says where the message of a moved record is, and
    /// tells it its new place.
    pub(crate) fn poll(
        &mut self,
        now: Tick,
        reports: &mut VecDeque<Report>,
        find: impl FnMut(&Moved<'_>) -> Option<Standing>,
    ) -> Progress {
        let committed = self.journal.poll();
        self.write_notes();
        let more = !self.is_stopping && self.compact(find);
        let waiting = self.journal.flush() > committed;
        self.watch.look(committed, waiting, now);
        self.examine(now);
        if self.health != self.told {
            self.told = self.health;
            reports.push_back(Report::Disk(self.health));
        }
        reports.extend(self.refusals.drain(..));
        let is_broken = self.health >= DiskHealth::Full;
        let mut queued = 0;
        while self.fresh.front().is_some_and(|fresh| fresh.place.commit_point() <= committed) {
            self.fresh.pop_front();
            queued += 1;
        }
        while let Some((commit_point, report)) = self.held.pop_front() {
            if commit_point <= committed {
                reports.push_back(report);
            } else if is_broken {
                reports.push_back(refused(report));
            } else {
                self.held.push_front((commit_point, report));
                break;
            }
        }
        let refused = if is_broken { std::mem::take(&mut self.fresh) } else { VecDeque::new() };
        Progress { more, queued, refused }
    }

    /// Notes what has changed and ended, then releases what has. What finds no room waits.
    fn write_notes(&mut self) {
        let Self { journal, buffer, changed, buried, ended, .. } = self;
        // An older attempt must not be read after the note that its message is dead.
        if note_all(journal, buffer, changed, record::encode_changed, |_, _| {}) {
            note_all(journal, buffer, buried, record::encode_buried, |_, _| {});
        }
        note_all(journal, buffer, ended, record::encode_ended, |journal, place| {
            // False for one whose record was moved meanwhile: its copy is noted too.
            journal.release(place);
        });
    }

    /// Whether everything is noted.
    fn is_noted(&self) -> bool {
        self.ended.is_empty() && self.changed.is_empty() && self.buried.is_empty()
    }

    fn compact(&mut self, mut find: impl FnMut(&Moved<'_>) -> Option<Standing>) -> bool {
        let Self { journal, placement, clock, ended, changed, buried, .. } = self;
        journal.compact(COMPACTION_BYTES_PER_TURN, |from, to, bytes| {
            let standing = match record::decode(bytes) {
                Some(Entry::QueuedMessage(MessageRecord {
                    tenant, user, sequence, id, ..
                })) => {
                    let hash = placement.hash(tenant, user);
                    find(&Moved { tenant, user, hash, sequence, id, from, to })
                }
                _ => None,
            };
            match standing {
                // Its end is still to be noted, or nobody knows it.
                None => ended.push(to),
                Some(Standing { attempts, dead_until: Some(until) }) => {
                    let until_unix_ms = clock.unix_ms_of(until);
                    buried.push(Burial { place: to, attempts, until_unix_ms });
                }
                Some(Standing { attempts: 0, dead_until: None }) => {}
                Some(Standing { attempts, dead_until: None }) => {
                    changed.push(Change { place: to, attempts, is_dead: false });
                }
            }
        })
    }

    /// Looks after the disk's health, and logs what somebody has to do something about.
    fn examine(&mut self, now: Tick) {
        let before = self.told;
        self.health = match self.journal.condition() {
            Condition::Full | Condition::Tight => DiskHealth::Full,
            Condition::Failed(_) => DiskHealth::Failed,
            Condition::Sound if self.watch.is_slow(now) => DiskHealth::Behind,
            Condition::Sound if self.journal.has_room() => DiskHealth::Sound,
            // What was refused stays so until there is some room; what was not is as it was.
            Condition::Sound => self.health.min(DiskHealth::Limit),
        };
        if self.health == before {
            return;
        }
        let is_due = self.logged_at.is_none_or(|at| now.0 >= at.0 + LOG_INTERVAL_TICKS);
        match (self.health, self.journal.condition()) {
            (DiskHealth::Full, _) => {
                tracing::error!(
                    "queue.path: its file system is full; nothing new is queued until there is room"
                );
            }
            (_, Condition::Failed(reason)) => {
                tracing::error!(
                    %reason,
                    "queue.path cannot be written; nothing new is queued, trying again"
                );
            }
            (DiskHealth::Behind, _) if is_due => {
                self.logged_at = Some(now);
                tracing::warn!(
                    "queue.path: its disk does not keep up; who is to be queued for waits for it"
                );
            }
            (DiskHealth::Limit, _) if is_due => {
                self.logged_at = Some(now);
                tracing::warn!(
                    bytes_max = self.bytes_max,
                    "this shard's share of queue.max_disk_bytes is used up; nothing new is queued"
                );
            }
            (DiskHealth::Sound, _) if before >= DiskHealth::Full => {
                tracing::info!("queue.path can be written again");
            }
            _ => {}
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
        self.is_noted() && self.journal.stats().uncommitted_bytes == 0
    }

    /// How things stand.
    pub(crate) fn snapshot(&self) -> DiskSnapshot {
        let stats = self.journal.stats();
        DiskSnapshot {
            health: self.health,
            bytes: stats.disk_bytes,
            bytes_max: self.bytes_max,
            records: stats.live_records,
            uncommitted_bytes: stats.uncommitted_bytes,
            syncs: stats.syncs,
            lost_records: stats.lost_records,
        }
    }

    /// Writes and syncs everything and ends the writer. Blocks.
    #[expect(clippy::disallowed_methods, reason = "closing waits for the disk")]
    pub(crate) fn close(mut self) -> io::Result<()> {
        for _ in 0..CLOSING_TRIES {
            self.write_notes();
            if self.is_noted() || *self.journal.condition() != Condition::Sound {
                break;
            }
            // The writer is behind.
            self.journal.flush();
            std::thread::sleep(Duration::from_millis(1));
            self.journal.poll();
        }
        let is_done = self.is_noted();
        self.journal.close()?;
        if is_done { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

/// Writes notes of all that is listed, so many to a note, and hands each to `noted`. False if the
/// journal took no more.
fn note_all<T: Copy>(
    journal: &mut Journal,
    buffer: &mut Vec<u8>,
    listed: &mut Vec<T>,
    encode: fn(&[T], &mut Vec<u8>),
    mut noted: impl FnMut(&mut Journal, T),
) -> bool {
    let mut done = 0;
    for some in listed.chunks(MESSAGES_PER_NOTE) {
        encode(some, buffer);
        if journal.note(buffer).is_err() {
            break;
        }
        some.iter().for_each(|entry| noted(journal, *entry));
        done += some.len();
    }
    listed.drain(..done);
    listed.is_empty()
}

/// The same report, saying that what was to be queued is not.
fn refused(report: Report) -> Report {
    let Report::Delivered { request, mut total, mut parts } = report else { return report };
    for counts in parts.iter_mut().chain([&mut total]) {
        counts.refused = counts.refused.saturating_add(std::mem::take(&mut counts.queued));
    }
    Report::Delivered { request, total, parts }
}
