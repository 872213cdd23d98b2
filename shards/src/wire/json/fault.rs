//! What is wrong with a JSON text: the field, what it must be, what was found, and where.
//!
//! **Runs on**: as its parent. **Owns**: nothing. **Never**: repeats a value; a field's unknown
//! name is cut and stripped of control characters.

use std::fmt;

use serde_json::error::Category;

/// The longest unknown name that is repeated to its sender, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// One fault, told by `Display` in a sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The path of the field: `audience.value[3]`; empty for the text as a whole.
    path: String,
    /// The address of the value in the text, until it has become a position.
    address: Option<usize>,
    position: Option<(usize, usize)>,
    problem: Problem,
}

/// What kind of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The text has no characters but white space.
    Empty,
    /// The text is in this encoding.
    Encoding(&'static str),
    /// The text breaks JSON's grammar at this character, if that can be shown.
    Malformed(Option<char>),
    /// The text ends within a value.
    CutShort,
    /// A required field is not there.
    Missing,
    /// The object has only these fields.
    Unknown(&'static [&'static str]),
    /// A field is there twice.
    Repeated,
    /// A value is of another kind, or a number out of range.
    Mismatch {
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A string is not one of these.
    NotOneOf(&'static [&'static str]),
    /// A string holds `\u` with half a surrogate pair.
    HalfPair,
    /// A value does not fit, for a reason no struct in use can give.
    Unfit,
}

impl Problem {
    /// `json` is valid and not what was `expected`.
    pub(super) fn mismatch(expected: &'static str, json: &str) -> Self {
        let json = json.trim_ascii_start();
        let found = match json.bytes().next() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ if !expected.contains("number") => "a number",
            Some(b'-') => "a negative number",
            _ if json.contains(['.', 'e', 'E']) => "a number with a fraction or an exponent",
            _ => "a number over 18446744073709551615",
        };
        Self::Mismatch { expected, found }
    }
}

impl Fault {
    /// A fault of the value `json`, which is a part of the text.
    pub(super) fn new(json: &str, problem: Problem) -> Self {
        let address = Some(json.as_ptr().addr());
        Self { path: String::new(), address, position: None, problem }
    }

    /// What `serde_json` says about `json`, which breaks the grammar.
    pub(super) fn malformed(json: &str, error: &serde_json::Error) -> Self {
        if json.trim_ascii().is_empty() {
            return Self::new(json, Problem::Empty);
        }
        let lines = json.split_inclusive('\n').take(error.line().saturating_sub(1));
        let start: usize = lines.map(str::len).sum();
        let offset = (start + error.column().saturating_sub(1)).min(json.len());
        let found = json.get(offset..).and_then(|rest| rest.chars().next());
        let problem = match error.classify() {
            Category::Eof => Problem::CutShort,
            _ => Problem::Malformed(found.filter(|found| !found.is_control())),
        };
        let address = Some(json.as_ptr().addr() + offset);
        Self { path: String::new(), address, position: None, problem }
    }

    pub(super) fn in_field(mut self, name: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, dot);
        self.path.insert_str(0, name);
        self
    }

    pub(super) fn in_element(self, index: usize) -> Self {
        self.in_field(&format!("[{index}]"))
    }

    /// Where it is, if nothing closer is known.
    pub(super) fn or_at(mut self, json: &str) -> Self {
        self.address.get_or_insert_with(|| json.as_ptr().addr());
        self
    }

    /// Turns the address into a position in `text`, the whole.
    pub(super) fn located_in(mut self, text: &str) -> Self {
        let start = text.as_ptr().addr();
        let offset = self.address.take().and_then(|address| address.checked_sub(start));
        self.position = offset.and_then(|offset| position(text.as_bytes(), offset));
        self
    }

    /// The path of the field, as `audience.value[3]`; `None` for the text as a whole.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        (!self.path.is_empty()).then_some(self.path.as_str())
    }

    /// Line and column in the text, from 1; the column counts bytes.
    #[must_use]
    pub const fn position(&self) -> Option<(usize, usize)> {
        self.position
    }

    /// What kind of fault it is.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }
}

