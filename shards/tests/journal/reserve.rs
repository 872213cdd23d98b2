//! A full file system heals by itself: the reserve gives notes and copies the room they need to
//! make more, and in whatever state it is found, it counts neither as log nor as damage.

use std::time::Duration;

use ara_shards::journal::{AppendError, Condition, Fsync, Full, Options};
use fastrand::Rng;

use super::memory::{Fault, Memory};
use super::owner::Owner;

const POLICIES: [Fsync; 3] =
    [Fsync::Always, Fsync::Interval(Duration::from_millis(2)), Fsync::Never];

fn options(fsync: Fsync) -> Options {
    Options { directory: "/memory".into(), segment_bytes: 4096, max_disk_bytes: 1 << 20, fsync }
}

/// Fills a disk of `bytes` with committed records. Returns how many there are.
fn fill(owner: &mut Owner, memory: &Memory, bytes: u64) -> u64 {
    memory.state().bytes_max = Some(bytes);
    let mut id = 0;
    while owner.append(id, 300).is_ok() {
        id += 1;
        owner.commit();
    }
    assert_eq!(owner.append(id, 300), Err(AppendError::Full(Full::Disk)));
    assert_eq!(*owner.journal.condition(), Condition::Tight);
    assert_eq!(memory.state().reserve(), None, "it is in use");
    id
}

fn heal(owner: &mut Owner) {
    owner.until("room", |owner| {
        owner.compact(1000);
        owner.journal.flush();
        *owner.journal.condition() == Condition::Sound
    });
}

/// Kills the process or, if the test asks for more, cuts the power.
fn crash(owner: Owner, memory: &Memory, options: &Options) -> (Owner, Memory) {
    let next = if options.fsync == Fsync::Always {
        memory.lose_power(&mut Rng::with_seed(5))
    } else {
        memory.kill()
    };
    drop(owner);
    let owner = Owner::on(next.clone(), options).unwrap();
    assert!(!owner.report.is_damaged(), "{:?}", owner.report);
    (owner, next)
}

#[test]
fn one_old_record_does_not_keep_a_disk_full() {
    for fsync in POLICIES {
        for bytes in [14_000, 30_000, 100_000] {
            let (memory, options) = (Memory::default(), options(fsync));
            let mut owner = Owner::on(memory.clone(), &options).unwrap();
            let filled = fill(&mut owner, &memory, bytes);
            (1..filled).for_each(|id| owner.delete_in_time(id));
            heal(&mut owner);
            assert!(memory.state().reserve().is_some_and(|bytes| bytes > 4096));
            assert!(memory.state().used() <= bytes);
            for id in filled..filled + 5 {
                owner.append(id, 300).expect("records are taken again");
            }
            owner.commit();
            let live = owner.index.clone();
            assert_eq!(live.len(), 6);
            let (owner, _) = crash(owner, &memory, &options);
            assert_eq!(owner.index, live, "{fsync:?}, {bytes}");
        }
    }
}

#[test]
fn in_whatever_order_records_die_the_disk_heals() {
    for seed in 0..12 {
        let (memory, options) = (Memory::default(), options(POLICIES[seed % 3]));
        let mut owner = Owner::on(memory.clone(), &options).unwrap();
        let filled = fill(&mut owner, &memory, 60_000);
        let mut dying: Vec<u64> = (1..filled).collect();
        match seed / 3 {
            0 => dying.reverse(),
            // The younger half is deleted first, and only then the older one.
            1 => dying.rotate_left(usize::try_from(filled / 2).unwrap()),
            _ => Rng::with_seed(seed as u64).shuffle(&mut dying),
        }
        for id in dying {
            // Little by little, as in production; the condition may even be sound in between.
            owner.delete_in_time(id);
            owner.compact(1000);
            owner.journal.flush();
        }
        heal(&mut owner);
        owner.append(filled, 300).unwrap();
        owner.commit();
        let (owner, _) = crash(owner, &memory, &options);
        assert_eq!(owner.index.keys().copied().collect::<Vec<_>>(), [0, filled], "seed {seed}");
    }
}

#[test]
fn a_disk_fills_and_heals_again_and_again() {
    for fsync in POLICIES {
        let (memory, options) = (Memory::default(), options(fsync));
        let mut owner = Owner::on(memory.clone(), &options).unwrap();
        memory.state().bytes_max = Some(40_000);
        let (mut id, mut refused) = (0, 0);
        while refused < 30 {
            if owner.append(id, 300).is_ok() {
                id += 1;
                owner.commit();
                continue;
            }
            refused += 1;
            // A few of each segment stay, the oldest one among them.
            let unwanted: Vec<u64> = owner.index.keys().copied().filter(|id| id % 9 != 0).collect();
            unwanted.into_iter().for_each(|id| owner.delete_in_time(id));
            while owner.index.len() > 20 {
                let second = *owner.index.keys().nth(1).unwrap();
                owner.delete_in_time(second);
            }
            heal(&mut owner);
        }
        let live = owner.index.clone();
        assert!(live.contains_key(&0));
        owner.commit();
        let (owner, _) = crash(owner, &memory, &options);
        assert_eq!(owner.index, live, "{fsync:?}");
    }
}

