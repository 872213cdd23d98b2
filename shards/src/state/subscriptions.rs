//! The channels of one session: by slot, with its index in each channel's list of subscribers.
//!
//! **Runs on**: a shard. **Owns**: 8 bytes a subscription, the first two in the session itself.
//! **Never**: looks through more than [`LIST_MAX`] entries, however many there are.

use std::mem;

use hashbrown::HashTable;

use super::channels::ChannelSlot;

/// A channel and the session's index in its list of subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    pub(super) channel: ChannelSlot,
    pub(super) at: u32,
}

/// So many are found by looking at each; more are found by hash.
const LIST_MAX: usize = 64;
/// What shrinks below becomes a list again: far enough from the other that few changes change it.
const LIST_AGAIN: usize = LIST_MAX / 2;

/// A session's subscriptions, in no order.
#[derive(Debug, Default)]
pub struct Subscriptions(Storage);

/// Where they are, by how many there are: most sessions have one or two.
#[derive(Debug, Default)]
enum Storage {
    #[default]
    None,
    One([Subscription; 1]),
    Two([Subscription; 2]),
    #[expect(clippy::box_collection, reason = "a session without so many pays for one pointer")]
    List(Box<Vec<Subscription>>),
    Table(Box<HashTable<Subscription>>),
}

// A million connections: as small as a list with room for two.
const _: () = assert!(size_of::<Subscriptions>() <= 24);

impl Subscriptions {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Storage::Table(table) => table.len(),
            listed => listed.entries().len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The channels.
    pub(super) fn channels(&self) -> impl Iterator<Item = ChannelSlot> {
        self.iter().map(|entry| entry.channel)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Subscription> {
        let table = match &self.0 {
            Storage::Table(table) => Some(table.iter()),
            _ => None,
        };
        self.0.entries().iter().chain(table.into_iter().flatten()).copied()
    }

    /// Whether a channel is among them.
    pub(super) fn has(&self, channel: ChannelSlot) -> bool {
        match &self.0 {
            Storage::Table(table) => table.find(channel.hash(), |e| e.channel == channel).is_some(),
            listed => listed.entries().iter().any(|entry| entry.channel == channel),
        }
    }

    /// Adds one that is not among them.
    pub(super) fn insert(&mut self, new: Subscription) {
        self.0 = match mem::take(&mut self.0) {
            Storage::None => Storage::One([new]),
            Storage::One([first]) => Storage::Two([first, new]),
            Storage::Two([first, second]) => Storage::List(Box::new(vec![first, second, new])),
            Storage::List(list) if list.len() >= LIST_MAX => {
                let mut table = HashTable::with_capacity(list.len() + 1);
                list.iter().for_each(|entry| insert_new(&mut table, *entry));
                insert_new(&mut table, new);
                Storage::Table(Box::new(table))
            }
            Storage::List(mut list) => {
                if list.len() == list.capacity() {
                    // By a quarter rather than by double: most of what is added stays.
                    list.reserve_exact((list.len() / 4).max(2));
                }
                list.push(new);
                Storage::List(list)
            }
            Storage::Table(mut table) => {
                insert_new(&mut table, new);
                Storage::Table(table)
            }
        };
    }

    /// Takes one out, if it is among them.
    pub(super) fn remove(&mut self, channel: ChannelSlot) -> Option<Subscription> {
        let is_it = |entry: &Subscription| entry.channel == channel;
        match &mut self.0 {
            Storage::Table(table) => {
                let removed = table.find_entry(channel.hash(), is_it).ok()?.remove().0;
                if table.len() <= LIST_AGAIN {
                    self.0 = Storage::List(Box::new(table.iter().copied().collect()));
                } else if table.len() < table.capacity() / 4 {
                    table.shrink_to(table.len() * 2, |entry| entry.channel.hash());
                }
                Some(removed)
            }
            Storage::List(list) => {
                let removed = list.swap_remove(list.iter().position(is_it)?);
                if let [only] = list[..] {
                    self.0 = Storage::One([only]);
                } else if list.len() < list.capacity() / 4 {
                    list.shrink_to(list.len() * 2);
                }
                Some(removed)
            }
            Storage::Two([first, second]) => {
                let (removed, kept) = match (is_it(first), is_it(second)) {
                    (true, _) => (*first, *second),
                    (_, true) => (*second, *first),
                    _ => return None,
                };
                self.0 = Storage::One([kept]);
                Some(removed)
            }
            Storage::One([only]) if is_it(only) => {
                let removed = *only;
                self.0 = Storage::None;
                Some(removed)
            }
            Storage::One(_) | Storage::None => None,
        }
    }

    /// The session has moved within a channel's list of subscribers.
    pub(super) fn set_index(&mut self, channel: ChannelSlot, at: u32) {
        let entry = match &mut self.0 {
            Storage::Table(table) => {
                table.find_mut(channel.hash(), |entry| entry.channel == channel)
            }
            listed => listed.entries_mut().iter_mut().find(|entry| entry.channel == channel),
        };
        entry.expect("who is on a channel's list is subscribed to it").at = at;
    }
}

impl Storage {
    /// Those that are not in a table.
    fn entries(&self) -> &[Subscription] {
        match self {
            Self::None | Self::Table(_) => &[],
            Self::One(one) => one,
            Self::Two(two) => two,
            Self::List(list) => list,
        }
    }

    fn entries_mut(&mut self) -> &mut [Subscription] {
        match self {
            Self::None | Self::Table(_) => &mut [],
            Self::One(one) => one,
            Self::Two(two) => two,
            Self::List(list) => list,
        }
    }
}

fn insert_new(table: &mut HashTable<Subscription>, entry: Subscription) {
    table.insert_unique(entry.channel.hash(), entry, |entry| entry.channel.hash());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes and goes, on both sides of every change of form.
        #[test]
        fn the_same_as_a_map(
            steps in prop::collection::vec((0_u32..180, 0_u32..9, any::<u32>()), 0..900),
            less in 1_u32..9,
        ) {
            let (mut subscriptions, mut model) = (Subscriptions::default(), BTreeMap::new());
            for (step, (channel, what, at)) in steps.into_iter().enumerate() {
                // First more come than go, then the other way round.
                let comes = if step < 450 { what >= less / 2 } else { what > less };
                match (comes, model.contains_key(&channel)) {
                    (true, true) => {
                        subscriptions.set_index(ChannelSlot(channel), at);
                        model.insert(channel, at);
                    }
                    (true, false) => {
                        subscriptions.insert(Subscription { channel: ChannelSlot(channel), at });
                        model.insert(channel, at);
                    }
                    (false, _) => {
                        let removed = subscriptions.remove(ChannelSlot(channel)).map(|entry| entry.at);
                        prop_assert_eq!(removed, model.remove(&channel));
                    }
                }
                prop_assert_eq!(subscriptions.has(ChannelSlot(channel)), model.contains_key(&channel));
                prop_assert_eq!(subscriptions.len(), model.len());
                prop_assert_eq!(subscriptions.is_empty(), model.is_empty());
            }
            let all: BTreeMap<u32, u32> = subscriptions.iter().map(|entry| (entry.channel.0, entry.at)).collect();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn what_was_many_gives_its_room_back() {
        let mut subscriptions = Subscriptions::default();
        (0..100_000).for_each(|channel| {
            subscriptions.insert(Subscription { channel: ChannelSlot(channel), at: 0 })
        });
        (1..100_000)
            .for_each(|channel| assert!(subscriptions.remove(ChannelSlot(channel)).is_some()));
        assert!(matches!(subscriptions.0, Storage::One(_)), "{subscriptions:?}");
    }
}
