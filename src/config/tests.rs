//! Set-up: each layer is a text, in a directory of the test's own and in a map for the environment.
//! Property: the highest layer wins, every fault is found in one go, and no secret gets out.
//! Why it matters: this is the first thing an operator meets, often with a broken deployment.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::error::{Fault, Faults, Origin};
use super::keys::{self, KEYS};
use super::raw::Sources;
use super::{Loaded, load, show};
use crate::settings::{LogFormat, RunMode, Settings};

mod api_keys;
mod reload;
mod surroundings;
mod tenants;

/// A directory that is removed at the end of the test.
struct Directory(PathBuf);

impl Directory {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ara-config-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        Self(path)
    }

    fn sources(&self, environment: &[(&str, &str)]) -> Sources {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        Sources { config: None, directory: self.0.clone(), environment }
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Loaded, Faults> {
        load(&self.sources(environment))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn settings(file: &str, environment: &[(&str, &str)]) -> Settings {
    match Directory::new(&[("config.toml", file)]).load(environment) {
        Ok(loaded) => loaded.settings,
        Err(faults) => panic!("{faults}"),
    }
}

fn faults(file: &str, environment: &[(&str, &str)]) -> Vec<Fault> {
    match Directory::new(&[("config.toml", file)]).load(environment) {
        Ok(_) => panic!("accepted: {file}\n{environment:?}"),
        Err(faults) => faults.list,
    }
}

fn one_fault(file: &str, environment: &[(&str, &str)]) -> Fault {
    let mut list = faults(file, environment);
    assert_eq!(list.len(), 1, "{list:#?}");
    list.remove(0)
}

const PRODUCTION: [(&str, &str); 4] = [
    ("RUN_MODE", "production"),
    ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
    ("API_KEY", "0123456789abcdef"),
    ("CORS_ORIGINS", "https://app.example.org, https://b.example.org/"),
];

#[test]
fn nothing_configured_is_a_development_server_on_loopback() {
    let directory = Directory::new(&[]);
    let settings = directory.load(&[]).unwrap().settings;
    assert_eq!(settings.mode, RunMode::Development);
    assert_eq!(settings.server.address, ([127, 0, 0, 1], 8081).into());
    assert!(settings.server.cors_origins.is_empty() && settings.api.listen.is_none());
    assert_eq!(settings.server.connections_max, 0);
    assert_eq!(settings.server.send_buffer_bytes, 32_768);
    assert_eq!(settings.server.shutdown_grace, Duration::from_secs(10));
    assert_eq!((settings.shards.count, settings.shards.inbox_capacity), (0, 8192));
    assert!(settings.shards.pin_to_cores && !settings.tenants_enabled);
    assert_eq!(format!("{:?}", settings.limits), format!("{:?}", ara_shards::Limits::default()));
    assert_eq!(settings.jwt.algorithm, Algorithm::HS256);
    assert_eq!(settings.jwt.leeway, Duration::from_secs(5));
    assert_eq!((settings.log.filter.as_str(), settings.log.format), ("info", LogFormat::Text));
    assert!(settings.redis.is_none() && settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn development_makes_up_secrets_for_the_run_and_says_so() {
    let directory = Directory::new(&[]);
    let (one, two) = (directory.load(&[]).unwrap().settings, directory.load(&[]).unwrap().settings);
    assert!(one.generated.jwt_secret && one.generated.api_key);
    let secret = |settings: &Settings| settings.jwt.secret.clone().unwrap();
    let key = |settings: &Settings| settings.api.key.clone().unwrap();
    assert_eq!((secret(&one).len(), key(&one).len()), (64, 64));
    assert!(secret(&one) != secret(&two) && key(&one) != key(&two));
    assert!(secret(&one) != key(&one));
    let given = settings("jwt.secret = 'a secret that is long enough, yes!'", &[("API_KEY", "k")]);
    assert!(!given.generated.jwt_secret && !given.generated.api_key);
    assert_eq!(given.api.key.as_deref(), Some("k"));
}

#[test]
fn the_environment_beats_dotenv_beats_the_file() {
    let directory = Directory::new(&[
        ("config.toml", "[server]\nport = 1001\nmax_connections = 11\n[log]\nfilter = 'warn'\n"),
        (".env", "# local\nSERVER_PORT=1002\nRUST_LOG='error'\nSHARDS_COUNT=2\n"),
    ]);
    let loaded = directory
        .load(&[("SERVER_PORT", "1003"), ("RUST_LOG", " "), ("SHARDS_COUNT", "")])
        .unwrap();
    assert_eq!(loaded.settings.server.address.port(), 1003);
    assert_eq!(loaded.settings.log.filter, "error", "an empty variable counts as unset");
    assert_eq!(loaded.settings.shards.count, 2);
    assert_eq!(loaded.settings.server.connections_max, 11);
    assert_eq!(loaded.raw.origin(&keys::SERVER_PORT), Origin::Environment);
    assert_eq!(loaded.raw.origin(&keys::LOG_FILTER), Origin::DotEnv { line: 3 });
    assert_eq!(loaded.raw.origin(&keys::MAX_CONNECTIONS), Origin::File { line: 3 });
    assert_eq!(loaded.raw.origin(&keys::SERVER_HOST), Origin::Default);
}

#[test]
fn values_reach_their_settings_in_final_units() {
    let file = "run_mode = 'Development'\n\
                [server]\nhost = 'localhost'\nport = 0x1F90\nshutdown_grace_seconds = 0\n\
                [api]\nlisten = '[::1]:9090'\n\
                [websocket]\nheartbeat_interval = 0.25\nconnection_timeout = 2\n\
                [jwt]\nalgorithm = 'hs512'\nissuer = ''\n\
                [tenant]\nenabled = true\n";
    let settings =
        settings(file, &[("REDIS_URL", "redis://:pw@r:7/1"), ("RUST_LOG_FORMAT", "json")]);
    assert_eq!(settings.server.address, ([127, 0, 0, 1], 8080).into());
    assert_eq!(settings.server.shutdown_grace, Duration::ZERO);
    assert_eq!(settings.api.listen.unwrap().to_string(), "[::1]:9090");
    assert_eq!(settings.limits.heartbeat_interval, Duration::from_millis(250));
    assert_eq!(settings.limits.connection_timeout, Duration::from_secs(2));
    assert_eq!(settings.jwt.algorithm, Algorithm::HS512);
    assert_eq!(settings.jwt.issuer, None, "an empty text counts as unset");
    assert!(settings.tenants_enabled && settings.log.format == LogFormat::Json);
    let redis = settings.redis.unwrap();
    assert_eq!(redis.url, "redis://:pw@r:7/1");
    assert_eq!((redis.breaker_failure_threshold, redis.breaker_success_threshold), (5, 2));
    assert_eq!(redis.breaker_reset_timeout, Duration::from_secs(30));
    assert_eq!(redis.backoff_initial, Duration::from_millis(100));
    assert_eq!(redis.backoff_max, Duration::from_secs(30));
}

#[test]
fn all_faults_are_reported_together() {
    let file = "colour = 'red'\n\
                [server]\nport = 70000\nprot = 1\nhost = 'example.org'\ncors_origins = [1]\n\
                [shards]\ncount = '4'\npin_to_cores = 1\n\
                [jwt]\nleeway_seconds = -1\n\
                [redis]\nbackoff_initial_delay_ms = 500\nbackoff_max_delay_ms = 100\n\
                [cluster]\nenabled = true\n";
    let list = faults(
        file,
        &[
            ("SHARDS_INBOX_CAPACITY", "many"),
            ("OTEL_ENABLED", "true"),
            ("RUST_LOG", "a=b=c"),
            ("RUN_MODE", "production"),
        ],
    );
    let found: Vec<_> = list.iter().map(|fault| (&*fault.key, fault.env, fault.origin)).collect();
    let line = |line| Origin::File { line };
    assert_eq!(
        found,
        [
            ("colour", None, line(1)),
            ("server.port", None, line(3)),
            ("server.prot", None, line(4)),
            ("server.host", None, line(5)),
            ("server.cors_origins", None, line(6)),
            ("shards.count", None, line(8)),
            ("shards.pin_to_cores", None, line(9)),
            ("jwt.leeway_seconds", None, line(11)),
            ("cluster", None, line(15)),
            ("shards.inbox_capacity", Some("SHARDS_INBOX_CAPACITY"), Origin::Environment),
            ("log.filter", Some("RUST_LOG"), Origin::Environment),
            ("otel", Some("OTEL_ENABLED"), Origin::Environment),
            ("api.key", Some("API_KEY"), Origin::Default),
            ("jwt.secret", Some("JWT_SECRET"), Origin::Default),
            ("redis.backoff_max_delay_ms", None, line(14)),
        ]
    );
    assert!(list.iter().all(|fault| !fault.problem.is_empty() && !fault.fix.is_empty()));
    assert!(list[1].problem.contains("70000") && list[1].allowed.contains("65535"));
    assert!(list[5].problem.contains("is a string"), "{}", list[5]);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let fault = one_fault("\n[server]\nmax_conections = 5\n", &[]);
    assert_eq!(fault.origin, Origin::File { line: 3 });
    assert!(fault.allowed.contains("server.max_connections"), "{fault}");
    assert!(one_fault("[redsi]\nurl = 'x'", &[]).allowed.contains("redis.url"));
    // A quoted name with a dot is a name of its own, and a section is not a value.
    assert_eq!(&*one_fault("'server.port' = 1", &[]).key, "\"server.port\"");
    assert!(one_fault("server = 1", &[]).problem.contains("section"));
    assert!(one_fault("[server.port]\nx = 1", &[]).problem.contains("is a table"));
    assert!(one_fault("[nonsense]", &[]).problem.contains("not a known key"));
    assert!(one_fault("[[server]]\nport = 1", &[]).problem.contains("section"));
}

#[test]
fn what_is_still_to_come_is_refused_as_such() {
    for file in [
        "server.tls_cert = 'x'",
        "websocket.compression = true",
        "[cluster]\nnonsense = 1",
        "[otel]\nenabled = false",
    ] {
        let fault = one_fault(file, &[]);
        assert!(fault.problem.contains("not available in this version"), "{fault}");
    }
    let fault = one_fault("", &[("SERVER_TLS_KEY", "x")]);
    assert_eq!((&*fault.key, fault.env), ("server.tls_key", Some("SERVER_TLS_KEY")));
    settings("", &[("QUEUE_ENABLED", ""), ("OTEL_SERVICE_NAME", "set by the platform")]);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let directory = Directory::new(&[("other.toml", "server.port = 7"), (".env", "")]);
    let mut sources = directory.sources(&[("ARA_CONFIG", "other.toml")]);
    assert_eq!(load(&sources).unwrap().settings.server.address.port(), 7);
    sources.config = Some(PathBuf::from("absent.toml"));
    let list = load(&sources).err().unwrap().list;
    assert_eq!((&*list[0].key, list.len()), ("absent.toml", 1));
    let absent = directory.load(&[("ARA_CONFIG", "gone.toml")]).err().unwrap().list;
    assert_eq!((&*absent[0].key, absent[0].env), ("gone.toml", Some("ARA_CONFIG")));
    let directory = Directory::new(&[("o.toml", "server.port = 8"), (".env", "ARA_CONFIG=o.toml")]);
    assert_eq!(directory.load(&[]).unwrap().settings.server.address.port(), 8);
}

#[test]
fn files_that_cannot_be_read_are_faults_and_guess_nothing() {
    let list = faults("[server\nport = 1\n[jwt]\nsecret = \"hunter2\\q\"\n", &PRODUCTION[..1]);
    assert!(list.len() >= 2 && list.iter().all(|fault| fault.problem.contains("not TOML")));
    assert_eq!(list[0].origin, Origin::File { line: 1 });
    assert!(!format!("{list:?}").contains("hunter2"));

    let directory =
        Directory::new(&[(".env", "A=1\nexport JWT_SECRET hunter2\n"), ("config.toml", "")]);
    let list = directory.load(&[("SERVER_PORT", "x")]).err().unwrap().list;
    assert_eq!(list.len(), 2, "{list:?}");
    assert_eq!((&*list[0].key, list[0].origin), ("JWT_SECRET", Origin::DotEnv { line: 2 }));
    assert!(!format!("{list:?}").contains("hunter2"));

    std::fs::write(directory.0.join("config.toml"), b"a = '\xff'").unwrap();
    std::fs::remove_file(directory.0.join(".env")).unwrap();
    assert!(directory.load(&[]).err().unwrap().list[0].problem.contains("not UTF-8"));
}

#[test]
fn production_implies_nothing() {
    let list = faults("", &PRODUCTION[..1]);
    let found: Vec<_> = list.iter().map(|fault| &*fault.key).collect();
    assert_eq!(found, ["server.cors_origins", "api.key", "jwt.secret"]);
    assert!(list.iter().all(|fault| fault.fix.contains("set ")), "{list:#?}");

    let settings = settings("", &PRODUCTION);
    assert_eq!(settings.mode, RunMode::Production);
    assert_eq!(settings.server.cors_origins, ["https://app.example.org", "https://b.example.org"]);
    assert!(settings.generated == crate::settings::Generated::default());
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn production_refuses_weak_secrets_and_the_star_and_development_warns() {
    let weak = [
        ("JWT_SECRET", "0123456789abcdef0123456789abcde"),
        ("API_KEY", "0123456789abcde"),
        ("CORS_ORIGINS", "https://a.org,*"),
    ];
    let list = faults("run_mode = 'production'", &weak);
    let found: Vec<_> = list.iter().map(|fault| (&*fault.key, fault.env)).collect();
    assert_eq!(
        found,
        [
            ("server.cors_origins", Some("CORS_ORIGINS")),
            ("api.key", Some("API_KEY")),
            ("jwt.secret", Some("JWT_SECRET")),
        ]
    );
    assert!(!format!("{list:?}").contains("0123456789"));
    let warned = settings("", &weak).warnings;
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(!format!("{warned:?}").contains("0123456789"));
}

#[test]
fn keys_are_checked_against_each_other() {
    for listen in ["127.0.0.1:8081", "0.0.0.0:8081", "localhost:8081"] {
        assert_eq!(&*one_fault("", &[("API_LISTEN", listen)]).key, "api.listen");
    }
    settings("", &[("API_LISTEN", "127.0.0.2:8081")]);
    settings("server.port = 0", &[("API_LISTEN", "127.0.0.1:0")]);
    for (file, name) in [
        ("server.host = '0.0.0.0'", "server.host"),
        ("websocket.connection_timeout = 30", "websocket.connection_timeout"),
        ("websocket.heartbeat_interval = 0", "websocket.heartbeat_interval"),
        (
            "websocket.heartbeat_interval = 0\nwebsocket.connection_timeout = 0",
            "websocket.heartbeat_interval and websocket.connection_timeout",
        ),
        ("shards.outbox_bytes_per_connection = 4096", "shards.outbox_bytes_per_connection"),
    ] {
        let warnings = settings(file, &[]).warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(name), "{warnings:?}");
    }
}

#[test]
fn an_interval_without_effect_is_warned_of_and_what_to_use_is_named() {
    for (name, instead) in [
        ("QUEUE_CLEANUP_INTERVAL_SECONDS", "queue.dead_letter_ttl_seconds"),
        ("ACK_CLEANUP_INTERVAL_SECONDS", "ack.timeout_seconds"),
    ] {
        // The default value too: whoever sets it expects it to have an effect.
        for value in ["60", "300"] {
            let warnings = settings("", &[(name, value)]).warnings;
            let [warning] = &*warnings else { panic!("{warnings:?}") };
            let is_named = warning.contains("cleanup_interval_seconds has no effect");
            assert!(is_named && warning.contains(instead), "{warning}");
        }
    }
}

#[test]
fn no_secret_is_ever_part_of_a_fault() {
    let secret = "hunter2 hunter2";
    for (name, value) in [
        ("API_KEY", secret.to_owned()),
        ("REDIS_URL", format!("http://user:{secret}@host")),
        (
            "JWT_PUBLICKEY",
            format!("-----BEGIN PRIVATE KEY-----\\n{secret}\\n-----END PRIVATE KEY-----"),
        ),
        ("JWT_PUBLICKEY", secret.to_owned()),
        ("CORS_ORIGINS", format!("https://user:{secret}@a.org")),
    ] {
        let fault = one_fault("", &[(name, value.as_str())]);
        assert!(!format!("{fault}{fault:?}").contains("hunter2"), "{fault}");
    }
    for file in ["api.key = ['hunter2']", "jwt.secret = { hunter = 'hunter2' }"] {
        let fault = one_fault(file, &[]);
        assert!(!format!("{fault}{fault:?}").contains("hunter2"), "{fault}");
    }
}

#[test]
fn the_effective_configuration_is_toml_without_secrets() {
    let directory = Directory::new(&[
        (
            "config.toml",
            "[redis]\nurl = \"redis://ara:hunter2@redis:6379/0\"\n[jwt]\nissuer = 'a\"b\\c'\n",
        ),
        (".env", "API_KEY=hunter2hunter2hunter2\n"),
    ]);
    let loaded = directory.load(&[("JWT_SECRET", &"hunter2".repeat(6))]).unwrap();
    let text = show::effective(&loaded);
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("key = \"<redacted>\"  # .env, line 1, API_KEY"), "{text}");
    assert!(text.contains("secret = \"<redacted>\"  # environment, JWT_SECRET"), "{text}");
    assert!(text.contains("url = \"redis://ara:***@redis:6379/0\"  # file, line 2"), "{text}");
    assert!(text.contains("port = 8081  # default"), "{text}");
    assert!(text.contains("# audience =  # not set"), "{text}");
    for key in KEYS {
        assert!(text.contains(&format!("{} = ", key.leaf())), "{}", key.name);
    }
    // What was printed can be read again, and says the same.
    let again = Directory::new(&[("config.toml", &text)]).load(&[]).unwrap().settings;
    assert_eq!(again.jwt.issuer.as_deref(), Some("a\"b\\c"));
    assert_eq!(format!("{:?}", again.limits), format!("{:?}", loaded.settings.limits));

    let made_up = show::effective(&Directory::new(&[]).load(&[]).unwrap());
    assert_eq!(made_up.matches("made up for each run").count(), 2, "{made_up}");
    assert!(!format!("{:?}", loaded.settings).contains("hunter2"));
}

#[test]
fn the_commented_file_names_every_key_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text == show::reference(),
        "config.toml is out of step; rewrite it with:\n    \
         cargo test -p ara-gateway --lib -- --ignored rewrite_the_commented_file"
    );
    settings(&text, &[]);
    // With its settings uncommented, the file still sets nothing but the defaults.
    let mut uncommented = String::new();
    for line in text.lines() {
        let setting = line
            .strip_prefix("# ")
            .filter(|rest| KEYS.iter().any(|key| rest.starts_with(&format!("{} = ", key.leaf()))));
        uncommented.push_str(setting.unwrap_or(line));
        uncommented.push('\n');
    }
    let loaded = Directory::new(&[("config.toml", &uncommented)]).load(&[]).unwrap();
    for key in KEYS {
        let default = key.form.default_value(key.default);
        assert!(loaded.raw.effective(key) == default, "{}", key.name);
        let was_read = matches!(loaded.raw.origin(key), Origin::File { .. });
        assert!(was_read || default.is_none(), "{} is missing", key.name);
        assert!(show::markdown_table().contains(&format!("`{}`", key.name)));
    }
}

#[test]
#[ignore = "writes into the source tree"]
fn rewrite_the_commented_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    std::fs::write(path, show::reference()).unwrap();
}
