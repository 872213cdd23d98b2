//! Where a message begins, waits and ends.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call. **Never**: lets a
//! message go without counting how it went.

use super::{Context, Queues, Users};
use crate::base::counters::Counters;
use crate::base::id::{Tick, UserSlot};
use crate::base::limits::IN_FLIGHT_PER_USER_MAX;
use crate::notification::{Audience, Metadata};
use crate::queued_message::QueuedMessage;
use crate::store::NotPersisted;

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A client, or the API for it, has acknowledged it.
    Acknowledged,
    /// Its time was over.
    Expired,
    /// It gave way to others, was cleared, or is for nobody who came.
    Dropped,
    /// It was not acknowledged, and is not to be sent again.
    Unacknowledged,
    /// The store did not keep it after all.
    Refused,
    /// A dead letter whose time was over.
    Forgotten,
    /// Written to its reader, with acknowledgement off; or a dead letter that made room for others; or
    /// cleared. Counted when it was sent, became a dead letter, or was cleared.
    Counted,
}

/// What became of a message that nobody took at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It waits.
    Enqueued,
    /// It waits in place of a less important one.
    Replaced,
    /// It came, and left at once: all that wait are more important.
    Evicted,
    /// The store did not keep it.
    Refused,
}

impl Queues {
    /// Whether a notification to a user becomes a message. `is_taken` says whether a connection has
    /// taken it.
    pub(crate) fn wants(&self, head: &Metadata, user: &str, is_taken: bool, now: Tick) -> bool {
        if is_taken {
            return self.ack.is_some();
        }
        let may_wait = self.queue.is_some() && head.expires_at > now;
        may_wait && !is_for_others(head.audience.as_deref(), user)
    }

    /// A notification was sent to a user's connections at once, and awaits its Ack.
    pub(crate) fn track(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        message: QueuedMessage,
    ) {
        let ack = self.ack.expect("without acknowledgement nothing awaits one");
        cx.counters.ack_tracked += 1;
        if self.is_window_full(user) {
            // Without a queue there is nowhere to wait: it is delivered, and not awaited.
            cx.counters.ack_expired += 1;
            return;
        }
        let mut message = message.sent(1);
        if message.expires_at() > cx.now.clock && ack.requeue {
            // It has been delivered: a store that refuses it costs only its repetition.
            let _counted = self.persist(cx, user, &mut message);
        }
        self.insert_in_flight(cx, user, message);
    }

    /// A notification that no connection has taken waits for one.
    pub(crate) fn accept(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        mut message: QueuedMessage,
    ) -> Accepted {
        if self.persist(cx, user, &mut message).is_err() {
            self.tidy(cx.users, user);
            return Accepted::Refused;
        }
        if self.store.confirm(user, &message) {
            cx.counters.queue_enqueued += 1;
        }
        let outcome = self.enqueue(cx, user, message);
        if self.is_window_full(user) {
            // It waits until one of those in flight has ended.
            self.begin_replay(user);
        }
        outcome
    }

    /// Whether new messages must wait: the user's replay is not over, or too many are in flight.
    pub(crate) fn must_wait(&self, user: UserSlot) -> bool {
        self.can_wait()
            && (self.is_window_full(user) || self.queue(user).is_some_and(|queue| queue.replaying))
    }

    /// Whether as many messages of a user are in flight as may be.
    pub(super) fn is_window_full(&self, user: UserSlot) -> bool {
        let most = self.ack.map_or(IN_FLIGHT_PER_USER_MAX, |ack| ack.in_flight_max);
        self.in_flight_of(user).count >= most
    }

    /// Gives a message a record in the store. A refusal is counted.
    pub(super) fn persist(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        message: &mut QueuedMessage,
    ) -> Result<(), NotPersisted> {
        let outcome = self.store.persist(user, cx.users, message);
        cx.counters.queue_refused += u64::from(outcome.is_err());
        outcome
    }

    /// A message has ended: counts how, and ends its record in the store.
    pub(super) fn end(&mut self, counters: &mut Counters, message: &QueuedMessage, end: End) {
        match end {
            End::Acknowledged => counters.acked += 1,
            End::Expired => counters.queue_expired += 1,
            End::Dropped => counters.queue_dropped += 1,
            End::Unacknowledged => counters.ack_expired += 1,
            End::Refused => counters.queue_refused += 1,
            End::Forgotten => counters.dead_letters_expired += 1,
            End::Counted => {}
        }
        if let Some(record) = message.record {
            self.store.end(record);
        }
    }

    /// Puts a message among those that wait; whichever gives way for it is counted.
    pub(super) fn enqueue(
        &mut self,
        cx: &mut Context<'_, impl Users>,
        user: UserSlot,
        message: QueuedMessage,
    ) -> Accepted {
        let most = self.queue.map_or(0, |queue| queue.per_user_max);
        let (sequence, expires_at) = (message.sequence(), message.expires_at());
        let evicted = self.open_queue(user).insert(message, most);
        let mut outcome = Accepted::Enqueued;
        if let Some(evicted) = evicted {
            let is_it = evicted.sequence() == sequence;
            outcome = if is_it { Accepted::Evicted } else { Accepted::Replaced };
            self.end(cx.counters, &evicted, End::Dropped);
            // The replay may have waited for the reader of this one.
            self.schedule_replay(user);
        }
        self.arm_expiry(user, expires_at);
        outcome
    }
}

/// Whether an audience of users does not name this one.
fn is_for_others(audience: Option<&Audience>, name: &str) -> bool {
    let Some(Audience::Users(users)) = audience else { return false };
    users.binary_search_by(|user| (**user).cmp(name)).is_err()
}
