//! A message is taken exactly when the contract says so, its payload unchanged, and each fault has
//! its own reason; set-up is a table, since these are pure functions.
//!
//! **Runs on**: the test. **Owns**: nothing. **Never**: needs a Redis server.

use std::borrow::Cow;

use super::*;
use crate::intake::batch::Outcome;
use crate::intake::trigger::{Payload, Target};
use crate::names::{CHANNELS_MAX, LABEL_BYTES_MAX, USERS_MAX};
use ara_shards::base::limits::BATCH_ITEMS_MAX;
use ara_shards::notification::Priority;
use ara_shards::wire::json::{self, Unknown};
use proptest::prelude::*;

const EVENT: &str = r#"{"event_type":"t","payload":1}"#;

/// One trigger, with tenants on.
fn read(channel: &[u8], text: impl Into<Bytes>) -> Result<Trigger, Rejection> {
    read_for(true, channel, &text.into())
}

fn read_for(tenants: bool, channel: &[u8], text: &Bytes) -> Result<Trigger, Rejection> {
    let tenants = Tenants { are_enabled: tenants, default: "default".into() };
    match parse(channel, text, &tenants, &Catalog::default())? {
        Request::Trigger(trigger) => Ok(trigger),
        Request::Batch { .. } => panic!("this is no batch"),
    }
}

fn reason(channel: &str, text: &str) -> &'static str {
    match read(channel.as_bytes(), text.to_owned()) {
        Ok(_) => "taken",
        Err(rejection) => rejection.reason().reason(),
    }
}

