//! What a caller's connection is held against: idle callers, heads that do not come to their end
//! and readers that do not read.
//!
//! **Runs on**: the router's thread. **Owns**: a few cells of one connection.
//! **Never**: ends a connection itself; takes a caller for known by what it was answered.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use ara_shards::base::limits::STOP_LINGER;
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::listener::accept::HEAD_DEADLINE;

/// How long a caller's connection may stand still.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// From the first byte of a request head to its last: as at a door.
    pub(super) head: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// The same for a caller who has shown no valid key yet: nobody may hold places for nothing.
    pub(super) idle_stranger: Duration,
    /// The longest a caller may take none of what is being written to it.
    pub(super) write: Duration,
}

impl Deadlines {
    pub(super) const USUAL: Self = Self {
        head: HEAD_DEADLINE,
        idle: Duration::from_secs(60),
        idle_stranger: Duration::from_secs(10),
        write: Duration::from_secs(10),
    };
}

/// What is due when a deadline has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// No further request is waited for; what has come is answered.
    Idle,
    /// The connection is of no use any more: it is cut.
    Cut,
}

/// Ready when the gateway has been stopping for [`STOP_LINGER`].
pub(super) async fn stop_is_due(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        // The router's thread ends, and this task with it.
        std::future::pending::<()>().await;
    }
    sleep(STOP_LINGER).await;
}

/// What is known of a caller's connection.
#[derive(Debug)]
pub(super) struct Watch {
    deadlines: Deadlines,
    /// Turns true when the gateway begins to stop.
    closing: watch::Receiver<bool>,
    /// The longest the caller may take none of what is written: shorter while the gateway stops.
    write: Cell<Duration>,
    /// Requests being answered.
    under_way: Cell<usize>,
    /// When the last answer was made, or the connection came.
    idle_since: Cell<Instant>,
    /// Since when a request head has begun and is not complete.
    head_since: Cell<Option<Instant>>,
    /// Whether the API key of a request was checked and is valid.
    is_known: Cell<bool>,
    /// Since when the socket takes nothing.
    blocked_since: Cell<Option<Instant>>,
    /// Whether reading ends where a request that has not come yet would begin.
    ends_when_idle: Cell<bool>,
}

impl Watch {
    pub(super) fn new(deadlines: Deadlines, closing: watch::Receiver<bool>) -> Self {
        Self {
            closing,
            deadlines,
            write: Cell::new(deadlines.write),
            under_way: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            is_known: Cell::new(false),
            blocked_since: Cell::new(None),
            ends_when_idle: Cell::new(false),
        }
    }

    pub(super) fn begin(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    pub(super) fn end(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    /// The API key of a request was checked and is valid.
    pub(super) fn key_was_valid(&self) {
        self.is_known.set(true);
    }

    /// A head has begun.
    pub(super) fn head_begins(&self) {
        if self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// A head is complete, or will not become so.
    pub(super) fn head_ends(&self) {
        self.head_since.set(None);
    }

    /// Ready when the gateway has been stopping for so long that no body is waited for any more.
    pub(super) async fn stop_is_due(&self) {
        stop_is_due(&mut self.closing.clone()).await;
    }

    /// The gateway stops: a caller that takes nothing is waited for only that long.
    pub(super) fn wait_at_most(&self, longest: Duration) {
        self.write.set(self.write.get().min(longest));
    }

    /// Nothing more is to be read, unless it has come by now.
    pub(super) fn end_when_idle(&self) {
        self.ends_when_idle.set(true);
    }

    /// A further request came before the end that was due: the connection goes on.
    pub(super) fn go_on(&self) {
        self.ends_when_idle.set(false);
    }

    pub(super) fn ends_when_idle(&self) -> bool {
        self.ends_when_idle.get()
    }

    /// Whether nothing is being read, answered or written.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.get() == 0
            && self.head_since.get().is_none()
            && self.blocked_since.get().is_none()
    }

    /// When what becomes due. A request being answered has deadlines of its own.
    pub(super) fn next(&self) -> Option<(Instant, Due)> {
        let deadlines = &self.deadlines;
        let is_waiting = self.under_way.get() == 0;
        let blocked = self.blocked_since.get().map(|since| (since + self.write.get(), Due::Cut));
        let head = self.head_since.get().map(|since| (since + deadlines.head, Due::Cut));
        let idle_max = if self.is_known.get() { deadlines.idle } else { deadlines.idle_stranger };
        let idle = (is_waiting && head.is_none() && !self.ends_when_idle.get())
            .then(|| (self.idle_since.get() + idle_max, Due::Idle));
        [blocked, head, idle].into_iter().flatten().min_by_key(|(at, _due)| *at)
    }
}

/// A writer that notes since when it is blocked, and leaves the end of the stream to its owner:
/// the socket may go on to a shard.
#[derive(Debug)]
pub(super) struct WatchedWriter {
    pub(super) writer: OwnedWriteHalf,
    pub(super) watch: Rc<Watch>,
}

impl WatchedWriter {
    fn note<T>(&self, polled: Poll<T>) -> Poll<T> {
        let blocked = &self.watch.blocked_since;
        blocked.set(match polled {
            Poll::Ready(_) => None,
            Poll::Pending => blocked.get().or_else(|| Some(Instant::now())),
        });
        polled
    }
}

impl AsyncWrite for WatchedWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.writer).poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.writer).poll_write_vectored(context, slices);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
