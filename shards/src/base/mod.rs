//! What every part of the engine names: identities, time, bounds, counters, placement.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing. **Never**: knows a part above it.

pub mod clock;
pub mod counters;
pub mod disk_health;
pub mod id;
pub mod limits;
pub mod pin;
pub mod placement;
pub mod transport;

pub(crate) mod table;
