//! Counts the notifications that arrive at the subscribers and compares them with those that were
//! sent: each must arrive exactly once, or the run fails. Knows nothing of sockets.

use std::time::{Duration, Instant};

use memchr::memmem;

/// Every benchmark payload carries `"ara_seq":"00000042"`: fixed width, so that all frames of a
/// run have one length and the bare server can count up in place.
pub(crate) const SEQ_KEY: &[u8] = b"\"ara_seq\":\"";
pub(crate) const SEQ_DIGITS: usize = 8;
/// The most notifications in a group: what a subscriber has seen of it is one bit each in a `u64`.
pub(crate) const GROUP_SIZE_MAX: u32 = 64;

/// What one subscriber has received. Which fields count depends on the current rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    base: u32,
    seen: u64,
}

/// One unicast notification that was sent and may not have arrived yet.
#[derive(Clone, Copy, Debug)]
struct Sent {
    user: u32,
    at: Instant,
    arrived: bool,
}

#[derive(Debug, Default)]
enum Rule {
    /// Every notification is expected: they are only counted.
    #[default]
    Any,
    /// Every subscriber gets each of `base..base + size` once, in any order.
    Group { base: u32, size: u32 },
    /// Sequence number n goes once to the user of `sent[n - base]`.
    Unicast { base: u32, sent: Vec<Sent> },
    /// What a subscriber gets has rising sequence numbers; it may have missed some.
    Rising,
    /// Each of the users from `first` on gets each of `base..base + size` once, in any order.
    Queued { first: u32, base: u32, size: u32, seen: Vec<bool> },
}

#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    rule: Rule,
    /// Notifications that the current rule expected.
    pub(crate) arrived: u64,
    /// Notifications it did not expect: a second copy, another group's, another user's.
    pub(crate) strays: u64,
    pub(crate) heartbeats: u64,
    /// The gateway's answers to what subscribers send for each notification: `acked`, `pong`.
    pub(crate) replies: u64,
    pub(crate) pings: u64,
    /// Subscribers that were ever connected and subscribed.
    pub(crate) ready: u64,
    /// For unicasts: the time from writing the request to reading the frame.
    pub(crate) latencies: Vec<Duration>,
    /// When subscribers were told to leave; `None` where none is to be.
    pub(crate) departures: Option<Vec<Instant>>,
    /// The first notification frame that arrived after this was set to an empty vector.
    pub(crate) capture: Option<Vec<u8>>,
}

impl Arrivals {
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
    pub(crate) fn expect_queued(&mut self, first: u32, users: u32, base: u32, size: u32) {
        self.arrived = 0;
        let seen = vec![false; users as usize * size as usize];
        self.rule = Rule::Queued { first, base, size, seen };
    }

    /// A unicast with the next sequence number is about to be written.
    pub(crate) fn sent(&mut self, user: u32) {
        if let Rule::Unicast { sent, .. } = &mut self.rule {
            sent.push(Sent { user, at: Instant::now(), arrived: false });
        }
    }

    /// Keeps a copy of the next notification frame in `capture`.
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
        Rule::Queued { first, base, size, seen } => {
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
        let (mut arrivals, mut first, mut second) =
            (Arrivals::default(), Mark::default(), Mark::default());
        arrivals.expect_group(10, 2);
        for seq in [11, 10] {
            assert!(arrivals.delivered(0, &mut first, &message(seq)));
            assert!(arrivals.delivered(1, &mut second, &message(seq)));
        }
        assert_eq!((arrivals.arrived, arrivals.strays), (4, 0));
        for stray in [10, 9, 12] {
            arrivals.delivered(0, &mut first, &message(stray));
        }
        assert_eq!((arrivals.arrived, arrivals.strays), (4, 3));
        arrivals.expect_group(12, 1);
        arrivals.delivered(0, &mut first, &message(12));
        assert_eq!((arrivals.arrived, arrivals.strays), (1, 3));
    }

    #[test]
    fn a_unicast_counts_once_and_only_for_its_user() {
        let (mut arrivals, mut mark) = (Arrivals::default(), Mark::default());
        arrivals.expect_unicasts(5);
        arrivals.sent(3);
        arrivals.delivered(4, &mut mark, &message(5));
        arrivals.delivered(3, &mut mark, &message(5));
        arrivals.delivered(3, &mut mark, &message(5));
        arrivals.delivered(3, &mut mark, &message(6));
        assert_eq!((arrivals.arrived, arrivals.strays, arrivals.latencies.len()), (1, 3, 1));
    }

    #[test]
    fn rising_numbers_may_have_gaps_but_never_repeat() {
        let (mut arrivals, mut mark) = (Arrivals::default(), Mark::default());
        arrivals.expect_rising();
        for seq in [0, 4, 4, 3, 5] {
            arrivals.delivered(0, &mut mark, &message(seq));
        }
        assert_eq!((arrivals.arrived, arrivals.strays), (3, 2));
    }

    #[test]
    fn queued_messages_count_once_at_each_of_their_users() {
        let (mut arrivals, mut mark) = (Arrivals::default(), Mark::default());
        arrivals.expect_queued(100, 2, 7, 3);
        for seq in [7, 9, 8] {
            arrivals.delivered(100, &mut mark, &message(seq));
            arrivals.delivered(101, &mut mark, &message(seq));
        }
        assert_eq!((arrivals.arrived, arrivals.strays), (6, 0));
        for (user, seq) in [(100, 7), (99, 8), (102, 8), (101, 6), (101, 10)] {
            arrivals.delivered(user, &mut mark, &message(seq));
        }
        assert_eq!((arrivals.arrived, arrivals.strays), (6, 5));
    }

    #[test]
    fn other_messages_carry_no_number() {
        assert!(!Arrivals::default().delivered(
            0,
            &mut Mark::default(),
            br#"{"type":"heartbeat"}"#
        ));
    }
}
