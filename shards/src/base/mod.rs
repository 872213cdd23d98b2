//! What every part of the engine names: identities, time, bounds, counters, placement, sockets.
//!
//! **Runs on**: any thread (plain values). **Owns**: nothing but a socket its descriptor. **Never**: knows a part above it.

pub mod clock;
pub mod counters;
pub mod disk_health;
pub mod id;
pub mod limits;
pub mod pin;
pub mod placement;
pub mod socket;
pub mod tenant_limits;
pub mod timer;
pub mod token_bucket;
pub mod transport;

pub(crate) mod side_table;
pub(crate) mod table;
