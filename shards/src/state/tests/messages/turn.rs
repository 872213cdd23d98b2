//! The end of a turn, as `Shard::turn` does it: room, deadlines, replays, writes.
//!
//! **Runs on**: a test, in virtual time. **Owns**: nothing beyond the office.
//! **Never**: leaves anything waiting that could go.

use super::ledger::{Facts, Held, Place};
use super::office::Office;
use super::script::USERS;
use super::sockets::Socket;
use crate::base::id::ConnectionKey;

/// Turns in which everything there is to replay must have been replayed.
const TURNS_MAX: usize = 40;

impl Office {
    /// What `Shard::turn` does after its inputs. Returns whether a socket is empty again.
    pub(super) fn end_turn(&mut self) -> bool {
        for key in self.sockets.take_drained() {
            self.state.handle_room(ConnectionKey(key), &mut self.sockets);
        }
        self.deadlines();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "a replay gets nowhere: {:?}", self.ledger.held);
            let more = self.state.poll_replays(&mut self.sockets);
            self.account(&Facts::default());
            self.sockets.flush();
            if !more {
                break;
            }
        }
        self.state.poll_store();
        let drained = self.sockets.take_drained();
        if drained.is_empty() {
            self.expect_no_one_waits();
            return false;
        }
        for key in drained {
            self.state.handle_room(ConnectionKey(key), &mut self.sockets);
        }
        true
    }

    fn deadlines(&mut self) {
        let ack = self.limits.ack;
        let due = |held: &Held| match held.place {
            Place::InFlight => ack.map(|ack| held.sent_at.after(ack.timeout)),
            _ => None,
        };
        let first = self.ledger.held.values().filter_map(due).min();
        let next = self.state.next_deadline();
        assert!(first.is_none_or(|first| next.is_some_and(|next| next <= first)), "{next:?}");
        let overdue = self.ledger.held.values().filter_map(due).filter(|due| *due <= self.now);
        let facts = Facts { overdue: overdue.count(), ..Facts::default() };
        let more = self.state.handle_deadlines(&mut self.sockets);
        assert!(!more, "a turn's worth of messages");
        self.account(&facts);
        assert!(self.ledger.held.values().filter_map(due).all(|due| due > self.now));
        if self.now > self.reached {
            self.reached = self.now;
            for (name, held) in &self.ledger.held {
                let expires_at = self.ledger.records[name].expires_at;
                let is_fresh = match held.place {
                    Place::Waiting => expires_at > self.now,
                    Place::Dead => held.dead_until > self.now,
                    Place::InFlight => true,
                };
                assert!(is_fresh, "{name:?} waits after its time: {held:?}");
            }
        }
    }

    /// The first message that waits for anybody here waits for room: who has read all has got it, and
    /// without acknowledgement nothing is in flight that all have read.
    fn expect_no_one_waits(&self) {
        for user in 0..USERS.len() {
            let has_read_all = self.sockets.of(user).all(|(_, socket)| socket.has_read_all());
            let is_flying = self.ledger.has(user, Place::InFlight);
            assert!(self.limits.ack.is_some() || !has_read_all || !is_flying, "written, not ended");
            let waiting = self.ledger.of(user).filter(|(_, held)| held.place == Place::Waiting);
            let readers = |number| {
                let theirs = self.sockets.of(user).map(|(_, socket)| socket);
                theirs.filter(move |s| self.ledger.matches_audience((user, number), s.in_role))
            };
            let mut wanted = waiting.filter(|(number, _)| readers(*number).next().is_some());
            if let Some((number, held)) = wanted.next() {
                let is_owed =
                    readers(number).any(Socket::has_read_all) && !self.ledger.is_window_full(user);
                assert!(!is_owed, "{number} of {user} waits for nothing: {held:?}");
            }
        }
    }
}
