//! Reads the parts of a record on disk, which may hold anything.
//!
//! **Runs on**: any thread. **Owns**: nothing. **Never**: trusts a length it has read; panics on any
//! bytes.

/// What is left to read. Numbers are little-endian.
#[derive(Debug, Clone, Copy)]
pub struct RecordReader<'a>(pub &'a [u8]);

impl<'a> RecordReader<'a> {
    /// The next so many bytes.
    pub fn slice(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (slice, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(slice)
    }

    /// The next bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    /// A number of eight bytes.
    pub fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text of at most 255 bytes after its length.
    pub fn text(&mut self) -> Option<&'a str> {
        let [bytes] = self.array()?;
        std::str::from_utf8(self.slice(usize::from(bytes))?).ok()
    }

    /// Bytes after their length in four bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let bytes = u32::from_le_bytes(self.array()?);
        self.slice(usize::try_from(bytes).ok()?)
    }

    /// Whether all has been read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}
