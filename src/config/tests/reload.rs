//! Set-up: as in the parent module; the files are changed, and the running configuration is compared
//! with them. Property: what is live changes, what is not is named and stays, and a fault of either
//! way of looking at it changes nothing. Why it matters: nobody watches a reload; what it leaves half
//! done is found much later.

use super::*;
use crate::access::KeyDigest;
use crate::config::reload::{Reloaded, reload};

/// A directory with this file and what runs on it.
fn running(file: &str, environment: &[(&str, &str)]) -> (Directory, Sources, Loaded) {
    let directory = Directory::new(&[("config.toml", file)]);
    let sources = directory.sources(environment);
    let loaded = load(&sources).map_err(|faults| faults.to_string()).unwrap();
    (directory, sources, loaded)
}

/// What a reload with this file comes to.
fn change(directory: &Directory, sources: &Sources, running: &Loaded, file: &str) -> Reloaded {
    write(directory, file);
    reload(sources, running).map_err(|faults| faults.to_string()).unwrap()
}

fn write(directory: &Directory, file: &str) {
    std::fs::write(directory.0.join("config.toml"), file).unwrap();
}

fn refused(directory: &Directory, sources: &Sources, running: &Loaded, file: &str) -> Vec<Fault> {
    write(directory, file);
    match reload(sources, running) {
        Ok(_) => panic!("accepted: {file}"),
        Err(faults) => faults.list,
    }
}

fn key(name: &str, rest: &str) -> String {
    let digest = KeyDigest::of(name.as_bytes()).to_hex();
    format!("[[api.keys]]\nname = '{name}'\nsha256 = '{digest}'\nscopes = ['read']\n{rest}\n")
}

#[test]
fn what_is_live_changes_and_what_is_not_is_named_until_the_restart() {
    let first = "[server]\nport = 1\nmax_connections = 10\n[queue]\nenabled = false\n";
    let (directory, sources, started) = running(first, &[("API_KEY", "k")]);
    let second = "[server]\nport = 2\nmax_connections = 20\n[log]\nfilter = 'warn'\n[queue]\nenabled = true\n";
    let file = format!("{second}{}", key("a", ""));
    let Reloaded { loaded, applied, needs_restart } = change(&directory, &sources, &started, &file);
    assert_eq!(applied, ["server.max_connections", "log.filter", "api.keys"]);
    assert_eq!(needs_restart, ["server.port", "queue.enabled"]);
    let settings = &loaded.settings;
    assert_eq!((settings.server.connections_max, &*settings.log.filter), (20, "warn"));
    assert_eq!((settings.server.address.port(), settings.limits.queue), (1, None));
    assert_eq!(settings.api.keys.len(), 1);

    // Nothing more has changed, and the restart is still due.
    let again = change(&directory, &sources, &loaded, &file);
    assert!(again.applied.is_empty(), "{:?}", again.applied);
    assert_eq!(again.needs_restart, ["server.port", "queue.enabled"]);
    // What is undone is not due any more.
    let back = change(&directory, &sources, &again.loaded, first);
    assert_eq!(back.applied, ["server.max_connections", "log.filter", "api.keys"]);
    assert!(back.needs_restart.is_empty() && back.loaded.settings.api.keys.is_empty());
}

#[test]
fn a_fault_is_found_in_what_is_written_and_in_what_would_run() {
    let (directory, sources, started) = running("", &[("API_KEY", "k")]);
    let list = refused(
        &directory,
        &sources,
        &started,
        "[server]\nport = 70000\nmax_connections = -1\nprot = 1\n",
    );
    assert_eq!(list.len(), 3, "{list:?}");
    assert_eq!(refused(&directory, &sources, &started, "[server").len(), 1);
    // Right for the next start, and wrong now: tenants are off until then.
    let file = format!("tenant.enabled = true\n{}", key("a", "tenant = 'acme'"));
    let list = refused(&directory, &sources, &started, &file);
    assert_eq!((list.len(), &*list[0].key), (1, "api.keys[0].tenant"), "{list:?}");
    load(&sources).map_err(|faults| faults.to_string()).unwrap();
    // And the other way round: a running production gateway stays one.
    let (directory, sources, started) = running("run_mode = 'production'", &PRODUCTION[1..]);
    let mut loose = sources.clone();
    loose.environment.remove("CORS_ORIGINS");
    let list = refused(&directory, &loose, &started, "run_mode = 'development'");
    assert_eq!((list.len(), &*list[0].key), (1, "server.cors_origins"), "{list:?}");
}

#[test]
fn a_secret_that_was_made_up_is_kept_and_one_that_was_given_is_not_made_up_anew() {
    let (directory, sources, started) = running("", &[]);
    let reloaded = change(&directory, &sources, &started, "[log]\nfilter = 'warn'\n");
    assert_eq!(reloaded.applied, ["log.filter"]);
    let secrets =
        |loaded: &Loaded| (loaded.settings.api.key.clone(), loaded.settings.jwt.secret.clone());
    assert!(secrets(&reloaded.loaded) == secrets(&started) && secrets(&started).0.is_some());
    // It may be given now, and then not be taken away again.
    let given = change(&directory, &sources, &reloaded.loaded, "api.key = 'k'");
    assert_eq!(given.applied, ["api.key", "log.filter"]);
    assert_eq!(given.loaded.settings.api.key.as_deref(), Some("k"));
    let list = refused(&directory, &sources, &given.loaded, "");
    assert_eq!((list.len(), &*list[0].key), (1, "api.key"), "{list:?}");
    assert!(list[0].fix.contains("restart"), "{}", list[0]);
    // Keys of their own are as good.
    let keys = change(&directory, &sources, &given.loaded, &key("a", ""));
    assert_eq!(keys.applied, ["api.key", "api.keys"]);
    assert_eq!(keys.loaded.settings.api.key, None);
}

#[test]
fn a_public_key_changes_with_the_file_that_its_path_names() {
    let fixture = |name: &str| {
        let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let file = "[jwt]\nalgorithm = 'RS256'\npublic_key = 'key.pem'\n";
    let directory =
        Directory::new(&[("config.toml", file), ("key.pem", &fixture("rsa2048.pub.pem"))]);
    let sources = directory.sources(&[]);
    let started = load(&sources).map_err(|faults| faults.to_string()).unwrap();
    assert!(change(&directory, &sources, &started, file).applied.is_empty());
    std::fs::write(directory.0.join("key.pem"), fixture("rsa2048.pkcs1.pub.pem")).unwrap();
    assert_eq!(change(&directory, &sources, &started, file).applied, ["jwt.public_key"]);
    std::fs::write(directory.0.join("key.pem"), fixture("rsa1024.pub.pem")).unwrap();
    assert_eq!(&*refused(&directory, &sources, &started, file)[0].key, "jwt.public_key");
}
