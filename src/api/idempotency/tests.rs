//! Keys over restarts: on real directories, and on storage that fails when it is told to.
//!
//! Set-up: the store and its work in place of triggers; a crash is a copy of the directory, taken
//! while the store is at work. Property: a caller that has its answer gets it again, one that has
//! not gets what it asked for under one name. Why: that is what the key is for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ara_shards::journal::storage::{Disk, Storage};
use ara_shards::journal::{Fsync, Journal, Options};
use proptest::prelude::*;
use tempfile::TempDir;

use super::answered::{ANSWERS_MAX, BYTES_MAX, REMEMBERED};
use super::clock::Clock;
use super::log::Log;
use super::record::Record;
use super::*;

const HOUR_MS: u64 = 3_600_000;
/// Some time, by the wall clock.
const NOON: u64 = 1_800_000_000_000;

fn on_a_runtime<T>(task: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(task)
}

fn open(path: &Path) -> Rc<Answers> {
    Answers::new(Some(AnswerStore::open(path, Fsync::Always).unwrap()), &unheard())
}

/// A supervisor whose news nobody reads.
fn unheard() -> Supervisor {
    Supervisor::new(1).0
}

/// What a power cut now would leave.
fn crash(path: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("answers")).unwrap();
    for entry in fs::read_dir(path.join("answers")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join("answers").join(entry.file_name())).unwrap();
    }
    copy
}

/// A request with a key: what it was answered, and by which name it was sent, if it was.
struct Asked {
    outcome: Result<(StatusCode, Bytes, bool), Code>,
    sent: Option<NotificationId>,
}

impl Asked {
    fn body(&self) -> &[u8] {
        &self.outcome.as_ref().unwrap().1
    }

    fn is_repeated(&self) -> bool {
        self.outcome.as_ref().unwrap().2
    }
}

async fn ask(answers: &Rc<Answers>, key: &str, body: &str) -> Asked {
    ask_and(answers, key, body, || Ok(())).await
}

async fn ask_and(
    answers: &Rc<Answers>,
    key: &str,
    body: &str,
    meanwhile: impl FnOnce() -> Result<(), Refusal> + 'static,
) -> Asked {
    let sent = Rc::new(Cell::new(None));
    let send = Rc::clone(&sent);
    let work = move |id: Option<NotificationId>| async move {
        send.set(id);
        meanwhile()?;
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        Ok(json_bytes(StatusCode::ACCEPTED, format!("{id:0>40}").into_bytes()))
    };
    let outcome = ask_with(answers, key, body, work).await;
    Asked { outcome, sent: sent.get() }
}

async fn ask_with<W>(
    answers: &Rc<Answers>,
    key: &str,
    body: &str,
    work: impl FnOnce(Option<NotificationId>) -> W + 'static,
) -> Result<(StatusCode, Bytes, bool), Code>
where
    W: Future<Output = Result<Reply, Refusal>> + 'static,
{
    let tenant = "tenant".into();
    let request = Request { tenant: &tenant, path: "/path", body: body.as_bytes() };
    let reply = answers.once(Some(key.into()), &request, work).await;
    let (parts, body) = reply.map_err(|refusal| refusal.code)?.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok((parts.status, body, parts.headers.contains_key("idempotent-replayed")))
}

#[test]
fn without_a_store_a_key_is_remembered_and_nothing_is_named() {
    on_a_runtime(async {
        let answers = Answers::new(None, &unheard());
        let first = ask(&answers, "key", "body").await;
        assert!(first.sent.is_none() && !first.is_repeated());
        assert!(ask(&answers, "key", "body").await.is_repeated());
        let conflict = ask(&answers, "key", "other").await;
        assert_eq!(conflict.outcome.unwrap_err(), Code::IdempotencyConflict);
        let broken = || Err(Refusal::new(Code::Internal, ""));
        ask_and(&answers, "broken", "body", broken).await.outcome.unwrap_err();
        assert!(!ask(&answers, "broken", "other").await.is_repeated());
    });
}

#[test]
fn an_answered_key_survives_a_stop_and_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let (first, crashed) = on_a_runtime(async {
        let answers = open(directory.path());
        let first = ask(&answers, "key", "body").await;
        assert!(first.sent.is_some() && !first.is_repeated());
        let crashed = crash(directory.path());
        answers.close();
        (first, crashed)
    });
    for path in [directory.path(), crashed.path()] {
        on_a_runtime(async {
            let answers = open(path);
            let again = ask(&answers, "key", "body").await;
            assert!(again.is_repeated() && again.sent.is_none());
            assert_eq!(again.body(), first.body());
            assert_eq!(again.outcome.unwrap().0, StatusCode::ACCEPTED);
            let conflict = ask(&answers, "key", "other").await;
            assert_eq!(conflict.outcome.unwrap_err(), Code::IdempotencyConflict);
            assert!(!ask(&answers, "other key", "body").await.is_repeated());
            answers.close();
        });
    }
}

