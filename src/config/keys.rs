//! The table of all settings: every key with its names, default, form and line of documentation.
//!
//! **Runs on**: main, before anything is started. **Owns**: constants.
//! **Never**: reads a value; the layers (`raw`), the nearest name, `check-config`, `config.toml`
//! and the documentation's table are all derived from here, so a new key is one entry.

use super::form::Form;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// The dotted TOML name.
    pub name: &'static str,
    /// The environment name.
    pub env: &'static str,
    /// The default as TOML text; empty = there is none.
    pub default: &'static str,
    /// What a value must look like.
    pub form: Form,
    /// Whether a value may be shown.
    pub exposure: Exposure,
    /// When a change takes effect.
    pub reload: Reload,
    /// What the setting does, in one line.
    pub doc: &'static str,
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// By SIGHUP: whoever holds the value is given the new one (`boot::owners`).
    Live,
    /// When the gateway is started again.
    Restart,
}

/// Whether a key's value may be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// May be shown.
    Open,
    /// Never shown, in whole or in part.
    Secret,
    /// A URL: shown with its credentials masked, and never quoted in a fault.
    Url,
    /// May be shown once accepted, but a wrong value may be a secret pasted by mistake.
    OpenOnceValid,
}

impl Key {
    /// The section the key stands in, or `""` for a key at the top of the file.
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The name inside its section.
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, leaf)| leaf)
    }
}

macro_rules! keys {
    (@reload) => { Reload::Restart };
    (@reload $reload:ident) => { Reload::$reload };
    // A row without a word behind its exposure changes by a restart.
    ($($id:ident: $name:literal, $env:literal, $default:literal, $form:expr, $exposure:ident,
       $($reload:ident,)? $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub static $id: Key = Key {
                name: $name,
                env: $env,
                default: $default,
                form: $form,
                exposure: Exposure::$exposure,
                reload: keys!(@reload $($reload)?),
                doc: $doc,
            };
        )*

        /// Every key of this version, in the order they are written out.
        pub static KEYS: &[&Key] = &[$(&$id),*];
    };
}

const fn whole(min: u64, max: u64) -> Form {
    Form::Whole { min, max, zero: "" }
}

const fn whole_or_zero(min: u64, max: u64, zero: &'static str) -> Form {
    Form::Whole { min, max, zero }
}

const fn seconds(min: f64, max: f64, zero: &'static str) -> Form {
    Form::Seconds { min, max, zero }
}

const MIB: u64 = 1024 * 1024;

