//! The state's part in keeping letters on disk: taking them over at start, and each turn's work.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: waits for the disk.

use std::sync::Arc;

use super::State;
use crate::id::Tick;
use crate::vault::{Found, Recovered, Vault};

impl State {
    /// Takes over what an earlier run has left. Call once, before anything else.
    pub fn restore(&mut self, recovered: Recovered) {
        let Recovered { vault, users, sequence, .. } = recovered;
        let placement = vault.placement().clone();
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
                self.put(slot, letter);
            }
            if let Some(mailbox) = self.directory.open_mailbox(slot) {
                for letter in user.dead {
                    mailbox.bury(letter, usize::MAX);
                }
            }
            self.directory.tidy_user(slot);
        }
    }

    /// The turn's work with the disk. Returns whether there is more to do at once.
    pub fn poll_vault(&mut self, now: Tick) -> bool {
        let Self { vault, directory, flights, reports, .. } = self;
        let Some(vault) = vault else { return false };
        vault.poll(now, reports, |moved| {
            let slot = directory.find_user(moved.tenant, moved.user, moved.hash)?;
            let flight = flights.find_place(directory.flights(slot), moved.from);
            if let Some(flight) = flight.and_then(|flight| flights.get_mut(flight)) {
                flight.letter.place = Some(moved.to);
                return Some(Found { slot, letter: Some((flight.letter.attempts(), false)) });
            }
            let letter = directory
                .mailbox_mut(slot)
                .and_then(|mailbox| mailbox.find_mut(moved.sequence))
                .filter(|(letter, _)| letter.place == Some(moved.from));
            let letter = letter.map(|(letter, is_dead)| {
                letter.place = Some(moved.to);
                (letter.attempts(), is_dead)
            });
            Some(Found { slot, letter })
        })
    }

    /// Gives up what is kept on disk, to be closed. Nothing may follow.
    pub fn take_vault(&mut self) -> Option<Box<Vault>> {
        self.vault.take()
    }
}
