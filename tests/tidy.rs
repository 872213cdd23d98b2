//! The house rules that no compiler checks: each is a plain test over the source text.
//!
//! Set-up: the repository's files. Property: the crates keep their boundary, the state stays pure,
//! every module says where it runs, nothing is left over. Why: a rule nobody checks is a wish.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`, with their text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {folder}");
    found
}

/// The part of a file that ships: everything before its tests.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test_file(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    name.contains("tests") || path.components().any(|part| part.as_os_str() == "tests")
}

#[test]
fn every_module_says_where_it_runs_what_it_owns_and_what_it_never_does() {
    for (path, text) in sources("src").into_iter().chain(sources("shards/src")) {
        if is_test_file(&path) || path.ends_with("src/main.rs") {
            continue;
        }
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        for fact in ["**Runs on**", "**Owns**", "**Never**"] {
            assert!(head.contains(fact), "{}: the module head lacks {fact}", path.display());
        }
    }
}

/// Unknown, repeated and null fields, and the words of a fault, are decided in one place.
#[test]
fn json_from_outside_has_one_reader() {
    // It reads back what the router wrote.
    let reads_its_own = "src/api/letters.rs";
    let folders = ["src/api", "src/redis", "shards/src/codec"];
    for (path, text) in folders.into_iter().flat_map(sources) {
        let is_reader = path.to_string_lossy().contains("codec/json");
        if is_reader || is_test_file(&path) || path.ends_with(reads_its_own) {
            continue;
        }
        let by_hand = shipped(&text).contains("serde_json::from_");
        assert!(!by_hand, "{}: use ara_shards::codec::json", path.display());
    }
}

/// What a page may read or send is the same on streams, errors and refusals.
#[test]
fn cors_headers_are_written_in_one_place() {
    for (path, text) in sources("src").into_iter().chain(sources("shards/src")) {
        let text = shipped(&text).to_ascii_lowercase();
        let writes = text.contains("access-control-") || text.contains("access_control_");
        assert!(!writes || path.ends_with("src/origin.rs"), "{}: use `origin`", path.display());
    }
}

/// Invariants 1 and 10.
#[test]
fn the_state_is_pure_and_the_engine_shares_nothing() {
    for (path, text) in sources("shards/src/state") {
        for banned in ["std::io", "std::net", "mio::", "tokio::", "Instant", "SystemTime", "async "]
        {
            assert!(!shipped(&text).contains(banned), "{}: {banned} in the state", path.display());
        }
    }
    for (path, text) in sources("shards/src") {
        for banned in ["Mutex", "RwLock", "OnceLock", "LazyLock", "static mut", "unbounded("] {
            let code: String =
                shipped(&text).lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            assert!(!code.contains(banned), "{}: {banned} in the engine", path.display());
        }
    }
}

#[test]
fn the_engine_knows_no_http_redis_token_metrics_or_configuration_format() {
    let manifest = fs::read_to_string(root().join("shards/Cargo.toml")).unwrap();
    for banned in ["hyper", "redis", "jsonwebtoken", "metrics", "toml", "clap", "ara-gateway"] {
        let named = manifest.lines().any(|line| line.starts_with(banned));
        assert!(!named, "shards/Cargo.toml depends on {banned}");
    }
}

#[test]
fn only_the_redis_folder_names_the_redis_crate() {
    for (path, text) in sources("src") {
        if path.components().any(|part| part.as_os_str() == "redis") {
            continue;
        }
        assert!(!text.contains("use redis::"), "{} uses the redis crate", path.display());
    }
}

#[test]
fn nothing_is_left_over() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let files = ["src", "shards/src", "benches/src", "tests"].into_iter().flat_map(sources);
    for (path, text) in files {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{}: {mark}", path.display());
        }
    }
}

/// A ratchet: long files may exist, but no new ones.
#[test]
fn files_fit_in_the_head() {
    const LINES_MAX: usize = 450;
    for (path, text) in sources("src").into_iter().chain(sources("shards/src")) {
        let lines = text.lines().count();
        if is_test_file(&path) {
            continue;
        }
        assert!(lines <= LINES_MAX, "{}: {lines} lines, at most {LINES_MAX}", path.display());
    }
}

#[test]
fn every_script_explains_itself() {
    for entry in fs::read_dir(root().join("scripts")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for part in ["# Does:", "# Needs:", "# Changes:", "--help"] {
            assert!(text.contains(part), "{} lacks `{part}`", path.display());
        }
    }
}
