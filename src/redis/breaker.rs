//! The circuit breaker: after enough failures in a row it refuses attempts for some time.
//!
//! **Runs on**: the router. **Owns**: three states and two counters. **Never**: reads a clock (the
//! time is an argument), sleeps, or logs.

use std::time::{Duration, Instant};

/// What the breaker lets through; `/stats` and the metrics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerState {
    /// Attempts are allowed; failures in a row are counted.
    #[default]
    Closed,
    /// No attempt is allowed before the reset time is over.
    Open,
    /// Attempts are allowed on trial: enough successes close it, one failure opens it again.
    HalfOpen,
}

impl BreakerState {
    /// The name `/stats` uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// The value of the `ara_redis_circuit_breaker_state` gauge.
    #[must_use]
    pub const fn as_gauge(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
        }
    }
}

/// Whether an attempt is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// An attempt is allowed now.
    Granted,
    /// No attempt is allowed; ask again after this long.
    Refused(Duration),
}

/// A circuit breaker; see the module's documentation.
#[derive(Debug)]
pub struct Breaker {
    /// Failures in a row that open it; `None` = it never opens.
    failures_max: Option<u32>,
    /// Successes that close it from half-open; at least 1.
    successes_needed: u32,
    reset_after: Duration,
    stage: Stage,
    /// Failures since the last success while closed, or since it closed.
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Closed,
    Open { since: Instant },
    HalfOpen { successes: u32 },
}

impl Breaker {
    /// A closed breaker. A failure threshold of 0 means "unlimited", as everywhere: it never opens.
    /// A success threshold of 0 counts as 1, since something must close it.
    #[must_use]
    pub fn new(failure_threshold: u32, success_threshold: u32, reset_after: Duration) -> Self {
        Self {
            failures_max: (failure_threshold > 0).then_some(failure_threshold),
            successes_needed: success_threshold.max(1),
            reset_after,
            stage: Stage::Closed,
            failures: 0,
        }
    }

    /// Whether an attempt may be made at `now`. An open breaker whose reset time is over turns
    /// half-open here.
    pub fn permit(&mut self, now: Instant) -> Permit {
        if let Stage::Open { since } = self.stage {
            let waited = now.saturating_duration_since(since);
            if waited < self.reset_after {
                return Permit::Refused(self.reset_after.saturating_sub(waited));
            }
            self.stage = Stage::HalfOpen { successes: 0 };
        }
        Permit::Granted
    }

    /// Counts a success.
    pub fn success(&mut self) {
        match &mut self.stage {
            Stage::Closed => self.failures = 0,
            // No attempt was allowed, so this is a late result from before it opened.
            Stage::Open { .. } => {}
            Stage::HalfOpen { successes } => {
                *successes += 1;
                if *successes >= self.successes_needed {
                    self.stage = Stage::Closed;
                    self.failures = 0;
                }
            }
        }
    }

    /// Counts a failure at `now`.
    pub fn failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        match self.stage {
            Stage::Closed => {
                if self.failures_max.is_some_and(|max| self.failures >= max) {
                    self.stage = Stage::Open { since: now };
                }
            }
            // No attempt was allowed: a late failure must not make the reset time longer.
            Stage::Open { .. } => {}
            Stage::HalfOpen { .. } => self.stage = Stage::Open { since: now },
        }
    }

    /// The state, for `/stats` and the log.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        match self.stage {
            Stage::Closed => BreakerState::Closed,
            Stage::Open { .. } => BreakerState::Open,
            Stage::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Failures since the last success while closed, or since it closed.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESET: Duration = Duration::from_secs(30);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(3, 2, RESET);
        for _ in 0..3 {
            breaker.failure(now);
        }
        breaker
    }

    #[test]
    fn opens_at_the_threshold_and_not_before() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, 2, RESET);
        breaker.failure(now);
        breaker.failure(now);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failure(now);
        assert_eq!((breaker.state(), breaker.failures()), (BreakerState::Open, 3));
    }

    #[test]
    fn a_success_starts_the_count_again() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, 2, RESET);
        for _ in 0..10 {
            breaker.failure(now);
            breaker.failure(now);
            breaker.success();
        }
        assert_eq!((breaker.state(), breaker.failures()), (BreakerState::Closed, 0));
    }

    #[test]
    fn refuses_until_the_reset_time_and_says_how_long() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.permit(now), Permit::Refused(RESET));
        let almost = now + RESET - Duration::from_millis(1);
        assert_eq!(breaker.permit(almost), Permit::Refused(Duration::from_millis(1)));
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.permit(now + RESET), Permit::Granted);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn half_open_closes_after_the_successes() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.permit(now + RESET);
        breaker.success();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.success();
        assert_eq!((breaker.state(), breaker.failures()), (BreakerState::Closed, 0));
    }

    #[test]
    fn half_open_opens_again_at_one_failure_for_a_whole_reset_time() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + RESET;
        breaker.permit(later);
        breaker.success();
        breaker.failure(later);
        assert_eq!((breaker.state(), breaker.failures()), (BreakerState::Open, 4));
        assert_eq!(breaker.permit(later), Permit::Refused(RESET));
    }

    #[test]
    fn a_threshold_of_zero_never_opens() {
        let now = Instant::now();
        let mut breaker = Breaker::new(0, 0, RESET);
        for _ in 0..1_000 {
            breaker.failure(now);
            assert_eq!(breaker.permit(now), Permit::Granted);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Wait(u64),
        Permit,
        Success,
        Failure,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..60).prop_map(Step::Wait),
            Just(Step::Permit),
            Just(Step::Success),
            Just(Step::Failure),
        ]
    }

    proptest! {
        /// In any history: an open breaker grants nothing before its reset time and always grants
        /// an attempt after it; a closed one has fewer failures than its threshold.
        #[test]
        fn holds_its_promises(
            failures_max in 1u32..6,
            successes in 0u32..4,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut now = Instant::now();
            let mut opened_at = None;
            let mut breaker = Breaker::new(failures_max, successes, RESET);
            for step in steps {
                let before = breaker.state();
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Permit => {
                        let due = opened_at.is_none_or(|at| now >= at + RESET);
                        let granted = breaker.permit(now) == Permit::Granted;
                        prop_assert_eq!(granted, before != BreakerState::Open || due);
                    }
                    Step::Success => breaker.success(),
                    Step::Failure => breaker.failure(now),
                }
                match (before, breaker.state()) {
                    (BreakerState::Open, BreakerState::Open) => {}
                    (_, BreakerState::Open) => opened_at = Some(now),
                    (BreakerState::Open, BreakerState::Closed) => prop_assert!(false, "skipped half-open"),
                    (_, BreakerState::Closed) => prop_assert!(breaker.failures() < failures_max),
                    _ => {}
                }
            }
        }
    }
}
