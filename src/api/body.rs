//! Request bodies: JSON only, bounded, and only so long in coming.
//!
//! **Runs on**: the router's thread. **Owns**: one body. **Never**: reads beyond its bound.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde::Deserialize;
use tokio::time::timeout;

use crate::refusal::{Code, Refusal};

/// The longest body of a single trigger.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest list of targets is 10,000 users of 128 bytes: such a body may be larger, as long as
/// its payload is not.
pub(super) const TARGETS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest an unwanted body may take.
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);
/// The longest a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Reads a body that nobody wants, as long as it is short and comes soon. False if it was not read
/// to its end.
pub(super) async fn discard(mut body: Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().upper().is_none_or(|bytes| bytes > BODY_BYTES_MAX as u64) {
        return false;
    }
    let read_all = async { while let Some(Ok(_frame)) = body.frame().await {} };
    timeout(DISCARD_DEADLINE, read_all).await.is_ok()
}

/// Reads the body of a request.
pub(super) async fn read(parts: &Parts, body: &mut Option<Incoming>) -> Result<Bytes, Refusal> {
    check_type(parts)?;
    let bytes_max = bytes_max(parts);
    let too_large = || {
        let sentence = format!("the body is longer than {bytes_max} bytes");
        Refusal::new(Code::PayloadTooLarge, sentence)
    };
    if body.as_ref().is_some_and(|body| body.size_hint().lower() > bytes_max as u64) {
        return Err(too_large());
    }
    let Some(body) = body.take() else { return Ok(Bytes::new()) };
    match timeout(BODY_DEADLINE, Limited::new(body, bytes_max).collect()).await {
        Err(_elapsed) => {
            let sentence = format!("the body did not come within {BODY_DEADLINE:?}");
            Err(Refusal::new(Code::RequestTimeout, sentence).with_header("connection", "close"))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Refusal::new(Code::Validation, format!("the body could not be read: {error}")))
        }
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

fn bytes_max(parts: &Parts) -> usize {
    if parts.uri.path().ends_with("/send-to-users") { TARGETS_BYTES_MAX } else { BODY_BYTES_MAX }
}

fn check_type(parts: &Parts) -> Result<(), Refusal> {
    let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_json = kind.is_some_and(|kind| {
        let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
    });
    if is_json {
        return Ok(());
    }
    let sentence = "send JSON with the header `Content-Type: application/json`";
    Err(Refusal::new(Code::UnsupportedMediaType, sentence))
}

/// Parses a body; a fault names its line and column, and the field that is not as it must be.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let mut details = serde_json::json!({ "line": line, "column": column });
        if let (true, Some(map)) = (error.is_data(), details.as_object_mut()) {
            map.insert("field".to_owned(), field_of::<T>(bytes, &error).into());
        }
        Refusal { details: Some(details), ..Refusal::new(Code::Validation, error.to_string()) }
    })
}

/// The path of the field a data error is about. Parsing again finds it: only the unlucky pay.
fn field_of<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> String {
    let again = &mut serde_json::Deserializer::from_slice(bytes);
    let path = serde_path_to_error::deserialize::<_, T>(again)
        .err()
        .map(|error| error.path().to_string())
        .filter(|path| path != ".");
    // A missing or unknown field is not on the path; the message names it.
    let named = || error.to_string().split('`').nth(1).map(str::to_owned);
    path.or_else(named).unwrap_or_default()
}
