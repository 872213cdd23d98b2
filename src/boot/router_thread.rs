//! The router's thread: its runtime and the tasks on it, from start to the end of the drain.
//!
//! **Runs on**: the thread it spawns. **Owns**: the tasks. **Never**: ends without telling main.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use ara_shards::ShardLink;
use ara_shards::base::clock::Clock;
use ara_shards::link::doorbell::Doorbell;
use ara_shards::link::message::Query;
use ara_shards::worker::Ending;
use crossbeam_channel::Receiver;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use super::owners::{Change, Owners};
use super::redis_sink::RedisSink;
use crate::api::Api;
use crate::api::serve::Server;
use crate::capacity::Capacity;
use crate::idempotency::{ResponseStore, StoredResponses};
use crate::listener::accept::{Arrival, refuse_detached};
use crate::listener::handshake::Handshake;
use crate::ratelimit::RateLimiter;
use crate::redis::{self, Status as RedisStatus, Tenants};
use crate::router::Router;
use crate::router::dispatch::Lifetimes;
use crate::settings::Settings;
use crate::supervise::{Supervisor, SupervisorEvent, spawn_unsupervised};
use crate::templates::{TemplateFiles, TemplateStore};

/// Arrivals the router takes before its other tasks have their turn.
const ARRIVALS_PER_TURN: usize = 256;

/// What only the router's thread uses.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// What time it is for the shards.
    pub clock: Clock,
    /// The shards, in order.
    pub links: Vec<ShardLink>,
    /// Decides who may become a client, shared with the doors.
    pub handshake: Arc<Handshake>,
    /// How many clients and callers fit.
    pub capacity: Capacity,
    /// What the doors send.
    pub arrivals: Receiver<Arrival>,
    /// Rung by doors and shards.
    pub bell: Arc<Doorbell>,
    /// What the bell wakes.
    pub wake: Arc<Notify>,
    /// Tells the doors to close.
    pub closing: watch::Sender<bool>,
    /// The API's own socket, if it has one.
    pub api_listener: Option<std::net::TcpListener>,
    /// Where answers by `Idempotency-Key` outlive the process, if they do.
    pub answers: Option<ResponseStore>,
    /// Where templates outlive the process, if they do.
    pub templates: Option<TemplateFiles>,
    /// Main's word to stop.
    pub stop: mpsc::Receiver<StopOrder>,
    /// What main has read anew.
    pub changes: mpsc::Receiver<Change>,
    /// Watches the tasks, and is the way to main.
    pub supervisor: Supervisor,
    /// How long this process took to start: the next one will, too.
    pub start_took: Duration,
}

/// What main tells the router about the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOrder {
    /// Readiness is to be off; all else goes on.
    Announce,
    /// Say goodbye and end.
    Stop,
}

/// Starts the thread.
///
/// # Errors
///
/// The system gives no more threads.
pub fn spawn(parts: Parts) -> io::Result<JoinHandle<()>> {
    Builder::new().name("router".to_owned()).spawn(move || {
        let supervisor = parts.supervisor.clone();
        let run = std::panic::AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default())?;
            runtime.block_on(route(parts))
        });
        let ending = match std::panic::catch_unwind(run) {
            Ok(Ok(())) => Ending::Stopped,
            Ok(Err(error)) => Ending::Failed(error),
            Err(_panic) => Ending::Panicked,
        };
        supervisor.report(SupervisorEvent::ThreadEnded("router".to_owned(), ending));
    })
}

