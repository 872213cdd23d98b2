//! Where queued messages are kept beyond the memory of the process.
//!
//! **Runs on**: a shard. **Owns**: nothing itself: each store owns its own files or connections.
//! **Never**: waits: a call that cannot complete at once completes in a later [`Store::poll`].
//!
//! The queue (`queue/`) owns the messages and has all of them in memory. A [`Store`] keeps a record
//! of each so that the next process finds it. [`Memory`] keeps none, [`disk`] keeps them in a
//! journal.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use crate::base::counters::DiskSnapshot;
use crate::base::id::{NotificationId, RecordKey, Tick, UserSlot};
use crate::base::placement::UserHash;
use crate::link::message::Report;
use crate::queued_message::QueuedMessage;

pub mod disk;
mod memory;

pub use memory::Memory;

/// What keeps the messages of one shard.
///
/// A record begins with [`Self::persist`] and ends with [`Self::end`]. What changes in between is
/// noted. None of this is certain before the store has committed it: whoever was to be told that a
/// message is queued is told by a report that the store holds until then.
pub trait Store: fmt::Debug + Send {
    /// Begins to keep a message and gives it the key of its record, if the store has records.
    ///
    /// # Errors
    ///
    /// The store has no room, or cannot be written. The message has no record.
    fn persist(
        &mut self,
        user: UserSlot,
        names: &dyn UserNames,
        message: &mut QueuedMessage,
    ) -> Result<(), NotPersisted>;

    /// A message that was persisted is counted as enqueued. Returns true if that is final; false if
    /// a later [`Self::poll`] says whether it is, or is refused after all.
    fn confirm(&mut self, user: UserSlot, message: &QueuedMessage) -> bool;

    /// The message of this record was sent so often. May be lost in a crash: then it is sent once
    /// more than it should.
    fn note_attempts(&mut self, record: RecordKey, attempts: u8);

    /// The message of this record is a dead letter from now on, until then.
    fn note_dead_letter(&mut self, record: RecordKey, attempts: u8, until: Tick);

    /// The message of this record has ended.
    fn end(&mut self, record: RecordKey);

    /// Holds a report on a delivery that was enqueued or refused until what it says is certain, and
    /// hands it over in [`Self::poll`]. Gives it back if it is certain now.
    fn hold(&mut self, report: Report) -> Option<Report>;

    /// One turn's work. Reports that need not be held any longer go to `reports`. A store that
    /// moves records asks `find` for the state of each moved one; `find` gives the message its new
    /// key, or says `None` if no message has that record any more.
    fn poll(
        &mut self,
        now: Tick,
        reports: &mut VecDeque<Report>,
        find: &mut dyn FnMut(&Moved<'_>) -> Option<RecordState>,
    ) -> Progress;

    /// When to poll again, if nothing happens until then.
    fn next_poll_at(&self, now: Tick) -> Option<Tick>;

    /// The process stops: no record is moved from now on. Returns whether the next process finds the
    /// records that are there.
    fn begin_stop(&mut self) -> bool;

    /// An error once the store can never work again: the shard ends with it.
    ///
    /// # Errors
    ///
    /// What the store depends on has ended unasked.
    fn check(&self) -> io::Result<()>;

    /// How things stand, for the statistics; `None` if nothing is kept.
    fn snapshot(&self) -> Option<DiskSnapshot>;

    /// Ends the store when all it was told is certain. Blocks.
    ///
    /// # Errors
    ///
    /// Something was not written.
    fn close(self: Box<Self>) -> io::Result<()>;

    /// The disk store, where a test has put one.
    #[cfg(test)]
    fn as_disk(&mut self) -> Option<&mut disk::DiskStore> {
        None
    }
}

/// Who is behind a slot: a record names its user, since slots are another process's in the next run.
pub trait UserNames {
    /// The tenant's name and the user's id.
    fn names(&self, user: UserSlot) -> (&str, &str);
}

/// The store does not keep a message: it has no room, or cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPersisted;

/// A record that the store has moved.
#[derive(Debug)]
pub struct Moved<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) user: &'a str,
    pub(crate) hash: UserHash,
    pub(crate) sequence: u64,
    pub(crate) id: NotificationId,
    pub(crate) from: RecordKey,
    pub(crate) to: RecordKey,
}

/// How the message of a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordState {
    pub(crate) attempts: u8,
    /// When it is forgotten, if it is a dead letter.
    pub(crate) dead_until: Option<Tick>,
}

/// An enqueued message whose record is not certain yet.
#[derive(Debug, Clone, Copy)]
pub struct Unconfirmed {
    pub(crate) user: UserSlot,
    pub(crate) sequence: u64,
    pub(crate) record: RecordKey,
}

/// What a turn's work has come to.
#[derive(Debug, Default)]
pub struct Progress {
    /// There is more to do at once.
    pub(crate) more: bool,
    /// So many more messages are enqueued for good.
    pub(crate) confirmed: u64,
    /// These are not kept after all.
    pub(crate) refused: VecDeque<Unconfirmed>,
}

/// What an earlier process has left, and the store it is kept in.
#[derive(Debug)]
pub struct Recovered {
    pub(crate) store: Box<dyn Store>,
    pub(crate) users: Vec<RecoveredUser>,
    /// The highest sequence of any record, of those that have ended too: a new message must not be
    /// taken for one of them by the next recovery.
    pub(crate) sequence: u64,
}

/// The messages of one user that an earlier process has left.
#[derive(Debug)]
pub(crate) struct RecoveredUser {
    pub(crate) tenant: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) hash: UserHash,
    /// In the order of their sequence.
    pub(crate) waiting: Vec<QueuedMessage>,
    /// In the order they are forgotten, and when that is; `None` = version 0.1 did not note it.
    pub(crate) dead_letters: Vec<(QueuedMessage, Option<Tick>)>,
}
