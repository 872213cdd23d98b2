//! Logs: events with fields, as text for people or JSON for machines.
//!
//! **Runs on**: set up by main, used by every thread. **Owns**: the global subscriber, the
//! writer of its lines, and the panic hook. **Never**: sees a secret, a token, a query string or a
//! payload; makes a thread that logs wait for a reader.

pub mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, stderr};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, registry, reload};

use crate::settings::{Log, LogFormat};
use output::Output;

/// How long a process that ends waits for its last lines to be read, at most.
const LAST_LINES_DEADLINE: Duration = Duration::from_secs(1);

/// Where log lines go. It is global because the subscriber that writes to it is.
static LOG: OnceLock<Output> = OnceLock::new();
/// Whether lines are JSON.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();
/// The way to change what is logged. A line that is not logged asks no lock for it: each place in the code
/// remembers that it is off until the filter changes.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
/// Panics since start. One in a long-lived task ends the process, so in a process that lives these
/// are connections and requests that ended early.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Starts the thread that writes log lines to standard error, and sends panics there too. Call it
/// before anything that may log or panic.
///
/// # Errors
///
/// The system gives no more threads.
pub fn open() -> io::Result<&'static Output> {
    let output = Output::start("log", stderr(), dropped_line)?;
    let output = LOG.get_or_init(|| output);
    std::panic::set_hook(Box::new(log_panic));
    Ok(output)
}

/// Starts logging to standard error. Standard output is kept for what a person asked to see.
///
/// # Errors
///
/// The filter cannot be read.
pub fn start(log: &Log, output: &Output) -> Result<(), ParseError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&log.filter)?);
    let output = output.clone();
    // The subscriber's own errors would be printed with `eprintln!`, which blocks and panics.
    let lines = fmt::layer().log_internal_errors(false).with_writer(move || output.clone());
    let format = *FORMAT.get_or_init(|| log.format);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).boxed(),
    };
    registry().with(filter).with(lines).init();
    FILTER.get_or_init(|| handle);
    Ok(())
}

/// Logs by another filter from now on.
///
/// # Errors
///
/// The filter cannot be read: nothing changes.
pub fn set_filter(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    if let Some(handle) = FILTER.get() {
        // It fails only where the subscriber has gone, which is global.
        let _set = handle.reload(filter);
    }
    Ok(())
}

/// Waits a moment until the logged lines are written. Call when the process ends.
pub fn finish() {
    if let Some(output) = LOG.get() {
        output.finish(LAST_LINES_DEADLINE);
    }
}

/// Log lines that were dropped, since start.
#[must_use]
pub fn dropped_lines() -> u64 {
    LOG.get().map_or(0, Output::dropped)
}

/// Panics that ended one connection or request, since start.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// The line that reports dropped lines, in the format of the subscriber's lines.
fn dropped_line(count: u64) -> String {
    let mut time = String::new();
    // A clock that cannot be formatted leaves the time out.
    let _formatted = SystemTime.format_time(&mut Writer::new(&mut time));
    let message = "log lines were dropped: they were not read in time, or could not be written";
    match FORMAT.get() {
        Some(LogFormat::Json) => format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{count} {message}\",\
             \"dropped_lines\":{count},\"target\":\"{}\"}}\n",
            module_path!()
        ),
        Some(LogFormat::Text) | None => {
            format!("{time}  WARN {}: {count} {message}\n", module_path!())
        }
    }
}

/// Counts a panic and logs it whatever the filter says, since the process may end with it.
fn log_panic(info: &PanicHookInfo<'_>) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a value that is no text");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    if tracing::enabled!(Level::ERROR) {
        tracing::error!(%thread, %place, "panicked: {message}{backtrace}");
    } else if let Some(output) = LOG.get() {
        output.push(
            format!("thread {thread} panicked at {place}: {message}{backtrace}\n").as_bytes(),
        );
    }
}

/// Lets one event of a kind be logged in each interval, and remembers how many were not.
#[derive(Debug)]
pub struct LogLimiter {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimiter {
    /// One event an `interval`.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// Whether to log an event at `now`, and if so how many before it were suppressed.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_once_an_interval_with_its_size() {
        let start = Instant::now();
        let mut limiter = LogLimiter::new(Duration::from_secs(1));
        assert_eq!(limiter.admit(start), Some(0));
        for ms in 1..1_000 {
            assert_eq!(limiter.admit(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(limiter.admit(start + Duration::from_secs(1)), Some(999));
        assert_eq!(limiter.admit(start + Duration::from_secs(2)), Some(0));
    }
}
