//! Templates over restarts: on real directories, and on storage that fails when it is told to.
//!
//! Set-up: the store at work; a crash is a copy of the directory, taken when a change has been answered.
//! Property: the next process has exactly the changes that were answered as made. Why: a template that
//! came back or was lost would be seen by everybody it is sent to.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use std::{fs, io};

use ara_shards::journal::Options;
use ara_shards::journal::storage::Disk;
use ara_shards::notification::Priority;
use proptest::prelude::*;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::*;
use crate::failing_storage_tests::FailingStorage;
use crate::templates::catalog::CatalogFault;
use crate::templates::pattern::Pattern;
use crate::templates::store::{ChangeFault, TemplateStore};

fn on_a_runtime<T>(task: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(task)
}

/// The store over these files, with a supervisor whose news nobody reads.
fn start(files: Result<TemplateFiles, OpenError>) -> Rc<TemplateStore> {
    TemplateStore::new(Some(files.unwrap()), &Supervisor::new(1).0)
}

fn open(path: &Path) -> Rc<TemplateStore> {
    start(TemplateFiles::open(path, Fsync::Never))
}

fn template(id: &str, text: &str) -> Template {
    let text = RawValue::from_string(text.to_owned()).unwrap();
    Template {
        id: id.into(),
        name: Some("name".into()),
        event_type: "event".into(),
        pattern: Pattern::parse(text).unwrap(),
        default_priority: Priority::High,
        default_ttl: Some(7),
        created_ms: 1,
        updated_ms: 2,
    }
}

/// What a power cut now would leave.
fn crash(path: &Path) -> TempDir {
    loop {
        match try_to_copy(path) {
            // The writer has removed a file meanwhile: what takes its place is not in the copy.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copy => return copy.unwrap(),
        }
    }
}

fn try_to_copy(path: &Path) -> io::Result<TempDir> {
    let copy = tempfile::tempdir()?;
    fs::create_dir(copy.path().join(DIRECTORY))?;
    for entry in fs::read_dir(path.join(DIRECTORY))? {
        let entry = entry?;
        fs::copy(entry.path(), copy.path().join(DIRECTORY).join(entry.file_name()))?;
    }
    Ok(copy)
}

/// All that a catalog says.
fn contents(store: &TemplateStore, tenants: &[&str]) -> Vec<String> {
    let catalog = store.catalog();
    let each = tenants.iter().flat_map(|tenant| {
        let page = catalog.page(tenant, None, usize::MAX, usize::MAX);
        page.templates.into_iter().map(move |template| format!("{tenant} {template:?}"))
    });
    each.collect()
}

/// What is done to a template.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Replace,
    Remove,
    Restart,
}

fn any_step() -> impl Strategy<Value = (Step, usize, usize)> {
    let kind = prop_oneof![
        3 => Just(Step::Create),
        3 => Just(Step::Replace),
        2 => Just(Step::Remove),
        1 => Just(Step::Restart),
    ];
    (kind, 0..2_usize, 0..3_usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn after_a_crash_there_is_what_was_answered(steps in proptest::collection::vec(any_step(), 1..25)) {
        let tenants = ["red", "blue"];
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let mut store = open(directory.path());
            for (count, (step, tenant, id)) in steps.into_iter().enumerate() {
                let tenant: Arc<str> = tenants[tenant].into();
                let id = format!("t{id}");
                let new = || template(&id, &format!("[{count},\"{{{{x}}}}\"]"));
                match step {
                    Step::Create => drop(store.create(&tenant, new()).await),
                    Step::Replace => drop(store.replace(&tenant, new()).await),
                    Step::Remove => drop(store.remove(&tenant, &id).await),
                    Step::Restart => {
                        let before = contents(&store, &tenants);
                        store.close();
                        store = open(directory.path());
                        assert_eq!(contents(&store, &tenants), before);
                    }
                }
                let crashed = crash(directory.path());
                let found = open(crashed.path());
                assert_eq!(contents(&found, &tenants), contents(&store, &tenants));
                found.close();
            }
            store.close();
        });
    }
}

#[test]
fn a_template_that_is_changed_for_ever_needs_no_more_room() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join(DIRECTORY)).unwrap();
    let options = Options {
        directory: directory.path().join(DIRECTORY),
        segment_bytes: 128 * 1024,
        max_disk_bytes: 1024 * 1024,
        fsync: Fsync::Never,
    };
    let files = || TemplateFiles::open_with(|take, bell| Journal::open(&options, take, bell));
    let tenant = "tenant".into();
    on_a_runtime(async {
        let (_, writer) = files().unwrap().start(&Supervisor::new(1).0);
        let long = "x".repeat(20_000);
        writer.store(&tenant, &template("stays", "1")).await.unwrap();
        for count in 0..500 {
            let text = format!("[{count},\"{long}\"]");
            writer.store(&tenant, &template("changes", &text)).await.unwrap();
        }
        let stats = writer.task.change(|log| log.stats()).unwrap();
        assert_eq!(stats.live_records, 2);
        assert!(stats.disk_bytes <= options.max_disk_bytes, "{stats:?}");
        assert!(stats.moved_records > 0, "what stays was moved: {stats:?}");
        writer.close();
        let store = start(files());
        assert_eq!(store.catalog().len(), 2);
        let found = Rc::clone(store.catalog().find("tenant", "changes").unwrap());
        assert!(found.pattern.text().get().starts_with("[499,"));
        store.close();
    });
}