keys! {
    RUN_MODE: "run_mode", "RUN_MODE", "\"development\"",
        Form::Choice(&["development", "production"]), Open,
        "development makes up missing secrets for the run; production refuses to start without them";

    SERVER_HOST: "server.host", "SERVER_HOST", "\"127.0.0.1\"", Form::Host, Open,
        "the address clients connect to";
    SERVER_PORT: "server.port", "SERVER_PORT", "8081",
        whole_or_zero(1, 65_535, "any free port"), Open,
        "the port clients connect to";
    CORS_ORIGINS: "server.cors_origins", "CORS_ORIGINS", "[]", Form::Origins, Open, Live,
        "the origins whose pages may connect; * allows all, in development only";
    MAX_CONNECTIONS: "server.max_connections", "WEBSOCKET_MAX_CONNECTIONS", "0",
        whole_or_zero(1, 16_777_216, "what the process's file limit allows"), Open, Live,
        "the most client connections";
    MAX_CONNECTIONS_PER_USER: "server.max_connections_per_user",
        "WEBSOCKET_MAX_CONNECTIONS_PER_USER", "5",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "the most connections of one user";
    PER_USER_POLICY: "server.connections_per_user_policy", "SERVER_CONNECTIONS_PER_USER_POLICY",
        "\"refuse\"", Form::Choice(&["refuse", "newest_wins"]), Open, Live,
        "with as many connections as a user may have: refuse the newest, or close the oldest (4409) and take it";
    MAX_SUBSCRIPTIONS: "server.max_subscriptions_per_connection",
        "WEBSOCKET_MAX_SUBSCRIPTIONS_PER_CONNECTION", "50",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "the most channels one connection may subscribe to";
    TRUSTED_PROXIES: "server.trusted_proxies", "SERVER_TRUSTED_PROXIES", "[]", Form::Networks, Open, Live,
        "the networks of proxies whose word on a client's address is taken; without one the socket's address counts";
    FORWARDED_HEADER: "server.forwarded_header", "SERVER_FORWARDED_HEADER", "\"x-forwarded-for\"",
        Form::Choice(&["x-forwarded-for", "forwarded"]), Open, Live,
        "the header in which trusted proxies say it; they must set or add to this one in every request";
    PROXY_PROTOCOL: "server.proxy_protocol", "SERVER_PROXY_PROTOCOL", "false", Form::Switch, Open, Live,
        "whether connections of trusted proxies, or all if none is named, must begin with a PROXY protocol header";
    // 4 KiB is about the least Linux grants; above 16 MiB net.core.wmem_max is the limit anyway.
    SEND_BUFFER: "server.send_buffer_bytes", "SERVER_SEND_BUFFER_BYTES", "32768",
        whole_or_zero(4096, 16 * MIB, "the kernel's choice"), Open,
        "the kernel's send buffer of each client socket (SO_SNDBUF)";
    SHUTDOWN_GRACE: "server.shutdown_grace_seconds", "SERVER_SHUTDOWN_GRACE_SECONDS", "10",
        seconds(0.1, 3600.0, "stop at once"), Open,
        "how long a graceful stop may take";
    SHUTDOWN_DELAY: "server.shutdown_delay_seconds", "SERVER_SHUTDOWN_DELAY_SECONDS", "0",
        seconds(0.1, 3600.0, "stop without waiting"), Open,
        "how long clients and triggers are still taken after SIGTERM while readiness is 503, so that balancers turn away first";

    API_KEY: "api.key", "API_KEY", "", Form::HeaderText, Secret, Live,
        "a key for API callers, sent in X-API-Key, with every scope: 16 bytes in production; development makes one up";
    API_LISTEN: "api.listen", "API_LISTEN", "", Form::Address, Open,
        "an address of its own for the API, /metrics and /stats; without it they share the server's";

    SHARDS_COUNT: "shards.count", "SHARDS_COUNT", "0",
        whole_or_zero(1, 256, "one per allowed core, one core kept for the router when there are more than 2"),
        Open, "how many shards there are";
    SHARDS_PIN: "shards.pin_to_cores", "SHARDS_PIN_TO_CORES", "true", Form::Switch, Open,
        "whether each shard is pinned to a core of its own";
    SHARDS_INBOX: "shards.inbox_capacity", "SHARDS_INBOX_CAPACITY", "8192",
        whole(16, 1_048_576), Open,
        "room in each lane of a shard's inbox, in messages";
    SHARDS_OUTBOX: "shards.outbox_bytes_per_connection", "SHARDS_OUTBOX_BYTES_PER_CONNECTION",
        "262144", whole(4096, 64 * MIB), Open, Live,
        "the most bytes waiting for one connection before it counts as a slow consumer";

    HEARTBEAT: "websocket.heartbeat_interval", "WEBSOCKET_HEARTBEAT_INTERVAL", "30",
        seconds(0.05, 3600.0, "no heartbeats"), Open,
        "time between heartbeats, in seconds; each is jittered by 20 % either way";
    CONNECTION_TIMEOUT: "websocket.connection_timeout", "WEBSOCKET_CONNECTION_TIMEOUT", "120",
        seconds(0.05, 86_400.0, "never"), Open,
        "a client that leaves a ping unanswered for so many seconds is disconnected; one that says \
         nothing for so long is pinged, if no heartbeat was due";
    MAX_MESSAGE: "websocket.max_message_bytes", "WEBSOCKET_MAX_MESSAGE_BYTES", "65536",
        whole(128, 16 * MIB), Open, Live,
        "the largest message a client may send, over all its fragments";

    JWT_SECRET: "jwt.secret", "JWT_SECRET", "", Form::Text, Secret, Live,
        "the secret of HS256, HS384 and HS512; production needs 32 bytes, development makes one up";
    JWT_PREVIOUS_SECRET: "jwt.previous_secret", "JWT_PREVIOUS_SECRET", "", Form::Text, Secret, Live,
        "the secret of before: while it is set, tokens signed with it are taken too, so that a change of jwt.secret cuts nobody off";
    JWT_ALGORITHM: "jwt.algorithm", "JWT_ALGORITHM", "\"HS256\"",
        Form::Choice(&["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "ES256",
            "ES384", "EdDSA"]), Open, Live,
        "the one algorithm client tokens are signed with";
    JWT_PUBLIC_KEY: "jwt.public_key", "JWT_PUBLICKEY", "", Form::Pem, OpenOnceValid, Live,
        "the public key of all other algorithms: PEM text, or the path of a PEM file";
    JWT_ISSUER: "jwt.issuer", "JWT_ISSUER", "", Form::Line, Open, Live,
        "the iss every token must carry; without it iss is not looked at";
    JWT_AUDIENCE: "jwt.audience", "JWT_AUDIENCE", "", Form::Line, Open, Live,
        "the aud every token must carry; without it aud is not looked at";
    JWT_LEEWAY: "jwt.leeway_seconds", "JWT_LEEWAY_SECONDS", "5", whole(0, 3600), Open, Live,
        "clock skew allowed on exp and nbf";
    JWT_COOKIE: "jwt.cookie", "JWT_COOKIE", "", Form::CookieName, Open, Live,
        "the cookie that may hold a client's token, for pages of listed origins; without it no cookie is looked at";
    JWT_EXPIRE_CONNECTIONS: "jwt.expire_connections", "JWT_EXPIRE_CONNECTIONS", "true", Form::Switch, Open, Live,
        "whether a connection is closed (4401) when its token has expired and no Refresh has brought another";

    REDIS_URL: "redis.url", "REDIS_URL", "", Form::RedisUrl, Url,
        "the Redis server triggers are read from; without it Redis is off";
    REDIS_TLS_CA: "redis.tls_ca", "REDIS_TLS_CA", "", Form::File, Open,
        "whom to trust with rediss://: an authority's certificate or the server's own; else the system's";
    REDIS_TLS_CERT: "redis.tls_cert", "REDIS_TLS_CERT", "", Form::File, Open,
        "the gateway's own certificate for rediss://, which Redis asks for by default";
    REDIS_TLS_KEY: "redis.tls_key", "REDIS_TLS_KEY", "", Form::File, OpenOnceValid,
        "the private key of redis.tls_cert";
    BREAKER_FAILURES: "redis.circuit_breaker_failure_threshold",
        "REDIS_CIRCUIT_BREAKER_FAILURE_THRESHOLD", "5", whole(1, 10_000), Open,
        "consecutive failures that open the circuit breaker";
    BREAKER_SUCCESSES: "redis.circuit_breaker_success_threshold",
        "REDIS_CIRCUIT_BREAKER_SUCCESS_THRESHOLD", "2", whole(1, 10_000), Open,
        "consecutive successes that close it again";
    BREAKER_RESET: "redis.circuit_breaker_reset_timeout_seconds",
        "REDIS_CIRCUIT_BREAKER_RESET_TIMEOUT_SECONDS", "30", seconds(0.05, 3600.0, ""), Open,
        "how long an open breaker waits before it tries again";
    BACKOFF_INITIAL: "redis.backoff_initial_delay_ms", "REDIS_BACKOFF_INITIAL_DELAY_MS", "100",
        whole(1, 3_600_000), Open,
        "the first reconnection delay, in milliseconds";
    BACKOFF_MAX: "redis.backoff_max_delay_ms", "REDIS_BACKOFF_MAX_DELAY_MS", "30000",
        whole(1, 3_600_000), Open,
        "the largest reconnection delay, in milliseconds";

    TENANT_ENABLED: "tenant.enabled", "TENANT_ENABLED", "false", Form::Switch, Open,
        "whether tenants are kept apart by the tenant_id claim and the X-Tenant-ID header";

    TENANT_MAX_CONNECTIONS: "tenant.default_limits.max_connections",
        "TENANT_DEFAULT_LIMITS_MAX_CONNECTIONS", "1000",
        whole_or_zero(1, 16_777_216, "unlimited"), Open, Live,
        "with tenants on, the most connections of a tenant; server.max_connections holds for all of them together";
    TENANT_MAX_CONNECTIONS_PER_USER: "tenant.default_limits.max_connections_per_user",
        "TENANT_DEFAULT_LIMITS_MAX_CONNECTIONS_PER_USER", "5",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "with tenants on, the most connections of one user, instead of server.max_connections_per_user";
    TENANT_MAX_SUBSCRIPTIONS: "tenant.default_limits.max_subscriptions_per_connection",
        "TENANT_DEFAULT_LIMITS_MAX_SUBSCRIPTIONS_PER_CONNECTION", "50",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "with tenants on, the most channels one connection may subscribe to, instead of server.max_subscriptions_per_connection";
    TENANT_MAX_QUEUED: "tenant.default_limits.max_queued",
        "TENANT_DEFAULT_LIMITS_MAX_QUEUED", "0",
        whole_or_zero(1, 1_000_000_000, "unlimited"), Open, Live,
        "with tenants on, the most notifications that wait for the users of a tenant";

    QUEUE_ENABLED: "queue.enabled", "QUEUE_ENABLED", "false", Form::Switch, Open,
        "whether notifications to users who are away wait for them";
    QUEUE_BACKEND: "queue.backend", "QUEUE_BACKEND", "\"memory\"", Form::Choice(&["memory", "disk"]), Open,
        "where they wait: memory forgets them with the process, disk keeps them in queue.path";
    QUEUE_PATH: "queue.path", "QUEUE_PATH", "\"./data\"", Form::Line, Open,
        "the directory of the disk backend, from the working directory on; made if it is missing";
    QUEUE_FSYNC: "queue.fsync", "QUEUE_FSYNC", "\"always\"",
        Form::Choice(&["always", "interval", "never"]), Open,
        "when queued: true is said: after a sync (always), or once written, synced at an interval or never";
    QUEUE_FSYNC_INTERVAL: "queue.fsync_interval_ms", "QUEUE_FSYNC_INTERVAL_MS", "1000",
        whole(1, 3_600_000), Open,
        "the longest time between two syncs with queue.fsync = \"interval\", in milliseconds";
    QUEUE_MAX_DISK: "queue.max_disk_bytes", "QUEUE_MAX_DISK_BYTES", "1073741824",
        whole(4 * MIB, 1 << 50), Open,
        "the most the disk backend keeps in queue.path, over all shards; beyond it nothing new is queued";
    QUEUE_MAX_SIZE: "queue.max_size_per_user", "QUEUE_MAX_SIZE_PER_USER", "100",
        whole_or_zero(1, 1_000_000, "unlimited"), Open,
        "the most that wait for one user; then the least urgent gives way, the oldest among equals";
    QUEUE_TTL: "queue.message_ttl_seconds", "QUEUE_MESSAGE_TTL_SECONDS", "3600",
        seconds(0.1, 31_536_000.0, ""), Open,
        "how long one waits at most; its own ttl may be shorter";
    QUEUE_DEAD_LETTER_TTL: "queue.dead_letter_ttl_seconds", "QUEUE_DEAD_LETTER_TTL_SECONDS", "604800",
        seconds(0.1, 31_536_000.0, "unlimited"), Open,
        "how long a dead letter is kept to be looked at; a later change is for those to come";
    QUEUE_CLEANUP: "queue.cleanup_interval_seconds", "QUEUE_CLEANUP_INTERVAL_SECONDS", "300",
        seconds(0.1, 86_400.0, ""), Open,
        "without effect, and warned of: what expires leaves at its own time, see queue.message_ttl_seconds";

    ACK_ENABLED: "ack.enabled", "ACK_ENABLED", "false", Form::Switch, Open,
        "whether clients acknowledge notifications to their user";
    ACK_TIMEOUT: "ack.timeout_seconds", "ACK_TIMEOUT_SECONDS", "30",
        seconds(0.1, 86_400.0, ""), Open,
        "how long a client may take to acknowledge";
    ACK_CLEANUP: "ack.cleanup_interval_seconds", "ACK_CLEANUP_INTERVAL_SECONDS", "60",
        seconds(0.1, 86_400.0, ""), Open,
        "without effect, and warned of: what is overdue is found at its own time, see ack.timeout_seconds";
    ACK_UNACKED: "ack.unacked", "ACK_UNACKED", "", Form::Choice(&["requeue", "expire"]), Open,
        "what becomes of the unacknowledged: requeue (the default with the queue on) or expire";
    ACK_MAX_ATTEMPTS: "ack.max_attempts", "ACK_MAX_ATTEMPTS", "5", whole(1, 255), Open,
        "how often one is sent before it becomes a dead letter";

    RATELIMIT_ENABLED: "ratelimit.enabled", "RATELIMIT_ENABLED", "false", Form::Switch, Open, Live,
        "whether there are limits on how often somebody may do something";
    RATELIMIT_HTTP: "ratelimit.http_requests_per_second", "RATELIMIT_HTTP_REQUESTS_PER_SECOND", "100",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "requests a second of an API key, or of an address without one";
    RATELIMIT_HTTP_BURST: "ratelimit.http_burst_size", "RATELIMIT_HTTP_BURST_SIZE", "200",
        whole(1, 10_000_000), Open, Live,
        "how many of them may come at once";
    RATELIMIT_CONNECTIONS: "ratelimit.ws_connections_per_minute", "RATELIMIT_WS_CONNECTIONS_PER_MINUTE", "10",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "new connections a minute from an address, over WebSocket and SSE; as many may come at once";
    RATELIMIT_MESSAGES: "ratelimit.ws_messages_per_second", "RATELIMIT_WS_MESSAGES_PER_SECOND", "50",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "messages a second from a client, an Ack that settles something not counted; as many may come at once";
    RATELIMIT_AUTH_FAILURES: "ratelimit.auth_failures_per_minute", "RATELIMIT_AUTH_FAILURES_PER_MINUTE", "30",
        whole_or_zero(1, 1_000_000, "unlimited"), Open, Live,
        "tokens a minute from an address that are not valid, and API keys likewise; beyond it none is looked at";
    RATELIMIT_CLEANUP: "ratelimit.cleanup_interval_seconds", "RATELIMIT_CLEANUP_INTERVAL_SECONDS", "60",
        seconds(0.1, 86_400.0, ""), Open, Live,
        "how often what is kept of those who have not come for a while is thrown away";

    LOG_FILTER: "log.filter", "RUST_LOG", "\"info\"", Form::LogFilter, Open, Live,
        "what is logged: a level, or a comma list of target=level";
    LOG_FORMAT: "log.format", "RUST_LOG_FORMAT", "\"text\"",
        Form::Choice(&["text", "json"]), Open,
        "text for people, json for machines";
}

