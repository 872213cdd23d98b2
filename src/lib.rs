//! The Ara gateway.
pub mod cli;
pub mod config;
pub mod door;
pub mod redis;
