//! What the log remembers over restarts, clocks and compaction.
//!
//! Set-up: the log written by hand, at any time of the clock. Property: what is too old or too much
//! is forgotten for good, the rest is there again. Why: an answer given twice as two is a
//! notification sent twice.

use std::collections::BTreeMap;
use std::time::Duration;

use ara_shards::journal::{Fsync, Journal, Options};
use proptest::prelude::*;

use super::super::clock::Clock;
use super::super::keys::{BYTES_MAX, REMEMBERED, RESPONSES_MAX};
use super::super::log::Log;
use super::super::*;
use super::options;
use crate::journal_task::Log as _;

const HOUR_MS: u64 = 3_600_000;
/// Some time, by the wall clock.
const NOON: u64 = 1_800_000_000_000;

/// A log by hand: what the router would write, at any time of the clock.
struct Desk {
    log: Log,
    clock: Clock,
    remembered: BTreeMap<u64, Option<Bytes>>,
}

fn head(serial: u64, since_ms: u64, key: &str) -> RequestRecord<'_> {
    let id = NotificationId([7; 16]);
    RequestRecord { serial: Serial(serial), since_ms, id, digest: [1; 32], tenant: "tenant", key }
}

impl Desk {
    fn open(options: &Options, now_ms: u64) -> Self {
        let open =
            || ResponseStore::open_with(now_ms, |take, bell| Journal::open(options, take, bell));
        let store = open().unwrap();
        let found = store.known.into_iter();
        let remembered =
            found.map(|known| (known.serial.0, known.response.map(|response| response.body)));
        Self { log: store.log, clock: store.clock, remembered: remembered.collect() }
    }

    /// At the journal's pace.
    fn put<T>(
        &mut self,
        mut put: impl FnMut(&mut Log) -> Result<T, ara_shards::journal::AppendError>,
    ) {
        while put(&mut self.log).is_err() {
            self.log.turn();
            std::thread::yield_now();
        }
    }

    fn begin(&mut self, serial: u64, since_ms: u64) {
        let key = serial.to_string();
        self.put(|log| log.begin(&head(serial, since_ms, &key)));
    }

    fn answer(&mut self, serial: u64, since_ms: u64, body: &Bytes) {
        let key = serial.to_string();
        let response = Response { status: StatusCode::OK, body: body.clone() };
        self.put(|log| log.answer(&head(serial, since_ms, &key), &response));
    }

    fn serials(&self) -> Vec<u64> {
        self.remembered.keys().copied().collect()
    }
}

#[test]
fn what_is_too_old_is_forgotten_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Never);
    let mut desk = Desk::open(&options, NOON);
    for serial in 0..10 {
        desk.begin(serial, NOON + serial * HOUR_MS);
        if serial % 2 == 0 {
            desk.answer(serial, NOON + serial * HOUR_MS, &Bytes::from_static(b"body"));
        }
    }
    desk.log.close(None).unwrap();
    let desk = Desk::open(&options, NOON + 28 * HOUR_MS);
    assert_eq!(desk.serials(), [5, 6, 7, 8, 9]);
    assert_eq!(desk.remembered[&6].as_deref(), Some(b"body".as_slice()));
    assert_eq!(desk.remembered[&7], None);
    assert_eq!(desk.log.stats().live_records, 5);
    desk.log.close(None).unwrap();
    let desk = Desk::open(&options, NOON);
    assert_eq!(desk.serials(), [5, 6, 7, 8, 9], "nothing comes back because a clock goes back");
    desk.log.close(None).unwrap();
}

