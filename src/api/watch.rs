//! What a caller's connection is held against: idle strangers and readers that do not read.
//!
//! **Runs on**: the router's thread. **Owns**: a few cells of one connection.
//! **Never**: ends a connection itself.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

use super::Reply;

/// The same for a caller who has shown no valid key yet: nobody may hold places for nothing.
const STRANGER_IDLE_DEADLINE: Duration = Duration::from_secs(10);
/// The longest a caller may take none of what is being written to it.
pub(super) const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// What is known of a caller's connection.
#[derive(Debug)]
pub(super) struct Watch {
    /// Requests being answered.
    under_way: Cell<usize>,
    /// When the last answer was made, or the connection came.
    idle_since: Cell<Instant>,
    /// Whether a request with a valid key has come.
    is_known: Cell<bool>,
    /// Since when the socket takes nothing.
    blocked_since: Cell<Option<Instant>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            under_way: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            is_known: Cell::new(false),
            blocked_since: Cell::new(None),
        }
    }
}

impl Watch {
    pub(super) fn begin(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    pub(super) fn end(&self, reply: &Reply, has_key: bool) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
        if has_key && reply.status() != StatusCode::UNAUTHORIZED {
            self.is_known.set(true);
        }
    }

    /// Whether the caller has taken nothing of its answer for longer than that.
    pub(super) fn is_stuck(&self, longest: Duration) -> bool {
        self.blocked_since.get().is_some_and(|since| since.elapsed() > longest)
    }

    /// Whether the caller is owed nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.get() == 0 && self.blocked_since.get().is_none()
    }

    /// Whether a caller who has shown no valid key keeps its place for nothing.
    pub(super) fn is_idle_stranger(&self) -> bool {
        !self.is_known.get()
            && self.under_way.get() == 0
            && self.idle_since.get().elapsed() > STRANGER_IDLE_DEADLINE
    }
}

/// A writer that notes since when it is blocked.
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
