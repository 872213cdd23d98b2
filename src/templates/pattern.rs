//! A template's text, taken apart once into what is written as it stands and what is filled in.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: the text. **Never**:
//! changes a byte of the text; looks at it again when it is rendered.
//!
//! In each string of the text that is no key, `{{name}}` stands for a variable and `{{a.b}}` for the
//! member `b` of the variable `a`; spaces beside the name count for nothing. A backslash before `{{`
//! makes it two braces, and two backslashes there make one and a variable, as in a shell. (In JSON
//! each backslash is written twice.)

use std::fmt;
use std::ops::Range;

use serde_json::value::RawValue;

use super::scan::{self, Character, JsonString};

/// The longest text, in bytes of JSON.
pub const PATTERN_BYTES_MAX: usize = 64 * 1024;
/// The most variables a text may name, each as often as it does: they are what a template costs in
/// memory beyond its text.
pub const PLACEHOLDERS_MAX: usize = 1000;
/// The most names in a row, as in `{{a.b.c}}`. Each but the first costs another look at the
/// variable's text.
const SEGMENTS_MAX: usize = 8;
/// The longest of those names.
const SEGMENT_BYTES_MAX: usize = 64;

/// A text with places to be filled in.
#[derive(Debug)]
pub struct Pattern {
    text: Box<RawValue>,
    pub(super) pieces: Box<[Piece]>,
    /// Bytes of all that is written as it stands.
    pub(super) literal_bytes: usize,
    /// The variables, by their paths in ascending order.
    pub(super) slots: Box<[Slot]>,
    /// The same as a tree.
    pub(super) roots: Box<[Node]>,
}

/// A part of the text, and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where the part is in the text.
    pub(super) literal: Range<u32>,
    pub(super) then: Then,
}

/// What follows a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The next part.
    Nothing,
    /// The variable of this slot as the value it is, in place of a whole string.
    Value(u32),
    /// The variable of this slot as characters of a string.
    Text(u32),
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// What stands between the braces.
    pub(super) path: Box<str>,
    /// How often it is wanted as the value it is.
    pub(super) as_value: usize,
    /// How often it is wanted as characters of a string.
    pub(super) as_text: usize,
    /// Where that is for the first time.
    pub(super) first_text: u32,
}

/// A name in the variables: itself a variable, or what holds some, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: Box<str>,
    pub(super) slot: Option<u32>,
    /// In ascending order of their names.
    pub(super) children: Box<[Self]>,
}

/// Why a text is no pattern, and at which path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternFault {
    /// `payload_template.items[2]`.
    pub path: String,
    /// What is wrong there.
    pub problem: PatternProblem,
}

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternProblem {
    /// A `{{` without a `}}` in the same string.
    Unclosed,
    /// What stands between them is no variable.
    BadName,
    /// There are more variables than allowed.
    TooMany,
    /// The text is longer than allowed.
    TooLong,
}

/// The field that is a text, for the paths of its faults.
pub const FIELD: &str = "payload_template";

impl fmt::Display for PatternFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match self.problem {
            PatternProblem::Unclosed => write!(
                formatter,
                "`{path}` has `{{{{` without `}}}}`: close it, or write `\\\\{{{{` for two braces"
            ),
            PatternProblem::BadName => write!(
                formatter,
                "`{path}` has no name between `{{{{` and `}}}}`: use up to {SEGMENTS_MAX} names of 1 \
                 to {SEGMENT_BYTES_MAX} of A-Z a-z 0-9 _ - with dots between them, or write \
                 `\\\\{{{{` for two braces"
            ),
            PatternProblem::TooMany => {
                write!(formatter, "`{path}` names more than {PLACEHOLDERS_MAX} variables")
            }
            PatternProblem::TooLong => {
                write!(formatter, "`{path}` is longer than {PATTERN_BYTES_MAX} bytes")
            }
        }
    }
}

impl Pattern {
    /// Takes a text apart.
    ///
    /// # Errors
    ///
    /// It is too long, or what stands in double braces is no variable.
    pub fn parse(text: Box<RawValue>) -> Result<Self, PatternFault> {
        let json = text.get();
        let fault = |problem, offset| {
            let path = scan::path_of(FIELD, json, offset);
            Err(PatternFault { path, problem })
        };
        if json.len() > PATTERN_BYTES_MAX {
            return fault(PatternProblem::TooLong, 0);
        }
        let mut holes = Holes::default();
        for string in scan::strings(json).filter(|string| !string.is_key) {
            if let Err(problem) = holes.read(json, &string) {
                return fault(problem, string.place.start);
            }
        }
        let slots = holes.slots();
        let pieces = holes.pieces(json.len(), &slots);
        let literal_bytes = pieces.iter().map(|piece| piece.literal.len()).sum();
        let paths: Vec<_> =
            slots.iter().map(|slot| slot.path.split('.').collect::<Vec<_>>()).collect();
        let paths: Vec<_> = (0..).zip(&paths).map(|(slot, path)| (&path[..], slot)).collect();
        let roots = tree(&paths);
        Ok(Self { pieces, literal_bytes, slots, roots, text })
    }

    /// What it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let slots = self.slots.iter().map(|slot| size_of::<Slot>() + slot.path.len());
        let pieces = self.pieces.len() * size_of::<Piece>();
        self.text.get().len() + pieces + slots.sum::<usize>() + bytes_of(&self.roots)
    }

    /// The text as it came.
    #[must_use]
    pub fn text(&self) -> &RawValue {
        &self.text
    }

    pub(super) fn slice(&self, place: &Range<u32>) -> &[u8] {
        let place = place.start as usize..place.end as usize;
        self.text.get().as_bytes().get(place).expect("pieces are of this text")
    }
}

