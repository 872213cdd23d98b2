//! Logs: events with fields, as text for people or JSON for machines.
//!
//! **Runs on**: set up by main, used by every thread. **Owns**: the global subscriber.
//! **Never**: sees a secret, a token, a query string or a payload.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::settled::{Log, LogFormat};

/// Starts logging to standard error. Standard output is for what a person asked to see.
///
/// # Errors
///
/// The filter cannot be read.
pub fn start(log: &Log) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&log.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match log.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).init(),
    }
    Ok(())
}
