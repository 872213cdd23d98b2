//! The forms in which a notification's bytes are prepared: a small id each, and sets of them.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: holds bytes; what a form
//! looks like is known to `protocol`.
//!
//! An encoding is a value of each prepared copy of a notification, as a protocol is one of each
//! connection. Several protocols may read one encoding.

/// A form of a notification's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Ara's JSON in a WebSocket text frame.
    AraText,
    /// Ara's JSON in a server-sent event, in a chunk of an HTTP/1.1 response.
    AraSseChunk,
    /// Ara's JSON in a server-sent event as it is.
    AraSsePlain,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// Each, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT] = [Self::AraText, Self::AraSseChunk, Self::AraSsePlain];

    /// Its place in a table with one entry for each encoding.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A set of encodings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encodings(u8);

const _: () = assert!(Encoding::COUNT <= u8::BITS as usize, "one bit each");

impl Encodings {
    /// Every encoding.
    pub const ALL: Self = Self((1 << Encoding::COUNT) - 1);

    /// The set and one more.
    #[must_use]
    pub const fn with(self, encoding: Encoding) -> Self {
        Self(self.0 | 1 << encoding.index())
    }

    /// The set without one.
    #[must_use]
    pub const fn without(self, encoding: Encoding) -> Self {
        Self(self.0 & !(1 << encoding.index()))
    }

    /// Whether the encoding is in the set.
    #[must_use]
    pub const fn contains(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding.index() != 0
    }
}

impl FromIterator<Encoding> for Encodings {
    fn from_iter<I: IntoIterator<Item = Encoding>>(encodings: I) -> Self {
        encodings.into_iter().fold(Self::default(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        for first in Encoding::ALL {
            assert_eq!(Encoding::ALL.get(first.index()), Some(&first));
            assert!(Encodings::ALL.contains(first));
            for second in Encoding::ALL {
                let set: Encodings = [first, second].into_iter().collect();
                for any in Encoding::ALL {
                    assert_eq!(set.contains(any), any == first || any == second);
                }
            }
        }
    }
}
