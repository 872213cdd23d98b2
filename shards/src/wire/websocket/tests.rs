//! What a client meant is what we read, however it was cut up on the way.
//!
//! Set-up: a reference encoder written from RFC 6455 makes a client's byte stream out of messages,
//! fragments and control frames; the stream reaches [`decode`] in arbitrary pieces.
//! Properties: the same events; the same violation; nothing is kept of a client that owes nothing,
//! and not much more than it owes of any other; the limit counts a message, not a frame.
//! Why it matters: a proxy may split a frame anywhere, and anyone may send anything.

mod violations;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// An [`Event`] that outlives its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Fragment,
    Close(Option<u16>),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong => Self::Pong,
            Event::Fragment => Self::Fragment,
            Event::Close(code) => Self::Close(code),
        }
    }
}

/// Something a client sends.
#[derive(Debug, Clone)]
enum Said {
    Message { text: Option<String>, bytes: Vec<u8>, cuts: Vec<Index>, between: Vec<Aside> },
    Aside(Aside),
    Close(Option<(u16, String)>),
}

/// A control frame, alone or between two fragments.
#[derive(Debug, Clone)]
enum Aside {
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// A client's frame (RFC 6455 section 5.2).
fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

/// A stream with what it means and where the client owes nothing.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    meaning: Vec<Seen>,
    /// Offsets at which no frame and no message is unfinished.
    rests: Vec<usize>,
}

impl Stream {
    fn push(&mut self, first: u8, payload: &[u8]) {
        let salt = u8::try_from(self.bytes.len() % 256).unwrap();
        self.bytes.extend(client_frame(first, payload, [salt, 0x5A, !salt, 7]));
    }

    fn aside(&mut self, aside: &Aside) {
        match aside {
            Aside::Ping(payload) => {
                self.push(FINAL | PING, payload);
                self.meaning.push(Seen::Ping(payload.clone()));
            }
            Aside::Pong(payload) => {
                self.push(FINAL | PONG, payload);
                self.meaning.push(Seen::Pong);
            }
        }
    }

    fn message(&mut self, text: Option<&str>, bytes: &[u8], cuts: &[Index], between: &[Aside]) {
        let payload = text.map_or(bytes, str::as_bytes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        let mut opcode = if text.is_some() { TEXT } else { BINARY };
        let mut start = 0;
        for (index, cut) in cuts.into_iter().enumerate() {
            self.push(opcode, &payload[start..cut]);
            (opcode, start) = (CONTINUATION, cut);
            self.meaning.push(Seen::Fragment);
            if let Some(aside) = between.get(index) {
                self.aside(aside);
            }
        }
        self.push(FINAL | opcode, &payload[start..]);
        self.meaning.push(
            text.map_or_else(|| Seen::Binary(bytes.to_vec()), |text| Seen::Text(text.into())),
        );
    }

    fn of(all: &[Said]) -> Self {
        let mut stream = Self { rests: vec![0], ..Self::default() };
        for said in all {
            match said {
                Said::Message { text, bytes, cuts, between } => {
                    stream.message(text.as_deref(), bytes, cuts, between);
                }
                Said::Aside(aside) => stream.aside(aside),
                Said::Close(why) => {
                    let mut payload = Vec::new();
                    if let Some((code, reason)) = why {
                        payload.extend(code.to_be_bytes());
                        payload.extend(reason.as_bytes());
                    }
                    stream.push(FINAL | CLOSE, &payload);
                    stream.meaning.push(Seen::Close(why.as_ref().map(|(code, _)| *code)));
                    stream.rests.push(stream.bytes.len());
                    // What follows a close is not read.
                    stream.bytes.extend([0xFF; 20]);
                    stream.rests.push(stream.bytes.len());
                    return stream;
                }
            }
            stream.rests.push(stream.bytes.len());
        }
        stream
    }
}

/// What came of a stream fed in pieces, and what was kept after each piece.
#[derive(Debug)]
struct Outcome {
    seen: Vec<Seen>,
    result: Result<(), Violation>,
    /// Offset, and the bytes held there if any are.
    kept: Vec<(usize, Option<usize>)>,
}

/// Feeds a stream cut at these offsets, as the shard does: until a close or a violation.
fn feed(bytes: &[u8], cuts: &[Index], message_bytes_max: usize) -> Outcome {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut outcome = Outcome { seen: Vec::new(), result: Ok(()), kept: Vec::new() };
    let mut unfinished = None;
    let mut start = 0;
    for cut in cuts {
        let mut chunk = bytes[start..cut].to_vec();
        start = cut;
        let seen = &mut outcome.seen;
        outcome.result = decode(&mut chunk, &mut unfinished, message_bytes_max, |event| {
            seen.push(event.into());
            !matches!(seen.last(), Some(Seen::Close(_)))
        });
        let is_over = matches!(outcome.seen.last(), Some(Seen::Close(_)));
        if outcome.result.is_err() || is_over {
            return outcome;
        }
        outcome.kept.push((cut, unfinished.as_ref().map(|kept| kept.bytes())));
    }
    outcome
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => prop::collection::vec(any::<u8>(), 0..40),
        2 => (120..135_usize).prop_map(|length| vec![b'm'; length]),
        1 => (65_530..65_545_usize).prop_map(|length| vec![b'l'; length]),
    ]
}

