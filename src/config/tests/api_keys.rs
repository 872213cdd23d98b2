//! Set-up: as in the parent module, with entries of `[[api.keys]]`.
//! Property: an entry is taken as it was written, or each of its faults is named by its path, and
//! nothing given as a digest is repeated. Why it matters: a key that is wider than meant, or of
//! another tenant, is found by whoever abuses it.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::access::{KEYS_MAX, KeyDigest, Keyring, Scope};

const TENANTS: &str = "tenant.enabled = true\n";

fn digest(key: &str) -> String {
    KeyDigest::of(key.as_bytes()).to_hex()
}

fn entry(name: &str, key: &str, rest: &str) -> String {
    format!(
        "[[api.keys]]\nname = '{name}'\nsha256 = '{}'\nscopes = ['send']\n{rest}\n",
        digest(key)
    )
}

#[test]
fn an_entry_is_a_key() {
    let file = format!(
        "{TENANTS}{}{}",
        entry("billing", "one", "tenant = 'acme'\nnot_after = 2100-01-31T01:00:00+01:00"),
        entry("ops", "two", "not_after = '2100-01-31T00:00:00Z'")
            .replace("'send'", "'admin', 'read', 'read'"),
    );
    let settings = settings(&file, &[("API_KEY", "k")]);
    let [billing, ops] = &settings.api.keys[..] else { panic!("{:?}", settings.api.keys) };
    assert_eq!((&*billing.name, billing.tenant.as_deref()), ("billing", Some("acme")));
    assert_eq!(billing.scopes.iter().collect::<Vec<_>>(), [Scope::Send]);
    assert_eq!(ops.scopes.iter().collect::<Vec<_>>(), [Scope::Read, Scope::Admin]);
    assert_eq!((ops.tenant.as_deref(), ops.not_after), (None, billing.not_after));
    assert_eq!(billing.not_after, Some(UNIX_EPOCH + Duration::from_secs(4_105_036_800)));
    let ring = Keyring::new(settings.api.key.as_deref(), &settings.api.keys);
    for (secret, name) in [("k", "default"), ("one", "billing"), ("two", "ops")] {
        assert_eq!(&*ring.find(secret.as_bytes(), UNIX_EPOCH).unwrap().name, name);
    }
}

#[test]
fn keys_of_their_own_make_the_single_key_unnecessary() {
    let file = entry("a", "one", "");
    let no_single: Vec<_> = PRODUCTION.into_iter().filter(|(name, _)| *name != "API_KEY").collect();
    let settings = settings(&file, &no_single);
    assert!(settings.api.key.is_none() && settings.api.keys.len() == 1);
    // None is made up either, for which nobody asked.
    assert!(self::settings(&file, &[]).api.key.is_none());
    let fault = one_fault("", &no_single);
    assert!(&*fault.key == "api.key" && fault.fix.contains("ara-gateway key"), "{fault}");
    // A list of faulty keys is not reported as none.
    let fault = one_fault(&file.replace("'send'", "'post'"), &no_single);
    assert_eq!(&*fault.key, "api.keys[0].scopes");
    assert_eq!(self::settings("api.keys = []", &[("API_KEY", "k")]).api.keys, []);
    one_fault("api.keys = []", &no_single);
}

#[test]
fn every_fault_of_every_entry_is_named_by_its_path() {
    let file = "[[api.keys]]\n\
                name = 'default'\n\
                sha256 = 'hunter2hunter2'\n\
                scopes = []\n\
                [[api.keys]]\n\
                name = 'a b'\n\
                sha256 = 7\n\
                scopes = ['send', 'write']\n\
                tenant = 'a/b'\n\
                not_after = 2027-01-31\n\
                scope = 'send'\n\
                [[api.keys]]\n";
    let list = faults(file, &[]);
    let found: Vec<_> = list.iter().map(|fault| (&*fault.key, fault.origin)).collect();
    let line = |line| Origin::File { line };
    assert_eq!(
        found,
        [
            ("api.keys[0].name", line(2)),
            ("api.keys[0].sha256", line(3)),
            ("api.keys[0].scopes", line(4)),
            ("api.keys[1].name", line(6)),
            ("api.keys[1].sha256", line(7)),
            ("api.keys[1].scopes", line(8)),
            ("api.keys[1].tenant", line(9)),
            ("api.keys[1].not_after", line(10)),
            ("api.keys[1].scope", line(11)),
            ("api.keys[2].name", line(12)),
            ("api.keys[2].sha256", line(12)),
            ("api.keys[2].scopes", line(12)),
        ]
    );
    assert!(!format!("{list:?}").contains("hunter2"), "{list:?}");
    assert!(list.iter().all(|fault| !fault.allowed.is_empty() && !fault.fix.is_empty()));
    assert!(list[5].problem.contains("\"write\""), "{}", list[5]);
    for (wrong, told) in [
        ("api.keys = 'x'", "no list of tables"),
        ("[api.keys]\nname = 'x'", "no list of tables"),
        ("api.keys = ['x']", "entry 0 is no table"),
    ] {
        let fault = one_fault(wrong, &[]);
        assert!(&*fault.key == "api.keys" && fault.problem.contains(told), "{fault}");
    }
}

#[test]
fn keys_are_told_apart_by_name_and_by_digest() {
    let file = format!("{}{}", entry("a", "one", ""), entry("a", "one", ""));
    let list = faults(&file, &[("API_KEY", "one")]);
    let found: Vec<_> = list.iter().map(|fault| &*fault.key).collect();
    assert_eq!(
        found,
        ["api.keys[1].name", "api.keys[1].sha256", "api.keys[0].sha256", "api.keys[1].sha256"]
    );
    let fault = one_fault(&entry("a", "one", ""), &[("API_KEY", "one")]);
    assert!(fault.problem.contains("api.key"), "{fault}");
}

#[test]
fn a_key_for_a_tenant_needs_tenants() {
    let file = entry("a", "one", "tenant = 'acme'");
    let fault = one_fault(&file, &[]);
    assert_eq!(&*fault.key, "api.keys[0].tenant");
    settings(&format!("{TENANTS}{file}"), &[]);
}

#[test]
fn the_number_of_keys_is_bounded() {
    let keys = |count| (0..count).map(|n| entry(&format!("k{n}"), &n.to_string(), "")).collect();
    let full: String = keys(KEYS_MAX);
    assert_eq!(settings(&full, &[]).api.keys.len(), KEYS_MAX);
    let over: String = keys(KEYS_MAX + 1);
    let fault = one_fault(&over, &[]);
    assert!(fault.problem.contains("1001") && fault.allowed.contains("1000"), "{fault}");
}

#[test]
fn what_is_in_effect_shows_keys_without_digests() {
    let file = format!(
        "{TENANTS}{}{}",
        entry("billing", "one", "tenant = 'acme'\nnot_after = 2000-01-31T00:00:00Z"),
        entry("ops", "two", "")
    );
    let loaded = Directory::new(&[("config.toml", &file)]).load(&[]).unwrap();
    let text = show::effective(&loaded);
    let line =
        "# keys: billing (send, tenant acme, not after 2000-01-31T00:00:00Z)\n# keys: ops (send)\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("# warning: api.keys[0] (billing) has expired"), "{text}");
    assert!(
        !text.contains(&digest("one")[..12])
            && !format!("{:?}", loaded.settings).contains(&digest("one")[..12])
    );
}
