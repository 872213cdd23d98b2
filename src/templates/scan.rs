//! Walks over JSON text that is known to be valid: where its strings are, what their characters mean,
//! and the path of a place in it.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: nothing. **Never**:
//! recurses, so that no depth of the text costs stack; copies or changes a byte.

use std::fmt::Write as _;
use std::ops::Range;

/// The most characters of a path that are shown.
const PATH_CHARS_MAX: usize = 200;

/// A string in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonString {
    /// Its place, with the quotation marks.
    pub(super) place: Range<usize>,
    /// Whether it is the key of a member.
    pub(super) is_key: bool,
}

impl JsonString {
    /// Its place without the quotation marks.
    pub(super) const fn inside(&self) -> Range<usize> {
        self.place.start + 1..self.place.end - 1
    }
}

/// Every string of a text, in order.
pub(super) fn strings(text: &str) -> impl Iterator<Item = JsonString> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let bytes = text.as_bytes();
        let start = from + bytes.get(from..)?.iter().position(|byte| *byte == b'"')?;
        from = string_end(bytes, start);
        let next = bytes.get(from..)?.iter().find(|byte| !byte.is_ascii_whitespace());
        Some(JsonString { place: start..from, is_key: next == Some(&b':') })
    })
}

/// The end of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'\\') => at += 2,
            Some(b'"') | None => return at + 1,
            Some(_) => at += 1,
        }
    }
}

/// A character of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Character {
    /// Its place, however it is written.
    pub(super) place: Range<usize>,
    /// What it means; of half a surrogate pair, the replacement character.
    pub(super) meaning: char,
}

/// The characters of the string whose inside is at `inside`.
pub(super) fn characters(text: &str, inside: Range<usize>) -> impl Iterator<Item = Character> {
    let mut at = inside.start;
    std::iter::from_fn(move || {
        let rest = text.get(at..inside.end)?;
        let written = rest.chars().next()?;
        let (bytes, meaning) =
            if written == '\\' { escape(rest) } else { (written.len_utf8(), written) };
        let place = at..at + bytes;
        at = place.end;
        Some(Character { place, meaning })
    })
}

/// The length and meaning of the escape that a text begins with.
fn escape(text: &str) -> (usize, char) {
    match text.as_bytes().get(1) {
        Some(b'u') => (6, hexadecimal(text).and_then(char::from_u32).unwrap_or('\u{fffd}')),
        Some(b'n') => (2, '\n'),
        Some(b't') => (2, '\t'),
        Some(b'r') => (2, '\r'),
        Some(b'b') => (2, '\u{8}'),
        Some(b'f') => (2, '\u{c}'),
        Some(itself) => (2, char::from(*itself)),
        None => (1, '\\'),
    }
}

/// The number in an escape `\u`.
fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.get(2..6)?, 16).ok()
}

/// Whether the inside of a string has half of a surrogate pair, which stands for no character.
pub(super) fn has_half_pair(inside: &str) -> bool {
    if !inside.contains("\\u") {
        return false;
    }
    let mut is_high_open = false;
    for character in characters(inside, 0..inside.len()) {
        let written = inside.get(character.place).unwrap_or_default();
        let unit = if written.starts_with("\\u") { hexadecimal(written) } else { None };
        let is_low = unit.is_some_and(|unit| (0xDC00..0xE000).contains(&unit));
        if is_low != is_high_open {
            return true;
        }
        is_high_open = unit.is_some_and(|unit| (0xD800..0xDC00).contains(&unit));
    }
    is_high_open
}

/// What a place of a text is inside of.
enum Container {
    /// An object, at the member with the key that stands there.
    Object(Range<usize>),
    /// An array, at this element.
    Array(usize),
}

/// The path of the value at `offset`: `root.items[2].text`.
pub(super) fn path_of(root: &str, text: &str, offset: usize) -> String {
    let mut path = root.to_owned();
    for container in containers(text, offset) {
        match container {
            Container::Object(key) => {
                let name = text.get(key).unwrap_or_default();
                path.push('.');
                path.extend(name.chars().filter(|char| !char.is_control()));
            }
            // Writing to a String cannot fail.
            Container::Array(index) => drop(write!(path, "[{index}]")),
        }
    }
    match path.char_indices().nth(PATH_CHARS_MAX) {
        None => path,
        Some((end, _)) => format!("{}…", path.get(..end).unwrap_or_default()),
    }
}

/// What the place at `offset` is inside of, outermost first.
fn containers(text: &str, offset: usize) -> Vec<Container> {
    let bytes = text.as_bytes();
    let mut open = Vec::new();
    let mut at = 0;
    while at < offset {
        match bytes.get(at) {
            None => break,
            Some(b'{') => open.push(Container::Object(0..0)),
            Some(b'[') => open.push(Container::Array(0)),
            Some(b'}' | b']') => drop(open.pop()),
            Some(b',') => {
                if let Some(Container::Array(index)) = open.last_mut() {
                    *index += 1;
                }
            }
            Some(b'"') => {
                let end = string_end(bytes, at);
                let next = bytes.get(end..).unwrap_or_default();
                let next = next.iter().find(|byte| !byte.is_ascii_whitespace());
                if next == Some(&b':')
                    && let Some(Container::Object(key)) = open.last_mut()
                {
                    *key = at + 1..end - 1;
                }
                at = end - 1;
            }
            Some(_) => {}
        }
        at += 1;
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_told_apart() {
        let text = r#"{"a" : ["b\"", "c"], "d\\":"e:"}"#;
        let found: Vec<_> =
            strings(text).map(|found| (text.get(found.inside()).unwrap(), found.is_key)).collect();
        assert_eq!(
            found,
            [("a", true), (r#"b\""#, false), ("c", false), (r"d\\", true), ("e:", false)]
        );
        assert_eq!(strings("12").count(), 0);
    }

    #[test]
    fn a_character_is_what_it_means() {
        let text = r"a\\\u007bé\n\ud83d";
        let found: String =
            characters(text, 0..text.len()).map(|character| character.meaning).collect();
        assert_eq!(found, "a\\{é\n\u{fffd}");
    }

    #[test]
    fn half_of_a_surrogate_pair_is_found() {
        for (text, expected) in [
            ("", false),
            ("plain é", false),
            (r"\ud83d\ude00", false),
            (r"\uD83D\uDE00\u0041", false),
            (r"\ud83d", true),
            (r"\ude00", true),
            (r"\ud83dx\ude00", true),
            (r"\ud83d\ud83d\ude00", true),
            (r"\\ud83d", false),
        ] {
            assert_eq!(has_half_pair(text), expected, "{text}");
        }
    }

    #[test]
    fn a_place_has_its_path() {
        let text = r#"{"a":{"b":[1,{"c,}":"x"},[["y"]]]},"d":"z"}"#;
        for (found, expected) in
            [(r#""x""#, "p.a.b[1].c,}"), (r#""y""#, "p.a.b[2][0][0]"), (r#""z""#, "p.d")]
        {
            assert_eq!(path_of("p", text, text.find(found).unwrap()), expected);
        }
        assert_eq!(path_of("p", r#""x""#, 0), "p");
        let deep = "[".repeat(30_000);
        assert_eq!(path_of("p", &deep, deep.len()).chars().count(), PATH_CHARS_MAX + 1);
    }
}