#[test]
fn what_is_too_much_is_forgotten_oldest_first() {
    let directory = tempfile::tempdir().unwrap();
    let many = options(&directory.path().join("many"), Fsync::Never);
    let mut desk = Desk::open(&many, NOON);
    for serial in 0..RESPONSES_MAX as u64 + 7 {
        desk.begin(serial, NOON);
    }
    desk.log.close(None).unwrap();
    let desk = Desk::open(&many, NOON);
    assert_eq!((desk.remembered.len(), desk.serials()[0]), (RESPONSES_MAX, 7));
    desk.log.close(None).unwrap();

    let large = options(&directory.path().join("large"), Fsync::Never);
    let mut desk = Desk::open(&large, NOON);
    let body = Bytes::from(vec![b'1'; 1 << 19]);
    for serial in 0..(BYTES_MAX as u64 >> 19) + 3 {
        desk.begin(serial, NOON);
        desk.answer(serial, NOON, &body);
    }
    desk.log.close(None).unwrap();
    let desk = Desk::open(&large, NOON);
    assert_eq!((desk.remembered.len(), desk.serials()[0]), (BYTES_MAX >> 19, 3));
    desk.log.close(None).unwrap();
}

#[test]
fn a_clock_that_goes_back_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Never);
    // The machine wakes up in 1970 for once.
    for (serial, wall) in [(0, NOON), (1, 1_000), (2, NOON + HOUR_MS)] {
        let mut desk = Desk::open(&options, wall);
        assert_eq!(desk.serials().len() as u64, serial, "what was known is, and what is new");
        let now = desk.clock.now(wall, Instant::now());
        desk.begin(serial, now);
        desk.log.close(None).unwrap();
    }
    let desk = Desk::open(&options, NOON + 24 * HOUR_MS + HOUR_MS / 2);
    assert_eq!(desk.serials(), [2]);
    desk.log.close(None).unwrap();
}

#[test]
fn a_clock_that_was_ahead_keeps_nothing_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Never);
    let ahead = NOON + 365 * 24 * HOUR_MS;
    for (serial, wall) in [(0, ahead), (1, NOON)] {
        let mut desk = Desk::open(&options, wall);
        let now = desk.clock.now(wall, Instant::now());
        desk.begin(serial, now);
        desk.log.close(None).unwrap();
    }
    for (hours, left) in [(13, 2), (12, 0)] {
        let mut desk = Desk::open(&options, NOON + HOUR_MS);
        assert_eq!(desk.serials().len(), 2, "nothing is lost when it is set right");
        let later = Instant::now() + Duration::from_millis(hours * HOUR_MS);
        let now = desk.clock.now(NOON + HOUR_MS, later);
        desk.log.close(Some(now)).unwrap();
        let desk = Desk::open(&options, NOON + HOUR_MS);
        assert_eq!(desk.serials().len(), left);
        desk.log.close(None).unwrap();
    }
}

#[test]
fn a_running_process_forgets_on_disk_too_and_takes_up_its_serials() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Never);
    let mut desk = Desk::open(&options, NOON);
    for serial in 0..5 {
        desk.begin(serial, NOON);
    }
    desk.log.forget(Serial(3));
    desk.answer(2, NOON, &Bytes::from_static(b"late"));
    desk.log.abandon(Serial(4));
    desk.log.close(None).unwrap();
    let open =
        |now| ResponseStore::open_with(now, |take, bell| Journal::open(&options, take, bell));
    let store = open(NOON).unwrap();
    assert_eq!(store.known.iter().map(|known| known.serial.0).collect::<Vec<_>>(), [3]);
    assert_eq!(store.next_serial, Serial(5));
    store.log.close(None).unwrap();
    // Ages go on from where they were.
    let store = open(NOON + HOUR_MS).unwrap();
    let now = Instant::now();
    let mut keys = KnownKeys::recovered(store.known, store.next_serial, now);
    let rest = REMEMBERED - Duration::from_millis(HOUR_MS);
    assert_eq!(keys.forget_old(now + rest - Duration::from_secs(1)), None);
    assert_eq!(keys.forget_old(now + rest), Some(Serial(4)));
    store.log.close(None).unwrap();
}

