//! No circle of modules: among the modules of one folder, at every level, there is an order in which
//! each names only those before it.
//!
//! What a file names is read from its syntax, so a path counts wherever it stands, not only in `use`.
//! A module and those inside it are one thing and may name each other. What a parent hands on, by a
//! `use` of its own, is of the module that has it.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Facts, What};
use crate::names::Segments;
use crate::sources::Sources;

const ENGINE: &str = "shards/src/lib.rs";

/// The upward steps that are still there: the crate's root, who names, and whom. The list may shrink,
/// never grow: an entry that closes no circle fails.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(ENGINE, "journal::compaction", "journal::handle")];

/// A file as the graph sees it.
struct File<'a> {
    path: &'a str,
    module: &'a Segments,
    facts: &'a Facts,
}

/// Who names whom, among modules of one parent, and where that is to be seen first.
type Edges = BTreeMap<(String, String), String>;

/// Every step of a circle, and every exception that is not needed.
pub(crate) fn faults(sources: &Sources) -> Vec<String> {
    let roots: BTreeSet<_> = sources.shipped.iter().map(|source| source.root).collect();
    let mut faults = Vec::new();
    for root in roots {
        let files = sources.shipped.iter().filter(|source| source.root == root);
        let files: Vec<_> =
            files.map(|s| File { path: &s.path, module: &s.module, facts: &s.facts }).collect();
        let excepted = EXCEPTIONS.iter().filter(|(of, ..)| *of == root);
        let excepted: Vec<_> =
            excepted.map(|(_, from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let found = judge(&files, &excepted).into_iter();
        faults.extend(found.map(|fault| format!("{root}: {fault}")));
    }
    let gone = EXCEPTIONS.iter().filter(|(root, ..)| sources.at(root).next().is_none());
    faults.extend(gone.map(|(root, ..)| format!("{root}: no crate has this root")));
    faults
}

fn judge(files: &[File<'_>], excepted: &[(String, String)]) -> Vec<String> {
    let all = edges(files);
    let allowed = |skipped: Option<&(String, String)>| -> Edges {
        let is_left = |edge: &(String, String)| !excepted.contains(edge) || skipped == Some(edge);
        all.iter()
            .filter(|(edge, _)| is_left(edge))
            .map(|(e, at)| (e.clone(), at.clone()))
            .collect()
    };
    let left = allowed(None);
    let closing = left.iter().filter(|((from, to), _)| reaches(&left, to, from));
    let mut faults: Vec<_> =
        closing.map(|((from, to), at)| format!("{from} -> {to} is in a circle ({at})")).collect();
    let idle = excepted.iter().filter(|edge| {
        !all.contains_key(*edge) || !reaches(&allowed(Some(edge)), &edge.1, &edge.0)
    });
    faults.extend(idle.map(|(from, to)| {
        format!("{from} -> {to}: is an exception in tests/tidy/circles.rs, but closes no circle")
    }));
    faults
}

/// The edges between modules that have the same parent.
fn edges(files: &[File<'_>]) -> Edges {
    let modules: BTreeSet<&[String]> = files.iter().map(|file| &file.module[..]).collect();
    let mut edges = Edges::new();
    for file in files {
        for fact in &file.facts.facts {
            let What::Path(named) = &fact.what else { continue };
            let shared = file.module.iter().zip(named).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (file.module.get(..=shared), named.get(..=shared)) else {
                continue;
            };
            let to = if modules.contains(to) { Some(to) } else { handed_on(files, to) };
            if let Some(to) = to.filter(|to| shared > 0 && *to != from) {
                let at = || format!("{}:{}", file.path, fact.line);
                edges.entry((name_of(from), name_of(to))).or_insert_with(at);
            }
        }
    }
    edges
}

/// The module from which the parent has a name that is used as the parent's own.
fn handed_on<'a>(files: &[File<'a>], named: &[String]) -> Option<&'a [String]> {
    let (name, parent) = named.split_last()?;
    let parent = files.iter().find(|file| file.module[..] == *parent)?;
    let paths = parent.facts.facts.iter().filter_map(|fact| match &fact.what {
        What::Path(path) => Some(&path[..]),
        _ => None,
    });
    let mut imports = paths.filter(|path| {
        path.len() > named.len() && path.starts_with(parent.module) && path.last() == Some(name)
    });
    imports.next()?.get(..named.len())
}

/// A module's path without `crate`.
fn name_of(module: &[String]) -> String {
    module.get(1..).unwrap_or_default().join("::")
}

/// Whether there is a way along the edges.
fn reaches(edges: &Edges, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            open.extend(edges.keys().filter(|(a, _)| a == module).map(|(_, b)| b.as_str()));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in modules of these names and texts.
    fn faults_of(modules: &[(&str, &str)], excepted: &[(&str, &str)]) -> Vec<String> {
        let parsed: Vec<(Segments, Facts)> = modules
            .iter()
            .map(|(name, text)| {
                let module: Segments =
                    ["crate"].into_iter().chain(name.split("::")).map(str::to_owned).collect();
                let facts = Facts::of(&syn::parse_file(text).unwrap(), module.clone());
                (module, facts)
            })
            .collect();
        let files: Vec<_> =
            parsed.iter().map(|(module, facts)| File { path: "file", module, facts }).collect();
        let excepted: Vec<_> =
            excepted.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        judge(&files, &excepted)
    }

    #[test]
    fn what_has_an_order_is_no_circle() {
        let house = [
            ("base", "pub struct A;"),
            ("state", "mod part; use crate::base::A; pub struct State;"),
            // A module and what is inside it are one thing.
            ("state::part", "use super::State; use crate::base::A;"),
            ("io", "use crate::state::part::B; fn a() { crate::base::A; }"),
        ];
        assert_eq!(faults_of(&house, &[]), [""; 0]);
    }

    #[test]
    fn a_circle_is_found_however_long_and_however_deep() {
        let two = [("a", "use crate::b::B;"), ("b", "fn f() { crate::a::g(); }")];
        let found = faults_of(&two, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a -> b is in a circle (file:1)"), "{found:?}");
        let three =
            [("a", "use super::b;"), ("b", "use crate::c;"), ("c", "use crate::a::A as C;")];
        assert_eq!(faults_of(&three, &[]).len(), 3);
        let deep = [("x", ""), ("x::a", "use super::b::B;"), ("x::b", "use crate::x::a::A;")];
        let found = faults_of(&deep, &[]);
        assert!(found.len() == 2 && found[0].starts_with("x::a -> x::b"), "{found:?}");
        let by_its_parts =
            [("a", ""), ("a::p", "use crate::b;"), ("b", ""), ("b::q", "use crate::a;")];
        assert_eq!(faults_of(&by_its_parts, &[]).len(), 2);
    }

    #[test]
    fn tests_may_name_anything() {
        let house = [
            ("a", "use crate::b::B;"),
            ("b", "#[cfg(test)] mod tests { use crate::a::A; fn a() { crate::a::f(); } }"),
        ];
        assert_eq!(faults_of(&house, &[]), [""; 0]);
    }

    #[test]
    fn an_exception_excuses_one_edge_and_only_while_it_closes_a_circle() {
        let circle = [("a", "use crate::b::B;"), ("b", "use crate::a::A;")];
        assert_eq!(faults_of(&circle, &[("b", "a")]), [""; 0]);
        let none = [("a", "use crate::b::B;"), ("b", "")];
        assert_eq!(faults_of(&none, &[("b", "a")]).len(), 1, "the edge has gone");
        assert_eq!(faults_of(&none, &[("a", "b")]).len(), 1, "it closes nothing");
        assert_eq!(faults_of(&circle, &[("b", "a"), ("a", "b")]).len(), 2, "one is enough");
    }

    #[test]
    fn a_name_that_the_parent_hands_on_is_of_the_module_that_has_it() {
        let house = [
            ("x", "mod a; mod b; pub use a::A;"),
            ("x::a", "use super::b::B; pub struct A;"),
            ("x::b", "use super::A; pub struct B;"),
        ];
        assert_eq!(faults_of(&house, &[]).len(), 2);
        let of_its_own = [("x", "mod a; mod b; pub struct A;"), house[1], house[2]];
        assert_eq!(faults_of(&of_its_own, &[]), [""; 0]);
        assert_eq!(faults_of(&[("a", "fn a() { crate::say!(\"b\"); }")], &[]), [""; 0]);
    }
}
