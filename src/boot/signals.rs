//! The signals that stop the gateway, from before anything slow begins until the end.
//!
//! **Runs on**: main. **Owns**: the process's signal handlers. **Never**: takes one stop that arrives
//! as two signals for two.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals this close together are one: `timeout`, a shell's Ctrl-C and wrappers that forward
/// signals reach a process twice, once by its id and once by its group. No person is that quick.
const SAME_STOP: Duration = Duration::from_millis(100);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The handlers. What came since they were installed is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers. In a runtime.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _signal = self.terminate.recv() => Asked::Stop,
            _signal = self.interrupt.recv() => Asked::Stop,
            _signal = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Waits until the gateway is asked to stop.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }

    /// Waits until the gateway is asked to stop once more than at `first`.
    pub(super) async fn stop_at_once(&mut self, first: Instant) {
        loop {
            self.stop().await;
            if first.elapsed() >= SAME_STOP {
                return;
            }
        }
    }
}
