//! SIGHUP: reads the configuration again and has what is live of it applied.
//!
//! **Runs on**: main; files are read on a thread of its own, so that neither a stop nor a client waits
//! for a disk. **Owns**: the configuration that runs. **Never**: applies a part of a configuration with a
//! fault; reads twice at a time.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::owners::Change;
use crate::audit;
use crate::config::Loaded;
use crate::config::error::{Fault, Faults};
use crate::config::raw::Sources;
use crate::config::reload::{self, Reloaded};
use crate::listener::auth::Verifier;
use crate::telemetry;

/// Signals this close together are one: a script that changes two files may send one for each.
const SAME_RELOAD: Duration = Duration::from_millis(100);
/// How long reading the files may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// How long the owners may take to change: each shard a turn, and a second where its lane is full.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);

/// What answers SIGHUP. Signals that came since it was installed are not lost.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Installs the handler. In a runtime.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn install() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next, and for others that belong to it.
    async fn next(&mut self) {
        let _came = self.0.recv().await;
        sleep(SAME_RELOAD).await;
        tokio::select! {
            biased;
            _same = self.0.recv() => {}
            () = std::future::ready(()) => {}
        }
    }
}

/// A configuration that was read again and can be applied.
type Read = Result<(Reloaded, Verifier), Faults>;

/// The reloads of one process.
pub struct Reloads {
    hangups: Hangups,
    sources: Sources,
    running: Arc<Loaded>,
    /// The reading that did not end in time, if there is one.
    overdue: Option<oneshot::Receiver<Read>>,
}

impl Reloads {
    /// Reads from `sources` at each SIGHUP, and compares with what runs.
    #[must_use]
    pub fn new(hangups: Hangups, sources: Sources, running: Loaded) -> Self {
        Self { hangups, sources, running: Arc::new(running), overdue: None }
    }

    /// Answers every SIGHUP, one after another.
    pub(super) async fn serve(mut self, changes: mpsc::Sender<Change>) -> Infallible {
        loop {
            self.hangups.next().await;
            match self.read().await {
                Ok(Ok((reloaded, verifier))) => self.apply(reloaded, verifier, &changes).await,
                Ok(Err(faults)) => log_faults(&faults.list),
                Err(problem) => log_failure(problem),
            }
        }
    }

    /// Reads and checks on a thread that may wait for a file.
    async fn read(&mut self) -> Result<Read, &'static str> {
        let slow = "the files could not be read in time";
        let mut read = match self.overdue.take() {
            // What it reads is older than the signal; but it must end before another begins.
            Some(mut overdue) => {
                if timeout(READ_DEADLINE, &mut overdue).await.is_err() {
                    self.overdue = Some(overdue);
                    return Err(slow);
                }
                self.begin()?
            }
            None => self.begin()?,
        };
        match timeout(READ_DEADLINE, &mut read).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(_panicked)) => Err("reading it panicked"),
            Err(_elapsed) => {
                self.overdue = Some(read);
                Err(slow)
            }
        }
    }

    fn begin(&self) -> Result<oneshot::Receiver<Read>, &'static str> {
        let (done, read) = oneshot::channel();
        let (sources, running) = (self.sources.clone(), Arc::clone(&self.running));
        let work = move || {
            let read = reload::reload(&sources, &running).and_then(|reloaded| {
                let verifier = Verifier::new(&reloaded.loaded.settings.jwt)?;
                Ok((reloaded, verifier))
            });
            // Main may not wait any more.
            let _heard = done.send(read);
        };
        let spawned = std::thread::Builder::new().name("reload".to_owned()).spawn(work);
        spawned.map(|_thread| read).map_err(|_error| "the system gives no more threads")
    }

    pub(super) async fn apply(
        &mut self,
        reloaded: Reloaded,
        verifier: Verifier,
        changes: &mpsc::Sender<Change>,
    ) {
        let Reloaded { loaded, applied, needs_restart } = reloaded;
        let settings = &loaded.settings;
        let (done, is_done) = oneshot::channel();
        let change = Change { settings: Box::new(settings.clone()), verifier, done };
        let given = async {
            // It fails only where the router's thread has ended; then `is_done` fails too.
            let _sent = changes.send(change).await;
            is_done.await
        };
        match timeout(APPLY_DEADLINE, given).await {
            Ok(Ok(true)) => {}
            // What runs stays the same for the next comparison, which therefore gives out all of it again.
            Ok(Ok(false)) | Err(_) => {
                return log_failure(
                    "not every shard took the new limits in time: send SIGHUP again",
                );
            }
            Ok(Err(_ended)) => return log_failure("the router's thread has ended"),
        }
        telemetry::set_filter(&settings.log.filter)
            .expect("the configuration's check reads it too");
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let (applied, needs_restart) = (applied.join(", "), needs_restart.join(", "));
        if !needs_restart.is_empty() {
            tracing::warn!(keys = %needs_restart, "SIGHUP: these changes need a restart");
        }
        if applied.is_empty() {
            tracing::info!("SIGHUP: the configuration was read again; nothing changes");
        } else {
            tracing::info!(keys = %applied, "SIGHUP: these changes are in effect");
        }
        audit::reloaded(audit::Reload::Applied { keys: &applied, needs_restart: &needs_restart });
        self.running = Arc::new(loaded);
    }
}

fn log_faults(faults: &[Fault]) {
    for fault in faults {
        let Fault { key, origin, problem, allowed, fix, .. } = fault;
        tracing::error!(%key, %origin, problem, allowed, fix, "SIGHUP: a fault in the configuration");
    }
    tracing::error!(faults = faults.len(), "SIGHUP: everything stays as it was");
    audit::reloaded(audit::Reload::Refused { faults: faults.len() });
}

fn log_failure(problem: &str) {
    tracing::error!(problem, "SIGHUP: the reload has failed");
    audit::reloaded(audit::Reload::Failed);
}
