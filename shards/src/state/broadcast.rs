//! Fanning one delivery out over this shard's connections.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: allocates or logs per
//! recipient; counts a frame that no outbox took.

use std::rc::Rc;
use std::sync::Arc;

use super::directory::Directory;
use super::session::Session;
use super::{Outgoing, State, Urgency};
use crate::base::id::ConnectionKey;
use crate::base::limits::PROMPT_RECIPIENTS_MAX;
use crate::link::message::{Delivery, DeliveryCounts, Recipient, Recipients, Report};
use crate::notification::{Audience, Notification, Priority};
use crate::outbound::OutboundMessage;

impl State {
    /// Applies one delivery, reports what became of it, and sends slow consumers away. Returns
    /// what it cost: how many frames were put into outboxes and queues, or refused by the disk.
    pub fn handle_delivery(&mut self, delivery: Delivery, out: &mut impl Outgoing) -> u32 {
        self.queues.number_delivery(delivery.audience.head());
        self.room = delivery.room;
        if let (Some(room), Some(tenant)) = (delivery.room, delivery.audience.tenant()) {
            self.queues.settle_room(tenant, room);
        }
        let mut parts = Vec::new();
        let mut refused = std::mem::take(&mut self.refused);
        let mut fan = Broadcast {
            directory: &self.directory,
            out,
            refused: &mut refused,
            shed: &mut self.counters.frames_shed,
            outbox_bytes_max: self.limits.outbox_bytes_per_connection_max,
        };
        let total = match delivery.audience {
            Recipients::Users { notification, users } => {
                parts = self.deliver_to_users(&notification, &users, &mut refused, out);
                sum(&parts)
            }
            Recipients::Absent { notification, users } => {
                self.queue_for_absent(&notification, &users)
            }
            Recipients::Everyone { tenant, notification } => {
                let frame = Rc::new(OutboundMessage::Notification(notification));
                let tenant = self.directory.tenant(&tenant);
                let connections = tenant.map_or(&[][..], |tenant| &tenant.connections);
                fan.offer_all(connections, &frame, urgency_for(connections.len()))
            }
            Recipients::Channels { tenant, parts: channels } => {
                fan.offer_channels(&tenant, &channels, &mut self.seen, &mut parts);
                sum(&parts)
            }
        };
        if parts.len() == 1 {
            parts.clear();
        }
        self.counters.deliveries += 1;
        self.counters.frames_delivered += u64::from(total.delivered);
        self.counters.frames_failed += u64::from(total.failed);
        let parts = parts.into_boxed_slice();
        let report = Report::Delivered { request: delivery.request, total, parts };
        self.report_delivery(report, total.queued + total.refused > 0);
        for key in refused.drain(..) {
            if self.directory.session(key).is_some() {
                self.close_slow_consumer(key, out);
            }
        }
        self.refused = refused;
        total.delivered + total.queued + total.refused
    }
}

impl State {
    fn deliver_to_users(
        &mut self,
        notification: &Arc<Notification>,
        users: &[Recipient],
        refused: &mut Vec<ConnectionKey>,
        out: &mut impl Outgoing,
    ) -> Vec<DeliveryCounts> {
        let mut parts = Vec::with_capacity(users.len());
        let sequence = self.queues.sequence();
        let frame = Rc::new(OutboundMessage::Personal(Arc::clone(notification), sequence));
        for user in users {
            let mut counts = DeliveryCounts::default();
            if !self.must_wait(user) {
                let keys = self.directory.connections(&user.tenant, &user.user, user.hash);
                let mut fan = Broadcast {
                    directory: &self.directory,
                    out,
                    refused,
                    shed: &mut self.counters.frames_shed,
                    outbox_bytes_max: self.limits.outbox_bytes_per_connection_max,
                };
                counts = fan.offer_all(keys, &frame, urgency_for(users.len()));
            }
            parts.push(self.queue_or_track(user, notification, sequence, counts));
        }
        parts
    }

    fn queue_for_absent(
        &mut self,
        notification: &Arc<Notification>,
        users: &[Recipient],
    ) -> DeliveryCounts {
        let mut total = DeliveryCounts::default();
        let sequence = self.queues.sequence();
        for user in users {
            if self.directory.connections(&user.tenant, &user.user, user.hash).is_empty() {
                let offered = DeliveryCounts::default();
                total.add(self.queue_or_track(user, notification, sequence, offered));
            }
        }
        total
    }
}

impl Directory {
    /// Whether a connection is among an audience; `None` = everybody is.
    pub(super) fn matches_audience(&self, key: ConnectionKey, audience: Option<&Audience>) -> bool {
        let Some(session) = self.session(key) else { return false };
        audience.is_none_or(|audience| matches_audience(self, session, audience))
    }
}

