//! The names things go by while they cross threads.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: allocates.

use std::fmt;
use std::num::NonZero;

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

/// A user's place in its shard's directory. Meaningless on any other shard, and once the user has
/// been forgotten there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserSlot(pub(crate) u32);

/// The name a store has given to the record of one message. What the number means is the store's
/// business; it is never 0, so that an `Option` of it takes no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordKey(pub(crate) NonZero<u64>);

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
            let digits = text.get_mut(usize::from(place)..).and_then(<[u8]>::first_chunk_mut);
            *digits.expect("every place is at least two before the end") =
                [digit(byte >> 4), digit(byte & 15)];
        }
        formatter.write_str(std::str::from_utf8(&text).expect("digits and hyphens are text"))
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
    /// The moment the clock began.
    pub const START: Self = Self(0);
    /// A moment that never comes: the end of what has none.
    pub const NEVER: Self = Self(u32::MAX);
    /// As a notification's end: it is sent at once or not at all, and no queue takes it. Every end
    /// that lies ahead is later.
    pub const NOW_OR_NEVER: Self = Self::START;
    /// As the end of a notification an earlier run has queued: over before this run began. Not the
    /// same as [`Self::NOW_OR_NEVER`], which was never queued.
    pub const OVER_BEFORE_START: Self = Self(1);

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
