//! Turns typed values into settings: checks keys against each other and, in development, makes up
//! missing secrets.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing.
//! **Never**: stops at the first fault; each part goes on with a harmless value.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ara_shards::base::pin;
use ara_shards::journal::Fsync;
use jsonwebtoken::Algorithm;

use super::address::{parse_address, parse_host, parse_network};
use super::error::Fault;
use super::jwt_key;
use super::keys::{self, Key};
use super::raw::Raw;
use crate::access::{self, KeyDigest, random_secret};
use crate::proxies::{ForwardedHeader, Proxies};
use crate::settings::{
    Api, Disk, Generated, Jwt, Log, LogFormat, RunMode, Server, Settings, Shards,
};
use crate::storage;

mod limits;
mod rate_limits;
mod redis;

/// The least bytes of an HMAC secret: the length of the shortest hash, as RFC 7518 asks.
const JWT_SECRET_BYTES_MIN: usize = 32;
/// The least bytes of an API key: 128 bits if it is random bytes, 64 if it is hex.
const API_KEY_BYTES_MIN: usize = 16;

struct Resolver<'a> {
    raw: &'a Raw,
    directory: &'a Path,
    mode: RunMode,
    generated: Generated,
    warnings: Vec<String>,
    faults: &'a mut Vec<Fault>,
}

/// Builds the settings. They may be used only if `faults` is still empty.
pub(super) fn resolve(raw: &Raw, directory: &Path, faults: &mut Vec<Fault>) -> Settings {
    let mode = match raw.text(&keys::RUN_MODE).as_deref() {
        Some("production") => RunMode::Production,
        _ => RunMode::Development,
    };
    let generated = Generated::default();
    let warnings = raw.warnings.clone();
    Resolver { raw, directory, mode, generated, warnings, faults }.run()
}

