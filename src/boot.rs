//! Putting the parts together, and taking them apart again.
//!
//! **Runs on**: main. **Owns**: every thread it starts. **Never**: goes on without one: a thread
//! that ends by itself takes the process down with a message.
//!
//! Start: file limit, sockets, shards, router. Stop: router drains the shards, then ends them and
//! itself; main waits for all, or for a second signal.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ara_shards::clock::Clock;
use ara_shards::conversation::Contract;
use ara_shards::doorbell::Doorbell;
use ara_shards::journal::Options;
use ara_shards::placement::Placement;
use ara_shards::vault::{Recovered, Summary};
use ara_shards::worker::{self, Ending, Seat, Unstarted};
use ara_shards::{ShardLink, pin};
use core_affinity::CoreId;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::api::AnswerStore;
use crate::capacity::{self, Capacity};
use crate::cli::EXIT_FAILURE;
use crate::config::settled::{RunMode, Settings};
use crate::door::auth::Verifier;
use crate::door::gate::{DEFAULT_TENANT, Gate};
use crate::door::listen::{self, Hallway, Inherited};
use crate::origin::Origins;
use crate::router::thread::{self, News};
use crate::storage::{self, Storage};

/// Arrivals waiting for the router, over all doors. At a few microseconds each, 4,096 are some
/// 20 ms of work; beyond it a newcomer hears 503.
const ARRIVALS_CAPACITY: usize = 4096;
/// Why the gateway could not start or go on.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with its reason, for people.
    #[must_use]
    pub const fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A gateway that is up.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the API listens, if apart from clients.
    pub api_address: Option<SocketAddr>,
    news: mpsc::Receiver<News>,
    stop: mpsc::Sender<()>,
    router: JoinHandle<()>,
    shards: Vec<JoinHandle<()>>,
    grace: Duration,
    /// The disk backend's directory, held until the end.
    storage: Option<Storage>,
}

/// Starts every thread. Returns when the listeners are open and the threads are running.
///
/// # Errors
///
/// An address is not to be had, or the system gives no more threads or files.
pub fn start(settings: Settings, verifier: Verifier) -> Result<Running, Failure> {
    let cores = pin::allowed_cores();
    let count = capacity::shards(settings.shards.count, cores.len());
    let capacity = capacity::claim(count, settings.server.connections_max)?;
    let server = &settings.server;
    let inherited = Inherited {
        send_buffer_bytes: server.send_buffer_bytes,
        peer_timeout: settings.limits.connection_timeout,
    };
    let listeners = listen::bind(server.address, count, inherited)
        .map_err(|error| cannot_listen("server.host / server.port", server.address, &error))?;
    let address = local_address(listeners.first())?;
    let api_listener = bind_api(settings.api.listen)?;
    let api_address = api_listener.as_ref().map(|l| local_address(Some(l))).transpose()?;
    log_start(&settings, count, cores.len(), capacity);

    let wake = Arc::new(Notify::new());
    let clapper = Arc::clone(&wake);
    let bell = Arc::new(Doorbell::new(move || clapper.notify_one()));
    let clock = Clock::start();
    let disk = settings.disk.as_ref();
    let storage = disk.map(|disk| Storage::open(disk, count, clock)).transpose()?;
    let answers = open_answers(&settings)?;
    let placement = storage.as_ref().map(|storage| storage.placement().clone());
    let placement = placement.unwrap_or_else(|| Placement::new(count));
    let gate = Arc::new(gate(&settings, verifier, placement));
    let (arrivals_in, arrivals) = crossbeam_channel::bounded(ARRIVALS_CAPACITY);
    let (closing, closed) = watch::channel(false);
    let (news, news_out) = mpsc::channel(count + 4);
    let (stop, stop_out) = mpsc::channel(1);
    let hallway = Hallway { arrivals: arrivals_in, bell: Arc::clone(&bell), closing: closed };
    let grace = settings.server.shutdown_grace;

    let (links, mut unstarted) =
        prepare(&settings, (count, &cores), clock, &bell).map_err(no_thread)?;
    if let Some(storage) = &storage {
        recover(&mut unstarted, storage)?;
    }
    let mut shards = Vec::with_capacity(count);
    for (index, (shard, listener)) in unstarted.into_iter().zip(listeners).enumerate() {
        let door = Door {
            listener,
            gate: Arc::clone(&gate),
            hallway: hallway.clone(),
            newcomers_max: capacity.newcomers_per_door,
        };
        shards.push(spawn_shard(index, shard, door, &news).map_err(no_thread)?);
    }
    let parts = thread::Parts {
        settings,
        clock,
        links,
        gate,
        capacity,
        arrivals,
        bell,
        wake,
        closing,
        api_listener,
        answers,
        stop: stop_out,
        news,
    };
    let router = thread::spawn(parts).map_err(no_thread)?;
    Ok(Running { address, api_address, news: news_out, stop, router, shards, grace, storage })
}

