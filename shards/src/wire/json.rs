//! JSON from outside, read into typed structs; a fault is told in the words of JSON.
//!
//! The structs derive `Deserialize` as usual. The reader between them and `serde_json` decides for
//! every object at every depth what no attribute can then forget: an unknown field is refused or
//! ignored, a repeated one is refused, `null` stands for an absent optional field, and an array is
//! never taken for an object. A fault names the field, what it must be and what was found there,
//! and where; no sentence of a library, and no value, reaches a caller.
//!
//! **Runs on**: a shard (client messages) and the router (HTTP bodies, Redis messages).
//! **Owns**: nothing. **Never**: changes a byte of a raw value; repeats a value in a fault.

mod fault;

use std::borrow::Cow;

use serde::de::value::{BorrowedStrDeserializer, CowStrDeserializer, MapDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer as _, IgnoredAny, IntoDeserializer as _, MapAccess, SeqAccess,
    Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::value::RawValue;
use smallvec::SmallVec;

pub use fault::{Fault, Problem};

/// What becomes of a field the reader has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// It is a fault: it may be misspelt, and what it was to narrow would go to everybody.
    Refused,
    /// It is left out: the writer may be newer than we are.
    Ignored,
}

/// Reads a struct from bytes that must be one JSON object. A byte-order mark before it is ignored,
/// as RFC 8259 section 8.1 allows.
///
/// # Errors
///
/// The first fault found, with its line and column.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], unknown: Unknown) -> Result<T, Fault> {
    read_text(fault::decode(bytes)?, unknown)
}

/// As [`read`], from text.
///
/// # Errors
///
/// The first fault found, with its line and column.
pub fn read_text<'a, T: Deserialize<'a>>(text: &'a str, unknown: Unknown) -> Result<T, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    T::deserialize(Reader { json: text, unknown }).map_err(|fault| fault.located_in(text))
}

/// Reads a field whose type depends on its neighbours, after them. The fault has no line.
///
/// # Errors
///
/// The first fault found, with `name` in its path.
pub fn read_field<'a, T: Deserialize<'a>>(
    name: &'static str,
    value: &'a RawValue,
    unknown: Unknown,
) -> Result<T, Fault> {
    T::deserialize(Reader { json: value.get(), unknown }).map_err(|fault| fault.in_field(name))
}

/// Shows each member of an object whose names are the writer's own, in order, one level deep.
///
/// # Errors
///
/// It is not an object.
pub fn members<'a>(
    object: &'a str,
    on_member: impl FnMut(&str, &'a RawValue),
) -> Result<(), Fault> {
    let reader = Reader { json: object, unknown: Unknown::Ignored };
    if reader.first() != Some(b'{') {
        return Err(reader.mismatch("an object"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(object);
    let read = deserializer.deserialize_map(EachMember(on_member));
    read.map_err(|error| Fault::malformed(object, &error))
}

/// Shows each member of an object.
struct EachMember<F>(F);

impl<'a, F: FnMut(&str, &'a RawValue)> Visitor<'a> for EachMember<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(AnyKey(name)) = map.next_key()? {
            (self.0)(&name, map.next_value()?);
        }
        Ok(())
    }
}

/// A key that is not copied unless it has an escape.
#[derive(Deserialize)]
struct AnyKey<'a>(#[serde(borrow)] Cow<'a, str>);

/// The known fields of an object, each once, in the order they came.
type Fields<'a> = SmallVec<[(&'static str, &'a RawValue); 8]>;

/// One JSON value that has not been looked into.
#[derive(Clone, Copy)]
struct Reader<'a> {
    json: &'a str,
    unknown: Unknown,
}

impl<'a> Reader<'a> {
    fn first(self) -> Option<u8> {
        self.json.trim_ascii_start().bytes().next()
    }

    /// The fault of a value that is something else, unless it is no JSON at all.
    fn mismatch(self, expected: &'static str) -> Fault {
        match serde_json::from_str::<IgnoredAny>(self.json) {
            Ok(_) => Fault::new(self.json, Problem::mismatch(expected, self.json)),
            Err(error) => Fault::malformed(self.json, &error),
        }
    }

    fn text(self, expected: &'static str) -> Result<Cow<'a, str>, Fault> {
        let quoted = self.json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let inner = quoted.ok_or_else(|| self.mismatch(expected))?;
        if !inner.contains('\\') {
            return Ok(Cow::Borrowed(inner));
        }
        // It was scanned before; only pairing its surrogates was left.
        serde_json::from_str(self.json)
            .map(Cow::Owned)
            .map_err(|_unpaired| Fault::new(self.json, Problem::HalfPair))
    }

    /// Takes the object apart, one level deep.
    fn read_fields(
        self,
        known: &'static [&'static str],
        fields: &mut Fields<'a>,
    ) -> Result<(), Fault> {
        if self.first() != Some(b'{') {
            return Err(self.mismatch("an object"));
        }
        let mut reader = serde_json::Deserializer::from_str(self.json);
        let level = Level { known, unknown: self.unknown, fields };
        let level = reader.deserialize_map(level);
        let level = level.and_then(|level| reader.end().map(|()| level));
        level.map_err(|error| Fault::malformed(self.json, &error))?
    }
}

