//! The bytes on disk: file names, file headers, frames, and the scan that finds complete frames.
//!
//! **Runs on**: the shard (encoding), its writer (reading back), recovery.
//! **Owns**: nothing; pure functions. **Never**: touches a file; trusts a length it has read.
//!
//! The log is one sequence of 16-byte blocks, numbered from 0 and never reused. A segment file
//! holds the blocks from its *base* on, behind a 32-byte header:
//!
//! ```text
//! header  magic 8 | version u32 | file number u32 | base u48 | zero u16 | salt u32 | crc32 u32
//! frame   crc32 u32 | kind u8 in the top of a u32 whose low 24 bits are the length | record | zeros
//! ```
//!
//! All numbers are little-endian. The name of a file repeats number, base and salt, so a damaged
//! header costs nothing. The CRC of a frame begins from its block and the salt of its session: a
//! frame that is read at another block, that an older journal left, or that a client has built
//! inside its payload does not match its CRC, and counts as not complete.

use super::{Position, RECORD_BYTES_MAX};

pub(super) const BLOCK_BYTES: usize = 16;
pub(super) const HEADER_BYTES: usize = 32;
pub(super) const VERSION: u32 = 1;
/// Blocks are numbered with 48 bits: 4.5 PB written by one shard.
pub(super) const BLOCKS_MAX: u64 = 1 << 48;

const MAGIC: [u8; 8] = *b"AraJrnl\n";
const HEAD_BYTES: usize = 8;
const SUFFIX: &str = ".journal";
const DRAFT: &str = ".new";
/// How many bytes of damage one segment may make recovery check twice: 0.1 s of CRC.
const SEARCH_BYTES_MAX: usize = 512 * 1024 * 1024;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A record of the owner, live until it is released.
    Record,
    /// A note: it refers to older records, and is never live itself.
    Note,
}

impl Kind {
    const fn code(self) -> u32 {
        match self {
            Self::Record => 0xA5,
            Self::Note => 0x5A,
        }
    }
}

/// A file's identity, in its name and again in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    /// Counts every file of the directory; of two files with the same blocks the later is right.
    pub(super) number: u32,
    /// The block its first frame begins at.
    pub(super) base: u64,
    /// Drawn at random by each session that writes.
    pub(super) salt: u32,
}

/// What stands in the first 32 bytes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Whole(FileId),
    /// Undamaged, but of a version this program does not know.
    Version(u32),
    Damaged,
}

impl FileId {
    pub(super) fn name(self) -> String {
        format!("{:08x}-{:012x}-{:08x}{SUFFIX}", self.number, self.base, self.salt)
    }

    /// The name of a new file until everything it must hold is written.
    pub(super) fn draft_name(self) -> String {
        self.name() + DRAFT
    }

    pub(super) fn is_draft(name: &str) -> bool {
        name.strip_suffix(DRAFT).and_then(Self::from_name).is_some()
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let number = u32::from_str_radix(parts.next()?, 16).ok()?;
        let base = u64::from_str_radix(parts.next()?, 16).ok()?;
        let salt = u32::from_str_radix(parts.next()?, 16).ok()?;
        let id = Self { number, base, salt };
        // Only names exactly as this program writes them: without signs or missing zeros.
        (base < BLOCKS_MAX && parts.next().is_none() && id.name() == name).then_some(id)
    }

    pub(super) fn header(self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.base.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    pub(super) fn read_header(bytes: &[u8]) -> Header {
        let read = || {
            let (checked, crc) = bytes.get(..HEADER_BYTES)?.split_at(HEADER_BYTES - 4);
            if crc32fast::hash(checked) != read_u32(crc)? || !checked.starts_with(&MAGIC) {
                return None;
            }
            let version = read_u32(checked.get(8..)?)?;
            if version != VERSION {
                return Some(Header::Version(version));
            }
            let base = u64::from_le_bytes(checked.get(16..24)?.try_into().ok()?);
            let number = read_u32(checked.get(12..)?)?;
            let salt = read_u32(checked.get(24..)?)?;
            (base < BLOCKS_MAX).then_some(Header::Whole(Self { number, base, salt }))
        };
        read().unwrap_or(Header::Damaged)
    }
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.first_chunk::<4>()?))
}

/// How many blocks the frame of a record of `bytes` takes.
pub(super) const fn frame_blocks(bytes: usize) -> u64 {
    (HEAD_BYTES + bytes).div_ceil(BLOCK_BYTES) as u64
}

