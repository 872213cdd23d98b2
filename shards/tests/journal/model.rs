//! Whatever is done to a journal, in whatever order, and whenever it is killed or loses power:
//! nothing committed is lost, nothing deleted comes back, nothing wrong is read, order is kept.
//!
//! Set-up: random histories of appends, deletions, commits, compactions, failures, full disks,
//! closings, kills and losses of power, held against what the owner was promised.

use std::collections::BTreeMap;
use std::time::Duration;

use ara_shards::journal::{AppendError, CommitPoint, Condition, Fsync, Options};
use fastrand::Rng;
use proptest::prelude::*;

use super::memory::{Fault, Memory};
use super::owner::{Owner, body};

#[derive(Debug, Clone)]
enum Step {
    Append {
        bytes: usize,
    },
    Delete {
        nth: usize,
    },
    DeleteOldest {
        count: usize,
    },
    Flush,
    Commit,
    Compact {
        bytes_max: usize,
    },
    Fail(Fault),
    /// The file system has this much room from now on; `None`: as much as is needed.
    Room(Option<u64>),
    Close,
    Crash {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop::sample::select(vec![
        Fault::Create,
        Fault::Write,
        Fault::WriteFull,
        Fault::Sync,
        Fault::SyncFull,
        Fault::SyncDirectory,
        Fault::Read,
        Fault::Reserve,
    ]);
    prop_oneof![
        40 => (0..700_usize).prop_map(|bytes| Step::Append { bytes }),
        1 => (3000..5000_usize).prop_map(|bytes| Step::Append { bytes }),
        15 => any::<usize>().prop_map(|nth| Step::Delete { nth }),
        4 => (1..40_usize).prop_map(|count| Step::DeleteOldest { count }),
        6 => Just(Step::Flush),
        6 => Just(Step::Commit),
        10 => (1..8000_usize).prop_map(|bytes_max| Step::Compact { bytes_max }),
        2 => fault.prop_map(Step::Fail),
        1 => prop::option::weighted(0.7, 0..8000_u64).prop_map(Step::Room),
        1 => Just(Step::Close),
        3 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

/// What the owner was promised.
#[derive(Debug, Default)]
struct Truth {
    /// Every record ever appended: its length, the commit points of its append and of its deletion.
    records: BTreeMap<u64, (usize, CommitPoint, Option<CommitPoint>)>,
    next_id: u64,
}

struct World {
    memory: Memory,
    options: Options,
    owner: Option<Owner>,
    truth: Truth,
    gaps: u64,
}

impl World {
    fn new(fsync: Fsync) -> Self {
        let options = Options {
            directory: "/memory".into(),
            segment_bytes: 4096,
            max_disk_bytes: 128 * 1024,
            fsync,
        };
        let memory = Memory::default();
        let owner = Some(Owner::on(memory.clone(), &options).unwrap());
        Self { memory, options, owner, truth: Truth::default(), gaps: 0 }
    }

    fn owner(&mut self) -> &mut Owner {
        self.owner.as_mut().expect("it is open")
    }

    fn delete(&mut self, id: u64) {
        let owner = self.owner.as_mut().expect("it is open");
        match owner.delete(id) {
            Ok(()) => {
                // `delete` does not say its commit point, so the test takes that of the next flush.
                let commit_point = owner.journal.flush();
                self.truth.records.get_mut(&id).expect("it was appended").2 = Some(commit_point);
            }
            Err(AppendError::Full(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn apply(&mut self, step: &Step) {
        self.owner().journal.poll();
        match *step {
            Step::Append { bytes } => {
                let id = self.truth.next_id;
                match self.owner().append(id, bytes) {
                    Ok(commit_point) => {
                        self.truth.next_id += 1;
                        self.truth.records.insert(id, (bytes, commit_point, None));
                    }
                    Err(AppendError::TooLong { bytes }) => assert!(bytes > 4050),
                    Err(_) => {}
                }
            }
            Step::Delete { nth } => {
                let index = &self.owner().index;
                if let Some(id) = index.keys().nth(nth % index.len().max(1)).copied() {
                    self.delete(id);
                }
            }
            Step::DeleteOldest { count } => {
                let ids: Vec<u64> = self.owner().index.keys().take(count).copied().collect();
                ids.into_iter().for_each(|id| self.delete(id));
            }
            Step::Flush => drop(self.owner().journal.flush()),
            Step::Commit => self.commit(),
            Step::Compact { bytes_max } => {
                for _ in 0..4 {
                    self.owner().compact(bytes_max);
                    self.owner().journal.poll();
                    std::thread::yield_now();
                }
            }
            Step::Fail(fault) => self.memory.state().faults.push(fault),
            Step::Room(bytes) => {
                let mut state = self.memory.state();
                state.bytes_max = bytes.map(|bytes| state.used() + bytes);
            }
            Step::Close => {
                let owner = self.owner.take().expect("it is open");
                let end = owner.journal.stats();
                // If a fault strikes while closing, the error must say so.
                let whole = owner.journal.close().is_ok();
                self.memory = self.memory.kill();
                self.reopen(if whole { None } else { Some(CommitPoint::default()) });
                assert!(!whole || end.live_records == self.owner().index.len() as u64);
            }
            Step::Crash { seed } => self.crash(seed),
        }
    }

    /// Waits until all is committed. If even the reserve has no room for it, the disk gets larger.
    fn commit(&mut self) {
        let memory = self.memory.clone();
        let owner = self.owner();
        let commit_point = owner.journal.flush();
        owner.until("a commit", |owner| {
            if *owner.journal.condition() == Condition::Full {
                memory.state().bytes_max = None;
            }
            owner.journal.committed() >= commit_point
        });
    }

    fn crash(&mut self, seed: u64) {
        let owner = self.owner.take().expect("it is open");
        let committed = owner.journal.committed();
        self.memory = if self.options.fsync == Fsync::Always {
            self.memory.lose_power(&mut Rng::with_seed(seed))
        } else {
            self.memory.kill()
        };
        drop(owner);
        self.reopen(Some(committed));
    }

    /// Opens again and holds what is found against what was promised up to `committed` (`None` =
    /// everything).
    fn reopen(&mut self, committed: Option<CommitPoint>) {
        let owner = Owner::on(self.memory.clone(), &self.options).unwrap();
        let covered =
            |commit_point: CommitPoint| committed.is_none_or(|committed| commit_point <= committed);
        // A gap that a loss of power has left counts as damage at later openings.
        assert!(owner.report.damages == 0 || self.gaps > 0, "{:?}", owner.report);
        self.gaps += owner.report.gap_bytes;
        let mut last = None;
        for (position, id, bytes) in &owner.recovered {
            let (length, ..) = self.truth.records.get(id).expect("only what was appended");
            assert!(*bytes == body(*id, *length), "record {id} is not what was appended");
            assert!(Some(*position) > last, "positions ascend");
            last = Some(*position);
        }
        for (id, (_, appended, died)) in &self.truth.records {
            let live = owner.index.contains_key(id);
            match died {
                Some(died) if covered(*died) => assert!(!live, "{id} is deleted and came back"),
                None if covered(*appended) => assert!(live, "{id} was committed and is lost"),
                _ => {}
            }
        }
        assert_eq!(owner.journal.stats().live_records, owner.index.len() as u64);
        // The records that survived are committed from now on. The others never come back.
        for (id, (_, appended, died)) in &mut self.truth.records {
            *appended = CommitPoint::default();
            *died = (!owner.index.contains_key(id)).then(CommitPoint::default);
        }
        self.owner = Some(owner);
    }
}

fn live_through(fsync: Fsync, steps: &[Step]) {
    let mut world = World::new(fsync);
    for step in steps {
        world.apply(step);
        let stats = world.owner().journal.stats();
        assert!(stats.disk_bytes <= world.options.max_disk_bytes, "{stats:?}");
    }
    world.memory.state().faults.clear();
    // What was appended gets to the disk even while the reserve is in use.
    world.commit();
    world.memory.state().bytes_max = None;
    world.crash(7);
    assert!(world.memory.state().reserve().is_some(), "made again at opening");
    // Everything is deleted, and all segments but the last are removed from the disk.
    let ids: Vec<u64> = world.owner().index.keys().copied().collect();
    for id in ids {
        world.delete(id);
        world.owner().commit();
    }
    world.owner().until("deletion", |owner| owner.journal.stats().segments <= 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn always_outlives_a_loss_of_power(steps in prop::collection::vec(step(), 1..400)) {
        live_through(Fsync::Always, &steps);
    }

    #[test]
    fn interval_outlives_a_kill(steps in prop::collection::vec(step(), 1..400)) {
        live_through(Fsync::Interval(Duration::from_millis(2)), &steps);
    }

    #[test]
    fn never_outlives_a_kill(steps in prop::collection::vec(step(), 1..400)) {
        live_through(Fsync::Never, &steps);
    }
}
