//! A disk that is full, broken or stuck costs no answer.
//!
//! Set-up: files that misbehave on demand. Property: callers are answered all the same, and what
//! was on disk before and after is there after a crash. Why: a key is a promise to the caller, and
//! the disk is ours to worry about.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ara_shards::journal::storage::Disk;
use ara_shards::journal::{Fsync, Journal};

use super::super::*;
use super::{ask, crash, on_a_runtime, open, options, unheard};
use crate::failing_storage_tests::FailingStorage;

#[test]
fn a_full_broken_or_stuck_disk_costs_no_answer() {
    for mood in 1..=3 {
        let directory = tempfile::tempdir().unwrap();
        let options = options(directory.path(), Fsync::Always);
        let mood_of_disk = Arc::new(AtomicU8::new(0));
        let disk = Disk::open(&options.directory).unwrap();
        let storage = FailingStorage { disk, mood: Arc::clone(&mood_of_disk) };
        let store = ResponseStore::open_with(clock::wall_ms(), |take, bell| {
            Journal::open_on(storage, &options, take, bell)
        });
        on_a_runtime(async {
            let answers = StoredResponses::new(Some(store.unwrap()), &unheard());
            ask(&answers, "before", "body").await;
            mood_of_disk.store(mood, Ordering::SeqCst);
            let during = ask(&answers, "during", "body").await;
            assert!(during.sent.is_some() && !during.is_repeated());
            assert!(ask(&answers, "during", "body").await.is_repeated());
            assert!(ask(&answers, "before", "body").await.is_repeated());
            mood_of_disk.store(0, Ordering::SeqCst);
            // The journal tries again within a second or so.
            let writer = answers.writer.as_ref().unwrap();
            while writer.change(|log| log.stats().uncommitted_bytes) != Some(0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ask(&answers, "after", "body").await;
            let crashed = crash(directory.path());
            answers.close();
            let answers = open(crashed.path());
            assert!(ask(&answers, "before", "body").await.is_repeated());
            assert!(ask(&answers, "after", "body").await.is_repeated());
            answers.close();
        });
    }
}
