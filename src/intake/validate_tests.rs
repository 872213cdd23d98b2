//! A draft becomes a trigger exactly within the bounds, and a fault names the field by its path, with
//! the sentence that is the same for every source.
//!
//! Set-up: drafts by hand, at the top of a body and inside an `event`. Why it matters: a source that
//! had bounds of its own would let through what another refuses.

use ara_shards::wire::json::{self, Unknown};
use serde_json::value::RawValue;

use super::*;
use crate::intake::trigger::JsonText;

fn payload(bytes: usize) -> JsonText {
    let text = format!("\"{}\"", "x".repeat(bytes - 2));
    RawValue::from_string(text).unwrap().into()
}

fn event() -> EventDraft {
    EventDraft {
        path: "",
        event_type: Some("e".to_owned()),
        payload: Some(payload(2)),
        template_id: None,
        variables: None,
        priority: None,
        ttl: None,
        source: "test".into(),
        correlation_id: None,
        audience: None,
        queue: false,
    }
}

fn check(target: TargetDraft, event: EventDraft) -> Result<Trigger, Fault> {
    Draft { target, event }.into_trigger("tenant".into(), &Catalog::default())
}

/// The path of the fault and its sentence.
fn fault(target: TargetDraft, event: EventDraft) -> (String, String) {
    let fault = check(target, event).unwrap_err();
    (fault.field().unwrap().to_owned(), fault.to_string())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn every_field_arrives_and_a_name_given_twice_counts_once() {
    let mut event = event();
    event.priority = Some("High".to_owned());
    event.ttl = Some(0);
    event.correlation_id = Some("c".to_owned());
    let trigger = check(TargetDraft::Channels("channels", names(&["b", "a", "b"])), event).unwrap();
    assert_eq!(&*trigger.tenant, "tenant");
    assert_eq!(trigger.target, Target::Channels(vec!["b".into(), "a".into()]));
    let event = trigger.event;
    assert_eq!((&*event.event_type, &*event.source), ("e", "test"));
    assert_eq!((event.priority, event.ttl), (Priority::High, Some(0)));
    assert_eq!(event.correlation_id.as_deref(), Some("c"));
    let Payload::Sent(sent) = event.payload else { panic!("{:?}", event.payload) };
    assert_eq!(sent, payload(2));
    let by_default = check(TargetDraft::User("user", "u".to_owned()), self::event()).unwrap();
    assert_eq!(by_default.target, Target::Users(vec!["u".into()]));
    assert_eq!(by_default.event.priority, Priority::Normal);
}

#[test]
fn a_target_has_its_bounds_and_its_path() {
    let many = |count: usize| vec!["n".to_owned(); count];
    for (target, path, sentence) in [
        (
            TargetDraft::User("user", " ".to_owned()),
            "user",
            "`user` is not valid: use 1 to 128 bytes of visible text",
        ),
        (
            TargetDraft::Users("users", names(&["u", "a\nb"])),
            "users[1]",
            "`users[1]` is not valid: use 1 to 128 bytes of visible text",
        ),
        (
            TargetDraft::Users("users", many(names::USERS_MAX + 1)),
            "users",
            "`users` has 10001 entries; 1 to 10000 are allowed",
        ),
        (
            TargetDraft::Channel("channel", "a b".to_owned()),
            "channel",
            "`channel` is not valid: use 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
        (
            TargetDraft::Channels("channels", Vec::new()),
            "channels",
            "`channels` has 0 entries; 1 to 100 are allowed",
        ),
        (
            TargetDraft::Channels("channels", many(names::CHANNELS_MAX + 1)),
            "channels",
            "`channels` has 101 entries; 1 to 100 are allowed",
        ),
    ] {
        assert_eq!(fault(target, event()), (path.to_owned(), sentence.to_owned()));
    }
    for target in [
        TargetDraft::Users("users", many(names::USERS_MAX)),
        TargetDraft::Channels("channels", many(names::CHANNELS_MAX)),
    ] {
        check(target, event()).unwrap();
    }
}

#[test]
fn an_event_has_its_bounds_and_the_path_of_its_place() {
    let long = || "x".repeat(names::LABEL_BYTES_MAX + 1);
    for (field, rule, spoil) in [
        (
            "event_type",
            names::LABEL_RULE,
            (|e, t| e.event_type = Some(t)) as fn(&mut EventDraft, String),
        ),
        ("source", names::LABEL_RULE, |e, t| e.source = t.into()),
        ("correlation_id", names::LABEL_RULE, |e, t| e.correlation_id = Some(t)),
        ("priority", PRIORITY_ADVICE, |e, t| e.priority = Some(t)),
    ] {
        for (place, path) in [("", field.to_owned()), ("event", format!("event.{field}"))] {
            let mut event = EventDraft { path: place, ..event() };
            spoil(&mut event, long());
            let sentence = format!("`{path}` is not valid: {rule}");
            assert_eq!(fault(TargetDraft::Everyone, event), (path, sentence));
        }
    }
    check(
        TargetDraft::Everyone,
        EventDraft { payload: Some(payload(PAYLOAD_BYTES_MAX)), ..event() },
    )
    .unwrap();
    let long = EventDraft { payload: Some(payload(PAYLOAD_BYTES_MAX + 1)), ..event() };
    let sentence = "`payload` is longer than 65536 bytes";
    assert_eq!(fault(TargetDraft::Everyone, long), ("payload".to_owned(), sentence.to_owned()));
}

#[test]
fn the_advice_names_every_priority() {
    let names: Vec<&str> = Priority::ALL.iter().map(|priority| priority.name()).collect();
    assert_eq!(PRIORITY_ADVICE, format!("use one of {}", names.join(", ")));
}

#[test]
fn a_queue_is_for_the_absent_whom_an_audience_names() {
    let audience = |json: &str| Some(json::read(json.as_bytes(), Unknown::Refused).unwrap());
    let users = || audience(r#"{"type":"Users","value":["u"]}"#);
    let queued = |audience| EventDraft { audience, queue: true, ..event() };
    assert!(check(TargetDraft::Everyone, queued(users())).unwrap().event.queue);
    for (target, event) in [
        (TargetDraft::User("user", "u".to_owned()), queued(users())),
        (TargetDraft::Everyone, queued(None)),
        (TargetDraft::Everyone, queued(audience(r#"{"type":"All"}"#))),
    ] {
        let sentence = "`queue` is for broadcasts and channels with an `audience` of users";
        assert_eq!(fault(target, event), ("queue".to_owned(), sentence.to_owned()));
    }
}

#[test]
fn an_audience_has_the_value_of_its_type() {
    let read = |json: &str| -> Result<Option<Audience>, Fault> {
        let audience: AudienceDraft = json::read(json.as_bytes(), Unknown::Refused).unwrap();
        audience.check("event")
    };
    let list = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
    for (json, expected) in [
        (r#"{"type":"All"}"#, None),
        (r#"{"type":"All","value":null}"#, None),
        (r#"{"value":["r"],"type":"Roles"}"#, Some(Audience::Roles(list(&["r"])))),
        (r#"{"type":"Users","value":["b","a","b"]}"#, Some(Audience::Users(list(&["a", "b"])))),
        (r#"{"type":"Channels","value":["c"]}"#, Some(Audience::Channels(list(&["c"])))),
    ] {
        assert_eq!(read(json).unwrap(), expected, "{json}");
    }
    for json in [
        r#"{"type":"All","value":["r"]}"#,
        r#"{"type":"All","value":[]}"#,
        r#"{"type":"Roles"}"#,
        r#"{"type":"Roles","value":null}"#,
        r#"{"type":"Users","value":[]}"#,
        r#"{"type":"Channels","value":["c",""]}"#,
    ] {
        let fault = read(json).unwrap_err();
        assert!(fault.field().unwrap().starts_with("event.audience.value"), "{json}: {fault}");
        assert!(fault.to_string().starts_with("`event.audience.value"), "{json}: {fault}");
    }
}
