//! How often somebody may do something: requests, new connections, attempts that fail.
//!
//! **Runs on**: the router, the one owner of every bucket, so that limits are exact; of
//! [`BlockedAddresses`] doors read a copy. **Owns**: the buckets. **Never**: costs anything but a branch
//! where there is no limit.
//!
//! Messages of clients are limited on their shard (`ara_shards::state`), by the same buckets.

mod address;
mod blocked;
mod buckets;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ara_shards::base::socket::PeerAddress;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::refusal::{Code, Refusal};
use crate::settings::RateLimits;
pub use address::AddressBlock;
pub use blocked::BlockedAddresses;
use buckets::Buckets;
pub use buckets::{Counts, Quota};

/// What may happen only so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Requests of an API key, or of an address without one.
    Requests,
    /// New connections of clients from an address.
    Connections,
    /// Tokens from an address that are no good.
    FailedTokens,
    /// API keys from an address that are no good.
    FailedKeys,
}

impl Limited {
    /// The word in refusals and figures.
    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::FailedTokens => "failed_tokens",
            Self::FailedKeys => "failed_keys",
        }
    }
}

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Requester {
    /// That of the valid API key of this name.
    Key(Arc<str>),
    /// That of an address without a valid key.
    Address(AddressBlock),
}

/// All limits but that of messages, for tasks of the router's thread.
#[derive(Debug, Clone)]
pub struct RateLimiter(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    state: RefCell<State>,
    blocked: Arc<BlockedAddresses>,
    /// The time between two cleanups may have changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    requests: Buckets<Requester>,
    connections: Buckets<AddressBlock>,
    failed_tokens: Buckets<AddressBlock>,
    failed_keys: Buckets<AddressBlock>,
    cleanup_interval: Duration,
    enabled: bool,
}

/// What was counted of each limit, and how many buckets there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimitCounts {
    /// Whether limits are switched on.
    pub enabled: bool,
    /// Of requests.
    pub requests: Counts,
    /// Of new connections.
    pub connections: Counts,
    /// Of tokens that were no good.
    pub failed_tokens: Counts,
    /// Of keys that were no good.
    pub failed_keys: Counts,
    /// Of all limits.
    pub buckets: usize,
}

impl RateLimitCounts {
    /// Let through because there was no place for a bucket.
    #[must_use]
    pub const fn untracked(&self) -> u64 {
        self.requests.untracked
            + self.connections.untracked
            + self.failed_tokens.untracked
            + self.failed_keys.untracked
    }
}

impl Default for RateLimiter {
    /// No limits.
    fn default() -> Self {
        Self::new(&RateLimits::default(), Arc::default())
    }
}

impl RateLimiter {
    /// These limits, with all buckets full. Doors are shown empty ones in `blocked`.
    #[must_use]
    pub fn new(limits: &RateLimits, blocked: Arc<BlockedAddresses>) -> Self {
        let limiter =
            Self(Rc::new(Inner { state: RefCell::default(), blocked, changed: Notify::new() }));
        limiter.set_limits(limits);
        limiter
    }

    /// Other limits from now on. What was taken stays taken.
    pub fn set_limits(&self, limits: &RateLimits) {
        let mut state = self.0.state.borrow_mut();
        state.requests.set_rate(limits.http_requests);
        state.connections.set_rate(limits.connections);
        state.failed_tokens.set_rate(limits.auth_failures);
        state.failed_keys.set_rate(limits.auth_failures);
        state.cleanup_interval = limits.cleanup_interval;
        state.enabled = limits.enabled;
        if limits.auth_failures.is_none() {
            self.0.blocked.clear();
        }
        self.0.changed.notify_one();
    }

    /// Takes a request. What is left to the requester, who is only looked for where there is a limit; `None`
    /// where there is none.
    ///
    /// # Errors
    ///
    /// There were too many.
    pub fn request(&self, requester: impl FnOnce() -> Requester) -> Result<Option<Quota>, Refusal> {
        let requests = &mut self.0.state.borrow_mut().requests;
        if !requests.is_limited() {
            return Ok(None);
        }
        let taken = requests.take(requester(), self.now_ns());
        taken.map_err(|quota| too_many(Limited::Requests, quota))
    }