/// CRC-32 maps different initial values to different results, so a frame is valid at one block
/// only.
fn checksum(salt: u32, block: u64, checked: &[u8]) -> u32 {
    let (low, high) = (block & 0xFFFF_FFFF, block >> 32);
    let place = u32::try_from(low ^ (high << 16)).unwrap_or(u32::MAX);
    let mut hasher = crc32fast::Hasher::new_with_initial(salt ^ place);
    hasher.update(checked);
    hasher.finalize()
}

/// Appends the frame of `record`, which is at most [`RECORD_BYTES_MAX`] long, for `block`.
pub(super) fn encode(buffer: &mut Vec<u8>, salt: u32, block: u64, kind: Kind, record: &[u8]) {
    let start = buffer.len();
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&((kind.code() << 24) | length).to_le_bytes());
    buffer.extend_from_slice(record);
    let crc = checksum(salt, block, buffer.get(start + 4..).unwrap_or_default());
    if let Some(field) = buffer.get_mut(start..start + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    buffer.resize((buffer.len() - start).next_multiple_of(BLOCK_BYTES) + start, 0);
}

/// Kind and length of the frame at the beginning of `bytes`, if they are possible values.
fn read_head(bytes: &[u8]) -> Option<(Kind, usize)> {
    let word = read_u32(bytes.get(4..)?)?;
    let kind = match word >> 24 {
        code if code == Kind::Record.code() => Kind::Record,
        code if code == Kind::Note.code() => Kind::Note,
        _ => return None,
    };
    let length = usize::try_from(word & 0x00FF_FFFF).ok()?;
    (length <= RECORD_BYTES_MAX).then_some((kind, length))
}

/// The bytes the frame at the beginning of `bytes` claims, padding included.
pub(super) fn claimed_bytes(bytes: &[u8]) -> Option<usize> {
    read_head(bytes).map(|(_, length)| (HEAD_BYTES + length).next_multiple_of(BLOCK_BYTES))
}

/// One step of a [`Scan`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Frame {
        position: Position,
        kind: Kind,
        record: &'a [u8],
    },
    /// Bytes that are no frame, with complete frames after them.
    Damage {
        bytes: usize,
    },
    /// Bytes that are no frame, with no complete frame after them.
    Tail {
        bytes: usize,
    },
}

/// Walks the frames of one file, from a block on.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    salt: u32,
    base: u64,
    /// Where the next frame is looked for, in bytes.
    at: usize,
    search_bytes_left: usize,
}

impl<'a> Scan<'a> {
    /// `bytes` begin with the frame at block `base`.
    pub(super) const fn new(bytes: &'a [u8], salt: u32, base: u64) -> Self {
        Self { bytes, salt, base, at: 0, search_bytes_left: SEARCH_BYTES_MAX }
    }

    /// The block the scan has come to.
    pub(super) const fn block(&self) -> u64 {
        self.base + (self.at / BLOCK_BYTES) as u64
    }

    fn frame(&self, at: usize) -> Option<(Found<'a>, usize)> {
        let bytes = self.bytes.get(at..)?;
        let (kind, length) = read_head(bytes)?;
        let checked = bytes.get(4..HEAD_BYTES + length)?;
        let block = self.base + (at / BLOCK_BYTES) as u64;
        if checksum(self.salt, block, checked) != read_u32(bytes)? {
            return None;
        }
        let record = bytes.get(HEAD_BYTES..HEAD_BYTES + length)?;
        let position = Position::new(block, frame_blocks(length))?;
        let next = at + (HEAD_BYTES + length).next_multiple_of(BLOCK_BYTES);
        Some((Found::Frame { position, kind, record }, next))
    }

    /// Where the next complete frame begins: at the end that the damaged frame's header claims, or
    /// else at the first block that holds one.
    fn search(&mut self) -> Option<usize> {
        let claimed = self.bytes.get(self.at..).and_then(claimed_bytes);
        if let Some(next) = claimed.map(|bytes| self.at + bytes)
            && self.frame(next).is_some()
        {
            return Some(next);
        }
        let mut at = self.at + BLOCK_BYTES;
        while at < self.bytes.len() {
            let claimed = self.bytes.get(at..).and_then(claimed_bytes).unwrap_or(0);
            self.search_bytes_left = self.search_bytes_left.checked_sub(claimed)?;
            if claimed > 0 && self.frame(at).is_some() {
                return Some(at);
            }
            at += BLOCK_BYTES;
        }
        None
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if let Some((found, next)) = self.frame(self.at) {
            self.at = next;
            return Some(found);
        }
        let from = self.at;
        if let Some(next) = self.search() {
            self.at = next;
            return Some(Found::Damage { bytes: next - from });
        }
        self.at = self.bytes.len();
        Some(Found::Tail { bytes: self.at - from })
    }
}
