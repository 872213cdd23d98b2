//! Which shards have subscribers of a channel, so that only they are woken.
//!
//! **Runs on**: the router. **Owns**: one set of shards per channel in use.
//! **Never**: keeps a channel no shard has subscribers for.

use std::sync::Arc;

use ahash::AHashMap;

/// The most shards a gateway can have.
pub const SHARDS_MAX: usize = 256;

/// A set of shard numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSet([u64; SHARDS_MAX / 64]);

impl ShardSet {
    /// Adds or removes a shard; numbers beyond [`SHARDS_MAX`] are ignored.
    pub fn set(&mut self, shard: usize, present: bool) {
        if let Some(word) = self.0.get_mut(shard / 64) {
            let bit = 1 << (shard % 64);
            *word = if present { *word | bit } else { *word & !bit };
        }
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
#[derive(Debug)]
pub struct Interest {
    tenants: AHashMap<Arc<str>, Channels>,
    shards: usize,
}

#[derive(Debug, Default)]
struct Channels {
    by_name: AHashMap<Arc<str>, ShardSet>,
    /// Shards with connections that hear every channel.
    all: ShardSet,
}

impl Interest {
    /// No interest, among `shards` shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { tenants: AHashMap::new(), shards }
    }

    /// Takes a shard's report.
    pub fn update(
        &mut self,
        shard: usize,
        tenant: &Arc<str>,
        channel: Option<&Arc<str>>,
        present: bool,
    ) {
        let channels = self.tenants.entry(Arc::clone(tenant)).or_default();
        match channel {
            None => channels.all.set(shard, present),
            Some(name) => {
                let shards = channels.by_name.entry(Arc::clone(name)).or_default();
                shards.set(shard, present);
                if shards.is_empty() {
                    channels.by_name.remove(name);
                }
            }
        }
        if channels.by_name.is_empty() && channels.all.is_empty() {
            self.tenants.remove(tenant);
        }
    }

    /// The shards with hearers of a channel.
    #[must_use]
    pub fn of(&self, tenant: &str, channel: &str) -> ShardSet {
        let Some(channels) = self.tenants.get(tenant) else { return ShardSet::default() };
        let mut shards = channels.by_name.get(channel).copied().unwrap_or_default();
        shards.unite(channels.all);
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
        self.tenants.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_known_exactly_while_a_shard_has_subscribers() {
        let mut interest = Interest::new(3);
        let (tenant, news): (Arc<str>, Arc<str>) = ("t".into(), "news".into());
        interest.update(0, &tenant, Some(&news), true);
        interest.update(2, &tenant, Some(&news), true);
        assert!(interest.of("t", "news").contains(0) && interest.of("t", "news").contains(2));
        assert!(!interest.of("t", "news").contains(1));
        assert!(interest.of("other", "news").is_empty());
        interest.update(1, &tenant, None, true);
        assert!(interest.of("t", "anything").contains(1));
        interest.update(0, &tenant, Some(&news), false);
        interest.update(2, &tenant, Some(&news), false);
        assert!(!interest.is_clear());
        interest.update(1, &tenant, None, false);
        assert!(interest.is_clear());
    }
}
