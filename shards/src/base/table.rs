//! Numbered places that are used again, in pieces that never move.
//!
//! **Runs on**: a shard. **Owns**: its entries. **Never**: copies what is in it to grow: a table of a
//! million entries that doubled would hold up a turn, and keep half of its memory empty. A piece with
//! nothing in it has no memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem;

/// Entries in one piece. Small, so that a table of which most has gone gives much of it back.
const PIECE: usize = 64;
/// The end of the list of vacant places.
const NONE: u32 = u32::MAX;

/// A table of up to 2³² − 1 entries.
#[derive(Debug)]
pub(crate) struct Table<T> {
    pieces: Vec<Piece<T>>,
    /// Pieces with room, each once. The first is filled first, so that the last ones run empty.
    roomy: BinaryHeap<Reverse<u32>>,
    len: usize,
}

#[derive(Debug)]
struct Piece<T> {
    /// Places, vacant or not. There is no memory behind it while all are vacant.
    entries: Vec<Entry<T>>,
    /// The place in this piece that was left last.
    vacant: u32,
    occupied: u32,
    /// Whether it is among those with room.
    is_listed: bool,
}

#[derive(Debug)]
enum Entry<T> {
    Occupied(T),
    /// And the next vacant place of the piece.
    Vacant(u32),
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), roomy: BinaryHeap::new(), len: 0 }
    }
}

impl<T> Table<T> {
    /// What one entry takes.
    pub(crate) const ENTRY_BYTES: usize = size_of::<Entry<T>>();

    /// How many entries there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[cfg(test)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an entry into a vacant place, or a new one. Returns its number.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let number = self.roomy.peek().map_or(self.pieces.len(), |first| first.0 as usize);
        if number == self.pieces.len() {
            self.pieces.push(Piece::default());
            self.roomy.push(Reverse(narrow(number)));
        }
        let piece = self.pieces.get_mut(number).expect("it is among those with room");
        let within = piece.insert(value);
        if piece.is_full() {
            piece.is_listed = false;
            self.roomy.pop();
        }
        self.len += 1;
        narrow(number * PIECE + within as usize)
    }

    /// The entry of a place.
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        match self.pieces.get(place as usize / PIECE)?.entries.get(place as usize % PIECE)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    /// The entry of a place.
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let piece = self.pieces.get_mut(place as usize / PIECE)?;
        match piece.entries.get_mut(place as usize % PIECE)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    /// Takes an entry out. A piece with none left is given back; of an empty table, one is kept.
    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        let number = place as usize / PIECE;
        let piece = self.pieces.get_mut(number)?;
        let value = piece.remove(narrow(place as usize % PIECE))?;
        self.len -= 1;
        if piece.occupied == 0 {
            piece.vacant = NONE;
            if self.len == 0 {
                piece.entries.clear();
            } else {
                piece.entries = Vec::new();
            }
        }
        if !piece.is_listed {
            piece.is_listed = true;
            self.roomy.push(Reverse(narrow(number)));
        }
        if self.len == 0 {
            self.pieces.truncate(1);
            self.pieces.shrink_to_fit();
            self.roomy = BinaryHeap::from([Reverse(0)]);
        }
        Some(value)
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| &piece.entries).filter_map(|entry| match entry {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        })
    }
}

impl<T> Default for Piece<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), vacant: NONE, occupied: 0, is_listed: true }
    }
}

impl<T> Piece<T> {
    const fn is_full(&self) -> bool {
        self.occupied as usize == PIECE
    }

    fn insert(&mut self, value: T) -> u32 {
        self.occupied += 1;
        let place = self.vacant;
        if let Some(entry) = self.entries.get_mut(place as usize) {
            if let Entry::Vacant(next) = mem::replace(entry, Entry::Occupied(value)) {
                self.vacant = next;
            }
            return place;
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(PIECE);
        }
        self.entries.push(Entry::Occupied(value));
        narrow(self.entries.len() - 1)
    }

    fn remove(&mut self, place: u32) -> Option<T> {
        let entry = self.entries.get_mut(place as usize)?;
        if matches!(entry, Entry::Vacant(_)) {
            return None;
        }
        let removed = mem::replace(entry, Entry::Vacant(self.vacant));
        self.vacant = place;
        self.occupied -= 1;
        match removed {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }
}

/// A place as it is given out.
fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("a shard's memory ends long before 2³² entries")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes and goes, each is found at its number, and only there.
        #[test]
        fn everything_is_at_its_number(steps in proptest::collection::vec(any::<(bool, u16)>(), 0..3_000)) {
            let mut table = Table::default();
            let mut model = BTreeMap::new();
            for (index, (comes, at)) in steps.into_iter().enumerate() {
                if comes || model.is_empty() {
                    let place = table.insert(index);
                    prop_assert!(model.insert(place, index).is_none());
                } else {
                    let place = u32::from(at) % 2_000;
                    prop_assert_eq!(table.remove(place), model.remove(&place));
                    prop_assert!(table.get(place).is_none() && table.get_mut(place).is_none());
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
            }
            prop_assert!(model.iter().all(|(place, value)| table.get(*place) == Some(value)));
            let mut all: Vec<usize> = table.iter().copied().collect();
            all.sort_unstable();
            let mut expected: Vec<usize> = model.into_values().collect();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn places_are_used_again_before_new_ones() {
        let mut table = Table::default();
        let places: Vec<u32> = (0..1_000).map(|value| table.insert(value)).collect();
        assert!(places.iter().copied().eq(0..1_000));
        assert_eq!((table.remove(600), table.remove(7)), (Some(600), Some(7)));
        assert_eq!([table.insert(0), table.insert(0), table.insert(0)], [7, 600, 1_000]);
    }

    #[test]
    fn a_piece_with_nothing_in_it_has_no_memory() {
        let mut table = Table::default();
        let places: Vec<u32> = (0..100_000).map(|value| table.insert(value)).collect();
        // One of every thousand stays.
        let go = places.iter().filter(|place| **place % 1_000 != 0);
        go.for_each(|place| assert!(table.remove(*place).is_some()));
        let room: usize = table.pieces.iter().map(|piece| piece.entries.capacity()).sum();
        assert!(room <= table.len() * PIECE, "room for {room} with {}", table.len());
        // Who comes next fills the first pieces.
        (0..100_000 - 100).for_each(|value| assert!(table.insert(value) < 100_000));
        table.insert(0);
        assert_eq!(table.pieces.len(), 100_000_usize.div_ceil(PIECE));
    }
}