impl<'de> serde::Deserializer<'de> for Reader<'de> {
    type Error = Fault;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        // Filled in place: it is too large to be handed through results.
        let mut fields = Fields::new();
        self.read_fields(known, &mut fields)?;
        let members = Members { fields: fields.iter(), value: None, unknown: self.unknown };
        visitor.visit_map(members).map_err(|fault| fault.or_at(self.json))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.first() != Some(b'[') {
            return Err(self.mismatch("an array"));
        }
        let elements: Vec<&RawValue> =
            serde_json::from_str(self.json).map_err(|error| Fault::malformed(self.json, &error))?;
        let elements = elements.into_iter().enumerate();
        visitor.visit_seq(Elements { elements, unknown: self.unknown })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.json == "null" { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text("a string")? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.json.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_no_such_number) => Err(self.mismatch("a whole number, 0 or more")),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.json.parse() {
            Ok(truth) => visitor.visit_bool(truth),
            Err(_neither) => Err(self.mismatch("true or false")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text = self.text("a string")?;
        if !variants.contains(&text.as_ref()) {
            return Err(Fault::new(self.json, Problem::NotOneOf(variants)));
        }
        let text: CowStrDeserializer<'_, Fault> = text.into_deserializer();
        visitor.visit_enum(text)
    }

    /// [`RawValue`] is the one such type in use: any value fits, and its text has been scanned. It
    /// is handed over as `serde_json` itself does it, as a map from the type's name to the text.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text = BorrowedStrDeserializer::new(self.json);
        visitor.visit_map(MapDeserializer::new(std::iter::once((name, text))))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fault> {
        panic!("a struct read from outside has a field of a kind this reader has no words for")
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct map identifier ignored_any
    }
}

/// One level of an object.
struct Level<'f, 'a> {
    known: &'static [&'static str],
    unknown: Unknown,
    fields: &'f mut Fields<'a>,
}

impl<'a> Visitor<'a> for Level<'_, 'a> {
    /// The fault is handed out at the end, so that malformed JSON is told first.
    type Value = Result<(), Fault>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { known, unknown, fields } = self;
        let mut fault = None;
        while let Some(key) = map.next_key_seed(KeyOf { known, unknown })? {
            let value: &'a RawValue = map.next_value()?;
            match key {
                Key::Known(name) if fields.iter().any(|(earlier, _)| *earlier == name) => {
                    let twice = || Fault::new(value.get(), Problem::Repeated).in_field(name);
                    fault.get_or_insert_with(twice);
                }
                Key::Known(name) => fields.push((name, value)),
                Key::Refused(name) => {
                    let problem = Problem::Unknown(known);
                    fault.get_or_insert_with(|| Fault::new(value.get(), problem).in_field(&name));
                }
                Key::Ignored => {}
            }
        }
        Ok(fault.map_or(Ok(()), Err))
    }
}

/// The key of a field.
enum Key {
    Known(&'static str),
    /// As much of it as is shown.
    Refused(String),
    Ignored,
}

/// Reads a key.
struct KeyOf {
    known: &'static [&'static str],
    unknown: Unknown,
}

impl<'a> DeserializeSeed<'a> for KeyOf {
    type Value = Key;

    fn deserialize<D: serde::Deserializer<'a>>(self, key: D) -> Result<Key, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf {
    type Value = Key;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match self.known.iter().find(|name| **name == key) {
            Some(name) => Key::Known(name),
            None if self.unknown == Unknown::Ignored => Key::Ignored,
            None => Key::Refused(fault::shown(key)),
        })
    }
}

/// The fields of an object, for the struct they belong to.
struct Members<'f, 'a> {
    fields: std::slice::Iter<'f, (&'static str, &'a RawValue)>,
    value: Option<(&'static str, &'a RawValue)>,
    unknown: Unknown,
}

impl<'a> MapAccess<'a> for Members<'_, 'a> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.fields.next().copied();
        let Some((name, _)) = self.value else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (name, value) = self.value.take().expect("a value is asked for after its key");
        let reader = Reader { json: value.get(), unknown: self.unknown };
        seed.deserialize(reader).map_err(|fault| fault.in_field(name))
    }
}

/// The elements of an array.
struct Elements<'a> {
    elements: std::iter::Enumerate<std::vec::IntoIter<&'a RawValue>>,
    unknown: Unknown,
}

impl<'a> SeqAccess<'a> for Elements<'a> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((index, value)) = self.elements.next() else { return Ok(None) };
        let reader = Reader { json: value.get(), unknown: self.unknown };
        seed.deserialize(reader).map(Some).map_err(|fault| fault.in_element(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

#[cfg(test)]
mod tests;
