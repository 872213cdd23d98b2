//! The `.env` file: lines of `NAME=value`, read without touching the process environment.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing.
//! **Never**: expands `$NAME`, runs anything, or sets a variable of the process.
//!
//! A line is blank, a comment (`#`), or `NAME=value` with an optional `export` in front. A bare
//! value ends at the line's end or at a `#` after a space, and is trimmed. In single quotes
//! every character is literal; in double quotes `\n`, `\r`, `\t`, `\"`, `\\` and `\$` are
//! escapes. Both kinds may go over several lines. A name given twice has its last value.
//!
//! Written here rather than taken from the `dotenvy` crate, which puts values of the environment in
//! the place of `$NAME`, so that a secret with a dollar in it silently becomes another one, and
//! which knows no line numbers.

use std::collections::BTreeMap;

/// A value and the line it begins on.
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// Unquoted.
    pub(super) value: String,
}

/// A line that could not be read. It carries no value, which may be a secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Counted from 1.
    pub(super) number: usize,
    /// The name it seems to set; empty where it has none.
    pub(super) name: String,
    /// What is wrong with it.
    pub(super) problem: &'static str,
}

/// Reads the whole file, as far as it can be read.
pub(super) fn parse(text: &str) -> (BTreeMap<String, Line>, Vec<BadLine>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut values = BTreeMap::new();
    let mut bad = Vec::new();
    let mut rest = text;
    let mut number = 1;
    while !rest.is_empty() {
        let taken = match entry(rest) {
            Ok((length, Some((name, value)))) => {
                values.insert(name.to_owned(), Line { number, value });
                length
            }
            Ok((length, None)) => length,
            Err(problem) => {
                let length = line_length(rest);
                let line = rest.get(..length).unwrap_or(rest);
                bad.push(BadLine { number, name: name_of(line).to_owned(), problem });
                length
            }
        };
        let (done, left) = rest.split_at_checked(taken.max(1)).unwrap_or((rest, ""));
        number += done.matches('\n').count();
        rest = left;
    }
    (values, bad)
}

type Entry<'a> = (usize, Option<(&'a str, String)>);

/// Reads one entry from the start of a line; how many bytes it took, its line's end included.
fn entry(rest: &str) -> Result<Entry<'_>, &'static str> {
    let length = line_length(rest);
    let line = rest.get(..length).unwrap_or(rest);
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok((length, None));
    }
    let (name, after) = line.split_once('=').ok_or("there is no = in it")?;
    let name = without_export(name.trim());
    let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !valid {
        return Err("what stands before the = is not a name");
    }
    let opening = after.trim_start_matches([' ', '\t']);
    let start = length - opening.len();
    let (taken, value) = match opening.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let inside = rest.get(start + 1..).unwrap_or_default();
            let (used, value) = quoted(inside, quote)?;
            let tail = inside.get(used..).unwrap_or_default();
            let tail_length = line_length(tail);
            let leftover = tail.get(..tail_length).unwrap_or_default().trim();
            if !leftover.is_empty() && !leftover.starts_with('#') {
                return Err("something follows the closing quote");
            }
            (start + 1 + used + tail_length, value)
        }
        _ => (length, bare(opening).to_owned()),
    };
    Ok((taken, Some((name, value))))
}

/// `export` as a shell takes it: with any blank behind it.
fn without_export(text: &str) -> &str {
    text.strip_prefix("export")
        .filter(|rest| rest.starts_with([' ', '\t']))
        .map_or(text, str::trim_start)
}

/// The name that a malformed line seems to set.
fn name_of(line: &str) -> &str {
    let line = without_export(line.trim_start());
    let end = line.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    line.get(..end.unwrap_or(line.len())).unwrap_or_default()
}

fn line_length(rest: &str) -> usize {
    rest.find('\n').map_or(rest.len(), |end| end + 1)
}

fn bare(text: &str) -> &str {
    if text.starts_with('#') {
        return "";
    }
    let comment = [" #", "\t#"].iter().filter_map(|mark| text.find(mark)).min();
    text.get(..comment.unwrap_or(text.len())).unwrap_or(text).trim()
}

/// Reads up to the closing quote; how many bytes that took, the quote included.
fn quoted(inside: &str, quote: char) -> Result<(usize, String), &'static str> {
    let mut value = String::new();
    let mut characters = inside.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((index + 1, value)),
            '\\' if quote == '"' => match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(escaped @ ('"' | '\\' | '$')) => value.push(escaped),
                _ => return Err("there is an unknown escape in double quotes"),
            },
            '\r' if inside.get(index + 1..).is_some_and(|next| next.starts_with('\n')) => {}
            _ => value.push(character),
        }
    }
    Err("its closing quote is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let (mut values, bad) = parse(text);
        assert_eq!(bad, [], "{text:?}");
        values.remove("A").expect("A is set").value
    }

    #[test]
    fn values_bare_and_quoted() {
        for (text, expected) in [
            ("A=1", "1"),
            ("  export A = 1  # why\n", "1"),
            ("A=a#b", "a#b"),
            ("A=#b", ""),
            ("A=", ""),
            ("A='x # y'", "x # y"),
            ("A='\\n$B' # c", "\\n$B"),
            ("A=\"x\\n\\\"y\\\" \\$Z\\\\\"", "x\n\"y\" $Z\\"),
            ("A=\"one\r\ntwo\"\r\n", "one\ntwo"),
            ("\u{feff}A=1\r\n", "1"),
            ("A=1\nA=2\n", "2"),
            ("A=ключ", "ключ"),
            ("export\tA=1", "1"),
            ("A=two words", "two words"),
            ("A=x#y # z", "x#y"),
            ("A = 'x'\r\n", "x"),
            ("A=$B${C}\\n", "$B${C}\\n"),
            ("A=it's \"fine\"", "it's \"fine\""),
            ("exportA=0\nA=1", "1"),
        ] {
            assert_eq!(one(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_bad_line_is_named_and_the_rest_is_read() {
        let (values, bad) =
            parse("non sense\nA=1\n9X=2\nB='x' y\nC=\"\\q\"\n\nD='a\nb'\nE='open\n");
        let found: Vec<_> = bad.iter().map(|line| (line.number, line.name.as_str())).collect();
        assert_eq!(found, [(1, "non"), (3, "9X"), (4, "B"), (5, "C"), (9, "E")]);
        assert_eq!(values.get("A").map(|line| line.number), Some(2));
        assert_eq!(
            values.get("D").map(|line| (line.number, line.value.as_str())),
            Some((7, "a\nb"))
        );
    }
}