/// Names the environment may use for the path of the configuration file.
pub const CONFIG_PATH_ENV: &str = "ARA_CONFIG";

/// A key or a whole section that is planned but not available in this version.
#[derive(Debug)]
pub struct Later {
    /// A key, or a section with every key in it.
    pub name: &'static str,
    /// Its environment names.
    pub env: &'static [&'static str],
}

/// Keys that are refused as not available, rather than as unknown: whoever sets one believes that
/// the feature is on, so ignoring it would be worse than not starting.
pub static LATER: &[Later] = &[
    Later { name: "server.tls_cert", env: &["SERVER_TLS_CERT"] },
    Later { name: "server.tls_key", env: &["SERVER_TLS_KEY"] },
    Later { name: "websocket.compression", env: &["WEBSOCKET_COMPRESSION"] },
    Later { name: "jwt.jwks", env: &["JWT_JWKS"] },
    Later { name: "redis.sentinel", env: &["REDIS_SENTINEL"] },
    Later { name: "redis.cluster", env: &["REDIS_CLUSTER"] },
    // OTEL_SERVICE_NAME is not in the list on purpose: platforms set it on every container they
    // run.
    Later { name: "otel", env: &["OTEL_ENABLED", "OTEL_ENDPOINT", "OTEL_SAMPLING_RATIO"] },
    Later {
        name: "cluster",
        env: &["CLUSTER_ENABLED", "CLUSTER_SERVER_ID", "CLUSTER_PRESENCE_TTL_SECONDS"],
    },
];