/// What a shard's door needs.
struct Door {
    listener: std::net::TcpListener,
    gate: Arc<Gate>,
    hallway: Hallway,
    newcomers_max: usize,
}

/// Makes every shard's lanes and poller.
fn prepare(
    settings: &Settings,
    (count, cores): (usize, &[CoreId]),
    clock: Clock,
    bell: &Arc<Doorbell>,
) -> io::Result<(Vec<ShardLink>, Vec<Unstarted>)> {
    let seat = |index: usize| {
        let pinned = settings.shards.pin_to_cores && !cores.is_empty();
        Seat {
            index,
            core: pinned.then(|| cores.get(index % cores.len()).copied()).flatten(),
            inbox_capacity: settings.shards.inbox_capacity,
            limits: settings.limits.clone(),
            clock,
        }
    };
    let seats = (0..count).map(|index| worker::prepare(seat(index), Arc::clone(bell)));
    Ok(seats.collect::<io::Result<Vec<_>>>()?.into_iter().unzip())
}

/// Has every shard read what an earlier run has left for it, all at a time.
fn recover(shards: &mut [Unstarted], storage: &Storage) -> Result<(), Failure> {
    let begun = Instant::now();
    let read = |shard: &mut Unstarted, options: &Options| {
        let recovered = shard.recover(options, storage.placement());
        recovered.map(Recovered::summary).map_err(|error| Failure(format!("queue.path: {error}")))
    };
    let summaries: Vec<Result<Summary, Failure>> = std::thread::scope(|scope| {
        let shards = shards.iter_mut().zip(storage.options());
        let threads: Vec<_> =
            shards.map(|(shard, options)| scope.spawn(|| read(shard, options))).collect();
        let bug = |_panic| Err(Failure("reading queue.path panicked".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(bug)).collect()
    });
    let (mut letters, mut expired) = (0, 0);
    for summary in summaries {
        let summary = summary?;
        storage::log_damage(&summary.report);
        if summary.strange > 0 {
            tracing::error!(records = summary.strange, "records in queue.path make no sense");
        }
        letters += summary.letters;
        expired += summary.expired;
    }
    tracing::info!(letters, expired, took = ?begun.elapsed(), "queued notifications read back");
    Ok(())
}

fn spawn_shard(
    index: usize,
    shard: Unstarted,
    door: Door,
    news: &mpsc::Sender<News>,
) -> io::Result<JoinHandle<()>> {
    let open_door = move || {
        spawn_local(async move {
            let Door { listener, gate, hallway, newcomers_max } = door;
            if let Err(error) = listen::serve(listener, gate, hallway, newcomers_max).await {
                tracing::error!(shard = index, %error, "this shard's door cannot listen");
            }
        });
    };
    let news = news.clone();
    let on_end = move |ending| {
        // If main is gone there is nobody to tell.
        let _told = news.try_send(News::Ended(format!("shard-{index}"), ending));
    };
    shard.spawn(Contract, open_door, on_end)
}

fn gate(settings: &Settings, verifier: Verifier, placement: Placement) -> Gate {
    let origins = settings.server.cors_origins.clone();
    let local = settings.mode == RunMode::Development && origins.is_empty();
    Gate {
        verifier,
        origins: Origins::new(origins, local),
        placement,
        tenants_enabled: settings.tenants_enabled,
        default_tenant: DEFAULT_TENANT.into(),
        subscriptions_max: settings.limits.subscriptions_per_connection_max,
    }
}

fn log_start(settings: &Settings, shards: usize, cores: usize, capacity: Capacity) {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    if settings.shards.pin_to_cores && shards > cores {
        tracing::warn!(shards, cores, "more shards than cores this process may use; they share");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards,
        cores,
        file_limit = capacity.files,
        connections_max = capacity.clients,
        api_callers_max = capacity.callers,
        "starting"
    );
    let wanted = settings.server.connections_max;
    if wanted > capacity.clients {
        tracing::warn!(
            wanted,
            possible = capacity.clients,
            file_limit = capacity.files,
            "server.max_connections is more than the open-file limit holds; raise it (ulimit -Hn)"
        );
    }
}

/// The store of answers by `Idempotency-Key`, where the queue is on disk too.
fn open_answers(settings: &Settings) -> Result<Option<AnswerStore>, Failure> {
    let disk = settings.disk.as_ref();
    let opened = disk.map(|disk| AnswerStore::open(&disk.path, disk.fsync)).transpose();
    opened.map_err(|error| Failure(format!("queue.path: {error}")))
}

fn bind_api(address: Option<SocketAddr>) -> Result<Option<std::net::TcpListener>, Failure> {
    let Some(address) = address else { return Ok(None) };
    let listeners = listen::bind(address, 1, Inherited::default())
        .map_err(|error| cannot_listen("api.listen", address, &error))?;
    Ok(listeners.into_iter().next())
}

fn cannot_listen(key: &str, address: SocketAddr, error: &io::Error) -> Failure {
    Failure(format!("cannot listen on {address} ({key}): {error}"))
}

fn local_address(listener: Option<&std::net::TcpListener>) -> Result<SocketAddr, Failure> {
    let address = listener.map(std::net::TcpListener::local_addr);
    address
        .and_then(Result::ok)
        .ok_or_else(|| Failure("a listening socket has no address".to_owned()))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn no_thread(error: io::Error) -> Failure {
    Failure(format!("the system gives no more threads, files or memory: {error}"))
}

impl Running {
    /// Waits until the gateway takes clients and triggers.
    ///
    /// # Errors
    ///
    /// A thread ended before that.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        match self.news.recv().await {
            Some(News::Ready) => Ok(()),
            Some(News::Ended(thread, ending)) => Err(ended(&thread, &ending)),
            None => Err(Failure("no thread is left".to_owned())),
        }
    }

    /// Runs until a signal or a thread's end, then stops everything. Returns the exit code.
    pub async fn until_stopped(mut self) -> ExitCode {
        let Ok([mut terminate, mut interrupt, mut hangup]) = signals() else {
            tracing::error!("cannot listen for signals");
            return ExitCode::from(EXIT_FAILURE);
        };
        loop {
            tokio::select! {
                _signal = terminate.recv() => break,
                _signal = interrupt.recv() => break,
                _signal = hangup.recv() => {
                    tracing::warn!("SIGHUP: this version reloads nothing; restart to apply changes");
                }
                news = self.news.recv() => {
                    if let Some(News::Ended(thread, ending)) = news {
                        tracing::error!("{}", ended(&thread, &ending));
                    }
                    return ExitCode::from(EXIT_FAILURE);
                }
            }
        }
        tracing::info!(grace = ?self.grace, "stopping: saying goodbye to clients");
        // The router takes this at once or is gone, which its end will tell.
        let _told = self.stop.try_send(());
        let patience = self.grace + Duration::from_secs(5);
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
            _signal = terminate.recv() => stopped_at_once(),
            _signal = interrupt.recv() => stopped_at_once(),
        }
    }

    /// Waits for every thread's end; false if one failed.
    async fn all_ended(&mut self) -> bool {
        let mut clean = true;
        for _ in 0..=self.shards.len() {
            match self.news.recv().await {
                Some(News::Ended(_, Ending::Stopped)) => {}
                Some(News::Ended(thread, ending)) => {
                    tracing::error!("{}", ended(&thread, &ending));
                    clean = false;
                }
                Some(News::Ready) | None => return false,
            }
        }
        clean
    }
}