/// The reason for a well-addressed message with this event.
fn event_reason(event: &str) -> &'static str {
    reason("notification:user:u", &format!(r#"{{"type":"user","target":"u","event":{event}}}"#))
}

fn list(name: &str, count: usize) -> String {
    serde_json::to_string(&vec![name; count]).unwrap()
}

fn bytes(payload: &Payload) -> Vec<u8> {
    let mut bytes = Vec::new();
    payload.write_to(&mut bytes);
    bytes
}

#[test]
fn reads_every_field() {
    let text = r#" {"type":"user","target":"u\u00e9","tenant_id":"acme.eu",
        "event":{"event_type":"order.paid","payload": {"b":1.10, "a":[1e400,"\u0041"],"a":0} ,
        "priority":"Critical","ttl":0,"correlation_id":"c-1"}}"#;
    let trigger = read("notification:user:ué".as_bytes(), text).unwrap();
    assert_eq!(trigger.target, Target::Users(vec!["ué".into()]));
    assert_eq!(&*trigger.tenant, "acme.eu");
    let event = trigger.event;
    assert_eq!(event.event_type, "order.paid");
    assert_eq!(bytes(&event.payload), br#"{"b":1.10, "a":[1e400,"\u0041"],"a":0}"#);
    assert_eq!((event.priority, event.ttl), (Priority::Critical, Some(0)));
    assert_eq!(event.correlation_id.as_deref(), Some("c-1"));
    assert_eq!((event.source, event.audience, event.queue), (Cow::Borrowed("redis"), None, false));
}

#[test]
fn a_message_is_for_the_tenant_it_names_where_there_are_tenants() {
    let with = |tenant: &str| {
        Bytes::from(format!(r#"{{"type":"broadcast","tenant_id":{tenant},"event":{EVENT}}}"#))
    };
    for (are_enabled, tenant, expected) in [
        (true, r#""acme""#, "acme"),
        (true, "null", "default"),
        (false, r#""acme""#, "default"),
        (false, "null", "default"),
    ] {
        let trigger = read_for(are_enabled, BROADCAST.as_bytes(), &with(tenant)).unwrap();
        assert_eq!(&*trigger.tenant, expected, "{are_enabled} {tenant}");
    }
    // A malformed one is counted in both cases.
    let rejection = read_for(false, BROADCAST.as_bytes(), &with(r#""a/b""#)).unwrap_err();
    assert_eq!(rejection.reason(), Rejected::BadTenant);
}

#[test]
fn a_message_keeps_the_rules_of_every_shape() {
    let sample = r#"{"type":"user","target":"u","tenant_id":"t","event":{"event_type":"e",
        "payload":{"any":1},"template_id":"t","variables":{"any":1},"priority":"Low","ttl":1,
        "correlation_id":"c"},"notifications":[1],"options":{"stop_on_error":true,"deduplicate":true}}"#;
    let read = |text: &str| json::read::<Message<'_>>(text.as_bytes(), Unknown::Refused).map(drop);
    crate::json_shape_tests::examine(sample, &["payload", "variables"], read);
}

#[test]
fn what_would_narrow_a_message_is_not_ignored() {
    for text in [
        &format!(r#"{{"type":"broadcast","audience":{{"type":"All"}},"event":{EVENT}}}"#),
        r#"{"type":"broadcast","event":{"event_type":"t","payload":1,"audience":{}}}"#,
    ] {
        assert_eq!(reason(BROADCAST, text), "unknown_field", "{text}");
    }
}

#[test]
fn a_rejection_says_what_was_found_and_repeats_no_value() {
    let sentence =
        |text: &str| read(BROADCAST.as_bytes(), text.to_owned()).unwrap_err().to_string();
    for (text, expected) in [
        (
            r#"{"type":"broadcast","event":{"event_type":"t","payload":1,"ttl":"secret"}}"#,
            "`event.ttl` must be a whole number, 0 or more, not a string",
        ),
        (
            r#"{"type":"users","target":["a",7],"event":{"event_type":"t","payload":1}}"#,
            "`target[1]` must be a string, not a number",
        ),
        (
            r#"{"type":"secret","event":{"event_type":"t","payload":1}}"#,
            "`type` must be one of `user`, `users`, `broadcast`, `channel`, `channels`, `batch`",
        ),
        (
            r#"{"type":"users","target":["a","secret\u0000"],"event":{"event_type":"t","payload":1}}"#,
            "`target[1]` is not valid: use 1 to 128 bytes of visible text",
        ),
        (
            r#"{"type":"broadcast","event":{"event_type":"t","payload":1,"priority":"secret"}}"#,
            "`event.priority` is not valid: use one of Low, Normal, High, Critical",
        ),
        (
            r#"{"type":"user","target":"secret","event":{"event_type":"t","payload":1}}"#,
            "this `type` may not travel on this Redis channel",
        ),
        ("{\"type\":\n}", "malformed JSON at line 2, column 1: `}` cannot stand there"),
    ] {
        assert_eq!(sentence(text), expected);
    }
}

#[test]
fn reads_each_type_on_its_channel() {
    let target = |channel: &str, kind: &str, target: &str| {
        let text = format!(r#"{{"type":"{kind}",{target}"event":{EVENT}}}"#);
        read(channel.as_bytes(), text).map(|trigger| trigger.target)
    };
    let names = || vec!["a".into(), "b".into()];
    for (channel, kind, raw, expected) in [
        ("notification:user:a:b", "user", r#""target":"a:b","#, Target::Users(vec!["a:b".into()])),
        (
            "notification:channel:c",
            "channel",
            r#""target":"c","#,
            Target::Channels(vec!["c".into()]),
        ),
        (BROADCAST, "users", r#""target":["a","b"],"#, Target::Users(names())),
        ("notification:user:any", "users", r#""target":["a","b","a"],"#, Target::Users(names())),
        (BROADCAST, "channels", r#""target":["a","b"],"#, Target::Channels(names())),
        ("notification:channel:", "channels", r#""target":["a","b"],"#, Target::Channels(names())),
        (BROADCAST, "broadcast", "", Target::Everyone),
        (BROADCAST, "broadcast", r#""target":null,"#, Target::Everyone),
        (BROADCAST, "broadcast", r#""target":"*","#, Target::Everyone),
    ] {
        assert_eq!(target(channel, kind, raw), Ok(expected), "{channel} {kind} {raw}");
    }
}

#[test]
fn each_misdirected_message_has_its_reason() {
    let long = "x".repeat(65);
    let many_users = list("u", USERS_MAX + 1);
    let many_channels = list("c", CHANNELS_MAX + 1);
    for (channel, kind, target, expected) in [
        ("notification:user:u", r#""user""#, r#""v""#, "target_mismatch"),
        ("notification:channel:c", r#""channel""#, r#""C""#, "target_mismatch"),
        ("notification:user:", r#""user""#, r#""u""#, "target_mismatch"),
        ("notification:user:", r#""user""#, r#""""#, "bad_user"),
        ("notification:user:u", r#""user""#, "null", "bad_user"),
        ("notification:user:u", r#""user""#, "7", "bad_user"),
        ("notification:user:u v", r#""user""#, r#""u v""#, "taken"),
        ("notification:user:u", r#""user""#, r#""u\u0000""#, "bad_user"),
        ("notification:channel:a b", r#""channel""#, r#""a b""#, "bad_channel"),
        ("notification:channel:c", r#""channel""#, &format!("{long:?}"), "bad_channel"),
        (BROADCAST, r#""user""#, r#""u""#, "wrong_target"),
        (BROADCAST, r#""channel""#, r#""c""#, "wrong_target"),
        ("notification:user:u", r#""channel""#, r#""u""#, "wrong_target"),
        ("notification:channel:c", r#""user""#, r#""c""#, "wrong_target"),
        ("notification:user:u", r#""broadcast""#, "null", "wrong_target"),
        ("notification:channel:c", r#""users""#, r#"["u"]"#, "wrong_target"),
        ("notification:user:u", r#""channels""#, r#"["c"]"#, "wrong_target"),
        ("elsewhere", r#""broadcast""#, "null", "wrong_target"),
        (BROADCAST, r#""users""#, "[]", "bad_user"),
        (BROADCAST, r#""users""#, r#""u""#, "bad_user"),
        (BROADCAST, r#""users""#, r#"["u",""]"#, "bad_user"),
        (BROADCAST, r#""users""#, &many_users, "too_many_targets"),
        (BROADCAST, r#""users""#, &list("u", USERS_MAX), "taken"),
        (BROADCAST, r#""channels""#, r#"["c","a b"]"#, "bad_channel"),
        (BROADCAST, r#""channels""#, &many_channels, "too_many_targets"),
        (BROADCAST, r#""channels""#, &list("c", CHANNELS_MAX), "taken"),
        (BROADCAST, r#""topic""#, "null", "bad_type"),
        (BROADCAST, r#""Broadcast""#, "null", "bad_type"),
        (BROADCAST, "null", "null", "bad_type"),
        (BROADCAST, "1", "null", "bad_type"),
    ] {
        let text = format!(r#"{{"type":{kind},"target":{target},"event":{EVENT}}}"#);
        let head: String = text.chars().take(120).collect();
        assert_eq!(reason(channel, &text), expected, "{channel} {head}");
    }
}

#[test]
fn each_malformed_event_has_its_reason() {
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    for (event, expected) in [
        (EVENT, "taken"),
        (r#"{"event_type":"t","payload":null}"#, "taken"),
        (r#"{"event_type":"t","payload":1,"priority":null,"ttl":null}"#, "taken"),
        (r#"{"event_type":"t"}"#, "bad_event"),
        ("null", "bad_event"),
        ("[]", "bad_event"),
        (r#"["t",1]"#, "bad_event"),
        (r#"{"payload":1}"#, "bad_event_type"),
        (r#"{"event_type":"","payload":1}"#, "bad_event_type"),
        (&format!(r#"{{"event_type":"{long}","payload":1}}"#), "bad_event_type"),
        (r#"{"event_type":"t","payload":1,"priority":"high"}"#, "bad_priority"),
        (r#"{"event_type":"t","payload":1,"priority":2}"#, "bad_priority"),
        (r#"{"event_type":"t","payload":1,"ttl":-1}"#, "bad_ttl"),
        (r#"{"event_type":"t","payload":1,"ttl":1.5}"#, "bad_ttl"),
        (r#"{"event_type":"t","payload":1,"ttl":"60"}"#, "bad_ttl"),
        (r#"{"event_type":"t","payload":1,"correlation_id":""}"#, "bad_correlation_id"),
        (r#"{"event_type":"t","payload":1,"correlation_id":7}"#, "bad_correlation_id"),
        (r#"{"event_type":"t","payload":1,"payload":2}"#, "bad_json"),
    ] {
        assert_eq!(event_reason(event), expected, "{event}");
    }
}

#[test]
fn each_malformed_message_has_its_reason() {
    let with =
        |tenant: &str| format!(r#"{{"type":"broadcast","tenant_id":{tenant},"event":{EVENT}}}"#);
    for (text, expected) in [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("null", "bad_json"),
        (r#""broadcast""#, "bad_json"),
        (r#"["broadcast",null,null,{"event_type":"t","payload":1}]"#, "bad_json"),
        (r#"{"type":"broadcast","type":"users"}"#, "bad_json"),
        ("{}", "bad_type"),
        (r#"{"type":"broadcast"}"#, "bad_event"),
        (&with("null"), "taken"),
        (&with(r#""a/b""#), "bad_tenant"),
        (&with(r#""""#), "bad_tenant"),
        (&with("1"), "bad_tenant"),
        (&format!("{} x", with("null")), "bad_json"),
    ] {
        assert_eq!(reason(BROADCAST, text), expected, "{text}");
    }
    let rejection = read(BROADCAST.as_bytes(), &b"{\"type\":\"\xff\"}"[..]).unwrap_err();
    assert_eq!(rejection.reason(), Rejected::BadJson);
}

/// A batch of these notifications, on the channel for it.
fn batch_of(items: &str) -> String {
    format!(r#"{{"type":"batch","notifications":[{items}]}}"#)
}

/// What becomes of each notification of a batch that is sent to where everything is taken: the reason
/// why not, and the field.
fn outcomes(text: &str) -> Vec<(&'static str, String)> {
    let (bytes, templates) = (Bytes::from(text.to_owned()), Catalog::default());
    let tenants = Tenants { are_enabled: true, default: "default".into() };
    let request = parse(BROADCAST.as_bytes(), &bytes, &tenants, &templates).unwrap();
    let Request::Batch { tenant, batch } = request else { panic!("a batch") };
    let outcomes = batch.send_each(&tenant, SOURCE, &templates, |_index, _trigger| Ok::<_, ()>(()));
    let told = outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Invalid(fault) => {
            (Rejected::of(&fault, None).reason(), fault.field().unwrap_or_default().to_owned())
        }
        Outcome::Sent(()) => ("taken", String::new()),
        other => panic!("{other:?}"),
    });
    told.collect()
}

#[test]
fn a_batch_is_read_with_its_tenant_its_options_and_its_notifications_as_they_are() {
    let payload = r#"{"b":1.10, "a":[1e400,"\u0041"],"a":0}"#;
    let text = format!(
        r#"{{"notifications":[{{"target":{{"type":"users","value":["a","b"]}},"event_type":"one",
            "payload": {payload} ,"priority":"High","ttl":5,"correlation_id":"c"}},
            {{"target":{{"type":"broadcast"}},"event_type":"two","payload":null,"source":"shop"}}],
            "tenant_id":"acme","type":"batch","options":{{"deduplicate":true}}}}"#
    );
    let (text, templates) = (Bytes::from(text), Catalog::default());
    let tenants = Tenants { are_enabled: true, default: "default".into() };
    let request = parse(BROADCAST.as_bytes(), &text, &tenants, &templates).unwrap();
    let Request::Batch { tenant, batch } = request else { panic!("a batch") };
    assert_eq!((&*tenant, batch.count()), ("acme", 2));
    assert!(batch.options().deduplicate && !batch.options().stop_on_error);
    let mut triggers = Vec::new();
    batch.send_each(&tenant, SOURCE, &templates, |_index, trigger| {
        triggers.push(trigger);
        Ok::<_, ()>(())
    });
    let [one, two] = triggers.try_into().unwrap();
    assert_eq!(one.target, Target::Users(vec!["a".into(), "b".into()]));
    assert_eq!(bytes(&one.event.payload), payload.as_bytes());
    assert_eq!((one.event.priority, one.event.ttl), (Priority::High, Some(5)));
    assert_eq!((&*one.event.source, &*two.event.source), ("redis", "shop"));
    assert_eq!((&*one.tenant, &*two.tenant, two.target), ("acme", "acme", Target::Everyone));
}

#[test]
fn a_batch_travels_only_where_everything_may() {
    let text = batch_of(r#"{"target":{"type":"user","value":"u"},"event_type":"t","payload":1}"#);
    for channel in ["notification:user:u", "notification:channel:c", "elsewhere"] {
        assert_eq!(reason(channel, &text), "wrong_target", "{channel}");
    }
    assert_eq!(outcomes(&text), [("taken", String::new())]);
}

#[test]
fn what_is_wrong_with_a_batch_as_a_whole_has_its_reason() {
    let many = vec!["1"; BATCH_ITEMS_MAX + 1].join(",");
    let with = |fields: &str| format!(r#"{{"type":"batch",{fields}}}"#);
    for (text, expected) in [
        (r#"{"type":"batch"}"#, "bad_batch"),
        (&with(r#""notifications":null"#), "bad_batch"),
        (&with(r#""notifications":{}"#), "bad_batch"),
        (&with(r#""notifications":[]"#), "bad_batch"),
        (&batch_of(&many), "bad_batch"),
        (&with(r#""notifications":[1],"options":true"#), "bad_batch"),
        (&with(r#""notifications":[1],"options":{"deduplicate":1}"#), "bad_batch"),
        (&with(r#""notifications":[1],"options":{"stop":true}"#), "unknown_field"),
        (&with(r#""notifications":[1],"tenant_id":"a/b""#), "bad_tenant"),
        (&with(r#""notifications":[1],"notifications":[1]"#), "bad_json"),
        (&with(r#""notifications":[1]],"#), "bad_json"),
        (&with(r#""notifications":[1],"target":"u""#), "unknown_field"),
        (&with(&format!(r#""notifications":[1],"event":{EVENT}"#)), "unknown_field"),
        (&with(r#""notifications":[1],"source":"s""#), "unknown_field"),
        (
            &format!(r#"{{"type":"broadcast","event":{EVENT},"notifications":[1]}}"#),
            "unknown_field",
        ),
        (&format!(r#"{{"type":"broadcast","event":{EVENT},"options":{{}}}}"#), "unknown_field"),
    ] {
        let head: String = text.chars().take(120).collect();
        assert_eq!(reason(BROADCAST, text), expected, "{head}");
    }
    let told = read(BROADCAST.as_bytes(), with(r#""notifications":[1],"event":{}"#)).unwrap_err();
    assert_eq!(told.to_string(), "`event` does not belong to this `type`");
    let mut text = batch_of("1");
    text.push_str(&" ".repeat(MESSAGE_BYTES_MAX - text.len()));
    assert_eq!(outcomes(&text), [("bad_json", String::new())]);
    text.push(' ');
    assert_eq!(reason(BROADCAST, &text), "too_large");
}

#[test]
fn each_fault_of_a_notification_has_its_reason_and_the_field_as_if_it_had_come_alone() {
    let with = |target: &str, event: &str| format!(r#"{{"target":{target},{event}}}"#);
    let user = |event: &str| with(r#"{"type":"user","value":"u"}"#, event);
    let to = |target: &str| with(target, r#""event_type":"t","payload":1"#);
    let plain = |fields: &str| user(&format!(r#""event_type":"t","payload":1,{fields}"#));
    let many = list("u", USERS_MAX + 1);
    let large = "x".repeat(PAYLOAD_BYTES_MAX);
    let cases = [
        (user(r#""event_type":"t","payload":null"#), "taken", ""),
        ("7".to_owned(), "bad_json", ""),
        (r#"{"event_type":"t","payload":1}"#.to_owned(), "bad_target", "target"),
        (to(r#"{"value":"u"}"#), "bad_target", "target.type"),
        (to(r#"{"type":"batch"}"#), "bad_target", "target.type"),
        (to(r#"{"type":"user","value":7}"#), "bad_target", "target.value"),
        (to(r#"{"type":"users","value":["u",""]}"#), "bad_target", "target.value[1]"),
        (to(r#"{"type":"channel","value":"a b"}"#), "bad_target", "target.value"),
        (to(r#"{"type":"users","value":[]}"#), "bad_target", "target.value"),
        (to(&format!(r#"{{"type":"users","value":{many}}}"#)), "too_many_targets", "target.value"),
        (user(r#""payload":1"#), "bad_event_type", "event_type"),
        (user(r#""event_type":"t""#), "bad_event", "payload"),
        (user(&format!(r#""event_type":"t","payload":{large:?}"#)), "too_large", "payload"),
        (plain(r#""priority":"high""#), "bad_priority", "priority"),
        (plain(r#""ttl":-1"#), "bad_ttl", "ttl"),
        (plain(r#""source":"""#), "bad_source", "source"),
        (plain(r#""correlation_id":7"#), "bad_correlation_id", "correlation_id"),
        (plain(r#""audience":{"type":"Roles"}"#), "bad_audience", "audience.value"),
        (
            plain(&format!(r#""audience":{{"type":"Users","value":{many}}}"#)),
            "bad_audience",
            "audience.value",
        ),
        (plain(r#""queue":true"#), "bad_audience", "queue"),
        (plain(r#""tenant_id":"other""#), "unknown_field", "tenant_id"),
        (plain(r#""ttl":1,"ttl":1"#), "bad_json", "ttl"),
        (user(r#""template_id":"none""#), "bad_template", "template_id"),
        (user(r#""template_id":"none","payload":1"#), "bad_event", "payload"),
        (plain(r#""variables":{}"#), "invalid_variable", "variables"),
        (to(r#"{"type":"broadcast"}"#), "taken", ""),
    ];
    let texts: Vec<&str> = cases.iter().map(|(text, ..)| &**text).collect();
    for ((reason, field), (text, expected, path)) in
        outcomes(&batch_of(&texts.join(","))).iter().zip(&cases)
    {
        let head: String = text.chars().take(120).collect();
        assert_eq!((*reason, &**field), (*expected, *path), "{head}");
    }
}

#[test]
fn bounds_are_inclusive() {
    let event = |bytes: usize| {
        format!(r#"{{"event_type":"t","payload":"{}"}}"#, "x".repeat(bytes.saturating_sub(2)))
    };
    assert_eq!(event_reason(&event(PAYLOAD_BYTES_MAX)), "taken");
    assert_eq!(event_reason(&event(PAYLOAD_BYTES_MAX + 1)), "too_large");
    let mut text = format!(r#"{{"type":"broadcast","event":{EVENT}}}"#);
    text.push_str(&" ".repeat(MESSAGE_BYTES_MAX - text.len()));
    assert_eq!(reason(BROADCAST, &text), "taken");
    text.push(' ');
    assert_eq!(reason(BROADCAST, &text), "too_large");
}

#[test]
fn deep_nesting_costs_no_stack() {
    let payload = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let event = format!(r#"{{"event_type":"t","payload":{payload}}}"#);
    assert_eq!(event_reason(&event), "taken");
    let text = "[".repeat(MESSAGE_BYTES_MAX / 2);
    assert_eq!(reason(BROADCAST, &format!(r#"{{"type":{text}"#)), "bad_json");
}

#[test]
fn the_table_of_reasons_is_complete_and_in_order() {
    for (index, rejected) in Rejected::ALL.into_iter().enumerate() {
        assert_eq!(rejected as usize, index);
        assert!(
            Rejected::ALL.iter().filter(|other| other.reason() == rejected.reason()).count() == 1
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        channel in proptest::collection::vec(any::<u8>(), 0..60),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert!(read(&channel, bytes).is_err());
    }

    #[test]
    fn batches_cut_and_changed_never_panic(at in 0usize..160, byte in any::<u8>(), cut in any::<bool>()) {
        let item = r#"{"target":{"type":"users","value":["a"]},"event_type":"e","payload":{"k":[1]},"ttl":5}"#;
        let mut bytes = batch_of(&format!("{item},{item}")).into_bytes();
        if cut { bytes.truncate(at) } else if let Some(place) = bytes.get_mut(at) { *place = byte }
        let (bytes, templates) = (Bytes::from(bytes), Catalog::default());
        let tenants = Tenants { are_enabled: true, default: "default".into() };
        if let Ok(Request::Batch { tenant, batch }) = parse(BROADCAST.as_bytes(), &bytes, &tenants, &templates) {
            batch.send_each(&tenant, SOURCE, &templates, |_index, _trigger| Ok::<_, ()>(()));
        }
    }

    #[test]
    fn messages_cut_and_changed_never_panic(at in 0usize..110, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = concat!(
            r#"{"type":"users","target":["a","b"],"tenant_id":"t","#,
            r#""event":{"event_type":"e","payload":{"k":[1]},"ttl":5}}"#
        )
        .to_owned()
        .into_bytes();
        if cut { bytes.truncate(at) } else if let Some(place) = bytes.get_mut(at) { *place = byte }
        let _taken_or_not = read(BROADCAST.as_bytes(), bytes);
    }

    #[test]
    fn payloads_pass_unchanged(text in r#"[ -~]{0,40}"#, number in any::<f64>(), digits in "[1-9][0-9]{0,60}") {
        for payload in [serde_json::to_string(&text).unwrap(), format!("[{digits}.{digits}]"), format!("{{\"n\" : {digits}}}"),
            serde_json::to_string(&number).unwrap()] {
            let text = format!(r#"{{"type":"broadcast","event":{{"event_type":"e","payload":{payload}}}}}"#);
            let trigger = read(BROADCAST.as_bytes(), text).unwrap();
            prop_assert_eq!(bytes(&trigger.event.payload), payload.as_bytes());
        }
    }
}
