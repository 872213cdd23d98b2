//! Which shards have subscribers of a channel, so that only they are woken.
//!
//! **Runs on**: the router. **Owns**: 8 bytes for each channel and shard that has subscribers of it.
//! **Never**: keeps a channel no shard has subscribers for.

use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use ara_shards::base::limits::SHARDS_MAX;
use hashbrown::HashTable;

/// A set of shard numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSet([u64; SHARDS_MAX / 64]);

impl ShardSet {
    /// Adds or removes a shard.
    pub fn set(&mut self, shard: usize, present: bool) {
        let word = self.0.get_mut(shard / 64).expect("there are at most SHARDS_MAX shards");
        let bit = 1 << (shard % 64);
        *word = if present { *word | bit } else { *word & !bit };
    }

    /// Whether a shard is in the set.
    #[must_use]
    pub fn contains(&self, shard: usize) -> bool {
        self.0.get(shard / 64).is_some_and(|word| word & (1 << (shard % 64)) != 0)
    }

    /// Whether no shard is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Adds all of another set.
    pub fn unite(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }
}

/// The router's picture of all shards' channel indexes.
///
/// Names are not kept: an entry is 48 bits of the hash of a name, and a shard that has it. Two names
/// with the same bits are two equal entries, one of which goes when one of them goes. So no
/// shard with subscribers is ever missed; at worst one without is woken and reports nobody.
#[derive(Debug)]
pub struct Interest {
    /// One for each channel and shard that has subscribers of it.
    entries: HashTable<Entry>,
    /// By tenant: shards with connections that are subscribed to every channel.
    all: AHashMap<Arc<str>, ShardSet>,
    hasher: RandomState,
    shards: usize,
}

/// The hash of a tenant and a channel, its low 16 bits replaced by a shard's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

const SHARD_BITS: u32 = 16;
const _: () = assert!(SHARDS_MAX <= 1 << SHARD_BITS);

impl Entry {
    const fn new(hash: u64, shard: usize) -> Self {
        Self((hash >> SHARD_BITS << SHARD_BITS) | shard as u64)
    }

    const fn shard(self) -> usize {
        (self.0 & ((1 << SHARD_BITS) - 1)) as usize
    }

    const fn is_of(self, hash: u64) -> bool {
        self.0 >> SHARD_BITS == hash >> SHARD_BITS
    }

    /// What the table finds it by, the same for all shards: it wants 64 bits that differ.
    const fn key(self) -> u64 {
        (self.0 >> SHARD_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl Interest {
    /// No interest, among `shards` shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { entries: HashTable::new(), all: AHashMap::new(), hasher: RandomState::new(), shards }
    }

    /// Takes a shard's report. A shard reports each change once.
    pub fn update(
        &mut self,
        shard: usize,
        tenant: &Arc<str>,
        channel: Option<&str>,
        present: bool,
    ) {
        match channel {
            None => {
                let shards = self.all.entry(Arc::clone(tenant)).or_default();
                shards.set(shard, present);
                if shards.is_empty() {
                    self.all.remove(tenant);
                }
            }
            Some(name) => {
                let entry = Entry::new(self.hasher.hash_one((&**tenant, name)), shard);
                if present {
                    self.entries.insert_unique(entry.key(), entry, |entry| entry.key());
                    return;
                }
                let found = self.entries.find_entry(entry.key(), |e| *e == entry).ok();
                found.expect("a shard reports the end of an interest after its begin").remove();
                if self.entries.len() < self.entries.capacity() / 4 {
                    self.entries.shrink_to(self.entries.len() * 2, |entry| entry.key());
                }
            }
        }
    }

    /// The shards with subscribers of a channel.
    #[must_use]
    pub fn of(&self, tenant: &str, channel: &str) -> ShardSet {
        let hash = self.hasher.hash_one((tenant, channel));
        let mut shards = self.all.get(tenant).copied().unwrap_or_default();
        let found = self.entries.iter_hash(Entry::new(hash, 0).key());
        for entry in found.filter(|entry| entry.is_of(hash)) {
            shards.set(entry.shard(), true);
        }
        shards
    }

    /// Every shard.
    #[must_use]
    pub fn everywhere(&self) -> ShardSet {
        let mut shards = ShardSet::default();
        for index in 0..self.shards {
            shards.set(index, true);
        }
        shards
    }

    /// Whether nobody is interested in anything.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.entries.is_empty() && self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_known_exactly_while_a_shard_has_subscribers() {
        let mut interest = Interest::new(3);
        let (tenant, news): (Arc<str>, &str) = ("t".into(), "news");
        interest.update(0, &tenant, Some(news), true);
        interest.update(2, &tenant, Some(news), true);
        assert!(interest.of("t", "news").contains(0) && interest.of("t", "news").contains(2));
        assert!(!interest.of("t", "news").contains(1));
        assert!(interest.of("other", "news").is_empty());
        interest.update(1, &tenant, None, true);
        assert!(interest.of("t", "anything").contains(1));
        interest.update(0, &tenant, Some(news), false);
        interest.update(2, &tenant, Some(news), false);
        assert!(!interest.is_clear());
        interest.update(1, &tenant, None, false);
        assert!(interest.is_clear());
    }

    /// Two names with the same fingerprint are two channels all the same.
    #[test]
    fn names_that_look_the_same_do_not_take_each_other_along() {
        let mut interest = Interest::new(3);
        let tenant: Arc<str> = "t".into();
        for (shard, present) in [(1, true), (1, true), (2, true), (1, false)] {
            interest.update(shard, &tenant, Some("twin"), present);
        }
        assert!(interest.of("t", "twin").contains(1) && interest.of("t", "twin").contains(2));
        interest.update(1, &tenant, Some("twin"), false);
        assert!(!interest.of("t", "twin").contains(1) && interest.of("t", "twin").contains(2));
        interest.update(2, &tenant, Some("twin"), false);
        assert!(interest.is_clear());
    }

    /// Of many channels that have been, nothing stays, and a channel on every shard is found there.
    #[test]
    fn many_channels_come_and_go() {
        let mut interest = Interest::new(SHARDS_MAX);
        let tenant: Arc<str> = "t".into();
        let names: Vec<String> = (0..20_000).map(|index| format!("channel-{index}")).collect();
        for (index, name) in names.iter().enumerate() {
            interest.update(index % SHARDS_MAX, &tenant, Some(name), true);
        }
        (0..SHARDS_MAX).for_each(|shard| interest.update(shard, &tenant, Some("everywhere"), true));
        for (index, name) in names.iter().enumerate() {
            let mut only = ShardSet::default();
            only.set(index % SHARDS_MAX, true);
            assert_eq!(interest.of("t", name), only, "{name}");
        }
        assert_eq!(interest.of("t", "everywhere"), interest.everywhere());
        for (index, name) in names.iter().enumerate() {
            interest.update(index % SHARDS_MAX, &tenant, Some(name), false);
        }
        assert_eq!(interest.of("t", "everywhere"), interest.everywhere());
        assert!(interest.entries.capacity() < 2_000, "room for {}", interest.entries.capacity());
        (0..SHARDS_MAX)
            .for_each(|shard| interest.update(shard, &tenant, Some("everywhere"), false));
        assert!(interest.is_clear());
    }
}
