//! Moving messages to new homes, when the number of shards (or what chooses among them) has changed.
//!
//! **Runs on**: main, before any shard starts. **Owns**: the journals while it moves.
//! **Never**: changes what the old journals hold: until the caller has made the switch, they count.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Dead, MessageRecord};
use super::recovery::{Gone, Owed, Reading};
use crate::base::clock::Clock;
use crate::base::placement::Placement;
use crate::journal::{AppendError, Full, Journal, OpenError, Options, RecoveryReport};
use crate::link::doorbell::Doorbell;
use crate::state::user_queue::QueuedMessage;

/// What was moved.
#[derive(Debug, Default)]
pub struct Rehomed {
    /// Messages in their new homes.
    pub messages: usize,
    /// Messages whose time was over.
    pub expired: usize,
    /// What was found in each old journal.
    pub reports: Vec<RecoveryReport>,
}

/// Why messages could not be moved. The old journals are as they were.
#[derive(Debug)]
pub enum RehomeError {
    /// A journal could not be opened.
    Open(OpenError),
    /// A new journal does not take a message.
    Append(AppendError),
    /// A new journal could not be finished.
    Close(io::Error),
}

impl fmt::Display for RehomeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(formatter),
            Self::Append(error) => error.fmt(formatter),
            Self::Close(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for RehomeError {}

/// Copies every message of the `old` journals into the `new`, empty ones, each to the home that
/// `placement` gives its user there. Returns when all is synced, whatever the policy.
///
/// # Errors
///
/// A journal cannot be opened or written.
pub fn rehome(
    old: &[Options],
    new: &[Options],
    clock: Clock,
    placement: &Placement,
) -> Result<Rehomed, RehomeError> {
    let mut rehomed = Rehomed::default();
    let mut homes = Vec::with_capacity(new.len());
    for options in new {
        let (journal, _empty) =
            Journal::open(options, |_, _| {}, silent_bell()).map_err(RehomeError::Open)?;
        homes.push(journal);
    }
    for options in old {
        let mut reading = Reading::new(clock);
        let (journal, report) =
            Journal::open(options, |place, bytes| reading.take(place, bytes), silent_bell())
                .map_err(RehomeError::Open)?;
        let (users, Gone { expired, .. }) = reading.finish();
        rehomed.expired += expired;
        rehomed.reports.push(report);
        for user in &users {
            let home = placement.home(placement.hash(&user.tenant, &user.name));
            let Some(home) = homes.get_mut(home) else { continue };
            rehomed.messages += move_in(user, home, clock)?;
        }
        journal.close().map_err(RehomeError::Close)?;
    }
    for home in homes {
        home.close().map_err(RehomeError::Close)?;
    }
    Ok(rehomed)
}

fn silent_bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(|| {}))
}

/// Writes one user's messages into its new home. Returns how many.
fn move_in(user: &Owed, home: &mut Journal, clock: Clock) -> Result<usize, RehomeError> {
    let mut buffer = Vec::new();
    let waiting = user.waiting.iter().map(|message| (message, None));
    let dead = user.dead.iter().map(|(message, until)| {
        (message, Some(Dead { until_unix_ms: until.map(|until| clock.unix_ms_of(until)) }))
    });
    for (message, dead) in waiting.chain(dead) {
        encode(user, message, (dead, clock), &mut buffer);
        append(home, &buffer)?;
    }
    Ok(user.waiting.len() + user.dead.len())
}

fn encode(
    user: &Owed,
    message: &QueuedMessage,
    (dead, clock): (Option<Dead>, Clock),
    buffer: &mut Vec<u8>,
) {
    let head = message.kept().head();
    let record = MessageRecord {
        tenant: &user.tenant,
        user: &user.name,
        sequence: message.sequence(),
        expires_unix_ms: clock.unix_ms_of(head.expires_at),
        id: head.id,
        priority: head.priority,
        attempts: message.attempts(),
        dead,
        audience: None,
        json: message.kept().json(),
    };
    record.encode(head.audience.as_deref(), buffer);
}

/// Appends, and waits for the writer where it is behind.
#[expect(clippy::disallowed_methods, reason = "main waits for the disk before anything runs")]
fn append(journal: &mut Journal, record: &[u8]) -> Result<(), RehomeError> {
    loop {
        match journal.append(record) {
            Ok(_place) => return Ok(()),
            Err(AppendError::Full(Full::Buffer)) => {
                journal.flush();
                std::thread::sleep(Duration::from_millis(1));
                journal.poll();
            }
            Err(error) => return Err(RehomeError::Append(error)),
        }
    }
}
