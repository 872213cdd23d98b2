//! The one way from what a source wrote to a checked trigger: draft, validate, trigger.
//!
//! A source (an HTTP body, a Redis message) reads its own JSON shape and puts it into a
//! [`draft::Draft`]. [`validate`] holds every draft against the same bounds and makes the
//! [`trigger::Trigger`] that the router takes. What is wrong is a [`fault::Fault`], whose sentence is
//! the same for every source; the source decides how it is answered or counted.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: looks into a payload; knows a
//! source.

pub mod batch;
pub mod draft;
pub mod fault;
pub mod trigger;
pub mod validate;

pub use draft::Draft;
pub use fault::Fault;
pub use trigger::Trigger;
