//! The state's part in keeping messages on disk: taking them over at start, and each turn's work.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: waits for the disk.

use std::sync::Arc;

use super::State;
use super::enqueue::End;
use super::user_queue::{DeadLetter, Standing};
use crate::base::id::Tick;
use crate::base::limits::LETTERS_PER_TURN;
use crate::store::disk::{DiskStore, Fresh, Recovered};

impl State {
    /// Takes over what an earlier run has left. Call once, before anything else.
    pub fn restore(&mut self, recovered: Recovered) {
        let Recovered { store, users, sequence, .. } = recovered;
        let placement = store.placement().clone();
        self.now = store.now();
        self.store = Some(Box::new(store));
        self.sequence = sequence;
        let mut tenant: Arc<str> = Arc::default();
        for user in users {
            if *tenant != *user.tenant {
                tenant = user.tenant.into();
            }
            let hash = placement.hash(&tenant, &user.name);
            let slot = self.directory.enter_user(&tenant, &user.name, hash);
            for message in user.waiting {
                // Tracked by an earlier run: its Ack, if one comes, is counted by this one.
                let is_tracked = self.limits.ack.is_some() && message.attempts() > 0;
                self.counters.ack_tracked += u64::from(is_tracked);
                self.put(slot, message);
            }
            for (message, until) in user.dead {
                // One that was given up before ends were noted: its time begins now.
                let (is_new, end) = (until.is_none(), self.end_of_dead_letter());
                let until = until.unwrap_or(end);
                self.keep_dead(slot, DeadLetter { message, until }, is_new);
            }
            self.directory.tidy_user(slot);
        }
    }

    /// The turn's work with the disk. Returns whether there is more to do at once.
    pub fn poll_store(&mut self, now: Tick) -> bool {
        let Self { store, directory, flights, reports, .. } = self;
        let Some(store) = store else { return false };
        let progress = store.poll(now, reports, |moved| {
            let slot = directory.find_user(moved.tenant, moved.user, moved.hash)?;
            let entry = flights.find_one(slot, moved.id, moved.sequence);
            let entry = entry.and_then(|entry| flights.get_mut(entry));
            if let Some(entry) = entry.filter(|found| found.message.place == Some(moved.from)) {
                entry.message.place = Some(moved.to);
                return Some(Standing { attempts: entry.message.attempts(), dead_until: None });
            }
            directory.queue_mut(slot)?.move_place(moved.sequence, moved.from, moved.to)
        });
        self.counters.queue_enqueued += progress.queued;
        for Fresh { slot, sequence, place } in progress.refused {
            // What was sent meanwhile is not taken back.
            let queue = self.directory.queue_mut(slot);
            let message = queue.and_then(|queue| queue.take_unsent(sequence, place));
            if let Some(message) = message {
                self.finish(&message, End::Refused);
                self.directory.tidy_user(slot);
            }
        }
        progress.more
    }

    /// Gives up what is kept on disk, to be closed. Nothing may follow.
    pub fn take_store(&mut self) -> Option<Box<DiskStore>> {
        while self.release_cleared(LETTERS_PER_TURN) {}
        self.store.take()
    }
}
