//! Messages as bytes: what stands in a shard's journal.
//!
//! **Runs on**: the shard (writing), recovery (reading). **Owns**: nothing; pure functions.
//! **Never**: trusts a length it has read, or panics whatever the bytes.
//!
//! All numbers are little-endian; a text is its length as u16 and its bytes.
//!
//! ```text
//! message       1 | attempts u8 | priority u8 | flags u8 | expires u64, ms since 1970
//!                | sequence u64 | id 16 | forgotten u64, ms since 1970, if flagged | tenant | user
//!                | audience, if flagged | the notification's JSON
//! ended         2 | position u64 …
//! changed       3 | (position u64 | attempts u8 | dead u8) …
//! dead letters  4 | (position u64 | attempts u8 | forgotten u64, ms since 1970) …
//! ```
//!
//! Up to version 0.1 dead letters were not forgotten: they are a `changed` that says dead, or a
//! message that is flagged as dead without a time. These are read, and not written any more.

use crate::base::id::NotificationId;
use crate::journal::Position;
use crate::notification::{Audience, Priority};

const MESSAGE: u8 = 1;
const ENDED: u8 = 2;
const CHANGED: u8 = 3;
const DEAD_LETTERS: u8 = 4;

/// Why lengths fit 16 bits. A name that was cut would be another's when it is read back.
const SHORTER_THAN_A_BODY: &str =
    "a name, and the number of names, is less than the 64 KiB of the request that brought it";

const IS_DEAD: u8 = 1;
const HAS_AUDIENCE: u8 = 2;
const HAS_FORGOTTEN: u8 = 4;

/// A message and whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MessageRecord<'a> {
    pub(super) tenant: &'a str,
    pub(super) user: &'a str,
    /// Unique among the user's messages, and their order.
    pub(super) sequence: u64,
    pub(super) expires_unix_ms: u64,
    pub(super) id: NotificationId,
    pub(super) priority: Priority,
    pub(super) attempts: u8,
    pub(super) dead: Option<Dead>,
    pub(super) audience: Option<Audience>,
    pub(super) json: &'a [u8],
}

/// That a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dead {
    /// When it is forgotten; `None` = written before that was noted.
    pub(super) until_unix_ms: Option<u64>,
}

/// A record's new state: it was sent so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) position: Position,
    pub(super) attempts: u8,
    /// And is a dead letter; version 0.1 wrote this, and it is only read now.
    pub(super) is_dead: bool,
}

/// A record's new state: it was sent so often, and is a dead letter until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeadLetterNote {
    pub(super) position: Position,
    pub(super) attempts: u8,
    pub(super) until_unix_ms: u64,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    Message(MessageRecord<'a>),
    Ended(Vec<Position>),
    Changed(Vec<Change>),
    DeadLetters(Vec<DeadLetterNote>),
}

impl MessageRecord<'_> {
    pub(super) fn encode(&self, audience: Option<&Audience>, buffer: &mut Vec<u8>) {
        buffer.clear();
        let forgotten = self.dead.and_then(|dead| dead.until_unix_ms);
        let mut flags = if self.dead.is_some() { IS_DEAD } else { 0 };
        flags |= if forgotten.is_some() { HAS_FORGOTTEN } else { 0 };
        flags |= if audience.is_some() { HAS_AUDIENCE } else { 0 };
        buffer.extend_from_slice(&[MESSAGE, self.attempts, self.priority as u8, flags]);
        buffer.extend_from_slice(&self.expires_unix_ms.to_le_bytes());
        buffer.extend_from_slice(&self.sequence.to_le_bytes());
        buffer.extend_from_slice(&self.id.0);
        if let Some(forgotten) = forgotten {
            buffer.extend_from_slice(&forgotten.to_le_bytes());
        }
        put_text(buffer, self.tenant);
        put_text(buffer, self.user);
        if let Some(audience) = audience {
            put_audience(buffer, audience);
        }
        buffer.extend_from_slice(self.json);
    }
}

pub(super) fn encode_ended(positions: &[Position], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.push(ENDED);
    for position in positions {
        buffer.extend_from_slice(&position.to_bits().to_le_bytes());
    }
}

pub(super) fn encode_changed(changes: &[Change], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.push(CHANGED);
    for change in changes {
        buffer.extend_from_slice(&change.position.to_bits().to_le_bytes());
        buffer.extend_from_slice(&[change.attempts, u8::from(change.is_dead)]);
    }
}

pub(super) fn encode_dead_letters(notes: &[DeadLetterNote], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.push(DEAD_LETTERS);
    for note in notes {
        buffer.extend_from_slice(&note.position.to_bits().to_le_bytes());
        buffer.push(note.attempts);
        buffer.extend_from_slice(&note.until_unix_ms.to_le_bytes());
    }
}