fn signals() -> io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ])
}

fn stopped_at_once() -> ExitCode {
    tracing::warn!("second signal: stopping at once");
    ExitCode::from(EXIT_FAILURE)
}

fn ended(thread: &str, ending: &Ending) -> Failure {
    Failure(match ending {
        Ending::Stopped => format!("thread {thread} ended unasked; stopping the process"),
        Ending::Failed(error) => format!("thread {thread} failed: {error}; stopping the process"),
        Ending::Panicked => format!("thread {thread} panicked; stopping the process"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 9: whatever ends a thread unasked, main goes, and says so with its exit code.
    #[test]
    fn a_thread_that_ends_unasked_takes_the_process_down() {
        let endings =
            [Ending::Panicked, Ending::Stopped, Ending::Failed(io::ErrorKind::Other.into())];
        for ending in endings {
            let (news_in, news) = mpsc::channel(1);
            let (stop, _stop_out) = mpsc::channel(1);
            let running = Running {
                address: ([127, 0, 0, 1], 1).into(),
                api_address: None,
                news,
                stop,
                router: std::thread::Builder::new().spawn(|| {}).unwrap(),
                shards: Vec::new(),
                grace: Duration::from_secs(10),
                storage: None,
            };
            let message = ended("shard-0", &ending).to_string();
            assert!(message.contains("shard-0") && message.contains("stopping the process"));
            news_in.try_send(News::Ended("shard-0".to_owned(), ending)).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let code = runtime.block_on(running.until_stopped());
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(EXIT_FAILURE)));
        }
    }
}
