//! Fanning one delivery out over this shard's connections.
//!
//! **Runs on**: a shard. **Owns**: nothing beyond the call. **Never**: allocates or logs per
//! recipient; counts a frame that no outbox took.

use std::rc::Rc;
use std::sync::Arc;

use super::directory::Directory;
use super::session::Session;
use super::{Outgoing, State, Urgency};
use crate::frame::Frame;
use crate::id::{ConnectionKey, Tick};
use crate::limits::PROMPT_RECIPIENTS_MAX;
use crate::message::{Delivery, Recipient, Recipients, Report, Tally};
use crate::notification::{Audience, Notification, Priority};

impl State {
    /// Applies one delivery, reports what became of it, and sends slow consumers away. Returns
    /// what it cost: how many frames were put into outboxes and queues, or refused by the disk.
    pub fn handle_delivery(
        &mut self,
        delivery: Delivery,
        now: Tick,
        out: &mut impl Outgoing,
    ) -> u32 {
        self.now = now;
        self.sequence += 1;
        if let Some(head) = delivery.audience.head().filter(|_| self.keeps_letters()) {
            self.recent.push(head, self.sequence);
        }
        let mut parts = Vec::new();
        let mut refused = std::mem::take(&mut self.refused);
        let mut fan = Fan {
            directory: &self.directory,
            out,
            refused: &mut refused,
            shed: &mut self.meter.frames_shed,
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
                let frame = Rc::new(Frame::Notification(notification));
                let members = self.directory.tenant(&tenant).map_or(&[][..], |t| &t.members);
                fan.offer_all(members, &frame, urgency_for(members.len()))
            }
            Recipients::Channels { tenant, parts: channels } => {
                fan.offer_channels(&tenant, &channels, &mut self.seen, &mut parts);
                sum(&parts)
            }
        };
        if parts.len() == 1 {
            parts.clear();
        }
        self.meter.deliveries += 1;
        self.meter.frames_delivered += u64::from(total.delivered);
        self.meter.frames_failed += u64::from(total.failed);
        let parts = parts.into_boxed_slice();
        let report = Report::Delivered { ticket: delivery.ticket, total, parts };
        match &mut self.vault {
            // "Queued" is said when it holds.
            Some(vault) if total.queued + total.refused > 0 => vault.hold(report),
            _ => self.push_report(report),
        }
        for key in refused.drain(..) {
            if self.directory.session(key).is_some() {
                self.dismiss_slow(key, out);
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
    ) -> Vec<Tally> {
        let mut parts = Vec::with_capacity(users.len());
        let sequence = self.sequence;
        let frame = Rc::new(Frame::Personal(Arc::clone(notification), sequence));
        for user in users {
            let mut tally = Tally::default();
            if !self.must_wait(user) {
                let keys = self.directory.connections(&user.tenant, &user.user, user.hash);
                let mut fan = Fan {
                    directory: &self.directory,
                    out,
                    refused,
                    shed: &mut self.meter.frames_shed,
                    outbox_bytes_max: self.limits.outbox_bytes_per_connection_max,
                };
                tally = fan.offer_all(keys, &frame, urgency_for(users.len()));
            }
            parts.push(self.post(user, notification, sequence, tally));
        }
        parts
    }

    fn queue_for_absent(&mut self, notification: &Arc<Notification>, users: &[Recipient]) -> Tally {
        let mut total = Tally::default();
        for user in users {
            if self.directory.connections(&user.tenant, &user.user, user.hash).is_empty() {
                total.add(self.post(user, notification, self.sequence, Tally::default()));
            }
        }
        total
    }

    /// Whether a connection is among an audience.
    pub(super) fn is_meant(&self, key: ConnectionKey, audience: Option<&Audience>) -> bool {
        let Some(session) = self.directory.session(key) else { return false };
        audience.is_none_or(|audience| is_meant(&self.directory, session, audience))
    }
}

fn is_meant(directory: &Directory, session: &Session, audience: &Audience) -> bool {
    match audience {
        Audience::Roles(roles) => session.has_role(roles),
        Audience::Users(users) => {
            let name = directory.user_name(session);
            users.binary_search_by(|user| (**user).cmp(name)).is_ok()
        }
        Audience::Channels(channels) => {
            channels.iter().any(|channel| directory.hears(session, channel))
        }
    }
}

fn sum(parts: &[Tally]) -> Tally {
    let mut total = Tally::default();
    for part in parts {
        total.add(*part);
    }
    total
}

const fn urgency_for(recipients: usize) -> Urgency {
    if recipients > PROMPT_RECIPIENTS_MAX { Urgency::FanOut } else { Urgency::Prompt }
}

/// One delivery on its way to its recipients.
struct Fan<'a, O> {
    directory: &'a Directory,
    out: &'a mut O,
    /// Connections whose outbox refused.
    refused: &'a mut Vec<ConnectionKey>,
    /// Counts the notifications shed.
    shed: &'a mut u64,
    outbox_bytes_max: usize,
}

impl<O: Outgoing> Fan<'_, O> {
    fn offer_all(&mut self, keys: &[ConnectionKey], frame: &Rc<Frame>, urgency: Urgency) -> Tally {
        let mut tally = Tally::default();
        for key in keys {
            self.offer(*key, frame, urgency, &mut tally);
        }
        tally
    }

    /// Offers each channel's notification to its hearers; who hears several gets the first.
    fn offer_channels(
        &mut self,
        tenant: &str,
        channels: &[(Arc<str>, Arc<Notification>)],
        seen: &mut Vec<u64>,
        tallies: &mut Vec<Tally>,
    ) {
        seen.clear();
        if channels.len() > 1 {
            seen.resize(self.directory.key_bound().div_ceil(64), 0);
        }
        let tenant = self.directory.tenant(tenant);
        for (name, notification) in channels {
            let mut tally = Tally::default();
            if let Some(tenant) = tenant {
                let frame = Rc::new(Frame::Notification(Arc::clone(notification)));
                let subscribers = self.directory.subscribers(tenant, name);
                let urgency = urgency_for(subscribers.len() + tenant.listeners.len());
                for key in subscribers {
                    if first_time(seen, *key) {
                        self.offer(*key, &frame, urgency, &mut tally);
                    }
                }
                for key in &tenant.listeners {
                    let hears = self.directory.session(*key).is_some_and(|s| s.may_hear(name));
                    if hears && first_time(seen, *key) {
                        self.offer(*key, &frame, urgency, &mut tally);
                    }
                }
            }
            tallies.push(tally);
        }
    }

    fn offer(
        &mut self,
        key: ConnectionKey,
        frame: &Rc<Frame>,
        urgency: Urgency,
        tally: &mut Tally,
    ) {
        let Some(session) = self.directory.session(key) else { return };
        if let Frame::Notification(notification) | Frame::Personal(notification, _) = &**frame {
            let meant = notification
                .head()
                .audience
                .as_deref()
                .is_none_or(|audience| is_meant(self.directory, session, audience));
            // No encoding for its transport: it was admitted after the trigger, so not a recipient.
            if !meant || notification.bytes(session.transport).is_empty() {
                return;
            }
        }
        if frame.priority() == Some(Priority::Low) && self.is_half_full(key) {
            tally.failed += 1;
            *self.shed += 1;
        } else if self.out.offer(key, frame, urgency) {
            tally.delivered += 1;
        } else {
            tally.failed += 1;
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
