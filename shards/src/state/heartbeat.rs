//! Heartbeats and pings, who has stayed silent although it was asked, and whose token is over.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call.
//! **Never**: judges a client that was not pinged, or by time in which the shard did not run.

use std::time::Duration;

use super::session::{Contact, Session};
use super::{Outgoing, State};
use crate::base::id::{ConnectionKey, Tick};
use crate::protocol::Event;
use crate::wire::close::CloseReason;

impl State {
    /// A frame of any kind came from the client.
    pub fn handle_frame_received(&mut self, key: ConnectionKey) {
        let last_frame_at = self.running();
        if let Some(session) = self.directory.session_mut(key) {
            session.set_contact(Contact::Received(last_frame_at));
        }
    }

    /// The shard did not run for so long, in which nothing was read: no peer's time went by.
    pub const fn handle_stall(&mut self, ticks: u32) {
        self.running.lose(ticks);
    }

    /// The time of the turn in running time, by which peers are measured.
    #[must_use]
    pub const fn running(&self) -> Tick {
        self.running.of(self.now)
    }

    /// A moment of the clock in running time.
    #[must_use]
    pub const fn in_running_time(&self, at: Tick) -> Tick {
        self.running.of(at)
    }

    /// When the clock shows a moment of running time, if the shard runs until then.
    #[must_use]
    pub const fn on_clock(&self, running: Tick) -> Tick {
        self.running.on_clock(running)
    }

    /// A connection's timer fired: its token's end, heartbeat, ping, 4408, or nothing yet. Returns when to look
    /// again; `None` if the connection is gone or leaves now.
    pub fn handle_timer(&mut self, key: ConnectionKey, out: &mut impl Outgoing) -> Option<Tick> {
        let running = self.running();
        let session = self.directory.session(key)?;
        if self.now >= session.expires_at {
            self.counters.connections_expired += 1;
            self.close_connection(key, CloseReason::TOKEN_EXPIRED, out);
            return None;
        }
        if self.silent_at(session).is_some_and(|at| running >= at) {
            // A ping that waits behind other bytes has not reached the client. Whether those are
            // taken at all is for the outbox to judge.
            if out.backlog_bytes(key).is_none_or(|bytes| bytes == 0) {
                self.counters.timeouts += 1;
                self.close_connection(key, CloseReason::SILENT, out);
                return None;
            }
            self.directory.session_mut(key)?.set_contact(Contact::Pinged(running));
        }
        let session = self.directory.session(key)?;
        let is_heartbeat_due =
            !self.limits.heartbeat_interval.is_zero() && session.heartbeat_at <= running;
        let is_probe_due = self.probe_at(session).is_some_and(|at| running >= at);
        if is_heartbeat_due || is_probe_due {
            let next_heartbeat_at = is_heartbeat_due.then(|| running.after(self.heartbeat_delay()));
            let event = if is_heartbeat_due { Event::Heartbeat } else { Event::Probe };
            let taken = out.tell(key, &event);
            let session = self.directory.session_mut(key)?;
            session.heartbeat_at = next_heartbeat_at.unwrap_or(session.heartbeat_at);
            if let Contact::Received(_) = session.contact() {
                session.set_contact(Contact::Pinged(running));
            }
            if !taken {
                self.close_slow_consumer(key, out);
                return None;
            }
            self.counters.heartbeats += u64::from(is_heartbeat_due);
        }
        self.directory.session(key).map(|session| self.next_check(session))
    }

    /// The interval ± 20 %, so that connections which came together do not get theirs together.
    pub(super) fn heartbeat_delay(&mut self) -> Duration {
        self.limits.heartbeat_interval.mul_f64(0.8 + 0.4 * self.random.f64())
    }

    /// Whether clients of this kind are judged by their silence: an SSE client cannot speak.
    const fn is_judged(&self, session: &Session) -> bool {
        session.protocol.is_two_way() && !self.limits.connection_timeout.is_zero()
    }

    /// When the session counts as silent, in running time.
    fn silent_at(&self, session: &Session) -> Option<Tick> {
        match session.contact() {
            Contact::Pinged(at) if self.is_judged(session) => {
                Some(at.after(self.limits.connection_timeout))
            }
            Contact::Pinged(_) | Contact::Received(_) => None,
        }
    }

    /// When a client that has said nothing is pinged, in running time, unless a heartbeat, which
    /// has a ping with it, comes first: heartbeats may be off, or rarer than the timeout.
    fn probe_at(&self, session: &Session) -> Option<Tick> {
        match session.contact() {
            Contact::Received(at) if self.is_judged(session) => {
                Some(at.after(self.limits.connection_timeout))
            }
            Contact::Pinged(_) | Contact::Received(_) => None,
        }
    }

    pub(super) fn next_check(&self, session: &Session) -> Tick {
        let heartbeat_at = if self.limits.heartbeat_interval.is_zero() {
            Tick::NEVER
        } else {
            session.heartbeat_at
        };
        let contact_at = self.silent_at(session).or_else(|| self.probe_at(session));
        let peer_at = contact_at.map_or(heartbeat_at, |at| at.min(heartbeat_at));
        self.running.on_clock(peer_at).min(session.expires_at)
    }
}
