//! The border between the state and the queue: what the queue sees of users, connections and frames,
//! and the calls that go on to it.
//!
//! **Runs on**: a shard; in tests, virtual time. **Owns**: nothing beyond the call. **Never**: knows
//! how messages are kept; it is the one place where a queued message meets an outbound frame.

use std::rc::Rc;
use std::sync::Arc;

use super::directory::Directory;
use super::{Outgoing, State, Urgency};
use crate::base::id::{ConnectionKey, NotificationId, Tick, UserSlot};
use crate::base::placement::UserHash;
use crate::link::message::{DeliveryCounts, Recipient, Report};
use crate::notification::{Audience, Notification};
use crate::outbound::{OutboundMessage, Redelivery, Unsent};
use crate::protocol::{Event, Marks};
use crate::queue::{Accepted, Content, Context, Now, Outboxes, Queues, Unwritten, Users};
use crate::queued_message::QueuedMessage;
use crate::store::{Recovered, Store, UserNames};

impl UserNames for Directory {
    fn names(&self, user: UserSlot) -> (&str, &str) {
        self.user_names(user)
    }
}

impl Users for Directory {
    fn find(&self, tenant: &str, user: &str, hash: UserHash) -> Option<UserSlot> {
        self.find_user(tenant, user, hash)
    }

    fn connections(&self, user: UserSlot) -> &[ConnectionKey] {
        self.user_connections(user)
    }

    fn matches(&self, key: ConnectionKey, audience: Option<&Audience>) -> bool {
        self.matches_audience(key, audience)
    }

    fn forget_idle(&mut self, user: UserSlot) {
        self.forget_unconnected(user);
    }
}

/// The outboxes as the queue uses them: it sends messages, and this makes frames of them.
struct Frames<'a, O>(&'a mut O);

impl<O: Outgoing> Outboxes for Frames<'_, O> {
    fn backlog_bytes(&self, key: ConnectionKey) -> Option<usize> {
        self.0.backlog_bytes(key)
    }

    fn watch(&mut self, key: ConnectionKey) {
        self.0.watch(key);
    }

    fn send(&mut self, message: &QueuedMessage, is_replayed: bool, to: &[ConnectionKey]) -> u32 {
        let readers = to.iter().filter_map(|key| self.0.encoding(*key)).collect();
        let marks = Marks { replayed: is_replayed, attempt: message.attempts() };
        let redelivery = Redelivery::new(message.shared(), message.sequence(), marks, readers);
        let frame = Rc::new(OutboundMessage::Redelivery(Box::new(redelivery)));
        let mut copies = 0;
        for key in to {
            copies += u32::from(self.0.offer(*key, &frame, Urgency::Prompt));
        }
        if let OutboundMessage::Redelivery(redelivery) = &*frame {
            redelivery.set_copies(copies);
        }
        copies
    }
}

/// What a closing connection had not written, as the queue understands it.
fn unwritten(unsent: &Unsent) -> Unwritten<'_> {
    let content = match &*unsent.frame {
        OutboundMessage::Redelivery(redelivery) => Content::Queued {
            id: redelivery.id,
            sequence: redelivery.sequence,
            is_last_copy: redelivery.give_back(),
        },
        OutboundMessage::Personal(notification, sequence) => {
            Content::Personal(notification, *sequence)
        }
        OutboundMessage::Notification(notification) => Content::Shared(notification.head().id),
        OutboundMessage::Bytes(_) => Content::Other,
    };
    Unwritten { content, is_begun: unsent.is_begun }
}

impl State {
    /// The queue, and what a call to it may use.
    pub(super) fn queues(&mut self) -> (&mut Queues, Context<'_, Directory>) {
        let now = Now { clock: self.now, running: self.running() };
        let (users, counters) = (&mut self.directory, &mut self.counters);
        (&mut self.queues, Context { users, counters, now })
    }

    /// Whether new messages to a user must wait behind older ones.
    pub(super) fn must_wait(&self, user: &Recipient) -> bool {
        self.queues.can_wait()
            && self
                .directory
                .find_user(&user.tenant, &user.user, user.hash)
                .is_some_and(|slot| self.queues.must_wait(slot))
    }

    /// What a delivery to one user comes to: it is tracked, or enqueued. `offered` is what the user's
    /// connections took.
    pub(super) fn queue_or_track(
        &mut self,
        user: &Recipient,
        notification: &Arc<Notification>,
        sequence: u64,
        offered: DeliveryCounts,
    ) -> DeliveryCounts {
        let (head, is_taken) = (notification.head(), offered.delivered > 0);
        if !self.queues.wants(head, &user.user, is_taken, self.now) {
            return offered;
        }
        if !is_taken && self.room == Some(0) {
            self.counters.queue_over_limit += 1;
            return DeliveryCounts { over_limit: 1, ..offered };
        }
        let slot = self.directory.enter_user(&user.tenant, &user.user, user.hash);
        let message = QueuedMessage::new(notification.share(), sequence);
        let (queues, mut cx) = self.queues();
        if is_taken {
            queues.track(&mut cx, slot, message);
            return offered;
        }
        let queued = match queues.accept(&mut cx, slot, message) {
            Accepted::Refused => return DeliveryCounts { refused: 1, ..offered },
            Accepted::Enqueued => {
                self.room = self.room.map(|room| room.saturating_sub(1));
                1
            }
            Accepted::Replaced => 1,
            Accepted::Evicted => 0,
        };
        let late = |key: &ConnectionKey| {
            let session = self.directory.session(*key);
            session.is_some_and(|session| !notification.is_encoded_in(session.protocol.encoding()))
                && self.directory.matches_audience(*key, head.audience.as_deref())
        };
        if self.directory.user_connections(slot).iter().any(late) {
            // A client came after the trigger was encoded.
            self.queues.begin_replay(slot);
        }
        DeliveryCounts { queued, ..offered }
    }

