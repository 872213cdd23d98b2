//! The few file operations the journal needs, behind a trait so that tests can make them fail.
//!
//! **Runs on**: the shard's thread while the journal opens, then its writer's.
//! **Owns**: the directory's lock and the one file being written.
//! **Never**: retries, buffers or decides.

use std::ffi::CString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::OpenError;

const LOCK_FILE: &str = "lock";

/// A directory of append-only files, one of which is being written.
pub trait Storage: Send + 'static {
    /// The name and length of every file.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;
    /// Makes a new, empty file and makes it the one [`Self::write`] and [`Self::sync`] act on.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Writes all of `bytes` at `offset` of the file created last.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns once all that was written to the file created last would survive a loss of power.
    fn sync(&mut self) -> io::Result<()>;
    /// Appends to `into` what `name` holds from `offset` on, at most `bytes_max`. After an error
    /// `into` holds what could be read before it.
    fn read(
        &mut self,
        name: &str,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()>;
    /// Gives `from`, which may be the file created last, another name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Cuts `name` to `bytes` and syncs it.
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()>;
    /// Deletes `name`; it is no error that it is not there.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes `name`, whatever it was before, a file of exactly `bytes` that occupies as much space;
    /// what it holds does not matter. After an error it is not there and occupies nothing; lack of
    /// space is an error already where less than as much again would be left for others.
    fn reserve(&mut self, name: &str, bytes: u64) -> io::Result<()>;
    /// Returns once all creations, new names and removals would survive a loss of power.
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// A real directory, locked for this process.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    directory: File,
    current: Option<File>,
    lock: File,
}

impl Disk {
    /// Locks the directory at `path`, which must exist, or says why it cannot be used.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { path: path.to_owned(), source };
        let directory = File::open(path).map_err(unusable)?;
        if !directory.metadata().map_err(unusable)?.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), directory, current: None, lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Closing alone does not unlock it while a child process between fork and exec has a copy.
        self.lock.unlock().ok();
    }
}

impl Storage for Disk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.current = None;
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(self.path.join(name))?;
        self.current = Some(file);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.current()?.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.current()?.sync_data()
    }

    fn read(
        &mut self,
        name: &str,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        let file = File::open(self.path.join(name))?;
        let start = into.len();
        let left = file.metadata()?.len().saturating_sub(offset);
        into.resize(start + usize::try_from(left).unwrap_or(bytes_max).min(bytes_max), 0);
        let mut at = start;
        while let Some(rest) = into.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + (at - start) as u64) {
                Ok(0) => break,
                Ok(bytes) => at += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    into.truncate(at);
                    return Err(error);
                }
            }
        }
        into.truncate(at);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn reserve(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let path = self.path.join(name);
        let mut open = OpenOptions::new();
        let file = open.create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        let made = file.metadata().and_then(|found| {
            if found.len() == bytes && found.blocks().saturating_mul(512) >= bytes {
                return Ok(());
            }
            // As much must be left for others on the same file system: one that waits in the middle of
            // its compaction for a little space would wait for ever if this one took it first.
            if file_system_bytes_free(&self.path).is_some_and(|free| free < bytes.saturating_mul(2))
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.set_len(bytes)?;
            allocate(&file, bytes)
        });
        if made.is_err() {
            std::fs::remove_file(&path).ok();
        }
        made
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl Disk {
    fn current(&self) -> io::Result<&File> {
        self.current.as_ref().ok_or_else(|| io::Error::other("no segment file is open"))
    }
}

/// Has the file system allocate the blocks of a file.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "nothing in std takes space without writing to it")]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let Ok(length) = libc::off_t::try_from(bytes) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    loop {
        // SAFETY: the descriptor is that of `file`, which is open; no memory is handed over.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
            0 => return Ok(()),
            libc::EINTR => {}
            libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS => return fill(file, bytes),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The size of the file system that holds an existing path, in bytes; `None` if it does not say.
#[must_use]
pub fn file_system_bytes(path: &Path) -> Option<u64> {
    let found = file_system(path)?;
    found.f_blocks.checked_mul(found.f_frsize).filter(|bytes| *bytes > 0)
}

/// How much of it may still be taken; `None` if it does not say.
fn file_system_bytes_free(path: &Path) -> Option<u64> {
    let found = file_system(path)?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[expect(unsafe_code, reason = "the standard library has no statvfs")]
fn file_system(path: &Path) -> Option<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut found = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero byte, and the buffer has the type the call fills in.
    let result = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: the call has filled it in, and all zeros would be a valid value too.
    Some(unsafe { found.assume_init() })
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    fill(file, bytes)
}

/// Writes zeros instead, for file systems that cannot allocate blocks.
pub(super) fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = [0; 64 * 1024];
    let mut offset = 0;
    while offset < bytes {
        let count = usize::try_from(bytes - offset).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all_at(zeros.get(..count).unwrap_or(&zeros), offset)?;
        offset += count as u64;
    }
    Ok(())
}
