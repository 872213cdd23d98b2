//! A file system in memory that loses what was not synced, fills up and fails on demand.

use std::collections::BTreeMap;
use std::io;
#[expect(
    clippy::disallowed_types,
    reason = "a test looks at the files while the writer uses them"
)]
use std::sync::Mutex;
use std::sync::{Arc, MutexGuard};

use ara_shards::journal::storage::Storage;
use fastrand::Rng;

const RESERVE: &str = "reserve";

#[derive(Debug, Clone, Default)]
struct File {
    data: Vec<u8>,
    /// The bytes that surely survive a loss of power.
    durable: Vec<u8>,
    /// A sync has failed: no later one makes these bytes safe.
    poisoned: bool,
    entry_durable: bool,
}

/// What to fail next, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The next write panics.
    Panic,
    Create,
    /// A write, after half of its bytes.
    Write,
    /// A write, after half of its bytes, for lack of space.
    WriteFull,
    Sync,
    /// A sync, for lack of space.
    SyncFull,
    Remove,
    SyncDirectory,
    Read,
    /// The making of the reserve, not for lack of space.
    Reserve,
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    files: BTreeMap<String, File>,
    /// Removed, but the directory was not synced since.
    removed: BTreeMap<String, File>,
    current: Option<String>,
    /// Counts the processes that have used these files. Handles of an earlier one fail.
    process: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) bytes_max: Option<u64>,
    pub(super) syncs: u64,
}

#[derive(Debug, Clone, Default)]
#[expect(clippy::disallowed_types, reason = "a test looks at the files while the writer uses them")]
pub(super) struct Memory {
    state: Arc<Mutex<State>>,
    process: u64,
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("{what} failed, as told to"))
}

impl State {
    fn takes_fault(&mut self, fault: Fault) -> io::Result<()> {
        match self.faults.iter().position(|one| *one == fault) {
            Some(at) => {
                self.faults.remove(at);
                Err(match fault {
                    Fault::WriteFull | Fault::SyncFull => io::ErrorKind::StorageFull.into(),
                    _ => failed(&format!("{fault:?}")),
                })
            }
            None => Ok(()),
        }
    }

    /// The space that is in use on the file system.
    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|file| file.data.len() as u64).sum()
    }

    /// The bytes of all files except the reserve.
    pub(super) fn bytes(&self) -> u64 {
        self.used() - self.reserve().map_or(0, |bytes| bytes as u64)
    }

    /// The number of files, without the reserve.
    pub(super) fn files(&self) -> usize {
        self.files.len() - usize::from(self.reserve().is_some())
    }

    /// The bytes of the file number `index`, counted from the oldest. The reserve sorts after all
    /// of the log.
    pub(super) fn data(&mut self, index: usize) -> &mut Vec<u8> {
        assert!(index < self.files(), "so many files");
        &mut self.files.values_mut().nth(index).expect("so many files").data
    }

    /// The length of the reserve, if there is one.
    pub(super) fn reserve(&self) -> Option<usize> {
        self.files.get(RESERVE).map(|file| file.data.len())
    }

    /// Changes or removes the reserve, as somebody could while the journal is not open.
    pub(super) fn leave_reserve(&mut self, bytes: Option<usize>) {
        self.files.remove(RESERVE);
        if let Some(bytes) = bytes {
            let data = vec![0xA5; bytes];
            self.files.insert(RESERVE.to_owned(), File { data, ..File::default() });
        }
    }
}

impl Memory {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Another disk with the same files.
    #[expect(clippy::disallowed_types, reason = "as for the type")]
    pub(super) fn copy(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())), process: self.process }
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.process == self.process {
            Ok(state)
        } else {
            Err(failed("a process that was killed"))
        }
    }

    /// The process is killed: every write that returned stays. Returns the handle of the next
    /// process.
    pub(super) fn kill(&self) -> Self {
        let mut state = self.state();
        state.process += 1;
        state.current = None;
        state.faults.clear();
        Self { state: Arc::clone(&self.state), process: state.process }
    }

    /// Power is lost: of what was not synced, anything may be there, or garbage, or nothing.
    pub(super) fn lose_power(&self, rng: &mut Rng) -> Self {
        let next = self.kill();
        let mut state = self.state();
        let state = &mut *state;
        for (name, file) in std::mem::take(&mut state.removed) {
            if rng.bool() {
                state.files.entry(name).or_insert(file);
            }
        }
        state.files.retain(|_, file| file.entry_durable || rng.bool());
        for file in state.files.values_mut() {
            let synced = file.durable.len().min(file.data.len());
            file.data.truncate(rng.usize(synced..=file.data.len()));
            if let Some(unsynced) = file.data.get_mut(synced..).filter(|rest| !rest.is_empty())
                && rng.bool()
            {
                // One page in the middle was not written.
                let from = rng.usize(0..unsynced.len());
                let until = (from + rng.usize(1..600)).min(unsynced.len());
                unsynced[from..until].fill(if rng.bool() { 0 } else { 0xA5 });
            }
            file.durable = file.data.clone();
            file.poisoned = false;
            file.entry_durable = true;
        }
        next
    }
}

