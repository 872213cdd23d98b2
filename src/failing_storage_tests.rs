//! A journal's files that misbehave on demand, for the tests of what is kept in journals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ara_shards::journal::storage::{Disk, Storage};

/// Files that are full (1), never return from a write (2) or are broken (3), on demand.
pub(crate) struct FailingStorage {
    pub(crate) disk: Disk,
    pub(crate) mood: Arc<AtomicU8>,
}

impl FailingStorage {
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

impl Storage for FailingStorage {
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
