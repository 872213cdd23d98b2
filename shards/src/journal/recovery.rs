//! Reading the log back: complete frames are kept, damaged ones are counted, a torn end is cut off.
//!
//! **Runs on**: the shard's thread, before it serves. **Owns**: nothing once it is done.
//! **Never**: fails because of damaged content; deletes a file that holds a complete frame which
//! counts.
//!
//! Files are read in the order of their numbers, each as far as the next one's base: what lies
//! beyond was uncertain after a failed sync and has been written again. In the last file, bytes
//! that no complete frame follows are the torn end of a write that was never committed: they are
//! cut off. Bytes that a complete frame follows are skipped, left in the file and reported.

use std::collections::VecDeque;
use std::path::Path;

use super::files::{Log, SegmentFile};
use super::format::{BLOCK_BYTES, FileId, Found, HEADER_BYTES, Header, Kind, Scan, VERSION};
use super::segments::Segments;
use super::storage::Storage;
use super::{OpenError, Position};

/// What was found when the journal was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Segment files read.
    pub files: usize,
    /// Records handed to the owner.
    pub records: u64,
    /// Notes handed to the owner.
    pub notes: u64,
    /// Bytes cut off the end: a write that a crash interrupted. Nothing committed was in them.
    pub torn_bytes: u64,
    /// Bytes skipped in the last file, with complete records after them: pages of an
    /// interrupted write that were lost while later ones were not, or else damage.
    pub gap_bytes: u64,
    /// Places in sealed files where records are damaged or missing: the disk or the system has
    /// lost data. (A gap counts here once its file is no longer the last.)
    pub damages: u64,
    /// Bytes of log in those places.
    pub damaged_bytes: u64,
    /// The last failure to read a file, if there was one.
    pub read_error: Option<String>,
}

/// The state a journal begins with.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Segments,
    pub(super) log: Log,
    pub(super) report: RecoveryReport,
}

/// A file before it is scanned.
struct Candidate {
    name: String,
    bytes: u64,
    id: FileId,
    header_damaged: bool,
}

/// Reads all files of `storage`. `directory` is for messages only.
pub(super) fn recover(
    storage: &mut impl Storage,
    directory: &Path,
    on_record: &mut impl FnMut(Position, &[u8]),
) -> Result<Recovered, OpenError> {
    let found = identify(storage, directory)?;
    let mut recovered = Recovered {
        segments: Segments::new(),
        log: Log {
            files: VecDeque::with_capacity(found.len()),
            end: 0,
            number: found.last().map_or(0, |file| file.id.number.saturating_add(1)),
            salt: fastrand::u32(..),
        },
        report: RecoveryReport { files: found.len(), ..RecoveryReport::default() },
    };
    let bases = found.iter().skip(1).map(|file| Some(file.id.base)).chain([None]);
    for (file, next_base) in found.iter().zip(bases) {
        let end = recovered.scan(storage, file, next_base, on_record);
        let whole_bytes = HEADER_BYTES as u64 + (end - file.id.base) * BLOCK_BYTES as u64;
        let fail =
            |doing, source| OpenError::Io { path: directory.join(&file.name), doing, source };
        // Block numbers of an empty file are used again; those before it never are.
        recovered.log.end = recovered.log.end.max(end);
        if end == file.id.base {
            storage.remove(&file.name).map_err(|error| fail("removing an empty segment", error))?;
        } else {
            // The last file is synced even if nothing is cut off: what was read may be in the
            // system's memory only, and the owner counts on it from now on.
            if whole_bytes < file.bytes || next_base.is_none() {
                let cut = storage.truncate(&file.name, whole_bytes.min(file.bytes));
                cut.map_err(|error| fail("cutting off a torn end and syncing", error))?;
            }
            let end = next_base.unwrap_or(end).max(end);
            recovered.segments.extend(end);
            recovered.log.files.push_back(SegmentFile {
                name: file.name.clone(),
                id: file.id,
                end,
            });
            recovered.log.end = recovered.log.end.max(end);
        }
    }
    let synced = storage.sync_directory();
    synced.map_err(|source| OpenError::Io {
        path: directory.to_owned(),
        doing: "syncing the directory",
        source,
    })?;
    recovered.segments.seal();
    Ok(recovered)
}