impl Storage for Memory {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let state = self.alive()?;
        Ok(state.files.iter().map(|(name, file)| (name.clone(), file.data.len() as u64)).collect())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        state.takes_fault(Fault::Create)?;
        assert!(!state.files.contains_key(name), "a file number is used twice");
        state.files.insert(name.to_owned(), File::default());
        state.current = Some(name.to_owned());
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        if state.takes_fault(Fault::Panic).is_err() {
            drop(state);
            panic!("a bug, as told to");
        }
        let fault =
            state.takes_fault(Fault::Write).and_then(|()| state.takes_fault(Fault::WriteFull));
        let used = state.used();
        let room = state.bytes_max.map_or(u64::MAX, |most| most.saturating_sub(used));
        let name = state.current.clone().expect("a file was created");
        let file = state.files.get_mut(&name).expect("the current file exists");
        let offset = usize::try_from(offset).unwrap();
        assert!(offset <= file.data.len(), "a hole");
        let over = (offset + bytes.len()).saturating_sub(file.data.len()) as u64;
        let (count, result) = match fault {
            Err(error) => (bytes.len() / 2, Err(error)),
            Ok(()) if over > room => {
                let less = usize::try_from(over - room).unwrap();
                (bytes.len() - less, Err(io::ErrorKind::StorageFull.into()))
            }
            Ok(()) => (bytes.len(), Ok(())),
        };
        let end = file.data.len().max(offset + count);
        file.data.resize(end, 0);
        file.data[offset..offset + count].copy_from_slice(&bytes[..count]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.syncs += 1;
        let fault =
            state.takes_fault(Fault::Sync).and_then(|()| state.takes_fault(Fault::SyncFull));
        let name = state.current.clone().expect("a file was created");
        let file = state.files.get_mut(&name).expect("the current file exists");
        file.poisoned |= fault.is_err();
        if !file.poisoned {
            file.durable = file.data.clone();
        }
        fault
    }

    fn read(
        &mut self,
        name: &str,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut state = self.alive()?;
        state.takes_fault(Fault::Read)?;
        let file = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let rest = file.data.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        into.extend_from_slice(&rest[..rest.len().min(bytes_max)]);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        let mut file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        file.entry_durable = false;
        assert!(state.files.insert(to.to_owned(), file).is_none(), "a file is overwritten");
        if state.current.as_deref() == Some(from) {
            state.current = Some(to.to_owned());
        }
        Ok(())
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        let file = state.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        file.data.truncate(usize::try_from(bytes).unwrap());
        file.durable = if file.poisoned {
            file.durable[..file.durable.len().min(file.data.len())].to_vec()
        } else {
            file.data.clone()
        };
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        state.takes_fault(Fault::Remove)?;
        if let Some(file) = state.files.remove(name) {
            state.removed.insert(name.to_owned(), file);
        }
        Ok(())
    }

    fn reserve(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        let fault = state.takes_fault(Fault::Reserve);
        let old = state.files.remove(name);
        fault?;
        if state.bytes_max.is_some_and(|most| state.used() + bytes > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Nothing of it is synced: after a loss of power it is short, or not there.
        let entry_durable = old.is_some_and(|old| old.entry_durable);
        let data = vec![0; usize::try_from(bytes).unwrap()];
        state.files.insert(name.to_owned(), File { data, entry_durable, ..File::default() });
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.takes_fault(Fault::SyncDirectory)?;
        state.removed.clear();
        state.files.values_mut().for_each(|file| file.entry_durable = true);
        Ok(())
    }
}
