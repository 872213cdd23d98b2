//! Where a request's body ends, so that what follows is read as the next head and not before.
//!
//! **Runs on**: the router's thread. **Owns**: how far one body has come. **Never**: keeps or
//! judges a byte: hyper decodes the body and refuses what is wrong with it.

use crate::listener::head::BodyLength;

/// The way through one body.
#[derive(Debug)]
pub(super) enum Framing {
    /// So many bytes are left.
    Bytes(u64),
    /// In chunks (RFC 9112 section 7.1).
    Chunked(Chunk),
    /// Not in chunks as they must be: hyper will refuse it and end, so nothing follows.
    Broken,
}

/// Where in a chunked body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunk {
    /// In the size, of which so much has been read.
    Size(u64),
    /// Behind the size, up to the end of the line.
    Extension(u64),
    /// Behind the carriage return of that line.
    SizeEnd(u64),
    /// In the data, of which so much is left.
    Data(u64),
    /// At the carriage return behind the data.
    DataEnd,
    /// At the line feed behind the data.
    DataLine,
    /// At the beginning of a trailer line, or of the empty line that ends the body.
    Trailer,
    /// In a trailer line.
    TrailerLine,
    /// Behind the carriage return of a trailer line.
    TrailerEnd,
    /// Behind the carriage return of the empty line.
    LastLine,
    /// Behind everything.
    End,
}

impl Framing {
    pub(super) const fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::Bytes(bytes) => Self::Bytes(bytes),
            BodyLength::Chunked => Self::Chunked(Chunk::Size(0)),
        }
    }

    pub(super) const fn is_at_end(&self) -> bool {
        matches!(self, Self::Bytes(0) | Self::Chunked(Chunk::End))
    }

    /// Goes on over the bytes that belong to the body, and says how many these are.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Bytes(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                here
            }
            Self::Chunked(chunk) => {
                let mut rest = bytes;
                while !rest.is_empty() && !matches!(chunk, Chunk::End) {
                    let Some((next, used)) = chunk.step(rest) else {
                        *self = Self::Broken;
                        return bytes.len();
                    };
                    *chunk = next;
                    rest = rest.get(used..).unwrap_or_default();
                }
                bytes.len() - rest.len()
            }
            Self::Broken => bytes.len(),
        }
    }
}

impl Chunk {
    /// One step over some bytes of `bytes`, which is not empty; `None` where it is no chunk.
    fn step(self, bytes: &[u8]) -> Option<(Self, usize)> {
        let byte = *bytes.first()?;
        let next = match (self, byte) {
            (Self::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = u64::from((byte as char).to_digit(16)?);
                Self::Size(size.checked_mul(16)?.checked_add(digit)?)
            }
            (Self::Size(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Size(_) | Self::Extension(_), b'\n') => return None,
            (Self::Size(size) | Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') => Self::Trailer,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::Data(left), _) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - here as u64;
                return Some((if left == 0 { Self::DataEnd } else { Self::Data(left) }, here));
            }
            (Self::DataEnd, b'\r') => Self::DataLine,
            (Self::DataLine, b'\n') => Self::Size(0),
            (Self::Trailer, b'\r') => Self::LastLine,
            (Self::TrailerLine, b'\r') => Self::TrailerEnd,
            (Self::Trailer | Self::TrailerLine, _) => Self::TrailerLine,
            (Self::TrailerEnd, b'\n') => Self::Trailer,
            (Self::LastLine, b'\n') => Self::End,
            _ => return None,
        };
        Some((next, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of the bytes is the body, given piece by piece, and whether it ends there.
    fn extent(bytes: &[u8], piece: usize, length: BodyLength) -> (usize, bool) {
        let mut framing = Framing::new(length);
        let mut taken = 0;
        for bytes in bytes.chunks(piece) {
            let here = framing.advance(bytes);
            taken += here;
            if here < bytes.len() {
                break;
            }
        }
        (taken, framing.is_at_end())
    }

    #[test]
    fn a_body_ends_where_its_length_says_however_it_comes() {
        let body: &[u8] =
            b"5\r\nhello\r\nA;name=\"x\"\r\n0123\r\n\r\n89\r\n0\r\nTrailer: x\r\n\r\n";
        let bytes = [body, b"GET / HTTP/1.1\r\n"].concat();
        for piece in 1..=bytes.len() {
            assert_eq!(extent(&bytes, piece, BodyLength::Chunked), (body.len(), true), "{piece}");
            assert_eq!(extent(&bytes, piece, BodyLength::Bytes(7)), (7, true), "{piece}");
        }
        assert_eq!(extent(b"GET", 3, BodyLength::Bytes(0)), (0, true));
        assert_eq!(extent(b"0\r\n\r\nGET", 8, BodyLength::Chunked), (5, true));
    }

    #[test]
    fn a_body_that_is_not_complete_has_no_end_and_a_broken_one_never_has() {
        assert_eq!(extent(b"5\r\nhel", 6, BodyLength::Chunked), (6, false));
        for broken in [
            "5\r\nhelloX0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\rX",
            "0\r\na\rX",
        ] {
            let (taken, is_at_end) = extent(broken.as_bytes(), broken.len(), BodyLength::Chunked);
            assert_eq!((taken, is_at_end), (broken.len(), false), "{broken}");
        }
    }
}
