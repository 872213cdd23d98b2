//! Takes what the subscription brings: counts it, checks it, hands it on, and logs what is wrong.
//!
//! **Runs on**: the router. **Owns**: the limits of its log lines. **Never**: logs a payload: it may hold
//! anything, and it is the publisher's.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ara_shards::wire::text;
use bytes::Bytes;
use tracing::warn;

use super::message::{self, Rejection, Request, SOURCE, Tenants};
use super::rejected::Rejected;
use super::resp::Frame;
use super::{Status, add_one};
use crate::intake::batch::{Batch, Outcome};
use crate::intake::{Fault, Trigger};
use crate::refusal::Refusal;
use crate::telemetry::LogLimiter;
use crate::templates::{Catalog, TemplateStore};

/// At most one line of each kind in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(1);
/// How much of a Redis channel's name a log line shows.
const SHOWN_BYTES_MAX: usize = 160;

/// Where valid triggers go. What becomes of them is not told: pub/sub has no way back.
pub trait Sink {
    /// Sends a trigger.
    ///
    /// # Errors
    ///
    /// It was not taken, and nothing of it is sent.
    fn send(&mut self, trigger: Trigger) -> Result<(), Refusal>;

    /// Has `fill` hand over the triggers of a batch of `count` notifications, and sends what was taken of
    /// them together.
    ///
    /// # Errors
    ///
    /// Nothing can be sent; then `fill` is not called.
    fn send_batch<T>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut dyn FnMut(Trigger) -> Result<(), Refusal>) -> T,
    ) -> Result<T, Refusal>;
}

/// What the subscriber has received goes through here.
pub(super) struct Receiver<S> {
    tenants: Tenants,
    templates: Rc<TemplateStore>,
    status: Rc<Status>,
    rejections: LogLimiter,
    refusals: LogLimiter,
    sink: S,
}

impl<S: Sink> Receiver<S> {
    pub(super) const fn new(
        tenants: Tenants,
        templates: Rc<TemplateStore>,
        status: Rc<Status>,
        sink: S,
    ) -> Self {
        let rejections = LogLimiter::new(WARN_INTERVAL);
        let refusals = LogLimiter::new(WARN_INTERVAL);
        Self { tenants, templates, status, rejections, refusals, sink }
    }

    /// Returns how many notifications there were to look at.
    pub(super) fn take(&mut self, frame: Frame) -> usize {
        match frame {
            Frame::Message { channel, payload } => return self.take_message(&channel, &payload),
            Frame::Oversize => {
                add_one(&self.status.messages_received);
                self.reject(&Rejection::TooLarge, b"", message::MESSAGE_BYTES_MAX);
            }
            Frame::Subscribed | Frame::Pong | Frame::Okay | Frame::Refused(_) => {}
        }
        1
    }

    fn take_message(&mut self, channel: &[u8], payload: &Bytes) -> usize {
        add_one(&self.status.messages_received);
        let templates = Rc::clone(&self.templates);
        let templates = templates.catalog();
        match message::parse(channel, payload, &self.tenants, &templates) {
            Ok(Request::Trigger(trigger)) => {
                if let Err(refusal) = self.sink.send(trigger) {
                    self.count_not_sent(&refusal);
                }
            }
            Ok(Request::Batch { tenant, batch }) => {
                self.send_batch(&tenant, &batch, &templates);
                return batch.count();
            }
            Err(rejection) => self.reject(&rejection, channel, payload.len()),
        }
        1
    }

    fn send_batch(&mut self, tenant: &Arc<str>, batch: &Batch<'_>, templates: &Catalog) {
        let outcomes = self.sink.send_batch(batch.count(), |send| {
            batch.send_each(tenant, SOURCE, templates, |_index, trigger| send(trigger))
        });
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(refusal) => {
                (0..batch.count()).for_each(|_| self.count_not_sent(&refusal));
                return;
            }
        };
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Sent(()) | Outcome::Skipped => {}
                Outcome::Invalid(fault) => self.reject_item(&fault, index, tenant),
                Outcome::Refused(refusal) => self.count_not_sent(&refusal),
                Outcome::NotAttempted => self.status.count_rejected(Rejected::NotAttempted),
            }
        }
    }

    fn reject_item(&mut self, fault: &Fault, index: usize, tenant: &str) {
        let rejected = Rejected::of(fault, None);
        self.status.count_rejected(rejected);
        if let Some(suppressed) = self.rejections.admit(Instant::now()) {
            let (reason, field, problem) = (rejected.reason(), fault.field(), fault.to_string());
            warn!(
                reason,
                index,
                field,
                problem,
                tenant,
                suppressed,
                "rejected a notification of a batch from Redis"
            );
        }
    }

    fn reject(&mut self, rejection: &Rejection, channel: &[u8], bytes: usize) {
        self.status.count_rejected(rejection.reason());
        if let Some(suppressed) = self.rejections.admit(Instant::now()) {
            let channel = String::from_utf8_lossy(channel);
            let channel = text::cut(&channel, SHOWN_BYTES_MAX);
            let reason = rejection.reason().reason();
            let problem = rejection.to_string();
            warn!(reason, problem, ?channel, bytes, suppressed, "rejected a message from Redis");
        }
    }

    fn count_not_sent(&mut self, refusal: &Refusal) {
        self.status.count_not_sent();
        if let Some(suppressed) = self.refusals.admit(Instant::now()) {
            warn!(reason = %refusal.message, suppressed, "a Redis trigger was not sent");
        }
    }
}

#[cfg(test)]
#[path = "receiver_tests.rs"]
mod tests;