fn matches_audience(directory: &Directory, session: &Session, audience: &Audience) -> bool {
    match audience {
        Audience::Roles(roles) => session.has_role(roles),
        Audience::Users(users) => {
            let name = directory.user_name(session);
            users.binary_search_by(|user| (**user).cmp(name)).is_ok()
        }
        Audience::Channels(channels) => {
            channels.iter().any(|channel| directory.receives(session, channel))
        }
    }
}

fn sum(parts: &[DeliveryCounts]) -> DeliveryCounts {
    let mut total = DeliveryCounts::default();
    for part in parts {
        total.add(*part);
    }
    total
}

const fn urgency_for(recipients: usize) -> Urgency {
    if recipients > PROMPT_RECIPIENTS_MAX { Urgency::FanOut } else { Urgency::Prompt }
}

/// One delivery on its way to its recipients.
struct Broadcast<'a, O> {
    directory: &'a Directory,
    out: &'a mut O,
    /// Connections whose outbox refused.
    refused: &'a mut Vec<ConnectionKey>,
    /// Counts the notifications shed.
    shed: &'a mut u64,
    outbox_bytes_max: usize,
}

impl<O: Outgoing> Broadcast<'_, O> {
    fn offer_all(
        &mut self,
        keys: &[ConnectionKey],
        frame: &Rc<OutboundMessage>,
        urgency: Urgency,
    ) -> DeliveryCounts {
        let mut counts = DeliveryCounts::default();
        for key in keys {
            self.offer(*key, frame, urgency, &mut counts);
        }
        counts
    }

    /// Offers each channel's notification to its hearers; who hears several gets the first.
    fn offer_channels(
        &mut self,
        tenant: &str,
        channels: &[(Arc<str>, Arc<Notification>)],
        seen: &mut Vec<u64>,
        all_counts: &mut Vec<DeliveryCounts>,
    ) {
        seen.clear();
        if channels.len() > 1 {
            seen.resize(self.directory.key_bound().div_ceil(64), 0);
        }
        let tenant = self.directory.tenant(tenant);
        for (name, notification) in channels {
            let mut counts = DeliveryCounts::default();
            if let Some(tenant) = tenant {
                let frame = Rc::new(OutboundMessage::Notification(Arc::clone(notification)));
                let subscribers = self.directory.subscribers(tenant, name);
                let urgency = urgency_for(subscribers.len() + tenant.subscribed_to_all.len());
                for key in subscribers {
                    if first_time(seen, *key) {
                        self.offer(*key, &frame, urgency, &mut counts);
                    }
                }
                for key in &tenant.subscribed_to_all {
                    let receives =
                        self.directory.session(*key).is_some_and(|s| s.may_subscribe(name));
                    if receives && first_time(seen, *key) {
                        self.offer(*key, &frame, urgency, &mut counts);
                    }
                }
            }
            all_counts.push(counts);
        }
    }

    fn offer(
        &mut self,
        key: ConnectionKey,
        frame: &Rc<OutboundMessage>,
        urgency: Urgency,
        counts: &mut DeliveryCounts,
    ) {
        let Some(session) = self.directory.session(key) else { return };
        if let OutboundMessage::Notification(notification)
        | OutboundMessage::Personal(notification, _) = &**frame
        {
            let matches = notification
                .head()
                .audience
                .as_deref()
                .is_none_or(|audience| matches_audience(self.directory, session, audience));
            // Not encoded for it: it was admitted after the trigger, so not a recipient.
            if !matches || !notification.is_encoded_in(session.protocol.encoding()) {
                return;
            }
        }
        if frame.priority() == Some(Priority::Low) && self.is_half_full(key) {
            counts.failed += 1;
            *self.shed += 1;
        } else if self.out.offer(key, frame, urgency) {
            counts.delivered += 1;
        } else {
            counts.failed += 1;
            self.refused.push(key);
        }
    }

    /// Whether a reader is behind by half of what it may be: then `Low` is shed, so that there is
    /// room for the rest before the reader counts as slow.
    fn is_half_full(&self, key: ConnectionKey) -> bool {
        let most = self.outbox_bytes_max;
        self.out.backlog_bytes(key).is_some_and(|bytes| bytes > most / 2)
    }
}

/// Marks a connection; false if it was marked before. Without marks everyone is new.
fn first_time(seen: &mut [u64], key: ConnectionKey) -> bool {
    let Some(word) = seen.get_mut(key.index() / 64) else { return true };
    let bit = 1 << (key.index() % 64);
    let new = *word & bit == 0;
    *word |= bit;
    new
}
