//! A configuration read again while the gateway runs: what of it takes effect, and what needs a restart.
//!
//! **Runs on**: a thread of its own, which may wait for a file. **Owns**: nothing. **Never**: gives
//! settings that were not checked as a whole, beside what they run with.
//!
//! The files are checked twice. First as they are: the next start must succeed with them. Then with
//! the running value of every key that needs a restart, for that is what takes effect now. A tenant's
//! key, say, is refused while `tenant.enabled` waits for the restart that switches tenants on.

use std::path::Path;

use super::error::{Fault, Faults};
use super::keys::{self, KEYS, Key, Reload};
use super::raw::{Raw, Sources};
use super::{Loaded, api_keys, load, resolve, tenant_overrides};

/// What a reload comes to.
pub struct Reloaded {
    /// The new values of what is live, and the running ones of all else.
    pub loaded: Loaded,
    /// The keys whose change takes effect.
    pub applied: Vec<&'static str>,
    /// The keys whose change needs a restart. They are named again until it comes.
    pub needs_restart: Vec<&'static str>,
}

/// Reads everything anew and compares it with what is running.
///
/// # Errors
///
/// Every fault that was found, at least one: everything stays as it was.
pub fn reload(sources: &Sources, running: &Loaded) -> Result<Reloaded, Faults> {
    let next = load(sources)?;
    let needs_restart: Vec<_> = KEYS
        .iter()
        .filter(|key| key.reload == Reload::Restart)
        .filter(|key| next.raw.effective(key) != running.raw.effective(key))
        .map(|key| key.name)
        .collect();
    let raw = next.raw.with_restart_keys_of(&running.raw);
    let loaded = resolve_mixed(raw, &sources.directory, running)?;
    let applied = applied(&loaded, running);
    Ok(Reloaded { loaded, applied, needs_restart })
}

/// The settings of the running gateway with their live keys changed.
fn resolve_mixed(raw: Raw, directory: &Path, running: &Loaded) -> Result<Loaded, Faults> {
    let mut list = Vec::new();
    let mut settings = resolve::resolve(&raw, directory, &mut list);
    let was = running.settings.generated;
    let (jwt, api) = (&mut settings.jwt, &mut settings.api);
    keep_secret(&raw, &keys::JWT_SECRET, settings.generated.jwt_secret, was.jwt_secret, &mut list);
    keep_secret(&raw, &keys::API_KEY, settings.generated.api_key, was.api_key, &mut list);
    if settings.generated.jwt_secret {
        jwt.secret.clone_from(&running.settings.jwt.secret);
    }
    if settings.generated.api_key {
        api.key.clone_from(&running.settings.api.key);
    }
    if list.is_empty() {
        Ok(Loaded { settings, raw })
    } else {
        Err(Faults { file: raw.file, list })
    }
}

/// A secret that was made up is kept for the whole run. One that was configured and is not any more
/// would be made up now, and nobody could know it.
fn keep_secret(raw: &Raw, key: &Key, is_made_up: bool, was_made_up: bool, list: &mut Vec<Fault>) {
    if is_made_up && !was_made_up {
        let problem = "it was set when the gateway started, and is not any more";
        list.push(raw.fault(key, problem, format!("set {}, or restart", key.env)));
    }
}

fn applied(loaded: &Loaded, running: &Loaded) -> Vec<&'static str> {
    let (new, old) = (&loaded.settings, &running.settings);
    let has_changed = |key: &&&Key| {
        loaded.raw.effective(key) != running.raw.effective(key)
            // The file that the path names.
            || (key.name == keys::JWT_PUBLIC_KEY.name && new.jwt.public_key_pem != old.jwt.public_key_pem)
    };
    let keys = KEYS.iter().filter(has_changed).map(|key| key.name);
    let has_other_overrides = loaded.raw.tenant_overrides != running.raw.tenant_overrides;
    let tables = [
        (new.api.keys != old.api.keys).then_some(api_keys::NAME),
        has_other_overrides.then_some(tenant_overrides::NAME),
    ];
    keys.chain(tables.into_iter().flatten()).collect()
}
