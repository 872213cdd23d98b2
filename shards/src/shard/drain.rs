//! A graceful stop: clients are told to leave, some in each turn, and what is left is cut at the end.
//!
//! **Runs on**: its worker's thread. **Owns**: which clients have not been told yet, and until when
//! all have to be gone. **Never**: waits; closes more in one turn than one fan-out writes.

use std::collections::VecDeque;

use super::Shard;
use crate::base::id::{ConnectionKey, Tick};
use crate::base::limits::{CONNECTIONS_PER_PAGE, GOODBYES_PER_TURN, STOP_LINGER};
use crate::link::message::{Drain, Report};

/// A drain under way. Its times are in running time.
pub(super) struct Draining {
    /// Connections that have not been told yet.
    untold: VecDeque<ConnectionKey>,
    order: Drain,
    began_at: Tick,
    grace_ends_at: Tick,
    is_reported: bool,
}

impl Draining {
    /// Whether there is someone to tell, or the end to report.
    fn is_busy(&self, open: usize) -> bool {
        !self.untold.is_empty() || (open == 0 && !self.is_reported)
    }
}

impl Shard {
    pub(super) fn begin_drain(&mut self, order: Drain) {
        let began_at = self.state.running();
        self.draining = Some(Draining {
            untold: self.connections.keys().into(),
            order,
            began_at,
            grace_ends_at: began_at.after(order.grace),
            is_reported: false,
        });
    }

    /// Tells up to `count` clients to leave, in the order of their keys, and goes on where it ended. How
    /// many it has told; what one turn does is bounded.
    pub(super) fn send_away(&mut self, count: usize, order: Drain) -> usize {
        let bound = self.state.key_bound();
        let mut told = 0;
        for _ in 0..bound.min(CONNECTIONS_PER_PAGE) {
            if told == count.min(GOODBYES_PER_TURN) {
                break;
            }
            if self.send_away_from >= bound {
                self.send_away_from = 0;
            }
            let key = ConnectionKey::from_index(self.send_away_from);
            self.send_away_from += 1;
            if let Some(key) = key.filter(|key| self.connections.is_open(*key)) {
                self.state.send_away(key, order, &mut self.connections);
                told += 1;
            }
        }
        told
    }

    /// Tells the next few clients to leave, and cuts the rest when the grace is over.
    pub(super) fn continue_drain(&mut self) {
        let Some(mut draining) = self.draining.take() else { return };
        for _ in 0..GOODBYES_PER_TURN {
            let Some(key) = draining.untold.pop_front() else { break };
            if self.connections.is_open(key) {
                self.state.close_for_shutdown(key, draining.order, &mut self.connections);
            } else if self.connections.contains(key) {
                // It was leaving by itself: from now on it has no more time than the others.
                let grace_ends_at = self.state.on_clock(draining.grace_ends_at);
                self.arm(key, self.state.now().after(STOP_LINGER).min(grace_ends_at));
            }
        }
        if self.state.running() >= draining.grace_ends_at {
            for key in self.connections.keys() {
                self.remove_connection(key);
            }
        }
        self.draining = Some(draining);
    }

    /// Reports once that the last client has left.
    pub(super) fn report_drained(&mut self) {
        if let Some(draining) = &mut self.draining
            && !draining.is_reported
            && self.connections.len() == 0
        {
            draining.is_reported = true;
            self.state.push_report(Report::Drained);
        }
    }

    /// Whether the drain goes on in the next turn, at once.
    pub(super) fn is_drain_busy(&self) -> bool {
        let open = self.connections.len();
        self.draining.as_ref().is_some_and(|draining| draining.is_busy(open))
    }

    /// When the grace ends of those who are still there.
    pub(super) fn grace_ends_at(&self) -> Option<Tick> {
        let draining = self.draining.as_ref().filter(|draining| !draining.is_reported)?;
        Some(self.state.on_clock(draining.grace_ends_at))
    }

    /// How long a closing connection has, on a stop: while its client takes what it is owed, up to
    /// the end of the grace; then a moment to answer and go.
    pub(super) fn linger_until(&self, key: ConnectionKey) -> Option<Tick> {
        let draining = self.draining.as_ref()?;
        let moved_at = self.connections.moved_at(key);
        let until = moved_at.max(draining.began_at).after(STOP_LINGER).min(draining.grace_ends_at);
        Some(self.state.on_clock(until))
    }
}
