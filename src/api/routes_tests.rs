//! What the table of routes says is what callers are told, and what the documents say.

use super::*;
use crate::listener::handshake::transport_of;

fn found(path: &str) -> Option<(&'static str, Option<&str>)> {
    let found = Found::at(path)?;
    Some((found.routes.first()?.path, found.parameter.map(|(_, segment)| segment)))
}

#[test]
fn a_path_is_found_by_its_segments() {
    for route in ROUTES {
        let filled = route.path.replace(['{', '}'], "");
        assert_eq!(found(&filled).unwrap().0, route.path);
    }
    let user = "/api/v1/users/{user_id}/queue";
    for (path, expected) in [
        ("/api/v1/users/anna/queue", Some((user, Some("anna")))),
        ("/api/v1/users/a%2Fb/queue", Some((user, Some("a%2Fb")))),
        ("/api/v1/users//queue", Some((user, Some("")))),
        ("//health", Some(("/health", None))),
        ("/health/", None),
        ("/api//v1/users/anna/queue", None),
        ("/api/v1/users/anna", None),
        ("/api/v1/users/anna/queue/1", None),
        ("/api/v1/notifications/mail", None),
        ("/HEALTH", None),
        ("/", None),
        ("", None),
    ] {
        assert_eq!(found(path), expected, "{path}");
    }
}

#[test]
fn a_parameter_is_decoded_and_checked_once_for_all_routes() {
    let parameter = |path| Found::at(path).unwrap().parameter();
    assert_eq!(parameter("/api/v1/users/a%20b%C3%A9/queue").unwrap().as_deref(), Some("a bé"));
    assert_eq!(parameter("/api/v1/channels").unwrap(), None);
    for (path, field, start) in [
        ("/api/v1/users/%zz/queue", "user_id", "`user_id` in the path has a `%`"),
        ("/api/v1/users/%20/queue", "user_id", "not a user id: use 1 to 128"),
        ("/api/v1/channels/a%20b", "name", "not a channel name: use 1 to 64"),
        ("/api/v1/channels/", "name", "not a channel name: use 1 to 64"),
    ] {
        let refusal = parameter(path).unwrap_err();
        assert!(refusal.message.starts_with(start), "{path}: {}", refusal.message);
        assert_eq!(refusal.details.unwrap()["field"], field, "{path}");
    }
}

#[test]
fn another_method_is_refused_with_those_there_are() {
    for (path, method, sentence, allow) in [
        ("/stats", Method::POST, "this path takes GET", "GET, HEAD, OPTIONS"),
        ("/api/v1/acks", Method::HEAD, "this path takes POST", "POST, OPTIONS"),
        (
            "/api/v1/users/anna/queue",
            Method::PUT,
            "this path takes GET and DELETE",
            "GET, DELETE, HEAD, OPTIONS",
        ),
        // A GET of these is a client's, and no stream has a HEAD.
        ("/ws", Method::HEAD, "this path takes GET", "GET, OPTIONS"),
        ("/sse", Method::POST, "this path takes GET", "GET, OPTIONS"),
    ] {
        let refusal = Found::at(path).unwrap().route(&method).unwrap_err();
        assert_eq!((refusal.code, &*refusal.message), (Code::MethodNotAllowed, sentence));
        assert_eq!(refusal.headers, [("allow", allow.to_owned())], "{path}");
    }
    let found = Found::at("/api/v1/users/anna/queue").unwrap();
    for (asked, served) in
        [(Method::GET, Method::GET), (Method::HEAD, Method::GET), (Method::DELETE, Method::DELETE)]
    {
        assert_eq!(found.route(&asked).unwrap().method, served);
    }
}

#[test]
fn the_paths_of_clients_are_those_that_the_handshake_knows() {
    for route in ROUTES {
        let request = http::Request::builder().uri(route.path.replace(['{', '}'], "")).body(());
        let (parts, ()) = request.unwrap().into_parts();
        assert_eq!(transport_of(&parts).is_some(), route.is_handshake(), "{}", route.path);
    }
}

#[test]
fn routes_of_one_path_stand_together_and_are_served_to_the_same_callers() {
    let paths: Vec<_> = ROUTES.chunk_by(|one, next| one.path == next.path).collect();
    for routes in &paths {
        let path = routes[0].path;
        assert_eq!(paths.iter().filter(|others| others[0].path == path).count(), 1, "{path}");
        let is_public = |route: &Route| route.handler.is_public();
        assert!(routes.iter().all(|route| is_public(route) == is_public(&routes[0])), "{path}");
    }
}

/// The table in `docs/protocol.md`.
fn documented() -> String {
    let mut lines = String::new();
    for route in ROUTES {
        let callers = match route.handler {
            Handler::Public(_) => "everybody".to_owned(),
            Handler::Handshake | Handler::Client(_) => "a client, by its token".to_owned(),
            Handler::Operator(scope, _) | Handler::Caller(scope, _) => {
                format!("a key with `{}`", scope.name())
            }
            Handler::Tenant(scope, _) => format!("a key with `{}`, for a tenant", scope.name()),
            Handler::AnyTenant(scope, _) => {
                format!("a key with `{}`, for a tenant or all", scope.name())
            }
        };
        let body = match route.body_bytes_max {
            None => "–".to_owned(),
            Some(bytes) if bytes % (1024 * 1024) == 0 => format!("{} MiB", bytes / 1024 / 1024),
            Some(bytes) => format!("{} KiB", bytes / 1024),
        };
        lines += &format!("| `{} {}` | {callers} | {body} |\n", route.method, route.path);
    }
    lines
}

#[test]
fn the_documents_name_the_routes_there_are() {
    let document = include_str!("../../docs/protocol.md");
    let table = documented();
    assert!(document.contains(&table), "docs/protocol.md, Routes, must have these lines:\n{table}");
    // What is named elsewhere in the text is in the table too.
    let mut named = 0;
    for (_, text) in document.split('`').enumerate().filter(|(place, _)| place % 2 == 1) {
        let Some((method @ ("GET" | "POST" | "PUT" | "DELETE"), path)) = text.split_once(' ')
        else {
            continue;
        };
        let is_known = |route: &Route| route.method == method && route.path == path;
        let is_family = path.ends_with('…')
            && ROUTES.iter().any(|route| {
                route.method == method && route.path.starts_with(path.trim_end_matches('…'))
            });
        assert!(is_family || ROUTES.iter().any(is_known), "docs/protocol.md names `{text}`");
        named += 1;
    }
    assert!(named > ROUTES.len(), "only {named} are named");
}
