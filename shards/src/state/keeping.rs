//! The state's part in keeping letters on disk: taking them over at start, and each turn's work.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: waits for the disk.

use std::sync::Arc;

use super::State;
use super::mailbox::{DeadLetter, Standing};
use super::post::End;
use crate::id::Tick;
use crate::limits::LETTERS_PER_TURN;
use crate::vault::{Fresh, Recovered, Vault};

impl State {
    /// Takes over what an earlier run has left. Call once, before anything else.
    pub fn restore(&mut self, recovered: Recovered) {
        let Recovered { vault, users, sequence, .. } = recovered;
        let placement = vault.placement().clone();
        self.now = vault.now();
        self.vault = Some(Box::new(vault));
        self.sequence = sequence;
        let mut tenant: Arc<str> = Arc::default();
        for user in users {
            if *tenant != *user.tenant {
                tenant = user.tenant.into();
            }
            let hash = placement.hash(&tenant, &user.name);
            let slot = self.directory.enter_user(&tenant, &user.name, hash);
            for letter in user.waiting {
                // Tracked by an earlier run: its Ack, if one comes, is counted by this one.
                let is_tracked = self.limits.ack.is_some() && letter.attempts() > 0;
                self.meter.ack_tracked += u64::from(is_tracked);
                self.put(slot, letter);
            }
            for (letter, until) in user.dead {
                // One that was given up before ends were noted: its time begins now.
                let (is_new, end) = (until.is_none(), self.end_of_dead_letter());
                let until = until.unwrap_or(end);
                self.keep_dead(slot, DeadLetter { letter, until }, is_new);
            }
            self.directory.tidy_user(slot);
        }
    }

    /// The turn's work with the disk. Returns whether there is more to do at once.
    pub fn poll_vault(&mut self, now: Tick) -> bool {
        let Self { vault, directory, flights, reports, .. } = self;
        let Some(vault) = vault else { return false };
        let progress = vault.poll(now, reports, |moved| {
            let slot = directory.find_user(moved.tenant, moved.user, moved.hash)?;
            let flight = flights.find_one(slot, moved.id, moved.sequence);
            let flight = flight.and_then(|flight| flights.get_mut(flight));
            if let Some(flight) = flight.filter(|found| found.letter.place == Some(moved.from)) {
                flight.letter.place = Some(moved.to);
                return Some(Standing { attempts: flight.letter.attempts(), dead_until: None });
            }
            directory.mailbox_mut(slot)?.move_place(moved.sequence, moved.from, moved.to)
        });
        self.meter.queue_enqueued += progress.queued;
        for Fresh { slot, sequence, place } in progress.refused {
            // What was sent meanwhile is not taken back.
            let mailbox = self.directory.mailbox_mut(slot);
            let letter = mailbox.and_then(|mailbox| mailbox.take_unsent(sequence, place));
            if let Some(letter) = letter {
                self.finish(&letter, End::Refused);
                self.directory.tidy_user(slot);
            }
        }
        progress.more
    }

    /// Gives up what is kept on disk, to be closed. Nothing may follow.
    pub fn take_vault(&mut self) -> Option<Box<Vault>> {
        while self.release_cleared(LETTERS_PER_TURN) {}
        self.vault.take()
    }
}
