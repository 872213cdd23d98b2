//! One caller's connection, from its first request to whatever it ends with.
//!
//! **Runs on**: the router's thread, as a local task. **Owns**: one socket. **Never**: keeps a
//! client: for `GET /ws` and `GET /sse` it hands the socket back, after the answers before them;
//! ends with a request that came and is not answered.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ara_shards::base::limits::STOP_LINGER;
use ara_shards::base::socket::AsyncSocket;
use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::join;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::HttpResponse;
use super::requests::{End, Requests};
use super::watch::{Deadlines, Due, Watch, WatchedWriter};

/// The most bytes hyper buffers of one caller.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How a caller's connection ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// There is nothing more to say, and nobody to say it to.
    Cut,
    /// The last answer may still be on its way to a caller that is sending.
    Answered(AsyncSocket),
    /// As its requests ended; all before is answered.
    Requests(AsyncSocket, End),
}

/// Serves one connection, of which `bytes` have been read already. Each request is answered by
/// `answer`; no further one is waited for once `closing` is true.
pub(super) async fn converse<A>(
    socket: AsyncSocket,
    bytes: Vec<u8>,
    deadlines: Deadlines,
    mut closing: watch::Receiver<bool>,
    answer: A,
) -> Ending
where
    A: AsyncFn(Parts, Incoming, &Watch) -> HttpResponse,
{
    let (reader, writer, peer) = socket.into_split();
    let watch = Rc::new(Watch::new(deadlines, closing.clone()));
    let requests = Requests::new(reader, bytes, Rc::clone(&watch));
    let io = TokioIo::new(join(requests, WatchedWriter { writer, watch: Rc::clone(&watch) }));
    let service = service_fn(|request: http::Request<Incoming>| {
        let (answer, watch) = (&answer, &watch);
        async move {
            let (parts, body) = request.into_parts();
            watch.begin();
            let reply = answer(parts, body, watch).await;
            watch.end();
            Ok::<_, Infallible>(reply)
        }
    });
    // The deadlines are the watch's, and a caller may close its sending side and wait for answers.
    // Who comes while the gateway stops is answered once: a health check, a refusal.
    let is_late = *closing.borrow();
    let mut connection = http1::Builder::new()
        .keep_alive(!is_late)
        .header_read_timeout(None)
        .half_close(true)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(io, service);
    let mut closed = pin!(closing.wait_for(|closing| *closing));
    let mut was_closed = is_late;
    let mut was_idle = false;
    if is_late {
        watch.wait_at_most(STOP_LINGER);
    }
    let mut timer = pin!(sleep_until(Instant::now() + deadlines.idle_stranger));
    loop {
        tokio::select! {
            biased;
            // Broken or misused connections are the caller's affair.
            _ended = &mut connection => break,
            _closing = &mut closed, if !was_closed => {
                was_closed = true;
                was_idle = watch.is_idle();
                watch.wait_at_most(STOP_LINGER);
                Pin::new(&mut connection).graceful_shutdown();
            }
            due = poll_fn(|context| poll_due(&watch, timer.as_mut(), context)) => match due {
                Due::Cut => return Ending::Cut,
                // Looked at when the connection is polled next, which is at once.
                Due::Idle => watch.end_when_idle(),
            }
        }
    }
    let (requests, writer) = connection.into_parts().io.into_inner().into_inner();
    let is_over = requests.is_over();
    let (reader, end) = requests.into_end();
    let socket = AsyncSocket::reunite(reader, writer.writer, peer);
    if is_over || was_idle { Ending::Requests(socket, end) } else { Ending::Answered(socket) }
}

/// Ready when a deadline has come. What changes one wakes this task anyway, so the timer is only
/// touched when it would be late.
fn poll_due(watch: &Watch, mut timer: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<Due> {
    loop {
        let Some((at, due)) = watch.next() else { return Poll::Pending };
        if at < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(context));
        if at <= Instant::now() {
            return Poll::Ready(due);
        }
    }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
