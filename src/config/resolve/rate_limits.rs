//! The settings of `ratelimit.*`.
//!
//! **Runs on**: main. **Owns**: nothing. **Never**: limits anything while `ratelimit.enabled` is false.

use std::time::Duration;

use ara_shards::base::token_bucket::Rate;

use super::Resolver;
use crate::config::keys::{self, Key};
use crate::settings::RateLimits;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

impl Resolver<'_> {
    pub(super) fn rate_limits(&self) -> RateLimits {
        let burst = self.count(&keys::RATELIMIT_HTTP_BURST);
        RateLimits {
            enabled: self.raw.switch(&keys::RATELIMIT_ENABLED),
            http_requests: self.rate(&keys::RATELIMIT_HTTP, SECOND, Some(burst)),
            connections: self.rate(&keys::RATELIMIT_CONNECTIONS, MINUTE, None),
            auth_failures: self.rate(&keys::RATELIMIT_AUTH_FAILURES, MINUTE, None),
            cleanup_interval: self.raw.seconds(&keys::RATELIMIT_CLEANUP),
        }
    }

    pub(super) fn message_rate(&self) -> Option<Rate> {
        self.rate(&keys::RATELIMIT_MESSAGES, SECOND, None)
    }

    /// As many in each period as the key says, and this many at once, or else as many; `None` where that
    /// is unlimited, or all limits are off.
    fn rate(&self, key: &Key, period: Duration, burst: Option<u32>) -> Option<Rate> {
        let count = self.count(key);
        let is_limited = self.raw.switch(&keys::RATELIMIT_ENABLED) && count > 0;
        // A burst that was refused reads as zero; these settings are thrown away then.
        is_limited.then(|| Rate::new(count, period, burst.unwrap_or(count).max(1)))
    }
}
