//! Prints settings: the effective ones (secrets redacted), the commented file, the table.
//!
//! **Runs on**: main, for `check-config`; tests hold `config.toml` to it. **Owns**: nothing.
//! **Never**: writes a secret, nor the credentials of a URL.

use humantime::format_rfc3339_seconds;

use super::Loaded;
use super::api_keys;
use super::error::Origin;
use super::form::Value;
use super::keys::{self, Exposure, KEYS, Key, Reload};
use super::tenant_overrides::{self, Override};
use crate::access;

const REDACTED: &str = "<redacted>";

/// The effective configuration as TOML, with the origin of every value.
pub fn effective(loaded: &Loaded) -> String {
    let mut text = String::from(
        "# The effective configuration. Secrets are redacted. SIGHUP applies changes to what is live.\n",
    );
    match &loaded.raw.file {
        Some(path) => text.push_str(&format!("# file: {}\n", path.display())),
        None => text.push_str("# file: none\n"),
    }
    for warning in &loaded.settings.warnings {
        text.push_str(&format!("# warning: {warning}\n"));
    }
    let mut section = "";
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push_str(&line(loaded, key));
        if key.name == keys::API_LISTEN.name {
            text.extend(loaded.settings.api.keys.iter().map(api_key));
        }
        if key.name == keys::TENANT_MAX_QUEUED.name {
            text.extend(loaded.raw.tenant_overrides.iter().map(tenant_override));
        }
    }
    text
}

/// What one tenant may have instead.
fn tenant_override(own: &Override) -> String {
    let limits: Vec<_> =
        own.iter().map(|(key, value)| format!("{} = {value}", key.leaf())).collect();
    format!("# tenant_overrides: {} ({})\n", own.tenant, limits.join(", "))
}

/// An entry of `api.keys`, without its digest.
fn api_key(key: &access::Key) -> String {
    let scopes: Vec<_> = key.scopes.iter().map(access::Scope::name).collect();
    let tenant = key.tenant.as_ref().map(|tenant| format!(", tenant {tenant}"));
    let until = key.not_after.map(|at| format!(", not after {}", format_rfc3339_seconds(at)));
    let (tenant, until) = (tenant.unwrap_or_default(), until.unwrap_or_default());
    format!("# keys: {} ({}{tenant}{until})\n", key.name, scopes.join(", "))
}

fn line(loaded: &Loaded, key: &Key) -> String {
    let leaf = key.leaf();
    let Some(value) = loaded.raw.effective(key) else {
        let generated = loaded.settings.generated;
        let is_generated = (key.name == keys::API_KEY.name && generated.api_key)
            || (key.name == keys::JWT_SECRET.name && generated.jwt_secret);
        let state = if is_generated { "not set: made up for each run" } else { "not set" };
        return format!("# {leaf} =  # {state}\n");
    };
    let shown = match (key.exposure, &value) {
        (Exposure::Secret, _) => Value::Text(REDACTED.to_owned()),
        (Exposure::Url, Value::Text(url)) => Value::Text(mask_url(url)),
        _ => value,
    };
    let origin = match loaded.raw.origin(key) {
        Origin::Environment => format!("environment, {}", key.env),
        Origin::DotEnv { line } => format!(".env, line {line}, {}", key.env),
        other => other.to_string(),
    };
    let live = if key.reload == Reload::Live { ", live" } else { "" };
    format!("{leaf} = {}  # {origin}{live}\n", toml_text(&shown))
}

/// A value as TOML on one line.
fn toml_text(value: &Value) -> String {
    match value {
        Value::Switch(on) => on.to_string(),
        Value::Whole(number) => number.to_string(),
        Value::Seconds(duration) if duration.subsec_nanos() == 0 => duration.as_secs().to_string(),
        Value::Seconds(duration) => duration.as_secs_f64().to_string(),
        Value::Text(text) => basic_string(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| basic_string(item)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn basic_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            control if control.is_control() => {
                quoted.push_str(&format!("\\U{:08X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Masks possible credentials: everything before the last `@` except a user name that a password
/// follows, and the whole query.
fn mask_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    // A password may hold any character, an @ and a question mark included.
    let (user, host) = match rest.rsplit_once('@') {
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => (format!("{user}:***@"), host),
            None => ("***@".to_owned(), host),
        },
        None => (String::new(), rest),
    };
    match host.split_once('?') {
        Some((host, _)) => format!("{scheme}://{user}{host}?***"),
        None => format!("{scheme}://{user}{host}"),
    }
}

/// The commented `config.toml`: every key with its default, all of it commented out.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every setting of the gateway, with its default. A line without its # sets it.\n\
         # A .env file in the working directory overrides this file, and the environment overrides\n\
         # both, by the names given here. Unknown keys are refused. To see what is in effect:\n\
         #\n\
         #     ara-gateway check-config --config config.toml\n",
    );
    let mut section = "";
    for key in KEYS {
        text.push('\n');
        if key.section() != section {
            section = key.section();
            text.push_str(&format!("[{section}]\n"));
        }
        text.push_str(&format!("# {}\n", sentence(key.doc)));
        if key.reload == Reload::Live {
            text.push_str("# SIGHUP applies a change.\n");
        }
        text.push_str(&format!("# Allowed: {}.\n", key.form.allowed()));
        text.push_str(&format!("# Environment: {}\n", key.env));
        let (default, note) = match key.default {
            "" => ("\"\"", "  # not set"),
            default => (default, ""),
        };
        text.push_str(&format!("# {} = {default}{note}\n", key.leaf()));
        if key.name == keys::API_LISTEN.name {
            text.push_str(&format!("\n{}", api_keys::REFERENCE));
        }
        if key.name == keys::TENANT_MAX_QUEUED.name {
            text.push_str(&format!("\n{}", tenant_overrides::REFERENCE));
        }
    }
    text
}

/// The settings as a Markdown table, for the documentation.
pub fn markdown_table() -> String {
    let mut text = String::from(
        "| key | environment | default | meaning | allowed |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let default =
            if key.default.is_empty() { "–".to_owned() } else { format!("`{}`", key.default) };
        let allowed = key.form.allowed().replace('|', "\\|");
        let live = if key.reload == Reload::Live { " (live)" } else { "" };
        text.push_str(&format!(
            "| `{}` | `{}` | {default} | {}{live} | {allowed} |\n",
            key.name, key.env, key.doc
        ));
    }
    text
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), characters.as_str()),
        None => String::new(),
    }
}
