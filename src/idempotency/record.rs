//! The bytes of a key's life on disk: begun, answered, and the notes about its end.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: nothing.
//! **Never**: trusts a length it has read; panics on any bytes.
//!
//! The first byte is the version (high four bits) and the kind; numbers are little-endian:
//!
//! | kind | then |
//! |---|---|
//! | 1 begun | serial 8, unix ms 8, notification id 16, digest 32, tenant 1 + n, key 1 + n |
//! | 2 answered | as begun, then status 2, body 4 + n |
//! | 3 abandoned (note) | serial 8 |
//! | 4 forgotten (note) | serial 8: everything below it |
//! | 5 clock (note) | unix ms 8: it was that late already |

use ara_shards::base::id::NotificationId;
use http::StatusCode;

use super::Digest;
use crate::record_reader::RecordReader;

/// In the high four bits of the first byte.
const VERSION: u8 = 1 << 4;
const BEGUN: u8 = VERSION | 1;
const ANSWERED: u8 = VERSION | 2;
const ABANDONED: u8 = VERSION | 3;
const FORGOTTEN: u8 = VERSION | 4;
const CLOCK: u8 = VERSION | 5;

/// Numbers the requests of a store in their order, whatever the clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Serial(pub(super) u64);

impl Serial {
    /// The next request's.
    pub(super) const fn next(self) -> Self {
        // A damaged file may hold any number; a process does not count to the last.
        Self(self.0.saturating_add(1))
    }
}

/// One record or note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A request with a key is about to be served.
    Begun(RequestRecord<'a>),
    /// It was answered so. Says all that the record of its beginning says, and replaces it.
    Answered(RequestRecord<'a>, StatusCode, &'a [u8]),
    /// Nothing was sent for it: its key is free again. A note.
    Abandoned {
        /// Of the request.
        serial: Serial,
    },
    /// Everything older has left. A note.
    Forgotten {
        /// The oldest that is remembered.
        below: Serial,
    },
    /// It was that late already, whatever the wall clock says. A note.
    Clock {
        /// By the store's clock.
        ms: u64,
    },
}

/// What is known of a request from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestRecord<'a> {
    pub(super) serial: Serial,
    /// When it began, by the store's clock.
    pub(super) since_ms: u64,
    /// What is sent for it has this id, however often.
    pub(super) id: NotificationId,
    pub(super) digest: Digest,
    /// Whose key it is.
    pub(super) tenant: &'a str,
    /// The key.
    pub(super) key: &'a str,
}

impl<'a> Record<'a> {
    /// Appends the record's bytes to `into`.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Begun(head) => {
                into.push(BEGUN);
                head.encode(into);
            }
            Self::Answered(head, status, body) => {
                into.push(ANSWERED);
                head.encode(into);
                into.extend_from_slice(&status.as_u16().to_le_bytes());
                let bytes = u32::try_from(body.len()).expect("no response has 4 GiB");
                into.extend_from_slice(&bytes.to_le_bytes());
                into.extend_from_slice(body);
            }
            Self::Abandoned { serial } => {
                into.push(ABANDONED);
                into.extend_from_slice(&serial.0.to_le_bytes());
            }
            Self::Forgotten { below } => {
                into.push(FORGOTTEN);
                into.extend_from_slice(&below.0.to_le_bytes());
            }
            Self::Clock { ms } => {
                into.push(CLOCK);
                into.extend_from_slice(&ms.to_le_bytes());
            }
        }
    }

    /// The record these bytes are, if they are exactly one that this version knows.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, bytes) = bytes.split_first()?;
        let mut reader = RecordReader(bytes);
        let record = match *kind {
            BEGUN => Self::Begun(head(&mut reader)?),
            ANSWERED => {
                let head = head(&mut reader)?;
                let status = StatusCode::from_u16(u16::from_le_bytes(reader.array()?)).ok()?;
                Self::Answered(head, status, reader.bytes()?)
            }
            ABANDONED => Self::Abandoned { serial: Serial(reader.number()?) },
            FORGOTTEN => Self::Forgotten { below: Serial(reader.number()?) },
            CLOCK => Self::Clock { ms: reader.number()? },
            _ => return None,
        };
        reader.is_at_end().then_some(record)
    }
}

impl RequestRecord<'_> {
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.serial.0.to_le_bytes());
        into.extend_from_slice(&self.since_ms.to_le_bytes());
        into.extend_from_slice(&self.id.0);
        into.extend_from_slice(&self.digest);
        for name in [self.tenant, self.key] {
            into.push(u8::try_from(name.len()).expect("a tenant has 64 bytes at most, a key 128"));
            into.extend_from_slice(name.as_bytes());
        }
    }
}

fn head<'a>(reader: &mut RecordReader<'a>) -> Option<RequestRecord<'a>> {
    Some(RequestRecord {
        serial: Serial(reader.number()?),
        since_ms: reader.number()?,
        id: NotificationId(reader.array()?),
        digest: reader.array()?,
        tenant: reader.text()?,
        key: reader.text()?,
    })
}
