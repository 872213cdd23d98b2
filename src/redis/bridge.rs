//! From a Redis trigger to the router's.
//!
//! **Runs on**: the router. **Owns**: nothing. **Never**: waits for the shards: pub/sub has nobody
//! to answer to, so a refused trigger is counted and logged.

use std::sync::Arc;

use ara_shards::notification::Priority as Lane;

use super::{Priority, RedisTarget, RedisTrigger};
use crate::intake::trigger::{Event, Target, Trigger};
use crate::names::DEFAULT_TENANT;
use crate::refusal::Refusal;
use crate::router::Router;

/// Where a notification comes from, in its metadata.
const SOURCE: &str = "redis";

/// Hands one trigger to the shards. Without tenants, `tenant_id` has no meaning.
///
/// # Errors
///
/// A shard has no room, or the gateway is stopping: nothing was sent.
pub fn dispatch(
    router: &Router,
    trigger: &RedisTrigger,
    tenants_enabled: bool,
) -> Result<(), Refusal> {
    let tenant = trigger.tenant.as_deref().filter(|_| tenants_enabled).unwrap_or(DEFAULT_TENANT);
    let target = match &trigger.target {
        RedisTarget::User(user) => Target::Users(vec![user.as_str().into()]),
        RedisTarget::Users(users) => Target::Users(unique(users)),
        RedisTarget::Broadcast => Target::Everyone,
        RedisTarget::Channel(channel) => Target::Channels(vec![channel.as_str().into()]),
        RedisTarget::Channels(channels) => Target::Channels(unique(channels)),
    };
    let event = Event {
        event_type: &trigger.event.event_type,
        payload: &trigger.event.payload,
        priority: trigger.event.priority.map_or_else(Lane::default, lane),
        ttl: trigger.event.ttl,
        source: SOURCE,
        correlation_id: trigger.event.correlation_id.as_deref(),
        audience: None,
        queue: false,
    };
    router.dispatch(&Trigger { tenant: tenant.into(), target, event }, None).map(drop)
}

const fn lane(priority: Priority) -> Lane {
    match priority {
        Priority::Low => Lane::Low,
        Priority::Normal => Lane::Normal,
        Priority::High => Lane::High,
        Priority::Critical => Lane::Critical,
    }
}

fn unique(list: &[String]) -> Vec<Arc<str>> {
    let mut seen = ahash::AHashSet::with_capacity(list.len());
    list.iter().filter(|name| seen.insert(name.as_str())).map(|name| name.as_str().into()).collect()
}
