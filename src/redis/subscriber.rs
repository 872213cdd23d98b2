//! Keeps one subscription to Redis alive, and connects again whenever it ends.
//!
//! **Runs on**: the router, as one local task. **Owns**: the connection, the breaker, the backoff.
//! **Never**: ends, tries while the breaker is open, or takes more than a burst of messages before
//! the router's other tasks have their turn.
//!
//! For each connection: connect and subscribe within a deadline (a success for the breaker), then
//! take messages and make health checks (each a success) until something ends it (a failure).
//! Health checks are pings on the subscribed connection itself, so they test the stream that
//! carries the messages. Any bytes from the server count as alive, so a backlog does not look like
//! a dead server.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::breaker::{Breaker, BreakerState, Permit};
use super::connection::{Endpoint, Link};
use super::fault::Fault;
use super::message::Tenants;
use super::receiver::{Receiver, Sink};
use super::resp::Frame;
use super::tls::Tls;
use super::{State, Status, add_one};
use crate::settings::Redis;
use crate::templates::TemplateStore;

/// Notifications handled before other tasks have their turn: about a tenth of a millisecond of parsing.
const BURST: usize = 64;

/// The subscriber's deadlines and intervals. Tests shorten them; operators cannot set them.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The bound on resolving, connecting, TLS, authentication and subscription together.
    pub connect_deadline: Duration,
    /// The time between two health checks.
    pub health_interval: Duration,
    /// How long the server may be silent after a health check.
    pub health_deadline: Duration,
}

impl Default for Timing {
    /// A frozen server is noticed within 10 s: at worst it freezes just after an answer.
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(5),
            health_interval: Duration::from_secs(5),
            health_deadline: Duration::from_secs(5),
        }
    }
}

/// What [`run_with`] takes beyond the settings.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Deadlines and intervals.
    pub timing: Timing,
}

/// Subscribes and hands each valid trigger to `sink`, for ever. Dropping the future disconnects.
pub async fn run(
    settings: Redis,
    tenants: Tenants,
    templates: Rc<TemplateStore>,
    status: Rc<Status>,
    sink: impl Sink,
) -> Infallible {
    run_with(settings, tenants, templates, Options::default(), status, sink).await
}

/// As [`run`], with other deadlines and intervals.
pub async fn run_with(
    settings: Redis,
    tenants: Tenants,
    templates: Rc<TemplateStore>,
    options: Options,
    status: Rc<Status>,
    sink: impl Sink,
) -> Infallible {
    let receiver = Receiver::new(tenants, templates, Rc::clone(&status), sink);
    let mut subscriber = Subscriber {
        endpoint: Endpoint::parse(&settings.url),
        timing: options.timing,
        tls: Tls::new(settings.tls),
        breaker: Breaker::new(
            settings.breaker_failure_threshold,
            settings.breaker_success_threshold,
            settings.breaker_reset_timeout,
        ),
        backoff: Backoff::new(settings.backoff_initial, settings.backoff_max, fastrand::u64(..)),
        status,
        was_connected: false,
        receiver,
    };
    subscriber.show(State::Reconnecting);
    loop {
        let fault = subscriber.connect_and_receive().await;
        subscriber.wait_to_retry(&fault).await;
    }
}

struct Subscriber<S> {
    /// An unusable URL is treated like a server that cannot be reached: every attempt fails with
    /// it.
    endpoint: Result<Endpoint, String>,
    timing: Timing,
    tls: Tls,
    breaker: Breaker,
    backoff: Backoff,
    status: Rc<Status>,
    was_connected: bool,
    receiver: Receiver<S>,
}

impl<S: Sink> Subscriber<S> {
    /// Connects, subscribes and receives until something ends the connection.
    async fn connect_and_receive(&mut self) -> Fault {
        // Both use the same deadline: an error from within tells more than this timeout, so it
        // should come first.
        let deadline = tokio::time::Instant::now() + self.timing.connect_deadline;
        match timeout_at(deadline, self.connect(deadline)).await {
            Err(_elapsed) => Fault::Slow,
            Ok(Err(fault)) => fault,
            Ok(Ok(link)) => {
                self.connected();
                self.receive(link).await
            }
        }
    }

    async fn connect(&mut self, deadline: tokio::time::Instant) -> Result<Link, Fault> {
        let endpoint = self.endpoint.as_ref().map_err(|error| Fault::Url(error.clone()))?;
        let mut link = Link::open(endpoint, &mut self.tls, deadline).await?;
        let early = |frame| {
            self.receiver.take(frame);
        };
        link.subscribe(endpoint, &self.tls, early).await?;
        Ok(link)
    }

    fn connected(&mut self) {
        self.breaker.success();
        let attempts = self.status.reconnection_attempts.replace(0);
        let server = self.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
        if self.was_connected {
            add_one(&self.status.total_reconnections);
            info!(%server, attempts, "reconnected to Redis and subscribed again");
        } else {
            info!(%server, "connected to Redis and subscribed");
        }
        self.was_connected = true;
        self.show(State::Healthy);
    }

