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
/// At most one line about refused keys in this time, for each reason.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// What a caller did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// What waited for a user was thrown away.
    QueueCleared,
    /// A user's dead letters were thrown away.
    DeadLettersCleared,
    /// A template was made.
    TemplateCreated,
    /// Another template has taken the place of one.
    TemplateChanged,
    /// A template was deleted.
    TemplateDeleted,
    /// All connections of a user were closed.
    UserDisconnected,
    /// All clients are being sent away, or at another rate.
    DrainStarted,
    /// That was ended.
    DrainStopped,
}

impl Event {
    /// The value of the field `event`.
    const fn name(self) -> &'static str {
        match self {
            Self::QueueCleared => "queue_cleared",
            Self::DeadLettersCleared => "dead_letters_cleared",
            Self::TemplateCreated => "template_created",
            Self::TemplateChanged => "template_changed",
            Self::TemplateDeleted => "template_deleted",
            Self::UserDisconnected => "user_disconnected",
            Self::DrainStarted => "drain_started",
            Self::DrainStopped => "drain_stopped",
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
    /// The template.
    pub template: Option<&'a str>,
    /// What the caller gave as its reason.
    pub reason: Option<&'a str>,
    /// How many there were.
    pub count: Option<usize>,
}

/// Writes that a caller did something.
pub fn record(event: Event, caller: &Caller, about: About<'_>) {
    let About { tenant, user, template, reason, count } = about;
    tracing::info!(
        target: TARGET,
        event = event.name(),
        key = &*caller.key.name,
        peer = %caller.peer,
        tenant,
        user,
        template,
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

impl KeyRefusal<'_> {
    /// The value of the field `reason`, and which of the limiters counts it.
    const fn reason(self) -> (&'static str, usize) {
        match self {
            Self::Unknown => ("unknown", 0),
            Self::Expired(_) => ("expired", 1),
            Self::MissingScope(..) => ("missing_scope", 2),
            Self::OtherTenant(_) => ("other_tenant", 3),
        }
    }
}

/// Writes of refused keys, of each reason once an interval: whoever guesses keys must not be able to
/// hide what a known one tries.
#[derive(Debug)]
pub struct KeyRefusals([RefCell<LogLimiter>; 4]);

impl Default for KeyRefusals {
    fn default() -> Self {
        Self([(); 4].map(|()| RefCell::new(LogLimiter::new(REFUSAL_INTERVAL))))
    }
}

impl KeyRefusals {
    /// Writes one, or counts it for the next line of its reason.
    pub fn record(&self, refusal: KeyRefusal<'_>, peer: PeerAddress) {
        let (reason, index) = refusal.reason();
        let limiter = self.0.get(index).expect("each reason has its limiter");
        let Some(suppressed) = limiter.borrow_mut().admit(Instant::now()) else { return };
        let (key, scope) = match refusal {
            KeyRefusal::Unknown => (None, None),
            KeyRefusal::Expired(name) => (Some(name), None),
            KeyRefusal::MissingScope(caller, scope) => {
                (Some(&*caller.key.name), Some(scope.name()))
            }
            KeyRefusal::OtherTenant(caller) => (Some(&*caller.key.name), None),
        };
        tracing::info!(
            target: TARGET, event = "key_refused", reason, key, scope, %peer, suppressed
        );
    }
}

/// What a SIGHUP came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload<'a> {
    /// These changes are in effect, and those need a restart.
    Applied {
        /// Keys of the configuration.
        keys: &'a str,
        /// Keys of the configuration.
        needs_restart: &'a str,
    },
    /// The configuration has so many faults, and nothing was changed.
    Refused {
        /// At least one.
        faults: usize,
    },
    /// It could not be read or applied.
    Failed,
}

/// Writes that the configuration was read again.
pub fn reloaded(reload: Reload<'_>) {
    let (outcome, keys, needs_restart, faults) = match reload {
        Reload::Applied { keys, needs_restart } => ("applied", keys, needs_restart, None),
        Reload::Refused { faults } => ("refused", "", "", Some(faults)),
        Reload::Failed => ("failed", "", "", None),
    };
    let (keys, needs_restart) = (some(keys), some(needs_restart));
    tracing::info!(target: TARGET, event = "reload", outcome, keys, needs_restart, faults);
}

/// Nothing, where there is nothing to say.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
