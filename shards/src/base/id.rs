//! The names things go by while they cross threads.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: allocates.

use std::fmt;

/// A connection's place in its shard's tables. Meaningless on any other shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey(pub(crate) u32);

impl ConnectionKey {
    /// The key as an index into a table of its shard.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// The key for a table index; `None` beyond 2³² entries.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }
}

/// One trigger or query that awaits its shards' reports, numbered by the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A notification's identity: the 16 bytes of its UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotificationId(pub [u8; 16]);

impl fmt::Display for NotificationId {
    /// The UUID in its hyphenated lower-case form (RFC 9562 section 4), in one piece: it is
    /// written several times for each trigger.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        // 8-4-4-4-12 digits: where each byte's two digits stand.
        const PLACES: [u8; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        for (byte, place) in self.0.into_iter().zip(PLACES) {
            if let Some([high, low]) = text.get_mut(usize::from(place)..usize::from(place) + 2) {
                *high = digit(byte >> 4);
                *low = digit(byte & 15);
            }
        }
        formatter.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

const fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

impl fmt::Debug for NotificationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Time inside a shard: tenths of a second since the process started its clock (13 years fit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// Length of one tick.
    pub const MILLISECONDS: u64 = 100;

    /// This moment and `duration` later, rounded up to a whole tick, saturating.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        let ticks = duration.as_millis().div_ceil(u128::from(Self::MILLISECONDS));
        Self(self.0.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)))
    }

    /// Milliseconds from the start of the clock to this tick.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::from(self.0) * Self::MILLISECONDS
    }
}
