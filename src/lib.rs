//! The Ara gateway: what meets the outside. The engine is the crate `ara-shards`.
//!
//! **Runs on**: main (start and stop), the router's thread, and, at the doors, the shards' threads.
//! **Owns**: configuration, doors, router, HTTP API, Redis, templates. **Never**: touches a shard's state but
//! through its link.

pub mod access;
pub mod api;
pub mod audit;
pub mod boot;
pub mod bounded_file;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod failure;
pub mod figures;
pub mod idempotency;
pub mod intake;
pub mod journal_task;
pub mod listener;
pub mod names;
pub mod origin;
pub mod proxies;
pub mod query;
pub mod ratelimit;
pub mod record_reader;
pub mod redis;
pub mod refusal;
pub mod router;
pub mod settings;
pub mod storage;
pub mod supervise;
pub mod telemetry;
pub mod templates;
pub mod welcome;

#[cfg(test)]
mod failing_storage_tests;
#[cfg(test)]
mod json_shape_tests;
