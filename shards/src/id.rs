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
pub struct Ticket(pub u64);

/// A notification's identity: the 16 bytes of its UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotificationId(pub [u8; 16]);

impl fmt::Display for NotificationId {
    /// The UUID in its hyphenated lower-case form (RFC 9562 section 4).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                formatter.write_str("-")?;
            }
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
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
