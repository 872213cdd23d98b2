//! A "no" to an HTTP caller: its status, its code, and a sentence that helps.
//!
//! **Runs on**: any thread. **Owns**: nothing. **Never**: carries a secret, a stack or a path.

use std::fmt::Write as _;
use std::time::SystemTime;

use http::StatusCode;
use httpdate::fmt_http_date;
use serde::Serialize;
use serde_json::Value;

use crate::origin;

/// The `Cache-Control` of every answer but an event stream: most are for the caller's key or token
/// alone, which a shared cache does not look at, and all are of this moment.
pub const NO_STORE: &str = "no-store";

/// The contract's error codes, by what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Mend the request.
    Validation,
    /// Present a token.
    Unauthorized,
    /// Present another token: this one is not valid.
    InvalidToken,
    /// Present a valid API key.
    KeyRequired,
    /// Not from here.
    Forbidden,
    /// No such path.
    NotFound,
    /// No such channel has subscribers.
    ChannelNotFound,
    /// Nothing is known of such a tenant.
    TenantNotFound,
    /// The user has no connection.
    UserNotConnected,
    /// The tenant has no such template.
    TemplateNotFound,
    /// Choose another id, or change the one there is.
    TemplateExists,
    /// What is to be the id of a template cannot be one.
    InvalidTemplateId,
    /// Delete templates first.
    TemplateLimit,
    /// Give the template all its variables.
    MissingVariable,
    /// Give the template's text a variable that can be written into it.
    InvalidVariable,
    /// Another method.
    MethodNotAllowed,
    /// Choose another Idempotency-Key, or wait.
    IdempotencyConflict,
    /// Send faster.
    RequestTimeout,
    /// Send less.
    PayloadTooLarge,
    /// Send JSON.
    UnsupportedMediaType,
    /// Ask for a WebSocket.
    UpgradeRequired,
    /// Close other connections first.
    ConnectionLimit,
    /// Wait: this has happened too often.
    RateLimited,
    /// Wait until the tenant's users have taken something.
    QueueFull,
    /// Send shorter headers.
    HeadTooLarge,
    /// Our fault.
    Internal,
    /// A shard has no room: try again.
    Overloaded,
    /// The disk does not take what should wait: make room, or try again.
    QueueUnavailable,
    /// The disk does not take a change of the templates: make room, or try again.
    TemplatesUnavailable,
    /// Going away: try another.
    ShuttingDown,
}

impl Code {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.parts().1
    }

    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::Validation => (StatusCode::BAD_REQUEST, "VALIDATION_ERROR"),
            Self::Unauthorized | Self::InvalidToken | Self::KeyRequired => {
                (StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Self::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::ChannelNotFound => (StatusCode::NOT_FOUND, "CHANNEL_NOT_FOUND"),
            Self::TenantNotFound => (StatusCode::NOT_FOUND, "TENANT_NOT_FOUND"),
            Self::UserNotConnected => (StatusCode::NOT_FOUND, "USER_NOT_CONNECTED"),
            Self::TemplateNotFound => (StatusCode::NOT_FOUND, "TEMPLATE_NOT_FOUND"),
            Self::TemplateExists => (StatusCode::CONFLICT, "TEMPLATE_EXISTS"),
            Self::InvalidTemplateId => (StatusCode::BAD_REQUEST, "INVALID_TEMPLATE_ID"),
            Self::TemplateLimit => (StatusCode::CONFLICT, "TEMPLATE_LIMIT"),
            Self::MissingVariable => (StatusCode::UNPROCESSABLE_ENTITY, "MISSING_VARIABLE"),
            Self::InvalidVariable => (StatusCode::UNPROCESSABLE_ENTITY, "INVALID_VARIABLE"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::IdempotencyConflict => (StatusCode::CONFLICT, "IDEMPOTENCY_CONFLICT"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE")
            }
            Self::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED"),
            Self::ConnectionLimit => (StatusCode::TOO_MANY_REQUESTS, "CONNECTION_LIMIT_EXCEEDED"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "QUEUE_FULL"),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "REQUEST_HEADER_FIELDS_TOO_LARGE")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
            Self::QueueUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "QUEUE_UNAVAILABLE"),
            Self::TemplatesUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "TEMPLATES_UNAVAILABLE")
            }
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "SHUTTING_DOWN"),
        }
    }
}

/// What the header `Date` of an answer made now says.
#[must_use]
pub fn date() -> String {
    fmt_http_date(SystemTime::now())
}

/// A refusal on its way to the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// What was wrong and what to do, in one sentence.
    pub message: String,
    /// Machine-readable particulars.
    pub details: Option<Value>,
    /// Headers beyond the usual (`Allow`, `Retry-After`, `Upgrade` …).
    pub headers: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: ErrorBody<'a>,
}

/// The `error` of a response.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody<'a> {
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<&'a Value>,
}

impl Refusal {
    /// A refusal without particulars.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let headers = match code {
            Code::Overloaded | Code::QueueUnavailable | Code::TemplatesUnavailable => {
                vec![("retry-after", "1".to_owned())]
            }
            Code::Unauthorized => vec![("www-authenticate", "Bearer".to_owned())],
            // Only what was sent can be in error (RFC 6750 section 3.1).
            Code::InvalidToken => {
                vec![("www-authenticate", r#"Bearer error="invalid_token""#.to_owned())]
            }
            // There is no registered scheme for a key in a header; a 401 must name one all the same
            // (RFC 9110 section 11.6.1).
            Code::KeyRequired => {
                vec![("www-authenticate", "ApiKey header=\"X-API-Key\"".to_owned())]
            }
            _ => Vec::new(),
        };
        Self { code, message: message.into(), details: None, headers }
    }

    /// A field of the request is not as it must be.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        let details = serde_json::json!({ "field": field });
        Self { details: Some(details), ..Self::new(Code::Validation, message) }
    }

    /// Sets a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.into()));
        self
    }

    /// The HTTP status.
    pub const fn status(&self) -> StatusCode {
        self.code.parts().0
    }

    /// The body as JSON.
    pub fn body(&self) -> Vec<u8> {
        // Serializing to memory cannot fail.
        serde_json::to_vec(&Body { error: self.error() }).unwrap_or_default()
    }

    /// What the body says, for where it is a part of another.
    pub(crate) fn error(&self) -> ErrorBody<'_> {
        let code = self.code.parts().1;
        ErrorBody { code, message: &self.message, details: self.details.as_ref() }
    }

    /// The whole HTTP/1.1 response, for a socket that hyper does not serve. `cors_origin` is what
    /// the CORS headers allow, if anything.
    pub fn response(&self, cors_origin: Option<&str>) -> Vec<u8> {
        let body = self.body();
        let mut head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             cache-control: {NO_STORE}\r\nconnection: close\r\ndate: {}\r\n",
            self.status(),
            body.len(),
            date()
        );
        for (name, value) in &self.headers {
            // Writing to a String cannot fail.
            let _written = write!(head, "{name}: {value}\r\n");
        }
        head.push_str(&origin::head_lines(cors_origin));
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&body);
        bytes
    }
}
