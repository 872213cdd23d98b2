//! A real process is killed with SIGKILL while it appends: all it reported as committed is there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ara_shards::journal::{Fsync, Options};
use fastrand::Rng;

use super::owner::Owner;

const MARK: &str = "the-child-may-write-here";

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        segment_bytes: 32 * 1024,
        max_disk_bytes: 1024 * 1024,
        fsync: Fsync::Always,
    }
}

/// Not a test by itself: the test below runs it as another process. It appends, deletes and
/// compacts until it is killed. It prints `? id` before it deletes a record, and `+ first last` for
/// records and `- id` for deletions once they are committed.
#[test]
#[ignore = "the child of the test below"]
fn child() {
    if !fs::exists(MARK).unwrap() {
        return;
    }
    let mut owner = Owner::open(&options(Path::new("."))).unwrap();
    let mut next = owner.recovered.iter().map(|(_, id, _)| id + 1).max().unwrap_or(0);
    let mut output = std::io::stdout();
    loop {
        let first = next;
        for _ in 0..fastrand::u64(1..30) {
            if owner.append(next, fastrand::usize(0..700)).is_ok() {
                next += 1;
            }
        }
        let mut deleted = Vec::new();
        while owner.index.len() > 200 {
            let id = *owner.index.keys().nth(fastrand::usize(0..150)).unwrap();
            output.write_all(format!("? {id}\n").as_bytes()).unwrap();
            owner.delete(id).unwrap();
            deleted.push(id);
        }
        owner.compact(50_000);
        owner.commit();
        let mut line = String::new();
        if next > first {
            line = format!("+ {first} {}\n", next - 1);
        }
        deleted.iter().for_each(|id| line += &format!("- {id}\n"));
        output.write_all(line.as_bytes()).unwrap();
        output.flush().unwrap();
    }
}

#[test]
fn what_a_killed_process_had_committed_is_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(MARK), "").unwrap();
    let mut rng = Rng::with_seed(0x9);
    let mut live = BTreeSet::new();
    // Records whose deletion may or may not have been committed, and those whose deletion was.
    let (mut deleting, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["journal::kill::child", "--exact", "--ignored", "--nocapture"])
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = rng.u32(20..400);
        for line in lines.map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            match *words.as_slice() {
                ["+", first, last] => {
                    let (first, last) = (first.parse::<u64>(), last.parse::<u64>());
                    live.extend(first.unwrap()..=last.unwrap());
                }
                ["?", id] => {
                    deleting.insert(id.parse::<u64>().unwrap());
                    continue;
                }
                ["-", id] => {
                    deleted.insert(id.parse::<u64>().unwrap());
                }
                // Other lines are the test harness's own output.
                _ => continue,
            }
            left = left.saturating_sub(1);
            if left == 0 {
                // SIGKILL; what it has printed already is still read.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert_eq!(left, 0, "the child ended by itself");
        let owner = Owner::open(&options(directory.path())).unwrap();
        assert_eq!(owner.report.damages, 0, "round {round}: {:?}", owner.report);
        let found: BTreeSet<u64> = owner.index.keys().copied().collect();
        live.retain(|id| !deleted.contains(id));
        assert!(found.is_disjoint(&deleted), "round {round}: deleted records came back");
        for id in live.difference(&found) {
            assert!(deleting.contains(id), "round {round}: {id} is lost");
        }
        live = found;
        owner.journal.close().unwrap();
    }
}
