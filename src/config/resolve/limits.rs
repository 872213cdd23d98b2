//! The bounds of the engine, of connections, tenants, the queue and acknowledgement.
//!
//! **Runs on**: main. **Owns**: nothing. **Never**: stops at the first fault.

use std::sync::Arc;
use std::time::Duration;

use ara_shards::base::limits::{
    AckLimits, IN_FLIGHT_PER_USER_MAX, Limits, PerUserPolicy, QueueLimits,
};
use ara_shards::base::tenant_limits::{LimitsByTenant, TenantLimits};

use super::Resolver;
use crate::config::keys::{self, Key};
use crate::config::tenant_overrides::{self, Override};

/// A notification of the largest accepted body (64 KiB) with its envelope.
const LARGEST_FRAME_BYTES: u64 = 68 * 1024;

impl Resolver<'_> {
    pub(super) fn limits(&mut self) -> Limits {
        let heartbeat_interval = self.raw.seconds(&keys::HEARTBEAT);
        let connection_timeout = self.raw.seconds(&keys::CONNECTION_TIMEOUT);
        self.warn_of_silence(heartbeat_interval, connection_timeout);
        if self.raw.whole(&keys::SHARDS_OUTBOX) < LARGEST_FRAME_BYTES {
            self.warnings.push(format!(
                "shards.outbox_bytes_per_connection is below {LARGEST_FRAME_BYTES}: the largest \
                 notifications can reach no client whose socket is busy"
            ));
        }
        Limits {
            tenants: self.tenant_limits(),
            connections_per_user_policy: match self.raw.text(&keys::PER_USER_POLICY).as_deref() {
                Some("newest_wins") => PerUserPolicy::NewestWins,
                _ => PerUserPolicy::Refuse,
            },
            connections_per_user_max: self.size(&keys::MAX_CONNECTIONS_PER_USER),
            subscriptions_per_connection_max: self.size(&keys::MAX_SUBSCRIPTIONS),
            outbox_bytes_per_connection_max: self.size(&keys::SHARDS_OUTBOX),
            message_bytes_max: self.size(&keys::MAX_MESSAGE),
            messages: self.message_rate(),
            heartbeat_interval,
            connection_timeout,
            queue: self.queue_limits(),
            ack: self.ack_limits(),
        }
    }

    /// What tenants may have, where they are kept apart.
    fn tenant_limits(&mut self) -> Option<Arc<LimitsByTenant>> {
        if !self.raw.switch(&keys::TENANT_ENABLED) {
            if !self.raw.tenant_overrides.is_empty() {
                let name = tenant_overrides::NAME;
                self.warnings.push(format!("{name} has no effect while tenant.enabled is false"));
            }
            return None;
        }
        let limits = |own: Option<&Override>| {
            let value = |key: &Key| own.and_then(|own| own.value(key));
            let value = |key: &Key| value(key).unwrap_or_else(|| self.size(key));
            TenantLimits {
                connections_max: value(&keys::TENANT_MAX_CONNECTIONS),
                connections_per_user_max: value(&keys::TENANT_MAX_CONNECTIONS_PER_USER),
                subscriptions_per_connection_max: value(&keys::TENANT_MAX_SUBSCRIPTIONS),
                queued_max: value(&keys::TENANT_MAX_QUEUED),
            }
        };
        let own = self.raw.tenant_overrides.iter();
        let overrides = own.map(|own| (Arc::clone(&own.tenant), limits(Some(own)))).collect();
        Some(Arc::new(LimitsByTenant { default: limits(None), overrides }))
    }

    /// Warns where heartbeats do not come before the timeout, and says what happens then.
    fn warn_of_silence(&mut self, interval: Duration, timeout: Duration) {
        // Jitter stretches an interval by up to a fifth.
        let is_rare = !timeout.is_zero() && timeout <= interval.mul_f64(1.2);
        let warning = match (interval.is_zero(), timeout.is_zero()) {
            (true, true) => {
                "websocket.heartbeat_interval and websocket.connection_timeout are 0: a client that \
                 vanishes without closing keeps its place until something is sent to it, and \
                 proxies may cut streams on which nothing is sent"
            }
            (true, false) => {
                "websocket.heartbeat_interval is 0: a WebSocket client that says nothing for \
                 websocket.connection_timeout is pinged then, and closed if nothing comes for as \
                 long again; an SSE client that vanishes keeps its place until something is sent \
                 to it, and proxies may cut streams on which nothing is sent"
            }
            (false, _) if is_rare => {
                "websocket.connection_timeout is not longer than a jittered \
                 websocket.heartbeat_interval: a client that says nothing for the timeout is \
                 pinged between heartbeats, and closed if nothing comes for as long again"
            }
            (false, _) => return,
        };
        self.warnings.push(warning.to_owned());
    }

    fn queue_limits(&self) -> Option<QueueLimits> {
        self.raw.switch(&keys::QUEUE_ENABLED).then(|| QueueLimits {
            per_user_max: self.size(&keys::QUEUE_MAX_SIZE),
            ttl: self.raw.seconds(&keys::QUEUE_TTL),
            dead_letter_ttl: self.raw.seconds(&keys::QUEUE_DEAD_LETTER_TTL),
        })
    }

    fn ack_limits(&mut self) -> Option<AckLimits> {
        let queue_enabled = self.raw.switch(&keys::QUEUE_ENABLED);
        let requeue = match self.raw.text(&keys::ACK_UNACKED).as_deref() {
            Some("expire") => false,
            Some(_requeue) if !queue_enabled => {
                let fix = "set QUEUE_ENABLED=true, or ACK_UNACKED=expire";
                self.refuse(&keys::ACK_UNACKED, "requeue needs the queue, which is off", fix);
                false
            }
            _ => queue_enabled,
        };
        self.raw.switch(&keys::ACK_ENABLED).then(|| AckLimits {
            timeout: self.raw.seconds(&keys::ACK_TIMEOUT),
            requeue,
            in_flight_max: IN_FLIGHT_PER_USER_MAX,
            attempts_max: u8::try_from(self.raw.whole(&keys::ACK_MAX_ATTEMPTS)).unwrap_or(u8::MAX),
        })
    }
}
