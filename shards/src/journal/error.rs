//! What can go wrong, split by what the caller does next.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: hides a path or a cause.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a journal did not open. Nothing was changed on disk, except in `Io`.
#[derive(Debug)]
pub enum OpenError {
    /// The directory is missing, is no directory, or may not be written.
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another shard of this one, has it open.
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A file was written by a version of this program that this one does not know.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// The options contradict themselves.
    Options(&'static str),
    /// The system failed while the log was read or repaired.
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, source } => {
                let advice = match source.kind() {
                    io::ErrorKind::NotFound => "create it, or mount its volume",
                    io::ErrorKind::PermissionDenied => "let this user write to it",
                    io::ErrorKind::ReadOnlyFilesystem => "mount it writable",
                    io::ErrorKind::NotADirectory => "name a directory",
                    _ => "check its file system",
                };
                write!(formatter, "{}: not usable ({source}): {advice}", path.display())
            }
            Self::Locked { path } => write!(
                formatter,
                "{}: another process has this journal open: stop it, or choose another directory",
                path.display()
            ),
            Self::Version { path, found, known } => write!(
                formatter,
                "{}: written in version {found} of the format, this program knows {known}: run \
                 the program that wrote it, or move the file away and lose what it holds",
                path.display()
            ),
            Self::Options(fault) => formatter.write_str(fault),
            Self::Io { path, doing, source } => {
                write!(formatter, "{}: {doing} failed: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Locked { .. } | Self::Version { .. } | Self::Options(_) => None,
        }
    }
}

/// Why a record was not taken. The journal is unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendError {
    /// It can never be taken, because it is longer than
    /// [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX) or a segment.
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// There is no room now; releases or commits make some.
    Full(Full),
    /// The files cannot be written. The writer tries again by itself; see `Stats::condition`.
    Failed {
        /// What the system said.
        reason: Arc<str>,
    },
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `Options::max_disk_bytes` is reached and compaction cannot help yet.
    Limit,
    /// The file system or its quota is full, or only the reserve is left. The writer tries again
    /// every second.
    Disk,
    /// Too many bytes wait for the writer: append again after a commit.
    Buffer,
}

impl fmt::Display for AppendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(formatter, "a record of {bytes} bytes is too long"),
            Self::Full(Full::Limit) => formatter.write_str("the journal has reached its limit"),
            Self::Full(Full::Disk) => formatter.write_str("the journal's disk is full"),
            Self::Full(Full::Buffer) => formatter.write_str("the journal's writer is behind"),
            Self::Failed { reason } => write!(formatter, "the journal cannot be written: {reason}"),
        }
    }
}

impl std::error::Error for AppendError {}
