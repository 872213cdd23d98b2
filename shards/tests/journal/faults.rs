//! The owner is told of a disk that fails or fills up. Nothing that was refused is acknowledged,
//! and nothing that was taken is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ara_shards::base::limits::JOURNAL_BUFFER_BYTES_MAX;
use ara_shards::journal::{AppendError, Condition, Fsync, Full, Journal, OpenError, Options};
use ara_shards::link::doorbell::Doorbell;
use fastrand::Rng;

use super::memory::{Fault, Memory};
use super::owner::Owner;

fn options(fsync: Fsync) -> Options {
    Options { directory: "/memory".into(), segment_bytes: 4096, max_disk_bytes: 64 * 1024, fsync }
}

fn power_loss(owner: Owner, memory: &Memory, options: &Options) -> Owner {
    let next = memory.lose_power(&mut Rng::with_seed(1));
    drop(owner);
    Owner::on(next, options).unwrap()
}

#[test]
fn a_failed_sync_is_made_good_in_a_new_file() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(1))] {
        let (memory, options) = (Memory::default(), options(fsync));
        let mut owner = Owner::on(memory.clone(), &options).unwrap();
        owner.append(1, 100).unwrap();
        owner.commit();
        owner.until("a sync", |owner| owner.journal.stats().syncs >= 1);
        memory.state().faults.push(Fault::Sync);
        owner.append(2, 100).unwrap();
        owner.commit();
        owner.until("a second sync", |owner| owner.journal.stats().syncs >= 3);
        let stats = owner.journal.stats();
        assert_eq!(stats.condition, Condition::Sound);
        assert_eq!(stats.last_error.as_deref(), Some("Sync failed, as told to"));
        assert_eq!(memory.state().files(), 2);
        let owner = power_loss(owner, &memory, &options);
        assert_eq!(owner.index.len(), 2, "{fsync:?}");
        assert!(!owner.report.is_damaged());
    }
}

#[test]
fn what_recovery_has_shown_is_safe_from_then_on() {
    for seed in 0..20 {
        let memory = Memory::default();
        let mut owner = Owner::on(memory.clone(), &options(Fsync::Never)).unwrap();
        owner.append(1, 100).unwrap();
        owner.commit();
        // Written and never synced: after a kill it is in the system's memory only.
        let memory = memory.kill();
        drop(owner);
        let owner = Owner::on(memory.clone(), &options(Fsync::Always)).unwrap();
        assert_eq!(owner.index.len(), 1);
        let memory = memory.lose_power(&mut Rng::with_seed(seed));
        drop(owner);
        assert_eq!(Owner::on(memory, &options(Fsync::Always)).unwrap().index.len(), 1);
    }
}

#[test]
fn a_disk_that_keeps_failing_is_told_and_tried_again() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    owner.append(1, 100).unwrap();
    let before = owner.commit();
    memory.state().faults.extend([Fault::Sync, Fault::Sync]);
    let commit_point = owner.append(2, 100).unwrap();
    owner.journal.flush();
    owner.until("failure", |owner| owner.journal.stats().condition != Condition::Sound);
    assert_eq!(owner.journal.committed(), before, "not acknowledged");
    let refused = owner.append(3, 100).unwrap_err();
    assert_eq!(refused, AppendError::Failed { reason: "Sync failed, as told to".into() });
    owner.delete(1).expect("deaths are still taken");
    owner.journal.flush();
    owner.until("recovery", |owner| owner.journal.stats().condition == Condition::Sound);
    owner.commit();
    assert!(owner.journal.committed() >= commit_point);
    let owner = power_loss(owner, &memory, &options);
    assert_eq!(owner.index.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn every_operation_may_fail_once() {
    for fault in [Fault::Create, Fault::Write, Fault::Sync, Fault::SyncDirectory, Fault::Remove] {
        let (memory, options) = (Memory::default(), options(Fsync::Always));
        let mut owner = Owner::on(memory.clone(), &options).unwrap();
        for id in 0..60 {
            if id % 7 == 0 {
                memory.state().faults.push(fault);
            }
            owner.append(id, 300).unwrap();
            owner.commit();
            owner.until("health", |owner| owner.journal.stats().condition == Condition::Sound);
        }
        for id in 0..30 {
            owner.delete(id).unwrap();
            owner.commit();
        }
        let owner = power_loss(owner, &memory, &options);
        assert_eq!(owner.index.keys().copied().collect::<Vec<_>>(), Vec::from_iter(30..60));
    }
}

#[test]
fn a_full_disk_refuses_and_recovers_when_others_make_room() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    memory.state().bytes_max = Some(10_000);
    let mut id = 0;
    let refused = loop {
        match owner.append(id, 300) {
            Ok(_) => id += 1,
            Err(refused) => break refused,
        }
        let commit_point = owner.journal.flush();
        owner.until("an answer", |owner| {
            owner.journal.committed() >= commit_point
                || owner.journal.stats().condition != Condition::Sound
        });
    };
    assert_eq!(refused, AppendError::Full(Full::Disk));
    let taken = owner.index.len();
    assert!((13..18).contains(&taken), "{taken}");
    // Everything that was taken is committed: the reserve had room for it.
    owner.commit();
    let other = Owner::on(memory.copy(), &options).unwrap();
    assert_eq!(other.index.len(), taken);
    assert_eq!(*owner.journal.condition(), Condition::Tight);
    memory.state().bytes_max = None;
    owner.until("room", |owner| *owner.journal.condition() == Condition::Sound);
    owner.append(1000, 300).unwrap();
    owner.commit();
    let owner = power_loss(owner, &memory, &options);
    assert_eq!(owner.index.len(), taken + 1);
}

