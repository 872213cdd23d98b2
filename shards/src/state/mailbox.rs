//! What one user has not taken yet: letters waiting for a connection, letters on their way, and
//! letters given up.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one user's letters.
//! **Never**: loses one without saying how: every way out is a value its caller must count.

use std::collections::VecDeque;

use crate::id::{NotificationId, Tick};
use crate::journal::Position;
use crate::notification::{Audience, Kept, Priority};

/// One notification of one user, kept until it is settled: 24 bytes and a share of what is kept.
#[derive(Debug, Clone)]
pub struct Letter {
    kept: Kept,
    /// Its place on the disk; `None` = it is in memory only.
    pub place: Option<Position>,
    /// From the top: 48 bits of sequence, 8 of priority, 8 of attempts.
    order: u64,
}

const _: () = assert!(size_of::<Letter>() == 24);

impl Letter {
    /// A letter the shard took as its `sequence`-th, not sent yet. Sequences have 48 bits.
    #[must_use]
    pub fn new(kept: Kept, sequence: u64) -> Self {
        let priority = kept.head().priority as u64;
        Self { kept, place: None, order: (sequence << 16) | (priority << 8) }
    }

    /// The same after so many attempts.
    #[must_use]
    pub const fn sent(mut self, attempts: u8) -> Self {
        self.order = (self.order & !0xFF) | attempts as u64;
        self
    }

    /// What is delivered.
    #[must_use]
    pub const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> NotificationId {
        self.kept.head().id
    }

    /// The order in which the shard accepted it.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.order >> 16
    }

    /// Who among the user's connections is meant.
    #[must_use]
    pub fn audience(&self) -> Option<&Audience> {
        self.kept.head().audience.as_deref()
    }

    /// When it stops being worth delivering.
    #[must_use]
    pub fn expires_at(&self) -> Tick {
        self.kept.head().expires_at
    }

    /// How often it has been sent.
    #[must_use]
    pub const fn attempts(&self) -> u8 {
        let [attempts, ..] = self.order.to_le_bytes();
        attempts
    }

    /// What it gives way to.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let [_, priority, ..] = self.order.to_le_bytes();
        Priority::ALL.get(usize::from(priority)).copied().unwrap_or_default()
    }
}

/// One user's letters.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Waiting, in order of acceptance.
    waiting: VecDeque<Letter>,
    /// Given up after too many attempts, oldest first. Few users have some.
    dead: Option<Box<GivenUp>>,
    /// Whether the replay is under way: new letters go behind the waiting ones.
    pub(super) replaying: bool,
    /// Whether it is among the shard's replays, rather than waiting for room.
    pub(super) listed: bool,
    /// When the expiry timer is set to.
    pub(super) timer_at: Option<Tick>,
}

#[derive(Debug, Default)]
struct GivenUp(VecDeque<Letter>);

