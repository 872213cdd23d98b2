//! The tool's side of the bare server: starts it, gives it the frame to send, and tells it when to send.
//! Owns the child process and the control connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::arrivals::sequence_offset;
use crate::child::{Child, Recipe};
use crate::cli::Common;
use crate::fault::{Context, Fault, Outcome};
use crate::stop::Stop;
use crate::subscriber::{Reply, Script, Spread, Transport};
use crate::swarm::Swarm;
use crate::token::Tokens;

#[derive(Debug)]
pub(crate) struct Reference {
    child: Child,
    control: TcpStream,
    address: SocketAddr,
}

impl Reference {
    /// Starts a bare server that sends `frame`, counting its sequence number up from 0.
    pub(crate) fn start(common: &Common, frame: &[u8], stop: &Stop) -> Outcome<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Child::start(
            &Recipe {
                program: &program,
                args: &["bare-server"],
                environment: &[],
                cores: common.gateway_cores(),
                log: None,
                piped: true,
            },
            stop,
        )?;
        let mut line = String::new();
        if let Some(stdout) = child.take_stdout() {
            // It says its port first thing, or ends, which ends the line too.
            BufReader::new(stdout).read_line(&mut line).context("the bare server said nothing")?;
        }
        let port: u16 = line.trim().parse().context("the bare server named no port")?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut control = TcpStream::connect(address).context("cannot reach the bare server")?;
        control.set_nodelay(true).context("TCP_NODELAY")?;
        control.set_read_timeout(Some(Duration::from_secs(5))).context("read timeout")?;
        let seq_at = sequence_offset(frame)
            .ok_or_else(|| Fault::Failed("the frame has no sequence number".to_owned()))?;
        for number in [frame.len(), seq_at] {
            let word = u32::try_from(number).context("a frame too large")?.to_be_bytes();
            control.write_all(&word).context("cannot describe the frame")?;
        }
        control.write_all(frame).context("cannot hand over the frame")?;
        control.read_exact(&mut [0]).context("the bare server did not take the frame")?;
        Ok(Self { child, control, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Subscribers that shake hands and subscribe as at the gateway: a connection's history decides
    /// how the kernel acknowledges on it, which is a good part of what a send costs.
    pub(crate) fn swarm(&self, common: &Common, channel: &str, stop: &Stop) -> Outcome<Swarm> {
        let script = Script {
            transport: Transport::Ws,
            channel: Some(channel.to_owned()),
            spread: Spread::ONE,
            tokens: Tokens::new("unused"),
            reply: Reply::None,
        };
        Swarm::new(self.address, script, stop.clone(), common.stall_timeout())
    }

    /// Has it send `count` frames to every socket, back to back.
    pub(crate) fn ring(&mut self, count: u32) -> Outcome<()> {
        let bytes = vec![b'.'; usize::try_from(count).unwrap_or_default()];
        self.control.write_all(&bytes).context("cannot ring the bare server")
    }

    pub(crate) fn end(mut self) -> Outcome<()> {
        self.child.end()
    }
}
