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
/// The longest a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Reads the body of a request.
pub(super) async fn read(parts: &Parts, body: Incoming) -> Result<Bytes, Refusal> {
    check_type(parts)?;
    let bytes_max = bytes_max(parts);
    let too_large = || {
        let sentence = format!("the body is longer than {bytes_max} bytes");
        Refusal::new(Code::PayloadTooLarge, sentence)
    };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
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

/// Parses a body; a fault names its line and column, or the field that is not as it must be.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let mut refusal = Refusal::new(Code::Validation, format!("{error}"));
        let mut details = serde_json::json!({ "line": line, "column": column });
        if let (Some(field), Some(map)) = (field_of(&error), details.as_object_mut()) {
            map.insert("field".to_owned(), field.into());
        }
        refusal.details = Some(details);
        refusal
    })
}

/// The field a data error names between backquotes.
fn field_of(error: &serde_json::Error) -> Option<String> {
    let text = error.to_string();
    let named = text.strip_prefix("missing field `").or_else(|| {
        text.strip_prefix("unknown field `").or_else(|| text.strip_prefix("duplicate field `"))
    })?;
    named.split('`').next().map(str::to_owned)
}
