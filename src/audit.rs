//! The audit log: who did what that somebody may have to answer for, one line each with the target
//! `audit`.
//!
//! **Runs on**: any thread. **Owns**: nothing. **Never**: writes prose, a secret or a payload; a line for
//! each refused key of a flood.
//!
//! To add an event: a variant of [`Event`], and one call of [`record`] where it has happened.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use ara_shards::base::socket::PeerAddress;

use crate::access::{Caller, Scope};
use crate::telemetry::LogLimiter;

/// The target of every line, for `log.filter`.
const TARGET: &str = "audit";
/// At most one line about refused keys in this time, of each kind: see [`KeyRefusals`].
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// What a caller did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// What waited for a user was thrown away.
    QueueCleared,
    /// A user's dead letters were thrown away.
    DeadLettersCleared,
}

impl Event {
    /// The value of the field `event`.
    const fn name(self) -> &'static str {
        match self {
            Self::QueueCleared => "queue_cleared",
            Self::DeadLettersCleared => "dead_letters_cleared",
        }
    }
}

/// Whom and what an event is about; what is not known is left out of the line.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    /// The tenant.
    pub tenant: Option<&'a str>,
    /// The user.
    pub user: Option<&'a str>,
    /// What the caller gave as its reason.
    pub reason: Option<&'a str>,
    /// How many there were.
    pub count: Option<usize>,
}

/// Writes that a caller did something.
pub fn record(event: Event, caller: &Caller, about: About<'_>) {
    let About { tenant, user, reason, count } = about;
    tracing::info!(
        target: TARGET,
        event = event.name(),
        key = &*caller.key.name,
        peer = %caller.peer,
        tenant,
        user,
        reason,
        count,
    );
}

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRefusal<'a> {
    /// No key is like it.
    Unknown,
    /// The time of the key of this name is over.
    Expired(&'a str),
    /// A valid key lacks a scope.
    MissingScope(&'a Caller, Scope),
    /// A valid key is bound to another tenant than the one it asked for, or asked for all.
    OtherTenant(&'a Caller),
}

/// Writes of refused keys, once an interval. Keys that nobody knows have an interval of their own:
/// whoever guesses keys must not be able to hide what a known one tries.
#[derive(Debug)]
pub struct KeyRefusals {
    unknown: RefCell<LogLimiter>,
    known: RefCell<LogLimiter>,
}

impl Default for KeyRefusals {
    fn default() -> Self {
        let limiter = || RefCell::new(LogLimiter::new(REFUSAL_INTERVAL));
        Self { unknown: limiter(), known: limiter() }
    }
}

impl KeyRefusals {
    /// Writes one, or counts it for the next line.
    pub fn record(&self, refusal: KeyRefusal<'_>, peer: PeerAddress) {
        let (limiter, reason, key, scope) = match refusal {
            KeyRefusal::Unknown => (&self.unknown, "unknown", None, None),
            KeyRefusal::Expired(name) => (&self.known, "expired", Some(name), None),
            KeyRefusal::MissingScope(caller, scope) => {
                (&self.known, "missing_scope", Some(&*caller.key.name), Some(scope.name()))
            }
            KeyRefusal::OtherTenant(caller) => {
                (&self.known, "other_tenant", Some(&*caller.key.name), None)
            }
        };
        let Some(suppressed) = limiter.borrow_mut().admit(Instant::now()) else { return };
        tracing::info!(
            target: TARGET, event = "key_refused", reason, key, scope, %peer, suppressed
        );
    }
}
