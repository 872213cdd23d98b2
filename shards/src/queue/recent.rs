//! The last deliveries the shard has taken: where in its order each stood.
//!
//! **Runs on**: a shard. **Owns**: a ring of so many entries. **Never**: keeps content: history is
//! not its business.
//!
//! A client that comes back names what it has seen last, which need not be a message of its user:
//! it may have been a broadcast, or acknowledged before.

use std::collections::VecDeque;

use crate::base::id::NotificationId;
use crate::base::limits::RECENT_DELIVERIES;
use crate::notification::{Metadata, Priority};

/// The ring, newest last.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(NotificationId, u64, Priority)>);

impl Recent {
    pub(super) fn push(&mut self, head: &Metadata, sequence: u64) {
        if self.0.len() == RECENT_DELIVERIES {
            self.0.pop_front();
        }
        self.0.push_back((head.id, sequence, head.priority));
    }

    /// The sequence and priority of a delivery, if it is still known.
    pub(super) fn find(&self, id: NotificationId) -> Option<(u64, Priority)> {
        let mut newest_first = self.0.iter().rev();
        newest_first.find(|entry| entry.0 == id).map(|entry| (entry.1, entry.2))
    }
}
