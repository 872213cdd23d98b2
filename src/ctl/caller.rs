//! Calls to the API, each with a deadline.
//!
//! **Runs on**: main. **Owns**: the key. **Never**: shows the key; takes an answer that is none of the
//! gateway's.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use crate::failure::Failure;

/// Longer than the gateway takes for any answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// The variable that holds the key.
const KEY: &str = "ARA_API_KEY";

/// Calls one gateway.
pub(super) struct Caller {
    agent: Agent,
    url: String,
    key: String,
    tenant: Option<String>,
}

impl Caller {
    /// A caller with the key of that file, or of the environment.
    pub(super) fn new(
        url: &str,
        key: Option<&Path>,
        tenant: Option<&str>,
    ) -> Result<Self, Failure> {
        if !url.starts_with("http://") {
            let problem = format!("`{url}` does not begin with http://: ctl speaks plain HTTP");
            return Err(Failure::new(format!("{problem}; name the API's own address in ARA_URL")));
        }
        let key = match key {
            Some(file) => std::fs::read_to_string(file).map_err(|error| {
                Failure::new(format!("{} cannot be read: {error}", file.display()))
            })?,
            None => std::env::var(KEY).map_err(|_missing| {
                Failure::new(format!("no API key: set {KEY}, or name a file by --api-key-file"))
            })?,
        };
        let config = Agent::config_builder()
            .timeout_global(Some(DEADLINE))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Ok(Self {
            agent: config.into(),
            url: url.trim_end_matches('/').to_owned(),
            key: key.trim().to_owned(),
            tenant: tenant.map(str::to_owned),
        })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.read(self.with_head(self.agent.get(self.address(path))).call())
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.read(self.with_head(self.agent.delete(self.address(path))).call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.post_text(path, &body.to_string())
    }

    pub(super) fn post_text(&self, path: &str, body: &str) -> Result<Value, Failure> {
        let request = self.with_head(self.agent.post(self.address(path)));
        self.read(request.content_type("application/json").send(body))
    }

    pub(super) fn put_text(&self, path: &str, body: &str) -> Result<Value, Failure> {
        let request = self.with_head(self.agent.put(self.address(path)));
        self.read(request.content_type("application/json").send(body))
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn with_head<Body>(&self, request: ureq::RequestBuilder<Body>) -> ureq::RequestBuilder<Body> {
        let request = request.header("X-API-Key", &self.key);
        match &self.tenant {
            Some(tenant) => request.header("X-Tenant-ID", tenant),
            None => request,
        }
    }

    /// The answer, or what the gateway says is wrong, with its code first.
    fn read(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let mut answer = answer
            .map_err(|error| Failure::new(format!("no answer from {}: {error}", self.url)))?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string();
        let text = text
            .map_err(|error| Failure::new(format!("half an answer from {}: {error}", self.url)))?;
        if text.is_empty() && status.is_success() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        let strange = |_error| {
            Failure::new(format!("{} answers {status}, and not as a gateway does", self.url))
        };
        let value: Value = serde_json::from_str(&text).map_err(strange)?;
        if status.is_success() {
            return Ok(value);
        }
        let told = |name: &str| value.pointer(&format!("/error/{name}")).and_then(Value::as_str);
        Err(Failure::new(match (told("code"), told("message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            _ => format!("{} answers {status}", self.url),
        }))
    }
}
