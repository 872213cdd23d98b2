//! Counts what the subscribers receive and holds it against what was sent: exactly once for each,
//! or the run fails. Knows nothing of sockets.

use std::time::{Duration, Instant};

use memchr::memmem;

/// Every benchmark payload carries `"ara_seq":"00000042"`: fixed width, so that all frames of a
/// run have one length and the bare server can count up in place.
pub(crate) const SEQ_KEY: &[u8] = b"\"ara_seq\":\"";
pub(crate) const SEQ_DIGITS: usize = 8;
/// Of a group, so that what a subscriber has seen of it fits one word.
pub(crate) const GROUP_SIZE_MAX: u32 = 64;

/// What one subscriber has received, by the rule in force.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    base: u32,
    seen: u64,
}

/// One unicast notification under way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    user: u32,
    at: Instant,
    arrived: bool,
}

#[derive(Debug, Default)]
enum Rule {
    /// Count only.
    #[default]
    Any,
    /// Every subscriber gets each of `base..base + size` once, in any order.
    Group { base: u32, size: u32 },
    /// Sequence number n goes once to the user of `sent[n - base]`.
    Unicast { base: u32, sent: Vec<Sent> },
    /// What a subscriber gets has rising sequence numbers; it may have missed some.
    Rising,
    /// Each of the users from `first` on gets each of `base..base + size` once, in any order.
    Letters { first: u32, base: u32, size: u32, seen: Vec<bool> },
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rule: Rule,
    /// Notifications that the rule in force expected.
    pub(crate) arrived: u64,
    /// Notifications it did not: a second copy, another group's, another user's.
    pub(crate) strays: u64,
    pub(crate) heartbeats: u64,
    /// Answers to what subscribers say to a notification: `acked`, `pong`.
    pub(crate) replies: u64,
    pub(crate) pings: u64,
    /// Subscribers that reached their last stage, ever.
    pub(crate) ready: u64,
    /// From the request's writing to the frame's reading, for unicasts.
    pub(crate) latencies: Vec<Duration>,
    /// The first notification frame that arrived after this was set to an empty vector.
    pub(crate) capture: Option<Vec<u8>>,
}

impl Ledger {
    /// Expects `size` notifications numbered from `base`, once at every subscriber.
    pub(crate) fn expect_group(&mut self, base: u32, size: u32) {
        self.arrived = 0;
        self.rule = Rule::Group { base, size: size.min(GROUP_SIZE_MAX) };
    }

    pub(crate) fn expect_unicasts(&mut self, base: u32) {
        self.arrived = 0;
        self.rule = Rule::Unicast { base, sent: Vec::new() };
    }

    pub(crate) fn expect_rising(&mut self) {
        self.arrived = 0;
        self.rule = Rule::Rising;
    }

    /// Expects `size` notifications numbered from `base`, once at each of `users` from `first` on.
    pub(crate) fn expect_letters(&mut self, first: u32, users: u32, base: u32, size: u32) {
        self.arrived = 0;
        let seen = vec![false; users as usize * size as usize];
        self.rule = Rule::Letters { first, base, size, seen };
    }

    /// A unicast with the next sequence number is about to be written.
    pub(crate) fn sent(&mut self, user: u32) {
        if let Rule::Unicast { sent, .. } = &mut self.rule {
            sent.push(Sent { user, at: Instant::now(), arrived: false });
        }
    }

    /// Wants a copy of the next notification frame.
    pub(crate) fn start_capture(&mut self) {
        self.capture = Some(Vec::new());
    }

    /// A message for subscriber `user` that carries a sequence number; `false` if it carries none.
    pub(crate) fn delivered(&mut self, user: u32, mark: &mut Mark, message: &[u8]) -> bool {
        let Some(seq) = sequence(message) else { return false };
        if expected(&mut self.rule, &mut self.latencies, user, mark, seq) {
            self.arrived += 1;
        } else {
            self.strays += 1;
        }
        true
    }
}

