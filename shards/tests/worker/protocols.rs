//! Connections of every protocol live side by side on one shard.
//!
//! Set-up: one shard, a client of each protocol. Property: each is spoken to in its own; a client's
//! message means what its own protocol says; one delivery reaches all readers, each in its encoding.
//! Why it matters: a further client protocol is to share the port, the shard and the user with the
//! ones there are.

use ara_shards::notification::Priority;
use ara_shards::protocol::Protocol;

use crate::harness::{Heard, Rig, quiet, to_everyone};

#[test]
fn each_connection_is_spoken_to_in_its_own_protocol() {
    let rig = Rig::start(quiet(), 16);
    let mut ann = rig.join("ann");
    let mut chunked = rig.adopt("bob", Protocol::AraSseChunked, b"");
    let mut plain = rig.adopt("cy", Protocol::AraSsePlain, b"");
    let mut echo = rig.adopt("dee", Protocol::Echo, b"");
    echo.read_to(b"\r\n\r\n");

    // The same words: one protocol answers them, the other sends them back.
    for _ in 0..2 {
        ann.say(r#"{"type":"Ping"}"#);
        assert_eq!(ann.message()["type"], "pong");
        echo.say(r#"{"type":"Ping"}"#);
        assert_eq!(echo.message()["type"], "Ping", "and nothing before it: an echo is not greeted");
    }

    rig.deliver(Priority::Normal, to_everyone(7, 10));
    assert_eq!(rig.counts(7).delivered, 4);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let seen = text(chunked.read_to(b"\n\n\r\n"));
    let seen = format!("{seen}{}", text(chunked.read_to(b"\n\n\r\n")));
    assert!(seen.contains("\r\nid: "), "a chunk begins with the event: {seen}");
    let seen = text(plain.read_to(b"\n\n"));
    let seen = format!("{seen}{}", text(plain.read_to(b"\n\n")));
    assert!(seen.contains("\n\nid: "), "an event follows an event: {seen}");
    assert_eq!([ann.number(), echo.number()], [7, 7]);

    // What is no message of one protocol is one of another.
    ann.say("7");
    assert_eq!(ann.message()["code"], "INVALID_MESSAGE");
    echo.say("7");
    assert_eq!(echo.next(), Heard::Text(7.into()));
    rig.stop();
}