fn position(text: &[u8], offset: usize) -> Option<(usize, usize)> {
    let before = text.get(..offset)?;
    let line = before.split(|byte| *byte == b'\n');
    let column = line.clone().next_back().map_or(0, <[u8]>::len);
    Some((line.count(), column + 1))
}

/// As much of a stranger's name as is repeated.
pub(super) fn shown(name: &str) -> String {
    let printable = name.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char });
    printable.take(SHOWN_CHARS_MAX).collect()
}

/// The bytes as text, if they are UTF-8.
pub(super) fn decode(bytes: &[u8]) -> Result<&str, Fault> {
    // JSON begins with an ASCII character, so zeros tell the wider encodings without a mark.
    let encoding = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, _, ..] | [_, 0, 0, 0, ..] => {
            Some("UTF-32")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => Some("UTF-16"),
        _ => None,
    };
    let decoded = match encoding {
        None => std::str::from_utf8(bytes).map_err(|error| error.valid_up_to()),
        Some(_) => Err(0),
    };
    decoded.map_err(|offset| Fault {
        path: String::new(),
        address: None,
        position: position(bytes, offset),
        problem: Problem::Encoding(encoding.unwrap_or("another encoding")),
    })
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::Empty => formatter.write_str("there is no JSON: it is empty"),
            Problem::Encoding(name) => {
                write!(formatter, "JSON must be in UTF-8, not in {name}")?;
                self.write_position(formatter)
            }
            Problem::Malformed(found) => {
                formatter.write_str("malformed JSON")?;
                self.write_position(formatter)?;
                found.map_or(Ok(()), |found| write!(formatter, ": `{found}` cannot stand there"))
            }
            Problem::CutShort => {
                formatter.write_str("malformed JSON: it ends too early,")?;
                self.write_position(formatter)
            }
            Problem::Missing => write!(formatter, "`{}` is missing", self.path),
            Problem::Unknown(known) => {
                write!(formatter, "unknown field `{}`; known here: ", self.path)?;
                write_list(formatter, known)
            }
            Problem::Repeated => write!(formatter, "`{}` is given twice", self.path),
            Problem::Mismatch { expected, found } => {
                self.write_subject(formatter)?;
                write!(formatter, " must be {expected}, not {found}")
            }
            Problem::NotOneOf(variants) => {
                self.write_subject(formatter)?;
                formatter.write_str(" must be one of ")?;
                write_list(formatter, variants)
            }
            Problem::HalfPair => {
                self.write_subject(formatter)?;
                formatter.write_str(" must be a string without half of a surrogate pair")
            }
            Problem::Unfit => {
                self.write_subject(formatter)?;
                formatter.write_str(" is not as it must be")
            }
        }
    }
}

impl Fault {
    fn write_subject(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field() {
            Some(path) => write!(formatter, "`{path}`"),
            None => formatter.write_str("the JSON"),
        }
    }

    fn write_position(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((line, column)) = self.position else { return Ok(()) };
        write!(formatter, " at line {line}, column {column}")
    }
}

fn write_list(formatter: &mut fmt::Formatter<'_>, names: &[&str]) -> fmt::Result {
    for (place, name) in names.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        write!(formatter, "{comma}`{name}`")?;
    }
    Ok(())
}

impl std::error::Error for Fault {}

/// How a derived struct reports what the reader leaves to it.
impl serde::de::Error for Fault {
    /// Its words are a library's, so they end here.
    fn custom<T: fmt::Display>(_words: T) -> Self {
        Self { path: String::new(), address: None, position: None, problem: Problem::Unfit }
    }

    fn missing_field(name: &'static str) -> Self {
        Self { path: name.to_owned(), address: None, position: None, problem: Problem::Missing }
    }
}
