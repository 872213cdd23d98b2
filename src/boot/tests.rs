//! Whatever lives as long as the gateway and ends unasked takes the process down, with a message.
//!
//! Set-up: a whole gateway in this process, started as `main` does, one of whose tasks panics once it
//! is at work. Property: it ends with exit code 1, and its log names the task. Why it matters: a
//! runtime swallows the panic of a task, and a gateway that is deaf on one side looks alive for ever.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ara_shards::worker::Ending;
use crossbeam_channel::Sender;
use tokio::time::timeout;

use super::*;
use crate::config::raw::Sources;
use crate::config::{self, Loaded};
use crate::supervise::spawn_unsupervised;

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes what is logged on the test's thread.
#[derive(Clone)]
struct Lines(Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.try_send(line.to_vec()).map_err(io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `work` comes to on a runtime like main's, and what is logged meanwhile.
fn on_main<T>(work: impl Future<Output = T>) -> (T, String) {
    let (lines, read) = crossbeam_channel::bounded(10_000);
    let writer = move || Lines(lines.clone());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async { timeout(PATIENCE, work).await.expect("it ends by itself") })
    });
    (outcome, String::from_utf8_lossy(&read.try_iter().flatten().collect::<Vec<_>>()).into_owned())
}

/// Everything that can be switched on is.
fn configuration(directory: PathBuf, queue: &str) -> (Sources, Loaded) {
    let environment = [
        ("RUN_MODE", "production"),
        ("CORS_ORIGINS", "https://app.example"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("API_KEY", "0123456789abcdef"),
        ("SERVER_PORT", "0"),
        ("API_LISTEN", "127.0.0.1:0"),
        ("SHARDS_COUNT", "2"),
        ("SHARDS_PIN_TO_CORES", "false"),
        ("QUEUE_ENABLED", "true"),
        ("QUEUE_BACKEND", "disk"),
        ("QUEUE_PATH", queue),
        // Nobody listens there, or somebody who is no Redis: either is tried again for ever.
        ("REDIS_URL", "redis://127.0.0.1:1"),
    ];
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let sources = Sources { config: None, directory, environment };
    let loaded = config::load(&sources).map_err(|faults| faults.to_string()).unwrap();
    (sources, loaded)
}

/// The exit code and the log of a gateway in which this task panics.
fn run_with_fault(fault: &'static str) -> (ExitCode, String) {
    let queue = tempfile::tempdir().unwrap();
    let (sources, loaded) = configuration(queue.path().into(), queue.path().to_str().unwrap());
    let settings = loaded.settings.clone();
    let verifier = Verifier::new(&settings.jwt).unwrap();
    let (mut supervisor, events) = Supervisor::new(SUPERVISOR_EVENTS_MAX);
    supervisor.fault = Some(fault);
    on_main(async {
        let mut signals = Signals::install().unwrap();
        let reloads = Reloads::new(Hangups::install().unwrap(), sources, loaded);
        run_with(settings, verifier, &mut signals, reloads, (supervisor, events)).await
    })
}

fn assert_taken_down(fault: &'static str) {
    let (code, log) = run_with_fault(fault);
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(EXIT_FAILURE)), "{log}");
    let told = format!("task {fault} panicked; stopping the process");
    assert!(log.contains(&told), "{told} is not in:\n{log}");
}

#[test]
fn a_panic_of_the_redis_subscriber_takes_the_process_down() {
    assert_taken_down("redis-subscriber");
}

#[test]
fn a_panic_of_the_pump_takes_the_process_down() {
    assert_taken_down("pump");
}

#[test]
fn a_panic_of_whoever_applies_changes_takes_the_process_down() {
    assert_taken_down("owners");
}

#[test]
fn a_panic_of_the_api_listener_takes_the_process_down() {
    assert_taken_down("api-listener");
}

#[test]
fn a_panic_of_any_door_takes_the_process_down() {
    assert_taken_down("door-0");
    assert_taken_down("door-1");
}

#[test]
fn a_panic_of_the_idempotency_writer_takes_the_process_down() {
    assert_taken_down("idempotency-writer");
    assert_taken_down("template-writer");
}

