//! Logs: events with fields, as text for people or JSON for machines.
//!
//! **Runs on**: set up by main, used by every thread. **Owns**: the global subscriber.
//! **Never**: sees a secret, a token, a query string or a payload.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::settled::{Log, LogFormat};

/// Starts logging to standard error. Standard output is for what a person asked to see.
///
/// # Errors
///
/// The filter cannot be read.
pub fn start(log: &Log) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&log.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match log.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).init(),
    }
    Ok(())
}

/// Lets one event of a kind be logged in each interval, and remembers how many were not.
#[derive(Debug)]
pub struct Hush {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl Hush {
    /// One event an `interval`.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// Whether to log an event at `now`, and if so how many before it were suppressed.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_once_an_interval_with_its_size() {
        let start = Instant::now();
        let mut hush = Hush::new(Duration::from_secs(1));
        assert_eq!(hush.admit(start), Some(0));
        for ms in 1..1_000 {
            assert_eq!(hush.admit(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(hush.admit(start + Duration::from_secs(1)), Some(999));
        assert_eq!(hush.admit(start + Duration::from_secs(2)), Some(0));
    }
}
