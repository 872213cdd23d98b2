//! Configuration.
pub mod settled;