impl Resolver<'_> {
    fn run(mut self) -> Settings {
        let server = self.server();
        let api = self.api(server.address);
        let jwt = self.jwt();
        let redis = self.redis();
        let limits = self.limits();
        self.warn_of_cleanup_intervals();
        Settings {
            mode: self.mode,
            server,
            api,
            shards: Shards {
                count: self.size(&keys::SHARDS_COUNT),
                pin_to_cores: self.raw.switch(&keys::SHARDS_PIN),
                inbox_capacity: self.size(&keys::SHARDS_INBOX),
            },
            limits,
            disk: self.disk(),
            jwt,
            redis,
            rate_limits: self.rate_limits(),
            tenants_enabled: self.raw.switch(&keys::TENANT_ENABLED),
            log: Log {
                filter: self.raw.text(&keys::LOG_FILTER).unwrap_or_default(),
                format: match self.raw.text(&keys::LOG_FORMAT).as_deref() {
                    Some("json") => LogFormat::Json,
                    _ => LogFormat::Text,
                },
            },
            generated: self.generated,
            warnings: self.warnings,
        }
    }

    fn is_production(&self) -> bool {
        self.mode == RunMode::Production
    }

    /// Reports a fault, unless the key has been reported already.
    fn refuse(&mut self, key: &Key, problem: &str, fix: impl Into<String>) {
        if !self.raw.is_faulted(key) {
            self.faults.push(self.raw.fault(key, problem, fix.into()));
        }
    }

    fn size(&self, key: &Key) -> usize {
        usize::try_from(self.raw.whole(key)).unwrap_or(usize::MAX)
    }

    fn count(&self, key: &Key) -> u32 {
        u32::try_from(self.raw.whole(key)).unwrap_or(u32::MAX)
    }

    fn server(&mut self) -> Server {
        let host = self.raw.text(&keys::SERVER_HOST).and_then(|host| parse_host(&host));
        let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = u16::try_from(self.raw.whole(&keys::SERVER_PORT)).unwrap_or_default();
        let cors_origins = self.raw.list(&keys::CORS_ORIGINS);
        if self.is_production() {
            let fix =
                "set CORS_ORIGINS to the origins of your pages, as in https://app.example.org";
            if cors_origins.is_empty() {
                self.refuse(&keys::CORS_ORIGINS, "production needs at least one origin", fix);
            } else if cors_origins.iter().any(|origin| origin == "*") {
                let problem = "production refuses *, which lets every page of the web connect";
                self.refuse(&keys::CORS_ORIGINS, problem, fix);
            }
        } else if !host.is_loopback() {
            self.warnings.push(format!(
                "server.host is {host}, which others can reach, in development mode; \
                 set RUN_MODE=production for anything but a trial"
            ));
        }
        Server {
            address: SocketAddr::new(host, port),
            cors_origins,
            proxies: self.proxies(),
            connections_max: self.size(&keys::MAX_CONNECTIONS),
            send_buffer_bytes: self.size(&keys::SEND_BUFFER),
            shutdown_grace: self.raw.seconds(&keys::SHUTDOWN_GRACE),
            shutdown_delay: self.raw.seconds(&keys::SHUTDOWN_DELAY),
        }
    }

    fn proxies(&self) -> Proxies {
        let networks = self.raw.list(&keys::TRUSTED_PROXIES);
        Proxies {
            trusted: networks.iter().filter_map(|network| parse_network(network)).collect(),
            header: match self.raw.text(&keys::FORWARDED_HEADER).as_deref() {
                Some("forwarded") => ForwardedHeader::Forwarded,
                _ => ForwardedHeader::XForwardedFor,
            },
            speak_proxy_protocol: self.raw.switch(&keys::PROXY_PROTOCOL),
        }
    }

    fn api(&mut self, server: SocketAddr) -> Api {
        let listen = self.raw.text(&keys::API_LISTEN).and_then(|text| parse_address(&text));
        if let Some(listen) = listen
            && listen.port() != 0
            && listen.port() == server.port()
            && (listen.ip() == server.ip()
                || listen.ip().is_unspecified()
                || server.ip().is_unspecified())
        {
            let problem = format!("{listen} collides with the server's own address {server}");
            let fix = "choose another port, or leave api.listen out to share the server's address";
            self.refuse(&keys::API_LISTEN, &problem, fix);
        }
        let key = self.single_api_key();
        let keys = self.api_keys(key.as_deref());
        Api { key, keys, listen }
    }

    fn single_api_key(&mut self) -> Option<String> {
        let fix = "set API_KEY to at least 16 random bytes, as from: openssl rand -hex 32";
        match self.raw.text(&keys::API_KEY) {
            Some(key) if key.len() < API_KEY_BYTES_MIN => {
                let problem = format!("it is shorter than {API_KEY_BYTES_MIN} bytes");
                if self.is_production() {
                    self.refuse(&keys::API_KEY, &problem, fix);
                } else {
                    self.warnings.push(format!("api.key: {problem}; production would refuse it"));
                }
                Some(key)
            }
            Some(key) => Some(key),
            None if self.raw.has_api_keys => None,
            None if self.is_production() => {
                let fix = format!("{fix}; or add an entry of api.keys, as from: ara-gateway key");
                self.refuse(&keys::API_KEY, "production needs an API key", fix);
                None
            }
            None => {
                self.generated.api_key = true;
                Some(self.random(&keys::API_KEY))
            }
        }
    }

    fn api_keys(&mut self, single: Option<&str>) -> Vec<access::Key> {
        let single = single.map(|key| KeyDigest::of(key.as_bytes()));
        let tenants_enabled = self.raw.switch(&keys::TENANT_ENABLED);
        let now = SystemTime::now();
        for given in &self.raw.api_keys {
            let key = &given.key;
            if single.as_ref() == Some(&key.digest) {
                let fix = "remove the entry, or api.key: that one has every scope";
                self.faults.push(given.fault("sha256", "it is the digest of api.key too", fix));
            }
            if key.tenant.is_some() && !tenants_enabled {
                let problem = "tenants are off, and all traffic is of the tenant default";
                let fix = "set tenant.enabled = true, or remove the line";
                self.faults.push(given.fault("tenant", problem, fix));
            }
            if key.has_expired(now) {
                let (index, name) = (given.index, &key.name);
                self.warnings.push(format!("api.keys[{index}] ({name}) has expired"));
            }
        }
        self.raw.api_keys.iter().map(|given| given.key.clone()).collect()
    }

    fn jwt(&mut self) -> Jwt {
        let algorithm = self.raw.text(&keys::JWT_ALGORITHM).and_then(|name| name.parse().ok());
        let mut jwt = Jwt {
            algorithm: algorithm.unwrap_or(Algorithm::HS256),
            secret: self.raw.text(&keys::JWT_SECRET),
            previous_secret: self.raw.text(&keys::JWT_PREVIOUS_SECRET),
            public_key_pem: None,
            issuer: self.raw.text(&keys::JWT_ISSUER),
            audience: self.raw.text(&keys::JWT_AUDIENCE),
            leeway: Duration::from_secs(self.raw.whole(&keys::JWT_LEEWAY)),
            cookie: self.raw.text(&keys::JWT_COOKIE),
            expire_connections: self.raw.switch(&keys::JWT_EXPIRE_CONNECTIONS),
        };
        let key = self.raw.text(&keys::JWT_PUBLIC_KEY);
        let resolved = key.map(|value| jwt_key::resolve_pem(&value, self.directory)).transpose();
        let pem_is_readable = resolved.is_ok();
        match resolved {
            Ok(pem) => jwt.public_key_pem = pem,
            Err(problem) => {
                let fix = "set jwt.public_key (JWT_PUBLICKEY) to the issuer's public key";
                self.refuse(&keys::JWT_PUBLIC_KEY, &problem, fix);
            }
        }
        // Without a known algorithm there is nothing to check the keys against.
        if self.raw.is_faulted(&keys::JWT_ALGORITHM) {
            return jwt;
        }
        if jwt.is_hmac() {
            self.hmac_secret(&mut jwt);
            self.previous_secret(&jwt);
        } else if pem_is_readable {
            self.public_key(&jwt);
        }
        jwt
    }

    fn hmac_secret(&mut self, jwt: &mut Jwt) {
        let name = format!("{:?}", jwt.algorithm);
        let fix = "set JWT_SECRET to at least 32 random bytes, as from: openssl rand -hex 32";
        match &jwt.secret {
            Some(secret) => {
                self.check_secret_length(&keys::JWT_SECRET, secret, fix);
                if jwt.public_key_pem.is_some() {
                    self.warnings.push(format!("jwt.public_key is not used with {name}"));
                }
            }
            None if jwt.public_key_pem.is_some() => {
                let problem =
                    format!("{name} verifies with a secret, but only jwt.public_key is set");
                let fix = "set JWT_ALGORITHM to the algorithm of the public key, or set JWT_SECRET";
                self.refuse(&keys::JWT_ALGORITHM, &problem, fix);
            }
            None if self.is_production() => {
                self.refuse(&keys::JWT_SECRET, &format!("production needs it for {name}"), fix);
            }
            None => {
                self.generated.jwt_secret = true;
                jwt.secret = Some(self.random(&keys::JWT_SECRET));
            }
        }
    }

    fn previous_secret(&mut self, jwt: &Jwt) {
        let Some(previous) = &jwt.previous_secret else { return };
        let fix = "set JWT_PREVIOUS_SECRET to what JWT_SECRET was, or leave it out";
        self.check_secret_length(&keys::JWT_PREVIOUS_SECRET, previous, fix);
        if jwt.secret.as_ref() == Some(previous) {
            self.warnings.push("jwt.previous_secret is jwt.secret: it has no effect".to_owned());
        }
    }

    fn check_secret_length(&mut self, key: &Key, secret: &str, fix: &str) {
        if secret.len() >= JWT_SECRET_BYTES_MIN {
            return;
        }
        let problem = format!("it is shorter than {JWT_SECRET_BYTES_MIN} bytes");
        if self.is_production() {
            self.refuse(key, &problem, fix);
        } else {
            let name = key.name;
            self.warnings.push(format!("{name}: {problem}; production would refuse it"));
        }
    }

    fn public_key(&mut self, jwt: &Jwt) {
        for (key, secret) in
            [(&keys::JWT_SECRET, &jwt.secret), (&keys::JWT_PREVIOUS_SECRET, &jwt.previous_secret)]
        {
            if secret.is_some() {
                self.warnings.push(format!("{} is not used with {:?}", key.name, jwt.algorithm));
            }
        }
        if let Err(fault) = jwt_key::decoding_key(jwt) {
            self.refuse(&keys::JWT_PUBLIC_KEY, &fault.problem, fault.fix);
        }
    }

    /// The path in full, so that it means the same to a reader who does not know the working
    /// directory.
    fn absolute(&self, path: &str) -> PathBuf {
        let path = self.directory.join(path);
        // It fails only where there is no working directory any more.
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Other gateways clean up at an interval, so operators set one. Here everything ends at its
    /// own time, and whoever sets an interval is told what to set instead.
    fn warn_of_cleanup_intervals(&mut self) {
        let ends = "queue.message_ttl_seconds and queue.dead_letter_ttl_seconds";
        for (key, instead) in
            [(&keys::QUEUE_CLEANUP, ends), (&keys::ACK_CLEANUP, "ack.timeout_seconds")]
        {
            if self.raw.given(key).is_some() {
                self.warnings.push(format!(
                    "{} has no effect: nothing waits for a cleanup, each ends within a tenth of a \
                     second of its time; leave it out, and set {instead} to say when that is",
                    key.name
                ));
            }
        }
    }

    fn disk(&mut self) -> Option<Disk> {
        let wanted = self.raw.text(&keys::QUEUE_BACKEND).as_deref() == Some("disk");
        let enabled = self.raw.switch(&keys::QUEUE_ENABLED);
        if wanted && !enabled {
            self.warnings.push("queue.backend is not used: queue.enabled is false".to_owned());
        }
        let interval = Duration::from_millis(self.raw.whole(&keys::QUEUE_FSYNC_INTERVAL));
        if !(wanted && enabled) {
            return None;
        }
        let bytes_max = self.raw.whole(&keys::QUEUE_MAX_DISK);
        let shards = pin::shard_count(self.size(&keys::SHARDS_COUNT), pin::allowed_cores().len());
        if let Err(problem) = storage::share(bytes_max, shards) {
            self.refuse(&keys::QUEUE_MAX_DISK, &problem, storage::ENLARGE);
        }
        Some(Disk {
            path: self.absolute(&self.raw.text(&keys::QUEUE_PATH).unwrap_or_default()),
            fsync: match self.raw.text(&keys::QUEUE_FSYNC).as_deref() {
                Some("interval") => Fsync::Interval(interval),
                Some("never") => Fsync::Never,
                _ => Fsync::Always,
            },
            bytes_max,
        })
    }

    /// 256 random bits in hex.
    fn random(&mut self, key: &Key) -> String {
        random_secret().unwrap_or_else(|| {
            self.refuse(key, "the system gave no random bytes to make one up", "set it");
            String::new()
        })
    }
}