/// Invariant 9: whatever ends a thread or a task unasked, main goes, and says so with its exit code.
#[test]
fn a_thread_or_task_that_ends_unasked_takes_the_process_down() {
    let endings =
        || [Ending::Panicked, Ending::Stopped, Ending::Failed(io::ErrorKind::Other.into())];
    let threads =
        endings().map(|ending| SupervisorEvent::ThreadEnded("shard-0".to_owned(), ending));
    let tasks = endings().map(|ending| SupervisorEvent::TaskEnded("pump".to_owned(), ending));
    for event in threads.into_iter().chain(tasks) {
        let about = format!("{event:?}");
        let (supervisor, read) = Supervisor::new(1);
        supervisor.report(event);
        let (code, log) = on_main(async {
            let mut signals = Signals::install().unwrap();
            let (sources, loaded) = configuration(PathBuf::new(), "./data");
            let reloads = Reloads::new(Hangups::install().unwrap(), sources, loaded);
            running(read).until_stopped(&mut signals, reloads).await
        });
        let failure = format!("{:?}", ExitCode::from(EXIT_FAILURE));
        assert_eq!(format!("{code:?}"), failure, "{about}");
        assert!(log.contains("stopping the process"), "{about}: {log}");
    }
}

/// A gateway without threads of its own.
fn running(events: mpsc::Receiver<SupervisorEvent>) -> Running {
    let (stop, _stop_out) = mpsc::channel(1);
    let (changes, _changes_out) = mpsc::channel(1);
    Running {
        address: ([127, 0, 0, 1], 1).into(),
        api_address: None,
        events,
        stop,
        changes,
        router: std::thread::Builder::new().spawn(|| {}).unwrap(),
        shards: Vec::new(),
        times: StopTimes { delay: Duration::ZERO, grace: Duration::from_secs(10) },
        storage: None,
    }
}

/// What is logged of a reload whose owners say this at the end; nothing = their thread ends.
fn log_of_reload(is_complete: Option<bool>) -> String {
    let (sources, loaded) = configuration(PathBuf::new(), "./data");
    let reloaded = config::reload::reload(&sources, &loaded).map_err(|faults| faults.to_string());
    let verifier = Verifier::new(&loaded.settings.jwt).unwrap();
    let (changes, mut changes_out) = mpsc::channel(1);
    let applied = async {
        let mut reloads = Reloads::new(Hangups::install().unwrap(), sources, loaded);
        let owners = async {
            let Change { done, .. } = changes_out.recv().await.unwrap();
            if let Some(is_complete) = is_complete {
                done.send(is_complete).unwrap();
            }
        };
        tokio::join!(reloads.apply(reloaded.unwrap(), verifier, &changes), owners)
    };
    on_main(applied).1
}

#[test]
fn a_reload_that_an_owner_did_not_take_is_not_said_to_be_in_effect() {
    assert!(log_of_reload(Some(true)).contains("outcome=\"applied\""));
    for answer in [Some(false), None] {
        let log = log_of_reload(answer);
        assert!(
            log.contains("outcome=\"failed\"") && !log.contains("applied"),
            "{answer:?}: {log}"
        );
    }
}

/// A connection's task is nobody else's affair, and a stop is no failure.
#[test]
fn a_panic_of_one_connection_and_an_end_that_was_asked_for_are_not_reported() {
    let (supervisor, mut events) = Supervisor::new(4);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let socket = Arc::new(());
        let of_the_task = Arc::clone(&socket);
        let connection = spawn_unsupervised(async move {
            let _closed_when_dropped = of_the_task;
            panic!("the test's own panic");
        });
        assert!(connection.await.unwrap_err().is_panic());
        assert_eq!(Arc::strong_count(&socket), 1, "the panic has dropped what the task held");
        let task = supervisor.spawn("aborted", std::future::pending());
        task.abort();
        let ended = supervisor.spawn("ended", async { Ok(()) });
        while !ended.is_finished() {
            tokio::task::yield_now().await;
        }
        let told = events.recv().await;
        assert!(
            matches!(&told, Some(SupervisorEvent::TaskEnded(name, Ending::Stopped)) if name == "ended"),
            "{told:?}"
        );
        assert!(events.try_recv().is_err());
    });
}
