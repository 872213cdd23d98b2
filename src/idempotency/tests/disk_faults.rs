//! A disk that is full, broken or stuck costs no answer.
//!
//! Set-up: files that misbehave on demand. Property: callers are answered all the same, and what
//! was on disk before and after is there after a crash. Why: a key is a promise to the caller, and
//! the disk is ours to worry about.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ara_shards::journal::storage::{Disk, Storage};
use ara_shards::journal::{Fsync, Journal};

use super::super::*;
use super::{ask, crash, on_a_runtime, open, options, unheard};

/// Files that fail (1), or never return from a write (2), on demand.
struct Moody {
    disk: Disk,
    mood: Arc<AtomicU8>,
}

impl Moody {
    fn check(&self) -> io::Result<()> {
        loop {
            match self.mood.load(Ordering::SeqCst) {
                0 => return Ok(()),
                1 => return Err(io::ErrorKind::StorageFull.into()),
                3 => return Err(io::Error::other("broken")),
                _ => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
    }
}

impl Storage for Moody {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.check()?;
        self.disk.create(name)
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.disk.write(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        self.disk.sync()
    }
    fn read(
        &mut self,
        name: &str,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.disk.read(name, offset, bytes_max, into)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.truncate(name, bytes)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn reserve(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.check()?;
        self.disk.reserve(name, bytes)
    }
    fn sync_directory(&mut self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

#[test]
fn a_full_broken_or_stuck_disk_costs_no_answer() {
    for mood in 1..=3 {
        let directory = tempfile::tempdir().unwrap();
        let options = options(directory.path(), Fsync::Always);
        let moody = Arc::new(AtomicU8::new(0));
        let disk = Disk::open(&options.directory).unwrap();
        let storage = Moody { disk, mood: Arc::clone(&moody) };
        let store = ResponseStore::open_with(clock::wall_ms(), |take, bell| {
            Journal::open_on(storage, &options, take, bell)
        });
        on_a_runtime(async {
            let answers = StoredResponses::new(Some(store.unwrap()), &unheard());
            ask(&answers, "before", "body").await;
            moody.store(mood, Ordering::SeqCst);
            let during = ask(&answers, "during", "body").await;
            assert!(during.sent.is_some() && !during.is_repeated());
            assert!(ask(&answers, "during", "body").await.is_repeated());
            assert!(ask(&answers, "before", "body").await.is_repeated());
            moody.store(0, Ordering::SeqCst);
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
