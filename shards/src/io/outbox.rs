//! What waits to be written, for all connections of a shard in one pool.
//!
//! **Runs on**: a shard. **Owns**: 16 bytes for each waiting frame, shared frames by reference.
//! **Never**: allocates per delivery once warm; keeps anything for an idle connection.
//!
//! Each outbox is a singly linked list through the pool, so that an idle connection costs its
//! head and tail only, and a burst to many connections reuses the same entries turn after turn.

use std::io::{self, IoSlice, Write};
use std::num::NonZeroU32;
use std::rc::Rc;

use crate::base::limits::FRAMES_PER_WRITE;
use crate::encoding::Encoding;
use crate::notification::Priority;
use crate::outbound::{OutboundMessage, Unsent};

/// The place of an entry in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot(NonZeroU32);

impl Slot {
    fn of(index: usize) -> Self {
        let slot = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(slot.expect("frames of 16 bytes fill the memory before they fill the numbers"))
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// After a burst the pool is given back once it is empty, unless it is smaller than this: 256 KiB.
const ENTRIES_KEPT_MAX: usize = 16_384;

/// One connection's queue of unwritten frames.
#[derive(Debug)]
pub(super) struct Outbox {
    head: Option<Slot>,
    tail: Option<Slot>,
    /// Bytes waiting, what is left of the first frame included.
    bytes: u32,
    /// Bytes of the first frame that are written already.
    written: u32,
    /// The least urgent priority waiting; what is not more urgent goes to the end at once.
    least: Priority,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { head: None, tail: None, bytes: 0, written: 0, least: Priority::Critical }
    }
}

impl Outbox {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head.is_none()
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
    /// The first of the entries that are free, each of which names the next.
    free: Option<Slot>,
    used: usize,
    /// Bytes waiting in all outboxes.
    pub(super) bytes: usize,
    /// Write system calls so far.
    pub(super) writes: u64,
}

#[derive(Debug)]
struct Entry {
    /// `None` while the entry is free.
    frame: Option<Rc<OutboundMessage>>,
    next: Option<Slot>,
}

impl Entry {
    fn frame(&self) -> &Rc<OutboundMessage> {
        self.frame.as_ref().expect("an entry of an outbox has its frame")
    }
}

impl Pool {
    fn entry(&self, slot: Slot) -> &Entry {
        self.entries.get(slot.index()).expect("the pool is given back when no slot is in use")
    }

    fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        self.entries.get_mut(slot.index()).expect("the pool is given back when no slot is in use")
    }

    /// Appends a frame that is so many bytes long for this reader. The caller has checked the bound.
    pub(super) fn push(&mut self, outbox: &mut Outbox, frame: &Rc<OutboundMessage>, bytes: usize) {
        let entry = Entry { frame: Some(Rc::clone(frame)), next: None };
        self.used += 1;
        let slot = if let Some(slot) = self.free {
            let free = std::mem::replace(self.entry_mut(slot), entry);
            self.free = free.next;
            slot
        } else {
            self.entries.push(entry);
            Slot::of(self.entries.len() - 1)
        };
        let before = match frame.priority() {
            Some(priority) if !outbox.is_empty() && priority > outbox.least => {
                self.place_for(outbox, priority)
            }
            _ => outbox.tail,
        };
        self.link(outbox, slot, before);
        outbox.least = outbox.least.min(frame.priority().unwrap_or(outbox.least));
        outbox.bytes += u32::try_from(bytes).expect("a frame is shorter than 4 GiB");
        self.bytes += bytes;
    }

    /// The entry behind which a notification of that priority goes: the last that is as urgent, or
    /// is no notification (a reply keeps its place among what was said), or has begun to be written.
    fn place_for(&self, outbox: &Outbox, priority: Priority) -> Option<Slot> {
        let mut place = if outbox.written > 0 { outbox.head } else { None };
        let mut next = outbox.head;
        while let Some(slot) = next {
            let entry = self.entry(slot);
            if entry.frame().priority().is_none_or(|waiting| waiting >= priority) {
                place = Some(slot);
            }
            next = entry.next;
        }
        place
    }

