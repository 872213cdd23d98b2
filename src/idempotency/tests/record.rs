//! One record in bytes.
//!
//! Set-up: any record, any bytes. Property: it is read as it was written, and nothing else is read
//! at all. Why: the bytes may be of another version, or damaged.

use proptest::prelude::*;

use super::super::record::Record;
use super::super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_part_of_it_is(
        numbers in any::<(u64, u64, [u8; 16], [u8; 32])>(),
        tenant in "[A-Za-z0-9._-]{1,64}",
        key in "[!-~]{1,128}",
        status in 100..600_u16,
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (serial, since_ms, id, digest) = numbers;
        let (serial, id) = (Serial(serial), NotificationId(id));
        let head = RequestRecord { serial, since_ms, id, digest, tenant: &tenant, key: &key };
        let status = StatusCode::from_u16(status).unwrap();
        for record in [
            Record::Begun(head),
            Record::Answered(head, status, &body),
            Record::Abandoned { serial },
            Record::Forgotten { below: serial },
            Record::Clock { ms: since_ms },
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            for end in 0..bytes.len() {
                prop_assert_eq!(Record::decode(&bytes[..end]), None);
            }
            bytes.push(0);
            prop_assert_eq!(Record::decode(&bytes), None);
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_none(
        kind in 0x10..0x18_u8,
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let as_is = Record::decode(&bytes).is_some();
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        for bytes in [&bytes[..], &[&bytes[..], &[0; 64]].concat()] {
            if let Some(record) = Record::decode(bytes) {
                let mut again = Vec::new();
                record.encode(&mut again);
                prop_assert_eq!(&again[..], bytes);
            }
        }
        prop_assert!(!as_is || !bytes.is_empty());
    }
}

/// Files of former versions are read as long as these bytes stay.
#[test]
fn a_record_has_the_bytes_it_always_had() {
    let record = RequestRecord {
        serial: Serial(0x0102),
        since_ms: 0x0304,
        id: NotificationId([0xaa; 16]),
        digest: [0xbb; 32],
        tenant: "t",
        key: "key",
    };
    let head = [&[2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0][..], &[0xaa; 16], &[0xbb; 32]];
    let head = [&head.concat()[..], b"\x01t\x03key"].concat();
    for (record, kind, tail) in [
        (Record::Begun(record), 0x11, &b""[..]),
        (Record::Answered(record, StatusCode::OK, b"{}"), 0x12, b"\xc8\x00\x02\x00\x00\x00{}"),
    ] {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(bytes, [&[kind][..], &head, tail].concat());
    }
    for (note, kind) in [
        (Record::Abandoned { serial: Serial(5) }, 0x13),
        (Record::Forgotten { below: Serial(5) }, 0x14),
        (Record::Clock { ms: 5 }, 0x15),
    ] {
        let mut bytes = Vec::new();
        note.encode(&mut bytes);
        assert_eq!(bytes, [kind, 5, 0, 0, 0, 0, 0, 0, 0]);
    }
}

/// Callers repeat requests of before an update.
#[test]
fn a_digest_is_of_the_path_a_line_end_and_the_body() {
    let key = Key("key".into());
    let request = Request { tenant: &"t".into(), key, path: "/path", body: b"body" };
    let whole = digest::digest(&SHA256, b"/path\nbody");
    assert_eq!(request.digest(), whole.as_ref());
}