fn aside() -> impl Strategy<Value = Aside> {
    let payload = || prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![payload().prop_map(Aside::Ping), payload().prop_map(Aside::Pong)]
}

fn said() -> impl Strategy<Value = Said> {
    let text = prop_oneof![".{0,40}", "[ü€𝄞]{0,40}"];
    let cuts = prop::collection::vec(any::<Index>(), 0..5);
    let between = prop::collection::vec(aside(), 0..4);
    let message = (prop::option::of(text), payload(), cuts, between)
        .prop_map(|(text, bytes, cuts, between)| Said::Message { text, bytes, cuts, between });
    let code = prop_oneof![1000..=1003_u16, 1007..=1013_u16, 3000..=4999_u16];
    let close = prop::option::of((code, ".{0,30}")).prop_map(Said::Close);
    prop_oneof![12 => message, 4 => aside().prop_map(Said::Aside), 1 => close]
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_cut_of_the_stream_means_the_same(
        all in prop::collection::vec(said(), 0..8),
        cuts in cuts(),
    ) {
        let stream = Stream::of(&all);
        let outcome = feed(&stream.bytes, &cuts, 1 << 20);
        prop_assert_eq!(outcome.result, Ok(()));
        prop_assert_eq!(outcome.seen, stream.meaning);
        for (offset, kept) in outcome.kept {
            let rest = stream.rests.iter().rfind(|rest| **rest <= offset).unwrap();
            let owed = offset - rest;
            prop_assert_eq!(kept.is_some(), owed > 0, "at {}: {:?}", offset, kept);
            // A vector grows by doubling, and there are two; a header may be all there is.
            let most = 2 * owed + 32;
            prop_assert!(kept.unwrap_or(0) <= most, "{kept:?} kept for {owed} at {offset}");
        }
    }

    /// One byte at a time is the most any proxy can do.
    #[test]
    fn byte_by_byte_means_the_same(all in prop::collection::vec(said(), 0..3)) {
        let stream = Stream::of(&all);
        let mut unfinished = None;
        let mut seen: Vec<Seen> = Vec::new();
        for byte in &stream.bytes {
            if matches!(seen.last(), Some(Seen::Close(_))) {
                break;
            }
            let result = decode(&mut [*byte], &mut unfinished, 1 << 20, |event| {
                seen.push(event.into());
                true
            });
            prop_assert_eq!(result, Ok(()));
        }
        prop_assert_eq!(seen, stream.meaning);
    }

    /// A conversation that stops listening gets nothing more, wherever in a message it stopped.
    #[test]
    fn nothing_follows_a_stop(
        all in prop::collection::vec(said(), 1..8),
        stop in any::<Index>(),
    ) {
        let mut stream = Stream::of(&all);
        let most = stop.index(stream.meaning.len()) + 1;
        let mut seen: Vec<Seen> = Vec::new();
        let result = decode(&mut stream.bytes, &mut None, 1 << 20, |event| {
            seen.push(event.into());
            seen.len() < most
        });
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(&seen, &stream.meaning[..most]);
    }

    /// A message counts as a whole: cut into frames, it is refused as soon as a header says that
    /// it will be too big, and not before.
    #[test]
    fn the_limit_counts_over_fragments(
        length in 0..300_usize,
        max in 0..300_usize,
        inner in prop::collection::vec(any::<Index>(), 0..5),
        between in prop::collection::vec(aside(), 0..4),
        cuts in cuts(),
    ) {
        let message = vec![b'x'; length];
        let mut stream = Stream::default();
        stream.message(None, &message, &inner, &between);
        let outcome = feed(&stream.bytes, &cuts, max);
        if length <= max {
            prop_assert_eq!(outcome.result, Ok(()));
            prop_assert_eq!(outcome.seen, stream.meaning);
        } else {
            prop_assert_eq!(outcome.result.unwrap_err().code, 1009);
            prop_assert!(!outcome.seen.contains(&Seen::Binary(message)));
        }
        for (_, kept) in outcome.kept {
            prop_assert!(kept.unwrap_or(0) <= 2 * (max + 125 + 14) + 32);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Nonsense, whole or cut, does the same, and never harm.
    #[test]
    fn arbitrary_bytes_do_the_same_however_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cuts in cuts(),
    ) {
        let whole = feed(&bytes, &[], 64);
        let pieces = feed(&bytes, &cuts, 64);
        prop_assert_eq!(whole.result, pieces.result);
        prop_assert_eq!(whole.seen, pieces.seen);
    }

    /// So does sense with a few wrong bytes, which gets further.
    #[test]
    fn damaged_streams_do_the_same_however_cut(
        all in prop::collection::vec(said(), 1..5),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        cuts in cuts(),
    ) {
        let mut bytes = Stream::of(&all).bytes;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let whole = feed(&bytes, &[], 1 << 17);
        let pieces = feed(&bytes, &cuts, 1 << 17);
        prop_assert_eq!(whole.result, pieces.result);
        prop_assert_eq!(whole.seen, pieces.seen);
    }
}

#[test]
fn nothing_is_kept_after_a_close() {
    let mut stream = Stream::of(&[Said::Close(Some((1000, "bye".into())))]);
    let mut unfinished = None;
    let result = decode(&mut stream.bytes, &mut unfinished, 1 << 20, |_| true);
    assert_eq!(result, Ok(()));
    assert!(unfinished.is_none());
}

/// What we write, a client can read: the right length form, no mask, and the payload.
#[test]
fn server_frames_have_the_shortest_length_and_no_mask() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000_usize] {
        let payload = vec![b'p'; length];
        for (first, frame) in [(0x81, text_frame(&payload)), (0x82, binary_frame(&payload))] {
            let mut expected = vec![first];
            match length {
                0..=125 => expected.push(u8::try_from(length).unwrap()),
                126..=65_535 => {
                    expected.push(126);
                    expected.extend(u16::try_from(length).unwrap().to_be_bytes());
                }
                _ => {
                    expected.push(127);
                    expected.extend((length as u64).to_be_bytes());
                }
            }
            expected.extend(&payload);
            assert!(*frame == *expected, "a frame of {length} bytes");
        }
    }
    assert_eq!(*ping_frame(), [0x89, 0]);
    assert_eq!(*pong_frame(b"hi"), [0x8A, 2, b'h', b'i']);
    assert_eq!(*close_frame(None, "unsaid"), [0x88, 0]);
    assert_eq!(*close_frame(Some(4429), "slow"), *b"\x88\x06\x11\x4dslow");
    assert_eq!(close_frame(Some(1001), &"r".repeat(500)).len(), 2 + 125);
}