/// What nodes take in memory; no deeper than a path is long.
fn bytes_of(nodes: &[Node]) -> usize {
    let each = |node: &Node| size_of::<Node>() + node.name.len() + bytes_of(&node.children);
    nodes.iter().map(each).sum()
}

/// Nodes for paths in ascending order, without those that are at their end.
fn tree<'a>(paths: &[(&[&'a str], u32)]) -> Box<[Node]> {
    fn first<'a>((path, _): &(&[&'a str], u32)) -> Option<&'a str> {
        path.first().copied()
    }
    let mut sorted: Vec<_> = paths.to_vec();
    sorted.sort_by_key(first);
    let groups = sorted.chunk_by(|one, next| first(one) == first(next));
    let node = |group: &[(&[&'a str], u32)]| {
        let name = group.first().and_then(first)?;
        let rests = group.iter().filter_map(|(path, slot)| Some((path.get(1..)?, *slot)));
        let (ends, longer): (Vec<_>, Vec<_>) = rests.partition(|(rest, _)| rest.is_empty());
        let slot = ends.first().map(|(_, slot)| *slot);
        Some(Node { name: name.into(), slot, children: tree(&longer) })
    };
    groups.filter_map(node).collect()
}

/// Places of a text that are not written as they stand, in order.
#[derive(Debug, Default)]
struct Holes {
    all: Vec<Hole>,
    variables: usize,
}

#[derive(Debug)]
struct Hole {
    place: Range<usize>,
    filling: Option<Filling>,
}

/// A variable, and how it is wanted.
#[derive(Debug)]
struct Filling {
    path: Box<str>,
    is_value: bool,
}

impl Holes {
    /// Finds those of one string.
    fn read(&mut self, json: &str, string: &JsonString) -> Result<(), PatternProblem> {
        let characters: Vec<Character> = scan::characters(json, string.inside()).collect();
        let means = |at: usize, wanted: char| {
            characters.get(at).is_some_and(|character| character.meaning == wanted)
        };
        let start_of =
            |at: usize| characters.get(at).map_or(string.place.end - 1, |c| c.place.start);
        let mut at = 0;
        while at < characters.len() {
            let backslashes = (at..).take_while(|at| means(*at, '\\')).count();
            let brace = at + backslashes;
            if !(means(brace, '{') && means(brace + 1, '{')) {
                at = brace.max(at + 1);
                continue;
            }
            // Half of the backslashes stand for the other half; one that is left is for the braces.
            let kept = start_of(at + backslashes / 2);
            if kept < start_of(brace) {
                self.all.push(Hole { place: kept..start_of(brace), filling: None });
            }
            if backslashes % 2 == 1 {
                at = brace + 2;
                continue;
            }
            let is_end = |at: &usize| means(*at, '}') && means(at + 1, '}');
            let end = (brace + 2..characters.len()).find(is_end).ok_or(PatternProblem::Unclosed)?;
            let name = characters.get(brace + 2..end).unwrap_or_default();
            let name: String = name.iter().map(|character| character.meaning).collect();
            let path = name.trim_matches(' ');
            if !is_path(path) {
                return Err(PatternProblem::BadName);
            }
            let is_value = brace == 0 && end + 2 == characters.len();
            let place =
                if is_value { string.place.clone() } else { start_of(brace)..start_of(end + 2) };
            let filling = Some(Filling { path: path.into(), is_value });
            self.all.push(Hole { place, filling });
            self.variables += 1;
            if self.variables > PLACEHOLDERS_MAX {
                return Err(PatternProblem::TooMany);
            }
            at = end + 2;
        }
        Ok(())
    }

    /// Each variable once, in ascending order of their paths.
    fn slots(&self) -> Box<[Slot]> {
        let mut slots = std::collections::BTreeMap::<&str, Slot>::new();
        for Hole { place, filling } in &self.all {
            let Some(Filling { path, is_value }) = filling else { continue };
            let slot = slots.entry(path).or_insert_with(|| Slot {
                path: path.clone(),
                as_value: 0,
                as_text: 0,
                first_text: 0,
            });
            if *is_value {
                slot.as_value += 1;
            } else {
                if slot.as_text == 0 {
                    slot.first_text = short(place.start);
                }
                slot.as_text += 1;
            }
        }
        slots.into_values().collect()
    }

    /// What is between them, in a text of so many bytes.
    fn pieces(&self, bytes: usize, slots: &[Slot]) -> Box<[Piece]> {
        let mut from = 0;
        let mut pieces = Vec::with_capacity(self.all.len() + 1);
        for Hole { place, filling } in &self.all {
            let then = filling.as_ref().map_or(Then::Nothing, |filling| {
                let slot = slots.binary_search_by(|slot| slot.path.cmp(&filling.path));
                let slot = short(slot.expect("every variable has its slot"));
                if filling.is_value { Then::Value(slot) } else { Then::Text(slot) }
            });
            pieces.push(Piece { literal: short(from)..short(place.start), then });
            from = place.end;
        }
        pieces.push(Piece { literal: short(from)..short(bytes), then: Then::Nothing });
        pieces.into()
    }
}

/// A place in a text, or in a list of what it names.
fn short(place: usize) -> u32 {
    u32::try_from(place).expect("a text has 64 KiB at most")
}

/// Whether this is a variable, or a member of one.
fn is_path(path: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let is_name =
        |name: &str| (1..=SEGMENT_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed);
    path.split('.').count() <= SEGMENTS_MAX && path.split('.').all(is_name)
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
