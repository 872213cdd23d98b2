//! One limit: a bucket for each who is limited, while it is not full.
//!
//! **Runs on**: the router. **Owns**: at most [`BUCKETS_MAX`] buckets. **Never**: reads a clock; forgets a
//! bucket that is not full.
//!
//! With all buckets in use whoever comes anew is let through uncounted. To refuse them would let so many
//! addresses lock everybody else out, which is what a limit is to prevent.

use std::hash::Hash;
use std::time::Duration;

use ahash::AHashMap;
use ara_shards::base::token_bucket::{Level, Rate, TokenBucket};

/// The most buckets of one limit: some 2 MiB.
pub(super) const BUCKETS_MAX: usize = if cfg!(test) { 64 } else { 65_536 };
/// Full buckets are looked for at most so often because others need their places.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What was counted, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Let through.
    pub allowed: u64,
    /// Refused.
    pub denied: u64,
    /// Let through without a bucket; among the allowed.
    pub untracked: u64,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The tokens of a full bucket.
    pub limit: u32,
    /// What is there.
    pub level: Level,
}

/// Buckets that are filled at the same rate.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    /// `None` = there is no limit.
    rate: Option<Rate>,
    buckets: AHashMap<K, TokenBucket>,
    swept_at_ns: u64,
    counts: Counts,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { rate: None, buckets: AHashMap::new(), swept_at_ns: 0, counts: Counts::default() }
    }
}

impl<K: Hash + Eq> Buckets<K> {
    /// Another rate, or none, from now on. What was taken stays taken.
    pub(super) fn set_rate(&mut self, rate: Option<Rate>) {
        self.rate = rate;
        if rate.is_none() {
            self.buckets = AHashMap::new();
        }
    }

    /// Whether there is a limit.
    pub(super) const fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// Takes a token. What is left then; `None` without a limit.
    ///
    /// # Errors
    ///
    /// There is no token.
    pub(super) fn take(&mut self, key: K, now_ns: u64) -> Result<Option<Quota>, Quota> {
        let Some(rate) = self.rate else { return Ok(None) };
        let Some(bucket) = self.bucket(key, now_ns) else {
            self.counts.allowed += 1;
            self.counts.untracked += 1;
            return Ok(None);
        };
        let is_allowed = bucket.take(rate, now_ns);
        let quota = Quota { limit: rate.burst(), level: bucket.level(rate, now_ns) };
        if is_allowed {
            self.counts.allowed += 1;
            Ok(Some(quota))
        } else {
            self.counts.denied += 1;
            Err(quota)
        }
    }

    /// Whether there is a token; if not, that is counted as a refusal.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(super) fn check(&mut self, key: &K, now_ns: u64) -> Result<(), Quota> {
        let Some((rate, bucket)) = self.rate.zip(self.get(key)) else { return Ok(()) };
        let level = bucket.level(rate, now_ns);
        if level.tokens > 0 {
            return Ok(());
        }
        self.counts.denied += 1;
        Err(Quota { limit: rate.burst(), level })
    }

    /// The bucket of one who has taken something.
    pub(super) fn get(&self, key: &K) -> Option<TokenBucket> {
        self.buckets.get(key).copied()
    }

    /// Forgets the buckets that are full.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        self.swept_at_ns = now_ns;
        self.buckets.retain(|_key, bucket| !bucket.is_full(now_ns));
        if self.buckets.is_empty() {
            self.buckets = AHashMap::new();
        }
    }

    /// How many buckets are not full, as of the last sweep.
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// The bucket of a key; `None` if it has none and there is no place for one.
    fn bucket(&mut self, key: K, now_ns: u64) -> Option<&mut TokenBucket> {
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&key) {
            let since_ns = u128::from(now_ns.saturating_sub(self.swept_at_ns));
            if since_ns >= SWEEP_PAUSE.as_nanos() {
                self.sweep(now_ns);
            }
            if self.buckets.len() >= BUCKETS_MAX {
                return None;
            }
        }
        Some(self.buckets.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn limit(burst: u32) -> Buckets<u32> {
        let mut buckets = Buckets::default();
        buckets.set_rate(Some(Rate::new(1, Duration::from_secs(1), burst)));
        buckets
    }

    proptest! {
        /// Whoever else comes, and whenever full buckets are forgotten: each has its own bucket.
        #[test]
        fn nobody_takes_from_anothers_bucket(
            steps in proptest::collection::vec((0_u32..40, 0_u64..SECOND_NS, any::<bool>()), 1..400),
        ) {
            let mut buckets = limit(3);
            let rate = buckets.rate.unwrap();
            let mut alone: BTreeMap<u32, TokenBucket> = BTreeMap::new();
            let mut now_ns = 0;
            for (key, pause_ns, is_swept) in steps {
                now_ns += pause_ns;
                if is_swept {
                    buckets.sweep(now_ns);
                }
                let expected = alone.entry(key).or_default();
                let is_there = expected.level(rate, now_ns).tokens > 0;
                prop_assert_eq!(buckets.check(&key, now_ns).is_ok(), is_there);
                prop_assert_eq!(expected.take(rate, now_ns), is_there);
                let level = expected.level(rate, now_ns);
                let quota = buckets.take(key, now_ns);
                prop_assert_eq!(quota.is_ok(), is_there);
                let quota = quota.unwrap_or_else(Some).expect("there is a limit");
                prop_assert_eq!(quota, Quota { limit: 3, level });
            }
            buckets.sweep(now_ns + 3 * SECOND_NS);
            prop_assert_eq!(buckets.len(), 0);
        }
    }

    #[test]
    fn with_all_buckets_in_use_a_newcomer_is_let_through_and_nobody_forgotten() {
        let mut buckets = limit(1);
        let all = u32::try_from(BUCKETS_MAX).unwrap();
        (0..all).for_each(|key| assert!(buckets.take(key, 0).is_ok()));
        for _ in 0..3 {
            assert_eq!(buckets.take(all, 0), Ok(None), "there is no place for it");
        }
        assert!(buckets.take(all - 1, 0).is_err(), "what is known stays so");
        assert_eq!((buckets.len(), buckets.counts().untracked), (BUCKETS_MAX, 3));
        // All are full by now, and give their places back.
        assert!(buckets.take(all, 2 * SECOND_NS).is_ok_and(|quota| quota.is_some()));
        assert_eq!(buckets.len(), 1);
    }

    #[test]
    fn without_a_rate_nothing_is_limited_or_counted() {
        let mut buckets = limit(1);
        assert!(buckets.take(7, 0).is_ok() && buckets.take(7, 0).is_err());
        buckets.set_rate(None);
        assert_eq!(buckets.take(7, 0), Ok(None));
        assert_eq!((buckets.check(&7, 0), buckets.len()), (Ok(()), 0));
        assert_eq!(buckets.counts(), Counts { allowed: 1, denied: 1, untracked: 0 });
    }
}
