//! The tables of `[[api.keys]]`: each field checked by itself, then all keys against each other.
//!
//! **Runs on**: whoever loads a configuration. **Owns**: nothing. **Never**: repeats what was given as
//! a digest, which may be the key itself, pasted by mistake.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use super::error::{Fault, Origin};
use super::form::quoted;
use crate::access::{DEFAULT_KEY_NAME, KEYS_MAX, Key, KeyDigest, Scope, Scopes};
use crate::names;

/// The list in the configuration file.
pub(super) const NAME: &str = "api.keys";
const FIELDS: [&str; 5] = ["name", "sha256", "scopes", "tenant", "not_after"];

pub(crate) const NAME_RULE: &str = "1 to 64 of A-Z a-z 0-9 . _ -; not default, which is api.key";
const SHA256_RULE: &str =
    "64 hexadecimal digits: what ara-gateway key prints, or printf %s KEY | sha256sum";
const SCOPES_RULE: &str = "a list of at least one of read, send, admin";
pub(crate) const NOT_AFTER_RULE: &str = "a time of RFC 3339, as in 2027-01-31T00:00:00Z";

/// What is written below the keys of `[api]` in the commented file.
pub(super) const REFERENCE: &str = "\
# More keys, each with scopes (read, send, admin), and, if wanted, for one tenant and until a time.
# `ara-gateway key` makes one and prints its lines. SIGHUP applies a change.
#
#     [[api.keys]]
#     name = \"billing\"  # in logs
#     sha256 = \"<64 hexadecimal digits>\"  # of the key: printf %s KEY | sha256sum
#     scopes = [\"send\"]
#     tenant = \"acme\"  # needs tenant.enabled; such a key needs no X-Tenant-ID
#     not_after = 2027-01-31T00:00:00Z
";

/// A key and the place of its table.
#[derive(Clone)]
pub(super) struct GivenKey {
    pub(super) key: Key,
    /// Its number in the list, from 0.
    pub(super) index: usize,
    origin: Origin,
}

impl GivenKey {
    /// A fault in one of its fields.
    pub(super) fn fault(&self, field: &str, problem: &str, fix: &str) -> Fault {
        let place = Place { index: self.index, origin: self.origin };
        place.fault(field, problem.to_owned(), "", fix)
    }
}

/// Reads the list. The keys are to be used only if there is no fault.
pub(super) fn read(
    text: &str,
    origin: Origin,
    list: &DeValue<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<GivenKey> {
    let refuse = |problem: String| Fault {
        key: NAME.into(),
        env: None,
        origin,
        problem,
        allowed: format!("up to {KEYS_MAX} tables, each after a line [[{NAME}]]"),
        fix: "write each key as ara-gateway key prints it".to_owned(),
    };
    let DeValue::Array(tables) = list else {
        faults.push(refuse(format!("the value is no list of tables, but {}", list.type_str())));
        return Vec::new();
    };
    if tables.len() > KEYS_MAX {
        faults.push(refuse(format!("there are {} keys", tables.len())));
        return Vec::new();
    }
    let mut keys: Vec<GivenKey> = Vec::with_capacity(tables.len());
    for (index, table) in tables.iter().enumerate() {
        let place = Place { index, origin: Origin::in_file(text, table.span().start) };
        let DeValue::Table(fields) = table.get_ref() else {
            faults.push(refuse(format!("entry {index} is no table")));
            continue;
        };
        let entry = Entry { text, place, fields };
        let Some(key) = entry.read(faults) else { continue };
        for other in &keys {
            entry.compare(&key, other, faults);
        }
        keys.push(GivenKey { key, index, origin: place.origin });
    }
    keys
}

/// Where an entry stands.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    origin: Origin,
}

impl Place {
    fn fault(self, field: &str, problem: String, allowed: &str, fix: &str) -> Fault {
        Fault {
            key: format!("{NAME}[{}].{field}", self.index).into(),
            env: None,
            origin: self.origin,
            problem,
            allowed: allowed.to_owned(),
            fix: fix.to_owned(),
        }
    }
}

struct Entry<'a> {
    text: &'a str,
    place: Place,
    fields: &'a DeTable<'a>,
}