    /// Takes a new connection from an address.
    ///
    /// # Errors
    ///
    /// There were too many.
    pub fn connection(&self, peer: PeerAddress) -> Result<(), Refusal> {
        let taken = self.0.state.borrow_mut().connections.take(peer.into(), self.now_ns());
        taken.map(drop).map_err(|quota| too_many(Limited::Connections, quota))
    }

    /// Whether a key from this address is looked at.
    ///
    /// # Errors
    ///
    /// Too many have failed.
    pub fn check_keys_of(&self, peer: PeerAddress) -> Result<(), Refusal> {
        let checked = self.0.state.borrow_mut().failed_keys.check(&peer.into(), self.now_ns());
        checked.map_err(|quota| too_many(Limited::FailedKeys, quota))
    }

    /// A key from this address has failed.
    pub fn key_failed(&self, peer: PeerAddress) {
        // It was checked before, and nothing was awaited since; and what has failed has failed.
        let _quota = self.0.state.borrow_mut().failed_keys.take(peer.into(), self.now_ns());
    }

    /// A token from this address has failed. From the last one on that may, doors look at none more.
    ///
    /// # Errors
    ///
    /// Too many have failed: that, rather than why this one did, is to be answered.
    pub fn token_failed(&self, peer: PeerAddress) -> Result<(), Refusal> {
        let address = AddressBlock::from(peer);
        let mut state = self.0.state.borrow_mut();
        let taken = state.failed_tokens.take(address, self.now_ns());
        let is_last =
            taken.map_or(true, |quota| quota.is_some_and(|quota| quota.level.tokens == 0));
        if is_last && let Some(bucket) = state.failed_tokens.get(&address) {
            self.0.blocked.publish(address, bucket);
        }
        taken.map(drop).map_err(|quota| too_many(Limited::FailedTokens, quota))
    }

    /// Counts a token from this address, if it was examined and found to be no good.
    ///
    /// # Errors
    ///
    /// As it was examined; or too many have failed.
    pub fn count_token<T>(
        &self,
        peer: PeerAddress,
        examined: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if matches!(&examined, Err(refusal) if refusal.code == Code::InvalidToken) {
            self.token_failed(peer)?;
        }
        examined
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> RateLimitCounts {
        let state = self.0.state.borrow();
        let mut failed_tokens = state.failed_tokens.counts();
        failed_tokens.denied += self.0.blocked.refused();
        RateLimitCounts {
            enabled: state.enabled,
            requests: state.requests.counts(),
            connections: state.connections.counts(),
            failed_tokens,
            failed_keys: state.failed_keys.counts(),
            buckets: state.requests.len()
                + state.connections.len()
                + state.failed_tokens.len()
                + state.failed_keys.len(),
        }
    }

    /// Forgets full buckets from time to time, for as long as the gateway runs.
    pub async fn serve_cleanups(self) -> io::Result<()> {
        loop {
            let interval = self.0.state.borrow().cleanup_interval;
            if timeout(interval, self.0.changed.notified()).await.is_ok() {
                continue;
            }
            let now_ns = self.now_ns();
            let mut state = self.0.state.borrow_mut();
            state.requests.sweep(now_ns);
            state.connections.sweep(now_ns);
            state.failed_tokens.sweep(now_ns);
            state.failed_keys.sweep(now_ns);
        }
    }

    fn now_ns(&self) -> u64 {
        self.0.blocked.now_ns()
    }
}

impl Quota {
    /// The headers that tell it: tokens of a full bucket, tokens that are left, and the seconds until the
    /// bucket is full again.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, u64); 3] {
        [
            ("x-ratelimit-limit", self.limit.into()),
            ("x-ratelimit-remaining", self.level.tokens.into()),
            ("x-ratelimit-reset", whole_seconds(self.level.full_in)),
        ]
    }
}

