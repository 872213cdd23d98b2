//! `POST /api/v1/notifications/batch`: several triggers in one request, answered one by one.
//!
//! **Runs on**: the router's thread. **Owns**: one request. **Never**: lets one notification of a
//! batch decide what is answered for another, but where its sender asks for that.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ara_shards::base::id::NotificationId;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use uuid::Uuid;

use super::call::Call;
use super::notifications::{SOURCE, idempotency_key, once};
use super::{Api, HttpResponse, body, json_bytes};
use crate::idempotency::{Request, Response};
use crate::intake::batch::{Batch, OptionsDraft, Outcome};
use crate::refusal::{ErrorBody, Refusal};
use crate::router::dispatch::{Dispatched, Receipt};
use crate::router::{REPORT_DEADLINE, Router};
use crate::templates::TemplateStore;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    notifications: Vec<&'a RawValue>,
    options: Option<OptionsDraft>,
}

/// Sends what is to be sent, once for an `Idempotency-Key`, and answers with the exact counts of each.
pub(super) async fn serve(api: &Api, call: Call<'_>) -> Result<HttpResponse, Refusal> {
    let Call { parts, tenant, body, .. } = call;
    let Some(key) = idempotency_key(&parts.headers)? else {
        let Response { status, body } =
            send(&api.router, &api.templates, tenant, body, None).await?;
        return Ok(json_bytes(status, body));
    };
    let (router, templates) = (api.router.clone(), Rc::clone(&api.templates));
    let (owner, bytes) = (Arc::clone(&tenant), body.clone());
    let request = Request { tenant: &tenant, key, path: parts.uri.path(), body: &body };
    once(api, request, |id| async move { send(&router, &templates, owner, bytes, id).await }).await
}

/// Sends a batch by the templates there are now; by the name of `id` if there is one.
async fn send(
    router: &Router,
    templates: &TemplateStore,
    tenant: Arc<str>,
    bytes: Bytes,
    id: Option<NotificationId>,
) -> Result<Response, Refusal> {
    let id = id.unwrap_or_else(|| NotificationId(*Uuid::now_v7().as_bytes()));
    let outcomes = {
        let Body { notifications, options } = body::parse(&bytes)?;
        let batch = Batch::new(&bytes, notifications, options);
        let batch = batch.map_err(|fault| body::refuse(&fault))?;
        router.dispatch_batch(batch.count(), |together| {
            batch.send_each(&tenant, SOURCE, &templates.catalog(), |index, trigger| {
                together.add(trigger, id_of(id, index))
            })
        })?
    };
    let deadline = Instant::now() + REPORT_DEADLINE;
    let mut results = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        results.push(settle(outcome, deadline).await);
    }
    let response = BatchResponse::new(id, &results);
    let body = serde_json::to_vec(&response).expect("memory takes whatever has string keys");
    Ok(Response { status: StatusCode::OK, body: body.into() })
}

/// The id of one notification of a batch: it follows from the batch's, so that a batch that is sent
/// again after a crash sends the same ones. The last four bytes of a version 7 id are random.
fn id_of(batch: NotificationId, index: usize) -> NotificationId {
    let mut bytes = batch.0;
    let [.., a, b, c, d] = bytes;
    let number = u32::try_from(index).expect("a batch has at most 100 notifications");
    let last = u32::from_be_bytes([a, b, c, d]).wrapping_add(number).wrapping_add(1);
    if let Some(end) = bytes.last_chunk_mut() {
        *end = last.to_be_bytes();
    }
    NotificationId(bytes)
}

/// What a notification has come to.
enum Settled {
    Sent(Receipt),
    Skipped,
    Refused(Refusal),
    NotAttempted,
}

/// What is said of a notification that was not looked at. It is no refusal of a request.
const NOT_ATTEMPTED: ErrorBody<'_> = ErrorBody {
    code: "NOT_ATTEMPTED",
    message: "a notification before it was refused, and `stop_on_error` is set",
    details: None,
};

async fn settle(outcome: Outcome<Dispatched, Refusal>, deadline: Instant) -> Settled {
    match outcome {
        Outcome::Sent(dispatched) => match dispatched.receipt_by(deadline).await {
            Ok(receipt) => Settled::Sent(receipt),
            Err(refusal) => Settled::Refused(refusal),
        },
        Outcome::Skipped => Settled::Skipped,
        Outcome::Invalid(fault) => Settled::Refused(body::refuse(&fault)),
        Outcome::Refused(refusal) => Settled::Refused(refusal),
        Outcome::NotAttempted => Settled::NotAttempted,
    }
}

/// What a batch is answered.
#[derive(Serialize)]
struct BatchResponse<'a> {
    batch_id: String,
    results: Vec<ItemResult<'a>>,
    summary: Summary,
}

#[derive(Serialize, Default)]
struct Summary {
    total: usize,
    succeeded: usize,
    failed: usize,
    total_delivered: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ItemResult<'a> {
    Sent {
        index: usize,
        success: bool,
        notification_id: String,
        delivered_to: u32,
        failed: u32,
        queued: bool,
        /// Users who are away and whose queue could not take it.
        #[serde(skip_serializing_if = "Option::is_none")]
        not_queued: Option<u32>,
    },
    Skipped {
        index: usize,
        success: bool,
        skipped: bool,
        delivered_to: u32,
    },
    Refused {
        index: usize,
        success: bool,
        error: ErrorBody<'a>,
    },
}

impl<'a> BatchResponse<'a> {
    fn new(id: NotificationId, results: &'a [Settled]) -> Self {
        let mut summary = Summary { total: results.len(), ..Summary::default() };
        let results = results.iter().enumerate();
        let results = results.map(|(index, settled)| summary.add(index, settled)).collect();
        Self { batch_id: format!("batch-{id}"), results, summary }
    }
}

impl Summary {
    fn add<'a>(&mut self, index: usize, settled: &'a Settled) -> ItemResult<'a> {
        match settled {
            Settled::Refused(refusal) => {
                self.failed += 1;
                ItemResult::Refused { index, success: false, error: refusal.error() }
            }
            Settled::NotAttempted => {
                self.failed += 1;
                ItemResult::Refused { index, success: false, error: NOT_ATTEMPTED }
            }
            Settled::Skipped => {
                self.succeeded += 1;
                ItemResult::Skipped { index, success: true, skipped: true, delivered_to: 0 }
            }
            Settled::Sent(receipt) => {
                let total = receipt.total();
                let not_queued = total.refused + total.over_limit;
                self.succeeded += 1;
                self.total_delivered += u64::from(total.delivered);
                ItemResult::Sent {
                    index,
                    success: true,
                    notification_id: receipt.id.to_string(),
                    delivered_to: total.delivered,
                    failed: total.failed,
                    queued: total.queued > 0,
                    not_queued: (not_queued > 0).then_some(not_queued),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahash::AHashSet;

    #[test]
    fn the_ids_of_a_batch_differ_and_follow_from_its_own() {
        for end in [0_u8, 0xff] {
            let mut batch = *Uuid::now_v7().as_bytes();
            batch[12..].fill(end);
            let batch = NotificationId(batch);
            let ids: AHashSet<_> = (0..100).map(|index| id_of(batch, index).0).collect();
            assert_eq!(ids.len(), 100);
            assert!(!ids.contains(&batch.0), "the batch has an id of its own");
            assert!(ids.iter().all(|id| id[..12] == batch.0[..12]));
            assert_eq!(id_of(batch, 7), id_of(batch, 7));
        }
    }
}