/// Finds the segment files and refuses those of an unknown version, before anything is changed.
fn identify(storage: &mut impl Storage, directory: &Path) -> Result<Vec<Candidate>, OpenError> {
    let list = storage.list();
    let list =
        list.map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
    let mut found = Vec::with_capacity(list.len());
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let mut drafts = Vec::new();
    for (name, bytes) in list {
        let Some(named) = FileId::from_name(&name) else {
            drafts.extend(FileId::is_draft(&name).then_some(name));
            continue;
        };
        header.clear();
        // A header that cannot be read counts as damaged; the scan reports it.
        let readable = storage.read(&name, 0, HEADER_BYTES, &mut header).is_ok();
        let (id, header_damaged) = match FileId::read_header(&header) {
            Header::Whole(id) if readable => (id, false),
            Header::Version(found) => {
                let path = directory.join(&name);
                return Err(OpenError::Version { path, found, known: VERSION });
            }
            Header::Whole(_) | Header::Damaged => (named, true),
        };
        found.push(Candidate { name, bytes, id, header_damaged });
    }
    for name in drafts {
        let path = directory.join(&name);
        let doing = "removing an unfinished file";
        storage.remove(&name).map_err(|source| OpenError::Io { path, doing, source })?;
    }
    found.sort_unstable_by_key(|file| file.id);
    Ok(found)
}

impl Recovered {
    /// Hands the complete records of one file to the owner. Returns the block the file ends at.
    fn scan(
        &mut self,
        storage: &mut impl Storage,
        file: &Candidate,
        next_base: Option<u64>,
        on_record: &mut impl FnMut(Position, &[u8]),
    ) -> u64 {
        let base = file.id.base;
        let limit = next_base
            .map_or(u64::MAX, |next| next.saturating_sub(base).saturating_mul(BLOCK_BYTES as u64));
        if limit == 0 {
            return base;
        }
        let bytes_max = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        let read = storage.read(&file.name, HEADER_BYTES as u64, bytes_max, &mut bytes);
        self.segments.begin(base);
        let mut scan = Scan::new(&bytes, file.id.salt, base);
        let (mut end, mut tail) = (base, 0);
        let mut whole = false;
        while let Some(found) = scan.next() {
            match found {
                Found::Frame { position, kind, record } => {
                    self.take(position, kind);
                    on_record(position, record);
                    whole = true;
                    end = scan.block();
                }
                Found::Damage { bytes } if next_base.is_some() => {
                    self.report.damage(bytes as u64);
                }
                Found::Damage { bytes } => self.report.gap_bytes += bytes as u64,
                Found::Tail { bytes } => tail = bytes as u64,
            }
        }
        if file.header_damaged && whole {
            self.report.damage(HEADER_BYTES as u64);
        }
        self.segments.extend(end);
        let missing = next_base.map_or(0, |next| next.saturating_sub(end) * BLOCK_BYTES as u64);
        match read {
            Err(error) => {
                // Whatever the file holds is left alone; nothing is appended over it.
                self.report.read_error = Some(format!("{}: {error}", file.name));
                self.report.damage(file.bytes.saturating_sub(bytes.len() as u64));
                let blocks = file.bytes.div_ceil(BLOCK_BYTES as u64);
                next_base.unwrap_or(base + blocks).max(end)
            }
            Ok(()) if missing > 0 => {
                self.report.damage(missing);
                next_base.unwrap_or(end)
            }
            Ok(()) => {
                self.report.torn_bytes += if next_base.is_none() { tail } else { 0 };
                end
            }
        }
    }

    fn take(&mut self, position: Position, kind: Kind) {
        match kind {
            Kind::Record => {
                self.report.records += 1;
                self.segments.insert(position);
            }
            Kind::Note => self.report.notes += 1,
        }
    }
}

impl RecoveryReport {
    fn damage(&mut self, bytes: u64) {
        self.damages += 1;
        self.damaged_bytes += bytes;
    }

    /// Whether something committed has been lost.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.damages > 0
    }
}
