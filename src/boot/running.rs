//! A gateway that is up: what main does until it is down again.
//!
//! **Runs on**: main. **Owns**: the threads, by their handles. **Never**: goes on without one of them,
//! or without a long-lived task: what ends unasked takes the process down with a message.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ara_shards::worker::Ending;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::owners::Change;
use super::reloads::Reloads;
use super::router_thread::StopOrder;
use super::signals::Signals;
use crate::cli::EXIT_FAILURE;
use crate::failure::Failure;
use crate::settings;
use crate::storage::Storage;
use crate::supervise::SupervisorEvent;

/// Beyond the grace, for the threads: the disk takes what is left.
const THREADS_DEADLINE: Duration = Duration::from_secs(5);

/// How long the parts of a stop may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct StopTimes {
    /// All goes on but readiness.
    pub(super) delay: Duration,
    /// Clients are told to leave.
    pub(super) grace: Duration,
}

impl StopTimes {
    pub(super) const fn of(server: &settings::Server) -> Self {
        Self { delay: server.shutdown_delay, grace: server.shutdown_grace }
    }
}

/// A gateway that is up.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the API listens, if apart from clients.
    pub api_address: Option<SocketAddr>,
    pub(super) events: mpsc::Receiver<SupervisorEvent>,
    pub(super) stop: mpsc::Sender<StopOrder>,
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) router: JoinHandle<()>,
    pub(super) shards: Vec<JoinHandle<()>>,
    pub(super) times: StopTimes,
    /// The disk backend's directory, held until the end.
    pub(super) storage: Option<Storage>,
}

impl Running {
    /// Waits until the gateway takes clients and triggers.
    ///
    /// # Errors
    ///
    /// A thread or task ended before that.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        match self.events.recv().await {
            Some(SupervisorEvent::Ready) => Ok(()),
            Some(SupervisorEvent::ThreadEnded(name, ending)) => {
                Err(ended("thread", &name, &ending))
            }
            Some(SupervisorEvent::TaskEnded(name, ending)) => Err(ended("task", &name, &ending)),
            None => Err(Failure::new("no thread is left".to_owned())),
        }
    }

    /// Runs until a signal or the end of a thread or task, then stops everything. Returns the exit
    /// code.
    pub async fn until_stopped(mut self, signals: &mut Signals, reloads: Reloads) -> ExitCode {
        let mut reloads = pin!(reloads.serve(self.changes.clone()));
        if let Err(code) = self.serve_until(signals.stop(), reloads.as_mut()).await {
            return code;
        }
        let mut asked_at = Instant::now();
        if !self.times.delay.is_zero() {
            let delay = self.times.delay;
            tracing::info!(
                ?delay,
                "readiness is off; stopping after the delay, or at another signal"
            );
            let _told = self.stop.try_send(StopOrder::Announce);
            let over = async {
                tokio::select! {
                    () = sleep(delay) => {}
                    () = signals.stop_at_once(asked_at) => tracing::info!("the delay is skipped"),
                }
            };
            if let Err(code) = self.serve_until(over, reloads.as_mut()).await {
                return code;
            }
            asked_at = Instant::now();
        }
        self.stop(signals, asked_at).await
    }

    /// Runs until `end`.
    ///
    /// # Errors
    ///
    /// The exit code, if a thread or task has ended before.
    async fn serve_until<Never>(
        &mut self,
        end: impl Future<Output = ()>,
        mut reloads: Pin<&mut impl Future<Output = Never>>,
    ) -> Result<(), ExitCode> {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                _never = &mut reloads => panic!("reloads are served until the end"),
                event = self.events.recv() => {
                    match event {
                        Some(SupervisorEvent::ThreadEnded(name, ending)) => {
                            tracing::error!("{}", ended("thread", &name, &ending));
                        }
                        Some(SupervisorEvent::TaskEnded(name, ending)) => {
                            tracing::error!("{}", ended("task", &name, &ending));
                        }
                        Some(SupervisorEvent::Ready) => continue,
                        None => tracing::error!("no thread is left; stopping the process"),
                    }
                    return Err(ExitCode::from(EXIT_FAILURE));
                }
            }
        }
    }

    /// Stops everything, unless another signal comes. Returns the exit code.
    async fn stop(mut self, signals: &mut Signals, asked_at: Instant) -> ExitCode {
        tracing::info!(grace = ?self.times.grace, "stopping: saying goodbye to clients");
        // The router takes this at once or is gone, which its end will tell.
        let _told = self.stop.try_send(StopOrder::Stop);
        let patience = self.times.grace + THREADS_DEADLINE;
        tokio::select! {
            stopped = timeout(patience, self.all_ended()) => match stopped {
                Ok(true) => {
                    for thread in self.shards.into_iter().chain([self.router]) {
                        // It has said how it ended.
                        let _joined = thread.join();
                    }
                    drop(self.storage);
                    tracing::info!("stopped");
                    ExitCode::SUCCESS
                }
                Ok(false) => ExitCode::from(EXIT_FAILURE),
                Err(_elapsed) => {
                    tracing::error!("threads did not end in time; stopping anyway");
                    ExitCode::from(EXIT_FAILURE)
                }
            },
            () = signals.stop_at_once(asked_at) => {
                tracing::warn!("second signal: stopping at once");
                ExitCode::from(EXIT_FAILURE)
            }
        }
    }

    /// Waits for every thread's end; false if one failed, or a task did meanwhile.
    async fn all_ended(&mut self) -> bool {
        let mut clean = true;
        let mut left = self.shards.len() + 1;
        while left > 0 {
            let (kind, name, ending) = match self.events.recv().await {
                Some(SupervisorEvent::ThreadEnded(name, ending)) => ("thread", name, ending),
                Some(SupervisorEvent::TaskEnded(name, ending)) => ("task", name, ending),
                Some(SupervisorEvent::Ready) => continue,
                None => return false,
            };
            if kind == "thread" {
                left -= 1;
            }
            if !matches!(ending, Ending::Stopped) {
                tracing::error!("{}", ended(kind, &name, &ending));
                clean = false;
            }
        }
        clean
    }
}

fn ended(kind: &str, name: &str, ending: &Ending) -> Failure {
    Failure::new(match ending {
        Ending::Stopped => format!("{kind} {name} ended unasked; stopping the process"),
        Ending::Failed(error) => format!("{kind} {name} failed: {error}; stopping the process"),
        Ending::Panicked => format!("{kind} {name} panicked; stopping the process"),
    })
}