#[test]
fn a_full_disk_heals_itself_as_records_die() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    memory.state().bytes_max = Some(10_000);
    for id in 0.. {
        if owner.append(id, 300).is_err() {
            break;
        }
        let commit_point = owner.journal.flush();
        owner.until("an answer", |owner| {
            owner.journal.committed() >= commit_point
                || owner.journal.stats().condition != Condition::Sound
        });
    }
    assert_eq!(owner.journal.stats().condition, Condition::Tight);
    let oldest: Vec<u64> = owner.index.keys().take(20).copied().collect();
    for id in oldest {
        owner.delete(id).expect("deaths are still taken");
    }
    owner.commit();
    owner.until("room", |owner| *owner.journal.condition() == Condition::Sound);
    let live = owner.index.clone();
    let owner = power_loss(owner, &memory, &options);
    assert_eq!(owner.index, live);
}

#[test]
fn the_limit_holds_and_compaction_makes_room_below_it() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    let mut id = 0;
    while owner.append(id, 300).is_ok() {
        id += 1;
        owner.commit();
    }
    assert_eq!(owner.append(id, 300), Err(AppendError::Full(Full::Limit)));
    assert!(memory.state().bytes() <= options.max_disk_bytes - 2 * options.segment_bytes);
    assert!(!owner.compact(100_000), "everything is live: compaction cannot help");
    // One record in three is deleted, all over the log: every segment keeps live records.
    for id in (0..id).step_by(3) {
        owner.delete(id).expect("room for notes is kept");
    }
    owner.commit();
    for more in 0..30 {
        owner.until("room", |owner| match owner.append(id + more, 300) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, AppendError::Full(Full::Limit));
                owner.compact(2000);
                owner.commit();
                false
            }
        });
        owner.commit();
        assert!(memory.state().bytes() <= options.max_disk_bytes);
    }
    assert!(owner.journal.stats().moved_records > 0);
    let live = owner.index.clone();
    let owner = power_loss(owner, &memory, &options);
    assert_eq!(owner.index, live);
}

#[test]
fn a_journal_above_lowered_limits_shrinks() {
    let memory = Memory::default();
    let large =
        Options { segment_bytes: 64 * 1024, max_disk_bytes: 1 << 20, ..options(Fsync::Always) };
    let mut owner = Owner::on(memory.clone(), &large).unwrap();
    for id in 0..60 {
        owner.append(id, 10_000).unwrap();
    }
    owner.commit();
    drop(owner);
    let small = options(Fsync::Always);
    let mut owner = Owner::on(memory.kill(), &small).unwrap();
    assert_eq!(owner.append(100, 300), Err(AppendError::Full(Full::Limit)));
    for id in (0..60).filter(|id| id % 30 != 0) {
        owner.delete(id).unwrap();
    }
    owner.until("room", |owner| {
        owner.compact(5000);
        owner.commit();
        owner.append(100, 300).is_ok()
    });
    assert!(owner.journal.stats().disk_bytes <= small.max_disk_bytes);
    assert_eq!(owner.index.len(), 3);
}

#[test]
fn a_slow_disk_bounds_what_waits_in_memory() {
    let memory = Memory::default();
    let options =
        Options { segment_bytes: 1 << 20, max_disk_bytes: 1 << 30, ..options(Fsync::Always) };
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    // The disk hangs while the test looks at the files, so that they do not change.
    let hanging = memory.state();
    let mut bytes = 0;
    let refused = loop {
        match owner.append(bytes, 10_000) {
            Ok(_) => bytes += 10_000,
            Err(refused) => break refused,
        }
        owner.journal.flush();
        owner.journal.poll();
    };
    assert_eq!(refused, AppendError::Full(Full::Buffer));
    let most = JOURNAL_BUFFER_BYTES_MAX;
    assert!((most - 200_000..=most).contains(&bytes), "{bytes} of {most}");
    drop(hanging);
    owner.commit();
    owner.append(1, 10_000).expect("room again");
}

