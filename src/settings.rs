//! The settings the program runs on: checked, in final units, with no value left to interpret.
//!
//! **Runs on**: built once by main, then shared read-only by every thread.
//! **Owns**: nothing that changes. **Never**: parses text (that is `raw`), nor prints a secret.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ara_shards::Limits;
use ara_shards::base::token_bucket::Rate;
use ara_shards::journal::Fsync;

use crate::access::Key;
use crate::proxies::Proxies;

/// The whole configuration, after every check has passed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Development (loopback, random secrets, printed help) or production (nothing implied).
    pub mode: RunMode,
    /// The client listener and what it admits.
    pub server: Server,
    /// The API's keys and its own address, if it has one.
    pub api: Api,
    /// How many shards there are and where they run.
    pub shards: Shards,
    /// The engine's limits, as the shards take them.
    pub limits: Limits,
    /// The disk backend of the queue; `None` = memory, or no queue.
    pub disk: Option<Disk>,
    /// How client tokens are verified and, in development, signed.
    pub jwt: Jwt,
    /// The Redis trigger source; `None` where no URL was configured.
    pub redis: Option<Redis>,
    /// How often somebody may do something.
    pub rate_limits: RateLimits,
    /// Whether tenants are kept apart by claim and header, or all traffic is of `default`.
    pub tenants_enabled: bool,
    /// What is logged and how.
    pub log: Log,
    /// Which secrets were made up for this run.
    pub generated: Generated,
    /// Warnings about settings that are allowed but probably a mistake, for the log.
    pub warnings: Vec<String>,
}

/// Which secrets were not configured, so that they were made up and are valid for this run only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generated {
    /// [`Jwt::secret`].
    pub jwt_secret: bool,
    /// [`Api::key`].
    pub api_key: bool,
}

/// Development or production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Missing secrets are made up for this run; a ready-to-paste block is printed.
    Development,
    /// Every secret and origin must be configured.
    Production,
}

/// The client listener.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where clients (and, without `api.listen`, API callers) connect.
    pub address: SocketAddr,
    /// Allowed `Origin` values, lower case, without trailing slash; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Whose word on clients' addresses is taken.
    pub proxies: Proxies,
    /// The most client connections; 0 = what the process's file limit allows.
    pub connections_max: usize,
    /// `SO_SNDBUF` of client sockets, in bytes; 0 = the kernel's choice.
    pub send_buffer_bytes: usize,
    /// The bound on a graceful stop.
    pub shutdown_grace: Duration,
    /// How long all goes on after a signal while readiness is off.
    pub shutdown_delay: Duration,
}

/// The HTTP API.
#[derive(Clone)]
pub struct Api {
    /// The key that may do everything; `None` where only `keys` are configured.
    pub key: Option<String>,
    /// Keys with scopes of their own.
    pub keys: Vec<Key>,
    /// An address of its own for the API; `None` = the client listener only.
    pub listen: Option<SocketAddr>,
}

/// The shards.
#[derive(Debug, Clone)]
pub struct Shards {
    /// How many; 0 = one per allowed core, one core kept for the router when there are more than 2.
    pub count: usize,
    /// Whether each shard is pinned to a core of its own.
    pub pin_to_cores: bool,
    /// Room in each lane of a shard's inbox, in messages.
    pub inbox_capacity: usize,
}

/// The disk store of queued messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The directory.
    pub path: PathBuf,
    /// When a written message counts as stored.
    pub fsync: Fsync,
    /// The most bytes in the directory, over all shards.
    pub bytes_max: u64,
}

/// Token verification.
#[derive(Clone)]
pub struct Jwt {
    /// The one algorithm accepted.
    pub algorithm: jsonwebtoken::Algorithm,
    /// The HMAC secret, for HS256/384/512.
    pub secret: Option<String>,
    /// The HMAC secret of before, whose tokens are still taken.
    pub previous_secret: Option<String>,
    /// The public key in PEM form, for RS/PS/ES/EdDSA.
    pub public_key_pem: Option<String>,
    /// The `iss` a token must carry, if configured.
    pub issuer: Option<String>,
    /// The `aud` a token must carry, if configured.
    pub audience: Option<String>,
    /// Clock skew allowed on `exp` and `nbf`.
    pub leeway: Duration,
    /// Whether a connection ends with its token.
    pub expire_connections: bool,
    /// The cookie that may hold a token.
    pub cookie: Option<String>,
}

/// The Redis trigger source.
#[derive(Clone)]
pub struct Redis {
    /// `redis://` or `rediss://`, with user, password and database number where needed.
    pub url: String,
    /// The certificates of `rediss://`.
    pub tls: RedisTls,
    /// Consecutive failures that open the circuit breaker.
    pub breaker_failure_threshold: u32,
    /// Consecutive successes that close it again.
    pub breaker_success_threshold: u32,
    /// How long an open breaker waits before it tries again.
    pub breaker_reset_timeout: Duration,
    /// The first reconnection delay.
    pub backoff_initial: Duration,
    /// The largest reconnection delay.
    pub backoff_max: Duration,
}

/// The certificate files of TLS to Redis, as absolute paths. They are read anew after a failure.
#[derive(Debug, Clone, Default)]
pub struct RedisTls {
    /// The trusted certificates; `None` = the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate, for a server that asks for one.
    pub client: Option<ClientCertificate>,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, followed by the intermediate ones up to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How often somebody may do something, but for messages of clients, which are the shards'
/// ([`Limits::messages`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Whether there are any.
    pub enabled: bool,
    /// Requests of an API key, or of an address without one; `None` = unlimited.
    pub http_requests: Option<Rate>,
    /// New connections from an address; `None` = unlimited.
    pub connections: Option<Rate>,
    /// Tokens from an address that are no good, and API keys likewise; `None` = unlimited.
    pub auth_failures: Option<Rate>,
    /// The time between two looks for buckets that are not needed any more.
    pub cleanup_interval: Duration,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// An `EnvFilter` directive list.
    pub filter: String,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

impl Jwt {
    /// Whether tokens are signed with a shared secret, rather than with a private key.
    pub fn is_hmac(&self) -> bool {
        use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
        matches!(self.algorithm, HS256 | HS384 | HS512)
    }
}

macro_rules! redacted_debug {
    ($($type:ident),*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(concat!(stringify!($type), " { redacted }"))
            }
        }
    )*};
}
redacted_debug!(Api, Jwt, Redis);
