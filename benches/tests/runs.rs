//! Property: a run ends well only if every message arrived exactly once, and no run, however it
//! ends, leaves a process behind. Set-up: the tool itself, loading its own stand-in server. Why it
//! matters: a measurement that loses messages measures something else, and an orphan server spoils
//! every measurement after it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ara-bench"));
    command.args(args).arg("--stand-in").stdin(Stdio::null());
    command
}

fn finished(args: &[&str]) -> Output {
    bench(args).output().expect("the tool starts")
}

fn assert_good(args: &[&str]) -> String {
    let output = finished(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn assert_fails(args: &[&str], because: &str) {
    let output = finished(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.contains(because), "{args:?}: {said}");
}

/// Processes whose parent is `parent`.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        fields.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    };
    pids.filter(is_child).collect()
}

#[test]
fn fanout_counts_every_delivery_and_writes_json() {
    let json = std::env::temp_dir().join(format!("ara-bench-test-{}.json", std::process::id()));
    let path = json.to_str().expect("UTF-8");
    let load = ["fanout", "--connections", "40", "--publishes", "5", "--groups", "2"];
    let table = assert_good(&[&load[..], &["--rounds", "2", "--json", path]].concat());
    assert!(table.contains("Gateway / bare loop, 1 in flight"), "{table}");
    let text = fs::read_to_string(&json).expect("the JSON file");
    fs::remove_file(&json).expect("the JSON file");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let figures = report.pointer("/groups/0/figures").and_then(|all| all.as_array());
    let ratio = figures
        .expect("figures")
        .iter()
        .find(|figure| figure.get("key").is_some_and(|key| key == "ratio_to_bare"));
    let samples = ratio.and_then(|ratio| ratio.get("samples")?.as_array()).expect("samples");
    assert_eq!(samples.len(), 2);
}

#[test]
fn pipelined_publishes_are_counted_too() {
    assert_good(&[
        "fanout",
        "--connections",
        "20",
        "--rounds",
        "1",
        "--groups",
        "2",
        "--pipelined",
    ]);
}

#[test]
fn a_lost_message_fails_the_run() {
    let fault = ["--rounds", "1", "--timeout", "1", "--env", "STAND_IN_FAULT=lose"];
    let because = "nothing for 1 s";
    assert_fails(&[&["fanout", "--connections", "20"], &fault[..]].concat(), because);
    assert_fails(&[&["unicast", "--connections", "20"], &fault[..]].concat(), because);
}

#[test]
fn a_second_copy_fails_the_run() {
    let fault = ["--rounds", "1", "--env", "STAND_IN_FAULT=duplicate"];
    let because = "arrived twice";
    assert_fails(&[&["fanout", "--connections", "20"], &fault[..]].concat(), because);
    assert_fails(&[&["unicast", "--connections", "20"], &fault[..]].concat(), because);
}

#[test]
fn the_other_scenarios_come_to_their_end() {
    let second = ["--env", "WEBSOCKET_HEARTBEAT_INTERVAL=1"];
    for transport in ["ws", "sse"] {
        let load = ["idle", "--connections", "50", "--idle-seconds", "2", "--grow", "300"];
        let table = assert_good(&[&load[..], &second, &["--transport", transport]].concat());
        assert!(table.contains("RSS growth per connection, 50 to 350"), "{table}");
        let beats = table.lines().find(|line| line.contains("Heartbeats received"));
        assert!(beats.is_some_and(|line| !line.ends_with(" 0")), "{table}");
    }
    assert_good(&["unicast", "--connections", "20", "--seconds", "1", "--rounds", "1"]);
    assert_good(&["churn", "--connections", "100", "--seconds", "2"]);
    let load = ["shards", "--connections", "20", "--unicast-connections", "20"];
    let table = assert_good(&[&load[..], &["--seconds", "1", "--rounds", "1"]].concat());
    assert!(table.contains("2 shards"), "{table}");
}

/// Tiny loads of `queue`; what it writes in the directory goes again.
fn assert_queue(parts: &str, load: &[&str], figures: &[&str]) {
    let name = format!("ara-bench-{parts}-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let path = directory.to_str().expect("UTF-8");
    let which = ["queue", "--parts", parts, "--stores", "memory", "--directory", path];
    let table = assert_good(&[&which[..], load].concat());
    for figure in figures {
        assert!(table.contains(figure), "{figure}: {table}");
    }
    let left = fs::read_dir(&directory).expect("the directory").count();
    fs::remove_dir(&directory).expect("the directory");
    assert_eq!(left, 0);
}

#[test]
fn messages_into_the_queue_and_out_of_it_are_counted() {
    let rates =
        ["--users", "30", "--messages", "3", "--replay-users", "10", "--replay-messages", "5"];
    let connected = ["--seconds", "0", "--connections", "20", "--callers", "8"];
    assert_queue(
        "rates,device,connected",
        &[&rates[..], &connected, &["--long-queue", "20", "--rounds", "1"]].concat(),
        &[
            "Into the queue, messages",
            "To 10 users who return, 5 each, messages",
            "To one user who returns, 20, messages",
            "Write and fdatasync",
            "Queue in memory, an Ack to each / off",
        ],
    );
}

#[test]
fn memory_of_messages_is_read_when_all_are_there() {
    let load = ["--memory-users", "30", "--pending-users", "10", "--pending-messages", "3"];
    assert_queue(
        "memory,pending",
        &load,
        &[
            "RSS per notification of 200 B JSON, 6 users × 100, none shared",
            "RSS growth of 10 users × 3 pending",
            "RSS per pending Ack, 3 more for each",
        ],
    );
}

#[test]
fn a_queued_message_lost_or_doubled_fails_the_run() {
    let load = ["queue", "--stores", "memory", "--parts", "pending", "--pending-users", "10"];
    let directory = std::env::temp_dir();
    let directory = ["--directory", directory.to_str().expect("UTF-8"), "--timeout", "1"];
    for (fault, because) in [("lose", "nothing for 1 s"), ("duplicate", "arrived twice")] {
        let fault = format!("STAND_IN_FAULT={fault}");
        assert_fails(&[&load[..], &directory, &["--env", &fault]].concat(), because);
    }
}

#[test]
fn a_signal_ends_the_run_and_its_server() {
    let mut tool = bench(&["idle", "--connections", "20", "--idle-seconds", "600"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let stderr = tool.stderr.take().expect("a pipe");
    let watching =
        BufReader::new(stderr).lines().any(|line| line.is_ok_and(|line| line.contains("watching")));
    assert!(watching, "it never came to watch");
    let servers = children_of(tool.id());
    assert_eq!(servers.len(), 1, "{servers:?}");
    let pid = i32::try_from(tool.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::INT).expect("a signal");
    assert_eq!(tool.wait().expect("an end").code(), Some(130));
    for server in servers {
        assert!(!fs::exists(format!("/proc/{server}")).expect("/proc"), "{server} lives on");
    }
}

#[test]
fn a_server_that_does_not_start_fails_the_run() {
    for (gateway, because) in [("/nowhere", "no gateway at"), ("/bin/true", "ended before")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ara-bench"));
        let output = command.args(["unicast", "--gateway", gateway]).output().expect("a start");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains(because), "{said}");
    }
}