fn expected(
    rule: &mut Rule,
    latencies: &mut Vec<Duration>,
    user: u32,
    mark: &mut Mark,
    seq: u32,
) -> bool {
    match rule {
        Rule::Any => true,
        Rule::Group { base, size } => {
            let Some(place) = seq.checked_sub(*base).filter(|place| place < size) else {
                return false;
            };
            if mark.base != *base {
                *mark = Mark { base: *base, seen: 0 };
            }
            let bit = 1u64 << place;
            let first = mark.seen & bit == 0;
            mark.seen |= bit;
            first
        }
        Rule::Unicast { base, sent } => {
            let place = seq.checked_sub(*base).and_then(|place| usize::try_from(place).ok());
            match place.and_then(|place| sent.get_mut(place)) {
                Some(entry) if entry.user == user && !entry.arrived => {
                    entry.arrived = true;
                    latencies.push(entry.at.elapsed());
                    true
                }
                _ => false,
            }
        }
        Rule::Rising => {
            let rising = seq >= mark.base;
            mark.base = mark.base.max(seq + 1);
            rising
        }
        Rule::Letters { first, base, size, seen } => {
            let place = seq.checked_sub(*base).filter(|place| place < size);
            let place = user
                .checked_sub(*first)
                .zip(place)
                .map(|(user, place)| user as usize * *size as usize + place as usize);
            let entry = place.and_then(|place| seen.get_mut(place));
            entry.is_some_and(|entry| !std::mem::replace(entry, true))
        }
    }
}

/// Where the digits of the sequence number begin.
pub(crate) fn sequence_offset(message: &[u8]) -> Option<usize> {
    memmem::find(message, SEQ_KEY).map(|at| at + SEQ_KEY.len())
}

fn sequence(message: &[u8]) -> Option<u32> {
    let at = sequence_offset(message)?;
    str::from_utf8(message.get(at..at + SEQ_DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u32) -> Vec<u8> {
        format!(r#"{{"type":"notification","payload":{{"ara_seq":"{seq:08}"}}}}"#).into_bytes()
    }

    #[test]
    fn a_group_counts_each_number_once_per_subscriber() {
        let (mut ledger, mut first, mut second) =
            (Ledger::default(), Mark::default(), Mark::default());
        ledger.expect_group(10, 2);
        for seq in [11, 10] {
            assert!(ledger.delivered(0, &mut first, &message(seq)));
            assert!(ledger.delivered(1, &mut second, &message(seq)));
        }
        assert_eq!((ledger.arrived, ledger.strays), (4, 0));
        for stray in [10, 9, 12] {
            ledger.delivered(0, &mut first, &message(stray));
        }
        assert_eq!((ledger.arrived, ledger.strays), (4, 3));
        ledger.expect_group(12, 1);
        ledger.delivered(0, &mut first, &message(12));
        assert_eq!((ledger.arrived, ledger.strays), (1, 3));
    }

    #[test]
    fn a_unicast_counts_once_and_only_for_its_user() {
        let (mut ledger, mut mark) = (Ledger::default(), Mark::default());
        ledger.expect_unicasts(5);
        ledger.sent(3);
        ledger.delivered(4, &mut mark, &message(5));
        ledger.delivered(3, &mut mark, &message(5));
        ledger.delivered(3, &mut mark, &message(5));
        ledger.delivered(3, &mut mark, &message(6));
        assert_eq!((ledger.arrived, ledger.strays, ledger.latencies.len()), (1, 3, 1));
    }

    #[test]
    fn rising_numbers_may_have_gaps_but_never_repeat() {
        let (mut ledger, mut mark) = (Ledger::default(), Mark::default());
        ledger.expect_rising();
        for seq in [0, 4, 4, 3, 5] {
            ledger.delivered(0, &mut mark, &message(seq));
        }
        assert_eq!((ledger.arrived, ledger.strays), (3, 2));
    }

    #[test]
    fn letters_count_once_at_each_of_their_users() {
        let (mut ledger, mut mark) = (Ledger::default(), Mark::default());
        ledger.expect_letters(100, 2, 7, 3);
        for seq in [7, 9, 8] {
            ledger.delivered(100, &mut mark, &message(seq));
            ledger.delivered(101, &mut mark, &message(seq));
        }
        assert_eq!((ledger.arrived, ledger.strays), (6, 0));
        for (user, seq) in [(100, 7), (99, 8), (102, 8), (101, 6), (101, 10)] {
            ledger.delivered(user, &mut mark, &message(seq));
        }
        assert_eq!((ledger.arrived, ledger.strays), (6, 5));
    }

    #[test]
    fn other_messages_carry_no_number() {
        assert!(!Ledger::default().delivered(0, &mut Mark::default(), br#"{"type":"heartbeat"}"#));
    }
}
