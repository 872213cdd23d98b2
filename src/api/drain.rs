//! The operator's drain: clients are sent away at a stated rate, which can be watched and ended.
//!
//! **Runs on**: the router's thread. **Owns**: nothing. **Never**: stops the process.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::{Api, HttpResponse, body, json};
use crate::audit::{self, About, Event};
use crate::refusal::Refusal;
use crate::router::drain::DrainStatus;

/// The fastest drain, in clients a second.
const RATE_MAX: u32 = 20_000;
/// The slowest that a stated time can come to.
const RATE_MIN: f64 = 0.1;
/// The longest drain, in seconds: a day.
const SECONDS_MAX: u32 = 86_400;

#[derive(Deserialize)]
struct Order {
    rate_per_second: Option<u64>,
    seconds: Option<u64>,
}

#[derive(Serialize)]
struct Shown {
    state: &'static str,
    #[serde(flatten)]
    drain: Option<Figures>,
}

#[derive(Serialize)]
struct Figures {
    rate_per_second: f64,
    started_at: String,
    clients: usize,
    sent_away: u64,
    remaining: usize,
    remaining_seconds: f64,
}

impl Shown {
    fn new(status: Option<DrainStatus>, state: &'static str) -> Self {
        let drain = status.map(|status| Figures {
            rate_per_second: status.rate_per_second,
            started_at: humantime::format_rfc3339_millis(status.started_at).to_string(),
            clients: status.clients,
            sent_away: status.sent_away,
            remaining: status.remaining,
            remaining_seconds: as_number(status.remaining) / status.rate_per_second,
        });
        Self { state, drain }
    }
}

fn as_number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn state_of(status: Option<DrainStatus>) -> &'static str {
    match status {
        None => "off",
        Some(status) if status.remaining > 0 => "draining",
        Some(_) => "drained",
    }
}

/// `POST /api/v1/drain`.
pub(super) async fn start(api: &Api, call: Call<'_, ()>) -> Result<HttpResponse, Refusal> {
    let order: Order = body::parse(&call.body)?;
    let rate = match (order.rate_per_second, order.seconds) {
        (Some(rate), None) => f64::from(whole("rate_per_second", rate, RATE_MAX)?),
        (None, Some(seconds)) => {
            let seconds = f64::from(whole("seconds", seconds, SECONDS_MAX)?);
            let clients = as_number(api.router.overview().admitted.total());
            (clients / seconds).clamp(RATE_MIN, f64::from(RATE_MAX))
        }
        (None, None) | (Some(_), Some(_)) => {
            let sentence = "a drain has either `rate_per_second` or `seconds`";
            return Err(Refusal::field("rate_per_second", sentence));
        }
    };
    let status = api.router.start_drain(rate)?;
    let about = About { count: Some(status.remaining), ..About::default() };
    audit::record(Event::DrainStarted, &call.caller, about);
    Ok(json(StatusCode::OK, &Shown::new(Some(status), state_of(Some(status)))))
}

/// A number from 1 to `most`.
fn whole(field: &str, value: u64, most: u32) -> Result<u32, Refusal> {
    let fits = u32::try_from(value).ok().filter(|value| (1..=most).contains(value));
    fits.ok_or_else(|| {
        Refusal::field(field, format!("`{field}` is a whole number from 1 to {most}"))
    })
}

/// `GET /api/v1/drain`.
pub(super) async fn show(api: &Api) -> Result<HttpResponse, Refusal> {
    let status = api.router.drain_status();
    Ok(json(StatusCode::OK, &Shown::new(status, state_of(status))))
}

/// `DELETE /api/v1/drain`: with what it had come to.
pub(super) async fn stop(api: &Api, call: Call<'_, ()>) -> Result<HttpResponse, Refusal> {
    let status = api.router.stop_drain();
    if let Some(status) = status {
        let about = About { count: Some(status.remaining), ..About::default() };
        audit::record(Event::DrainStopped, &call.caller, about);
    }
    Ok(json(StatusCode::OK, &Shown::new(status, "off")))
}
