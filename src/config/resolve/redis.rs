//! The settings of the Redis trigger source, checked by the code that will use them.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing.
//! **Never**: accepts a setting with which the subscriber could never connect.

use std::time::Duration;

use super::Resolver;
use crate::config::keys;
use crate::redis::is_tls;
use crate::redis::tls::{self, Setting};
use crate::settings::{ClientCertificate, Redis, RedisTls};

impl Resolver<'_> {
    pub(super) fn redis(&mut self) -> Option<Redis> {
        let backoff_initial = Duration::from_millis(self.raw.whole(&keys::BACKOFF_INITIAL));
        let backoff_max = Duration::from_millis(self.raw.whole(&keys::BACKOFF_MAX));
        if backoff_initial > backoff_max && !self.raw.is_faulted(&keys::BACKOFF_INITIAL) {
            let problem = format!(
                "{} ms is less than redis.backoff_initial_delay_ms, {} ms",
                backoff_max.as_millis(),
                backoff_initial.as_millis()
            );
            self.refuse(&keys::BACKOFF_MAX, &problem, "make it at least as large");
        }
        let url = self.raw.text(&keys::REDIS_URL);
        let tls = self.redis_tls(url.as_deref());
        Some(Redis {
            url: url?,
            tls,
            breaker_failure_threshold: self.count(&keys::BREAKER_FAILURES),
            breaker_success_threshold: self.count(&keys::BREAKER_SUCCESSES),
            breaker_reset_timeout: self.raw.seconds(&keys::BREAKER_RESET),
            backoff_initial,
            backoff_max,
        })
    }

    /// The certificate files, read here by the code that will use them.
    fn redis_tls(&mut self, url: Option<&str>) -> RedisTls {
        let file = |key| self.raw.text(key).map(|path| self.absolute(&path));
        let ca = file(&keys::REDIS_TLS_CA);
        let (cert, key) = (file(&keys::REDIS_TLS_CERT), file(&keys::REDIS_TLS_KEY));
        match (&cert, &key) {
            (Some(_), None) if self.raw.given(&keys::REDIS_TLS_KEY).is_none() => {
                let fix = "set redis.tls_key (REDIS_TLS_KEY) to the file of its private key";
                self.refuse(&keys::REDIS_TLS_CERT, "it has no key", fix);
            }
            (None, Some(_)) if self.raw.given(&keys::REDIS_TLS_CERT).is_none() => {
                let fix = "set redis.tls_cert (REDIS_TLS_CERT) to the file of its certificate";
                self.refuse(&keys::REDIS_TLS_KEY, "there is no certificate to it", fix);
            }
            _ => {}
        }
        let is_given = ca.is_some() || cert.is_some() || key.is_some();
        let client = cert.zip(key).map(|(cert, key)| ClientCertificate { cert, key });
        let files = RedisTls { ca, client };
        if url.is_some_and(is_tls) {
            if let Err(unusable) = tls::client_config(&files) {
                let key = match unusable.setting {
                    Setting::Authority => &keys::REDIS_TLS_CA,
                    Setting::Certificate => &keys::REDIS_TLS_CERT,
                    Setting::Key => &keys::REDIS_TLS_KEY,
                    Setting::System => &keys::REDIS_URL,
                };
                let fix = "name a PEM file that the gateway's user can read";
                self.refuse(key, &unusable.problem, fix);
            }
        } else if is_given && !self.raw.is_faulted(&keys::REDIS_URL) {
            let what = "redis.tls_ca, redis.tls_cert and redis.tls_key are not used: redis.url is \
                        not a rediss:// URL";
            self.warnings.push(what.to_owned());
        }
        files
    }
}
