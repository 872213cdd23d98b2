//! How long files may be: a ratchet, so that long files may exist, but none grows.
//!
//! What counts is a line on which code stands. Comments and blank lines cost nothing, so that
//! nobody saves on them, and neither do tests. Functions are held by clippy (`too_many_lines`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};

use crate::facts::Facts;
use crate::sources::{Sources, read, repository};

/// What a file may have without a word.
const SOFT_LINES_MAX: usize = 400;
/// What a file may have that is in [`LIST`].
const HARD_LINES_MAX: usize = 600;
/// The files that are longer than [`SOFT_LINES_MAX`], one on each line: what they have now, the
/// path, and why this is one idea. The numbers may fall, never rise.
const LIST: &str = "tests/tidy/lengths.txt";

type Lengths = BTreeMap<String, usize>;

/// An entry of the list.
struct Entry {
    path: String,
    lines: usize,
    reason: String,
}

/// How the files break the ratchet.
pub(crate) fn faults(sources: &Sources) -> Vec<String> {
    compare(&measure(sources), &listed(&read(LIST)))
}

/// Lowers the list to what the files have now. It raises no number and adds no file.
pub(crate) fn lower_the_list(sources: &Sources) {
    fs::write(repository().join(LIST), lowered(&measure(sources), listed(&read(LIST)))).unwrap();
}

fn lowered(lengths: &Lengths, list: Vec<Entry>) -> String {
    let needed = list.into_iter().filter_map(|entry| {
        let lines = *lengths.get(&entry.path)?;
        (lines > SOFT_LINES_MAX)
            .then(|| format!("{} {} {}\n", lines.min(entry.lines), entry.path, entry.reason))
    });
    needed.collect()
}

fn measure(sources: &Sources) -> Lengths {
    let files = sources.shipped.iter();
    files.map(|file| (file.path.clone(), code_lines(&file.text, &file.facts.tests))).collect()
}

fn listed(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let lines = words.next()?.parse().ok()?;
        let path = words.next()?.to_owned();
        let reason = words.next().filter(|reason| !reason.trim().is_empty())?.to_owned();
        Some(Entry { path, lines, reason })
    };
    let entries = text.lines().map(|line| {
        entry(line).unwrap_or_else(|| panic!("{LIST}: not `lines path why it is one idea`: {line}"))
    });
    entries.collect()
}

fn compare(lengths: &Lengths, list: &[Entry]) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, &lines) in lengths {
        let allowed = list.iter().find(|entry| entry.path == *path).map(|entry| entry.lines);
        let limit = allowed.unwrap_or(SOFT_LINES_MAX).min(HARD_LINES_MAX);
        if lines > limit {
            faults.push(format!(
                "{path}: {lines} lines of code, at most {limit}: cut it where an idea ends"
            ));
        }
    }
    let lower = "`cargo test --test tidy -- --ignored lower_the_lengths` lowers the list";
    for Entry { path, lines: allowed, .. } in list {
        match lengths.get(path) {
            None => {
                faults.push(format!("{LIST}: {path} is not there: move its entry or delete it"))
            }
            Some(&lines) if lines <= SOFT_LINES_MAX => {
                faults.push(format!("{LIST}: {path} has {lines} lines, needs no entry; {lower}"));
            }
            Some(lines) if lines < allowed => faults
                .push(format!("{LIST}: {path} has {lines} lines, {allowed} are listed; {lower}")),
            Some(_) => {}
        }
    }
    faults
}

/// The lines on which code stands that is not in `tests`.
fn code_lines(text: &str, tests: &[(LineColumn, LineColumn)]) -> usize {
    let tokens: TokenStream = text.parse().unwrap();
    let mut lines = BTreeSet::new();
    add_lines(tokens, tests, &mut lines);
    lines.len()
}

fn add_lines(tokens: TokenStream, tests: &[(LineColumn, LineColumn)], lines: &mut BTreeSet<usize>) {
    let mut mark = None;
    for token in tokens {
        let span = token.span();
        if tests.iter().any(|(start, end)| *start <= span.start() && span.end() <= *end) {
            continue;
        }
        // A doc comment is `#[doc = "…"]` to the parser: the `#` waits until what follows is known.
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                lines.extend(mark.replace(span.start().line));
                continue;
            }
            TokenTree::Punct(punct) if punct.as_char() == '!' && mark.is_some() => continue,
            TokenTree::Group(group) => {
                if mark.is_some() && is_doc(&group) {
                    mark = None;
                    continue;
                }
                lines.insert(group.span_open().start().line);
                add_lines(group.stream(), tests, lines);
                lines.insert(group.span_close().end().line);
            }
            _ => lines.extend(span.start().line..=span.end().line),
        }
        lines.extend(mark.take());
    }
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    let mut tokens = group.stream().into_iter();
    group.delimiter() == Delimiter::Bracket
        && matches!(tokens.next(), Some(TokenTree::Ident(name)) if name == "doc")
        && matches!(tokens.next(), Some(TokenTree::Punct(mark)) if mark.as_char() == '=')
}

fn counted(text: &str) -> usize {
    let module = ["crate", "example"].map(str::to_owned).to_vec();
    code_lines(text, &Facts::of(&syn::parse_file(text).unwrap(), module).tests)
}

#[test]
fn comments_blank_lines_and_tests_are_no_code() {
    assert_eq!(counted("//! Head.\n\n// Why.\n/// Doc.\nfn a() {\n\n    /* b */ c();\n}\n"), 3);
    assert_eq!(counted("#[inline]\nfn a() {}\n"), 2, "an attribute is code");
    assert_eq!(counted("const A: &str = \"one\ntwo\";\n"), 2, "so is every line of a string");
    assert_eq!(counted("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n"), 1);
    assert_eq!(counted("struct A;\nimpl A {\n    #[cfg(test)]\n    fn b() {\n    }\n}\n"), 3);
    assert_eq!(counted("#[cfg(not(test))]\nfn a() {\n}\n"), 3, "this is compiled without tests");
}

#[test]
fn the_ratchet_turns_one_way() {
    let long = SOFT_LINES_MAX + 10;
    let holds = |lines: usize, list: &str| {
        let lengths = Lengths::from([("a".to_owned(), lines)]);
        compare(&lengths, &listed(list)).is_empty()
    };
    let entry = format!("{long} a One idea.");
    assert!(holds(SOFT_LINES_MAX, ""));
    assert!(holds(long, &entry));
    assert!(!holds(SOFT_LINES_MAX + 1, ""), "a new long file");
    assert!(!holds(long + 1, &entry), "a listed file grew");
    assert!(!holds(long - 1, &entry), "a listed file shrank and the list was not lowered");
    assert!(!holds(SOFT_LINES_MAX, &entry), "a listed file is short");
    assert!(!holds(long, &format!("{entry}\n{long} b Another.")), "a listed file is gone");
    let too_long = HARD_LINES_MAX + 1;
    assert!(!holds(too_long, &format!("{too_long} a One idea.")), "over the hard size");
}

#[test]
fn the_list_is_lowered_never_raised() {
    let long = SOFT_LINES_MAX + 10;
    let list = |a, b, c| listed(&format!("{a} a Why a.\n{b} b Why b.\n{c} c Why c.\n"));
    let lengths =
        Lengths::from([("a".to_owned(), long), ("b".to_owned(), long), ("c".to_owned(), 1)]);
    let expected = format!("{} a Why a.\n{long} b Why b.\n", long - 1);
    assert_eq!(lowered(&lengths, list(long - 1, long + 1, long)), expected);
}