impl Entry<'_> {
    fn read(&self, faults: &mut Vec<Fault>) -> Option<Key> {
        let before = faults.len();
        for name in self.fields.keys() {
            let given: &str = name.get_ref();
            if !FIELDS.contains(&given) {
                let place = self.place_at(name.span().start);
                let allowed = FIELDS.join(", ");
                let problem = "not a known key".to_owned();
                faults.push(place.fault(
                    given,
                    problem,
                    &allowed,
                    "remove the line, or correct it",
                ));
            }
        }
        let name = self.required("name", NAME_RULE, read_name, faults);
        let digest = self.required("sha256", SHA256_RULE, read_digest, faults);
        let scopes = self.required("scopes", SCOPES_RULE, read_scopes, faults);
        let tenant = self.optional("tenant", names::TENANT_RULE, read_tenant, faults);
        let not_after = self.optional("not_after", NOT_AFTER_RULE, read_not_after, faults);
        let key = Key { name: name?, digest: digest?, scopes: scopes?, tenant, not_after };
        (faults.len() == before).then_some(key)
    }

    fn required<T>(
        &self,
        field: &str,
        rule: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
        faults: &mut Vec<Fault>,
    ) -> Option<T> {
        if self.fields.get(field).is_none() {
            let problem = "it is missing".to_owned();
            faults.push(self.place.fault(field, problem, rule, "add it"));
        }
        self.optional(field, rule, read, faults)
    }

    fn optional<T>(
        &self,
        field: &str,
        rule: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
        faults: &mut Vec<Fault>,
    ) -> Option<T> {
        let value = self.fields.get(field)?;
        let read = read(value.get_ref());
        read.map_err(|problem| {
            let place = self.place_at(value.span().start);
            faults.push(place.fault(field, problem, rule, "correct it"));
        })
        .ok()
    }

    /// The place of one of its fields.
    fn place_at(&self, position: usize) -> Place {
        Place { origin: Origin::in_file(self.text, position), ..self.place }
    }

    /// Whether two entries can be told apart.
    fn compare(&self, key: &Key, other: &GivenKey, faults: &mut Vec<Fault>) {
        let (index, name) = (other.index, &other.key.name);
        if key.name == *name {
            let problem = format!("{name:?} is the name of {NAME}[{index}] too");
            faults.push(self.place.fault("name", problem, "", "give each key a name of its own"));
        }
        if key.digest == other.key.digest {
            let problem = format!("it is the digest of {NAME}[{index}] ({name}) too");
            let fix = "give each key once, with all its scopes";
            faults.push(self.place.fault("sha256", problem, "", fix));
        }
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("the value is no text, but {}", value.type_str()))
}

/// Whether a text may be the name of a key.
pub(crate) fn is_name(text: &str) -> bool {
    names::is_tenant(text) && text != DEFAULT_KEY_NAME
}

fn read_name(value: &DeValue<'_>) -> Result<Arc<str>, String> {
    let name = text(value)?;
    is_name(name)
        .then(|| name.into())
        .ok_or_else(|| format!("{} is no name of a key", quoted(name)))
}

fn read_digest(value: &DeValue<'_>) -> Result<KeyDigest, String> {
    KeyDigest::from_hex(text(value)?).ok_or_else(|| "the value is no SHA-256 in hexadecimal".into())
}

fn read_scopes(value: &DeValue<'_>) -> Result<Scopes, String> {
    let DeValue::Array(words) = value else {
        return Err(format!("the value is no list, but {}", value.type_str()));
    };
    let mut scopes = Scopes::default();
    for word in words.iter() {
        let word = text(word.get_ref())?;
        let scope = Scope::of_name(word);
        scopes = scopes.with(scope.ok_or_else(|| format!("{} is no scope", quoted(word)))?);
    }
    if scopes.is_empty() { Err("the list is empty".to_owned()) } else { Ok(scopes) }
}

fn read_tenant(value: &DeValue<'_>) -> Result<Arc<str>, String> {
    let tenant = text(value)?;
    let is_valid = names::is_tenant(tenant);
    is_valid.then(|| tenant.into()).ok_or_else(|| format!("{} is no tenant id", quoted(tenant)))
}

fn read_not_after(value: &DeValue<'_>) -> Result<SystemTime, String> {
    let time = match value {
        DeValue::Datetime(time) => time_of(time),
        other => parse_time(text(other)?),
    };
    time.ok_or_else(|| "the value is no time with a date and an offset (or Z)".to_owned())
}

/// The moment a text of RFC 3339 names.
pub(crate) fn parse_time(text: &str) -> Option<SystemTime> {
    time_of(&text.parse().ok()?)
}

fn time_of(time: &Datetime) -> Option<SystemTime> {
    let (date, clock) = (time.date?, time.time?);
    let (year, month, day) = (date.year, date.month, date.day);
    let (hour, minute, second) = (clock.hour, clock.minute, clock.second.unwrap_or_default());
    let utc = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    let as_utc = humantime::parse_rfc3339(&utc).ok()?;
    let minutes = match time.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => minutes,
    };
    let offset = Duration::from_secs(60 * u64::from(minutes.unsigned_abs()));
    // East of Greenwich the clock is ahead.
    if minutes > 0 { as_utc.checked_sub(offset) } else { as_utc.checked_add(offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_offset() {
        let utc = parse_time("2027-01-31T12:00:00Z").unwrap();
        for same in
            ["2027-01-31T14:00:00+02:00", "2027-01-31T06:30:00-05:30", "2027-01-31 12:00:00z"]
        {
            assert_eq!(parse_time(same), Some(utc), "{same}");
        }
        for bad in
            ["2027-01-31", "2027-01-31T12:00:00", "12:00:00", "2027-02-30T12:00:00Z", "soon", ""]
        {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
