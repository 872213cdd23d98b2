//! A panic is said in the log, like everything else, before the process ends.
//!
//! Set-up: this test's own binary, run once more as a process that panics and whose standard error
//! the test reads, or does not. Property: the message is a log line of its own, with thread and
//! place, whatever the filter; and whoever does not read it does not keep the process from ending.
//! Why it matters: it is the only trace of what ended the process, or a connection.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead, BufReader, pipe};
use std::process::{Child, Command, Stdio};

use ara_gateway::settings::{Log, LogFormat};
use ara_gateway::telemetry;

/// The filter and the format, for the process that panics.
const ROLE: &str = "ARA_TEST_PANIC_LOG";

/// Not a test of its own: what the other process does.
#[test]
fn a_process_that_panics() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (filter, format) = role.split_once(' ').unwrap();
    let format = if format == "json" { LogFormat::Json } else { LogFormat::Text };
    let output = telemetry::open().unwrap();
    telemetry::start(&Log { filter: filter.to_owned(), format }, output).unwrap();
    let thread = std::thread::Builder::new().name("one-of-ours".to_owned());
    thread.spawn(|| panic!("the test's own panic")).unwrap().join().unwrap_err();
    assert_eq!(telemetry::panics(), 1);
    telemetry::finish();
}

fn panicking(role: &str, stderr: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_panics", "--nocapture"])
        .env(ROLE, role)
        .env_remove("RUST_BACKTRACE")
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

fn log_of(role: &str) -> Vec<String> {
    let mut child = panicking(role, Stdio::piped());
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let lines = stderr.lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    lines
}

#[test]
fn a_panic_is_a_log_line_with_its_thread_and_place() {
    for role in ["info text", "off text"] {
        let lines = log_of(role);
        let [line] = &lines[..] else { panic!("{role}: {lines:?}") };
        for part in ["panicked", "the test's own panic", "one-of-ours", file!()] {
            assert!(line.contains(part), "{role}: {part} is not in {line}");
        }
    }
    let lines = log_of("info json");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["message"], "panicked: the test's own panic");
    assert_eq!(line["thread"], "one-of-ours");
}

#[test]
fn a_panic_that_nobody_reads_ends_nothing_else() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    assert!(panicking("info text", writer.into()).wait().unwrap().success());
}
