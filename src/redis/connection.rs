//! One connection to Redis: connects, authenticates, subscribes, and receives replies and messages.
//!
//! **Runs on**: the router. **Owns**: the socket and the TLS configuration. **Never**: writes a
//! password into an error, or goes on with a server that could not prove who it is.
//!
//! The redis crate reads the URL and packs the commands. The socket is our own, for three reasons:
//! its subscriber queues without a bound (see `resp`), its TLS set-up reads every system root
//! certificate from disk at every attempt, and it leaves the choice of crypto provider to a
//! process-wide default.

use std::fmt;
use std::io;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, cmd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::pki_types::ServerName;

use super::fault::Fault;
use super::message::{BROADCAST, CHANNEL_PREFIX, USER_PREFIX};
use super::resp::{Frame, Frames};
use super::tls::Tls;

/// What `CLIENT LIST` shows for our connections.
const CLIENT_NAME: &str = "ara-gateway";
/// Two patterns and one channel.
const SUBSCRIPTIONS: usize = 3;

/// Whether a Redis URL can be used; the error never contains the URL, which may hold a password.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), String> {
    Endpoint::parse(url).map(|_usable| ())
}

/// The server's address, and the credentials the gateway presents to it.
pub(super) struct Endpoint {
    host: String,
    port: u16,
    /// The name the server's certificate must have; `None` = no TLS.
    tls: Option<ServerName<'static>>,
    info: ConnectionInfo,
}

/// Host and port only: safe to log.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let info: ConnectionInfo =
            url.parse().map_err(|error: redis::RedisError| error.to_string())?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                (host.clone(), *port, true)
            }
            ConnectionAddr::TcpTls { .. } => {
                return Err("#insecure is not supported: name the server's certificate, or its \
                            authority, by redis.tls_ca (REDIS_TLS_CA)"
                    .into());
            }
            _ => return Err("only redis:// and rediss:// URLs are supported".into()),
        };
        let name = tls.then(|| ServerName::try_from(host.clone())).transpose();
        let tls = name.map_err(|_invalid| "its host can be no name in a certificate")?;
        Ok(Self { host, port, tls, info })
    }

    /// The commands to send before the first message. The database number is accepted in the URL
    /// and not selected: pub/sub ignores it, and a narrow ACL need not allow `SELECT`.
    fn setup_commands(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(password) = self.info.redis_settings().password() {
            let username = self.info.redis_settings().username();
            bytes.extend(cmd("AUTH").arg(username).arg(password).get_packed_command());
        }
        bytes.extend(cmd("CLIENT").arg("SETNAME").arg(CLIENT_NAME).get_packed_command());
        let patterns = [USER_PREFIX, CHANNEL_PREFIX].map(|prefix| format!("{prefix}*"));
        bytes.extend(cmd("PSUBSCRIBE").arg(&patterns).get_packed_command());
        bytes.extend(cmd("SUBSCRIBE").arg(BROADCAST).get_packed_command());
        bytes
    }

    fn authenticates(&self) -> bool {
        self.info.redis_settings().password().is_some()
    }
}

