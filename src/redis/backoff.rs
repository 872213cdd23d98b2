//! Exponential backoff: each failure doubles the delay up to a ceiling, with 10 % jitter so that
//! many gateways that lost the same server do not all reconnect at the same moments.
//!
//! **Runs on**: the router. **Owns**: the current delay and its own generator. **Never**: reads a
//! clock or sleeps; it only says how long.

use std::time::Duration;

/// How far a delay may lie from its nominal value, to either side.
const JITTER: f64 = 0.1;

/// The delays between attempts; see the module's documentation.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    /// The next delay before jitter; between `initial` and `max`.
    nominal: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// A backoff that starts at `initial` and never exceeds `max`, with jitter from `seed`.
    /// A ceiling below the start counts as the start.
    #[must_use]
    pub fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        let max = max.max(initial);
        Self { initial, max, nominal: initial, random: fastrand::Rng::with_seed(seed) }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let spread = JITTER.mul_add(2.0 * self.random.f64() - 1.0, 1.0);
        let delay = self.nominal.mul_f64(spread);
        self.nominal = self.nominal.saturating_mul(2).min(self.max);
        // What would exceed the ceiling is reflected below it: cutting it off would put half of
        // all gateways on exactly the same delay just when they wait the longest.
        match delay.checked_sub(self.max) {
            Some(excess) => self.max.saturating_sub(excess),
            None => delay,
        }
    }

    /// After a success: the next failure starts from the initial delay again.
    pub fn reset(&mut self) {
        self.nominal = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INITIAL: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(30);

    fn assert_near(delay: Duration, nominal_ms: u64) {
        let nominal = Duration::from_millis(nominal_ms);
        assert!(delay >= nominal.mul_f64(0.899) && delay <= nominal.mul_f64(1.101), "{delay:?}");
    }

    #[test]
    fn doubles_up_to_the_ceiling() {
        let mut backoff = Backoff::new(INITIAL, MAX, 7);
        for nominal_ms in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600] {
            assert_near(backoff.next_delay(), nominal_ms);
        }
        for _ in 0..1_000 {
            let delay = backoff.next_delay();
            assert_near(delay, 30_000);
            assert!(delay <= MAX);
        }
    }

    #[test]
    fn stays_spread_at_the_ceiling() {
        let mut backoff = Backoff::new(MAX, MAX, 7);
        let mut delays: Vec<_> = (0..100).map(|_| backoff.next_delay()).collect();
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 90);
    }

    #[test]
    fn starts_again_after_a_reset() {
        let mut backoff = Backoff::new(INITIAL, MAX, 7);
        for _ in 0..5 {
            backoff.next_delay();
        }
        backoff.reset();
        assert_near(backoff.next_delay(), 100);
        assert_near(backoff.next_delay(), 200);
    }

    #[test]
    fn takes_extreme_settings() {
        let mut none = Backoff::new(Duration::ZERO, Duration::ZERO, 7);
        assert_eq!((none.next_delay(), none.next_delay()), (Duration::ZERO, Duration::ZERO));
        assert_near(Backoff::new(INITIAL, Duration::ZERO, 7).next_delay(), 100);
    }

    proptest! {
        #[test]
        fn keeps_within_its_bounds(
            initial_ms in 0u64..5_000,
            max_ms in 0u64..120_000,
            seed in any::<u64>(),
            count in 1usize..40,
        ) {
            let initial = Duration::from_millis(initial_ms);
            let max = Duration::from_millis(max_ms).max(initial);
            let mut backoff = Backoff::new(initial, max, seed);
            let mut nominal = initial;
            for _ in 0..count {
                let delay = backoff.next_delay();
                prop_assert!(delay <= max);
                prop_assert!(delay >= nominal.mul_f64(0.899));
                prop_assert!(delay <= nominal.mul_f64(1.101));
                nominal = (nominal * 2).min(max);
            }
        }
    }
}
