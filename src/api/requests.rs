//! The requests of one connection, each head checked by the rules of the doors before hyper sees it.
//!
//! hyper has rules of its own for a head and answers what breaks them with an empty 400. So it gets
//! only heads that keep ours, and it gets an end of the stream, at the place where a head would
//! begin, when something else is to be done with the connection: [`Requests::into_end`] says what.
//! By then hyper has answered, and written, everything before.
//!
//! **Runs on**: the router's thread. **Owns**: the reading half of one socket and at most
//! [`HEAD_BYTES_MAX`] not handed on yet. **Never**: ends in the middle of a request that came.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use tokio::io::{AsyncRead, ReadBuf};

use super::framing::Framing;
use super::watch::Watch;
use crate::listener::head::{self, BadHead, HEAD_BYTES_MAX};

/// What the buffer grows by.
const GROWTH_BYTES: usize = 4096;

/// Why there are no more requests.
#[derive(Debug)]
pub(super) enum End {
    /// The caller left, or was idle for too long.
    Closed,
    /// A head that breaks the rules.
    Bad(BadHead),
    /// A client's request, and what it sent behind it.
    Client(Box<Parts>, Box<[u8]>),
}

#[derive(Debug)]
enum Stage {
    /// A head comes next, or is not complete yet.
    Head,
    /// So much of a checked head has not been handed on yet; then its body comes.
    Checked(usize, Framing),
    /// In a body.
    Body(Framing),
    /// No more requests.
    Over(End),
}

/// Reads requests.
#[derive(Debug)]
pub(super) struct Requests<R> {
    reader: R,
    watch: Rc<Watch>,
    stage: Stage,
    /// Read and not handed on: from `start` to `end`. What lies behind is room.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: AsyncRead + Unpin> Requests<R> {
    /// `bytes` have been read of the socket already.
    pub(super) const fn new(reader: R, bytes: Vec<u8>, watch: Rc<Watch>) -> Self {
        let end = bytes.len();
        Self { reader, watch, stage: Stage::Head, buffer: bytes, start: 0, end }
    }

    /// Whether reading came to an end of its own, with everything before it answered.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// The reading half, and why it is left. Closed, if reading did not come to an end of its own.
    pub(super) fn into_end(self) -> (R, End) {
        match self.stage {
            Stage::Over(end) => (self.reader, end),
            _ => (self.reader, End::Closed),
        }
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads more behind what is there; 0 at the end of the stream.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            // A head is refused before it fills this, and a body is read into an empty buffer.
            assert!(self.end < HEAD_BYTES_MAX, "the buffer has room for the rest of a head");
            self.buffer.resize((self.end + GROWTH_BYTES).min(HEAD_BYTES_MAX), 0);
        }
        let mut room = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(&mut self.reader).poll_read(context, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// Empty lines before a request line are ignored (RFC 9112 section 2.2): they begin no head, and
    /// so no deadline. Some old clients send one behind a body. A binary PROXY protocol header, which
    /// begins with empty lines too, stays whole: its sender is told what it is.
    fn skip_empty_lines(&mut self) {
        while !head::begins_proxy_header(self.unread()) {
            self.start += match self.unread() {
                [b'\r', b'\n', ..] => 2,
                [b'\n', ..] => 1,
                _ => return,
            };
        }
    }

    /// Whether a byte of the next head is there.
    fn has_begun(&self) -> bool {
        !matches!(self.unread(), [] | [b'\r'])
    }

    /// Looks at the next head; true if there is something to do without reading.
    fn check_head(&mut self) -> bool {
        self.skip_empty_lines();
        if !self.has_begun() {
            return false;
        }
        match head::outline(self.unread()) {
            Ok(None) => {
                self.watch.head_begins();
                return false;
            }
            Ok(Some(outline)) if outline.is_client => self.stage = Stage::Over(self.client()),
            Ok(Some(outline)) => {
                self.stage = Stage::Checked(outline.end, Framing::new(outline.body));
            }
            Err(bad) => self.stage = Stage::Over(End::Bad(bad)),
        }
        self.watch.head_ends();
        true
    }

    fn client(&self) -> End {
        match head::parse(self.unread()) {
            Ok(Some((parts, end))) => {
                let behind = self.unread().get(end..).unwrap_or_default();
                End::Client(Box::new(parts), behind.into())
            }
            Ok(None) => End::Closed,
            Err(bad) => End::Bad(bad),
        }
    }

    /// Reads at a place where a head may begin.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.check_head() {
            return Poll::Ready(Ok(()));
        }
        match self.poll_fill(context) {
            // Not before the socket was looked at once more: what has come is served.
            Poll::Pending if !self.has_begun() && self.watch.ends_when_idle() => {
                self.stage = Stage::Over(End::Closed);
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => {
                self.watch.head_ends();
                self.stage = Stage::Over(End::Closed);
            }
            Poll::Ready(Ok(_count)) => self.watch.go_on(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Requests<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Over(_) => return Poll::Ready(Ok(())),
                Stage::Head => ready!(this.poll_head(context))?,
                Stage::Checked(0, framing) => {
                    let framing = std::mem::replace(framing, Framing::Broken);
                    this.stage = Stage::Body(framing);
                }
                Stage::Body(framing) if framing.is_at_end() => this.stage = Stage::Head,
                Stage::Checked(left, _framing) => {
                    let bytes = this.buffer.get(this.start..this.end).unwrap_or_default();
                    let count = (*left).min(space.remaining());
                    space.put_slice(bytes.get(..count).expect("a checked head is in the buffer"));
                    *left -= count;
                    this.start += count;
                    return Poll::Ready(Ok(()));
                }
                Stage::Body(framing) => {
                    let bytes = this.buffer.get(this.start..this.end).unwrap_or_default();
                    if bytes.is_empty() {
                        if ready!(this.poll_fill(context))? == 0 {
                            this.stage = Stage::Over(End::Closed);
                        }
                        continue;
                    }
                    let bytes = bytes.get(..space.remaining()).unwrap_or(bytes);
                    let count = framing.advance(bytes);
                    space.put_slice(bytes.get(..count).unwrap_or_default());
                    this.start += count;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
