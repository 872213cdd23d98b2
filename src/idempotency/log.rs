//! The journal of the keys: what is written when, and when it may go.
//!
//! **Runs on**: the router's thread; main opens it. **Owns**: the journal, and where the records of
//! each request are. **Never**: waits for the disk (except to close); releases what is remembered.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use ara_shards::journal::{AppendError, CommitPoint, Condition, Journal, Position};

use super::Response;
use super::record::{Record, RequestRecord, Serial};
use super::recovery::{Places, Recovered};
use crate::journal_task::{self, Log as _, Progress};

/// Bytes compaction copies between two looks at everything else.
const COMPACTION_BYTES: usize = 256 * 1024;

/// The journal and what this process knows about it.
#[derive(Debug)]
pub(super) struct Log {
    journal: Journal,
    places: BTreeMap<Serial, Places>,
    /// Responses on their way to the disk; the records of their beginnings go once they are there.
    answers: VecDeque<(CommitPoint, Serial)>,
    /// Everything below this serial is forgotten. What has places all the same is to be noted.
    floor: Serial,
    /// Abandoned requests that are not noted yet.
    abandoned: Vec<Serial>,
    /// What the journal said last.
    committed: CommitPoint,
    condition: Condition,
    scratch: Vec<u8>,
}

impl Log {
    /// A journal that has just been opened, with what was found in it.
    pub(super) fn new(mut journal: Journal, recovered: Recovered) -> Self {
        let Recovered { places, dead, floor, replaced, .. } = recovered;
        for position in dead {
            journal.release(position);
        }
        let mut log = Self {
            committed: journal.committed(),
            journal,
            places,
            answers: VecDeque::new(),
            floor: Serial(0),
            abandoned: Vec::new(),
            condition: Condition::Sound,
            scratch: Vec::new(),
        };
        log.forget(floor);
        for serial in replaced {
            log.abandon(serial);
        }
        log
    }

    /// Writes that a request begins, unless that is written.
    pub(super) fn begin(&mut self, head: &RequestRecord<'_>) -> Result<CommitPoint, AppendError> {
        if let Some(Places { begun: Some(position), .. }) = self.places.get(&head.serial) {
            return Ok(position.commit_point());
        }
        if self.is_gone(head.serial) {
            return Ok(CommitPoint::default());
        }
        let position = self.append(&Record::Begun(*head))?;
        self.places.entry(head.serial).or_default().begun = Some(position);
        Ok(position.commit_point())
    }

    /// Writes what a request was answered.
    pub(super) fn answer(
        &mut self,
        head: &RequestRecord<'_>,
        response: &Response,
    ) -> Result<CommitPoint, AppendError> {
        if self.is_gone(head.serial) {
            return Ok(CommitPoint::default());
        }
        let position = self.append(&Record::Answered(*head, response.status, &response.body))?;
        self.places.entry(head.serial).or_default().answered = Some(position);
        self.answers.push_back((position.commit_point(), head.serial));
        Ok(position.commit_point())
    }

    /// Nothing was sent: the key may begin anew.
    pub(super) fn abandon(&mut self, serial: Serial) {
        if self.places.contains_key(&serial) {
            self.abandoned.push(serial);
            self.note_the_dead();
        }
    }

    /// Everything below this serial is forgotten.
    pub(super) fn forget(&mut self, below: Serial) {
        self.floor = self.floor.max(below);
        self.note_the_dead();
    }

    /// Writes what is left and gives the directory back. Blocks. With a time, the next process
    /// starts no earlier.
    pub(super) fn close(mut self, now_ms: Option<u64>) -> io::Result<()> {
        self.turn();
        // Without it ages go on from the last request's; that is too little to fail for.
        let _noted = now_ms.map(|ms| self.note(&Record::Clock { ms }));
        self.journal.close()
    }

    #[cfg(test)]
    pub(super) fn stats(&self) -> ara_shards::journal::Stats {
        self.journal.stats()
    }

    /// Forgotten meanwhile, and perhaps noted already: nothing more may be written about it.
    fn is_gone(&self, serial: Serial) -> bool {
        serial < self.floor
    }

    fn append(&mut self, record: &Record<'_>) -> Result<Position, AppendError> {
        self.scratch.clear();
        record.encode(&mut self.scratch);
        self.journal.append(&self.scratch)
    }

    fn note(&mut self, record: &Record<'_>) -> Result<(), AppendError> {
        self.scratch.clear();
        record.encode(&mut self.scratch);
        self.journal.note(&self.scratch)
    }

    /// Notes what is dead, then releases it. What finds no room is tried again the next turn.
    fn note_the_dead(&mut self) {
        let first = self.places.keys().next().copied();
        if first.is_some_and(|first| first < self.floor) {
            if self.note(&Record::Forgotten { below: self.floor }).is_err() {
                return;
            }
            let kept = self.places.split_off(&self.floor);
            for places in std::mem::replace(&mut self.places, kept).into_values() {
                self.release(places);
            }
        }
        while let Some(serial) = self.abandoned.last().copied() {
            if self.note(&Record::Abandoned { serial }).is_err() {
                return;
            }
            self.abandoned.pop();
            let places = self.places.remove(&serial).unwrap_or_default();
            self.release(places);
        }
    }

    fn release(&mut self, places: Places) {
        for position in [places.begun, places.answered].into_iter().flatten() {
            self.journal.release(position);
        }
    }
}

impl journal_task::Log for Log {
    fn turn(&mut self) -> bool {
        self.committed = self.journal.poll();
        while let Some((commit_point, serial)) = self.answers.front().copied()
            && commit_point <= self.committed
        {
            self.answers.pop_front();
            let begun = self.places.get_mut(&serial).and_then(|places| places.begun.take());
            self.release(Places { begun, answered: None });
        }
        self.note_the_dead();
        let mut strays = Vec::new();
        let places = &mut self.places;
        let more = self.journal.compact(COMPACTION_BYTES, |old, new, record| {
            let place = match Record::decode(record) {
                Some(Record::Begun(head)) => {
                    places.get_mut(&head.serial).map(|places| &mut places.begun)
                }
                Some(Record::Answered(head, ..)) => {
                    places.get_mut(&head.serial).map(|places| &mut places.answered)
                }
                _ => None,
            };
            match place.filter(|place| **place == Some(old)) {
                Some(place) => *place = Some(new),
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
