//! Putting the parts together, and taking them apart again.
//!
//! **Runs on**: main. **Owns**: every thread it starts. **Never**: goes on without one: a thread
//! that ends by itself takes the process down with a message.
//!
//! Start: signal handlers, file limit, sockets, shards, router. Stop: router drains the shards, then
//! ends them and itself; main waits for all, or for a second signal. What takes long, such as reading
//! a large queue back, is on a thread of its own, so that a signal is answered meanwhile.

mod owners;
mod redis_sink;
mod reloads;
mod running;
mod signals;
#[cfg(test)]
mod tests;

pub mod router_thread;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use ara_shards::ShardLink;
use ara_shards::base::clock::Clock;
use ara_shards::base::limits::SHARDS_MAX;
use ara_shards::base::pin;
use ara_shards::base::placement::Placement;
use ara_shards::journal::Options;
use ara_shards::link::doorbell::Doorbell;
use ara_shards::link::tokens::Tokens;
use ara_shards::store::disk::Summary;
use ara_shards::worker::{self, ShardSetup, Unstarted};
use arc_swap::ArcSwap;
use core_affinity::CoreId;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::capacity::{self, Capacity};
use crate::cli::EXIT_FAILURE;
use crate::failure::Failure;
use crate::idempotency::ResponseStore;
use crate::listener::accept::{self, RouterHandle, SocketOptions};
use crate::listener::auth::Verifier;
use crate::listener::handshake::{Handshake, Rules};
use crate::names::DEFAULT_TENANT;
use crate::settings::Settings;
use crate::storage::{self, Storage};
use crate::supervise::{Supervisor, SupervisorEvent};
use crate::templates::TemplateFiles;
use crate::welcome;
pub use owners::Change;
pub use reloads::{Hangups, Reloads};
pub use running::Running;
use running::StopTimes;
pub use signals::Signals;

/// Arrivals waiting for the router, over all doors. At a few microseconds each, 4,096 are some
/// 20 ms of work; beyond it a client is refused with 503.
const ARRIVALS_CAPACITY: usize = 4096;
/// What main can be told: each shard's end and its door's, and that of the router and its tasks.
const SUPERVISOR_EVENTS_MAX: usize = 2 * SHARDS_MAX + 16;

/// Runs the gateway: starts it, and stops it when it is asked to, before it is ready or after.
/// Returns the exit code.
pub async fn run(
    settings: Settings,
    verifier: Verifier,
    signals: &mut Signals,
    reloads: Reloads,
) -> ExitCode {
    let supervision = Supervisor::new(SUPERVISOR_EVENTS_MAX);
    run_with(settings, verifier, signals, reloads, supervision).await
}

async fn run_with(
    settings: Settings,
    verifier: Verifier,
    signals: &mut Signals,
    reloads: Reloads,
    supervision: (Supervisor, mpsc::Receiver<SupervisorEvent>),
) -> ExitCode {
    let (done, started) = oneshot::channel();
    let for_start = settings.clone();
    let start = move || {
        // If main is gone the process ends, and with it what has been started.
        let _heard = done.send(start(for_start, verifier, supervision));
    };
    if let Err(error) = std::thread::Builder::new().name("start".to_owned()).spawn(start) {
        return failed(&no_thread(error));
    }
    let started = tokio::select! {
        biased;
        started = started => started,
        () = signals.stop() => {
            // Whatever has been begun is as safe to leave as when the process is killed.
            tracing::info!("stopped before it was ready");
            return ExitCode::SUCCESS;
        }
    };
    let mut running = match started {
        Ok(Ok(running)) => running,
        Ok(Err(failure)) => return failed(&failure),
        Err(_panicked) => return failed(&Failure::new("thread start panicked".to_owned())),
    };
    if let Err(failure) = running.ready().await {
        return failed(&failure);
    }
    tracing::info!(address = %running.address, "ready");
    welcome::print(&settings, running.address, running.api_address);
    running.until_stopped(signals, reloads).await
}

fn failed(failure: &Failure) -> ExitCode {
    tracing::error!("{failure}");
    ExitCode::from(EXIT_FAILURE)
}