/// Something has happened too often.
#[must_use]
pub fn too_many(what: Limited, quota: Quota) -> Refusal {
    let seconds = whole_seconds(quota.level.next_in).max(1);
    let sentence = format!("Too many requests, please retry after {seconds} seconds");
    let details = Some(serde_json::json!({ "limit": what.name() }));
    let refusal = Refusal { details, ..Refusal::new(Code::RateLimited, sentence) };
    let refusal = refusal.with_header("retry-after", seconds.to_string());
    let with =
        |refusal: Refusal, (name, value): (_, u64)| refusal.with_header(name, value.to_string());
    quota.headers().into_iter().fold(refusal, with)
}

/// Rounded up: who comes back then is not too early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ara_shards::base::token_bucket::Rate;

    use super::*;

    fn limiter() -> (RateLimiter, Arc<BlockedAddresses>) {
        let rate = |burst| Some(Rate::new(1, Duration::from_secs(1000), burst));
        let limits = RateLimits {
            enabled: true,
            http_requests: rate(2),
            connections: rate(3),
            auth_failures: rate(4),
            cleanup_interval: Duration::from_secs(60),
        };
        let blocked = Arc::new(BlockedAddresses::default());
        (RateLimiter::new(&limits, Arc::clone(&blocked)), blocked)
    }

    fn peer(last: u8) -> PeerAddress {
        SocketAddr::from(([192, 0, 2, last], 7)).into()
    }

    #[test]
    fn each_limit_has_buckets_of_its_own() {
        let (limiter, _blocked) = limiter();
        let taken = |take: &dyn Fn() -> bool| (0..10).filter(|_| take()).count();
        let key = || limiter.request(|| Requester::Key("a".into())).is_ok();
        let address = || limiter.request(|| Requester::Address(peer(1).into())).is_ok();
        assert_eq!((taken(&key), taken(&address)), (2, 2));
        assert_eq!(taken(&|| limiter.connection(peer(1)).is_ok()), 3);
        assert_eq!(taken(&|| limiter.token_failed(peer(1)).is_ok()), 4);
        let failed =
            || limiter.check_keys_of(peer(1)).map(|()| limiter.key_failed(peer(1))).is_ok();
        assert_eq!(taken(&failed), 4);
        assert_eq!(taken(&|| limiter.connection(peer(2)).is_ok()), 3, "another address");
        let counts = limiter.counts();
        assert_eq!((counts.connections.allowed, counts.connections.denied), (6, 14));
        assert_eq!((counts.failed_keys.denied, counts.buckets), (6, 6));
    }

    #[test]
    fn doors_are_shown_an_address_before_its_last_failure_is_answered() {
        let (limiter, blocked) = limiter();
        let rate = Rate::new(1, Duration::from_secs(1000), 4);
        let is_blocked = || blocked.check(peer(1).into(), rate).is_err();
        for failure in 1..=4 {
            assert!(!is_blocked() && limiter.token_failed(peer(1)).is_ok());
            assert_eq!(is_blocked(), failure == 4);
        }
        // One that was verified before it was known.
        assert!(limiter.token_failed(peer(1)).is_err() && is_blocked());
        limiter.set_limits(&RateLimits::default());
        assert!(
            !is_blocked() && limiter.token_failed(peer(1)).is_ok(),
            "the limit was switched off"
        );
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let (limiter, _blocked) = limiter();
        let request = || limiter.request(|| Requester::Key("a".into()));
        let quota = request().unwrap().unwrap();
        assert_eq!(quota.headers().map(|(_, value)| value), [2, 1, 1000]);
        request().unwrap();
        let refusal = request().unwrap_err();
        assert_eq!(refusal.status(), 429);
        assert_eq!(refusal.message, "Too many requests, please retry after 1000 seconds");
        assert_eq!(refusal.details.as_ref().unwrap()["limit"], "requests");
        for (name, value) in [("retry-after", "1000"), ("x-ratelimit-remaining", "0")] {
            assert!(refusal.headers.contains(&(name, value.to_owned())), "{refusal:?}");
        }
    }

    #[test]
    fn whole_seconds_are_never_too_few() {
        for (ms, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds);
        }
    }
}
