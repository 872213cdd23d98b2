//! A door whose way to the router is full refuses the newcomer, and still wakes the router.
//!
//! Set-up: one door on a runtime like a shard's, in front of a router that takes nothing. Property:
//! who does not fit is answered 503 at once, and the router's bell rings for it as for the others.
//! Why it matters: a full hand-over is the moment at which the router must not sleep. A door that rings
//! only for what was taken would refuse everybody for ever, should a wake-up be lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use ara_shards::Limits;
use ara_shards::base::clock::Clock;
use ara_shards::base::placement::Placement;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, bounded};
use jsonwebtoken::Algorithm;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::listener::auth::Verifier;
use crate::listener::handshake::Rules;
use crate::origin::Origins;
use crate::proxies::Proxies;
use crate::settings::Jwt;

const PATIENCE: Duration = Duration::from_secs(20);

/// A door, the router's end of it, and the bell between them.
struct Rig {
    address: SocketAddr,
    arrivals: Receiver<Arrival>,
    bell: Arc<Doorbell>,
    wakes: Arc<AtomicUsize>,
    rung: Arc<Notify>,
}

fn gate() -> Handshake {
    let jwt = Jwt {
        algorithm: Algorithm::HS256,
        secret: Some("0123456789abcdef0123456789abcdef".to_owned()),
        public_key_pem: None,
        issuer: None,
        audience: None,
        leeway: Duration::ZERO,
        expire_connections: true,
        cookie: None,
        previous_secret: None,
    };
    Handshake {
        clock: Clock::start(),
        blocked: Arc::default(),
        rules: ArcSwap::from_pointee(Rules {
            proxies: Proxies::default(),
            token_failures: None,
            cookie: None,
            expire_connections: true,
            verifier: Verifier::new(&jwt).unwrap(),
            origins: Origins::new(Vec::new(), true),
            limits: Limits::default(),
        }),
        placement: Placement::new(1),
        tenants_enabled: false,
        default_tenant: "default".into(),
    }
}

/// With room for so many arrivals.
fn open_door(room: usize) -> Rig {
    let (wakes, rung) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, tell) = (Arc::clone(&wakes), Arc::clone(&rung));
    let bell = Arc::new(Doorbell::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        tell.notify_one();
    }));
    let (sender, arrivals) = bounded(room);
    let listener = bind(([127, 0, 0, 1], 0).into(), 1, SocketOptions::default()).unwrap().remove(0);
    let address = listener.local_addr().unwrap();
    let router = RouterHandle { arrivals: sender, bell: Arc::clone(&bell) };
    spawn_unsupervised(serve(listener, Arc::new(gate()), router, 100));
    Rig { address, arrivals, bell, wakes, rung }
}

async fn call(rig: &Rig) -> TcpStream {
    let mut caller = TcpStream::connect(rig.address).await.unwrap();
    caller.write_all(b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    caller
}

#[test]
fn who_finds_the_way_to_the_router_full_is_refused_and_the_router_is_woken() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let test = async {
        let rig = open_door(1);
        let _first = call(&rig).await;
        rig.rung.notified().await;
        assert_eq!(rig.arrivals.len(), 1);
        // The router silences the bell, and is not so far as to take what is there.
        assert!(rig.bell.answer());
        let mut second = call(&rig).await;
        let mut answer = Vec::new();
        second.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("OVERLOADED"), "{answer}");
        drop(second);
        rig.rung.notified().await;
        assert_eq!(rig.wakes.load(Ordering::Relaxed), 2);
        assert_eq!(rig.arrivals.len(), 1, "the refused one is not there as well");
    };
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("the router sleeps") });
}
