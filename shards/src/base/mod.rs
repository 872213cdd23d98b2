//! What every part of the engine names: identities, time, bounds, counters, placement.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: knows a part above it.

pub mod clock;
pub mod counters;
pub mod id;
pub mod limits;
pub mod pin;
pub mod placement;
pub mod timer;

pub(crate) mod side_table;
pub(crate) mod table;
