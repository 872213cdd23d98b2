//! The directory over several runs.
//!
//! Set-up: real directories, opened and dropped as runs of the gateway would.
//! Property: one owner at a time; the same homes in the next run; a new number of shards gets a
//! new generation and the old one goes; whatever an interrupted move has left is swept.
//! Why it matters: messages in a directory nobody looks into are lost.

use super::*;
use ara_shards::journal::Fsync;

fn disk(path: &Path) -> Disk {
    Disk { path: path.join("queue"), fsync: Fsync::Always, bytes_max: 64 * 1024 * 1024 }
}

#[test]
fn the_next_run_finds_everybody_at_home() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(directory.path());
    let first = Storage::open(&disk, 3, Clock::start()).unwrap();
    let hash = first.placement().hash("acme", "ann");
    let home = first.placement().home(hash);
    let taken = Storage::open(&disk, 3, Clock::start()).unwrap_err().to_string();
    assert!(taken.contains("another process uses it") && taken.contains("queue"), "{taken}");
    drop(first);
    let second = Storage::open(&disk, 3, Clock::start()).unwrap();
    assert_eq!(second.placement().hash("acme", "ann"), hash);
    assert_eq!(second.placement().home(hash), home);
}

#[test]
fn another_number_of_shards_is_another_generation() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(directory.path());
    drop(Storage::open(&disk, 2, Clock::start()).unwrap());
    fs::create_dir(disk.path.join("generation-7")).unwrap();
    let moved = Storage::open(&disk, 4, Clock::start()).unwrap();
    assert_eq!(moved.options().len(), 4);
    let mut left: Vec<_> = fs::read_dir(&disk.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["generation-2", "layout", "lock"]);
}

#[test]
fn letters_without_a_layout_are_not_swept_away() {
    let directory = tempfile::tempdir().unwrap();
    let disk = disk(directory.path());
    drop(Storage::open(&disk, 2, Clock::start()).unwrap());
    fs::remove_file(disk.path.join(LAYOUT)).unwrap();
    // A crash between making the directories and the layout leaves this: nothing is in it.
    drop(Storage::open(&disk, 2, Clock::start()).unwrap());
    fs::remove_file(disk.path.join(LAYOUT)).unwrap();
    let journal = disk.path.join("generation-1/shard-0/1.journal");
    fs::write(&journal, "messages").unwrap();
    let fault = Storage::open(&disk, 2, Clock::start()).unwrap_err().to_string();
    assert!(fault.contains("`layout` is missing"), "{fault}");
    assert!(journal.exists());
}

#[test]
fn what_cannot_be_used_is_said_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = disk(directory.path());
    fs::write(&disk.path, "a file").unwrap();
    let fault = Storage::open(&disk, 2, Clock::start()).unwrap_err().to_string();
    assert!(fault.starts_with("queue.path: ") && fault.contains("/queue"), "{fault}");
    fs::remove_file(&disk.path).unwrap();
    fs::create_dir(&disk.path).unwrap();
    fs::write(disk.path.join(LAYOUT), "version = 9").unwrap();
    let fault = Storage::open(&disk, 2, Clock::start()).unwrap_err().to_string();
    assert!(fault.contains("layout"), "{fault}");
    disk.bytes_max = 4 * 1024 * 1024;
    let fault = Storage::open(&disk, 5, Clock::start()).unwrap_err().to_string();
    assert!(fault.contains("queue.max_disk_bytes") && fault.contains("shards.count"), "{fault}");
}
