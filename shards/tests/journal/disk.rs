//! On real directories: every fault of a directory is reported, and what was written is read back.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ara_shards::journal::{AppendError, Condition, Fsync, Full, OpenError, Options};
use fastrand::Rng;

use super::owner::Owner;

fn options(directory: &Path, fsync: Fsync) -> Options {
    Options {
        directory: directory.to_owned(),
        segment_bytes: 64 * 1024,
        max_disk_bytes: 64 * 1024 * 1024,
        fsync,
    }
}

/// The segment files of a directory, oldest first.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "journal")).collect();
    files.sort();
    files
}

/// A tmpfs of its own, if this process may mount one.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(bytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(directory.path())
            .output();
        if made.is_ok_and(|made| made.status.success()) {
            return Some(Self(directory));
        }
        println!("skipped: this user may not mount a tmpfs");
        None
    }

    fn make_read_only(&self) {
        let done =
            Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(done.is_ok_and(|done| done.success()) || std::thread::panicking());
    }
}

#[test]
fn what_was_written_is_there_in_order() {
    let directory = tempfile::tempdir().unwrap();
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(5)), Fsync::Never] {
        let options = options(directory.path(), fsync);
        let mut owner = Owner::open(&options).unwrap();
        let first = owner.index.keys().max().map_or(0, |id| id + 1);
        for id in first..first + 2000 {
            owner.append(id, (id % 600) as usize).unwrap();
        }
        owner.commit();
        for id in first..first + 1000 {
            owner.delete(id).unwrap();
        }
        let index = owner.index.clone();
        owner.journal.close().unwrap();
        let owner = Owner::open(&options).unwrap();
        assert_eq!(owner.index, index);
        assert_eq!(owner.report.torn_bytes + owner.report.gap_bytes + owner.report.damages, 0);
        let order: Vec<u64> = owner.recovered.iter().map(|(_, id, _)| *id).collect();
        assert!(order.is_sorted());
        owner.journal.close().unwrap();
    }
}

#[test]
fn a_torn_end_is_cut_off_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Always);
    let mut rng = Rng::with_seed(0x7E);
    let mut next = 0;
    for _ in 0..40 {
        let mut owner = Owner::open(&options).unwrap();
        for _ in 0..rng.u64(1..40) {
            owner.append(next, 200).unwrap();
            next += 1;
        }
        owner.commit();
        let committed = fs::metadata(segments(directory.path()).last().unwrap()).unwrap().len();
        let promised = owner.index.len();
        // After the last commit, a few more that will be torn; all in the same segment or not.
        for id in 0..rng.u64(0..20) {
            owner.append(1_000_000 + next + id, 200).unwrap();
        }
        let before = segments(directory.path()).last().unwrap().clone();
        owner.journal.close().unwrap();
        for file in segments(directory.path()).into_iter().filter(|file| *file > before) {
            fs::remove_file(file).unwrap();
        }
        let file = OpenOptions::new().write(true).open(&before).unwrap();
        let cut = rng.u64(committed..=file.metadata().unwrap().len());
        file.set_len(cut).unwrap();
        let mut owner = Owner::open(&options).unwrap();
        assert!(owner.index.len() >= promised);
        assert_eq!(owner.report.damages, 0);
        assert!(owner.report.torn_bytes <= cut - committed);
        let extra: Vec<u64> = owner.index.range(1_000_000..).map(|(id, _)| *id).collect();
        for id in extra {
            owner.delete(id).unwrap();
        }
        owner.journal.close().unwrap();
    }
}

#[test]
fn a_directory_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Fsync::Never);
    let owner = Owner::open(&options).unwrap();
    let error = Owner::open(&options).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    owner.journal.close().unwrap();
    Owner::open(&options).unwrap();
}

#[test]
fn a_missing_or_unusable_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = Owner::open(&options(&missing, Fsync::Never)).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()) && error.contains("create it"), "{error}");
    assert!(!missing.exists(), "a mount that is not there must not be made up");

    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Owner::open(&options(&file, Fsync::Never)).unwrap_err().to_string();
    assert!(error.contains("name a directory"), "{error}");
}