/// Starts every thread. Returns when the listeners are open and the threads are running.
///
/// # Errors
///
/// An address is not to be had, or the system gives no more threads or files.
fn start(
    settings: Settings,
    verifier: Verifier,
    (supervisor, events): (Supervisor, mpsc::Receiver<SupervisorEvent>),
) -> Result<Running, Failure> {
    let begun = Instant::now();
    let cores = pin::allowed_cores();
    let count = pin::shard_count(settings.shards.count, cores.len());
    let capacity = capacity::claim(count, settings.server.connections_max)?;
    let server = &settings.server;
    let options = SocketOptions {
        send_buffer_bytes: server.send_buffer_bytes,
        peer_timeout: settings.limits.connection_timeout,
    };
    let listeners = accept::bind(server.address, count, options)
        .map_err(|error| cannot_listen("server.host / server.port", server.address, &error))?;
    let address = local_address(listeners.first())?;
    let api_listener = bind_api(settings.api.listen)?;
    let api_address = api_listener.as_ref().map(|l| local_address(Some(l))).transpose()?;
    log_start(&settings, count, cores.len(), capacity);

    let wake = Arc::new(Notify::new());
    let waker = Arc::clone(&wake);
    let bell = Arc::new(Doorbell::new(move || waker.notify_one()));
    let clock = Clock::start();
    let disk = settings.disk.as_ref();
    let storage = disk.map(|disk| Storage::open(disk, count, clock)).transpose()?;
    let answers = open_responses(&settings)?;
    let templates = open_templates(&settings)?;
    let placement = storage.as_ref().map(|storage| storage.placement().clone());
    let placement = placement.unwrap_or_else(|| Placement::new(count));
    let handshake = Arc::new(make_handshake(&settings, verifier, placement, clock));
    let (arrivals_in, arrivals) = crossbeam_channel::bounded(ARRIVALS_CAPACITY);
    let (closing, _open) = watch::channel(false);
    let (stop, stop_out) = mpsc::channel(2);
    let (changes, changes_out) = mpsc::channel(1);
    let router = RouterHandle { arrivals: arrivals_in, bell: Arc::clone(&bell) };
    let times = StopTimes::of(&settings.server);

    let (links, mut unstarted) =
        prepare(&settings, (count, &cores), &handshake, &bell).map_err(no_thread)?;
    if let Some(storage) = &storage {
        recover(&mut unstarted, storage)?;
    }
    let mut shards = Vec::with_capacity(count);
    assert_eq!((unstarted.len(), listeners.len()), (count, count), "a door for each shard");
    for (index, (shard, listener)) in unstarted.into_iter().zip(listeners).enumerate() {
        let door = Door {
            listener,
            handshake: Arc::clone(&handshake),
            router: router.clone(),
            handshakes_max: capacity.handshakes_per_door,
        };
        shards.push(spawn_shard(index, shard, door, &supervisor).map_err(no_thread)?);
    }
    let parts = router_thread::Parts {
        settings,
        clock,
        links,
        handshake,
        capacity,
        arrivals,
        bell,
        wake,
        closing,
        api_listener,
        answers,
        templates,
        stop: stop_out,
        changes: changes_out,
        supervisor,
        start_took: begun.elapsed(),
    };
    let router = router_thread::spawn(parts).map_err(no_thread)?;
    Ok(Running { address, api_address, events, stop, changes, router, shards, times, storage })
}

/// What a shard's door needs.
struct Door {
    listener: std::net::TcpListener,
    handshake: Arc<Handshake>,
    router: RouterHandle,
    handshakes_max: usize,
}

/// Makes every shard's lanes and poller.
fn prepare(
    settings: &Settings,
    (count, cores): (usize, &[CoreId]),
    handshake: &Arc<Handshake>,
    bell: &Arc<Doorbell>,
) -> io::Result<(Vec<ShardLink>, Vec<Unstarted>)> {
    let setup = |index: usize| {
        let pinned = settings.shards.pin_to_cores && !cores.is_empty();
        ShardSetup {
            index,
            core: pinned.then(|| cores.get(index % cores.len()).copied()).flatten(),
            inbox_capacity: settings.shards.inbox_capacity,
            fair_turns: settings.tenants_enabled,
            limits: settings.limits.clone(),
            clock: handshake.clock,
            tokens: Arc::clone(handshake) as Arc<dyn Tokens>,
        }
    };
    let prepared = (0..count).map(|index| worker::prepare(setup(index), Arc::clone(bell)));
    Ok(prepared.collect::<io::Result<Vec<_>>>()?.into_iter().unzip())
}