#[test]
fn what_lives_is_moved_out_of_the_way_of_what_died() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 4096,
        max_disk_bytes: 64 * 1024,
        ..options(directory.path(), Fsync::Never)
    };
    let mut desk = Desk::open(&options, NOON);
    let body = Bytes::from_static(b"body");
    for serial in 0..20 {
        desk.begin(serial, NOON);
    }
    for serial in (0..20).step_by(2) {
        desk.answer(serial, NOON, &body);
    }
    for serial in 20..5_000 {
        desk.begin(serial, NOON);
        desk.log.abandon(Serial(serial));
        desk.log.turn();
    }
    let stats = desk.log.stats();
    assert!(stats.moved_records > 20 && stats.disk_bytes <= 64 * 1024, "{stats:?}");
    // What was moved is found where it is now.
    desk.answer(1, NOON, &body);
    desk.log.abandon(Serial(3));
    desk.log.close(None).unwrap();
    let desk = Desk::open(&options, NOON);
    let kept: Vec<u64> = (0..20).filter(|serial| *serial != 3).collect();
    assert_eq!(desk.serials(), kept);
    assert_eq!(desk.remembered.values().flatten().count(), 11);
    assert_eq!(desk.log.stats().live_records, 19);
    desk.log.close(None).unwrap();
}

#[test]
fn what_another_version_wrote_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Never);
    let bell = Arc::new(ara_shards::link::doorbell::Doorbell::new(|| {}));
    let (mut journal, _) = Journal::open(&options, |_, _| {}, bell).unwrap();
    journal.append(&[0x2F, 1, 2, 3]).unwrap();
    journal.append(&[]).unwrap();
    journal.close().unwrap();
    let desk = Desk::open(&options, NOON);
    assert_eq!((desk.serials().len(), desk.log.stats().live_records), (0, 0));
    desk.log.close(None).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    Answer(usize, usize),
    Abandon(usize),
    Forget(usize),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Begin),
        5 => (any::<usize>(), 0..700_usize).prop_map(|(which, bytes)| Step::Answer(which, bytes)),
        1 => any::<usize>().prop_map(Step::Abandon),
        2 => (0..6_usize).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Against a map; segments are small, so that compaction moves what lives.
    #[test]
    fn a_store_remembers_what_it_was_told_and_nothing_else(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            segment_bytes: 4096,
            max_disk_bytes: 1 << 20,
            ..options(directory.path(), Fsync::Never)
        };
        let mut desk = Desk::open(&options, NOON);
        let mut model: BTreeMap<u64, Option<Bytes>> = BTreeMap::new();
        let mut next = 0;
        for step in steps {
            let nth = |which: usize| model.keys().nth(which % model.len().max(1)).copied();
            match step {
                Step::Begin => {
                    desk.begin(next, NOON);
                    model.insert(next, None);
                    next += 1;
                }
                Step::Answer(which, bytes) => {
                    if let Some(serial) = nth(which).filter(|serial| model[serial].is_none()) {
                        let body = Bytes::from(vec![u8::try_from(serial % 256).unwrap(); bytes]);
                        desk.answer(serial, NOON, &body);
                        model.insert(serial, Some(body));
                    }
                }
                Step::Abandon(which) => {
                    if let Some(serial) = nth(which).filter(|serial| model[serial].is_none()) {
                        desk.log.abandon(Serial(serial));
                        model.remove(&serial);
                    }
                }
                Step::Forget(how_many) => {
                    if let Some(below) = nth(how_many) {
                        desk.log.forget(Serial(below));
                        model = model.split_off(&below);
                    }
                }
                Step::Reopen => {
                    desk.log.close(None).unwrap();
                    desk = Desk::open(&options, NOON);
                    prop_assert_eq!(&desk.remembered, &model);
                }
            }
            desk.log.turn();
        }
        // What replaced what is released once it is committed.
        for _ in 0..1000 {
            if desk.log.stats().live_records == model.len() as u64 {
                break;
            }
            desk.log.turn();
            std::thread::park_timeout(Duration::from_millis(1));
        }
        prop_assert_eq!(desk.log.stats().live_records, model.len() as u64);
        desk.log.close(None).unwrap();
        let desk = Desk::open(&options, NOON);
        prop_assert_eq!(desk.log.stats().live_records, model.len() as u64);
        prop_assert_eq!(&desk.remembered, &model);
        desk.log.close(None).unwrap();
    }
}
