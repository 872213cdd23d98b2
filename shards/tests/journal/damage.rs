//! Files that were altered while the journal was closed never make it panic, refuse to open or read
//! something wrong; one damaged place costs one record.

use std::collections::BTreeSet;

use ara_shards::journal::{Fsync, OpenError, Options};
use fastrand::Rng;

use super::memory::Memory;
use super::owner::{Owner, body};

const RECORDS: u64 = 80;

fn options() -> Options {
    Options {
        directory: "/memory".into(),
        segment_bytes: 8192,
        max_disk_bytes: 64 * 1024,
        fsync: Fsync::Always,
    }
}

fn length(id: u64) -> usize {
    usize::try_from(id * 37 % 500).unwrap()
}

/// Four segments of records, of which every eighth is deleted by a note. Also returns the live
/// ones.
fn written() -> (Memory, BTreeSet<u64>) {
    let memory = Memory::default();
    let mut owner = Owner::on(memory.clone(), &options()).unwrap();
    for id in 0..RECORDS {
        owner.append(id, length(id)).unwrap();
        if id % 8 == 7 {
            owner.delete(id - 4).unwrap();
        }
    }
    owner.commit();
    let live = owner.index.keys().copied().collect();
    owner.journal.close().unwrap();
    assert!(memory.state().files() >= 3);
    (memory.kill(), live)
}

/// Opens the journal twice: every record found is correct, and the second time no more are lost.
fn found(memory: &Memory, what: &str) -> Owner {
    let owner = Owner::on(memory.clone(), &options()).unwrap();
    for (_, id, bytes) in &owner.recovered {
        assert!(*id < RECORDS && *bytes == body(*id, length(*id)), "{what}: a wrong record");
    }
    let index = owner.index;
    drop(owner.journal);
    let owner = Owner::on(memory.kill(), &options()).unwrap();
    assert_eq!(owner.index, index, "{what}: opening again");
    owner
}

#[test]
fn a_flipped_bit_costs_one_record() {
    let (original, live) = written();
    let mut rng = Rng::with_seed(0xB17);
    for _ in 0..3000 {
        let memory = original.copy();
        let file = rng.usize(0..memory.state().files());
        let (at, bit) = {
            let mut state = memory.state();
            let data = state.data(file);
            let (at, bit) = (rng.usize(0..data.len()), rng.u8(0..8));
            data[at] ^= 1 << bit;
            (at, bit)
        };
        let what = format!("file {file}, byte {at}, bit {bit}");
        let owner = found(&memory, &what);
        let now: BTreeSet<u64> = owner.index.keys().copied().collect();
        let changed = live.symmetric_difference(&now).count();
        assert!(changed <= 1, "{what}: {changed} records are lost or have come back");
        let report = &owner.report;
        let told = report.is_damaged() || report.gap_bytes > 0 || report.torn_bytes > 0;
        // The damaged end is cut off at the first opening, so that the second does not see it.
        assert!(changed == 0 || told || file + 1 == memory.state().files(), "{what}: {report:?}");
    }
}

#[test]
fn whatever_is_scrawled_over_the_files_nothing_wrong_is_read() {
    let (original, _) = written();
    let mut rng = Rng::with_seed(0x5C2A);
    for round in 0..2000 {
        let memory = original.copy();
        for _ in 0..rng.usize(1..6) {
            let mut state = memory.state();
            let file = rng.usize(0..state.files());
            let data = state.data(file);
            let from = rng.usize(0..=data.len());
            let until = (from + rng.usize(0..3000)).min(data.len());
            match rng.u8(0..6) {
                0 => data.truncate(from),
                1 => data[from..until].fill(0),
                2 => data[from..until].fill_with(|| rng.u8(..)),
                3 => drop(data.drain(from..until)),
                4 => data.extend_from_within(from..until),
                // A frame that is valid at another block is not valid here.
                _ => data.copy_within(until.., from),
            }
        }
        let owner = found(&memory, &format!("round {round}"));
        let mut last = None;
        for (position, ..) in &owner.recovered {
            assert!(Some(*position) > last, "round {round}: positions ascend");
            last = Some(*position);
        }
    }
}

#[test]
fn a_damaged_journal_still_works() {
    let (memory, live) = written();
    memory.state().data(1)[2000..2600].fill(0xEE);
    let mut owner = Owner::on(memory.clone(), &options()).unwrap();
    assert_eq!(owner.report.damages, 1);
    let lost = live.len() - owner.index.len();
    assert!((1..8).contains(&lost), "{lost}");
    for id in RECORDS..RECORDS + 20 {
        owner.append(id, 100).unwrap();
        owner.commit();
    }
    let ids: Vec<u64> = owner.index.keys().copied().collect();
    for id in ids.iter().filter(|id| *id % 10 != 0) {
        owner.delete(*id).unwrap();
    }
    owner.until("compaction", |owner| {
        owner.compact(1000);
        owner.commit();
        owner.journal.stats().disk_bytes < 20_000
    });
    let live = owner.index.len();
    owner.journal.close().unwrap();
    assert_eq!(Owner::on(memory.kill(), &options()).unwrap().index.len(), live);
}

#[test]
fn damage_that_compaction_meets_is_counted() {
    let (memory, _) = written();
    let mut owner = Owner::on(memory.clone(), &options()).unwrap();
    memory.state().data(0)[500..1500].fill(0xEE);
    for id in owner.index.keys().copied().filter(|id| *id >= 10).collect::<Vec<_>>() {
        owner.delete(id).unwrap();
    }
    owner.commit();
    owner.until("compaction", |owner| {
        owner.compact(100_000);
        owner.commit();
        owner.journal.stats().lost_records > 0
    });
    assert!(owner.journal.stats().lost_records < 8);
    assert!(owner.journal.stats().moved_records > 0);
}

#[test]
fn an_unknown_version_is_refused_and_left_alone() {
    let (memory, _) = written();
    {
        let mut state = memory.state();
        let header = &mut state.data(1)[..32];
        header[8] = 9;
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
    }
    let before = memory.state().bytes();
    let error = Owner::on(memory.clone(), &options()).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 9, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("/memory/0000"), "{error}");
    assert_eq!(memory.state().bytes(), before);
}