/// Has every shard read what an earlier run has left for it, all at a time.
fn recover(shards: &mut [Unstarted], storage: &Storage) -> Result<(), Failure> {
    let begun = Instant::now();
    assert_eq!(shards.len(), storage.options().len(), "a journal for each shard");
    let read = |shard: &mut Unstarted, options: &Options| {
        let recovered = shard.recover(options, storage.placement());
        recovered.map_err(|error| Failure::new(format!("queue.path: {error}")))
    };
    let summaries: Vec<Result<Summary, Failure>> = std::thread::scope(|scope| {
        let shards = shards.iter_mut().zip(storage.options());
        let threads: Vec<_> =
            shards.map(|(shard, options)| scope.spawn(|| read(shard, options))).collect();
        let bug = |_panic| Err(Failure::new("reading queue.path panicked".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(bug)).collect()
    });
    let (mut messages, mut expired) = (0, 0);
    for summary in summaries {
        let summary = summary?;
        storage::log_damage(&summary.report);
        if summary.strange > 0 {
            tracing::error!(records = summary.strange, "records in queue.path make no sense");
        }
        messages += summary.messages;
        expired += summary.expired;
    }
    tracing::info!(messages, expired, took = ?begun.elapsed(), "queued notifications read back");
    Ok(())
}

fn spawn_shard(
    index: usize,
    shard: Unstarted,
    door: Door,
    supervisor: &Supervisor,
) -> io::Result<JoinHandle<()>> {
    let for_door = supervisor.clone();
    let open_door = move || {
        let Door { listener, handshake, router, handshakes_max } = door;
        let serve = accept::serve(listener, handshake, router, handshakes_max);
        for_door.spawn(format!("door-{index}"), serve);
    };
    let supervisor = supervisor.clone();
    let on_end = move |ending| {
        supervisor.report(SupervisorEvent::ThreadEnded(format!("shard-{index}"), ending))
    };
    shard.spawn(open_door, on_end)
}

fn make_handshake(
    settings: &Settings,
    verifier: Verifier,
    placement: Placement,
    clock: Clock,
) -> Handshake {
    Handshake {
        rules: ArcSwap::from_pointee(Rules::new(settings, verifier)),
        placement,
        clock,
        blocked: Arc::default(),
        tenants_enabled: settings.tenants_enabled,
        default_tenant: DEFAULT_TENANT.into(),
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
    capacity.warn_if_short(settings.server.connections_max);
}

/// The store of answers by `Idempotency-Key`, where the queue is on disk too.
fn open_responses(settings: &Settings) -> Result<Option<ResponseStore>, Failure> {
    let disk = settings.disk.as_ref();
    let opened = disk.map(|disk| ResponseStore::open(&disk.path, disk.fsync)).transpose();
    opened.map_err(|error| Failure::new(format!("queue.path: {error}")))
}

/// The templates' files, where the queue is on disk too.
fn open_templates(settings: &Settings) -> Result<Option<TemplateFiles>, Failure> {
    let disk = settings.disk.as_ref();
    let opened = disk.map(|disk| TemplateFiles::open(&disk.path, disk.fsync)).transpose();
    opened.map_err(|error| Failure::new(format!("queue.path: {error}")))
}

fn bind_api(address: Option<SocketAddr>) -> Result<Option<std::net::TcpListener>, Failure> {
    let Some(address) = address else { return Ok(None) };
    let listeners = accept::bind(address, 1, SocketOptions::default())
        .map_err(|error| cannot_listen("api.listen", address, &error))?;
    Ok(listeners.into_iter().next())
}

fn cannot_listen(key: &str, address: SocketAddr, error: &io::Error) -> Failure {
    Failure::new(format!("cannot listen on {address} ({key}): {error}"))
}

fn local_address(listener: Option<&std::net::TcpListener>) -> Result<SocketAddr, Failure> {
    let address = listener.map(std::net::TcpListener::local_addr);
    address
        .and_then(Result::ok)
        .ok_or_else(|| Failure::new("a listening socket has no address".to_owned()))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn no_thread(error: io::Error) -> Failure {
    Failure::new(format!("the system gives no more threads, files or memory: {error}"))
}
