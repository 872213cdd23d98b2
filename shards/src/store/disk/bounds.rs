//! What waits for a disk that takes no notes is bounded.
//!
//! Set-up: a store whose turns are not taken, as if its journal had no room. Property: of the changes
//! only so many wait, whatever happens; ends are not bounded, since each message has one. Why it
//! matters: while a disk is full, messages are sent again and again, and each sending is a change.

use super::*;
use crate::base::limits::CHANGES_WAITING_MAX;
use crate::journal::{Fsync, Options};

#[test]
fn only_so_many_changes_wait_to_be_noted() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        directory: directory.path().into(),
        segment_bytes: 64 * 1024,
        max_disk_bytes: 1024 * 1024,
        fsync: Fsync::Never,
    };
    let bell = std::sync::Arc::new(crate::link::doorbell::Doorbell::new(|| {}));
    let (mut recovered, _summary) =
        open(&options, Clock::start(), &Placement::new(1), bell).unwrap();
    let store = recovered.store.as_disk().expect("a disk was opened");
    let record = key_of(store.journal.append(b"a record").unwrap());
    for _ in 0..CHANGES_WAITING_MAX {
        store.note_attempts(record, 2);
    }
    assert_eq!(store.notes.changed.len(), CHANGES_WAITING_MAX);
    store.note_attempts(record, 3);
    assert_eq!(store.notes.changed.len(), CHANGES_WAITING_MAX, "they pile up");
    assert!(
        store.notes.changed.iter().all(|change| change.attempts == 2),
        "what was there is kept"
    );
    store.end(record);
    assert_eq!(store.notes.ended.len(), 1, "an end is never forgotten");
}
