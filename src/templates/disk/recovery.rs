//! From the records of a former process to the templates there are.
//!
//! **Runs on**: main, while the store opens. **Owns**: what was read so far. **Never**: does I/O;
//! fails because of what it reads.
//!
//! A change is told from others by its number, so it matters neither in which order copies come nor
//! how often. Only what counts in the end is taken apart: there may be many times as much that was
//! replaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use ara_shards::journal::Position;
use serde_json::value::RawValue;

use super::record::{Change, Record};
use crate::templates::pattern::Pattern;
use crate::templates::template::Template;

/// A template's name, owned.
pub(super) type OwnedName = (Arc<str>, Box<str>);

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    stored: BTreeMap<Change, Stored>,
    deleted: Vec<(Change, OwnedName)>,
    undone: AHashSet<Change>,
    next_change: Change,
    dead: Vec<Position>,
    unknown: u64,
}

#[derive(Debug)]
struct Stored {
    position: Position,
    name: OwnedName,
    record: Box<[u8]>,
}

/// What a former process leaves behind.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Every template, and where its record is.
    pub(super) templates: Vec<(Change, Position, Arc<str>, Template)>,
    /// To be released: copies, what was replaced or deleted, what nobody can read.
    pub(super) dead: Vec<Position>,
    /// The first number that was never used.
    pub(super) next_change: Change,
    /// Records of a kind or version that this program does not know.
    pub(super) unknown: u64,
}

impl Recovery {
    /// Takes a record or note, in the journal's order.
    pub(super) fn take(&mut self, position: Position, bytes: &[u8]) {
        match Record::decode(bytes) {
            Some(Record::Stored(change, name, _)) => {
                self.used(change);
                let name = (name.tenant.into(), name.id.into());
                let stored = Stored { position, name, record: bytes.into() };
                // A copy that was interrupted: the later one stays.
                let earlier = self.stored.insert(change, stored);
                self.dead.extend(earlier.map(|earlier| earlier.position));
            }
            Some(Record::Deleted(change, name)) => {
                self.used(change);
                self.deleted.push((change, (name.tenant.into(), name.id.into())));
            }
            Some(Record::Undone(change)) => {
                self.used(change);
                self.undone.insert(change);
            }
            None => {
                self.unknown += 1;
                self.dead.push(position);
            }
        }
    }

    fn used(&mut self, change: Change) {
        self.next_change = self.next_change.max(change.next());
    }

    /// All has been read.
    pub(super) fn conclude(self) -> Recovered {
        let Self { stored, deleted, undone, next_change, mut dead, mut unknown } = self;
        // What each name is by its last change: a template, or nothing.
        let mut last: AHashMap<OwnedName, Change> = AHashMap::new();
        let mut note = |change: Change, name: OwnedName| {
            let latest = last.entry(name).or_insert(change);
            *latest = change.max(*latest);
        };
        for (change, name) in deleted {
            if !undone.contains(&change) {
                note(change, name);
            }
        }
        for (change, Stored { name, .. }) in &stored {
            if !undone.contains(change) {
                note(*change, name.clone());
            }
        }
        let mut templates = Vec::new();
        for (change, Stored { position, name, record }) in stored {
            if last.get(&name) != Some(&change) {
                dead.push(position);
            } else if let Some(template) = template(&record) {
                templates.push((change, position, name.0, template));
            } else {
                unknown += 1;
                dead.push(position);
            }
        }
        Recovered { templates, dead, next_change, unknown }
    }
}

/// The template of a record, if it still is one.
fn template(record: &[u8]) -> Option<Template> {
    let Record::Stored(_, name, fields) = Record::decode(record)? else { return None };
    let text = RawValue::from_string(fields.payload_template.to_owned()).ok()?;
    Some(Template {
        id: name.id.into(),
        name: fields.name.map(Box::from),
        event_type: fields.event_type.into(),
        pattern: Pattern::parse(text).ok()?,
        default_priority: fields.default_priority,
        default_ttl: fields.default_ttl,
        created_ms: fields.created_ms,
        updated_ms: fields.updated_ms,
    })
}