    async fn receive(&mut self, mut link: Link) -> Fault {
        let start = Instant::now();
        let mut health = HealthCheck::new(self.timing, start);
        let mut burst = 0;
        loop {
            if health.is_ping_due(Instant::now()) {
                match timeout(self.timing.health_deadline, link.ping()).await {
                    Err(_elapsed) => return Fault::Silent,
                    Ok(Err(fault)) => return fault,
                    Ok(Ok(())) => health.pinged(Instant::now()),
                }
            }
            tokio::select! {
                // Received bytes are looked at before the clock: if this thread was held up, the
                // answer may have arrived though the deadline has passed meanwhile.
                biased;
                frame = link.next() => {
                    let frame = match frame {
                        Ok(frame) => frame,
                        Err(fault) => return fault,
                    };
                    health.received(Instant::now());
                    burst += match frame {
                        // A refused ping (an ACL without it) is an answer like any other.
                        Frame::Pong | Frame::Refused(_) => {
                            self.answered(&mut health, start);
                            1
                        }
                        frame => self.receiver.take(frame),
                    };
                    if burst >= BURST {
                        burst = 0;
                        yield_now().await;
                    }
                }
                () = sleep_until(health.wake_at().into()) => {
                    if health.is_silent(Instant::now()) {
                        return Fault::Silent;
                    }
                }
            }
        }
    }

    fn answered(&mut self, health: &mut HealthCheck, start: Instant) {
        if health.answered() {
            self.breaker.success();
            self.show(State::Healthy);
            // Only a connection that lasts resets the delays. Otherwise a server that accepts and
            // then closes would be tried at the shortest delay for ever.
            if start.elapsed() >= self.timing.health_interval {
                self.backoff.reset();
            }
        }
    }

    /// Counts the failure and waits until the next attempt may be made.
    async fn wait_to_retry(&mut self, fault: &Fault) {
        if matches!(fault, Fault::Tls(_) | Fault::ClosedAtOnce(_)) {
            self.tls.forget();
        }
        let was_up = self.status.state.get() == State::Healthy;
        let now = Instant::now();
        self.breaker.failure(now);
        let mut delay = match self.breaker.permit(now) {
            Permit::Refused(remaining) => remaining,
            Permit::Granted => self.backoff.next_delay(),
        };
        self.show(match self.breaker.state() {
            BreakerState::Open => State::CircuitOpen,
            BreakerState::Closed | BreakerState::HalfOpen => State::Reconnecting,
        });
        warn!(
            reason = fault.reason(),
            error = %fault,
            failures = self.breaker.failures(),
            breaker = self.breaker.state().as_str(),
            retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "{}",
            if was_up { "lost the connection to Redis" } else { "cannot connect to Redis" },
        );
        loop {
            sleep(delay).await;
            match self.breaker.permit(Instant::now()) {
                Permit::Granted => break,
                Permit::Refused(remaining) => delay = remaining,
            }
        }
        add_one(&self.status.reconnection_attempts);
        self.show(State::Reconnecting);
    }

    fn show(&self, state: State) {
        self.status.state.set(state);
        self.status.breaker_state.set(self.breaker.state());
        self.status.breaker_failures.set(self.breaker.failures());
    }
}

/// When to ping the server, and when to count it as dead. The time is always an argument.
#[derive(Debug)]
struct HealthCheck {
    timing: Timing,
    ping_at: Instant,
    /// When the unanswered ping was sent.
    pinged_at: Option<Instant>,
    last_received: Instant,
}

impl HealthCheck {
    /// The first check is due at once: it lets a half-open breaker close without an interval's
    /// wait.
    const fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, ping_at: now, pinged_at: None, last_received: now }
    }

    fn is_ping_due(&self, now: Instant) -> bool {
        self.pinged_at.is_none() && now >= self.ping_at
    }

    fn pinged(&mut self, now: Instant) {
        self.pinged_at = Some(now);
        self.ping_at = now + self.timing.health_interval;
    }

    fn received(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Whether this answered a ping.
    fn answered(&mut self) -> bool {
        self.pinged_at.take().is_some()
    }

    fn wake_at(&self) -> Instant {
        self.pinged_at.map_or(self.ping_at, |pinged_at| {
            pinged_at.max(self.last_received) + self.timing.health_deadline
        })
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.pinged_at.is_some() && now >= self.wake_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_that_freezes_after_any_answer_is_given_up_within_ten_seconds() {
        let timing = Timing::default();
        let start = Instant::now();
        let mut health = HealthCheck::new(timing, start);
        assert!(health.is_ping_due(start));
        health.pinged(start);
        health.received(start);
        assert!(health.answered() && !health.answered());
        assert_eq!(health.wake_at(), start + 5 * SECOND);
        let pinged_at = health.wake_at();
        assert!(!health.is_silent(pinged_at) && health.is_ping_due(pinged_at));
        health.pinged(pinged_at);
        assert!(!health.is_ping_due(pinged_at + 60 * SECOND), "one ping at a time");
        assert!(!health.is_silent(pinged_at + 4 * SECOND));
        assert!(health.is_silent(start + 10 * SECOND));
    }

    #[test]
    fn a_server_that_talks_is_alive_though_its_answer_waits_behind_a_backlog() {
        let start = Instant::now();
        let mut health = HealthCheck::new(Timing::default(), start);
        health.pinged(start);
        for second in 1..60 {
            health.received(start + second * SECOND);
            assert!(!health.is_silent(start + (second + 4) * SECOND));
        }
        assert!(health.is_silent(start + 64 * SECOND));
    }
}
