//! The engine of the Ara gateway.

mod limits;

pub use limits::Limits;