/// Whether the URL is one of TLS. False where it cannot be used.
pub fn is_tls(url: &str) -> bool {
    Endpoint::parse(url).is_ok_and(|endpoint| endpoint.tls.is_some())
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// A connection that carries replies and messages.
pub(super) struct Link {
    stream: Box<dyn Duplex>,
    frames: Frames,
    /// Whether the server has sent anything.
    has_received: bool,
}

impl Link {
    /// Connects; `deadline` is shared out between the host's addresses, so that one that drops
    /// packets silently does not use up the time of the others.
    pub(super) async fn open(
        endpoint: &Endpoint,
        tls: &mut Tls,
        deadline: Instant,
    ) -> Result<Self, Fault> {
        let socket = connect(endpoint, deadline.saturating_duration_since(Instant::now())).await?;
        let stream: Box<dyn Duplex> = match &endpoint.tls {
            Some(name) => {
                Box::new(tls.secure(socket, name.clone(), &endpoint.host, deadline).await?)
            }
            None => Box::new(socket),
        };
        Ok(Self { stream, frames: Frames::default(), has_received: false })
    }

    /// Authenticates and subscribes to everything. Messages that arrive between the confirmations
    /// go to `early`.
    pub(super) async fn subscribe(
        &mut self,
        endpoint: &Endpoint,
        tls: &Tls,
        early: impl FnMut(Frame),
    ) -> Result<(), Fault> {
        let outcome = self.set_up(endpoint, early).await;
        outcome.map_err(|fault| match fault {
            Fault::Broken(error) => match tls.fault(error, &endpoint.host) {
                Fault::Broken(error) if is_disconnect(&error) => self.closed(endpoint),
                fault => fault,
            },
            Fault::Closed => self.closed(endpoint),
            fault => fault,
        })
    }

    fn closed(&self, endpoint: &Endpoint) -> Fault {
        if self.has_received {
            return Fault::Closed;
        }
        Fault::ClosedAtOnce(match endpoint.tls {
            None => "if the port is Redis' tls-port, write rediss:// in redis.url",
            Some(_) => "see its log; it may ask for a client certificate (redis.tls_cert)",
        })
    }

    async fn set_up(
        &mut self,
        endpoint: &Endpoint,
        mut early: impl FnMut(Frame),
    ) -> Result<(), Fault> {
        if let Err(fault) = self.send(&endpoint.setup_commands()).await {
            // A server that refuses the connection says why before it closes: that error tells
            // more.
            return match self.next().await {
                Ok(Frame::Refused(error)) => Err(Fault::Refused(error)),
                Err(later @ Fault::Broken(_)) => Err(later),
                _ => Err(fault),
            };
        }
        if endpoint.authenticates() {
            match self.next().await? {
                Frame::Okay => {}
                Frame::Refused(error) => return Err(Fault::Refused(error)),
                _ => return Err(Fault::Protocol("no answer to AUTH")),
            }
        }
        match self.next().await? {
            // The name only helps operators: a user without this permission may subscribe all the
            // same.
            Frame::Okay | Frame::Refused(_) => {}
            _ => return Err(Fault::Protocol("no answer to CLIENT SETNAME")),
        }
        let mut confirmed = 0;
        while confirmed < SUBSCRIPTIONS {
            match self.next().await? {
                Frame::Subscribed => confirmed += 1,
                Frame::Refused(error) => return Err(Fault::Refused(error)),
                frame @ (Frame::Message { .. } | Frame::Oversize) => early(frame),
                Frame::Okay | Frame::Pong => return Err(Fault::Protocol("no answer to SUBSCRIBE")),
            }
        }
        Ok(())
    }

    /// Sends a `PING`, which the server must answer.
    pub(super) async fn ping(&mut self) -> Result<(), Fault> {
        self.send(&cmd("PING").get_packed_command()).await
    }

    /// The next reply or message. Loses nothing when dropped before it is ready.
    pub(super) async fn next(&mut self) -> Result<Frame, Fault> {
        loop {
            if let Some(frame) = self.frames.take()? {
                return Ok(frame);
            }
            match self.stream.read_buf(self.frames.room()).await {
                Ok(0) => return Err(Fault::Closed),
                Ok(_) => self.has_received = true,
                // How rustls reports a stream that ends without `close_notify`.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Fault::Closed);
                }
                Err(error) => return Err(Fault::Broken(error)),
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.stream.write_all(bytes).await.map_err(Fault::Broken)?;
        self.stream.flush().await.map_err(Fault::Broken)
    }
}

fn is_disconnect(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

async fn connect(endpoint: &Endpoint, deadline: Duration) -> Result<TcpStream, Fault> {
    let addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    let addresses: Vec<_> = addresses.map_err(Fault::Unreachable)?.collect();
    let share = deadline / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) if is_self_connected(&socket) => {
                last = io::ErrorKind::ConnectionRefused.into()
            }
            Ok(Ok(socket)) => {
                socket.set_nodelay(true).map_err(Fault::Unreachable)?;
                return Ok(socket);
            }
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(Fault::Unreachable(last))
}

/// Whether a socket is connected to itself. That happens with a closed port of this machine when
/// the kernel picks that very port as the source; the server could then not bind it again.
fn is_self_connected(socket: &TcpStream) -> bool {
    matches!((socket.local_addr(), socket.peer_addr()), (Ok(here), Ok(there)) if here == there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_secrets() {
        for (url, shown, tls) in [
            ("redis://127.0.0.1", "127.0.0.1:6379", false),
            ("redis://:p%40ss@h:1/3", "h:1", false),
            ("rediss://user:pass@h.example", "h.example:6379", true),
            ("redis://[::1]:7", "::1:7", false),
        ] {
            let endpoint = Endpoint::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((endpoint.to_string().as_str(), endpoint.tls.is_some()), (shown, tls));
        }
        let commands = Endpoint::parse("redis://u:p%40ss@h").unwrap().setup_commands();
        assert!(
            commands
                .starts_with(b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$4\r\np@ss\r\n*3\r\n$6\r\nCLIENT")
        );
        let commands = Endpoint::parse("redis://:secret@h").unwrap().setup_commands();
        assert!(commands.starts_with(b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"));
        assert!(
            Endpoint::parse("redis://h")
                .unwrap()
                .setup_commands()
                .starts_with(b"*3\r\n$6\r\nCLIENT")
        );
    }

    #[test]
    fn faults_in_urls_never_show_the_url() {
        for url in [
            "http://u:secret@h",
            "redis+unix:///run/secret.sock",
            "rediss://u:secret@h/#insecure",
            "rediss://u:secret@h%20h",
            "redis://u:secret@h/secret",
            "redis://u:secret@0.0.0.0",
            "redis://u:secret@h:99999",
            "secret",
            "",
        ] {
            let error = check_url(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
