//! Exactly what each protocol writes, byte by byte.
//!
//! Set-up: one table for each kind of output. Property: these bytes, for every protocol there is.
//! Why it matters: clients are written against them; a changed byte in a frame or an event breaks
//! readers that no test of ours runs.

use super::*;

const ID: NotificationId = NotificationId([0xAB; 16]);
const ID_TEXT: &str = "abababab-abab-abab-abab-abababababab";

/// A text frame of less than 64 KiB.
fn frame(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match u8::try_from(text.len()).ok().filter(|length| *length < 126) {
        Some(length) => bytes.push(length),
        None => {
            bytes.push(126);
            bytes.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(text.as_bytes());
    bytes
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn encode(protocol: Protocol, event: &Event<'_>) -> Option<Vec<u8>> {
    protocol.encode(event).map(<[u8]>::into_vec)
}

/// Asserts what each protocol of Ara writes, and that an echo writes nothing by itself.
fn check(event: &Event<'_>, websocket: Vec<u8>, sse: Option<&str>) {
    assert_eq!(encode(Protocol::AraWebSocket, event), Some(websocket), "{event:?}");
    assert_eq!(encode(Protocol::AraSseChunked, event), sse.map(chunk), "{event:?}");
    let plain = sse.map(|text| text.as_bytes().to_vec());
    assert_eq!(encode(Protocol::AraSsePlain, event), plain, "{event:?}");
    assert_eq!(encode(Protocol::Echo, event), None, "{event:?}");
}

#[test]
fn every_event_has_the_bytes_of_the_contract() {
    let names = [Cow::Borrowed("a"), Cow::Borrowed("news.eu")];
    let settled = format!(r#"{{"type":"settled","notification_id":"{ID_TEXT}"}}"#);
    let acked = format!(r#"{{"type":"acked","notification_id":"{ID_TEXT}"}}"#);
    for (event, name, json) in [
        (Event::Pong, "message", r#"{"type":"pong"}"#),
        (
            Event::Subscribed(&names),
            "message",
            r#"{"type":"subscribed","payload":["a","news.eu"]}"#,
        ),
        (Event::Unsubscribed(&[]), "message", r#"{"type":"unsubscribed","payload":[]}"#),
        (Event::Settled(ID), "message", &settled),
        (Event::Acked(ID), "message", &acked),
    ] {
        check(&event, frame(json), Some(&format!("event: {name}\ndata: {json}\n\n")));
    }
    for (code, name) in [
        (ErrorCode::InvalidMessage, "INVALID_MESSAGE"),
        (ErrorCode::InvalidChannel, "INVALID_CHANNEL"),
        (ErrorCode::ForbiddenChannel, "FORBIDDEN_CHANNEL"),
        (ErrorCode::SubscriptionLimit, "SUBSCRIPTION_LIMIT"),
        (ErrorCode::AckUnknown, "ACK_UNKNOWN"),
        (ErrorCode::RateLimited, "RATE_LIMITED"),
        (ErrorCode::Unauthorized, "UNAUTHORIZED"),
    ] {
        let json = format!(r#"{{"type":"error","code":"{name}","message":"a\nb"}}"#);
        let event = Event::Error { code, message: "a\nb" };
        check(&event, frame(&json), Some(&format!("event: error\ndata: {json}\n\n")));
    }
}

/// A stream's client is told when to come back; a WebSocket's is made to answer.
#[test]
fn some_events_do_more_than_tell() {
    let json = format!(r#"{{"type":"connected","connection_id":"{ID_TEXT}","user_id":"ann"}}"#);
    let event = Event::Connected { connection_id: ID, user_id: "ann", expires_at: None };
    let stream = format!("retry: 3000\nevent: connected\ndata: {json}\n\n");
    check(&event, frame(&json), Some(&stream));

    let json =
        r#"{"type":"shutdown","reason":"server shutting down","reconnect_after_seconds":1.25}"#;
    let event = Event::Shutdown { reconnect_after_ms: 1250 };
    let stream = format!("retry: 1250\nevent: message\ndata: {json}\n\n");
    check(&event, frame(json), Some(&stream));

    let json = r#"{"type":"heartbeat"}"#;
    let beat = [&frame(json)[..], b"\x89\x00"].concat();
    check(&Event::Heartbeat, beat, Some(&format!("event: heartbeat\ndata: {json}\n\n")));
    check(&Event::Probe, b"\x89\x00".to_vec(), None);
}

#[test]
fn a_notification_is_the_same_in_every_encoding_and_marked_when_it_is_repeated() {
    let json = r#"{"type":"notification","payload":{"a":1}}"#;
    for (replayed, attempt, marks) in [
        (false, 0, ""),
        (false, 1, ""),
        (true, 1, r#","replayed":true"#),
        (true, 3, r#","replayed":true,"attempt":3"#),
        (false, 2, r#","attempt":2"#),
    ] {
        let marked = format!("{}{marks}}}", json.strip_suffix('}').unwrap());
        let event = format!("id: {ID_TEXT}\nevent: notification\ndata: {marked}\n\n");
        for (encoding, bytes) in [
            (Encoding::AraText, frame(&marked)),
            (Encoding::AraSseChunk, chunk(&event)),
            (Encoding::AraSsePlain, event.clone().into_bytes()),
        ] {
            let marks = Marks { replayed, attempt };
            let encoded = encode_notification(encoding, ID, json.as_bytes(), marks);
            assert_eq!(encoded.into_vec(), bytes, "{encoding:?} {marks:?}");
        }
    }
}

#[test]
fn every_protocol_ends_in_its_own_way() {
    let close = [&b"\x88\x1c\x11\x4d"[..], b"slow consumer: outbox full"].concat();
    let close_of = |protocol: Protocol| protocol.close(CloseReason::SLOW_CONSUMER);
    assert_eq!(close_of(Protocol::AraWebSocket).as_deref(), Some(&close[..]));
    assert_eq!(close_of(Protocol::Echo).as_deref(), Some(&close[..]));
    assert_eq!(close_of(Protocol::AraSseChunked).as_deref(), Some(&b"0\r\n\r\n"[..]));
    assert_eq!(close_of(Protocol::AraSsePlain), None);
}

#[test]
fn a_message_is_read_as_its_protocol_says() {
    let ping = r#"{"type":"Ping"}"#;
    let ask = |protocol: Protocol, incoming| protocol.read(incoming);
    let is_ping = |request| request == Request::Message(Ok(ClientMessage::Ping));
    assert!(is_ping(ask(Protocol::AraWebSocket, Incoming::Text(ping))));
    assert!(is_ping(ask(Protocol::AraWebSocket, Incoming::Binary(ping.as_bytes()))));
    let sentence = "a binary message must be JSON in UTF-8".to_owned();
    let refused = ask(Protocol::AraWebSocket, Incoming::Binary(b"\xFF"));
    assert_eq!(refused, Request::Message(Err(sentence)));
    let echoed = Request::Answered(frame(ping).into());
    assert_eq!(ask(Protocol::Echo, Incoming::Text(ping)), echoed);
    let echoed = Request::Answered([0x82, 2, 7, 8].into());
    assert_eq!(ask(Protocol::Echo, Incoming::Binary(&[7, 8])), echoed);
}

#[test]
fn a_table_by_protocol_has_a_place_for_each() {
    for (place, protocol) in Protocol::ALL.into_iter().enumerate() {
        assert_eq!(protocol.index(), place);
    }
}
