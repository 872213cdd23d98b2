//! The bytes of templates on disk: what is stored, and notes about what is gone.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: nothing. **Never**:
//! trusts a length it has read; panics on any bytes.
//!
//! The first byte is the version (high four bits) and the kind; numbers are little-endian:
//!
//! | kind | then |
//! |---|---|
//! | 1 stored | change 8, created unix ms 8, updated unix ms 8, priority 1, has a ttl 1, ttl 8, tenant 1 + n, id 1 + n, name 1 + n (0 = none), event type 1 + n, payload template 4 + n |
//! | 2 deleted (note) | change 8, tenant 1 + n, id 1 + n |
//! | 3 undone (note) | change 8: that one never was |

use ara_shards::notification::Priority;

use crate::record_reader::RecordReader;
use crate::templates::template::Template;

/// In the high four bits of the first byte.
const VERSION: u8 = 1 << 4;
const STORED: u8 = VERSION | 1;
const DELETED: u8 = VERSION | 2;
const UNDONE: u8 = VERSION | 3;

/// Numbers the changes of a store in their order. Of two that concern one template the later counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Change(pub(super) u64);

impl Change {
    /// The one after this.
    pub(super) const fn next(self) -> Self {
        // A damaged file may hold any number; a process does not count to the last.
        Self(self.0.saturating_add(1))
    }
}

/// Which template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name<'a> {
    pub(super) tenant: &'a str,
    pub(super) id: &'a str,
}

/// One record or note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The template is this from now on.
    Stored(Change, Name<'a>, Fields<'a>),
    /// The template is no more. A note.
    Deleted(Change, Name<'a>),
    /// A change that was not answered as made does not count. A note.
    Undone(Change),
}

/// What a template says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) created_ms: u64,
    pub(super) updated_ms: u64,
    pub(super) default_priority: Priority,
    pub(super) default_ttl: Option<u64>,
    pub(super) name: Option<&'a str>,
    pub(super) event_type: &'a str,
    pub(super) payload_template: &'a str,
}

impl<'a> Fields<'a> {
    pub(super) fn of(template: &'a Template) -> Self {
        Self {
            created_ms: template.created_ms,
            updated_ms: template.updated_ms,
            default_priority: template.default_priority,
            default_ttl: template.default_ttl,
            name: template.name.as_deref(),
            event_type: &template.event_type,
            payload_template: template.pattern.text().get(),
        }
    }
}

impl<'a> Record<'a> {
    /// Appends the record's bytes to `into`.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Stored(change, name, fields) => {
                into.push(STORED);
                for number in [change.0, fields.created_ms, fields.updated_ms] {
                    into.extend_from_slice(&number.to_le_bytes());
                }
                let place = Priority::ALL.iter().position(|one| *one == fields.default_priority);
                into.push(place.and_then(|place| u8::try_from(place).ok()).unwrap_or_default());
                into.push(u8::from(fields.default_ttl.is_some()));
                into.extend_from_slice(&fields.default_ttl.unwrap_or_default().to_le_bytes());
                name.encode(into);
                encode_text(fields.name.unwrap_or_default(), into);
                encode_text(fields.event_type, into);
                let bytes = u32::try_from(fields.payload_template.len());
                let bytes = bytes.expect("a template has 64 KiB at most");
                into.extend_from_slice(&bytes.to_le_bytes());
                into.extend_from_slice(fields.payload_template.as_bytes());
            }
            Self::Deleted(change, name) => {
                into.push(DELETED);
                into.extend_from_slice(&change.0.to_le_bytes());
                name.encode(into);
            }
            Self::Undone(change) => {
                into.push(UNDONE);
                into.extend_from_slice(&change.0.to_le_bytes());
            }
        }
    }

    /// The record these bytes are, if they are exactly one that this version knows.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, bytes) = bytes.split_first()?;
        let mut reader = RecordReader(bytes);
        let change = Change(reader.number()?);
        let record = match *kind {
            STORED => {
                let (created_ms, updated_ms) = (reader.number()?, reader.number()?);
                let [priority, has_ttl] = reader.array()?;
                let ttl = reader.number()?;
                let name = Name::decode(&mut reader)?;
                let fields = Fields {
                    created_ms,
                    updated_ms,
                    default_priority: *Priority::ALL.get(usize::from(priority))?,
                    default_ttl: (has_ttl == 1).then_some(ttl),
                    name: Some(reader.text()?).filter(|name| !name.is_empty()),
                    event_type: reader.text()?,
                    payload_template: std::str::from_utf8(reader.bytes()?).ok()?,
                };
                Self::Stored(change, name, fields)
            }
            DELETED => Self::Deleted(change, Name::decode(&mut reader)?),
            UNDONE => Self::Undone(change),
            _ => return None,
        };
        reader.is_at_end().then_some(record)
    }
}

impl<'a> Name<'a> {
    fn encode(&self, into: &mut Vec<u8>) {
        encode_text(self.tenant, into);
        encode_text(self.id, into);
    }

    fn decode(reader: &mut RecordReader<'a>) -> Option<Self> {
        Some(Self { tenant: reader.text()?, id: reader.text()? })
    }
}

fn encode_text(text: &str, into: &mut Vec<u8>) {
    into.push(u8::try_from(text.len()).expect("names have 128 bytes at most"));
    into.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: Name<'_> = Name { tenant: "tenant", id: "id" };

    fn fields() -> Fields<'static> {
        Fields {
            created_ms: 1,
            updated_ms: 2,
            default_priority: Priority::High,
            default_ttl: Some(0),
            name: Some("näme"),
            event_type: "event",
            payload_template: r#"{"a":"{{b}}"}"#,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_not_otherwise() {
        let bare = Fields { default_ttl: None, name: None, ..fields() };
        for record in [
            Record::Stored(Change(7), NAME, fields()),
            Record::Stored(Change(u64::MAX), NAME, bare),
            Record::Deleted(Change(8), NAME),
            Record::Undone(Change(9)),
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes), Some(record));
            for end in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..end]), None, "{record:?} cut at {end}");
            }
            bytes.push(0);
            assert_eq!(Record::decode(&bytes), None, "{record:?} and a byte more");
        }
    }

    /// Files hold these very bytes.
    #[test]
    fn a_record_has_the_bytes_it_always_had() {
        let mut bytes = Vec::new();
        let fields = Fields { name: Some("N"), event_type: "E", payload_template: "1", ..fields() };
        Record::Stored(Change(7), NAME, fields).encode(&mut bytes);
        let expected =
            b"\x11\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\0\0\
            \x06tenant\x02id\x01N\x01E\x01\0\0\x001";
        assert_eq!(bytes, expected);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0x10_u8..0x15) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _any = Record::decode(&bytes);
        }
    }
}
