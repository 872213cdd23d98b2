//! What waits to be written, for all connections of a shard in one pool.
//!
//! **Runs on**: a shard. **Owns**: 16 bytes for each waiting frame, shared frames by reference.
//! **Never**: allocates per delivery once warm; keeps anything for an idle connection.
//!
//! Each outbox is a singly linked list through the pool, so that an idle connection costs its
//! head and tail only, and a burst to many connections reuses the same entries turn after turn.

use std::io::{self, IoSlice, Write};
use std::rc::Rc;

use crate::base::limits::FRAMES_PER_WRITE;
use crate::encoding::Encoding;
use crate::notification::Priority;
use crate::outbound::{Frame, Unsent};

const NONE: u32 = u32::MAX;

/// After a burst the pool is given back once it is empty, unless it is smaller than this: 256 KiB.
const ENTRIES_KEPT_MAX: usize = 16_384;

/// One connection's queue of unwritten frames.
#[derive(Debug)]
pub(super) struct Outbox {
    head: u32,
    tail: u32,
    /// Bytes waiting, what is left of the first frame included.
    bytes: u32,
    /// Bytes of the first frame that are written already.
    written: u32,
    /// The least urgent priority waiting; what is not more urgent goes to the end at once.
    least: Priority,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, bytes: 0, written: 0, least: Priority::Critical }
    }
}

impl Outbox {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// What a write attempt left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing waits any more.
    All,
    /// The socket takes no more for now.
    Blocked,
}

/// The entries of all outboxes of the shard.
#[derive(Debug, Default)]
pub(super) struct Pool {
    entries: Vec<Entry>,
    free: Free,
    used: usize,
    /// Bytes waiting in all outboxes.
    pub(super) bytes: usize,
    /// Write system calls so far.
    pub(super) writes: u64,
}

#[derive(Debug)]
struct Entry {
    frame: Option<Rc<Frame>>,
    next: u32,
}

#[derive(Debug)]
struct Free(u32);

impl Default for Free {
    fn default() -> Self {
        Self(NONE)
    }
}

impl Pool {
    /// Appends a frame. The caller has checked the bound.
    pub(super) fn push(&mut self, outbox: &mut Outbox, frame: &Rc<Frame>, encoding: Encoding) {
        let entry = Entry { frame: Some(Rc::clone(frame)), next: NONE };
        self.used += 1;
        let slot = if let Some(free) = self.entries.get_mut(self.free.0 as usize) {
            let slot = self.free.0;
            self.free = Free(free.next);
            *free = entry;
            slot
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
        };
        let before = match frame.priority() {
            Some(priority) if !outbox.is_empty() && priority > outbox.least => {
                self.place_for(outbox, priority)
            }
            _ => outbox.tail,
        };
        self.link(outbox, slot, before);
        outbox.least = outbox.least.min(frame.priority().unwrap_or(outbox.least));
        let bytes = frame.bytes(encoding).len();
        outbox.bytes += u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes += bytes;
    }

    /// The entry behind which a notification of that priority goes: the last that is as urgent, or
    /// is no notification (a reply keeps its place among what was said), or has begun to be written.
    fn place_for(&self, outbox: &Outbox, priority: Priority) -> u32 {
        let mut place = if outbox.written > 0 { outbox.head } else { NONE };
        let mut slot = outbox.head;
        while let Some(entry) = self.entries.get(slot as usize) {
            let waiting = entry.frame.as_ref().and_then(|frame| frame.priority());
            if waiting.is_none_or(|waiting| waiting >= priority) {
                place = slot;
            }
            slot = entry.next;
        }
        place
    }

