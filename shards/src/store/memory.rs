//! The store that keeps nothing: messages are in the memory of the process and end with it.
//!
//! **Runs on**: a shard. **Owns**: nothing. **Never**: refuses, holds or does anything.

use std::collections::VecDeque;
use std::io;

use super::{Moved, NotPersisted, Progress, RecordState, Store, UserNames};
use crate::base::counters::DiskSnapshot;
use crate::base::id::{RecordKey, Tick, UserSlot};
use crate::link::message::Report;
use crate::queued_message::QueuedMessage;

/// No record is ever given out, so that none comes back.
const NO_RECORDS: &str = "a message in memory has no record";

/// Messages in memory only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory;

impl Store for Memory {
    fn persist(
        &mut self,
        _user: UserSlot,
        _names: &dyn UserNames,
        _message: &mut QueuedMessage,
    ) -> Result<(), NotPersisted> {
        Ok(())
    }

    fn confirm(&mut self, _user: UserSlot, _message: &QueuedMessage) -> bool {
        true
    }

    fn note_attempts(&mut self, _record: RecordKey, _attempts: u8) {
        panic!("{NO_RECORDS}");
    }

    fn note_dead_letter(&mut self, _record: RecordKey, _attempts: u8, _until: Tick) {
        panic!("{NO_RECORDS}");
    }

    fn end(&mut self, _record: RecordKey) {
        panic!("{NO_RECORDS}");
    }

    fn hold(&mut self, report: Report) -> Option<Report> {
        Some(report)
    }

    fn poll(
        &mut self,
        _now: Tick,
        _reports: &mut VecDeque<Report>,
        _find: &mut dyn FnMut(&Moved<'_>) -> Option<RecordState>,
    ) -> Progress {
        Progress::default()
    }

    fn next_poll_at(&self, _now: Tick) -> Option<Tick> {
        None
    }

    fn begin_stop(&mut self) -> bool {
        false
    }

    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    fn snapshot(&self) -> Option<DiskSnapshot> {
        None
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}
