//! Several triggers in one message: read apart first, then one after another, so that none takes the
//! others down.
//!
//! **Runs on**: the router's thread. **Owns**: nothing beyond the call. **Never**: sends; looks into a
//! payload; lets what is wrong with one notification touch another.

use std::borrow::Cow;
use std::sync::Arc;

use ahash::AHashSet;
use ara_shards::base::limits::BATCH_ITEMS_MAX;
use ara_shards::wire::json::{self, Unknown};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Draft;
use super::draft::{self, AudienceDraft, EventDraft, TargetDraft, TargetKind};
use super::fault::{Fault, Problem};
use super::trigger::{JsonText, Target, Trigger};
use crate::templates::Catalog;

/// How a batch is treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The first refused notification is the last that is looked at.
    pub stop_on_error: bool,
    /// A later notification with a target and event type that were there before is left out.
    pub deduplicate: bool,
}

/// [`Options`] as they are written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct OptionsDraft {
    stop_on_error: Option<bool>,
    deduplicate: Option<bool>,
}

impl From<OptionsDraft> for Options {
    fn from(draft: OptionsDraft) -> Self {
        Self {
            stop_on_error: draft.stop_on_error.unwrap_or(false),
            deduplicate: draft.deduplicate.unwrap_or(false),
        }
    }
}

/// A batch that was read, and its notifications only apart from each other.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The text it came in.
    bytes: &'a Bytes,
    items: Vec<&'a RawValue>,
    options: Options,
}

/// One notification of a batch.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    target: ItemTarget<'a>,
    event_type: Option<String>,
    #[serde(borrow, default, deserialize_with = "draft::any_json")]
    payload: Option<&'a RawValue>,
    template_id: Option<String>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    priority: Option<String>,
    ttl: Option<u64>,
    source: Option<String>,
    correlation_id: Option<String>,
    audience: Option<AudienceDraft>,
    queue: Option<bool>,
}

#[derive(Deserialize)]
struct ItemTarget<'a> {
    #[serde(rename = "type")]
    kind: TargetKind,
    /// Its type depends on `kind`.
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// What became of one notification: `S` if it was sent, `R` if whoever sends refused it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<S, R> {
    /// It was handed on.
    Sent(S),
    /// One before it has the same target and event type.
    Skipped,
    /// It is not as it must be.
    Invalid(Fault),
    /// It is, and was not taken.
    Refused(R),
    /// One before it was refused, and the rest was not to be looked at then.
    NotAttempted,
}

impl<'a> Batch<'a> {
    /// A batch of the notifications `items`, which were read from `bytes`.
    ///
    /// # Errors
    ///
    /// There are none, or too many.
    pub fn new(
        bytes: &'a Bytes,
        items: Vec<&'a RawValue>,
        options: Option<OptionsDraft>,
    ) -> Result<Self, Fault> {
        if !(1..=BATCH_ITEMS_MAX).contains(&items.len()) {
            let problem = Problem::Count { found: items.len(), most: BATCH_ITEMS_MAX };
            return Err(Fault::at("notifications", problem));
        }
        Ok(Self { bytes, items, options: options.unwrap_or_default().into() })
    }

    /// How many notifications it has: 1 to 100.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.items.len()
    }

    /// How it is to be treated.
    #[must_use]
    pub const fn options(&self) -> Options {
        self.options
    }

    /// Makes a trigger of each notification in turn, from `source` where it does not say, and has it
    /// sent.
    pub fn send_each<S, R>(
        &self,
        tenant: &Arc<str>,
        source: &'static str,
        templates: &Catalog,
        send: impl FnMut(usize, Trigger) -> Result<S, R>,
    ) -> Vec<Outcome<S, R>> {
        let triggers = self.items.iter().map(|item| {
            let draft = read_item(self.bytes, item, source)?;
            draft.into_trigger(Arc::clone(tenant), templates)
        });
        walk(triggers, self.options, send)
    }
}

/// The fault's line and column count from the item's beginning, as if it had come alone.
fn read_item(bytes: &Bytes, item: &RawValue, source: &'static str) -> Result<Draft, Fault> {
    let item: Item<'_> = json::read_text(item.get(), Unknown::Refused)?;
    let target = TargetDraft::read(item.target.kind, "target.value", item.target.value)?;
    let event = EventDraft {
        path: "",
        event_type: item.event_type,
        payload: item.payload.map(|json| JsonText::within(bytes, json)),
        template_id: item.template_id,
        variables: item.variables.map(|json| JsonText::within(bytes, json)),
        priority: item.priority,
        ttl: item.ttl,
        source: item.source.map_or(Cow::Borrowed(source), Cow::Owned),
        correlation_id: item.correlation_id,
        audience: item.audience,
        queue: item.queue.unwrap_or(false),
    };
    Ok(Draft { target, event })
}

/// Sends what is to be sent, in order. `triggers` are made one by one: what is not attempted costs
/// nothing.
fn walk<S, R>(
    triggers: impl Iterator<Item = Result<Trigger, Fault>>,
    options: Options,
    mut send: impl FnMut(usize, Trigger) -> Result<S, R>,
) -> Vec<Outcome<S, R>> {
    let mut sent = AHashSet::new();
    let mut is_over = false;
    let mut triggers = triggers.enumerate();
    let (least, _) = triggers.size_hint();
    let mut outcomes = Vec::with_capacity(least);
    while !is_over && let Some((index, trigger)) = triggers.next() {
        let outcome = match trigger {
            Err(fault) => Outcome::Invalid(fault),
            Ok(trigger) => {
                let likeness = options.deduplicate.then(|| Likeness::of(&trigger));
                if likeness.as_ref().is_some_and(|likeness| sent.contains(likeness)) {
                    Outcome::Skipped
                } else {
                    match send(index, trigger) {
                        Ok(taken) => {
                            sent.extend(likeness);
                            Outcome::Sent(taken)
                        }
                        Err(refusal) => Outcome::Refused(refusal),
                    }
                }
            }
        };
        let is_error = matches!(outcome, Outcome::Invalid(_) | Outcome::Refused(_));
        is_over = options.stop_on_error && is_error;
        outcomes.push(outcome);
    }
    outcomes.resize_with(least, || Outcome::NotAttempted);
    outcomes
}

/// What two notifications have in common of which the later is left out: who is meant, in whatever
/// order and by whichever kind of target it is said, and the event type.
#[derive(PartialEq, Eq, Hash)]
struct Likeness {
    are_users: bool,
    /// Sorted; none for everybody.
    names: Vec<Arc<str>>,
    event_type: String,
}

impl Likeness {
    fn of(trigger: &Trigger) -> Self {
        let mut names = trigger.target.names().to_vec();
        names.sort_unstable();
        let are_users = matches!(trigger.target, Target::Users(_));
        Self { are_users, names, event_type: trigger.event.event_type.clone() }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
