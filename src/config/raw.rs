//! The settings as they were typed: each value checked by itself, that of the highest layer kept.
//!
//! **Runs on**: main, before anything is started. **Owns**: the typed values until they are
//! resolved. **Never**: looks at two keys together (that is `resolve`), nor puts a secret into a
//! fault.
//!
//! This mirrors the file by key rather than by a struct with a field for each: one derived
//! deserializer would stop at its first fault, and every key would have to be listed twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::api_keys::GivenKey;
use super::error::{Fault, Origin};
use super::form::{Problem, Value};
use super::keys::{Exposure, KEYS, Key, Reload};
use super::nearest::{is_own, near_miss};
use super::tenant_overrides::Override;

/// Where the layers are read from.
#[derive(Clone)]
pub struct Sources {
    /// The file named by `--config`.
    pub config: Option<PathBuf>,
    /// What relative paths are relative to; empty = the working directory.
    pub directory: PathBuf,
    /// The environment variables this program knows and misspelt ones; others may be left out.
    pub environment: BTreeMap<String, OsString>,
}

impl Sources {
    /// The sources of this process: its environment and its working directory.
    pub fn of_process(config: Option<PathBuf>) -> Self {
        let known = |name: &str| is_own(name) || near_miss(name).is_some();
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| name.into_string().ok().map(|name| (name, value)))
            .filter(|(name, _)| known(name))
            .collect();
        Self { config, directory: PathBuf::new(), environment }
    }
}

/// A value and the layer it came from.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What was typed in, layer over layer.
#[derive(Clone, Default)]
pub struct Raw {
    given: BTreeMap<&'static str, Given>,
    faulted: BTreeSet<&'static str>,
    /// The entries of `api.keys` that can be used.
    pub(super) api_keys: Vec<GivenKey>,
    /// Whether there are any at all.
    pub(super) has_api_keys: bool,
    /// The entries of `tenant.tenant_overrides`.
    pub(super) tenant_overrides: Vec<Override>,
    /// The file that was read, if one was.
    pub(super) file: Option<PathBuf>,
    /// Warnings about values that were ignored, though whoever set them may expect an effect.
    pub(super) warnings: Vec<String>,
    /// False where a layer could not be read at all: a value that seems missing may be in it.
    pub(super) complete: bool,
}

impl Raw {
    /// What was given for a key, if anything was.
    pub(super) fn given(&self, key: &Key) -> Option<&Given> {
        self.given.get(key.name)
    }

    /// Where the key's effective value comes from.
    pub(super) fn origin(&self, key: &Key) -> Origin {
        self.given(key).map_or(Origin::Default, |given| given.origin)
    }

    /// Whether a fault about this key has been reported already.
    pub(super) fn is_faulted(&self, key: &Key) -> bool {
        self.faulted.contains(key.name)
    }

    /// The given value, or else the default.
    pub(super) fn effective(&self, key: &Key) -> Option<Value> {
        match self.given(key) {
            Some(given) => Some(given.value.clone()),
            None => key.form.default_value(key.default),
        }
    }

    pub(super) fn switch(&self, key: &Key) -> bool {
        match self.effective(key) {
            Some(Value::Switch(on)) => on,
            other => mismatch(key, other.is_some()),
        }
    }

    pub(super) fn whole(&self, key: &Key) -> u64 {
        match self.effective(key) {
            Some(Value::Whole(number)) => number,
            other => mismatch(key, other.is_some()),
        }
    }

    pub(super) fn seconds(&self, key: &Key) -> Duration {
        match self.effective(key) {
            Some(Value::Seconds(duration)) => duration,
            other => mismatch(key, other.is_some()),
        }
    }

    pub(super) fn text(&self, key: &Key) -> Option<String> {
        match self.effective(key) {
            Some(Value::Text(text)) => Some(text),
            None => None,
            Some(_) => mismatch(key, true),
        }
    }

    pub(super) fn list(&self, key: &Key) -> Vec<String> {
        match self.effective(key) {
            Some(Value::List(items)) => items,
            other => mismatch(key, other.is_some()),
        }
    }

    /// These values, with those of `running` for every key that only a restart changes.
    pub(super) fn with_restart_keys_of(mut self, running: &Self) -> Self {
        for key in KEYS.iter().filter(|key| key.reload == Reload::Restart) {
            match running.given(key) {
                Some(given) => self.given.insert(key.name, given.clone()),
                None => self.given.remove(key.name),
            };
        }
        self
    }

    /// A fault about this key's value, wherever it came from.
    pub(super) fn fault(&self, key: &Key, problem: &str, fix: String) -> Fault {
        let origin = self.origin(key);
        let is_env = !matches!(origin, Origin::File { .. });
        Fault {
            key: key.name.into(),
            env: is_env.then_some(key.env),
            origin,
            problem: problem.to_owned(),
            allowed: key.form.allowed(),
            fix,
        }
    }

    /// Keeps the value of a higher layer than all before it, or reports what is wrong with it.
    pub(super) fn take(
        &mut self,
        key: &'static Key,
        origin: Origin,
        read: Result<Option<Value>, Problem>,
        faults: &mut Vec<Fault>,
    ) {
        match read {
            Ok(Some(value)) => {
                self.given.insert(key.name, Given { value, origin });
            }
            Ok(None) => {}
            Err(problem) => {
                self.faulted.insert(key.name);
                faults.push(value_fault(key, origin, &problem));
            }
        }
    }
}

/// A key without a value reads as zero, false or empty. To read it as another form than its own is
/// a mistake in this program.
fn mismatch<T: Default>(key: &Key, has_value: bool) -> T {
    assert!(!has_value, "{} is read as another form", key.name);
    T::default()
}

fn value_fault(key: &Key, origin: Origin, problem: &Problem) -> Fault {
    let is_env = !matches!(origin, Origin::File { .. });
    let place = if is_env { key.env } else { key.name };
    let fallback = match key.default {
        "" => "or leave it out".to_owned(),
        default => format!("or leave it out for the default {default}"),
    };
    Fault {
        key: key.name.into(),
        env: is_env.then_some(key.env),
        origin,
        problem: match key.exposure {
            Exposure::Open => problem.with_value(),
            Exposure::Secret | Exposure::Url | Exposure::OpenOnceValid => problem.without_value(),
        },
        allowed: key.form.allowed(),
        fix: format!("set {place} to an allowed value, {fallback}"),
    }
}
