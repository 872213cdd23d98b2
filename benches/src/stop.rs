//! One flag that SIGINT, SIGTERM and SIGHUP raise; every loop of the tool looks at it, so that a
//! stop ends the run in the ordinary way, which reaps the children.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::fault::{Context, Fault, Outcome};

/// The longest time any wait goes without looking at the flag.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes the three signals over from their default, which would orphan the children.
    pub(crate) fn install() -> Outcome<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&stop.0)).context("cannot handle signals")?;
        }
        Ok(stop)
    }

    pub(crate) fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Outcome<()> {
        if self.raised() { Err(Fault::Interrupted) } else { Ok(()) }
    }

    /// Asks `ready` every few milliseconds until it answers or `limit` has passed.
    pub(crate) fn poll<T>(
        &self,
        limit: Duration,
        mut ready: impl FnMut() -> Outcome<Option<T>>,
    ) -> Outcome<Option<T>> {
        let until = Instant::now() + limit;
        loop {
            self.check()?;
            if let Some(value) = ready()? {
                return Ok(Some(value));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            park_timeout(Duration::from_millis(5));
        }
    }
}
