//! A caller's connection against a stub that answers.
//!
//! Set-up: [`converse`] on a socket pair of loopback, with deadlines far shorter than the usual.
//! Property: whatever came before the connection's end is answered whole, in order, by one set of
//! rules, and the connection ends when its deadline says. Why: a caller cannot tell a request that
//! was dropped from one whose answer was lost, and must not send it again.

use std::cell::Cell;
use std::time::Duration;

use ara_shards::base::socket::Socket;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::refusal::Code;

const SHORT: Duration = Duration::from_millis(40);
const LONG: Duration = Duration::from_secs(3600);
/// Nobody waits so long for anything that comes.
const PATIENCE: Duration = Duration::from_secs(10);

const QUIET: Deadlines = Deadlines { head: LONG, idle: LONG, idle_stranger: LONG, write: LONG };

async fn pair() -> (AsyncSocket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    (Socket::new(stream, peer), caller)
}

/// Answers with the path and the body.
async fn echo(parts: Parts, body: Incoming) -> HttpResponse {
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = format!("<{} {}>", parts.uri.path(), String::from_utf8_lossy(&body));
    HttpResponse::new(Full::new(Bytes::from(text)))
}

/// Sends `input` at once, and returns what was answered and how it ended.
async fn exchange(input: &[u8], deadlines: Deadlines) -> (String, Ending) {
    let (socket, mut caller) = pair().await;
    let (_sender, closing) = watch::channel(false);
    caller.write_all(input).await.unwrap();
    let serve =
        converse(socket, Vec::new(), deadlines, closing, async |parts, body, _watch: &_| {
            echo(parts, body).await
        });
    let ending = tokio::time::timeout(PATIENCE, serve).await.unwrap();
    let (ending, mut answers) = (ending, Vec::new());
    if let Ending::Requests(socket, end) = ending {
        // The socket is still whole: it may go on to a shard.
        let (reader, mut writer, peer) = socket.into_split();
        writer.shutdown().await.unwrap();
        caller.read_to_end(&mut answers).await.unwrap();
        let socket = AsyncSocket::reunite(reader, writer, peer);
        return (String::from_utf8(answers).unwrap(), Ending::Requests(socket, end));
    }
    (String::new(), ending)
}