#[test]
fn a_failed_read_only_delays_compaction() {
    let (memory, options) = (Memory::default(), options(Fsync::Always));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    for id in 0..60 {
        owner.append(id, 300).unwrap();
    }
    for id in (0..60).filter(|id| id % 10 != 0) {
        owner.delete(id).unwrap();
    }
    owner.commit();
    memory.state().faults.push(Fault::Read);
    owner.compact(10_000);
    owner.until("the failure", |owner| owner.journal.stats().last_error.is_some());
    for id in 100..130 {
        owner.append(id, 300).unwrap();
        owner.commit();
        owner.compact(10_000);
    }
    owner.until("moves", |owner| {
        owner.compact(10_000);
        owner.journal.stats().moved_records > 0
    });
    assert_eq!(owner.journal.stats().lost_records, 0);
}

#[test]
fn closing_says_what_it_could_not_write() {
    let (memory, options) = (Memory::default(), options(Fsync::Never));
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    owner.append(1, 100).unwrap();
    memory.state().bytes_max = Some(50);
    let error = owner.journal.close().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    memory.state().bytes_max = None;
    let mut owner = Owner::on(memory.clone(), &options).unwrap();
    owner.append(2, 100).unwrap();
    owner.journal.close().unwrap();
    let owner = Owner::on(memory.lose_power(&mut Rng::with_seed(3)), &options).unwrap();
    assert_eq!(owner.index.len(), 1, "closing syncs whatever the policy");
}

#[test]
fn the_bell_rings_for_a_commit() {
    let rung = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&rung);
    let bell = Arc::new(Doorbell::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let options = options(Fsync::Always);
    let (mut journal, _) =
        Journal::open_on(Memory::default(), &options, |_, _| {}, Arc::clone(&bell)).unwrap();
    journal.append(b"one").unwrap();
    let commit_point = journal.flush();
    while rung.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert!(bell.answer());
    assert!(journal.poll() >= commit_point);
}

#[test]
fn impossible_options_and_records_are_refused() {
    let small = Options { segment_bytes: 100, ..options(Fsync::Never) };
    let tight = Options { max_disk_bytes: 10_000, ..options(Fsync::Never) };
    for wrong in [small, tight] {
        let error = Owner::on(Memory::default(), &wrong).unwrap_err();
        assert!(matches!(error, OpenError::Options(_)), "{error}");
    }
    let mut owner = Owner::on(Memory::default(), &options(Fsync::Never)).unwrap();
    assert_eq!(owner.append(1, 4096), Err(AppendError::TooLong { bytes: 4104 }), "one segment");
    let roomy =
        Options { segment_bytes: 4 << 20, max_disk_bytes: 1 << 30, ..options(Fsync::Never) };
    let (memory, most) = (Memory::default(), ara_shards::journal::RECORD_BYTES_MAX);
    let mut owner = Owner::on(memory.clone(), &roomy).unwrap();
    let error = owner.journal.append(&vec![0; most + 1]).unwrap_err();
    assert_eq!(error, AppendError::TooLong { bytes: most + 1 });
    owner.append(1, most - 8).unwrap();
    owner.append(2, 0).unwrap();
    owner.commit();
    drop(owner);
    assert_eq!(Owner::on(memory.kill(), &roomy).unwrap().index.len(), 2);
}

/// The owner must end too: nobody else would notice that nothing is written any more.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test that hangs is to fail")]
fn a_writer_that_panics_rings_and_is_told() {
    let (rung, heard) = crossbeam_channel::bounded(16);
    let bell = Arc::new(Doorbell::new(move || {
        // Rung often enough already if it is full.
        let _rung = rung.try_send(());
    }));
    let memory = Memory::default();
    let opened =
        Journal::open_on(memory.clone(), &options(Fsync::Always), |_, _| {}, Arc::clone(&bell));
    let (mut journal, _) = opened.unwrap();
    journal.append(b"kept").unwrap();
    memory.state().faults.push(Fault::Panic);
    journal.flush();
    let mut rings = 0;
    while journal.check().is_ok() {
        rings += 1;
        assert!(rings < 10, "nobody is told");
        heard.recv_timeout(Duration::from_secs(20)).expect("the thread's end rings");
        bell.answer();
        journal.poll();
    }
    assert!(matches!(journal.condition(), Condition::Failed(_)));
    assert!(journal.close().is_err());
}
