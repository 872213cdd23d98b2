//! The channels of a shard: their names, each kept once, and who is subscribed to each.
//!
//! **Runs on**: a shard. **Owns**: names and lists of subscribers, each in a slot.
//! **Never**: keeps a channel without subscribers; keeps room for more than four times what it has.
//!
//! Most channels have one subscriber and a short name, so a channel is 32 bytes and its name, which
//! is kept in a table of names of about its length: no allocation of its own for either. Tenants
//! find channels by name (`Tenant::channels`), sessions by slot.

use std::num::NonZeroU32;

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::base::id::ConnectionKey;
use crate::base::table::Table;

/// A channel's place in its shard's table. Meaningless on any other shard, and once the channel's
/// last subscriber has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelSlot(pub(super) u32);

impl ChannelSlot {
    /// Slots are dense; a hash table wants their highest bits to differ too.
    pub(super) const fn hash(self) -> u64 {
        spread(self.0)
    }
}

/// Why a slot is followed without a question.
const SUBSCRIBED: &str = "a channel is in its slot as long as an index or a session names it";

/// The channels, by slot.
#[derive(Debug, Default)]
pub(super) struct Channels {
    channels: Table<Channel>,
    names: Names,
    hasher: RandomState,
}

/// Slots of channels, found by their names.
pub(super) type Index = HashTable<ChannelSlot>;

#[derive(Debug)]
struct Channel {
    /// Up to four without an allocation.
    subscribers: SmallVec<[ConnectionKey; 4]>,
    /// Where its name is.
    name: Place,
    /// What its name is found by: an index that grows reads no names.
    hash: u32,
}

const _: () = assert!(Table::<Channel>::ENTRY_BYTES == 32);