fn bodies(answers: &str) -> Vec<&str> {
    answers.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect()
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const POSTS: &str = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /\
    POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";

#[tokio::test]
async fn a_clients_request_leaves_with_its_socket_after_all_answers_before_it() {
    let input = format!("{GET}{POSTS}GET /sse?token=t HTTP/1.1\r\nHost: x\r\n\r\nbehind");
    let (answers, ending) = exchange(input.as_bytes(), QUIET).await;
    assert_eq!(bodies(&answers), ["/a ", "/b GET /", "/c abcde"]);
    assert!(!answers.to_ascii_lowercase().contains("connection: close"), "{answers}");
    let Ending::Requests(_, End::Client(parts, leftover)) = ending else { panic!("{ending:?}") };
    assert_eq!((parts.uri.path(), &*leftover), ("/sse", b"behind".as_slice()));
}

#[tokio::test]
async fn a_later_head_is_refused_by_the_rules_of_the_first() {
    let many = format!("GET /a HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(64));
    let long = format!("GET /a HTTP/1.1\r\nHost: x\r\nA: {}", "a".repeat(16 * 1024));
    for (bad, code) in [
        (many.as_str(), Code::HeadTooLarge),
        (long.as_str(), Code::HeadTooLarge),
        ("GET /a HTTP/1.1\r\n\r\n", Code::Validation),
        ("GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", Code::Validation),
        ("bad\r\n\r\n", Code::Validation),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n", Code::Validation),
    ] {
        for before in [String::new(), format!("{GET}{POSTS}")] {
            let (answers, ending) = exchange(format!("{before}{bad}").as_bytes(), QUIET).await;
            assert_eq!(bodies(&answers).len(), if before.is_empty() { 0 } else { 3 });
            let Ending::Requests(_, End::Bad(bad)) = ending else { panic!("{ending:?}") };
            assert_eq!(bad.refusal.code, code, "{bad:?}");
        }
    }
}

#[tokio::test]
async fn an_idle_stranger_is_closed_by_its_deadline_whatever_it_was_answered() {
    let deadlines = Deadlines { idle_stranger: SHORT, ..QUIET };
    let input = "GET /a HTTP/1.1\r\nHost: x\r\nX-API-Key: junk\r\n\r\n";
    let (answers, ending) = exchange(input.as_bytes(), deadlines).await;
    assert_eq!(bodies(&answers), ["/a "]);
    assert!(matches!(ending, Ending::Requests(_, End::Closed)), "{ending:?}");
}

#[tokio::test]
async fn a_caller_whose_key_was_checked_has_the_longer_deadline() {
    let deadlines = Deadlines { idle_stranger: LONG, idle: SHORT, ..QUIET };
    let (socket, mut caller) = pair().await;
    let (_sender, closing) = watch::channel(false);
    caller.write_all(GET.as_bytes()).await.unwrap();
    let serve =
        converse(socket, Vec::new(), deadlines, closing, async |parts, body, watch: &Watch| {
            watch.key_was_valid();
            echo(parts, body).await
        });
    let ending = tokio::time::timeout(PATIENCE, serve).await.unwrap();
    assert!(matches!(ending, Ending::Requests(_, End::Closed)), "{ending:?}");
}

#[tokio::test]
async fn a_head_that_is_never_completed_is_cut_by_its_deadline() {
    let deadlines = Deadlines { head: SHORT, ..QUIET };
    let input = format!("{GET}GET /a HTTP/1.1\r\nHo");
    let (_answers, ending) = exchange(input.as_bytes(), deadlines).await;
    assert!(matches!(ending, Ending::Cut), "{ending:?}");
}

#[tokio::test]
async fn what_came_before_the_end_is_answered_however_long_it_takes() {
    let deadlines = Deadlines { idle_stranger: SHORT, ..QUIET };
    let (socket, mut caller) = pair().await;
    let (_sender, closing) = watch::channel(false);
    let release = Notify::new();
    let served = Cell::new(0);
    let serve =
        converse(socket, Vec::new(), deadlines, closing, async |parts, body, _watch: &_| {
            served.set(served.get() + 1);
            release.notified().await;
            echo(parts, body).await
        });
    let converse = async {
        caller.write_all(format!("{GET}{GET}").as_bytes()).await.unwrap();
        // The deadline passes more than once while the first answer is made.
        tokio::time::sleep(SHORT * 3).await;
        assert_eq!(served.get(), 1);
        release.notify_one();
        let mut first = [0; 1024];
        let count = caller.read(&mut first).await.unwrap();
        tokio::time::sleep(SHORT * 3).await;
        release.notify_one();
        let mut rest = Vec::new();
        // The second answer is here, and then the end.
        caller.read_to_end(&mut rest).await.unwrap();
        let all = [&first[..count], &rest].concat();
        assert_eq!(bodies(&String::from_utf8(all).unwrap()), ["/a ", "/a "]);
    };
    let serve = async {
        let ending = serve.await;
        assert!(matches!(ending, Ending::Requests(_, End::Closed)), "{ending:?}");
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(serve, converse) }).await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_there_when_the_deadline_comes_is_served() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let watch = Rc::new(Watch::new(QUIET, watch::channel(false).1));
    let mut requests = Requests::new(server, Vec::new(), Rc::clone(&watch));
    watch.end_when_idle();
    caller.write_all(GET.as_bytes()).await.unwrap();
    let mut read = vec![0; 1024];
    let count = requests.read(&mut read).await.unwrap();
    assert_eq!(&read[..count], GET.as_bytes());
    // It goes on after that, until it is told again and nothing is there.
    assert!(!watch.ends_when_idle());
    watch.end_when_idle();
    assert_eq!(requests.read(&mut read).await.unwrap(), 0);
    assert!(matches!(requests.into_end().1, End::Closed));
}

#[tokio::test]
async fn a_head_begun_when_the_deadline_comes_is_waited_for() {
    let (mut caller, server) = tokio::io::duplex(1024);
    let watch = Rc::new(Watch::new(QUIET, watch::channel(false).1));
    let mut requests = Requests::new(server, Vec::new(), Rc::clone(&watch));
    let (begin, rest) = GET.split_at(9);
    caller.write_all(begin.as_bytes()).await.unwrap();
    let mut read = vec![0; 1024];
    let finish = async {
        tokio::task::yield_now().await;
        watch.end_when_idle();
        caller.write_all(rest.as_bytes()).await.unwrap();
    };
    let (count, ()) = tokio::join!(requests.read(&mut read), finish);
    assert_eq!(&read[..count.unwrap()], GET.as_bytes());
}

#[tokio::test]
async fn a_caller_that_closes_its_sending_side_gets_its_answers() {
    let (socket, mut caller) = pair().await;
    let (_sender, closing) = watch::channel(false);
    caller.write_all(format!("{GET}{POSTS}").as_bytes()).await.unwrap();
    caller.shutdown().await.unwrap();
    let serve = converse(socket, Vec::new(), QUIET, closing, async |parts, body, _watch: &_| {
        tokio::task::yield_now().await;
        echo(parts, body).await
    });
    drop(tokio::time::timeout(PATIENCE, serve).await.unwrap());
    let mut answers = String::new();
    caller.read_to_string(&mut answers).await.unwrap();
    assert_eq!(bodies(&answers).len(), 3, "{answers}");
}

#[tokio::test]
async fn a_gateway_that_closes_ends_an_idle_connection_at_once() {
    let (socket, caller) = pair().await;
    let (sender, closing) = watch::channel(false);
    let serve = converse(socket, Vec::new(), QUIET, closing, async |parts, body, _watch: &_| {
        echo(parts, body).await
    });
    // The connection is being served when the stop begins.
    let stop = async { sender.send(true).unwrap() };
    let (ending, ()) = tokio::join!(tokio::time::timeout(PATIENCE, serve), stop);
    let ending = ending.unwrap();
    assert!(matches!(ending, Ending::Requests(_, End::Closed)), "{ending:?}");
    drop(caller);
}

#[tokio::test]
async fn who_comes_while_the_gateway_closes_is_answered_once() {
    let (socket, mut caller) = pair().await;
    let (_sender, closing) = watch::channel(true);
    caller.write_all(format!("{GET}{POSTS}").as_bytes()).await.unwrap();
    let serve = converse(socket, Vec::new(), QUIET, closing, async |parts, body, _watch: &_| {
        echo(parts, body).await
    });
    let ending = tokio::time::timeout(PATIENCE, serve).await.unwrap();
    let Ending::Answered(socket) = ending else { panic!("{ending:?}") };
    drop(socket);
    let mut answers = Vec::new();
    // What was not read may end the connection with a reset.
    let _end = caller.read_to_end(&mut answers).await;
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(bodies(&answers), ["/a "]);
    assert!(answers.to_ascii_lowercase().contains("connection: close"), "{answers}");
}

#[tokio::test]
async fn an_empty_line_behind_a_request_begins_no_head_and_no_deadline() {
    for empty in ["\r\n", "\r\n\r\n", "\n", "\r"] {
        let input = format!("{GET}{empty}");
        let deadlines = Deadlines { head: SHORT, idle_stranger: 4 * SHORT, ..QUIET };
        let (answers, ending) = exchange(input.as_bytes(), deadlines).await;
        assert_eq!(bodies(&answers), ["/a "], "{empty:?}: {ending:?}");
    }
    let (answers, ending) = exchange(
        format!("{GET}\r\n{POSTS}").as_bytes(),
        Deadlines { idle_stranger: SHORT, ..QUIET },
    )
    .await;
    assert_eq!(bodies(&answers), ["/a ", "/b GET /", "/c abcde"], "{ending:?}");
}
