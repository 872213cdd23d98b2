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

/// The handlers. What came since they were installed is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
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
        })
    }

    /// Waits until the gateway is asked to stop.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _signal = self.terminate.recv() => {}
            _signal = self.interrupt.recv() => {}
        }
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