#[test]
fn a_crash_before_the_answer_repeats_under_the_same_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (crashed_in, crashed) = std::sync::mpsc::channel();
    let first = on_a_runtime(async move {
        let answers = open(&path);
        let meanwhile = move || {
            crashed_in.send(crash(&path)).unwrap();
            Ok(())
        };
        let first = ask_and(&answers, "key", "body", meanwhile).await;
        answers.close();
        first
    });
    let crashed = crashed.recv().unwrap();
    on_a_runtime(async {
        let answers = open(crashed.path());
        let conflict = ask(&answers, "key", "other").await;
        assert_eq!(conflict.outcome.unwrap_err(), Code::IdempotencyConflict);
        // A refusal of the second attempt says nothing about the first.
        let refused = || Err(Refusal::new(Code::Overloaded, ""));
        ask_and(&answers, "key", "body", refused).await.outcome.unwrap_err();
        let again = ask(&answers, "key", "body").await;
        assert_eq!(again.sent, first.sent, "the name of the first attempt");
        assert!(!again.is_repeated() && again.sent.is_some());
        answers.close();
    });
    on_a_runtime(async {
        let answers = open(crashed.path());
        assert!(ask(&answers, "key", "body").await.is_repeated());
        answers.close();
    });
}

#[test]
fn a_refused_request_frees_its_key_for_good_and_a_broken_one_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let broken = on_a_runtime(async {
        let answers = open(directory.path());
        for key in ["now", "later"] {
            let refused = || Err(Refusal::new(Code::Validation, ""));
            let refused = ask_and(&answers, key, "wrong", refused).await;
            assert_eq!(refused.outcome.unwrap_err(), Code::Validation);
        }
        assert!(!ask(&answers, "now", "right").await.is_repeated());
        let broken = || Err(Refusal::new(Code::Internal, ""));
        let broken = ask_and(&answers, "broken", "body", broken).await;
        let panicking = ask_and(&answers, "panicking", "body", || panic!("as a test")).await;
        assert_eq!(panicking.outcome.unwrap_err(), Code::Internal);
        let again = ask(&answers, "panicking", "body").await;
        assert_eq!(again.sent, panicking.sent);
        answers.close();
        broken
    });
    on_a_runtime(async {
        let answers = open(directory.path());
        assert!(!ask(&answers, "later", "right").await.is_repeated());
        assert!(ask(&answers, "now", "right").await.is_repeated());
        let again = ask(&answers, "broken", "body").await;
        assert!(again.sent == broken.sent && again.sent.is_some());
        answers.close();
    });
}

#[test]
fn an_answer_too_long_for_a_record_is_given_and_its_name_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let name = Rc::new(Cell::new(None));
    let long = |name: &Rc<Cell<_>>| {
        let name = Rc::clone(name);
        move |id| async move {
            name.set(id);
            Ok(json_bytes(StatusCode::OK, vec![b'1'; 1 << 21]))
        }
    };
    on_a_runtime(async {
        let answers = open(directory.path());
        assert_eq!(ask_with(&answers, "key", "", long(&name)).await.unwrap().1.len(), 1 << 21);
        assert!(ask_with(&answers, "key", "", long(&name)).await.unwrap().2);
        answers.close();
    });
    let first = name.take();
    on_a_runtime(async {
        let answers = open(directory.path());
        assert!(!ask_with(&answers, "key", "", long(&name)).await.unwrap().2);
        assert!(name.get() == first && first.is_some());
        answers.close();
    });
}

#[test]
fn a_directory_that_is_in_use_or_cannot_be_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let first = AnswerStore::open(directory.path(), Fsync::Never).unwrap();
    let error = AnswerStore::open(directory.path(), Fsync::Never).unwrap_err().to_string();
    assert!(error.contains("answers") && error.contains("another process"), "{error}");
    drop(first);
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = AnswerStore::open(&file, Fsync::Never).unwrap_err().to_string();
    assert!(error.contains("file/answers") && error.contains("not usable"), "{error}");
}

/// Files that fail (1), or never return from a write (2), on demand.
struct Moody {
    disk: Disk,
    mood: Arc<AtomicU8>,
}

