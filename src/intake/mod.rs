//! From what a caller or publisher wrote to one checked trigger.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: looks into a payload.

pub mod trigger;
