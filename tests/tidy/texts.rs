//! The rules about what is no code: manifests, scripts, documents, and what was left over.

use std::collections::BTreeSet;

/// What the engine may not depend on, by the beginning of the name: it knows no HTTP, no Redis, no
/// token, no metrics and no configuration format.
pub(crate) const NOT_FOR_THE_ENGINE: &[&str] =
    &["ara-gateway", "clap", "http", "hyper", "jsonwebtoken", "metrics", "redis", "toml"];

/// The parts that open a script.
const SCRIPT_PARTS: &[&str] = &["# Does:", "# Needs:", "# Changes:", "--help"];

/// The folders that documents name files in.
const FOLDERS: &[&str] = &["src", "shards", "benches", "tests", "docs", "scripts", "k6", ".ci"];

/// The dependencies of a manifest that begin with one of `banned`.
pub(crate) fn banned_dependencies(manifest: &str, banned: &[&str]) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let mut found = Vec::new();
    gather(&manifest, banned, &mut found);
    found
}

/// Tables of dependencies stand at the top and below `target`.
fn gather(table: &toml::Table, banned: &[&str], found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if !key.ends_with("dependencies") {
            gather(inner, banned, found);
            continue;
        }
        for (name, settings) in inner {
            // `another = { package = "hyper" }` is hyper too.
            let package = settings.get("package").and_then(|p| p.as_str()).unwrap_or(name);
            if banned.iter().any(|banned| package.starts_with(banned)) {
                found.push(package.to_owned());
            }
        }
    }
}

/// The marks of work that was not done, with the lines they are on.
pub(crate) fn left_over(text: &str) -> Vec<usize> {
    // Written in halves, since this file is searched too.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|halves| halves.concat());
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)))
        .map(|(n, _)| n + 1)
        .collect()
}

/// What a script does not say about itself.
pub(crate) fn unexplained(script: &str) -> Vec<&'static str> {
    SCRIPT_PARTS.iter().copied().filter(|part| !script.contains(part)).collect()
}

/// The files and folders that a document names in backticks, without `*` and placeholders.
pub(crate) fn named_files(document: &str) -> BTreeSet<&str> {
    let is_path = |word: &str| {
        word.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder))
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    quoted(document).filter(|word| is_path(word)).map(|word| word.trim_end_matches('/')).collect()
}

/// The tests that a document names in backticks: names of at least four words, as tests have here.
pub(crate) fn named_tests(document: &str) -> BTreeSet<&str> {
    let is_name = |word: &str| {
        word.split('_').count() >= 4
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted(document).filter(|word| is_name(word)).collect()
}

/// The first word of everything in backticks.
fn quoted(document: &str) -> impl Iterator<Item = &str> {
    let spans = document.split('`').skip(1).step_by(2);
    spans.filter_map(|span| span.split_whitespace().next())
}

#[test]
fn a_banned_dependency_is_found_however_it_is_named() {
    let found = |manifest| banned_dependencies(manifest, NOT_FOR_THE_ENGINE);
    assert_eq!(found("[dependencies]\nbytes = \"1\"\n"), [""; 0]);
    assert_eq!(found("[dependencies]\nhyper-util = \"1\"\n"), ["hyper-util"]);
    assert_eq!(found("[dependencies.redis]\nversion = \"1\"\n"), ["redis"]);
    assert_eq!(
        found("[dev-dependencies]\nb = { package = \"hyper\", version = \"1\" }\n"),
        ["hyper"]
    );
    assert_eq!(found("[target.'cfg(unix)'.dependencies]\ntoml = \"1\"\n"), ["toml"]);
}

#[test]
fn a_left_over_mark_is_found() {
    assert_eq!(left_over(&["a\n// TO", "DO: b\n"].concat()), [2]);
    assert_eq!(left_over("// nothing to do\n"), [0; 0]);
}

#[test]
fn a_script_without_a_part_is_found() {
    assert_eq!(unexplained("# Does: a\n# Needs: b\n--help"), ["# Changes:"]);
}

#[test]
fn a_document_names_files_and_tests_in_backticks() {
    let document =
        "`src/a.rs` holds `it_does_this_always` (`src/b/`); `src/*.rs`, `delivered_to`, src/c";
    assert_eq!(named_files(document), BTreeSet::from(["src/a.rs", "src/b"]));
    assert_eq!(named_tests(document), BTreeSet::from(["it_does_this_always"]));
}
