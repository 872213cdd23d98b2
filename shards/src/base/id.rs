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

/// A tenant's place in its shard's directory. Meaningless on any other shard, and once the tenant's
/// last user has been forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TenantSlot(pub(crate) u32);

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

/// Parses a UUID in hyphenated form; `None` for anything else.
#[must_use]
pub fn parse_id(text: &str) -> Option<NotificationId> {
    let is_hyphenated = [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    if text.len() != 36 || !is_hyphenated {
        return None;
    }
    let mut bytes = [0_u8; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    });
    for byte in &mut bytes {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(NotificationId(bytes))
}

/// Whether `name` is a channel's: `[A-Za-z0-9._-]{1,64}`.
#[must_use]
pub fn is_channel_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn channel_names_are_what_the_contract_says() {
        let longest = "x".repeat(64);
        for good in ["a", "Z", "0", ".", "_", "-", "news.eu_1-2", &longest] {
            assert!(is_channel_name(good), "{good}");
        }
        let too_long = "x".repeat(65);
        for bad in ["", " ", "a b", "a/b", "a*", "ü", "a\n", "a\0", &too_long] {
            assert!(!is_channel_name(bad), "{bad}");
        }
    }

    /// The form of RFC 9562 section 4, in either case.
    fn is_hyphenated(text: &str) -> bool {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn an_id_is_read_as_it_was_written(bytes: [u8; 16]) {
            let id = NotificationId(bytes);
            let text = id.to_string();
            prop_assert!(is_hyphenated(&text));
            prop_assert_eq!(parse_id(&text), Some(id));
            prop_assert_eq!(parse_id(&text.to_uppercase()), Some(id));
        }

        /// Nothing but that form is an id.
        #[test]
        fn only_the_hyphenated_form_is_an_id(
            text in prop_oneof!["[0-9a-fA-F-]{36}", "[0-9a-g-]{30,40}", ".{0,40}"],
            hyphens in prop::collection::btree_set(0..36_usize, 4),
        ) {
            prop_assert_eq!(parse_id(&text).is_some(), is_hyphenated(&text));
            let moved: String = (0..36).map(|at| if hyphens.contains(&at) { '-' } else { 'a' }).collect();
            prop_assert_eq!(parse_id(&moved).is_some(), is_hyphenated(&moved), "{}", moved);
        }
    }
}