#[test]
fn deaths_told_while_the_reserve_is_in_use_outlive_the_process() {
    for fsync in POLICIES {
        let (memory, options) = (Memory::default(), options(fsync));
        let mut owner = Owner::on(memory.clone(), &options).unwrap();
        let filled = fill(&mut owner, &memory, 30_000);
        for id in (1..filled).step_by(4) {
            owner.delete(id).expect("notes have a part of the reserve");
        }
        owner.commit();
        assert_eq!(*owner.journal.condition(), Condition::Tight, "nothing could be deleted");
        let live = owner.index.clone();
        let (mut owner, memory) = crash(owner, &memory, &options);
        assert_eq!(owner.index, live);
        // The part of it that was used is missing now.
        assert_eq!(*owner.journal.condition(), Condition::Tight);
        heal(&mut owner);
        assert_eq!(owner.journal.stats().live_records, live.len() as u64);
        assert!(memory.state().reserve().is_some());
    }
}

#[test]
fn a_reserve_may_be_left_over_short_long_or_missing() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    for id in 0..30 {
        owner.append(id, 300).unwrap();
    }
    owner.commit();
    let (live, whole) = (owner.index.clone(), memory.state().reserve());
    let files = memory.state().files();
    let mut memory = memory.kill();
    drop(owner);
    for left in [whole, None, Some(0), Some(100), Some(1 << 16)] {
        memory.state().leave_reserve(left);
        let owner = Owner::on(memory.clone(), &options).unwrap();
        assert_eq!(*owner.journal.condition(), Condition::Sound);
        assert_eq!((&owner.index, owner.report.files), (&live, files), "{left:?}");
        let report = &owner.report;
        assert_eq!(report.torn_bytes + report.gap_bytes + report.damages, 0, "{left:?}");
        assert_eq!(memory.state().reserve(), whole);
        memory = memory.kill();
        drop(owner);
    }
}

#[test]
fn a_journal_opens_on_a_full_disk_and_heals_with_what_there_is() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    for id in 0..60 {
        owner.append(id, 300).unwrap();
    }
    (1..60).for_each(|id| owner.delete(id).unwrap());
    owner.commit();
    let memory = memory.kill();
    drop(owner);
    memory.state().leave_reserve(None);
    // Too little for the reserve, enough for one copy.
    let used = memory.state().used();
    memory.state().bytes_max = Some(used + 1000);
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    assert_eq!(*owner.journal.condition(), Condition::Tight);
    assert!(owner.journal.stats().last_error.is_some());
    assert_eq!(owner.append(100, 300), Err(AppendError::Full(Full::Disk)));
    heal(&mut owner);
    owner.append(100, 300).unwrap();
    owner.commit();
    assert_eq!(owner.index.keys().copied().collect::<Vec<_>>(), [0, 100]);

    // No room at all: only more room helps.
    let memory = memory.kill();
    drop(owner);
    memory.state().leave_reserve(None);
    let used = memory.state().used();
    memory.state().bytes_max = Some(used);
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    owner.delete(100).unwrap();
    owner.journal.flush();
    owner.until("fullness", |owner| *owner.journal.condition() == Condition::Full);
    memory.state().bytes_max = None;
    owner.commit();
    assert_eq!(*owner.journal.condition(), Condition::Sound);
    assert_eq!(crash(owner, &memory, &options).0.index.len(), 1);
}

#[test]
fn when_the_reserve_is_used_up_the_dead_still_make_room() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    memory.state().bytes_max = Some(30_000);
    // More than the reserve holds, before the writer's first report.
    for id in 0..120 {
        owner.append(id, 300).unwrap();
    }
    owner.journal.flush();
    owner.until("fullness", |owner| *owner.journal.condition() == Condition::Full);
    assert_eq!(memory.state().reserve(), None);
    // All but the youngest are deleted, some before they were ever written.
    for id in 0..118 {
        owner.delete(id).expect("deaths are still taken");
    }
    heal(&mut owner);
    owner.append(120, 300).unwrap();
    owner.commit();
    let disk_bytes = owner.journal.stats().disk_bytes;
    assert!(
        memory.state().bytes() <= disk_bytes,
        "deleted before it was written, and still on disk"
    );
    let (owner, _) = crash(owner, &memory, &options);
    assert_eq!(owner.index.keys().copied().collect::<Vec<_>>(), [118, 119, 120]);
}

#[test]
fn no_space_at_any_operation_costs_nothing() {
    for fsync in POLICIES {
        for fault in [Fault::WriteFull, Fault::SyncFull] {
            let (memory, options) = (Memory::default(), options(fsync));
            let mut owner = Owner::on(memory.clone(), &options).unwrap();
            for id in 0..40 {
                owner.append(id, 300).unwrap();
            }
            owner.commit();
            memory.state().faults.push(fault);
            (0..30).for_each(|id| owner.delete(id).unwrap());
            owner.commit();
            heal(&mut owner);
            let live = owner.index.clone();
            let (owner, _) = crash(owner, &memory, &options);
            assert_eq!(owner.index, live, "{fsync:?}, {fault:?}");
        }
    }
}

#[test]
fn a_journal_that_cannot_make_its_reserve_does_without() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    memory.state().faults.push(Fault::Reserve);
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    assert_eq!(memory.state().reserve(), None);
    assert_eq!(*owner.journal.condition(), Condition::Sound);
    let error = owner.journal.stats().last_error.unwrap();
    assert_eq!(&*error, "making the reserve: Reserve failed, as told to");
    memory.state().bytes_max = Some(5000);
    for id in 0..20 {
        owner.append(id, 300).unwrap();
    }
    owner.journal.flush();
    owner.until("fullness", |owner| *owner.journal.condition() == Condition::Full);
    memory.state().bytes_max = None;
    owner.commit();
    assert!(memory.state().reserve().is_some(), "tried again once there was room");
}