    /// Links an entry behind another, or before all (`NONE`).
    fn link(&mut self, outbox: &mut Outbox, slot: u32, before: u32) {
        let next = match self.entries.get_mut(before as usize) {
            Some(entry) => std::mem::replace(&mut entry.next, slot),
            None => std::mem::replace(&mut outbox.head, slot),
        };
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.next = next;
        }
        if next == NONE {
            outbox.tail = slot;
        }
    }

    fn pop(&mut self, outbox: &mut Outbox) -> Option<Rc<Frame>> {
        let slot = outbox.head;
        let entry = self.entries.get_mut(slot as usize)?;
        let frame = entry.frame.take();
        outbox.head = entry.next;
        if outbox.head == NONE {
            outbox.tail = NONE;
            outbox.least = Priority::Critical;
        }
        entry.next = self.free.0;
        self.free = Free(slot);
        self.used -= 1;
        outbox.written = 0;
        if self.used == 0 && self.entries.len() > ENTRIES_KEPT_MAX {
            self.entries = Vec::new();
            self.free = Free::default();
        }
        frame
    }

    /// Takes everything unwritten out but the rest of a frame that is partly out, whose end the
    /// client needs to understand what follows. Notifications go to `unsent`, that one too.
    pub(super) fn discard(
        &mut self,
        outbox: &mut Outbox,
        encoding: Encoding,
        unsent: &mut Vec<Unsent>,
    ) {
        let written = outbox.written;
        let begun = if written > 0 { self.pop(outbox) } else { None };
        if let Some(frame) = begun.as_ref().filter(|frame| frame.is_notification()) {
            // Its rest may never arrive: the client would rather have it twice than not at all.
            unsent.push(Unsent { frame: Rc::clone(frame), is_begun: true });
        }
        self.clear(outbox, unsent);
        if let Some(frame) = begun {
            self.push(outbox, &frame, encoding);
            outbox.written = written;
            outbox.bytes -= written;
            self.bytes -= written as usize;
        }
    }

    /// Releases everything of a connection; notifications not wholly written go to `unsent`.
    pub(super) fn clear(&mut self, outbox: &mut Outbox, unsent: &mut Vec<Unsent>) {
        self.bytes -= outbox.bytes();
        while let Some(frame) = self.pop(outbox) {
            if frame.is_notification() {
                unsent.push(Unsent { frame, is_begun: false });
            }
        }
        *outbox = Outbox::default();
    }

    /// Writes until nothing waits or the socket is full. An error means the connection is broken.
    pub(super) fn write(
        &mut self,
        outbox: &mut Outbox,
        encoding: Encoding,
        socket: &mut impl Write,
    ) -> io::Result<Written> {
        while !outbox.is_empty() {
            self.writes += 1;
            match self.write_once(outbox, encoding, socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.release(outbox, encoding, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Written::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// One system call for as many waiting frames as fit.
    fn write_once(
        &self,
        outbox: &Outbox,
        encoding: Encoding,
        socket: &mut impl Write,
    ) -> io::Result<usize> {
        let mut slot = outbox.head;
        let mut skip = outbox.written as usize;
        if outbox.head == outbox.tail {
            // The usual case of a fan-out, without the cost of preparing many slices.
            let frame = self.entries.get(slot as usize).and_then(|entry| entry.frame.as_ref());
            let bytes = frame.map_or(&[][..], |frame| frame.bytes(encoding));
            return socket.write(bytes.get(skip..).unwrap_or_default());
        }
        let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
        let mut count = 0;
        for slice in &mut slices {
            let Some(entry) = self.entries.get(slot as usize) else { break };
            let bytes = entry.frame.as_ref().map_or(&[][..], |frame| frame.bytes(encoding));
            *slice = IoSlice::new(bytes.get(skip..).unwrap_or_default());
            skip = 0;
            slot = entry.next;
            count += 1;
        }
        socket.write_vectored(slices.get(..count).unwrap_or_default())
    }

    /// Takes `count` written bytes off the front.
    fn release(&mut self, outbox: &mut Outbox, encoding: Encoding, mut count: usize) {
        self.bytes -= count;
        outbox.bytes -= u32::try_from(count).unwrap_or(outbox.bytes);
        while let Some(entry) = self.entries.get(outbox.head as usize) {
            let length = entry.frame.as_ref().map_or(0, |frame| frame.bytes(encoding).len());
            let left = length - outbox.written as usize;
            if count < left {
                outbox.written += u32::try_from(count).unwrap_or(0);
                return;
            }
            count -= left;
            self.pop(outbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::id::{NotificationId, Tick};
    use crate::encoding::Encodings;
    use crate::notification::{Metadata, Notification};
    use proptest::prelude::*;

    /// A socket that takes a scripted number of bytes at each call, then is full.
    struct Script {
        takes: Vec<usize>,
        got: Vec<u8>,
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let Some(most) = self.takes.pop() else { return Err(io::ErrorKind::WouldBlock.into()) };
            let count = most.clamp(1, bytes.len());
            self.got.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.write(&joined)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn notification(priority: Priority, mark: u8) -> Rc<Frame> {
        let id = NotificationId([mark; 16]);
        let head = Metadata { id, audience: None, expires_at: Tick(0), priority };
        let encoded = Notification::encode(head, &[mark], Encodings::ALL);
        Rc::new(Frame::Notification(Arc::new(encoded)))
    }

    proptest! {
        /// The more urgent overtakes; equals, replies, and what is begun keep their places.
        #[test]
        fn the_urgent_overtake_and_equals_keep_their_order(
            kinds in proptest::collection::vec(0_usize..5, 1..60),
            begun in proptest::bool::ANY,
        ) {
            let mut pool = Pool::default();
            let mut outbox = Outbox::default();
            let mut expected: Vec<(Option<Priority>, u8)> = Vec::new();
            for (index, kind) in kinds.iter().enumerate() {
                let mark = u8::try_from(index).unwrap();
                let priority = Priority::ALL.get(*kind).copied();
                let frame = match priority {
                    Some(priority) => notification(priority, mark),
                    None => Frame::raw(Box::new([0x81, 1, mark])),
                };
                pool.push(&mut outbox, &frame, Encoding::AraText);
                let held = |(other, _): &(Option<Priority>, u8)| {
                    priority.is_none() || other.is_none_or(|other| Some(other) >= priority)
                };
                let first = usize::from(begun && index > 0);
                let behind = expected.iter().rposition(held).map_or(0, |place| place + 1);
                expected.insert(behind.max(first), (priority, mark));
                if begun && index == 0 {
                    let mut socket = Script { takes: vec![1], got: Vec::new() };
                    pool.write(&mut outbox, Encoding::AraText, &mut socket).unwrap();
                }
            }
            let mut socket = Script { takes: vec![usize::MAX; 200], got: Vec::new() };
            pool.write(&mut outbox, Encoding::AraText, &mut socket).unwrap();
            let skip = usize::from(begun);
            let bytes: Vec<u8> = std::iter::repeat_n(0x81, skip).chain(socket.got).collect();
            let marks: Vec<u8> = bytes.chunks(3).map(|frame| frame[2]).collect();
            let expected: Vec<u8> = expected.into_iter().map(|(_, mark)| mark).collect();
            prop_assert_eq!(marks, expected);
            prop_assert_eq!(pool.bytes, 0);
        }

        /// Whatever the socket takes at a time, the bytes come out whole and in order, and the
        /// pool's sum of waiting bytes is right throughout.
        #[test]
        fn bytes_keep_their_order(
            frames in proptest::collection::vec(1_usize..300, 1..150),
            rounds in proptest::collection::vec(
                proptest::collection::vec(1_usize..500, 0..4), 0..60),
        ) {
            let mut pool = Pool::default();
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (index, length) in frames.iter().enumerate() {
                let bytes = vec![u8::try_from(index % 251).unwrap(); *length];
                expected.extend_from_slice(&bytes);
                pool.push(&mut outbox, &Frame::raw(bytes.into()), Encoding::AraText);
            }
            let mut got = Vec::new();
            for takes in rounds.into_iter().chain([vec![usize::MAX; 10_000]]) {
                let mut socket = Script { takes, got: Vec::new() };
                pool.write(&mut outbox, Encoding::AraText, &mut socket).unwrap();
                got.extend(socket.got);
                prop_assert_eq!(pool.bytes, expected.len() - got.len());
                prop_assert_eq!(outbox.bytes(), pool.bytes);
            }
            prop_assert_eq!(got, expected);
            prop_assert!(outbox.is_empty());
        }

        /// Discarding keeps exactly the rest of a frame that is partly out.
        #[test]
        fn discard_ends_the_frame_it_interrupts(first in 2_usize..100, cut in 0_usize..100) {
            let mut pool = Pool::default();
            let mut outbox = Outbox::default();
            for fill in [1_u8, 2, 3] {
                let frame = Frame::raw(vec![fill; first].into());
                pool.push(&mut outbox, &frame, Encoding::AraText);
            }
            let takes = if cut == 0 { vec![] } else { vec![cut] };
            let mut socket = Script { takes, got: Vec::new() };
            pool.write(&mut outbox, Encoding::AraText, &mut socket).unwrap();
            pool.discard(&mut outbox, Encoding::AraText, &mut Vec::new());
            let mut rest = Script { takes: vec![usize::MAX; 10], got: Vec::new() };
            pool.write(&mut outbox, Encoding::AraText, &mut rest).unwrap();
            prop_assert_eq!(pool.bytes, 0);
            let total = socket.got.len() + rest.got.len();
            prop_assert_eq!(total % first, 0, "a whole number of frames reached the client");
            prop_assert!(rest.got.len() < first);
        }
    }
}