#[test]
fn a_read_only_directory_is_named() {
    let Some(mount) = Mount::new(1 << 20) else { return };
    mount.make_read_only();
    let error = Owner::open(&options(mount.0.path(), Fsync::Always)).unwrap_err().to_string();
    let path = mount.0.path().to_str().unwrap();
    assert!(error.contains(path) && error.contains("mount it writable"), "{error}");
}

/// Appends until there is no space. Returns how many were taken.
fn fill(owner: &mut Owner) -> u64 {
    let mut id = 0;
    loop {
        match owner.append(id, 1000) {
            Ok(_) => id += 1,
            Err(refused) => {
                assert_eq!(refused, AppendError::Full(Full::Disk));
                return id;
            }
        }
        let commit_point = owner.journal.flush();
        owner.until("a commit", |owner| owner.journal.committed() >= commit_point);
    }
}

#[test]
fn one_old_record_does_not_keep_a_file_system_full() {
    let Some(mount) = Mount::new(1 << 20) else { return };
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(5)), Fsync::Never] {
        let directory = tempfile::tempdir_in(mount.0.path()).unwrap();
        let options = options(directory.path(), fsync);
        let mut owner = Owner::open(&options).unwrap();
        let id = fill(&mut owner);
        assert_eq!(*owner.journal.condition(), Condition::Tight);
        assert!(!directory.path().join("reserve").exists(), "it is in use");
        (1..id).for_each(|id| owner.delete_in_time(id));
        owner.commit();
        owner.until("room", |owner| {
            owner.compact(100_000);
            owner.journal.flush();
            *owner.journal.condition() == Condition::Sound
        });
        for more in id..id + 100 {
            owner.append(more, 1000).unwrap();
        }
        owner.commit();
        let reserve = fs::metadata(directory.path().join("reserve")).unwrap();
        assert!(reserve.len() >= options.segment_bytes);
        assert!(reserve.blocks() * 512 >= options.segment_bytes, "real blocks");
        let index = owner.index.clone();
        assert!(index.contains_key(&0) && index.len() == 101);
        owner.journal.close().unwrap();
        let owner = Owner::open(&options).unwrap();
        assert_eq!(owner.index, index);
        assert_eq!(owner.report.damages, 0);
        owner.journal.close().unwrap();
    }
}

#[test]
fn a_journal_opens_on_a_full_file_system() {
    let Some(mount) = Mount::new(1 << 20) else { return };
    let options = options(mount.0.path(), Fsync::Always);
    let mut owner = Owner::open(&options).unwrap();
    owner.append(0, 1000).unwrap();
    owner.journal.close().unwrap();
    fs::remove_file(mount.0.path().join("reserve")).unwrap();
    let others = mount.0.path().join("others");
    fs::write(&others, vec![0; 2 << 20]).unwrap_err();
    let mut owner = Owner::open(&options).unwrap();
    assert_eq!(*owner.journal.condition(), Condition::Tight);
    assert!(!mount.0.path().join("reserve").exists(), "nor a part of it");
    assert_eq!(owner.append(1, 1000), Err(AppendError::Full(Full::Disk)));
    fs::remove_file(others).unwrap();
    owner.until("room", |owner| *owner.journal.condition() == Condition::Sound);
    owner.append(1, 1000).unwrap();
    owner.commit();
    owner.journal.close().unwrap();
}

#[test]
fn a_full_file_system_refuses_and_heals() {
    let Some(mount) = Mount::new(1 << 20) else { return };
    let options = options(mount.0.path(), Fsync::Always);
    let mut owner = Owner::open(&options).unwrap();
    let id = fill(&mut owner);
    assert!(id > 700, "{id}");
    for id in 0..id / 2 {
        owner.delete(id).unwrap();
    }
    owner.commit();
    owner.until("room", |owner| *owner.journal.condition() == Condition::Sound);
    for more in id..id + 100 {
        owner.append(more, 1000).unwrap();
    }
    owner.commit();
    let index = owner.index.clone();
    owner.journal.close().unwrap();
    let owner = Owner::open(&options).unwrap();
    assert_eq!(owner.index, index);
    assert_eq!(owner.report.damages, 0);
    drop(owner.journal.close());
}
