//! The stand-in's side of HTTP: one request at the front of a byte slice.

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Route {
    Ready,
    Ws,
    Sse { channels: Vec<String> },
    Channel(String),
    Stats,
    Publish,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) route: Route,
    pub(super) api_key: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) body: &'a [u8],
    pub(super) close: bool,
    /// Head and body together.
    pub(super) bytes: usize,
}

/// `None`: not HTTP. `Some(None)`: not complete yet.
pub(super) fn read(input: &[u8]) -> Option<Option<Request<'_>>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut fields);
    let head_bytes = match head.parse(input).ok()? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial => return Some(None),
    };
    let field = |name: &str| {
        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| str::from_utf8(field.value).ok())
    };
    let body_bytes: usize = field("content-length").map_or(Some(0), |text| text.parse().ok())?;
    let Some(body) = input.get(head_bytes..).and_then(|rest| rest.get(..body_bytes)) else {
        return Some(None);
    };
    Some(Some(Request {
        route: route(head.method?, head.path?),
        api_key: field("x-api-key").unwrap_or_default(),
        token: field("authorization").and_then(|text| text.strip_prefix("Bearer ")),
        body,
        close: field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        bytes: head_bytes + body_bytes,
    }))
}

fn route(method: &str, target: &str) -> Route {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (method, path) {
        ("GET", "/health/ready") => Route::Ready,
        ("GET", "/stats") => Route::Stats,
        ("GET", "/ws") => Route::Ws,
        ("GET", "/sse") => {
            let names = query.strip_prefix("channels=").unwrap_or_default().split(',');
            let names = names.filter(|name| !name.is_empty());
            Route::Sse { channels: names.map(str::to_owned).collect() }
        }
        ("POST", path) if path.starts_with("/api/v1/notifications/") => Route::Publish,
        ("GET", path) => path
            .strip_prefix("/api/v1/channels/")
            .map_or(Route::Unknown, |name| Route::Channel(name.to_owned())),
        _ => Route::Unknown,
    }
}