#[test]
fn a_change_whose_caller_has_gone_is_made_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(DIRECTORY);
    fs::create_dir(&path).unwrap();
    let options = Options { directory: path.clone(), fsync: Fsync::Always, ..Options::default() };
    let mood_of_disk = Arc::new(AtomicU8::new(0));
    let storage =
        FailingStorage { disk: Disk::open(&path).unwrap(), mood: Arc::clone(&mood_of_disk) };
    let files =
        TemplateFiles::open_with(|take, bell| Journal::open_on(storage, &options, take, bell));
    let tenant = "tenant".into();
    on_a_runtime(async {
        let store = start(files);
        mood_of_disk.store(2, Ordering::SeqCst);
        let waiting = store.create(&tenant, template("left", "1"));
        let gone = tokio::time::timeout(Duration::from_millis(50), waiting).await;
        assert!(gone.is_err(), "the disk has not answered");
        assert!(store.catalog().is_empty());
        mood_of_disk.store(0, Ordering::SeqCst);
        // Changes are made one at a time: this one comes after.
        store.create(&tenant, template("after", "2")).await.unwrap();
        assert_eq!(store.catalog().len(), 2);
        let crashed = crash(directory.path());
        let found = open(crashed.path());
        assert_eq!(contents(&found, &["tenant"]), contents(&store, &["tenant"]));
        found.close();
        store.close();
    });
}

#[test]
fn a_change_that_is_under_way_at_the_end_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(DIRECTORY);
    fs::create_dir(&path).unwrap();
    let options = Options { directory: path.clone(), fsync: Fsync::Always, ..Options::default() };
    let mood_of_disk = Arc::new(AtomicU8::new(0));
    let storage =
        FailingStorage { disk: Disk::open(&path).unwrap(), mood: Arc::clone(&mood_of_disk) };
    let files =
        TemplateFiles::open_with(|take, bell| Journal::open_on(storage, &options, take, bell));
    let tenant: Arc<str> = "tenant".into();
    on_a_runtime(async {
        let store = start(files);
        store.create(&tenant, template("before", "1")).await.unwrap();
        mood_of_disk.store(2, Ordering::SeqCst);
        let mut late = std::pin::pin!(store.create(&tenant, template("late", "2")));
        let answered = tokio::time::timeout(Duration::from_millis(50), &mut late).await;
        assert!(answered.is_err(), "the disk has not answered");
        mood_of_disk.store(0, Ordering::SeqCst);
        // It writes all that it was given.
        store.close();
        assert!(matches!(late.await, Err(ChangeFault::NotOnDisk(_))));
        let before = contents(&store, &["tenant"]);
        let found = open(directory.path());
        assert_eq!(contents(&found, &["tenant"]), before);
        assert_eq!(found.catalog().len(), 1);
        found.close();
    });
}

#[test]
fn what_a_full_broken_or_stuck_disk_does_not_take_is_not_changed_and_never_comes() {
    for mood in 1..=3 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DIRECTORY);
        fs::create_dir(&path).unwrap();
        let options =
            Options { directory: path.clone(), fsync: Fsync::Always, ..Options::default() };
        let mood_of_disk = Arc::new(AtomicU8::new(0));
        let disk = Disk::open(&path).unwrap();
        let storage = FailingStorage { disk, mood: Arc::clone(&mood_of_disk) };
        let files =
            TemplateFiles::open_with(|take, bell| Journal::open_on(storage, &options, take, bell));
        let tenant = "tenant".into();
        on_a_runtime(async {
            let store = start(files);
            for id in ["kept", "removed"] {
                store.create(&tenant, template(id, "\"before\"")).await.unwrap();
            }
            let before = contents(&store, &["tenant"]);
            mood_of_disk.store(mood, Ordering::SeqCst);
            for fault in [
                store.create(&tenant, template("new", "1")).await.map(drop),
                store.replace(&tenant, template("kept", "2")).await.map(drop),
                store.remove(&tenant, "removed").await,
            ] {
                assert!(matches!(fault, Err(ChangeFault::NotOnDisk(_))), "{mood}: {fault:?}");
                assert_eq!(contents(&store, &["tenant"]), before, "{mood}");
            }
            // What may not be made is told all the same.
            let taken = store.create(&tenant, template("kept", "3")).await.unwrap_err();
            assert_eq!(taken, ChangeFault::Refused(CatalogFault::Exists));
            mood_of_disk.store(0, Ordering::SeqCst);
            // The journal tries again within a second or so.
            while store.create(&tenant, template("after", "4")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let crashed = crash(directory.path());
            let found = open(crashed.path());
            assert_eq!(contents(&found, &["tenant"]), contents(&store, &["tenant"]), "{mood}");
            let writer = store.writer.as_ref().unwrap();
            let live = writer.task.change(|log| log.stats().live_records);
            assert_eq!(live, Some(3), "what is undone takes no room");
            found.close();
            store.close();
        });
    }
}
