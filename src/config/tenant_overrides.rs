//! The tables `[tenant.tenant_overrides.NAME]`: what some tenants may have instead of what all may.
//!
//! **Runs on**: whoever loads a configuration. **Owns**: nothing. **Never**: stops at the first fault.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{Fault, Origin};
use super::form::Value;
use super::keys::{
    Key, TENANT_MAX_CONNECTIONS, TENANT_MAX_CONNECTIONS_PER_USER, TENANT_MAX_QUEUED,
    TENANT_MAX_SUBSCRIPTIONS,
};
use crate::names;

/// The table of tables in the configuration file.
pub(super) const NAME: &str = "tenant.tenant_overrides";

/// The keys of `tenant.default_limits`, each of which a tenant may have otherwise.
const LIMITS: [&Key; 4] = [
    &TENANT_MAX_CONNECTIONS,
    &TENANT_MAX_CONNECTIONS_PER_USER,
    &TENANT_MAX_SUBSCRIPTIONS,
    &TENANT_MAX_QUEUED,
];

/// What is written below the keys of `[tenant.default_limits]` in the commented file.
pub(super) const REFERENCE: &str = "\
# What one tenant may have instead; what is left out is as above. SIGHUP applies a change.
#
#     [tenant.tenant_overrides.acme]
#     max_connections = 5000
";

/// What one tenant may have instead, by the key of the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) tenant: Arc<str>,
    given: Vec<(&'static str, usize)>,
}

impl Override {
    /// The tenant's own value of a limit of all, if it has one.
    pub(super) fn value(&self, key: &Key) -> Option<usize> {
        self.given.iter().find(|(name, _)| *name == key.name).map(|(_, value)| *value)
    }

    /// The tenant's own values, each with the key of the limit.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static Key, usize)> {
        LIMITS.into_iter().filter_map(|key| self.value(key).map(|value| (key, value)))
    }
}

/// Reads the tables. They are to be used only if there is no fault.
pub(super) fn read(
    text: &str,
    origin: Origin,
    value: &DeValue<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Override> {
    let DeValue::Table(tables) = value else {
        faults.push(not_a_table(NAME.to_owned(), origin, value));
        return Vec::new();
    };
    let mut overrides = Vec::with_capacity(tables.len());
    for (name, value) in tables {
        let origin = Origin::in_file(text, name.span().start);
        let tenant: &str = name.get_ref();
        let path = if tenant.contains('.') {
            format!("{NAME}.{tenant:?}")
        } else {
            format!("{NAME}.{tenant}")
        };
        if !names::is_tenant(tenant) {
            faults.push(Fault {
                key: path.into(),
                env: None,
                origin,
                problem: "it is no tenant id".to_owned(),
                allowed: names::TENANT_RULE.to_owned(),
                fix: "correct the name of the table, or remove it".to_owned(),
            });
        } else if let DeValue::Table(fields) = value.get_ref() {
            let given = read_limits(text, &path, fields, faults);
            overrides.push(Override { tenant: tenant.into(), given });
        } else {
            faults.push(not_a_table(path, origin, value.get_ref()));
        }
    }
    overrides
}

fn read_limits(
    text: &str,
    path: &str,
    fields: &DeTable<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<(&'static str, usize)> {
    let mut given = Vec::new();
    for (name, value) in fields {
        let origin = Origin::in_file(text, name.span().start);
        let field: &str = name.get_ref();
        let mut refuse = |problem: String, allowed: String| {
            let fix = "correct the line, or remove it".to_owned();
            let key = format!("{path}.{field}").into();
            faults.push(Fault { key, env: None, origin, problem, allowed, fix });
        };
        let Some(key) = LIMITS.into_iter().find(|key| key.leaf() == field) else {
            refuse("not a known key".to_owned(), LIMITS.map(Key::leaf).join(", "));
            continue;
        };
        match key.form.read_toml(value.get_ref()) {
            Ok(Some(Value::Whole(number))) => {
                given.push((key.name, usize::try_from(number).unwrap_or(usize::MAX)));
            }
            Ok(_) => {}
            Err(problem) => refuse(problem.with_value(), key.form.allowed()),
        }
    }
    given
}

fn not_a_table(key: String, origin: Origin, value: &DeValue<'_>) -> Fault {
    Fault {
        key: key.into(),
        env: None,
        origin,
        problem: format!("the value is no table, but {}", value.type_str()),
        allowed: format!("a line [{NAME}.NAME] for each tenant, and its limits below"),
        fix: "write it as a table, or remove it".to_owned(),
    }
}
