//! A real Redis server, a subscriber beside it, and conditions to wait for.
//!
//! **Runs on**: one thread per test: a local task for the subscriber, and the test itself.
//! **Owns**: the server's process and its directory; both end with the test. **Never**: waits a fixed
//! time, or changes this process's environment.

use std::cell::RefCell;
use std::fs::{self, File};
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ara_gateway::config::settled::Redis;
use ara_gateway::redis::{Options, RedisTrigger, Status, Timing, run_with};
use ara_gateway::supervise::spawn_unsupervised;
use tokio::task::{JoinHandle, LocalSet};
use tracing::subscriber::DefaultGuard;

/// How long a condition may take on a busy machine before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test as the router runs: one thread, local tasks.
pub(crate) fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Waits until `condition` holds, and fails the test by name where it never does.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A port nothing listens on, below the range the kernel takes client ports from, so that it is
/// still free when a killed server comes back.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 15_000 + u16::try_from(std::process::id() % 150).unwrap() * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory of the test's own, removed with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let name = format!("ara-redis-{}-{}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A running redis-server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    arguments: Vec<String>,
    scratch: Scratch,
}

impl Server {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let (port, scratch) = (free_port(), Scratch::new());
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let child = Self::spawn(port, &arguments, &scratch);
        let mut server = Self { child, port, arguments, scratch };
        server.until_up().await;
        server
    }

    fn spawn(port: u16, arguments: &[String], scratch: &Scratch) -> Child {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string(), "--dir", &scratch.path("")])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server in the PATH")
    }

    async fn until_up(&mut self) {
        let port = self.port;
        until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
            .await;
        assert!(self.child.try_wait().unwrap().is_none(), "another server took the port");
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.arguments, &self.scratch);
        self.until_up().await;
    }

    /// Sends it a signal by name: `STOP` freezes it, `CONT` thaws it.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The URL with these credentials (`user:password@`, or nothing).
    pub(crate) fn url(&self, credentials: &str) -> String {
        format!("redis://{credentials}127.0.0.1:{}/5", self.port)
    }

    /// Runs a command on a connection of its own.
    pub(crate) fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url("")).unwrap();
        let mut connection = client.get_connection().unwrap();
        let (name, arguments) = words.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut connection).unwrap()
    }

    /// Publishes and checks how many subscribers the server handed it to.
    pub(crate) fn publish(&self, channel: &str, text: &str) {
        assert_eq!(self.run::<u64>(&["PUBLISH", channel, text]), 1, "{channel}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A subscriber that runs beside the test.
pub(crate) struct Subscriber {
    pub(crate) status: Rc<Status>,
    pub(crate) triggers: Rc<RefCell<Vec<RedisTrigger>>>,
    task: JoinHandle<std::convert::Infallible>,
}

impl Subscriber {
    pub(crate) fn start(url: String) -> Self {
        Self::start_with(url, None)
    }

    pub(crate) fn start_with(url: String, root_certificates_pem: Option<Vec<u8>>) -> Self {
        let settings = Redis {
            url,
            breaker_failure_threshold: 5,
            breaker_success_threshold: 2,
            breaker_reset_timeout: Duration::from_millis(300),
            backoff_initial: Duration::from_millis(10),
            backoff_max: Duration::from_millis(100),
        };
        // Short enough for a test, long enough for a machine that does much else.
        let timing = Timing {
            connect_deadline: Duration::from_secs(1),
            health_interval: Duration::from_millis(50),
            health_deadline: Duration::from_secs(1),
        };
        let status = Rc::new(Status::new());
        let triggers: Rc<RefCell<Vec<RedisTrigger>>> = Rc::default();
        let taken = Rc::clone(&triggers);
        let sink = move |trigger| taken.borrow_mut().push(trigger);
        let options = Options { timing, root_certificates_pem };
        let task = spawn_unsupervised(run_with(settings, options, Rc::clone(&status), sink));
        Self { status, triggers, task }
    }

    pub(crate) async fn until_connected(&self) {
        until("the subscriber is connected", || self.status.snapshot().connected).await;
    }

    pub(crate) async fn until_lost(&self) {
        until("the loss is noticed", || !self.status.snapshot().connected).await;
    }

    pub(crate) async fn until_triggers(&self, count: usize) {
        until("the triggers arrive", || self.triggers.borrow().len() >= count).await;
        assert_eq!(self.triggers.borrow().len(), count);
    }

    /// Every event type received, in order.
    pub(crate) fn event_types(&self) -> Vec<String> {
        self.triggers.borrow().iter().map(|trigger| trigger.event.event_type.clone()).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Everything this thread logs from here on.
pub(crate) struct Logs {
    scratch: Scratch,
    _guard: DefaultGuard,
}

impl Logs {
    pub(crate) fn capture() -> Self {
        let scratch = Scratch::new();
        let file = Arc::new(File::create(scratch.path("log")).unwrap());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(file)
            .finish();
        Self { scratch, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.scratch.path("log")).unwrap()
    }
}

/// A certificate authority and a server certificate for 127.0.0.1, made by the openssl command.
pub(crate) struct Certificates(Scratch);

impl Certificates {
    pub(crate) fn make() -> Self {
        let scratch = Scratch::new();
        let path = |name| scratch.path(name);
        fs::write(path("names"), "subjectAltName=IP:127.0.0.1").unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        for (command, extra) in [
            (
                "req",
                [
                    &key[..],
                    &["-x509", "-days", "2", "-subj", "/CN=test authority"],
                    &["-keyout", &path("ca.key"), "-out", &path("ca.pem")],
                ]
                .concat(),
            ),
            (
                "req",
                [
                    &key[..],
                    &["-subj", "/CN=test server"],
                    &["-keyout", &path("server.key"), "-out", &path("server.csr")],
                ]
                .concat(),
            ),
            (
                "x509",
                [
                    &["-req", "-days", "2", "-CAcreateserial", "-in", &path("server.csr")][..],
                    &["-CA", &path("ca.pem"), "-CAkey", &path("ca.key")],
                    &["-extfile", &path("names"), "-out", &path("server.pem")],
                ]
                .concat(),
            ),
        ] {
            let output = Command::new("openssl").arg(command).args(extra).output();
            let output = output.expect("these tests need openssl in the PATH");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Self(scratch)
    }

    pub(crate) fn authority(&self) -> String {
        self.0.path("ca.pem")
    }

    /// What redis-server needs to offer TLS on `port` beside its plain port.
    pub(crate) fn server_arguments(&self, port: u16) -> Vec<String> {
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", self.0.path("server.pem")),
            ("--tls-key-file", self.0.path("server.key")),
            ("--tls-ca-cert-file", self.authority()),
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .map(|(name, value)| [name.to_owned(), value])
        .concat()
    }
}
