//! The shard's thread: one loop that takes inputs, applies them, and settles.
//!
//! **Runs on**: a named thread of its own, pinned where allowed, with a current-thread runtime.
//! **Owns**: everything of its shard. **Never**: locks, blocks, shares; a turn does not await.
//!
//! wait (bell, poller, next timer) → take a bounded batch → apply → report → flush what was
//! touched, once each. Reports go before bytes: whatever a client could cause after reading a
//! reply, the router has heard of before. If the report lane is full, the turn stops there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use core_affinity::CoreId;
use mio::{Poll, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder as RuntimeBuilder, LocalOptions};

use crate::base::clock::Clock;
use crate::base::limits::Limits;
use crate::base::pin;
use crate::base::placement::Placement;
use crate::io::connections::{BELL, Connections};
use crate::journal::{OpenError, Options};
use crate::link::doorbell::Doorbell;
use crate::link::inbox::{self, Inbox, ShardLink};
use crate::link::tokens::Tokens;
use crate::shard::{NextTurn, Shard};
use crate::store::Recovered;
use crate::store::disk::{self, Summary};

/// Where a shard runs and within which bounds.
#[derive(Debug, Clone)]
pub struct ShardSetup {
    /// Its number, from 0.
    pub index: usize,
    /// The core to pin to; `None` = wherever the system puts it.
    pub core: Option<CoreId>,
    /// Room in each delivery lane, in messages.
    pub inbox_capacity: usize,
    /// Whether tenants take turns in the delivery lanes; for one tenant it only costs.
    pub fair_turns: bool,
    /// The engine's bounds.
    pub limits: Limits,
    /// What time it is, the same for all shards.
    pub clock: Clock,
    /// Reads the tokens that clients show.
    pub tokens: Arc<dyn Tokens>,
}

/// A shard that has its lanes but no thread yet. `Send`; nothing can be done with it but
/// [`Self::spawn`].
#[derive(Debug)]
pub struct Unstarted {
    setup: ShardSetup,
    poll: Poll,
    inbox: Inbox,
    bell: Arc<Doorbell>,
    recovered: Option<Recovered>,
}

/// Why a shard's thread ended.
#[derive(Debug)]
pub enum Ending {
    /// It was told to stop.
    Stopped,
    /// Its poller failed.
    Failed(io::Error),
    /// A bug; the panic's message is on standard error.
    Panicked,
}

/// Makes a shard's lanes and poller. The thread starts with [`Unstarted::spawn`].
pub fn prepare(
    setup: ShardSetup,
    router_bell: Arc<Doorbell>,
) -> io::Result<(ShardLink, Unstarted)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), BELL)?;
    let bell = Arc::new(Doorbell::new(move || {
        if let Err(error) = waker.wake() {
            // An eventfd write fails only when its counter is full: the shard is awake then.
            tracing::debug!(%error, "a shard's bell was already ringing");
        }
    }));
    let (link, inbox) =
        inbox::lanes(setup.inbox_capacity, setup.fair_turns, Arc::clone(&bell), router_bell);
    Ok((link, Unstarted { setup, poll, inbox, bell, recovered: None }))
}

impl Unstarted {
    /// Opens the journal the shard's messages are kept in and reads it; returns what there is to say of
    /// it. Blocks until all is read.
    pub fn recover(
        &mut self,
        options: &Options,
        placement: &Placement,
    ) -> Result<Summary, OpenError> {
        let bell = Arc::clone(&self.bell);
        let (recovered, summary) = disk::open(options, self.setup.clock, placement, bell)?;
        self.recovered = Some(recovered);
        Ok(summary)
    }

    /// Starts the thread. `on_thread` runs there first, inside the runtime: what it spawns (a
    /// door) shares the thread. `on_end` hears why the thread ended, whatever ended it.
    pub fn spawn(
        self,
        on_thread: impl FnOnce() + Send + 'static,
        on_end: impl FnOnce(Ending) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let name = format!("shard-{}", self.setup.index);
        Builder::new().name(name).spawn(move || {
            let run = AssertUnwindSafe(|| self.run(on_thread));
            on_end(match catch_unwind(run) {
                Ok(Ok(())) => Ending::Stopped,
                Ok(Err(error)) => Ending::Failed(error),
                Err(_panic) => Ending::Panicked,
            });
        })
    }

    fn run(self, on_thread: impl FnOnce()) -> io::Result<()> {
        let mut core = None;
        if let Some(wanted) = self.setup.core {
            if pin::pin_current_thread(wanted) {
                core = Some(wanted.id);
            } else {
                tracing::warn!(
                    shard = self.setup.index,
                    core = wanted.id,
                    "this system does not allow pinning; the shard runs unpinned"
                );
            }
        }
        let runtime = RuntimeBuilder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        runtime.block_on(async move {
            on_thread();
            // A second handle on the same epoll instance: the first lives in the connections.
            let poller = self.poll.registry().as_fd().try_clone_to_owned()?;
            let clock = self.setup.clock;
            let outbox_bytes_max = self.setup.limits.outbox_bytes_per_connection_max;
            let connections = Connections::new(self.poll, outbox_bytes_max, self.setup.fair_turns);
            let mut shard =
                Shard::new(self.setup.limits, clock.now(), connections, self.inbox, core);
            shard.set_tokens(self.setup.tokens);
            if let Some(recovered) = self.recovered {
                shard.restore(recovered);
            }
            serve(shard, poller, &clock).await
        })
    }
}

/// Lets the runtime wake this task when the shard's own poller has something.
#[expect(unsafe_code, reason = "AsyncFd takes its descriptor on trust")]
fn watch(poller: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor, so it stays open and the same while it is watched.
    unsafe { AsyncFd::register_with_interest(poller, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}

async fn serve(mut shard: Shard, poller: OwnedFd, clock: &Clock) -> io::Result<()> {
    let watch = watch(poller)?;
    loop {
        match shard.turn(clock.now())? {
            NextTurn::Never => {
                if let Err(error) = shard.close() {
                    // All that was said to be kept is. What is missing are ends.
                    tracing::warn!(
                        %error,
                        "queue.path: the last acknowledgements are not written; their notifications \
                         may come again"
                    );
                }
                return Ok(());
            }
            NextTurn::AtOnce => {
                // Whoever shares the core, the router on a small machine, need not wait until the
                // kernel's time slice is over: that is 3 ms, and many turns.
                std::thread::yield_now();
                // The door's tasks on this thread have their turn too.
                tokio::task::yield_now().await;
            }
            // Only while the router has no room for reports.
            NextTurn::WhenReportsFit => tokio::time::sleep(Duration::from_millis(1)).await,
            NextTurn::OnWake(next) => {
                let timer = async {
                    match next {
                        Some(tick) => tokio::time::sleep_until(clock.instant_of(tick).into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    ready = watch.readable() => ready?.clear_ready(),
                    () = timer => {}
                }
            }
        }
    }
}