impl Moody {
    fn check(&self) -> io::Result<()> {
        loop {
            match self.mood.load(Ordering::SeqCst) {
                0 => return Ok(()),
                1 => return Err(io::ErrorKind::StorageFull.into()),
                3 => return Err(io::Error::other("broken")),
                _ => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
    }
}

impl Storage for Moody {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.check()?;
        self.disk.create(name)
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.disk.write(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        self.disk.sync()
    }
    fn read(
        &mut self,
        name: &str,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.disk.read(name, offset, bytes_max, into)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.truncate(name, bytes)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn reserve(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.check()?;
        self.disk.reserve(name, bytes)
    }
    fn sync_directory(&mut self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

fn options(path: &Path, fsync: Fsync) -> Options {
    let directory = path.join("answers");
    fs::create_dir_all(&directory).unwrap();
    Options { directory, fsync, ..Options::default() }
}

#[test]
fn a_full_broken_or_stuck_disk_costs_no_answer() {
    for mood in 1..=3 {
        let directory = tempfile::tempdir().unwrap();
        let options = options(directory.path(), Fsync::Always);
        let moody = Arc::new(AtomicU8::new(0));
        let disk = Disk::open(&options.directory).unwrap();
        let storage = Moody { disk, mood: Arc::clone(&moody) };
        let store = AnswerStore::open_with(clock::wall_ms(), |take, bell| {
            Journal::open_on(storage, &options, take, bell)
        });
        on_a_runtime(async {
            let answers = Answers::new(Some(store.unwrap()), &unheard());
            ask(&answers, "before", "body").await;
            moody.store(mood, Ordering::SeqCst);
            let during = ask(&answers, "during", "body").await;
            assert!(during.sent.is_some() && !during.is_repeated());
            assert!(ask(&answers, "during", "body").await.is_repeated());
            assert!(ask(&answers, "before", "body").await.is_repeated());
            moody.store(0, Ordering::SeqCst);
            // The journal tries again within a second or so.
            let keeper = answers.keeper.as_ref().unwrap();
            while keeper.change(|log| log.stats().uncommitted_bytes) != Some(0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ask(&answers, "after", "body").await;
            let crashed = crash(directory.path());
            answers.close();
            let answers = open(crashed.path());
            assert!(ask(&answers, "before", "body").await.is_repeated());
            assert!(ask(&answers, "after", "body").await.is_repeated());
            answers.close();
        });
    }
}

/// A log by hand: what the router would write, at any time of the clock.
struct Desk {
    log: Log,
    clock: Clock,
    remembered: BTreeMap<u64, Option<Bytes>>,
}

fn head(serial: u64, since_ms: u64, key: &str) -> Head<'_> {
    let id = NotificationId([7; 16]);
    Head { serial, since_ms, id, digest: [1; 32], tenant: "tenant", key }
}

impl Desk {
    fn open(options: &Options, now_ms: u64) -> Self {
        let open =
            || AnswerStore::open_with(now_ms, |take, bell| Journal::open(options, take, bell));
        let store = open().unwrap();
        let found = store.remembered.into_iter();
        let remembered = found.map(|known| (known.serial, known.answer.map(|(_, body)| body)));
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
        self.put(|log| log.answer(&head(serial, since_ms, &key), StatusCode::OK, body));
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
    for serial in 0..ANSWERS_MAX as u64 + 7 {
        desk.begin(serial, NOON);
    }
    desk.log.close(None).unwrap();
    let desk = Desk::open(&many, NOON);
    assert_eq!((desk.remembered.len(), desk.serials()[0]), (ANSWERS_MAX, 7));
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
    desk.log.forget(3);
    desk.answer(2, NOON, &Bytes::from_static(b"late"));
    desk.log.abandon(4);
    desk.log.close(None).unwrap();
    let open = |now| AnswerStore::open_with(now, |take, bell| Journal::open(&options, take, bell));
    let store = open(NOON).unwrap();
    assert_eq!(store.remembered.iter().map(|known| known.serial).collect::<Vec<_>>(), [3]);
    assert_eq!(store.next_serial, 5);
    store.log.close(None).unwrap();
    // Ages go on from where they were.
    let store = open(NOON + HOUR_MS).unwrap();
    let now = Instant::now();
    let mut answered = Answered::recovered(store.remembered, store.next_serial, now);
    let rest = REMEMBERED - Duration::from_millis(HOUR_MS);
    assert_eq!(answered.forget_old(now + rest - Duration::from_secs(1)), None);
    assert_eq!(answered.forget_old(now + rest), Some(4));
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
        desk.log.abandon(serial);
        desk.log.turn();
    }
    let stats = desk.log.stats();
    assert!(stats.moved_records > 20 && stats.disk_bytes <= 64 * 1024, "{stats:?}");
    // What was moved is found where it is now.
    desk.answer(1, NOON, &body);
    desk.log.abandon(3);
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
    let bell = Arc::new(ara_shards::doorbell::Doorbell::new(|| {}));
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
                        desk.log.abandon(serial);
                        model.remove(&serial);
                    }
                }
                Step::Forget(how_many) => {
                    if let Some(below) = nth(how_many) {
                        desk.log.forget(below);
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

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_part_of_it_is(
        numbers in any::<(u64, u64, [u8; 16], [u8; 32])>(),
        tenant in "[A-Za-z0-9._-]{1,64}",
        key in "[!-~]{1,128}",
        status in 100..600_u16,
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (serial, since_ms, id, digest) = numbers;
        let id = NotificationId(id);
        let head = Head { serial, since_ms, id, digest, tenant: &tenant, key: &key };
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
