//! Each way to break the protocol has its close code, and is found as early as it can be.
//!
//! Set-up: one bad stream a case, whole and byte by byte. Why it matters: a client's author reads
//! the code to find the fault, and what is found by its header costs no memory for its payload.

use super::*;

/// The code a stream is refused with, and how many bytes of it that took.
fn refusal(bytes: &[u8], message_bytes_max: usize) -> Option<(u16, usize)> {
    let whole = decode(&mut bytes.to_vec(), &mut None, message_bytes_max, |_| true);
    let mut unfinished = None;
    let mut fed = 0;
    let refused = bytes.iter().find_map(|byte| {
        fed += 1;
        decode(&mut [*byte], &mut unfinished, message_bytes_max, |_| true).err()
    });
    assert_eq!(refused, whole.err(), "whole and in pieces");
    if let Some(violation) = refused {
        assert!(unfinished.is_none(), "kept something of a refused stream");
        assert!(violation.reason.len() <= 123, "fits a close frame");
    }
    refused.map(|violation| (violation.code, fed))
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    client_frame(first, payload, [1, 2, 3, 4])
}

fn code_of(bytes: &[u8]) -> Option<u16> {
    refusal(bytes, 1_000).map(|(code, _)| code)
}

#[test]
fn protocol_errors_are_1002() {
    for reserved_bits in 1..8_u8 {
        assert_eq!(code_of(&masked(FINAL | reserved_bits << 4 | TEXT, b"x")), Some(1002));
    }
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        assert_eq!(code_of(&masked(FINAL | opcode, b"")), Some(1002), "opcode {opcode}");
        assert_eq!(code_of(&masked(opcode, b"xy")), Some(1002), "opcode {opcode}, fragment");
    }
    assert_eq!(code_of(&text_frame(b"unmasked")), Some(1002));
    assert_eq!(code_of(&ping_frame()), Some(1002));
    for control in [CLOSE, PING, PONG] {
        assert_eq!(code_of(&masked(control, b"")), Some(1002), "fragmented control {control}");
        assert_eq!(code_of(&masked(FINAL | control, &[0; 126])), Some(1002), "long {control}");
    }
    assert_eq!(code_of(&masked(FINAL | CONTINUATION, b"x")), Some(1002));
    assert_eq!(code_of(&masked(CONTINUATION, b"x")), Some(1002));
    for second in [TEXT, BINARY, FINAL | TEXT, FINAL | BINARY] {
        let stream = [masked(TEXT, b"begun"), masked(second, b"another")].concat();
        assert_eq!(code_of(&stream), Some(1002), "{second:#x} inside a message");
    }
    let over = [masked(TEXT, b"a"), masked(FINAL, b"b"), masked(FINAL, b"c")].concat();
    assert_eq!(code_of(&over), Some(1002), "a continuation after the end");
}

#[test]
fn close_frames_are_checked() {
    let close = |payload: &[u8]| code_of(&masked(FINAL | CLOSE, payload));
    assert_eq!(close(b""), None);
    assert_eq!(close(&[3]), Some(1002), "half a code");
    for good in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999_u16] {
        assert_eq!(close(&good.to_be_bytes()), None, "{good}");
    }
    for bad in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535_u16] {
        assert_eq!(close(&bad.to_be_bytes()), Some(1002), "{bad}");
    }
    assert_eq!(close(b"\x03\xe8bye \xc3\xbc"), None);
    assert_eq!(close(b"\x03\xe8bye \xc3"), Some(1007), "a reason cut inside a character");
}

/// What we say last must be legal too: 125 bytes at most, and a reason of whole characters.
#[test]
fn our_own_close_frame_is_legal_whatever_its_reason() {
    for character in ["x", "é", "€", "😀"] {
        for count in [0, 1, 30, 31, 41, 61, 62, 100, 123, 124, 1_000] {
            for lead in ["", "y"] {
                let reason = format!("{lead}{}", character.repeat(count));
                let frame = close_frame(Some(1000), &reason);
                let (header, payload) = frame.split_at(2);
                assert!(payload.len() <= 125, "{} bytes", payload.len());
                assert_eq!(header, [FINAL | CLOSE, u8::try_from(payload.len()).unwrap()]);
                let said = std::str::from_utf8(&payload[2..]).expect("whole characters");
                assert!(reason.starts_with(said));
                assert!(said == reason || said.len() + character.len() > 123, "too short: {said}");
            }
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_1007() {
    for bad in [&b"\xff"[..], b"ok \xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe2\x82"]
    {
        assert_eq!(code_of(&masked(FINAL | TEXT, bad)), Some(1007), "{bad:?}");
        let (head, tail) = bad.split_at(bad.len() / 2);
        let pieces = [masked(TEXT, head), masked(FINAL, tail)].concat();
        assert_eq!(code_of(&pieces), Some(1007), "{bad:?} in two");
        assert_eq!(code_of(&masked(FINAL | BINARY, bad)), None, "{bad:?} as bytes");
    }
}

/// A fragment that cannot become good text is refused without waiting for the rest.
#[test]
fn bad_text_fails_with_its_fragment() {
    assert_eq!(code_of(&masked(TEXT, b"good \xff")), Some(1007));
    assert_eq!(code_of(&masked(TEXT, b"may become a euro sign \xe2\x82")), None);
    let dashed = [masked(TEXT, b"\xe2\x82"), masked(CONTINUATION, b"x")].concat();
    assert_eq!(code_of(&dashed), Some(1007));
    let joined = [masked(TEXT, b"\xe2"), masked(CONTINUATION, b"\x82"), masked(FINAL, b"\xac")];
    assert_eq!(code_of(&joined.concat()), None);
}

/// The header is enough to know that a message is too big; nothing of it is waited for.
#[test]
fn too_big_is_1009_by_its_header() {
    assert_eq!(refusal(&masked(FINAL | TEXT, &[b'x'; 100]), 100), None);
    assert_eq!(refusal(&masked(FINAL | TEXT, &[b'x'; 101]), 100), Some((1009, 6)));
    assert_eq!(refusal(&masked(BINARY, &[0; 200]), 100), Some((1009, 8)), "a first fragment");
    let first = masked(TEXT, &[b'x'; 60]);
    let pieces = [first.clone(), masked(FINAL, &[b'x'; 41])].concat();
    assert_eq!(refusal(&pieces, 100), Some((1009, first.len() + 6)));
    let mut endless = vec![FINAL | BINARY, 0x80 | 127];
    for length in [1_u64 << 32, u64::MAX >> 1, u64::MAX] {
        endless.truncate(2);
        endless.extend(length.to_be_bytes());
        endless.extend([0; 4]);
        assert_eq!(refusal(&endless, 100), Some((1009, 14)), "{length}");
    }
    // A control frame is not part of the message it interrupts.
    let aside = [masked(TEXT, &[b'x'; 100]), masked(FINAL | PING, &[0; 125]), masked(FINAL, b"")];
    assert_eq!(refusal(&aside.concat(), 100), None);
}