/// Reads a record; `None` if it is not one of these.
pub(super) fn decode(bytes: &[u8]) -> Option<Entry<'_>> {
    let mut reader = Reader(bytes);
    match reader.byte()? {
        MESSAGE => decode_message(reader).map(Entry::Message),
        ENDED => {
            let positions = reader.0.chunks(8).map(|chunk| Reader(chunk).position());
            positions.collect::<Option<_>>().map(Entry::Ended)
        }
        CHANGED => {
            let changes = reader.0.chunks(10).map(|chunk| {
                let mut chunk = Reader(chunk);
                let position = chunk.position()?;
                Some(Change { position, attempts: chunk.byte()?, is_dead: chunk.byte()? != 0 })
            });
            changes.collect::<Option<_>>().map(Entry::Changed)
        }
        DEAD_LETTERS => {
            let notes = reader.0.chunks(17).map(|chunk| {
                let mut chunk = Reader(chunk);
                let (position, attempts) = (chunk.position()?, chunk.byte()?);
                Some(DeadLetterNote { position, attempts, until_unix_ms: chunk.number()? })
            });
            notes.collect::<Option<_>>().map(Entry::DeadLetters)
        }
        _ => None,
    }
}

fn decode_message(mut reader: Reader<'_>) -> Option<MessageRecord<'_>> {
    let attempts = reader.byte()?;
    let priority = Priority::ALL.get(usize::from(reader.byte()?)).copied()?;
    let flags = reader.byte()?;
    let (expires_unix_ms, sequence) = (reader.number()?, reader.number()?);
    let id = NotificationId(*reader.take(16)?.first_chunk()?);
    let until_unix_ms = if flags & HAS_FORGOTTEN == 0 { None } else { Some(reader.number()?) };
    Some(MessageRecord {
        attempts,
        priority,
        dead: (flags & IS_DEAD != 0).then_some(Dead { until_unix_ms }),
        expires_unix_ms,
        sequence,
        id,
        tenant: reader.text()?,
        user: reader.text()?,
        audience: if flags & HAS_AUDIENCE == 0 { None } else { Some(reader.audience()?) },
        json: reader.0,
    })
}

fn put_text(buffer: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect(SHORTER_THAN_A_BODY);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(text.as_bytes());
}

fn put_audience(buffer: &mut Vec<u8>, audience: &Audience) {
    let (kind, names) = match audience {
        Audience::Roles(names) => (0, names),
        Audience::Users(names) => (1, names),
        Audience::Channels(names) => (2, names),
    };
    buffer.push(kind);
    let count = u16::try_from(names.len()).expect(SHORTER_THAN_A_BODY);
    buffer.extend_from_slice(&count.to_le_bytes());
    names.iter().for_each(|name| put_text(buffer, name));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(*self.take(2)?.first_chunk()?)))
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }

    fn position(&mut self) -> Option<Position> {
        Position::from_bits(self.number()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.short()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn audience(&mut self) -> Option<Audience> {
        let kind = self.byte()?;
        let count = self.short()?;
        let names = (0..count).map(|_| self.text().map(Box::from)).collect::<Option<_>>()?;
        match kind {
            0 => Some(Audience::Roles(names)),
            1 => Some(Audience::Users(names)),
            2 => Some(Audience::Channels(names)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn audience() -> impl Strategy<Value = Option<Audience>> {
        let names = proptest::collection::vec("[a-zé]{0,9}".prop_map(Box::from), 0..5);
        let names = names.prop_map(Vec::into_boxed_slice);
        prop_oneof![
            Just(None),
            names.clone().prop_map(|names| Some(Audience::Roles(names))),
            names.clone().prop_map(|names| Some(Audience::Users(names))),
            names.prop_map(|names| Some(Audience::Channels(names))),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(
            names in ("[a-z]{0,20}", "\\PC{0,40}"),
            numbers: (u64, u64),
            id: [u8; 16],
            state in (0_usize..4, any::<u8>(), any::<Option<Option<u64>>>()),
            audience in audience(),
            json in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let message = MessageRecord {
                tenant: &names.0,
                user: &names.1,
                sequence: numbers.0,
                expires_unix_ms: numbers.1,
                id: NotificationId(id),
                priority: Priority::ALL[state.0],
                attempts: state.1,
                dead: state.2.map(|until_unix_ms| Dead { until_unix_ms }),
                audience: audience.clone(),
                json: &json,
            };
            let mut bytes = Vec::new();
            message.encode(audience.as_ref(), &mut bytes);
            prop_assert_eq!(decode(&bytes), Some(Entry::Message(message)));
        }

        #[test]
        fn notes_come_back_as_they_were(positions in proptest::collection::vec(1_u64.., 0..50)) {
            let positions: Vec<Position> =
                positions.into_iter().filter_map(Position::from_bits).collect();
            let mut bytes = Vec::new();
            encode_ended(&positions, &mut bytes);
            prop_assert_eq!(decode(&bytes), Some(Entry::Ended(positions.clone())));
            let change = |position| Change { position, attempts: 7, is_dead: true };
            let changes: Vec<Change> = positions.iter().copied().map(change).collect();
            encode_changed(&changes, &mut bytes);
            prop_assert_eq!(decode(&bytes), Some(Entry::Changed(changes)));
            let note = |position: Position| DeadLetterNote { position, attempts: 7, until_unix_ms: !position.to_bits() };
            let notes: Vec<DeadLetterNote> = positions.into_iter().map(note).collect();
            encode_dead_letters(&notes, &mut bytes);
            prop_assert_eq!(decode(&bytes), Some(Entry::DeadLetters(notes)));
        }

        #[test]
        fn no_bytes_are_too_strange(
            first in 0_u8..6,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            bytes.insert(0, first);
            let _any = decode(&bytes);
        }
    }
}
