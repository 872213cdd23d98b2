//! Which shard is a user's home.
//!
//! **Runs on**: the router, the doors, and where messages are kept on disk. **Owns**: the hash seeds.
//! **Never**: changes while the process runs: every thread must agree.

use std::hash::BuildHasher as _;

use ahash::RandomState;

/// The hash of `(tenant, user)`; computed once per trigger and carried along, so that the shard's
/// table lookup does not hash again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserHash(pub u64);

/// Maps users to shards. Seeds are random for each run, or for each
/// directory of messages, so that no caller can choose user ids that
/// all live on one shard.
#[derive(Debug, Clone)]
pub struct Placement {
    hasher: RandomState,
    shards: u64,
}

impl Placement {
    /// A placement over `shards` shards, at least one, with seeds of its own.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self::with_seeds(shards, Self::random_seeds())
    }

    /// A placement with the seeds of an earlier one.
    #[must_use]
    pub fn with_seeds(shards: usize, [a, b, c, d]: [u64; 4]) -> Self {
        assert!(shards > 0, "a gateway has at least one shard");
        Self { hasher: RandomState::with_seeds(a, b, c, d), shards: shards as u64 }
    }

    /// Seeds nobody can guess: what a randomly keyed hasher of the system's makes of four numbers.
    #[must_use]
    pub fn random_seeds() -> [u64; 4] {
        let random = std::hash::RandomState::new();
        [1_u64, 2, 3, 4].map(|number| random.hash_one(number))
    }

    /// The hash of a user, with tenant and user kept apart: `("a", "bc")` is not `("ab", "c")`.
    #[must_use]
    pub fn hash(&self, tenant: &str, user: &str) -> UserHash {
        UserHash(self.hasher.hash_one((tenant, user)))
    }

    /// The home shard of a user, from the hash's high bits (the tables use the low ones).
    #[must_use]
    pub fn home(&self, hash: UserHash) -> usize {
        let scaled = (u128::from(hash.0) * u128::from(self.shards)) >> 64;
        usize::try_from(scaled).expect("it is less than the number of shards")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_stable_in_range_and_spread() {
        let placement = Placement::new(3);
        let mut counts = [0_usize; 3];
        for user in 0..3_000 {
            let hash = placement.hash("default", &user.to_string());
            assert_eq!(hash, placement.hash("default", &user.to_string()));
            counts[placement.home(hash)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 800), "{counts:?}");
    }

    #[test]
    fn tenant_and_user_do_not_run_together() {
        let placement = Placement::new(2);
        assert_ne!(placement.hash("a", "bc"), placement.hash("ab", "c"));
    }
}