impl Mailbox {
    /// Whether nothing at all is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.dead.is_none()
    }

    /// Letters waiting.
    #[must_use]
    pub fn waiting(&self) -> &VecDeque<Letter> {
        &self.waiting
    }

    /// Letters given up.
    pub fn dead(&self) -> impl Iterator<Item = &Letter> {
        self.dead.iter().flat_map(|dead| &dead.0)
    }

    /// Puts a letter where its sequence belongs; a new one at the end, a returned one at the front.
    /// If the queue would hold more than `most` (0 = no bound), the least important letter leaves,
    /// the oldest among equals; it is returned, and may be the one that came.
    pub fn put(&mut self, letter: Letter, most: usize) -> Option<Letter> {
        let waiting = &mut self.waiting;
        if waiting.len() == waiting.capacity() {
            // By an eighth: doubling would leave a quarter of all queues' memory empty.
            waiting.reserve_exact((waiting.len() / 8).max(2));
        }
        if waiting.back().is_none_or(|last| last.sequence() < letter.sequence()) {
            waiting.push_back(letter);
        } else {
            let place = waiting.partition_point(|other| other.sequence() < letter.sequence());
            waiting.insert(place, letter);
        }
        if most == 0 || waiting.len() <= most {
            return None;
        }
        // The first of the lowest: `min_by_key` keeps the first of equals.
        let victims = waiting.iter().enumerate();
        let (place, _) = victims.min_by_key(|(_, letter)| letter.priority())?;
        waiting.remove(place)
    }

    /// The next letter to send, skipping (and handing to `lost`) those whose time is over.
    pub fn next(&mut self, now: Tick, mut lost: impl FnMut(Letter)) -> Option<Letter> {
        while let Some(letter) = self.waiting.pop_front() {
            if letter.expires_at() > now {
                return Some(letter);
            }
            lost(letter);
        }
        None
    }

    /// Takes out every letter whose time is over.
    pub fn expire(&mut self, now: Tick, mut lost: impl FnMut(Letter)) {
        let mut index = 0;
        while let Some(letter) = self.waiting.get(index) {
            if letter.expires_at() > now {
                index += 1;
            } else if let Some(letter) = self.waiting.remove(index) {
                lost(letter);
            }
        }
    }

    /// When the first waiting letter's time is over.
    #[must_use]
    pub fn first_expiry(&self) -> Option<Tick> {
        self.waiting.iter().map(Letter::expires_at).min()
    }

    /// Gives a letter up. Beyond `most` the oldest given up before is returned and gone for good.
    pub fn bury(&mut self, letter: Letter, most: usize) -> Option<Letter> {
        let GivenUp(dead) = &mut **self.dead.get_or_insert_default();
        dead.push_back(letter);
        if dead.len() > most { dead.pop_front() } else { None }
    }

    /// Takes all waiting letters out.
    pub fn take_waiting(&mut self) -> VecDeque<Letter> {
        std::mem::take(&mut self.waiting)
    }

    /// Takes all given-up letters out.
    pub fn take_dead(&mut self) -> VecDeque<Letter> {
        self.dead.take().map(|dead| dead.0).unwrap_or_default()
    }

    /// Takes out one waiting letter, if it has been sent before.
    pub fn take_sent(&mut self, id: NotificationId) -> Option<Letter> {
        let is_it = |letter: &Letter| letter.id() == id && letter.attempts() > 0;
        let place = self.waiting.iter().position(is_it)?;
        self.waiting.remove(place)
    }

    /// The letter accepted as the `sequence`-th, and whether it is given up.
    pub(super) fn find_mut(&mut self, sequence: u64) -> Option<(&mut Letter, bool)> {
        match self.waiting.binary_search_by_key(&sequence, Letter::sequence) {
            Ok(place) => self.waiting.get_mut(place).map(|letter| (letter, false)),
            Err(_) => {
                let mut dead = self.dead.iter_mut().flat_map(|dead| &mut dead.0);
                let letter = dead.find(|letter| letter.sequence() == sequence);
                letter.map(|letter| (letter, true))
            }
        }
    }

    /// Takes out the waiting letters that have been seen.
    pub(super) fn take_seen(&mut self, is_seen: impl Fn(&Letter) -> bool) -> Vec<Letter> {
        let mut seen = Vec::new();
        self.waiting.retain(|letter| {
            let is_seen = is_seen(letter);
            if is_seen {
                seen.push(letter.clone());
            }
            !is_seen
        });
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Head;
    use proptest::prelude::*;

    fn letter(sequence: u64, priority: Priority, expires_at: u32) -> Letter {
        let id = NotificationId(u128::from(sequence).to_be_bytes());
        let head = Head { id, audience: None, expires_at: Tick(expires_at), priority };
        Letter::new(Kept::new(head, b"{}"), sequence)
    }

    proptest! {
        /// Nothing vanishes; a letter never gives way to a less important one; order is kept.
        #[test]
        fn a_full_queue_gives_up_the_least_important_oldest(
            priorities in proptest::collection::vec(0_usize..4, 1..60),
            most in 1_usize..12,
        ) {
            let mut mailbox = Mailbox::default();
            let mut left = Vec::new();
            for (sequence, priority) in priorities.iter().enumerate() {
                let letter = letter(sequence as u64, Priority::ALL[*priority], u32::MAX);
                if let Some(loser) = mailbox.put(letter, most) {
                    for kept in mailbox.waiting() {
                        prop_assert!(kept.priority() >= loser.priority());
                        let is_equal = kept.priority() == loser.priority();
                        prop_assert!(!is_equal || kept.sequence() > loser.sequence());
                    }
                    left.push(loser.sequence());
                }
                prop_assert!(mailbox.waiting().len() <= most);
            }
            let mut kept: Vec<u64> = mailbox.waiting().iter().map(Letter::sequence).collect();
            prop_assert!(kept.is_sorted());
            kept.extend(left);
            kept.sort_unstable();
            let all: Vec<u64> = (0..priorities.len() as u64).collect();
            prop_assert_eq!(kept, all);
        }

        /// What was taken out for sending and comes back is sent again before what came later.
        #[test]
        fn returned_letters_come_first_again(count in 1_u64..30, sent in 0_usize..30) {
            let mut mailbox = Mailbox::default();
            for sequence in 0..count {
                mailbox.put(letter(sequence, Priority::Normal, u32::MAX), 0);
            }
            let mut away = Vec::new();
            for _ in 0..sent {
                away.extend(mailbox.next(Tick(0), |_| panic!("nothing expires")));
            }
            mailbox.put(letter(count, Priority::Normal, u32::MAX), 0);
            for letter in away.into_iter().rev() {
                mailbox.put(letter, 0);
            }
            let order: Vec<u64> = mailbox.waiting().iter().map(Letter::sequence).collect();
            prop_assert_eq!(order, (0..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn expired_letters_are_handed_out_as_lost_and_never_sent() {
        let mut mailbox = Mailbox::default();
        for (sequence, expiry) in [(0, 5), (1, 50), (2, 5)] {
            mailbox.put(letter(sequence, Priority::Normal, expiry), 0);
        }
        assert_eq!(mailbox.first_expiry(), Some(Tick(5)));
        let mut lost = Vec::new();
        assert_eq!(mailbox.next(Tick(5), |l| lost.push(l.sequence())).unwrap().sequence(), 1);
        assert_eq!(lost, [0]);
        mailbox.expire(Tick(5), |l| lost.push(l.sequence()));
        assert_eq!(lost, [0, 2]);
        assert!(mailbox.is_empty());
    }
}
