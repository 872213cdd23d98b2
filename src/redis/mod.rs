//! x
pub mod backoff;
pub mod breaker;
pub mod message;
mod resp;
