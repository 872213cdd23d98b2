//! The house rules that no compiler checks, each a plain test over the syntax of the sources.
//!
//! Set-up: the repository's files, parsed. Property: the crates keep their boundary, the state stays
//! pure, every module says where it runs, no file grows without end, documents name what is there,
//! nothing is left over. Why: a rule nobody checks is a wish.
//!
//! The rules about code are data, in `rules.rs`, each with examples that break it; how a path is
//! understood is in `names.rs`, what a file says in `facts.rs`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod circles;
mod facts;
mod lengths;
mod names;
mod rule;
mod rules;
mod sources;
mod texts;

use std::sync::LazyLock;

use rules::RULES;
use sources::{Sources, files_below, read, repository};

/// The folders with code, whether it ships or not.
const CODE: &[&str] = &["src", "shards", "benches", "tests"];

/// The documents that say how things are now; records and the change log say how they were.
const DOCUMENTS: &[&str] = &["README.md", "CONTRIBUTING.md", "docs/architecture.md"];

/// Parsed once for all tests.
static SOURCES: LazyLock<Sources> = LazyLock::new(Sources::read);

fn assert_none(faults: &[String], advice: &str) {
    assert!(faults.is_empty(), "{}\n{advice}", faults.join("\n"));
}

#[test]
fn the_code_keeps_every_rule() {
    let broken = RULES.iter().filter_map(|rule| {
        let faults = rule.faults(&SOURCES);
        let told = format!("{}\n  rule: {}\n  why: {}\n", faults.join("\n"), rule.name, rule.why);
        (!faults.is_empty()).then_some(told)
    });
    assert_none(&broken.collect::<Vec<_>>(), "The rules stand in tests/tidy/rules.rs.");
}

/// A rule that cannot fail is a defect of its own.
#[test]
fn every_rule_judges_its_examples() {
    for rule in RULES {
        assert!(!rule.caught.is_empty(), "no example breaks the rule: {}", rule.name);
        assert!(!rule.passed.is_empty(), "no example keeps the rule: {}", rule.name);
        assert_none(&rule.misjudged(), rule.name);
    }
}

#[test]
fn files_stay_short() {
    assert_none(&lengths::faults(&SOURCES), "tests/tidy/lengths.rs says what counts.");
}

#[test]
#[ignore = "writes tests/tidy/lengths.txt"]
fn lower_the_lengths() {
    lengths::lower_the_list(&SOURCES);
}

#[test]
fn modules_have_an_order() {
    let advice =
        "Move what both need below both, or hand it in; tests/tidy/circles.rs says what counts.";
    assert_none(&circles::faults(&SOURCES), advice);
}

/// A file that no `mod` names is not compiled, and no rule sees it.
#[test]
fn every_file_belongs_to_a_crate() {
    let known = |path: &String| {
        SOURCES.tests.contains(path) || SOURCES.shipped.iter().any(|file| file.path == *path)
    };
    let files =
        ["src", "shards/src", "benches/src"].iter().flat_map(|place| files_below(place, ".rs"));
    let unknown: Vec<String> = files.filter(|path| !known(path)).collect();
    assert!(unknown.is_empty(), "no `mod` names {unknown:?}");
}

#[test]
fn the_engine_knows_no_http_redis_token_metrics_or_configuration_format() {
    let manifest = read("shards/Cargo.toml");
    let found = texts::banned_dependencies(&manifest, texts::NOT_FOR_THE_ENGINE);
    assert_none(&found, "shards/Cargo.toml depends on these, which belong to the gateway.");
}

#[test]
fn nothing_is_left_over() {
    let mut found = Vec::new();
    for path in CODE.iter().flat_map(|place| files_below(place, ".rs")) {
        let lines = texts::left_over(&read(&path));
        found.extend(lines.into_iter().map(|line| format!("{path}:{line}")));
    }
    assert_none(&found, "Do it now, or file an issue.");
}

#[test]
fn every_script_explains_itself() {
    let mut scripts = files_below("scripts", "");
    scripts.push(".ci/run".to_owned());
    let lacking = scripts.iter().flat_map(|path| {
        texts::unexplained(&read(path))
            .into_iter()
            .map(move |part| format!("{path} lacks `{part}`"))
    });
    assert_none(&lacking.collect::<Vec<_>>(), "scripts/check shows how.");
}

#[test]
fn documents_name_files_that_exist() {
    let mut stale = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let gone = texts::named_files(&text).into_iter();
        let gone = gone.filter(|file| !repository().join(file).exists());
        stale.extend(gone.map(|file| format!("{document}: {file}")));
    }
    assert_none(&stale, "There is no file and no folder of this name.");
}

/// An invariant names the test that fails without it.
#[test]
fn the_architecture_names_tests_that_exist() {
    let code = CODE.iter().flat_map(|place| [files_below(place, ".rs"), files_below(place, ".py")]);
    let code: String = code.flatten().map(|path| read(&path)).collect();
    let is_defined = |test: &&str| {
        code.contains(&format!("fn {test}(")) || code.contains(&format!("def {test}("))
    };
    let architecture = read("docs/architecture.md");
    let named = texts::named_tests(&architecture);
    assert!(!named.is_empty(), "docs/architecture.md names no test");
    let gone = named.into_iter().filter(|test| !is_defined(test)).map(str::to_owned);
    assert_none(
        &gone.collect::<Vec<_>>(),
        "docs/architecture.md names these tests, nothing else does.",
    );
}
