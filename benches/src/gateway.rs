//! Starts the gateway under test with the configuration a measurement needs, waits until it is
//! ready, and stops it. Owns the child process and the secrets of the run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;

use crate::caller::Api;
use crate::child::{Child, Recipe};
use crate::cli::Common;
use crate::fault::{Context, Outcome, failed};
use crate::http;
use crate::stop::Stop;
use crate::subscriber::{Reply, Script, Spread, Transport};
use crate::swarm::Swarm;
use crate::token::Tokens;

const READY_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) jwt_secret: String,
    pub(crate) api_key: String,
}

impl Gateway {
    /// Starts it with `shards` shards; returns when it answers that it is ready.
    pub(crate) fn start(common: &Common, shards: usize, stop: &Stop) -> Outcome<Self> {
        let mut gateway = Self::launch(common, shards, stop)?;
        gateway.wait(READY_WITHIN, "was not ready", stop, |gateway| {
            let answer = http::get(gateway.address, "/health/ready", &gateway.api_key);
            Ok(matches!(answer, Ok((200, _))).then_some(()))
        })?;
        Ok(gateway)
    }

    /// Starts it and waits for nothing.
    pub(crate) fn launch(common: &Common, shards: usize, stop: &Stop) -> Outcome<Self> {
        let address = free_address()?;
        let (jwt_secret, api_key) = (secret()?, secret()?);
        let environment = environment(common, shards, address, (&jwt_secret, &api_key));
        let program = program(common)?;
        let args: &[&str] = if common.stand_in { &["stand-in"] } else { &[] };
        let recipe = Recipe {
            program: &program,
            args,
            environment: &environment,
            cores: common.gateway_cores(),
            log: common.gateway_log.as_deref(),
            piped: false,
        };
        let child = Child::start(&recipe, stop)?;
        Ok(Self { child, address, jwt_secret, api_key })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// A load generator for this gateway.
    pub(crate) fn swarm(
        &self,
        common: &Common,
        transport: Transport,
        channel: Option<&str>,
        stop: &Stop,
    ) -> Outcome<Swarm> {
        let tokens = Tokens::new(&self.jwt_secret);
        self.swarm_with(common, transport, channel, tokens, stop)
    }

    /// A load generator of WebSocket users of a tenant.
    pub(crate) fn swarm_of(&self, tenant: &str, common: &Common, stop: &Stop) -> Outcome<Swarm> {
        let tokens = Tokens::new(&self.jwt_secret).of_tenant(tenant);
        self.swarm_with(common, Transport::Ws, None, tokens, stop)
    }

    fn swarm_with(
        &self,
        common: &Common,
        transport: Transport,
        channel: Option<&str>,
        tokens: Tokens,
        stop: &Stop,
    ) -> Outcome<Swarm> {
        let channel = channel.map(str::to_owned);
        let (spread, reply) = (Spread::ONE, Reply::None);
        let script = Script { transport, channel, spread, tokens, reply };
        Swarm::new(self.address, script, stop.clone(), common.stall_timeout())
    }

    pub(crate) fn api(&self, payload_bytes: usize) -> Api {
        Api { key: self.api_key.clone(), tenant: None, payload_bytes }
    }

    /// The same for a tenant.
    pub(crate) fn api_of(&self, tenant: &'static str, payload_bytes: usize) -> Api {
        Api { tenant: Some(tenant), ..self.api(payload_bytes) }
    }

    /// Fails if it did not stop by itself.
    pub(crate) fn end(mut self) -> Outcome<()> {
        self.child.end()
    }

    /// SIGKILL: what a crash leaves behind is what it had written by now.
    pub(crate) fn kill(mut self) -> Outcome<()> {
        self.child.kill()
    }

    /// Asks it until it answers, and fails if it ends or takes longer than `limit`.
    pub(crate) fn wait(
        &mut self,
        limit: Duration,
        fault: &str,
        stop: &Stop,
        mut ready: impl FnMut(&Self) -> Outcome<Option<()>>,
    ) -> Outcome<()> {
        let ready = stop.poll(limit, || {
            if let Some(status) = self.child.exited()? {
                return failed(format!("the gateway ended before it was ready ({status})"));
            }
            ready(self)
        })?;
        match ready {
            Some(()) => Ok(()),
            None => failed(format!(
                "the gateway {fault} after {} s; --gateway-log FILE keeps what it says",
                limit.as_secs()
            )),
        }
    }
}

/// The whole environment of the gateway: nothing of the caller's own but the search path.
fn environment(
    common: &Common,
    shards: usize,
    address: SocketAddr,
    (jwt_secret, api_key): (&str, &str),
) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut all: Vec<(String, String)> = [
        ("PATH", path.as_str()),
        ("RUST_LOG", "warn"),
        ("SERVER_HOST", "127.0.0.1"),
        ("SERVER_PORT", &address.port().to_string()),
        ("JWT_SECRET", jwt_secret),
        ("API_KEY", api_key),
        ("WEBSOCKET_MAX_CONNECTIONS_PER_USER", "0"),
        ("SHARDS_COUNT", &shards.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    // Last, so that they win.
    all.extend(common.environment.iter().cloned());
    all
}

fn program(common: &Common) -> Outcome<PathBuf> {
    if common.stand_in {
        return std::env::current_exe().context("cannot find this program");
    }
    let path: &Path = &common.gateway;
    path.canonicalize().context(&format!(
        "no gateway at {} (build it with `cargo build --release`, or name it with --gateway)",
        path.display()
    ))
}

/// A port nobody listens on now. Another process may take it first; the gateway then says so.
fn free_address() -> Outcome<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    listener.local_addr().context("cannot find a free port")
}

fn secret() -> Outcome<String> {
    let mut bytes = [0u8; 20];
    rand::fill(&mut bytes).context("no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
