//! How often a client may send a message.
//!
//! **Runs on**: its shard. **Owns**: a budget for each client that has sent one, while there is a limit.
//! **Never**: makes an Ack that settles something cost anything: there are no more of those than
//! notifications, and a client that returns to a long queue acknowledges all of it.

use super::{Outgoing, State};
use crate::base::id::{ConnectionKey, Tick};
use crate::base::limits::MESSAGES_REFUSED_MAX;
use crate::base::side_table::SideTable;
use crate::base::token_bucket::{Rate, TokenBucket};
use crate::protocol::ErrorCode;
use crate::wire::close::CloseReason;

/// What clients have left.
#[derive(Debug, Default)]
pub(super) struct MessageBudgets(SideTable<Budget>);

#[derive(Debug, Default)]
struct Budget {
    bucket: TokenBucket,
    /// Messages refused since the bucket was full.
    refused: u32,
}

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Refused,
    /// The client does not stop.
    Abuse,
}

impl MessageBudgets {
    /// Forgets a client.
    pub(super) fn remove(&mut self, key: ConnectionKey) {
        self.0.remove(key.0);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0 = SideTable::default();
    }

    fn take(&mut self, key: ConnectionKey, rate: Rate, now: Tick) -> Verdict {
        let now_ns = now.as_millis() * 1_000_000;
        let budget = self.0.get_or_insert(key.0, Budget::default);
        if budget.bucket.is_full(now_ns) {
            budget.refused = 0;
        }
        if budget.bucket.take(rate, now_ns) {
            return Verdict::Allowed;
        }
        budget.refused += 1;
        if budget.refused < MESSAGES_REFUSED_MAX { Verdict::Refused } else { Verdict::Abuse }
    }
}

impl State {
    /// Whether a client's message or ping is looked at: not if it sends more often than it may, which it is
    /// told, and sent away for if it goes on.
    pub fn admit_message(&mut self, key: ConnectionKey, out: &mut impl Outgoing) -> bool {
        let Some(rate) = self.limits.messages else { return true };
        if self.directory.session(key).is_none() {
            return false;
        }
        match self.message_budgets.take(key, rate, self.now) {
            Verdict::Allowed => {
                self.counters.messages_allowed += 1;
                return true;
            }
            Verdict::Refused => {
                self.counters.messages_denied += 1;
                let sentence =
                    "you send more messages than you may: wait a second, and go on slower";
                self.refuse(key, ErrorCode::RateLimited, sentence, out);
            }
            Verdict::Abuse => {
                self.counters.messages_denied += 1;
                self.counters.rate_abuses += 1;
                self.close_connection(key, CloseReason::RATE_LIMITED, out);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ANN: ConnectionKey = ConnectionKey(1);
    const BEN: ConnectionKey = ConnectionKey(2);

    #[test]
    fn who_goes_on_is_sent_away_and_who_pauses_is_not() {
        let rate = Rate::new(10, Duration::from_secs(1), 10);
        let mut budgets = MessageBudgets::default();
        let mut now = Tick::START;
        // Twice as fast as it may, with a pause now and then.
        for _ in 0..20 {
            for message in 0..MESSAGES_REFUSED_MAX {
                let expected = if message < 10 { Verdict::Allowed } else { Verdict::Refused };
                assert_eq!(budgets.take(ANN, rate, now), expected, "message {message}");
            }
            now = now.after(Duration::from_secs(1));
        }
        let verdicts: Vec<_> =
            (0..10 + MESSAGES_REFUSED_MAX).map(|_| budgets.take(ANN, rate, now)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Allowed).count(), 10);
        assert_eq!(verdicts.last(), Some(&Verdict::Abuse));
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Abuse).count(), 1);
        assert_eq!(budgets.take(BEN, rate, now), Verdict::Allowed, "each has a budget of its own");
        budgets.remove(ANN);
        assert_eq!(budgets.take(ANN, rate, now), Verdict::Allowed, "another client with its key");
    }

    /// Without a pause long enough to fill the bucket it does not matter how slowly they come.
    #[test]
    fn refusals_add_up_until_the_bucket_is_full() {
        let rate = Rate::new(10, Duration::from_secs(1), 10);
        let mut budgets = MessageBudgets::default();
        let (mut now, mut messages) = (Tick::START, 0);
        while budgets.take(ANN, rate, now) != Verdict::Abuse {
            messages += 1;
            // Two in each tenth of a second, where one is allowed.
            if messages % 2 == 0 {
                now = now.after(Duration::from_millis(100));
            }
        }
        assert!((200..=220).contains(&messages), "{messages}");
    }
}
