//! The journal of the templates: what is written when, and when it may go.
//!
//! **Runs on**: the router's thread; main opens it. **Owns**: the journal, and where the record of each
//! template is. **Never**: waits for the disk (except to close); releases what still counts.

use std::io;
use std::sync::Arc;

use ahash::AHashMap;
use ara_shards::journal::{AppendError, CommitPoint, Condition, Journal, Position};

use super::record::{Change, Fields, Name, Record};
use super::recovery::{OwnedName, Recovered};
use crate::journal_task::{self, Progress};
use crate::templates::template::Template;

/// Bytes compaction copies between two looks at everything else.
const COMPACTION_BYTES: usize = 256 * 1024;

/// The journal and what this process knows about it.
#[derive(Debug)]
pub(super) struct Log {
    journal: Journal,
    /// Each record that is not released.
    records: AHashMap<Change, Position>,
    /// The change that made each template what it is.
    current: AHashMap<OwnedName, Change>,
    next_change: Change,
    /// The change that is under way.
    begun: Option<Change>,
    /// Changes that were not answered as made, and are not noted yet as undone.
    undone: Vec<Change>,
    /// What the journal said last.
    committed: CommitPoint,
    condition: Condition,
    scratch: Vec<u8>,
}

impl Log {
    /// A journal that has just been opened, with what was found in it. Hands the templates on.
    pub(super) fn new(
        mut journal: Journal,
        recovered: Recovered,
    ) -> (Self, Vec<(Arc<str>, Template)>) {
        let Recovered { templates: found, dead, next_change, .. } = recovered;
        for position in dead {
            journal.release(position);
        }
        let (mut records, mut current) = (AHashMap::new(), AHashMap::new());
        let mut templates = Vec::with_capacity(found.len());
        for (change, position, tenant, template) in found {
            records.insert(change, position);
            current.insert((Arc::clone(&tenant), template.id.clone()), change);
            templates.push((tenant, template));
        }
        let log = Self {
            committed: journal.committed(),
            journal,
            records,
            current,
            next_change,
            begun: None,
            undone: Vec::new(),
            condition: Condition::Sound,
            scratch: Vec::new(),
        };
        (log, templates)
    }

    /// The number of a change that is about to be written. There is one at a time.
    pub(super) fn begin(&mut self) -> Change {
        let change = self.next_change;
        self.next_change = change.next();
        self.begun = Some(change);
        change
    }

    /// Writes that a template is this from now on.
    pub(super) fn store(
        &mut self,
        change: Change,
        tenant: &str,
        template: &Template,
    ) -> Result<CommitPoint, AppendError> {
        let name = Name { tenant, id: &template.id };
        self.encode(&Record::Stored(change, name, Fields::of(template)));
        let position = self.journal.append(&self.scratch)?;
        self.records.insert(change, position);
        Ok(position.commit_point())
    }

    /// Writes that a template is no more.
    pub(super) fn delete(
        &mut self,
        change: Change,
        tenant: &str,
        id: &str,
    ) -> Result<CommitPoint, AppendError> {
        self.encode(&Record::Deleted(change, Name { tenant, id }));
        self.journal.note(&self.scratch)?;
        Ok(self.journal.flush())
    }

    /// A change is where it is to be kept: what it replaces may go.
    pub(super) fn confirm(&mut self, change: Change, tenant: &Arc<str>, id: &str) {
        self.begun = None;
        let name = (Arc::clone(tenant), id.into());
        let replaced = if self.records.contains_key(&change) {
            self.current.insert(name, change)
        } else {
            self.current.remove(&name)
        };
        if let Some(replaced) = replaced {
            self.release(replaced);
        }
    }

    /// A change is not made, though it may be on the disk, or come there.
    pub(super) fn undo(&mut self, change: Change) {
        self.begun = None;
        self.undone.push(change);
        self.note_the_undone();
    }

    /// Writes what is left and gives the directory back. Blocks. A change that is under way is not
    /// answered as made any more.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.undone.extend(self.begun.take());
        self.note_the_undone();
        self.journal.close()
    }

    fn encode(&mut self, record: &Record<'_>) {
        self.scratch.clear();
        record.encode(&mut self.scratch);
    }

    /// Notes what is undone, then releases it. What finds no room is tried again the next turn.
    fn note_the_undone(&mut self) {
        while let Some(change) = self.undone.last().copied() {
            self.encode(&Record::Undone(change));
            if self.journal.note(&self.scratch).is_err() {
                return;
            }
            self.undone.pop();
            self.release(change);
        }
    }

    fn release(&mut self, change: Change) {
        if let Some(position) = self.records.remove(&change) {
            self.journal.release(position);
        }
    }

    #[cfg(test)]
    pub(super) fn stats(&self) -> ara_shards::journal::Stats {
        self.journal.stats()
    }
}

impl journal_task::Log for Log {
    fn turn(&mut self) -> bool {
        self.committed = self.journal.poll();
        self.note_the_undone();
        let mut strays = Vec::new();
        let records = &mut self.records;
        let more = self.journal.compact(COMPACTION_BYTES, |old, new, record| {
            let place = match Record::decode(record) {
                Some(Record::Stored(change, ..)) => records.get_mut(&change),
                _ => None,
            };
            match place.filter(|place| **place == old) {
                Some(place) => *place = new,
                None => strays.push(new),
            }
        });
        for stray in strays {
            self.journal.release(stray);
        }
        self.journal.flush();
        self.condition = self.journal.stats().condition;
        more
    }

    fn check(&self) -> io::Result<()> {
        self.journal.check()
    }

    fn progress(&self, commit_point: CommitPoint) -> Progress {
        Progress::of(commit_point, self.committed, &self.condition)
    }
}
