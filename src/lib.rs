//! The Ara gateway.
pub mod config;
pub mod redis;
