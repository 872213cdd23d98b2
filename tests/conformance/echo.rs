//! An echo server on the gateway's own accept, handshake, frames and close rules, for the
//! WebSocket conformance suite. Not part of the product: no token, no `connected`, no heartbeats.
//!
//! `echo --port N` (0 = any) prints `listening on ADDRESS` and runs until it is killed.

#![expect(clippy::print_stderr, reason = "a test tool talks to whoever runs it")]

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ara_gateway::listener::{accept, handshake, head};
use ara_shards::Limits;
use ara_shards::base::clock::Clock;
use ara_shards::base::id::NotificationId;
use ara_shards::base::placement::Placement;
use ara_shards::base::socket::{AsyncSocket, Socket};
use ara_shards::link::doorbell::Doorbell;
use ara_shards::link::message::{Adoption, Client, Control, InitialSubscriptions};
use ara_shards::protocol::Protocol;
use ara_shards::worker::{self, ShardSetup};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

fn main() -> ExitCode {
    let port = std::env::args().skip_while(|arg| arg != "--port").nth(1);
    let Some(port) = port.map_or(Some(0), |port| port.parse().ok()) else {
        eprintln!("usage: echo [--port N]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(port))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: u16) -> std::io::Result<()> {
    let wake = Arc::new(Notify::new());
    let waker = Arc::clone(&wake);
    let bell = Arc::new(Doorbell::new(move || waker.notify_one()));
    let limits = Limits {
        connections_per_user_max: 0,
        message_bytes_max: MESSAGE_BYTES_MAX,
        outbox_bytes_per_connection_max: 2 * MESSAGE_BYTES_MAX,
        heartbeat_interval: Duration::ZERO,
        ..Limits::default()
    };
    let setup = ShardSetup {
        index: 0,
        core: None,
        inbox_capacity: 16,
        fair_turns: false,
        limits,
        clock: Clock::start(),
        tokens: Arc::new(()),
    };
    let (link, shard) = worker::prepare(setup, Arc::clone(&bell))?;
    shard.spawn(|| {}, |ending| eprintln!("echo: shard ended: {ending:?}"))?;

    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listener = accept::bind(address, 1, accept::SocketOptions::default())?.remove(0);
    let listener = TcpListener::from_std(listener)?;
    writeln!(stdout(), "listening on {}", listener.local_addr()?)?;
    stdout().flush()?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted?;
                if let Some(adoption) = answer_handshake(Socket::new(stream, peer)).await
                    && link.control(Control::Adopt(Box::new(adoption))).is_err()
                {
                    eprintln!("echo: inbox full");
                }
            }
            () = wake.notified() => {
                bell.answer();
                while link.next_report().is_some() {}
            }
        }
    }
}

async fn answer_handshake(mut socket: AsyncSocket) -> Option<Adoption> {
    let head = head::read(&mut socket, Vec::new()).await.ok()?;
    let response_head = match handshake::upgrade(&head.parts) {
        Ok(response_head) => response_head,
        Err(refusal) => {
            accept::refuse(socket, refusal.response(None)).await;
            return None;
        }
    };
    let placement = Placement::new(1);
    let client = Client {
        tenant: "echo".into(),
        user: "anyone".into(),
        hash: placement.hash("echo", "anyone"),
        roles: Box::default(),
        grants: None,
        subscribes_to: InitialSubscriptions::Nothing,
        notify_settled: false,
        seen: None,
        expiry: None,
    };
    Some(Adoption {
        socket: socket.into_detached().ok()?,
        protocol: Protocol::Echo,
        client,
        response_head,
        refusal: Arc::from(&b""[..]),
        leftover: head.bytes.get(head.end..).unwrap_or_default().into(),
        connection_id: NotificationId([0; 16]),
    })
}