impl Channels {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.channels.len()
    }

    /// The channel of this name among those of an index.
    pub(super) fn find(&self, index: &Index, name: &str) -> Option<ChannelSlot> {
        let hash = self.hash(name);
        let is_it = |channel: &ChannelSlot| {
            let channel = self.channel(*channel);
            channel.hash == hash && self.names.bytes(channel.name) == name.as_bytes()
        };
        index.find(spread(hash), is_it).copied()
    }

    /// Adds a channel, which the index has not, with its first subscriber.
    pub(super) fn insert(
        &mut self,
        index: &mut Index,
        name: &str,
        first: ConnectionKey,
    ) -> ChannelSlot {
        let hash = self.hash(name);
        let name = self.names.insert(name);
        let mut subscribers = SmallVec::new();
        subscribers.push(first);
        let channel = ChannelSlot(self.channels.insert(Channel { subscribers, name, hash }));
        index.insert_unique(spread(hash), channel, |other| spread(self.channel(*other).hash));
        channel
    }

    /// Forgets a channel.
    pub(super) fn remove(&mut self, index: &mut Index, channel: ChannelSlot) {
        let removed = self.channels.remove(channel.0).expect(SUBSCRIBED);
        let entry = index.find_entry(spread(removed.hash), |other| *other == channel);
        entry.expect("a channel is in its tenant's index").remove();
        self.names.remove(removed.name);
        if index.len() < index.capacity() / 4 {
            index.shrink_to(index.len() * 2, |other| spread(self.channel(*other).hash));
        }
    }

    pub(super) fn name(&self, channel: ChannelSlot) -> &str {
        self.names.get(self.channel(channel).name)
    }

    pub(super) fn subscribers(&self, channel: ChannelSlot) -> &[ConnectionKey] {
        &self.channel(channel).subscribers
    }

    /// Adds a subscriber; returns its index in the list.
    pub(super) fn push(&mut self, channel: ChannelSlot, subscriber: ConnectionKey) -> u32 {
        let subscribers = &mut self.channel_mut(channel).subscribers;
        subscribers.push(subscriber);
        u32::try_from(subscribers.len() - 1).expect("a key is a u32, so there are no more of them")
    }

    /// Takes the subscriber at an index off the list, and returns who is at that index now.
    pub(super) fn swap_remove(&mut self, channel: ChannelSlot, at: u32) -> Option<ConnectionKey> {
        let subscribers = &mut self.channel_mut(channel).subscribers;
        let at = at as usize;
        subscribers.swap_remove(at);
        if subscribers.spilled() && subscribers.len() < subscribers.capacity() / 4 {
            // To half, so that the next few who come or go change nothing.
            subscribers.grow(subscribers.len() * 2);
        }
        subscribers.get(at).copied()
    }

    #[cfg(test)]
    pub(super) fn is_clear(&self) -> bool {
        self.channels.is_empty() && self.names.is_clear()
    }

    fn channel(&self, slot: ChannelSlot) -> &Channel {
        self.channels.get(slot.0).expect(SUBSCRIBED)
    }

    fn channel_mut(&mut self, slot: ChannelSlot) -> &mut Channel {
        self.channels.get_mut(slot.0).expect(SUBSCRIBED)
    }

    fn hash(&self, name: &str) -> u32 {
        let [a, b, c, d, ..] = self.hasher.hash_one(name).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

/// The table wants a hash that is different in its highest and in its lowest bits.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Where a name is: the table in the highest bits, the place in it in the others, and one more
/// than that, so that a vacant channel needs no room to say that it is.
#[derive(Debug, Clone, Copy)]
struct Place(NonZeroU32);

/// Bits of a place within its table.
const PLACE_BITS: u32 = 29;

impl Place {
    fn new(table: u32, place: u32) -> Self {
        assert!(place < (1 << PLACE_BITS) - 1, "a shard has far fewer than 500 million channels");
        Self(NonZeroU32::MIN.saturating_add(table << PLACE_BITS | place))
    }

    /// The table, and the place in it.
    const fn parts(self) -> (u32, u32) {
        let both = self.0.get() - 1;
        (both >> PLACE_BITS, both & ((1 << PLACE_BITS) - 1))
    }
}

/// Channel names, in tables of entries of about their length. An entry is the length and the name.
#[derive(Debug, Default)]
struct Names {
    to_14: Table<[u8; 15]>,
    to_22: Table<[u8; 23]>,
    to_30: Table<[u8; 31]>,
    to_46: Table<[u8; 47]>,
    to_64: Table<[u8; 65]>,
}

impl Names {
    fn insert(&mut self, name: &str) -> Place {
        let (table, place) = match name.len() {
            0..=14 => (0, self.to_14.insert(entry(name))),
            15..=22 => (1, self.to_22.insert(entry(name))),
            23..=30 => (2, self.to_30.insert(entry(name))),
            31..=46 => (3, self.to_46.insert(entry(name))),
            _ => (4, self.to_64.insert(entry(name))),
        };
        Place::new(table, place)
    }

    fn get(&self, place: Place) -> &str {
        std::str::from_utf8(self.bytes(place)).expect("it was text when it was put in")
    }

    fn bytes(&self, place: Place) -> &[u8] {
        let (table, place) = place.parts();
        let entry: Option<&[u8]> = match table {
            0 => self.to_14.get(place).map(|entry| &entry[..]),
            1 => self.to_22.get(place).map(|entry| &entry[..]),
            2 => self.to_30.get(place).map(|entry| &entry[..]),
            3 => self.to_46.get(place).map(|entry| &entry[..]),
            _ => self.to_64.get(place).map(|entry| &entry[..]),
        };
        let name = entry.and_then(<[u8]>::split_first);
        let name = name.and_then(|(length, bytes)| bytes.get(..usize::from(*length)));
        name.expect("a channel has its name as long as it is there")
    }

    fn remove(&mut self, place: Place) {
        let (table, place) = place.parts();
        let was_there = match table {
            0 => self.to_14.remove(place).is_some(),
            1 => self.to_22.remove(place).is_some(),
            2 => self.to_30.remove(place).is_some(),
            3 => self.to_46.remove(place).is_some(),
            _ => self.to_64.remove(place).is_some(),
        };
        assert!(was_there, "a channel has its name as long as it is there");
    }

    #[cfg(test)]
    fn is_clear(&self) -> bool {
        self.to_14.is_empty()
            && self.to_22.is_empty()
            && self.to_30.is_empty()
            && self.to_46.is_empty()
            && self.to_64.is_empty()
    }
}

/// The length of a name, and the name.
fn entry<const N: usize>(name: &str) -> [u8; N] {
    let mut entry = [0; N];
    let length = u8::try_from(name.len()).expect("a channel name has at most 64 bytes");
    if let Some((first, rest)) = entry.split_first_mut() {
        *first = length;
        rest.get_mut(..name.len())
            .expect("its table is for its length")
            .copy_from_slice(name.as_bytes());
    }
    entry
}
