//! Rates: how often something may happen, and a bucket of tokens for each that does it.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: reads a clock; is filled by a
//! timer: what a bucket holds follows from when it will be full.
//!
//! A bucket that will be full at `full_at` lacks one token for each interval until then. Taking one
//! moves `full_at` an interval on (the generic cell rate algorithm of ITU-T I.371), so that eight bytes
//! are a whole bucket, and one that is full is as good as none.

use std::time::Duration;

/// How often something may happen: so often in a period, and so often at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time in which a bucket gets one token.
    interval_ns: u64,
    /// The tokens of a full bucket.
    burst: u32,
}

impl Rate {
    /// `count` times in each `period`, and `burst` times at once.
    ///
    /// # Panics
    ///
    /// One of them is zero, or the burst takes longer than a year to come back.
    #[must_use]
    pub fn new(count: u32, period: Duration, burst: u32) -> Self {
        const YEAR_NS: u64 = 365 * 24 * 3600 * 1_000_000_000;
        assert!(count > 0 && burst > 0 && !period.is_zero(), "a rate lets something happen");
        let period_ns = u64::try_from(period.as_nanos()).expect("a period is a few minutes");
        let rate = Self { interval_ns: (period_ns / u64::from(count)).max(1), burst };
        assert!(rate.filling_ns() <= YEAR_NS, "a bucket is full again within a year");
        rate
    }

    /// The tokens of a full bucket.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// The time in which an empty bucket becomes full.
    const fn filling_ns(self) -> u64 {
        self.interval_ns * self.burst as u64
    }
}

/// The tokens of one who is limited. Times are nanoseconds of any clock that does not go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    full_at_ns: u64,
}

/// What is left in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Whole tokens.
    pub tokens: u32,
    /// The time until there is one; zero where there is.
    pub next_in: Duration,
    /// The time until the bucket is full.
    pub full_in: Duration,
}

impl TokenBucket {
    /// A bucket that is full at this time, and was emptied before.
    #[must_use]
    pub const fn full_at(full_at_ns: u64) -> Self {
        Self { full_at_ns }
    }

    /// When it is full.
    #[must_use]
    pub const fn full_at_ns(self) -> u64 {
        self.full_at_ns
    }

    /// Takes a token; false if there is none.
    #[must_use]
    pub fn take(&mut self, rate: Rate, now_ns: u64) -> bool {
        let is_there = self.level(rate, now_ns).tokens > 0;
        if is_there {
            self.full_at_ns = self.full_at_ns.max(now_ns) + rate.interval_ns;
        }
        is_there
    }

    /// What is left.
    #[must_use]
    pub fn level(self, rate: Rate, now_ns: u64) -> Level {
        let lacking_ns = self.full_at_ns.saturating_sub(now_ns);
        // Under a rate that was changed meanwhile more may be lacking than there is room for.
        let tokens = rate.filling_ns().saturating_sub(lacking_ns) / rate.interval_ns;
        let first_ns = rate.filling_ns() - rate.interval_ns;
        Level {
            tokens: u32::try_from(tokens).expect("no more than the burst"),
            next_in: Duration::from_nanos(lacking_ns.saturating_sub(first_ns)),
            full_in: Duration::from_nanos(lacking_ns),
        }
    }

    /// Whether it is full, so that there need be none.
    #[must_use]
    pub const fn is_full(self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside a bucket that is filled drop by drop, in numbers without rounding.
        #[test]
        fn a_bucket_holds_what_was_not_taken(
            interval_ns in 1_u64..5_000,
            burst in 1_u32..50,
            pauses_ns in proptest::collection::vec(0_u64..20_000, 1..300),
        ) {
            let rate = Rate { interval_ns, burst };
            let (mut bucket, mut now_ns) = (TokenBucket::default(), 1_000_000);
            let full = u64::from(burst) * interval_ns;
            let mut drops = full;
            for pause_ns in pauses_ns {
                now_ns += pause_ns;
                drops = full.min(drops + pause_ns);
                let level = bucket.level(rate, now_ns);
                prop_assert_eq!(u64::from(level.tokens), drops / interval_ns);
                prop_assert_eq!(level.full_in, Duration::from_nanos(full - drops));
                prop_assert_eq!(bucket.is_full(now_ns), drops == full);
                let is_there = drops >= interval_ns;
                prop_assert_eq!(level.next_in.is_zero(), is_there);
                if !is_there {
                    let next_ns = now_ns + u64::try_from(level.next_in.as_nanos()).unwrap();
                    prop_assert!(bucket.clone().take(rate, next_ns), "after the time it names");
                    prop_assert!(!bucket.clone().take(rate, next_ns - 1), "and not before");
                }
                prop_assert_eq!(bucket.take(rate, now_ns), is_there);
                drops -= if is_there { interval_ns } else { 0 };
            }
        }

        /// Over any stretch of time: never more than the burst and what came in.
        #[test]
        fn a_rate_is_kept(
            per_second in 1_u32..1_000,
            burst in 1_u32..100,
            pauses_us in proptest::collection::vec(0_u64..3_000, 1..500),
        ) {
            let rate = Rate::new(per_second, Duration::from_secs(1), burst);
            let (mut bucket, mut now_ns, mut taken) = (TokenBucket::default(), 0, 0_u64);
            for pause_us in pauses_us {
                now_ns += pause_us * 1_000;
                taken += u64::from(bucket.take(rate, now_ns));
                let most = u64::from(burst) + now_ns / rate.interval_ns;
                prop_assert!(taken <= most, "{taken} of {most}");
            }
        }
    }

    #[test]
    fn a_smaller_rate_counts_at_once() {
        let [wide, narrow] = [100, 2].map(|burst| Rate::new(1, Duration::from_secs(1), burst));
        let mut bucket = TokenBucket::default();
        (0..100).for_each(|_| assert!(bucket.take(wide, 0)));
        let level = bucket.level(narrow, 0);
        assert_eq!((level.tokens, level.next_in), (0, Duration::from_secs(99)));
        assert!(!bucket.take(narrow, 98_999_999_999) && bucket.take(narrow, 99_000_000_000));
    }
}
