//! Set-up: as in the parent module, with limits of tenants.
//! Property: a tenant's limit is its own, or else that of all; each fault is named by its path.
//! Why it matters: a limit that is misspelt and ignored is none.

use super::*;

const ON: &str = "tenant.enabled = true\n";

#[test]
fn a_tenant_has_its_own_limits_and_those_of_all_for_the_rest() {
    let file = format!(
        "{ON}[tenant.default_limits]\nmax_connections_per_user = 7\n\
         [tenant.tenant_overrides.acme]\nmax_connections = 0\n\
         [tenant.tenant_overrides.\"a.b\"]\nmax_subscriptions_per_connection = 3\n"
    );
    let limits = settings(&file, &[]).limits.tenants.unwrap();
    let of = |tenant| {
        let limits = limits.of(tenant);
        let per_user = limits.connections_per_user_max;
        (limits.connections_max, per_user, limits.subscriptions_per_connection_max)
    };
    assert_eq!(of("acme"), (0, 7, 50));
    assert_eq!(of("a.b"), (1000, 7, 3));
    assert_eq!(of("another"), (1000, 7, 50));
    let shown =
        show::effective(&load(&Directory::new(&[("config.toml", &file)]).sources(&[])).unwrap());
    assert!(shown.contains("# tenant_overrides: acme (max_connections = 0)\n"), "{shown}");
}

#[test]
fn with_tenants_off_there_are_none_and_overrides_are_warned_of() {
    let settings = settings("[tenant.tenant_overrides.acme]\nmax_connections = 1", &[]);
    assert!(settings.limits.tenants.is_none());
    assert!(settings.warnings.iter().any(|warning| warning.contains("tenant.tenant_overrides")));
}

#[test]
fn a_fault_is_named_by_its_path() {
    for (file, key) in [
        ("[tenant.tenant_overrides.acme]\nmax_conections = 1", "acme.max_conections"),
        ("[tenant.tenant_overrides.acme]\nmax_connections = -1", "acme.max_connections"),
        ("[tenant.tenant_overrides.acme]\nmax_connections = 'x'", "acme.max_connections"),
        ("[tenant.tenant_overrides.\"a/b\"]\nmax_connections = 1", "a/b"),
        ("[tenant.tenant_overrides]\nacme = 1", "acme"),
    ] {
        let fault = one_fault(&format!("{ON}{file}"), &[]);
        assert_eq!(&*fault.key, format!("tenant.tenant_overrides.{key}"), "{fault}");
    }
    assert_eq!(&*one_fault("tenant.tenant_overrides = 1", &[]).key, "tenant.tenant_overrides");
}
