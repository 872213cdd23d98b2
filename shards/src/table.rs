//! Numbered places that are used again, in pieces that never move.
//!
//! **Runs on**: a shard. **Owns**: its entries. **Never**: copies what is in it to grow: a table of a
//! million entries that doubled would hold up a turn, and keep half of its memory empty.

use std::mem;

/// Entries in one piece.
const PIECE: usize = 512;
/// The end of the list of vacant places.
const NONE: u32 = u32::MAX;

/// A table of up to 2³² − 1 entries.
#[derive(Debug)]
pub(crate) struct Table<T> {
    /// All but the last are full of places, vacant or not.
    pieces: Vec<Vec<Entry<T>>>,
    vacant: u32,
    len: usize,
}

#[derive(Debug)]
enum Entry<T> {
    Occupied(T),
    /// And the next vacant place.
    Vacant(u32),
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), vacant: NONE, len: 0 }
    }
}

impl<T> Table<T> {
    /// How many entries there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an entry into the place that was left last, or a new one. Returns its number.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        let place = self.vacant;
        if let Some(entry) = self.entry_mut(place) {
            if let Entry::Vacant(next) = mem::replace(entry, Entry::Occupied(value)) {
                self.vacant = next;
            }
            return place;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let before = (self.pieces.len() - 1) * PIECE;
        let Some(piece) = self.pieces.last_mut() else { return NONE };
        piece.push(Entry::Occupied(value));
        u32::try_from(before + piece.len() - 1).unwrap_or(NONE)
    }

    /// The entry of a place.
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        match self.pieces.get(place as usize / PIECE)?.get(place as usize % PIECE)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    /// The entry of a place.
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        match self.entry_mut(place)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        }
    }

    /// Takes an entry out. An empty table gives all its pieces back but one.
    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        let vacant = self.vacant;
        let entry = self.entry_mut(place)?;
        if matches!(entry, Entry::Vacant(_)) {
            return None;
        }
        let Entry::Occupied(value) = mem::replace(entry, Entry::Vacant(vacant)) else {
            return None;
        };
        self.vacant = place;
        self.len -= 1;
        if self.len == 0 {
            self.vacant = NONE;
            self.pieces.truncate(1);
            self.pieces.iter_mut().for_each(Vec::clear);
        }
        Some(value)
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten().filter_map(|entry| match entry {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => None,
        })
    }

    fn entry_mut(&mut self, place: u32) -> Option<&mut Entry<T>> {
        self.pieces.get_mut(place as usize / PIECE)?.get_mut(place as usize % PIECE)
    }
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
}