    /// Takes back what a connection that is leaving had not written. Call while its session is still
    /// known.
    pub(super) fn take_back(&mut self, key: ConnectionKey, unsent: &[Unsent]) {
        let Some(session) = self.directory.session(key) else { return };
        let user = session.places.user;
        let unwritten: Vec<Unwritten<'_>> = unsent.iter().map(unwritten).collect();
        let (queues, mut cx) = self.queues();
        queues.take_back(&mut cx, user, &unwritten);
    }

    /// The connection's outbox has room again: nothing waits in it.
    pub fn handle_room(&mut self, key: ConnectionKey, out: &mut impl Outgoing) {
        let Some(session) = self.directory.session(key) else { return };
        let user = session.places.user;
        let (queues, mut cx) = self.queues();
        queues.handle_room(&mut cx, user, &mut Frames(out));
    }

    /// Goes on with replays, as far as a turn and the readers' outboxes allow. Returns whether
    /// there is more to do at once.
    pub fn poll_replays(&mut self, out: &mut impl Outgoing) -> bool {
        let (queues, mut cx) = self.queues();
        queues.poll_replays(&mut cx, &mut Frames(out))
    }

    /// Deals with messages whose Ack is overdue and messages whose time is over. Returns whether
    /// there is more to do at once.
    pub fn handle_deadlines(&mut self, out: &mut impl Outgoing) -> bool {
        let (queues, mut cx) = self.queues();
        queues.handle_deadlines(&mut cx, &mut Frames(out))
    }

    /// When [`Self::handle_deadlines`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let overdue = self.queues.next_overdue().map(|at| self.running.on_clock(at));
        overdue.into_iter().chain(self.queues.next_expiry()).min()
    }

    /// Takes over what an earlier run has left. Call once, before anything else.
    pub fn restore(&mut self, recovered: Recovered) {
        let Recovered { store, users, sequence } = recovered;
        self.queues.restore(store, sequence);
        let mut tenant: Arc<str> = Arc::default();
        for user in users {
            if *tenant != *user.tenant {
                tenant = user.tenant.into();
            }
            let slot = self.directory.enter_user(&tenant, &user.name, user.hash);
            let (queues, mut cx) = self.queues();
            queues.restore_user(&mut cx, slot, user.waiting, user.dead_letters);
        }
    }

    /// The turn's work of the store. Returns whether there is more to do at once.
    pub fn poll_store(&mut self) -> bool {
        // The reports are the state's: they leave in one order with its own.
        let mut reports = std::mem::take(&mut self.reports);
        let (queues, mut cx) = self.queues();
        let more = queues.poll_store(&mut cx, &mut reports);
        self.reports = reports;
        more
    }

    /// Puts what has changed for tenants with a limit before all other reports.
    pub(super) fn report_tenants(&mut self) {
        let Self { queues, directory, limits, reports, .. } = self;
        queues.report_tenants(directory, limits, |report| reports.push_front(report));
    }

    /// Where messages are kept beyond the memory of the process.
    pub(crate) fn store(&self) -> &dyn Store {
        self.queues.store()
    }

    /// Gives the store up, to be closed. Nothing may follow.
    pub fn take_store(&mut self) -> Box<dyn Store> {
        self.queues.take_store(&mut self.counters)
    }

    /// Reports a delivery; what it says of the queue is said when it holds.
    pub(super) fn report_delivery(&mut self, report: Report, concerns_queue: bool) {
        let report = if concerns_queue { self.queues.hold(report) } else { Some(report) };
        self.reports.extend(report);
    }

    /// Tells the user's connections that asked for it, but not the one it came `from`, that a
    /// notification was acknowledged.
    pub(super) fn notify_settled_to_others(
        &mut self,
        user: UserSlot,
        id: NotificationId,
        from: Option<ConnectionKey>,
        out: &mut impl Outgoing,
    ) {
        let mut others = std::mem::take(&mut self.told);
        let keys = self.directory.user_connections(user).iter().copied();
        others.extend(keys.filter(|key| {
            let session = self.directory.session(*key);
            session.is_some_and(|session| session.notify_settled) && Some(*key) != from
        }));
        for key in others.drain(..) {
            self.tell(key, &Event::Settled(id), out);
        }
        self.told = others;
    }
}
