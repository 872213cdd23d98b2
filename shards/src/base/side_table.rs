//! A value for some of the places of a [`Table`](super::table::Table), found by the same number.
//!
//! **Runs on**: a shard. **Owns**: the values. **Never**: moves a value; has memory where no place
//! of a whole piece has one.
//!
//! Finding is an index, not a search: a user's messages are looked for with every delivery to it. A
//! hash table would cost no less for each value, and hold up a turn when a large one grows.

/// Places in one piece.
const PIECE: usize = 64;

/// The values.
#[derive(Debug)]
pub(crate) struct SideTable<T> {
    pieces: Vec<Option<Box<Piece<T>>>>,
    /// A piece that ran empty, for the next one needed: where one value comes and goes all the time,
    /// nothing is allocated.
    spare: Option<Box<Piece<T>>>,
    len: usize,
}

#[derive(Debug)]
struct Piece<T> {
    values: [Option<T>; PIECE],
    occupied: usize,
}

impl<T> Default for SideTable<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), spare: None, len: 0 }
    }
}

impl<T> Default for Piece<T> {
    fn default() -> Self {
        Self { values: [const { None }; PIECE], occupied: 0 }
    }
}

impl<T> SideTable<T> {
    /// Whether no place has a value.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a place, if it has one.
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let place = place as usize;
        self.pieces.get(place / PIECE)?.as_ref()?.values.get(place % PIECE)?.as_ref()
    }

    /// The value of a place, if it has one.
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let place = place as usize;
        self.pieces.get_mut(place / PIECE)?.as_mut()?.values.get_mut(place % PIECE)?.as_mut()
    }

    /// The value of a place, made if there is none.
    pub(crate) fn get_or_insert(&mut self, place: u32, make: impl FnOnce() -> T) -> &mut T {
        let (number, within) = (place as usize / PIECE, place as usize % PIECE);
        if self.pieces.len() <= number {
            self.pieces.resize_with(number + 1, || None);
        }
        let piece = self.pieces.get_mut(number).expect("the list was made long enough");
        let piece = piece.get_or_insert_with(|| self.spare.take().unwrap_or_default());
        let value = piece.values.get_mut(within).expect("a remainder is less than its divisor");
        if value.is_none() {
            piece.occupied += 1;
            self.len += 1;
        }
        value.get_or_insert_with(make)
    }

    /// Takes the value of a place out.
    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        let place = place as usize;
        let slot = self.pieces.get_mut(place / PIECE)?;
        let piece = slot.as_mut()?;
        let value = piece.values.get_mut(place % PIECE)?.take()?;
        piece.occupied -= 1;
        self.len -= 1;
        if piece.occupied == 0 {
            self.spare = slot.take();
        }
        if self.len == 0 {
            self.pieces = Vec::new();
        }
        Some(value)
    }

    /// The places that have a value.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> {
        let pieces = self.pieces.iter().enumerate();
        let occupied = pieces.flat_map(|(number, piece)| {
            let values = piece.iter().flat_map(|piece| piece.values.iter().enumerate());
            let occupied = values.filter(|(_, value)| value.is_some());
            occupied.map(move |(within, _)| number * PIECE + within)
        });
        occupied.map(|place| u32::try_from(place).expect("a place is a u32"))
    }

    /// All values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten().flat_map(|piece| piece.values.iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes and goes, each value is at its place, and only there.
        #[test]
        fn every_value_is_at_its_place(
            steps in proptest::collection::vec(any::<(bool, u16)>(), 0..2_000),
        ) {
            let mut table = SideTable::default();
            let mut model = BTreeMap::new();
            for (index, (comes, place)) in steps.into_iter().enumerate() {
                let place = u32::from(place) % 700;
                if comes {
                    let value = *table.get_or_insert(place, || index);
                    prop_assert_eq!(value, *model.entry(place).or_insert(index));
                } else {
                    prop_assert_eq!(table.remove(place), model.remove(&place));
                    prop_assert!(table.get(place).is_none() && table.get_mut(place).is_none());
                }
                prop_assert_eq!(table.is_empty(), model.is_empty());
            }
            prop_assert!(model.iter().all(|(place, value)| table.get(*place) == Some(value)));
            prop_assert!(table.iter().eq(model.values()));
        }
    }

    #[test]
    fn a_piece_without_a_value_has_no_memory() {
        let mut table = SideTable::default();
        (0..10_000).for_each(|place| *table.get_or_insert(place, || 1) = place);
        // One of every thousand stays.
        let go = (0..10_000).filter(|place| place % 1_000 != 0);
        go.for_each(|place| assert!(table.remove(place).is_some()));
        assert_eq!(table.pieces.iter().flatten().count(), 10);
        (0..10_000).step_by(1_000).for_each(|place| assert_eq!(table.remove(place), Some(place)));
        assert!(table.pieces.is_empty());
    }
}
