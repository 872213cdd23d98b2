//! WebSocket frames (RFC 6455), without sockets: reads one frame from the front of a byte slice and
//! writes one to the end of a vector. Both directions, since the stand-in server speaks the other.

/// The largest payload either side accepts; a length above it means the stream is out of step.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Self, String> {
        match bits {
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            other => Err(format!("a frame with opcode {other:#x}, which nobody here sends")),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// One whole frame at the front of a slice.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: Opcode,
    pub(crate) payload: &'a [u8],
    pub(crate) mask: Option<[u8; 4]>,
    /// Header and payload together: where the next frame begins.
    pub(crate) bytes: usize,
}

/// Reads the frame at the front of `input`; `None` while it is not complete.
pub(crate) fn read(input: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let Some((&[first, second], rest)) = input.split_first_chunk::<2>() else { return Ok(None) };
    if first & 0xF0 != 0x80 {
        return Err(format!("a fragmented or extended frame (first byte {first:#04x})"));
    }
    let opcode = Opcode::from_bits(first & 0x0F)?;
    let (length, rest) = match second & 0x7F {
        126 => match rest.split_first_chunk::<2>() {
            Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > PAYLOAD_BYTES_MAX {
        return Err(format!("a frame of {length} bytes"));
    }
    let (mask, rest) = if second & 0x80 == 0 {
        (None, rest)
    } else {
        match rest.split_first_chunk::<4>() {
            Some((mask, rest)) => (Some(*mask), rest),
            None => return Ok(None),
        }
    };
    Ok(rest.get(..length).map(|payload| Frame {
        opcode,
        payload,
        mask,
        bytes: input.len() - rest.len() + length,
    }))
}

/// Writes a frame as a server does, without a mask.
pub(crate) fn write_server(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    header(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Writes a frame as a client must, masked.
pub(crate) fn write_client(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    header(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&mask);
    out.extend(unmasked(payload, mask));
}

/// Masking and unmasking are the same operation.
pub(crate) fn unmasked(payload: &[u8], mask: [u8; 4]) -> impl Iterator<Item = u8> {
    payload.iter().zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key)
}

fn header(out: &mut Vec<u8>, opcode: Opcode, length: usize, mask_bit: u8) {
    out.push(0x80 | opcode.bits());
    if let Ok(short) = u8::try_from(length)
        && short < 126
    {
        out.push(mask_bit | short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(mask_bit | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(mask_bit | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6455, section 5.7.
    #[test]
    fn reads_the_standards_examples() {
        let plain = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        let frame = read(&plain).expect("valid").expect("complete");
        assert_eq!((frame.opcode, frame.payload, frame.bytes), (Opcode::Text, &b"Hello"[..], 7));
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let frame = read(&masked).expect("valid").expect("complete");
        let mask = frame.mask.expect("a mask");
        assert_eq!(unmasked(frame.payload, mask).collect::<Vec<_>>(), b"Hello");
        let mut written = Vec::new();
        write_client(&mut written, Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(written, masked);
    }

    #[test]
    fn every_length_survives_a_round_trip_and_no_prefix_is_taken_for_a_frame() {
        for length in [0, 1, 125, 126, 127, 300, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let mut wire = Vec::new();
            write_server(&mut wire, Opcode::Binary, &payload);
            for cut in [0, 1, 2, 3, wire.len() - 1] {
                if let Some(prefix) = wire.get(..cut.min(wire.len() - 1)) {
                    assert_eq!(read(prefix), Ok(None), "{length} cut at {cut}");
                }
            }
            wire.push(0x81);
            let frame = read(&wire).expect("valid").expect("complete");
            assert_eq!(frame.payload, payload);
            assert_eq!(frame.bytes, wire.len() - 1);
        }
    }

    #[test]
    fn refuses_what_means_the_stream_is_out_of_step() {
        assert!(read(&[0x01, 0x00]).is_err(), "a fragment");
        assert!(read(&[0xC1, 0x00]).is_err(), "a compressed frame nobody asked for");
        assert!(read(&[0x83, 0x00]).is_err(), "a reserved opcode");
        assert!(read(&[0x82, 0x7F, 0, 0, 0, 1, 0, 0, 0, 0]).is_err(), "4 GiB");
    }
}
