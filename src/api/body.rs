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
use serde_json::Value;
use tokio::time::timeout;

use super::watch::Watch;
use crate::intake::fault::{Problem, TemplateProblem};
use crate::intake::{Fault, draft};
use crate::refusal::{Code, Refusal};
use crate::router::shutting_down;
use crate::templates::pattern::{PATTERN_BYTES_MAX, PatternProblem};
use crate::templates::render::RenderFault;

/// The longest body of a single trigger.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// A template's own bound is on its payload; the rest of such a body is short.
pub(super) const TEMPLATE_BYTES_MAX: usize = PATTERN_BYTES_MAX + 16 * 1024;
/// The longest list of targets is 10,000 users of 128 bytes: such a body may be larger, as long as
/// its payload is not.
pub(super) const TARGETS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest body of a batch.
pub(super) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How compressed bodies begin whose callers forgot to say so.
const COMPRESSED: [(&[u8], &str); 2] = [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")];
/// The most characters of an encoding's name that are repeated to its caller.
const CODING_CHARS_MAX: usize = 32;
/// The longest an unwanted body may take.
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);
/// The longest a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Reads a body that nobody wants, as long as it is short and comes soon. False if it was not read
/// to its end.
pub(super) async fn discard(mut body: Incoming, watch: &Watch) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().upper().is_none_or(|bytes| bytes > BODY_BYTES_MAX as u64) {
        return false;
    }
    let read_all = async { while let Some(Ok(_frame)) = body.frame().await {} };
    tokio::select! {
        biased;
        read = timeout(DISCARD_DEADLINE, read_all) => read.is_ok(),
        () = watch.stop_is_due() => false,
    }
}

/// Reads the body of a request, which has at most `bytes_max` bytes; `None` = its route takes no body.
pub(super) async fn read(
    parts: &Parts,
    body: &mut Option<Incoming>,
    bytes_max: Option<usize>,
    watch: &Watch,
) -> Result<Bytes, Refusal> {
    let Some(bytes_max) = bytes_max else { return Ok(Bytes::new()) };
    check_type(parts)?;
    check_encoding(parts)?;
    let too_large = || {
        let sentence = format!("the body is longer than {bytes_max} bytes");
        Refusal::new(Code::PayloadTooLarge, sentence)
    };
    if body.as_ref().is_some_and(|body| body.size_hint().lower() > bytes_max as u64) {
        return Err(too_large());
    }
    let Some(body) = body.take() else { return Ok(Bytes::new()) };
    let read = timeout(BODY_DEADLINE, Limited::new(body, bytes_max).collect());
    let read = tokio::select! {
        // Most bodies are there with their heads: for those nothing else is set up.
        biased;
        read = read => read,
        // Whoever is told to come back must not wait for a body that does not come.
        () = watch.stop_is_due() => {
            return Err(shutting_down().with_header("connection", "close"));
        }
    };
    match read {
        Err(_elapsed) => {
            let sentence = format!("the body did not come within {BODY_DEADLINE:?}");
            Err(Refusal::new(Code::RequestTimeout, sentence).with_header("connection", "close"))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Refusal::new(Code::Validation, format!("the body could not be read: {error}")))
        }
        Ok(Ok(collected)) => {
            let bytes = collected.to_bytes();
            let compressed = COMPRESSED.iter().find(|(magic, _)| bytes.starts_with(magic));
            compressed.map_or(Ok(bytes), |(_, name)| Err(encoded(name)))
        }
    }
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

/// A body comes as it is: what is unpacked could be a thousand times what was counted.
fn check_encoding(parts: &Parts) -> Result<(), Refusal> {
    for value in parts.headers.get_all(header::CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let mut codings = value.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        if let Some(coding) = codings.find(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(encoded(&coding.chars().take(CODING_CHARS_MAX).collect::<String>()));
        }
    }
    Ok(())
}

fn encoded(coding: &str) -> Refusal {
    let sentence = format!("the body is encoded as `{coding}`: send the JSON as it is");
    // RFC 9110, section 15.5.16: what would have been taken.
    Refusal::new(Code::UnsupportedMediaType, sentence).with_header("accept-encoding", "identity")
}

/// Parses a body; a fault names the field that is not as it must be, and its line and column.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    draft::read(bytes).map_err(|fault| refuse(&fault))
}

/// What a caller is told of a fault in its body.
pub(super) fn refuse(fault: &Fault) -> Refusal {
    let too_long = match fault {
        Fault::Field { problem, .. } => matches!(problem, Problem::TooLong { .. }),
        Fault::Pattern(fault) => fault.problem == PatternProblem::TooLong,
        Fault::Json(_) | Fault::Template { .. } | Fault::Variables { .. } => false,
    };
    if too_long {
        return Refusal::new(Code::PayloadTooLarge, fault.to_string());
    }
    let mut details = serde_json::Map::new();
    if let Some(field) = fault.field() {
        details.insert("field".to_owned(), field.into());
    }
    let code = match fault {
        Fault::Json(_) | Fault::Field { .. } | Fault::Pattern(_) => Code::Validation,
        Fault::Template { problem: TemplateProblem::BadId, .. } => Code::InvalidTemplateId,
        Fault::Template { problem: TemplateProblem::Unknown, .. } => Code::TemplateNotFound,
        Fault::Variables { fault, .. } => explain(fault, &mut details),
    };
    if let Fault::Json(fault) = fault
        && let Some((line, column)) = fault.position()
    {
        details.insert("line".to_owned(), line.into());
        details.insert("column".to_owned(), column.into());
    }
    let details = Some(details.into());
    Refusal { details, ..Refusal::new(code, fault.to_string()) }
}

/// The code of variables that do not fill a template, and which they are.
fn explain(fault: &RenderFault, details: &mut serde_json::Map<String, Value>) -> Code {
    match fault {
        RenderFault::NotAnObject => Code::Validation,
        RenderFault::Missing(names) => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            details.insert("missing".to_owned(), names.into());
            Code::MissingVariable
        }
        RenderFault::Invalid { variable, place, problem: _ } => {
            details.insert("variable".to_owned(), (**variable).into());
            if let Some(place) = place {
                details.insert("place".to_owned(), place.as_str().into());
            }
            Code::InvalidVariable
        }
    }
}
