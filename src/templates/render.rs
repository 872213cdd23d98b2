//! A pattern filled in: what a trigger's variables give, written in one pass.
//!
//! **Runs on**: the router's thread. **Owns**: shares of a template and of the text the variables
//! came in. **Never**: makes a tree of the variables; changes a byte of what is filled in; writes
//! before every variable is known to be there and to fit.
//!
//! A variable's bytes are filled in as they came. As a value that is what it is, a number with all its
//! digits. As text it is the inside of a string, which is escaped already, or the digits of a number.

use std::ops::Range;
use std::rc::Rc;

use ara_shards::wire::json;
use bytes::Bytes;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::pattern::{FIELD, Node, Pattern, Then};
use super::scan;
use super::template::Template;

/// A template with its variables: what is yet to be written.
#[derive(Debug, Clone)]
pub struct Rendered {
    template: Rc<Template>,
    /// The text the variables came in.
    variables: Bytes,
    /// Where each slot's variable is in it.
    values: SmallVec<[Range<u32>; 8]>,
    bytes: usize,
}

/// Why variables do not fill a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderFault {
    /// They are not an object.
    NotAnObject,
    /// These are not there.
    Missing(Vec<Box<str>>),
    /// One cannot be filled in.
    Invalid {
        /// The variable.
        variable: Box<str>,
        /// Where it was to go, if that matters.
        place: Option<String>,
        /// What is wrong with it.
        problem: VariableProblem,
    },
}

/// What is wrong with a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariableProblem {
    /// It is this, and was to be written into a longer string.
    NoText(&'static str),
    /// It has half of a surrogate pair, and was to be written into a longer string.
    HalfPair,
    /// It is there twice.
    Repeated,
}

impl Rendered {
    /// Fills a template with the members of an object. Others than the template names may be there.
    ///
    /// # Errors
    ///
    /// A variable is missing, or does not fit.
    pub fn new(template: Rc<Template>, variables: Bytes) -> Result<Self, RenderFault> {
        let text = std::str::from_utf8(&variables).expect("the variables were read as JSON");
        let pattern = &template.pattern;
        let mut found: SmallVec<[Option<&RawValue>; 8]> = SmallVec::new();
        found.resize(pattern.slots.len(), None);
        find(&pattern.roots, text, &mut found)?;
        let missing = || pattern.slots.iter().zip(&found).filter(|(_, value)| value.is_none());
        if missing().next().is_some() {
            let paths = missing().map(|(slot, _)| slot.path.clone());
            return Err(RenderFault::Missing(paths.collect()));
        }
        let mut bytes = pattern.literal_bytes;
        let mut values = SmallVec::with_capacity(found.len());
        for (slot, value) in pattern.slots.iter().zip(found.iter().flatten()) {
            if slot.as_text > 0 {
                check_text(value).map_err(|problem| RenderFault::Invalid {
                    variable: slot.path.clone(),
                    place: Some(pattern.path_of(slot.first_text)),
                    problem,
                })?;
            }
            let value = value.get();
            bytes = bytes
                .saturating_add(slot.as_value.saturating_mul(value.len()))
                .saturating_add(slot.as_text.saturating_mul(inside(value.as_bytes()).len()));
            // It is a part of the text.
            let start = value.as_ptr().addr() - text.as_ptr().addr();
            let place = |at: usize| u32::try_from(at).expect("a body has 2 MiB at most");
            values.push(place(start)..place(start + value.len()));
        }
        drop(found);
        Ok(Self { template, variables, values, bytes })
    }

    /// How many bytes will be written.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no JSON value is empty")]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Writes it.
    pub fn write_to(&self, buffer: &mut Vec<u8>) {
        let pattern = &self.template.pattern;
        for piece in &pattern.pieces {
            buffer.extend_from_slice(pattern.slice(&piece.literal));
            match piece.then {
                Then::Nothing => {}
                Then::Value(slot) => buffer.extend_from_slice(self.value(slot)),
                Then::Text(slot) => buffer.extend_from_slice(inside(self.value(slot))),
            }
        }
    }

    fn value(&self, slot: u32) -> &[u8] {
        let place = self.values.get(slot as usize).expect("every slot has its value");
        let value = self.variables.get(place.start as usize..place.end as usize);
        value.expect("values are parts of the variables")
    }
}

/// Finds what the nodes name among the members of an object. The paths of a pattern are short, so
/// this goes no deeper than they do.
fn find<'a>(
    nodes: &[Node],
    object: &'a str,
    found: &mut [Option<&'a RawValue>],
) -> Result<(), RenderFault> {
    let mut seen: SmallVec<[bool; 32]> = SmallVec::new();
    seen.resize(nodes.len(), false);
    let mut fault = None;
    let members = json::members(object, |name, value| {
        let Ok(at) = nodes.binary_search_by(|node| (*node.name).cmp(name)) else { return };
        let (Some(node), Some(seen)) = (nodes.get(at), seen.get_mut(at)) else { return };
        if std::mem::replace(seen, true) {
            let (variable, problem) = (node.name.clone(), VariableProblem::Repeated);
            fault.get_or_insert(RenderFault::Invalid { variable, place: None, problem });
            return;
        }
        let slot = node.slot.and_then(|slot| found.get_mut(slot as usize));
        if let Some(slot) = slot {
            *slot = Some(value);
        }
        if !node.children.is_empty()
            && value.get().starts_with('{')
            && let Err(inner) = find(&node.children, value.get(), found)
        {
            fault.get_or_insert(inner);
        }
    });
    members.map_err(|_no_object| RenderFault::NotAnObject)?;
    fault.map_or(Ok(()), Err)
}

/// Whether a value can be written into a string.
fn check_text(value: &RawValue) -> Result<(), VariableProblem> {
    let value = value.get();
    match value.as_bytes().first() {
        Some(b'{') => Err(VariableProblem::NoText("an object")),
        Some(b'[') => Err(VariableProblem::NoText("an array")),
        Some(b'n') => Err(VariableProblem::NoText("null")),
        Some(b'"') if scan::has_half_pair(value) => Err(VariableProblem::HalfPair),
        _ => Ok(()),
    }
}

/// A value as text: of a string, what is between its quotation marks.
fn inside(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inside @ .., b'"'] => inside,
        other => other,
    }
}

impl Pattern {
    /// The path of a place in the text.
    fn path_of(&self, offset: u32) -> String {
        scan::path_of(FIELD, self.text().get(), offset as usize)
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