/// The key of exactly this name.
pub fn by_name(name: &str) -> Option<&'static Key> {
    KEYS.iter().copied().find(|key| key.name == name)
}

/// Whether a key stands in the section of this name.
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section() == name)
}

/// The entry of [`LATER`] that covers a dotted name.
pub fn later(name: &str) -> Option<&'static Later> {
    LATER.iter().find(|later| {
        name.strip_prefix(later.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_default_is_valid() {
        for (index, key) in KEYS.iter().enumerate() {
            for other in KEYS.iter().skip(index + 1) {
                assert!(key.name != other.name && key.env != other.env, "{} twice", key.name);
            }
            assert!(later(key.name).is_none(), "{} is available and is not", key.name);
            assert!(LATER.iter().all(|later| !later.env.contains(&key.env)), "{}", key.env);
            assert!(!key.doc.is_empty());
            if !key.default.is_empty() {
                assert!(key.form.default_value(key.default).is_some(), "default of {}", key.name);
            }
        }
    }

    #[test]
    fn keys_of_a_section_stand_together() {
        let mut seen: Vec<&str> = Vec::new();
        for key in KEYS {
            if seen.last() != Some(&key.section()) {
                assert!(!seen.contains(&key.section()), "[{}] is split", key.section());
                seen.push(key.section());
            }
        }
        assert_eq!(seen.first(), Some(&""), "keys without a section must come first in TOML");
    }
}