    /// Links an entry behind another, or before all (`None`).
    fn link(&mut self, outbox: &mut Outbox, slot: Slot, before: Option<Slot>) {
        let next = match before {
            Some(before) => self.entry_mut(before).next.replace(slot),
            None => outbox.head.replace(slot),
        };
        self.entry_mut(slot).next = next;
        if next.is_none() {
            outbox.tail = Some(slot);
        }
    }

    fn pop(&mut self, outbox: &mut Outbox) -> Option<Rc<OutboundMessage>> {
        let slot = outbox.head?;
        let free = Entry { frame: None, next: self.free };
        let Entry { frame, next } = std::mem::replace(self.entry_mut(slot), free);
        self.free = Some(slot);
        outbox.head = next;
        if next.is_none() {
            outbox.tail = None;
            outbox.least = Priority::Critical;
        }
        self.used -= 1;
        outbox.written = 0;
        if self.used == 0 && self.entries.len() > ENTRIES_KEPT_MAX {
            self.entries = Vec::new();
            self.free = None;
        }
        Some(frame.expect("an entry of an outbox has its frame"))
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
            self.push(outbox, &frame, frame.bytes(encoding).len());
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
        let Some(first) = outbox.head else { return Ok(0) };
        let mut skip = outbox.written as usize;
        if outbox.tail == Some(first) {
            // The usual case of a fan-out, without the cost of preparing many slices.
            return socket.write(self.rest_of(first, skip, encoding));
        }
        let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
        let (mut next, mut count) = (Some(first), 0);
        for slice in &mut slices {
            let Some(slot) = next else { break };
            *slice = IoSlice::new(self.rest_of(slot, skip, encoding));
            skip = 0;
            next = self.entry(slot).next;
            count += 1;
        }
        socket.write_vectored(slices.get(..count).expect("as many as were filled"))
    }

    /// The bytes of a frame but the first `skip`.
    fn rest_of(&self, slot: Slot, skip: usize, encoding: Encoding) -> &[u8] {
        let bytes = self.entry(slot).frame().bytes(encoding);
        bytes.get(skip..).expect("of a frame no more is written than there is")
    }

    /// Takes `count` written bytes off the front.
    fn release(&mut self, outbox: &mut Outbox, encoding: Encoding, mut count: usize) {
        self.bytes -= count;
        if count == outbox.bytes() {
            // The usual case: all of it, whatever each frame's part was.
            outbox.bytes = 0;
            while self.pop(outbox).is_some() {}
            return;
        }
        outbox.bytes -= u32::try_from(count).expect("no more is written than waits");
        while let Some(slot) = outbox.head {
            let length = self.entry(slot).frame().bytes(encoding).len();
            let left = length - outbox.written as usize;
            if count < left {
                outbox.written += u32::try_from(count).expect("a frame is shorter than 4 GiB");
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

    fn notification(priority: Priority, mark: u8) -> Rc<OutboundMessage> {
        let id = NotificationId([mark; 16]);
        let head = Metadata { id, audience: None, expires_at: Tick(0), priority };
        let encoded = Notification::encode(head, &[mark], Encodings::ALL);
        Rc::new(OutboundMessage::Notification(Arc::new(encoded)))
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
                    None => OutboundMessage::raw(Box::new([0x81, 1, mark])),
                };
                pool.push(&mut outbox, &frame, frame.bytes(Encoding::AraText).len());
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
                pool.push(&mut outbox, &OutboundMessage::raw(bytes.into()), *length);
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
                let frame = OutboundMessage::raw(vec![fill; first].into());
                pool.push(&mut outbox, &frame, frame.bytes(Encoding::AraText).len());
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
