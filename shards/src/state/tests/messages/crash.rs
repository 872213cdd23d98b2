//! The office on a real journal, and its sudden end.
//!
//! **Runs on**: a test, in virtual time; the journal's writer in real time. **Owns**: nothing: the
//! directory is the test's. **Never**: closes a journal: a killed process does not either.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ledger::{Held, Place};
use super::office::Office;
use super::script::USERS;
use super::sockets::Sockets;
use crate::base::clock::Clock;
use crate::base::id::{NotificationId, Tick, UserSlot};
use crate::base::limits::Limits;
use crate::base::placement::Placement;
use crate::journal::{Fsync, OpenError, Options};
use crate::link::doorbell::Doorbell;
use crate::notification::{Metadata, Priority, SharedMessage};
use crate::queued_message::QueuedMessage;
use crate::state::State;
use crate::store::{Store as _, UserNames, disk};

/// Where messages are kept.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    clock: Clock,
    /// Messages that a stop has left on their way, by user and sequence.
    left: BTreeSet<(usize, u64)>,
}

/// The user of messages that only make the log longer.
struct Nobody;

impl UserNames for Nobody {
    fn names(&self, _: UserSlot) -> (&str, &str) {
        ("nobody", "nobody")
    }
}

impl Office {
    pub(super) fn on_disk(limits: Limits, seed: u64, directory: &Path) -> Self {
        let mut office = Self::new(limits, seed);
        let placement = Placement::with_seeds(1, [1, 2, 3, 4]);
        office.ledger.hashes = USERS.map(|(tenant, user)| placement.hash(tenant, user));
        office.disk = Some(Disk {
            directory: directory.to_owned(),
            clock: Clock::start(),
            left: BTreeSet::new(),
        });
        office.start();
        office
    }

    /// A process begins.
    fn start(&mut self) {
        let disk = self.disk.as_ref().unwrap();
        let options = Options {
            directory: disk.directory.clone(),
            // Small, so that the log is compacted and loses segments all the time.
            segment_bytes: 4096,
            max_disk_bytes: 4 * 1024 * 1024,
            // What is written outlives a process: only a loss of power would ask for more.
            fsync: Fsync::Never,
        };
        let placement = Placement::with_seeds(1, [1, 2, 3, 4]);
        let bell = || Arc::new(Doorbell::new(|| {}));
        // What the last process had in memory is gone.
        self.state = State::new(self.limits.clone(), 0);
        self.waiting.clear();
        let (recovered, summary) = loop {
            match disk::open(&options, disk.clock, &placement, bell()) {
                // The last process is still writing.
                Err(OpenError::Locked { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        assert!(!summary.report.is_damaged());
        assert_eq!(summary.strange, 0);
        self.state.begin_turn(disk.clock.now());
        self.state.restore(recovered);
        self.state.begin_turn(self.now);
    }

    /// Messages of somebody else come and go, until what is live has been moved.
    pub(super) fn stir(&mut self) {
        let id = NotificationId([0xFF; 16]);
        let (audience, priority, expires_at) = (None, Priority::Normal, Tick::NEVER);
        let head = Metadata { id, audience, expires_at, priority };
        let message = QueuedMessage::new(SharedMessage::new(head, &[b' '; 1000]), 0);
        for _ in 0..24 {
            let store = self.state.queues.disk_store();
            let mut filler = message.clone();
            store.persist(UserSlot(u32::MAX), &Nobody, &mut filler).unwrap();
            store.end(filler.record.unwrap());
            self.settle();
        }
    }

    /// A connection is sent away because the process stops.
    pub(super) fn note_doubt(&mut self, key: u32) {
        let user = self.sockets.open[&key].owner;
        let (tenant, name) = USERS[user];
        let Some(disk) = &mut self.disk else { return };
        if self.limits.ack.is_some() {
            return;
        }
        let slot = self.state.directory.find_user(tenant, name, self.ledger.hashes[user]);
        let in_flight = self.state.queues.in_flight_messages_of(slot.unwrap());
        let sequences = in_flight.iter().map(|(message, _)| (user, message.sequence()));
        disk.left.extend(sequences);
    }

    pub(super) fn settle(&mut self) {
        while !self.state.queues.disk_store().is_settled() {
            self.state.poll_store();
            std::thread::yield_now();
        }
    }

    /// The process is killed, once what it has said is written, and another begins.
    /// Returns how many records compaction has moved in its life.
    pub(super) fn die_and_return(&mut self) -> u64 {
        while self.end_turn() {}
        self.settle();
        // What a stop has left on disk may come twice.
        let in_doubt = std::mem::take(&mut self.disk.as_mut().unwrap().left);
        let moved = self.state.queues.disk_store().moved_records();
        self.start();
        self.recent.clear();
        self.sockets = Sockets::new(self.limits.ack.is_none());
        let after = self.ledger.inspect(&self.state, &self.sockets);
        let before = std::mem::replace(&mut self.ledger.held, after);
        self.ledger.unread.clear();
        let is_requeued = self.limits.ack.is_none_or(|ack| ack.requeue);
        for (name, held) in &before {
            let Some(now) = self.ledger.held.get(name) else {
                // Never to be sent again, it was not written down.
                let may_go = self.ledger.records[name].is_now_or_never
                    || (held.place == Place::InFlight && !is_requeued);
                let has_given_way = held.place != Place::Dead && self.ledger.evicted(*name) != 0;
                assert!(may_go || has_given_way, "{name:?} is lost: {held:?}");
                continue;
            };
            let place = if held.place == Place::Dead { Place::Dead } else { Place::Waiting };
            // Without acknowledgement an attempt is noted when the message comes back.
            let unnoted = u8::from(held.place == Place::InFlight && self.limits.ack.is_none());
            let attempts = (held.attempts - unnoted)..=held.attempts;
            assert!(now.place == place && now.sequence == held.sequence, "{name:?}: {now:?}");
            assert!(attempts.contains(&now.attempts), "{name:?}: {held:?}, now {now:?}");
            let is_forgotten_at = |held: &Held| held.dead_until;
            assert_eq!(is_forgotten_at(now), is_forgotten_at(held), "{name:?}");
        }
        for (name, held) in &self.ledger.held {
            let may_come = in_doubt.contains(&(name.0, held.sequence));
            assert!(before.contains_key(name) || may_come, "{name:?} has come back to life");
        }
        self.ledger.counters = self.state.counters;
        moved
    }
}
