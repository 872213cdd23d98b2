//! The Ara gateway.
pub mod config;