/// The router's thread: reports and arrivals, the API, Redis, until told to stop.
async fn route(parts: Parts) -> io::Result<()> {
    let Parts { settings, clock, links, handshake, capacity, arrivals, closing, mut stop, .. } =
        parts;
    let supervisor = parts.supervisor;
    let router = make_router(&settings, clock, links, &handshake, capacity);
    let status = Rc::new(RedisStatus::new());
    let responses = StoredResponses::new(parts.answers, &supervisor);
    let templates = TemplateStore::new(parts.templates, &supervisor);
    let api = Api::new(
        router.clone(),
        Arc::clone(&handshake),
        &settings,
        Rc::clone(&status),
        Rc::clone(&templates),
        Rc::clone(&responses),
    );
    let api = Rc::new(api);
    let server = Server::new(Rc::clone(&api), capacity.callers, closing.subscribe());
    if let Some(listener) = parts.api_listener {
        supervisor.spawn("api-listener", Rc::clone(&server).accept(listener));
        server.close_front();
    }
    if settings.limits.queue.is_some() && settings.limits.tenants.is_some() {
        // What an earlier run has left counts before the first trigger.
        count_what_waits(&router, &parts.bell, &parts.wake).await;
    }
    let pump = pump(router.clone(), Rc::clone(&server), arrivals, parts.bell, parts.wake);
    supervisor.spawn("pump", pump);
    supervisor.spawn("rate-limit-cleanup", router.rate_limiter().serve_cleanups());
    let owners = Owners {
        api: Rc::clone(&api),
        router: router.clone(),
        handshake: Arc::clone(&handshake),
        capacity,
    };
    supervisor.spawn("owners", owners.serve(parts.changes));
    supervisor.spawn("drains", router.clone().serve_drains());
    let redis = settings.redis.clone().map(|settings| {
        let sink = RedisSink(router.clone());
        let default = Arc::clone(&handshake.default_tenant);
        let tenants = Tenants { are_enabled: handshake.tenants_enabled, default };
        let subscriber = redis::run(settings, tenants, Rc::clone(&templates), status, sink);
        supervisor.spawn("redis-subscriber", async move { match subscriber.await {} })
    });
    // If main has gone already, the next line ends this thread too.
    supervisor.report(SupervisorEvent::Ready);

    while let Some(StopOrder::Announce) = stop.recv().await {
        router.announce_stop();
    }

    if let Some(task) = redis {
        task.abort();
    }
    // Callers finish the request they are in. The doors stay open to the end: whoever comes meanwhile is
    // told when to come back, which a refused connection could not.
    closing.send_replace(true);
    let grace = settings.server.shutdown_grace;
    let until = tokio::time::Instant::now() + grace;
    router.drain(grace, parts.start_took).await;
    while server.callers() > 0 && tokio::time::Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
    router.stop_shards().await;
    responses.close();
    templates.close();
    Ok(())
}

/// Waits until every shard has reported what waits on it.
async fn count_what_waits(router: &Router, bell: &Doorbell, wake: &Notify) {
    let pump = async {
        loop {
            wake.notified().await;
            bell.answer();
            router.take_reports();
        }
    };
    // A shard says first of all what waits.
    let replies = router.ask_all(Query::Snapshot);
    tokio::select! {
        replies = replies => if let Err(refusal) = replies {
            tracing::warn!(reason = refusal.message, "what waits for tenants may be counted late");
        },
        () = pump => {}
    }
    // What doors have sent meanwhile rang the same bell.
    wake.notify_one();
}

/// The router over these shards, as the settings say.
fn make_router(
    settings: &Settings,
    clock: Clock,
    links: Vec<ShardLink>,
    handshake: &Handshake,
    capacity: Capacity,
) -> Router {
    let lifetimes = Lifetimes::new(clock, &settings.limits);
    let placement = handshake.placement.clone();
    let router = Router::new(links, placement, capacity.clients, lifetimes, &settings.limits);
    let blocked = Arc::clone(&handshake.blocked);
    router.limit_rates(RateLimiter::new(&settings.rate_limits, blocked));
    if handshake.tenants_enabled {
        router.share_lanes(settings.shards.inbox_capacity);
    }
    router
}

/// Takes what shards and doors send, whenever the bell rings.
async fn pump(
    router: Router,
    server: Rc<Server>,
    arrivals: Receiver<Arrival>,
    bell: Arc<Doorbell>,
    wake: Arc<Notify>,
) -> io::Result<()> {
    loop {
        wake.notified().await;
        bell.answer();
        loop {
            router.take_reports();
            let taken = arrivals.try_iter().take(ARRIVALS_PER_TURN);
            if taken.map(|arrival| receive(&router, &server, arrival)).count() < ARRIVALS_PER_TURN {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn receive(router: &Router, server: &Rc<Server>, arrival: Arrival) {
    match arrival {
        Arrival::Failed { socket, responder, refusal } => {
            let peer = socket.peer();
            let refusal = router.rate_limiter().token_failed(peer).err().unwrap_or(*refusal);
            spawn_unsupervised(refuse_detached(socket, responder.refusal(&refusal)));
        }
        Arrival::Caller { socket, bytes } => {
            // A socket that cannot be registered is closed; the caller sees that.
            if let Ok(socket) = socket.into_async() {
                server.take_from_door(socket, bytes);
            }
        }
        Arrival::Client { socket, admission, leftover } => {
            if let Err((socket, response)) = router.admit(socket, *admission, leftover) {
                spawn_unsupervised(refuse_detached(socket, response));
            }
        }
    }
}
