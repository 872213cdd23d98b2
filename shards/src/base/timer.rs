//! All of a shard's timers in one structure: a wheel of tenths of a second.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: one entry of 8 bytes a key of four.
//! **Never**: reads a clock; cancels: a stale entry fires and its owner ignores it.

use crate::base::id::Tick;

/// 51.2 s of slots: beyond the longest default heartbeat, so that an entry is rarely met twice.
const SLOTS: u32 = 512;

/// A hashed timing wheel. `K` says whose time it is.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Vec<Vec<Entry<K>>>,
    /// Everything due up to here has fired.
    reached: Tick,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry<K> {
    key: K,
    due: Tick,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel whose time begins at `now`.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), reached: now, len: 0 }
    }

    /// Entries waiting.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fires `key` at `due`, or at the next tick if that is past.
    pub fn arm(&mut self, key: K, due: Tick) -> Tick {
        let due = due.max(Tick(self.reached.0.saturating_add(1)));
        if let Some(slot) = self.slots.get_mut((due.0 % SLOTS) as usize) {
            slot.push(Entry { key, due });
            self.len += 1;
        }
        due
    }

    /// Moves what is due by `now` into `fired` (with its due time), in time order.
    pub fn expire(&mut self, now: Tick, fired: &mut Vec<(K, Tick)>) {
        if now <= self.reached {
            return;
        }
        // After a long pause one round over all slots sees every entry.
        let first = self.reached.0 + 1;
        let last = now.0.min(self.reached.0.saturating_add(SLOTS));
        for tick in first..=last {
            let Some(slot) = self.slots.get_mut((tick % SLOTS) as usize) else { continue };
            let before = slot.len();
            slot.retain(|entry| {
                let due = entry.due <= now;
                if due {
                    fired.push((entry.key, entry.due));
                }
                !due
            });
            self.len -= before - slot.len();
        }
        self.reached = now;
    }

    /// When to look again: the first occupied slot's time (an entry of a later round may be all
    /// it holds; then looking finds nothing, once per round).
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        if self.is_empty() {
            return None;
        }
        (1..=SLOTS).map(|ahead| Tick(self.reached.0.saturating_add(ahead))).find(|tick| {
            self.slots.get((tick.0 % SLOTS) as usize).is_some_and(|slot| !slot.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every entry fires exactly once, never early, at the first look at or after its time.
        #[test]
        fn fires_once_and_on_time(
            dues in proptest::collection::vec(0_u32..3_000, 0..60),
            steps in proptest::collection::vec(1_u32..700, 1..40),
        ) {
            let mut wheel = Wheel::new(Tick::START);
            let mut waiting: Vec<(u32, u32)> = Vec::new();
            for (index, due) in dues.iter().enumerate() {
                let key = u32::try_from(index).unwrap();
                let armed = wheel.arm(key, Tick(*due));
                waiting.push((key, armed.0));
            }
            let mut now = 0;
            for step in steps {
                now += step;
                if let Some(next) = wheel.next() {
                    prop_assert!(waiting.iter().all(|(_, due)| *due >= next.0.min(*due)));
                }
                let mut fired = Vec::new();
                wheel.expire(Tick(now), &mut fired);
                let mut fired: Vec<u32> = fired.iter().map(|(key, _)| *key).collect();
                let mut expected: Vec<u32> =
                    waiting.iter().filter(|(_, due)| *due <= now).map(|(key, _)| *key).collect();
                waiting.retain(|(_, due)| *due > now);
                fired.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(fired, expected);
                prop_assert_eq!(wheel.len(), waiting.len());
            }
        }
    }
}
