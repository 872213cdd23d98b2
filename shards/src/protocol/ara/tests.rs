//! The JSON of the contract: what clients may write, and exactly what they read.
//!
//! Set-up: tables, and arbitrary text. Why it matters: clients are written against these shapes,
//! in languages we never see; a changed field name breaks all of them at once.

use proptest::prelude::*;

use super::*;

fn channels(names: &[&'static str]) -> Vec<Cow<'static, str>> {
    names.iter().map(|name| Cow::Borrowed(*name)).collect()
}

#[test]
fn every_client_message_is_understood() {
    let ab = || channels(&["a", "b"]);
    let id = parse_id("01890a5d-ac96-774b-bcce-b302099a8057");
    assert!(id.is_some());
    let cases = [
        (
            r#"{"type":"Subscribe","payload":{"channels":["a","b"]}}"#,
            ClientMessage::Subscribe(ab()),
        ),
        (
            r#"{"type":"subscribe","payload":{"channels":["a","b"]}}"#,
            ClientMessage::Subscribe(ab()),
        ),
        (
            r#"{"payload":{"channels":["a","b"]},"type":"Subscribe"}"#,
            ClientMessage::Subscribe(ab()),
        ),
        (
            r#" { "type" : "Subscribe" , "payload" : { "more" : [] , "channels" : [ "a" , "b" ] } } "#,
            ClientMessage::Subscribe(ab()),
        ),
        (
            r#"{"type":"\u0053ubscribe","payload":{"channels":["\u0061","b"]}}"#,
            ClientMessage::Subscribe(ab()),
        ),
        (
            r#"{"type":"Subscribe","payload":{"channels":[]}}"#,
            ClientMessage::Subscribe(channels(&[])),
        ),
        (
            r#"{"type":"Unsubscribe","payload":{"channels":["a","b"]}}"#,
            ClientMessage::Unsubscribe(ab()),
        ),
        (
            r#"{"type":"unsubscribe","payload":{"channels":["a","b"]}}"#,
            ClientMessage::Unsubscribe(ab()),
        ),
        (r#"{"type":"Ping"}"#, ClientMessage::Ping),
        (r#"{"type":"ping","payload":null}"#, ClientMessage::Ping),
        (r#"{"type":"Ping","payload":{"any":["thing"]},"extra":1}"#, ClientMessage::Ping),
        (
            r#"{"type":"Ack","payload":{"notification_id":"01890a5d-ac96-774b-bcce-b302099a8057"}}"#,
            ClientMessage::Ack(id),
        ),
        (
            r#"{"type":"ack","payload":{"notification_id":"01890a5d-ac96-774b-bcce-b302099a8057"}}"#,
            ClientMessage::Ack(id),
        ),
    ];
    for (text, message) in cases {
        assert_eq!(parse(text).as_ref(), Ok(&message), "{text}");
    }
}

#[test]
fn everything_else_is_answered_with_a_sentence_that_helps() {
    let cases = [
        ("", "expected a JSON object with a `type`"),
        ("hello", "expected a JSON object with a `type`"),
        ("{}", "expected a JSON object with a `type`"),
        ("null", "expected a JSON object with a `type`"),
        (r#"["Ping",null]"#, "expected a JSON object with a `type`"),
        (r#"{"type":7}"#, "expected a JSON object with a `type`"),
        (r#"{"type":"Ping"} trailing"#, "expected a JSON object with a `type`"),
        (r#"{"type":"Ping"}{"type":"Ping"}"#, "expected a JSON object with a `type`"),
        (r#"{"type":"Ping","type":"Ping"}"#, "expected a JSON object with a `type`"),
        (r#"{"type":"PING"}"#, "unknown type `PING`"),
        (r#"{"type":"Renew","payload":{"token":"x"}}"#, "unknown type `Renew`"),
        (r#"{"type":"subscribe"}"#, "`subscribe` needs a payload"),
        (r#"{"type":"Subscribe","payload":null}"#, "`Subscribe` needs a payload"),
        (r#"{"type":"Subscribe","payload":["a"]}"#, "`Subscribe` needs a payload"),
        (r#"{"type":"Subscribe","payload":[["a"]]}"#, "`Subscribe` needs a payload"),
        (r#"{"type":"Subscribe","payload":{"channels":"a"}}"#, "`Subscribe` needs a payload"),
        (r#"{"type":"Subscribe","payload":{"channels":[1]}}"#, "`Subscribe` needs a payload"),
        (r#"{"type":"Unsubscribe","payload":{}}"#, "`Unsubscribe` needs a payload"),
        (r#"{"type":"Refresh"}"#, "`Refresh` needs a payload"),
        (r#"{"type":"Refresh","payload":{"token":5}}"#, "`Refresh` needs a payload"),
        (r#"{"type":"Ack"}"#, "`Ack` needs a payload"),
        (r#"{"type":"Ack","payload":["x"]}"#, "`Ack` needs a payload"),
        (r#"{"type":"Ack","payload":{"notification_id":5}}"#, "`Ack` needs a payload"),
        (
            r#"{"type":"Subscribe","payload":{"channels":["a"],"channels":["b"]}}"#,
            "`Subscribe` needs a payload",
        ),
        (r#"{"type":"Ping","payload":{},"payload":{}}"#, "expected a JSON object with a `type`"),
    ];
    for (text, start) in cases {
        let sentence = parse(text).unwrap_err();
        assert!(sentence.starts_with(start), "{text} → {sentence}");
    }
    let endless = format!(r#"{{"type":"{}"}}"#, "€".repeat(5_000));
    assert!(parse(&endless).unwrap_err().len() < 200, "a long type is not sent back whole");
}

#[test]
fn a_refusal_names_the_field_and_what_was_found_there() {
    for (text, end) in [
        ("", "there is no JSON: it is empty"),
        ("{", "malformed JSON: it ends too early, at line 1, column 1"),
        ("hello", "malformed JSON at line 1, column 1: `h` cannot stand there"),
        ("7", "the JSON must be an object, not a number"),
        ("{}", "`type` is missing"),
        (r#"{"type":null}"#, "`type` must be a string, not null"),
        (r#"{"type":"Ping","type":"Ping"}"#, "`type` is given twice"),
        (r#"{"type":"Subscribe"}"#, "`payload` is missing"),
        (r#"{"type":"Subscribe","payload":null}"#, "`payload` is missing"),
        (r#"{"type":"Subscribe","payload":"a"}"#, "`payload` must be an object, not a string"),
        (r#"{"type":"Subscribe","payload":{}}"#, "`payload.channels` is missing"),
        (
            r#"{"type":"Subscribe","payload":{"channels":["a",{}]}}"#,
            "`payload.channels[1]` must be a string, not an object",
        ),
        (
            r#"{"type":"Ack","payload":{"notification_id":true}}"#,
            "`payload.notification_id` must be a string, not a boolean",
        ),
    ] {
        let sentence = parse(text).unwrap_err();
        assert!(sentence.ends_with(end), "{text} → {sentence}");
    }
}

#[test]
fn server_messages_have_the_shapes_of_the_contract() {
    let names = channels(&["a", "news.eu"]);
    let cases = [
        (
            ServerMessage::Connected {
                connection_id: "c-1".to_owned(),
                user_id: "ann\"ü",
                expires_at: None,
            },
            "connected",
            r#"{"type":"connected","connection_id":"c-1","user_id":"ann\"ü"}"#,
        ),
        (
            ServerMessage::Subscribed { payload: &names },
            "message",
            r#"{"type":"subscribed","payload":["a","news.eu"]}"#,
        ),
        (
            ServerMessage::Unsubscribed { payload: &[] },
            "message",
            r#"{"type":"unsubscribed","payload":[]}"#,
        ),
        (ServerMessage::Pong, "message", r#"{"type":"pong"}"#),
        (ServerMessage::Heartbeat, "heartbeat", r#"{"type":"heartbeat"}"#),
        (
            ServerMessage::Error { code: "INVALID_MESSAGE", message: "line\nbreak" },
            "error",
            r#"{"type":"error","code":"INVALID_MESSAGE","message":"line\nbreak"}"#,
        ),
        (
            ServerMessage::Shutdown { reason: "stop", reconnect_after_seconds: 1.25 },
            "message",
            r#"{"type":"shutdown","reason":"stop","reconnect_after_seconds":1.25}"#,
        ),
    ];
    for (message, event, json) in cases {
        assert_eq!(std::str::from_utf8(&message.json()).unwrap(), json);
        assert_eq!(message.event_name(), event);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Anything may come; it is refused with a sentence, or it is a message that was meant.
    #[test]
    fn arbitrary_text_is_never_a_surprise(text in prop_oneof![
        ".{0,80}",
        r#"[{}\[\]":, a-z\\0-9]{0,60}"#,
        r#"\{"type":"(Subscribe|ack|Ping|x)","payload":[{}\[\]":,a-z0-9]{0,30}\}"#,
    ]) {
        match parse(&text) {
            Ok(_) => {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert!(value.is_object(), "{}", text);
            }
            Err(sentence) => prop_assert!(!sentence.is_empty() && sentence.len() < 500),
        }
    }
}
