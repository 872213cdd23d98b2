//! The document says of every route what the code does, and of nothing else.

use std::collections::BTreeMap;

use super::*;
use crate::access::Scope;
use crate::api::user_queue::IDS_MAX;
use crate::names;
use crate::templates::template::is_id as is_template_id;

/// The operations: `GET /health` and so on.
fn operations(document: &Value) -> BTreeMap<String, Value> {
    let paths = document["paths"].as_object().unwrap().iter();
    let each = paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| {
            (format!("{} {path}", method.to_uppercase()), operation.clone())
        })
    });
    each.collect()
}

/// Calls `look` with every object and its path.
fn walk(value: &Value, path: &str, look: &mut impl FnMut(&str, &Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            look(path, members);
            members.iter().for_each(|(name, member)| walk(member, &format!("{path}/{name}"), look));
        }
        Value::Array(entries) => entries
            .iter()
            .enumerate()
            .for_each(|(place, entry)| walk(entry, &format!("{path}/{place}"), look)),
        _ => {}
    }
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let operations = operations(&compose());
    let described: Vec<_> = operations.keys().cloned().collect();
    let mut routes: Vec<_> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    routes.sort_unstable();
    assert_eq!(described, routes, "src/api/openapi has the operations of src/api/routes.rs");
    let mut ids = BTreeSet::new();
    for route in ROUTES {
        let name = format!("{} {}", route.method, route.path);
        let operation = &operations[&name];
        for text in ["operationId", "summary"] {
            assert!(
                operation[text].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: {text}"
            );
        }
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}");
        assert!(operation.get("errors").is_none(), "{name}");
        let examples = &operation["requestBody"]["content"]["application/json"]["examples"];
        assert_eq!(examples.is_object(), route.body_bytes_max.is_some(), "{name}: an example");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.as_str() < "300"), "{name}: a success");
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = compose();
    // What is said of messages on a connection, and of answers where no operation is.
    let mut unused: BTreeSet<String> = BTreeSet::new();
    for (kind, components) in document["components"].as_object().unwrap() {
        if kind != "securitySchemes" {
            unused.extend(
                components.as_object().unwrap().keys().map(|name| format!("{kind}/{name}")),
            );
        }
    }
    walk(&document, "", &mut |path, members| {
        let Some(target) = members.get("$ref") else { return };
        let target = target.as_str().unwrap();
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{path}: {target}");
        unused.remove(target.trim_start_matches("#/components/"));
    });
    let outside = [
        "responses/404-NOT_FOUND",
        "responses/405-METHOD_NOT_ALLOWED",
        "responses/Preflight",
        "schemas/ClientMessage",
        "schemas/ServerMessage",
    ];
    unused.retain(|name| !outside.contains(&name.as_str()));
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn every_object_says_which_fields_it_has() {
    let document = compose();
    let mut objects = 0;
    walk(&document, "", &mut |path, members| {
        if members.get("type").is_none_or(|kind| kind != "object") || path.contains("/example") {
            return;
        }
        objects += 1;
        let is_part = ["/schemas/Event", "/schemas/Counts", "/schemas/TemplateFields"]
            .iter()
            .any(|part| path.ends_with(part));
        let is_closed = ["additionalProperties", "unevaluatedProperties"]
            .iter()
            .any(|word| members.contains_key(*word));
        assert!(is_closed || is_part, "{path}");
        let properties = members.get("properties").and_then(Value::as_object);
        for required in members.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = required.as_str().unwrap();
            assert!(properties.is_some_and(|known| known.contains_key(name)), "{path}: {name}");
        }
    });
    assert!(objects > 40, "only {objects}");
}

#[test]
fn every_code_of_a_refusal_is_described_with_its_status() {
    // Each arm of `Code::parts` ends with such a pair.
    let source = include_str!("../../refusal.rs");
    let mut known = BTreeMap::new();
    for pair in source.split("(StatusCode::").skip(1) {
        let Some((reason, rest)) = pair.split_once(", \"") else { continue };
        let name = rest.split_once('"').unwrap().0;
        known.insert(name.to_owned(), reason.to_owned());
    }
    assert!(known.len() > 15, "{known:?}");
    let codes: BTreeMap<String, ErrorCode> = read(ERRORS);
    let described = codes.iter().map(|(name, code)| {
        let status = http::StatusCode::from_u16(code.status).unwrap();
        let reason = status.canonical_reason().unwrap().to_uppercase().replace(' ', "_");
        (name.clone(), reason)
    });
    assert_eq!(described.collect::<BTreeMap<_, _>>(), known, "src/api/openapi/errors.json");
    // And each occurs somewhere.
    let text = compose()["components"]["responses"].to_string() + &compose()["paths"].to_string();
    for name in known.keys() {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_bounds_are_those_of_the_code() {
    let document = compose();
    let schemas = &document["components"]["schemas"];
    for (name, is_valid) in [
        ("UserId", names::is_user as fn(&str) -> bool),
        ("Label", names::is_label),
        ("TenantId", names::is_tenant),
        ("ChannelName", names::is_channel),
        ("TemplateId", is_template_id),
    ] {
        let bound = |word| usize::try_from(schemas[name][word].as_u64().unwrap()).unwrap();
        let (shortest, longest) = (bound("minLength"), bound("maxLength"));
        assert!(is_valid(&"x".repeat(shortest)) && !is_valid(&"x".repeat(shortest - 1)), "{name}");
        assert!(is_valid(&"x".repeat(longest)) && !is_valid(&"x".repeat(longest + 1)), "{name}");
    }
    let users = names::USERS_MAX;
    for (pointer, bound) in [
        ("/SendToUsers/properties/target_user_ids/maxItems", users),
        ("/SendToChannels/properties/channels/maxItems", names::CHANNELS_MAX),
        ("/RolesAudience/properties/value/maxItems", names::AUDIENCE_ROLES_MAX),
        ("/ChannelsAudience/properties/value/maxItems", names::CHANNELS_MAX),
        ("/UsersAudience/properties/value/maxItems", users),
        ("/Acks/properties/notification_ids/maxItems", IDS_MAX),
    ] {
        assert_eq!(schemas.pointer(pointer), Some(&json!(bound)), "{pointer}");
    }
    let key = document.pointer("/components/parameters/Idempotency-Key/schema/pattern").unwrap();
    assert!(key.as_str().unwrap().contains("{1,128}"), "{key}");
    let names: Vec<_> =
        ara_shards::notification::Priority::ALL.iter().map(|priority| priority.name()).collect();
    assert_eq!(schemas["Priority"]["enum"], json!(names));
    let scopes: Vec<_> = Scope::ALL.iter().map(|scope| scope.name()).collect();
    assert_eq!(schemas["MissingScope"]["properties"]["scope"]["enum"], json!(scopes));
}

#[test]
fn the_document_is_small_enough_to_be_read_at_once() {
    assert!(document().len() < 256 * 1024, "{}", document().len());
}
