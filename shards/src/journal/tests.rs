//! The bytes and the segments by themselves; everything else is tested from outside, in
//! `shards/tests/journal`.

use proptest::prelude::*;

use super::format::{self, FileId, Found, Header, Kind, Scan};
use super::segments::Segments;
use super::{CommitPoint, Position};

const SALT: u32 = 0x5A17;

fn frames(base: u64, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let block = base + (bytes.len() / format::BLOCK_BYTES) as u64;
        format::encode(&mut bytes, SALT, block, Kind::Record, record);
    }
    bytes
}

fn records(bytes: &[u8], salt: u32, base: u64) -> Vec<Vec<u8>> {
    Scan::new(bytes, salt, base)
        .filter_map(|found| match found {
            Found::Frame { record, .. } => Some(record.to_vec()),
            Found::Damage { .. } | Found::Tail { .. } => None,
        })
        .collect()
}

proptest! {
    #[test]
    fn frames_are_read_as_they_were_written(
        written in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        base in 0..format::BLOCKS_MAX / 2,
    ) {
        let bytes = frames(base, &written);
        prop_assert_eq!(records(&bytes, SALT, base), written);
    }

    #[test]
    fn a_ledger_counts_as_a_set_does(
        steps in prop::collection::vec((0..300_u64, 1..5_u64, any::<bool>()), 1..200),
    ) {
        let mut segments = Segments::new();
        let mut set = std::collections::BTreeMap::new();
        let mut end = 0;
        for (at, blocks, append) in steps {
            if append {
                if end % 7 == 0 || segments.active_blocks().is_none() {
                    segments.begin(end);
                }
                let position = Position::new(end, blocks).unwrap();
                end += blocks;
                segments.extend(end);
                segments.insert(position);
                set.insert(position.block(), position);
            } else {
                let position = Position::new(at, 1).unwrap();
                let live = set.remove(&at);
                prop_assert_eq!(segments.remove(live.unwrap_or(position)), live.is_some());
            }
            let oldest = segments.oldest_sealed().map(|oldest| oldest.end);
            prop_assert_eq!(segments.live(), set.len() as u64);
            let blocks = set.values().map(|position| position.blocks()).sum::<u64>();
            prop_assert_eq!(segments.live_blocks(), blocks);
            let first = oldest.and_then(|end| set.range(..end).next()).map(|(block, _)| *block);
            prop_assert_eq!(segments.oldest_live(0), first);
            segments.prune(CommitPoint(end));
        }
    }
}

#[test]
fn a_frame_is_whole_at_its_own_place_only() {
    let bytes = frames(5, &[b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(records(&bytes, SALT, 5).len(), 2);
    assert_eq!(records(&bytes, SALT, 6).len(), 0);
    assert_eq!(records(&bytes, SALT, 5 + (1 << 32)).len(), 0);
    assert_eq!(records(&bytes, SALT + 1, 5).len(), 0);
}

#[test]
fn a_frame_inside_a_record_is_not_taken_for_one() {
    // The inner frame is valid at its block except for the salt, which clients do not know.
    let mut forged = vec![0; 8];
    format::encode(&mut forged, 0, 1, Kind::Record, b"forged");
    let mut bytes = frames(0, &[forged, b"next".to_vec()]);
    if let Some(crc) = bytes.first_mut() {
        *crc ^= 1;
    }
    assert_eq!(records(&bytes, SALT, 0), [b"next"]);
}

#[test]
fn damage_is_told_from_a_torn_end() {
    let mut bytes = frames(0, &[vec![1; 40], vec![2; 40], vec![3; 40]]);
    bytes.iter_mut().skip(48).take(48).for_each(|byte| *byte = 0);
    let found: Vec<_> = Scan::new(&bytes, SALT, 0).collect();
    assert_eq!(found.get(1), Some(&Found::Damage { bytes: 48 }));
    bytes.truncate(130);
    let found: Vec<_> = Scan::new(&bytes, SALT, 0).collect();
    assert_eq!(found.get(1..), Some([Found::Tail { bytes: 82 }].as_slice()));
}

#[test]
fn names_and_headers_say_the_same() {
    let id = FileId { number: 7, base: 0xABC_DEF0, salt: 0x1234_5678 };
    assert_eq!(id.name(), "00000007-00000abcdef0-12345678.journal");
    assert_eq!(FileId::from_name(&id.name()), Some(id));
    assert_eq!(FileId::from_name("7-abcdef0-12345678.journal"), None);
    assert_eq!(FileId::from_name("lock"), None);
    assert!(FileId::is_draft(&id.draft_name()) && !FileId::is_draft(&id.name()));
    let header = id.header();
    assert_eq!(FileId::read_header(&header), Header::Whole(id));
    for bit in 0..header.len() * 8 {
        let mut flipped = header;
        if let Some(byte) = flipped.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        assert_eq!(FileId::read_header(&flipped), Header::Damaged);
    }
    assert_eq!(FileId::read_header(header.split_last().unwrap().1), Header::Damaged);
}

#[test]
fn a_reserve_that_cannot_be_set_aside_is_written() {
    let file = tempfile::tempfile().unwrap();
    for bytes in [1, 64 * 1024, 150_000] {
        super::storage::fill(&file, bytes).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes);
    }
}
