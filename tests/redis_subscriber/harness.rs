//! A real Redis server, a subscriber beside it, and conditions to wait for.
//!
//! **Runs on**: one thread per test: a local task for the subscriber, and the test itself.
//! **Owns**: the server's process and its directory; both end with the test. **Never**: waits a fixed
//! time, or changes this process's environment.

use std::cell::RefCell;
use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ara_gateway::intake::Trigger;
use ara_gateway::redis::{Options, Sink, Status, Tenants, Timing, run_with};
use ara_gateway::refusal::Refusal;
use ara_gateway::settings::{ClientCertificate, Redis, RedisTls};
use ara_gateway::supervise::spawn_unsupervised;
use tokio::task::{JoinHandle, LocalSet};

/// How long a condition may take on a busy machine before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test as the router runs: one thread, local tasks.
pub(crate) fn on_one_thread(test: impl Future<Output = ()>) {
    start_logging();
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
        until("the server subscribes_to", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
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

/// Keeps every trigger.
struct Taken(Rc<RefCell<Vec<Trigger>>>);

impl Sink for Taken {
    fn send(&mut self, trigger: Trigger) -> Result<(), Refusal> {
        self.0.borrow_mut().push(trigger);
        Ok(())
    }

    fn send_batch<T>(
        &mut self,
        _count: usize,
        fill: impl FnOnce(&mut dyn FnMut(Trigger) -> Result<(), Refusal>) -> T,
    ) -> Result<T, Refusal> {
        Ok(fill(&mut |trigger| self.send(trigger)))
    }
}

/// A subscriber that runs beside the test.
pub(crate) struct Subscriber {
    pub(crate) status: Rc<Status>,
    pub(crate) triggers: Rc<RefCell<Vec<Trigger>>>,
    task: JoinHandle<std::convert::Infallible>,
}

impl Subscriber {
    pub(crate) fn start(url: String) -> Self {
        Self::start_with(url, RedisTls::default())
    }

    pub(crate) fn start_with(url: String, tls: RedisTls) -> Self {
        let settings = Redis {
            url,
            tls,
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
        let triggers: Rc<RefCell<Vec<Trigger>>> = Rc::default();
        let sink = Taken(Rc::clone(&triggers));
        let options = Options { timing };
        let tenants = Tenants { are_enabled: true, default: "default".into() };
        let subscriber =
            run_with(settings, tenants, Rc::default(), options, Rc::clone(&status), sink);
        let task = spawn_unsupervised(subscriber);
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

thread_local! {
    /// What this thread has logged, while somebody wants to know.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes to the log of the thread that logs. One subscriber for the process: with one for each test
/// the cache of who is interested in what, which they share, loses lines now and then.
struct ToThread;

impl Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.as_mut().map(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start_logging() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| ToThread)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Everything this thread logs from here on.
pub(crate) struct Logs(());

impl Logs {
    pub(crate) fn capture() -> Self {
        LOG.set(Some(Vec::new()));
        Self(())
    }

    pub(crate) fn text(&self) -> String {
        LOG.with_borrow(|log| String::from_utf8(log.clone().unwrap_or_default()).unwrap())
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        LOG.set(None);
    }
}

/// Certificates made by the openssl command, each with its key beside it.
pub(crate) struct Certificates(Scratch);

/// Long past, so that it shows the order of checks: an expired certificate is expired, whoever named it.
pub(crate) const PAST: (&str, &str) = ("20200101000000Z", "20200102000000Z");
/// Still to come.
pub(crate) const FUTURE: (&str, &str) = ("20900101000000Z", "20900102000000Z");
const ALWAYS: (&str, &str) = ("20200101000000Z", "20900101000000Z");

impl Certificates {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let configuration = format!(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = {0}index\nnew_certs_dir = {0}\nrand_serial = yes\n\
             unique_subject = no\ndefault_md = sha256\npolicy = p\n[p]\ncommonName = supplied\n",
            scratch.path(""),
        );
        fs::write(scratch.path("configuration"), configuration).unwrap();
        fs::write(scratch.path("index"), "").unwrap();
        Self(scratch)
    }

    /// An authority `ca` and a certificate `server` for 127.0.0.1 that it has issued.
    pub(crate) fn make() -> Self {
        let certificates = Self::new();
        certificates.issue("ca", None, "basicConstraints=CA:TRUE", None);
        certificates.issue("server", Some("ca"), "subjectAltName=IP:127.0.0.1", None);
        certificates
    }

    /// Makes a certificate, issued by `issuer` or self-signed, good from and until `dates`.
    pub(crate) fn issue(
        &self,
        name: &str,
        issuer: Option<&str>,
        extensions: &str,
        dates: Option<(&str, &str)>,
    ) {
        let (key, request) = (self.key(name), self.0.path("request"));
        let subject = format!("/CN=test {name}");
        openssl(&[
            &["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
            &["-subj", &subject, "-keyout", &key, "-out", &request][..],
        ]);
        fs::write(self.0.path("extensions"), extensions).unwrap();
        let (start, end) = dates.unwrap_or(ALWAYS);
        let issuer_file = issuer.map(|issuer| self.file(issuer));
        let signer_key = issuer.map_or(key, |issuer| self.key(issuer));
        let by: &[&str] = match &issuer_file {
            Some(file) => &["-cert", file],
            None => &["-selfsign"],
        };
        openssl(&[
            &["ca", "-batch", "-notext", "-config", &self.0.path("configuration")],
            by,
            &["-keyfile", &signer_key, "-in", &request, "-out", &self.file(name)],
            &["-extfile", &self.0.path("extensions"), "-startdate", start, "-enddate", end],
        ]);
    }

    /// The file of a certificate.
    pub(crate) fn file(&self, name: &str) -> String {
        self.0.path(&format!("{name}.pem"))
    }

    /// The file of its key.
    pub(crate) fn key(&self, name: &str) -> String {
        self.0.path(&format!("{name}.key"))
    }

    /// Settings that trust `trusted`, with `client` as who we are.
    pub(crate) fn settings(&self, trusted: &str, client: Option<&str>) -> RedisTls {
        RedisTls {
            ca: Some(self.file(trusted).into()),
            client: client.map(|name| ClientCertificate {
                cert: self.file(name).into(),
                key: self.key(name).into(),
            }),
        }
    }

    /// What redis-server needs to offer TLS on `port` beside its plain port, as `server`, to clients
    /// with a certificate of `clients_of` (`None` = to all).
    pub(crate) fn server_arguments(
        &self,
        port: u16,
        server: &str,
        clients_of: Option<&str>,
    ) -> Vec<String> {
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", self.file(server)),
            ("--tls-key-file", self.key(server)),
            ("--tls-ca-cert-file", self.file(clients_of.unwrap_or(server))),
            ("--tls-auth-clients", if clients_of.is_some() { "yes" } else { "no" }.to_owned()),
        ]
        .map(|(name, value)| [name.to_owned(), value])
        .concat()
    }
}

fn openssl(arguments: &[&[&str]]) {
    let output = Command::new("openssl").args(arguments.concat()).output();
    let output = output.expect("these tests need openssl in the PATH");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
