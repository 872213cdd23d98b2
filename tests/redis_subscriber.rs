//! The Redis subscription survives everything a server can do to it, and what arrives is checked.
//!
//! Set-up: a real redis-server for each test, killed, frozen, locked or made unreadable while a
//! subscriber listens. Why it matters: a subscription that is silently gone looks like a quiet
//! evening, and nobody is notified of anything.

#[cfg(test)]
#[path = "redis_subscriber/harness.rs"]
mod harness;
#[cfg(test)]
#[path = "redis_subscriber/tls.rs"]
mod tls;

use std::rc::Rc;
use std::time::{Duration, Instant};

use ara_gateway::intake::trigger::Target;
use ara_gateway::intake::validate::PAYLOAD_BYTES_MAX;
use ara_gateway::redis::message::MESSAGE_BYTES_MAX;
use ara_gateway::redis::{BreakerState, Rejected, State};
use ara_gateway::supervise::spawn_unsupervised;
use ara_shards::base::limits::BATCH_ITEMS_MAX;
use ara_shards::notification::Priority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::yield_now;

use harness::{Logs, Server, Subscriber, on_one_thread, until};

const BROADCAST: &str = "notification:broadcast";

/// A broadcast with this event type.
fn broadcast(event_type: &str) -> String {
    format!(r#"{{"type":"broadcast","event":{{"event_type":"{event_type}","payload":{{}}}}}}"#)
}

/// Publishes one more message and waits for it: the subscription is in place.
async fn proves_itself(server: &Server, subscriber: &Subscriber, event_type: &str) {
    let before = subscriber.triggers.borrow().len();
    server.publish(BROADCAST, &broadcast(event_type));
    subscriber.until_triggers(before + 1).await;
    assert_eq!(subscriber.event_types().last().map(String::as_str), Some(event_type));
}

#[test]
fn takes_every_type_from_its_channel() {
    on_one_thread(async {
        let server = Server::start(&[]).await;
        let subscriber = Subscriber::start(server.url(""));
        subscriber.until_connected().await;
        let payload = r#"{"z":1.10, "a":12345678901234567890123}"#;
        let names = || vec!["a".into(), "b".into()];
        let cases = [
            (
                "notification:user:ü:1",
                r#""user","target":"ü:1""#,
                Target::Users(vec!["ü:1".into()]),
            ),
            (BROADCAST, r#""users","target":["a","b"]"#, Target::Users(names())),
            (BROADCAST, r#""broadcast""#, Target::Everyone),
            (
                "notification:channel:c.1",
                r#""channel","target":"c.1""#,
                Target::Channels(vec!["c.1".into()]),
            ),
            (BROADCAST, r#""channels","target":["a","b"]"#, Target::Channels(names())),
        ];
        for (channel, head, _) in &cases {
            let event = format!(
                r#"{{"event_type":"e","payload":{payload},"priority":"High","ttl":7,"correlation_id":"c"}}"#
            );
            server
                .publish(channel, &format!(r#"{{"type":{head},"tenant_id":"t","event":{event}}}"#));
        }
        subscriber.until_triggers(cases.len()).await;
        for (trigger, (_, _, target)) in subscriber.triggers.borrow().iter().zip(&cases) {
            assert_eq!((&trigger.target, &*trigger.tenant), (target, "t"));
            let event = &trigger.event;
            let mut written = Vec::new();
            event.payload.write_to(&mut written);
            assert_eq!(written, payload.as_bytes());
            assert_eq!((event.priority, &*event.source), (Priority::High, "redis"));
            assert_eq!((event.ttl, event.correlation_id.as_deref()), (Some(7), Some("c")));
        }
        assert_eq!(subscriber.status.snapshot().messages_received, 5);
    });
}

#[test]
fn counts_bad_messages_and_logs_them_once_a_second_without_their_payload() {
    on_one_thread(async {
        let logs = Logs::capture();
        let server = Server::start(&[]).await;
        let subscriber = Subscriber::start(server.url(""));
        subscriber.until_connected().await;
        let start = Instant::now();
        for _ in 0..200 {
            server.publish("notification:user:u", r#"{"top secret""#);
        }
        let huge = "x".repeat(MESSAGE_BYTES_MAX + 1);
        let large = broadcast("e").replace("{}", &format!("{:?}", "x".repeat(PAYLOAD_BYTES_MAX)));
        for (channel, text) in [
            (BROADCAST, huge.as_str()),
            (BROADCAST, &large),
            (
                "notification:user:v",
                r#"{"type":"user","target":"u","event":{"event_type":"e","payload":1}}"#,
            ),
            (BROADCAST, r#"{"type":"user","target":"u","event":{"event_type":"e","payload":1}}"#),
            (
                "notification:channel:a b",
                r#"{"type":"channel","target":"a b","event":{"event_type":"e","payload":1}}"#,
            ),
        ] {
            server.publish(channel, text);
        }
        proves_itself(&server, &subscriber, "good").await;
        let status = &subscriber.status;
        for (reason, count) in [
            (Rejected::BadJson, 200),
            (Rejected::TooLarge, 2),
            (Rejected::TargetMismatch, 1),
            (Rejected::WrongTarget, 1),
            (Rejected::BadChannel, 1),
        ] {
            assert_eq!(status.rejected(reason), count, "{reason:?}");
        }
        let snapshot = status.snapshot();
        assert_eq!((snapshot.messages_received, snapshot.total_reconnections), (206, 0));
        let text = logs.text();
        let lines = text.lines().filter(|line| line.contains("rejected a message")).count();
        assert!(lines >= 1 && lines as u64 <= 1 + start.elapsed().as_secs(), "{lines} lines");
        assert!(text.contains("bad_json") && !text.contains("secret"), "{text}");
    });
}

#[test]
fn a_flood_arrives_whole_and_in_order_and_others_have_their_turn() {
    let event_types: Vec<_> = (0..20_000).map(|index| index.to_string()).collect();
    flood(event_types.iter().map(|event_type| broadcast(event_type)), &event_types);
}

/// A batch costs what its notifications do, not what one message does.
#[test]
fn a_flood_of_batches_arrives_whole_and_in_order_and_others_have_their_turn() {
    let event_types: Vec<_> = (0..20_000).map(|index| index.to_string()).collect();
    let batches = event_types.chunks(BATCH_ITEMS_MAX).map(|event_types| {
        let item = |event_type: &String| {
            format!(
                r#"{{"target":{{"type":"broadcast"}},"event_type":"{event_type}","payload":1}}"#
            )
        };
        let items: Vec<_> = event_types.iter().map(item).collect();
        format!(r#"{{"type":"batch","notifications":[{}]}}"#, items.join(","))
    });
    flood(batches, &event_types);
}

/// Publishes all of it at once, while a neighbour on the same thread counts how much is handled between
/// two of its turns.
#[cfg(test)]
fn flood(messages: impl Iterator<Item = String>, event_types: &[String]) {
    let count = event_types.len();
    on_one_thread(async {
        let server = Server::start(&[]).await;
        let subscriber = Subscriber::start(server.url(""));
        subscriber.until_connected().await;
        let mut pipeline = redis::pipe();
        for message in messages {
            pipeline.cmd("PUBLISH").arg(BROADCAST).arg(message).ignore();
        }
        let client = redis::Client::open(server.url("")).unwrap();
        let () = pipeline.query(&mut client.get_connection().unwrap()).unwrap();
        let triggers = Rc::clone(&subscriber.triggers);
        let neighbour = spawn_unsupervised(async move {
            let (mut seen, mut largest) = (0, 0);
            while seen < count {
                let now = triggers.borrow().len();
                largest = largest.max(now - seen);
                seen = now;
                yield_now().await;
            }
            largest
        });
        subscriber.until_triggers(count).await;
        let largest = neighbour.await.unwrap();
        assert!(largest <= 256, "{largest} notifications in one turn");
        assert!(subscriber.event_types() == event_types);
    });
}

#[test]
fn comes_back_after_the_server_was_killed_and_restarted() {
    on_one_thread(async {
        let mut server = Server::start(&[]).await;
        let subscriber = Subscriber::start(server.url(""));
        subscriber.until_connected().await;
        proves_itself(&server, &subscriber, "first").await;
        server.kill();
        subscriber.until_lost().await;
        until("several attempts", || subscriber.status.snapshot().reconnection_attempts >= 3).await;
        server.restart().await;
        subscriber.until_connected().await;
        for channel in ["notification:user:u", "notification:channel:c"] {
            server.publish(channel, "x");
        }
        proves_itself(&server, &subscriber, "second").await;
        let snapshot = subscriber.status.snapshot();
        assert_eq!((snapshot.state, snapshot.total_reconnections), (State::Healthy, 1));
        assert_eq!(snapshot.reconnection_attempts, 0);
    });
}

#[test]
fn comes_back_after_its_connection_was_killed() {
    on_one_thread(async {
        let server = Server::start(&[]).await;
        let subscriber = Subscriber::start(server.url(""));
        subscriber.until_connected().await;
        for round in 1..=3 {
            assert_eq!(server.run::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]), 1);
            until("the subscription is back", || {
                subscriber.status.snapshot().total_reconnections == round
            })
            .await;
            proves_itself(&server, &subscriber, &round.to_string()).await;
        }
    });
}

#[test]
fn notices_a_frozen_server_and_comes_back_when_it_thaws() {
    on_one_thread(async {
        let logs = Logs::capture();
        let server = Server::start(&[]).await;
        let subscriber = Subscriber::start(server.url(""));
        subscriber.until_connected().await;
        server.signal("STOP");
        subscriber.until_lost().await;
        assert!(logs.text().contains("health_check_timeout"), "{}", logs.text());
        // The kernel still accepts for it: only the deadline on the subscription ends an attempt.
        until("an attempt timed out", || logs.text().contains("connect_timeout")).await;
        server.signal("CONT");
        subscriber.until_connected().await;
        until("the subscription is the only one", || {
            server.run::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count() == 1
        })
        .await;
        proves_itself(&server, &subscriber, "thawed").await;
    });
}

#[test]
fn a_wrong_password_opens_the_breaker_and_the_right_one_closes_it() {
    on_one_thread(async {
        let logs = Logs::capture();
        let server = Server::start(&["--requirepass", "other"]).await;
        let subscriber = Subscriber::start(server.url(":s3cr3t@"));
        until("the breaker opens", || subscriber.status.snapshot().state == State::CircuitOpen)
            .await;
        let snapshot = subscriber.status.snapshot();
        assert_eq!((snapshot.breaker_state, snapshot.breaker_failures), (BreakerState::Open, 5));
        assert!(!snapshot.connected);
        let client = redis::Client::open(server.url(":other@")).unwrap();
        let mut connection = client.get_connection().unwrap();
        let set = redis::cmd("CONFIG").arg(&["SET", "requirepass", "s3cr3t"]).exec(&mut connection);
        set.unwrap();
        until("the breaker closes", || {
            subscriber.status.snapshot().breaker_state == BreakerState::Closed
        })
        .await;
        let snapshot = subscriber.status.snapshot();
        assert_eq!((snapshot.state, snapshot.breaker_failures), (State::Healthy, 0));
        let published =
            redis::cmd("PUBLISH").arg(BROADCAST).arg(broadcast("e")).exec(&mut connection);
        published.unwrap();
        subscriber.until_triggers(1).await;
        let text = logs.text();
        assert!(text.contains("WRONGPASS") && text.contains("breaker=\"open\""));
        assert!(!text.contains("s3cr3t"), "{text}");
    });
}

#[test]
fn a_narrow_acl_user_is_enough() {
    on_one_thread(async {
        let server = Server::start(&[]).await;
        // Redis wants the very patterns for PSUBSCRIBE: `&notification:*` would not do. There is
        // neither CLIENT SETNAME nor SELECT, and for the second user not even PING.
        let rights = [
            "on",
            "resetchannels",
            "&notification:user:*",
            "&notification:channel:*",
            "&notification:broadcast",
            "+subscribe",
            "+psubscribe",
        ];
        let with =
            |name, extra| [&["ACL", "SETUSER", name, ">p@ss word"], &rights[..], extra].concat();
        let () = server.run(&with("narrow", &["+ping"]));
        let () = server.run(&with("narrower", &[]));
        for name in ["narrow", "narrower"] {
            let subscriber = Subscriber::start(server.url(&format!("{name}:p%40ss%20word@")));
            subscriber.until_connected().await;
            proves_itself(&server, &subscriber, name).await;
            drop(subscriber);
            until("the subscription is gone", || {
                server.run::<u64>(&["PUBLISH", BROADCAST, "x"]) == 0
            })
            .await;
        }
        let () = server.run(&["ACL", "SETUSER", "narrow", "resetchannels"]);
        let subscriber = Subscriber::start(server.url("narrow:p%40ss%20word@"));
        until("it is refused", || subscriber.status.snapshot().state == State::CircuitOpen).await;
    });
}

#[test]
fn what_is_no_redis_server_is_left_alone_while_the_breaker_is_open() {
    on_one_thread(async {
        let logs = Logs::capture();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let _subscriber = Subscriber::start(url);
        let mut accepted = Vec::new();
        while accepted.len() < 7 {
            let (mut socket, _) = listener.accept().await.unwrap();
            accepted.push(Instant::now());
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
        assert!(logs.text().contains("reason=\"protocol\""), "{}", logs.text());
        // Five failures open it; then one attempt, alone, after each reset time.
        for (before, after) in accepted.iter().zip(accepted.iter().skip(1)).skip(4) {
            assert!(*after - *before >= Duration::from_millis(280), "{accepted:?}");
        }
    });
}
