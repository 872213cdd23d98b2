//! A peer's socket with the peer's address, from accept to close. It is plain TCP; TLS belongs here.
//!
//! **Runs on**: whichever thread serves the peer: a door, the router, its home shard. **Owns**: the
//! descriptor. **Never**: is registered twice: whoever hands it on takes it off its runtime first.
//!
//! The stage of a socket is its type. [`AsyncSocket`] is registered with the runtime of its thread,
//! [`Socket`] with nothing, so that it can cross threads, and [`PolledSocket`] with a shard's own
//! poller. The conversions between them are the only ones there are.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use mio::{Interest, Registry, Token};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connected, non-blocking socket and who is at its other end.
#[derive(Debug)]
pub struct Socket<Stream = TcpStream> {
    stream: Stream,
    peer: PeerAddress,
}

/// A socket that the runtime of its thread watches.
pub type AsyncSocket = Socket<tokio::net::TcpStream>;

/// A socket that its shard's poller watches.
pub(crate) type PolledSocket = Socket<mio::net::TcpStream>;

/// Where a peer connects from. A peer that an IPv6 socket shows as an IPv4-mapped address
/// (`::ffff:192.0.2.1`) is the same as over IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// An IPv4 address is kept as the IPv6 address it is mapped to.
    ip: [u8; 16],
    port: u16,
}

// Every connection keeps one: `std::net::SocketAddr` takes 32 bytes.
const _: () = assert!(size_of::<PeerAddress>() == 18);

impl PeerAddress {
    /// The address without the port, by which peers are told apart.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    /// The port; 0 = it is not known.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port() }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == 0 {
            // A proxy has told the address alone.
            return fmt::Display::fmt(&self.ip(), formatter);
        }
        fmt::Display::fmt(&SocketAddr::new(self.ip(), self.port), formatter)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl<Stream> Socket<Stream> {
    /// A stream as it was accepted, and the address that came with it.
    pub fn new(stream: Stream, peer: impl Into<PeerAddress>) -> Self {
        Self { stream, peer: peer.into() }
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> PeerAddress {
        self.peer
    }

    /// Who is at the other end of the proxy there.
    pub const fn set_peer(&mut self, peer: PeerAddress) {
        self.peer = peer;
    }
}

impl Socket {
    /// Registers the socket with the runtime of this thread.
    ///
    /// # Errors
    ///
    /// The system has no room for another registration.
    pub fn into_async(self) -> io::Result<AsyncSocket> {
        let stream = tokio::net::TcpStream::from_std(self.stream)?;
        Ok(Socket { stream, peer: self.peer })
    }

    /// Registers the socket with a shard's poller, edge-triggered, for both directions.
    pub(crate) fn register(self, registry: &Registry, token: Token) -> io::Result<PolledSocket> {
        let mut stream = mio::net::TcpStream::from_std(self.stream);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Socket { stream, peer: self.peer })
    }
}

impl AsyncSocket {
    /// Takes the socket off the runtime of this thread.
    ///
    /// # Errors
    ///
    /// The system does not let it go.
    pub fn into_detached(self) -> io::Result<Socket> {
        Ok(Socket { stream: self.stream.into_std()?, peer: self.peer })
    }

    /// The two directions on their own; [`Self::reunite`] puts them together again.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf, PeerAddress) {
        let (reader, writer) = self.stream.into_split();
        (reader, writer, self.peer)
    }

    /// Puts the two directions of one socket together again.
    #[must_use]
    pub fn reunite(reader: OwnedReadHalf, writer: OwnedWriteHalf, peer: PeerAddress) -> Self {
        let stream = reader.reunite(writer).expect("both directions are of one socket");
        Self { stream, peer }
    }
}

impl PolledSocket {
    /// Ends our direction. An error means that the peer has gone first.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Takes the socket off its poller.
    pub(crate) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.stream)
    }
}

impl<Stream: AsFd> AsFd for Socket<Stream> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<Stream: Read> Read for Socket<Stream> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl<Stream: Write> Write for Socket<Stream> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Socket<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Socket<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_one_address_whatever_family_its_socket_is_of() {
        for (accepted, shown) in [
            ("192.0.2.7:4000", "192.0.2.7:4000"),
            ("[::ffff:192.0.2.7]:4000", "192.0.2.7:4000"),
            ("[2001:db8::7]:65535", "[2001:db8::7]:65535"),
            ("[::1]:1", "[::1]:1"),
        ] {
            let peer = PeerAddress::from(accepted.parse::<SocketAddr>().unwrap());
            let same = PeerAddress::from(shown.parse::<SocketAddr>().unwrap());
            assert_eq!(peer, same);
            assert_eq!(peer.to_string(), shown);
            assert_eq!(SocketAddr::new(peer.ip(), peer.port()), shown.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn the_address_stays_with_the_socket_from_accept_to_the_poller() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let socket = Socket::new(stream, peer);
        let (reader, writer, peer) = socket.into_split();
        let socket = AsyncSocket::reunite(reader, writer, peer).into_detached().unwrap();
        let socket = socket.into_async().unwrap().into_detached().unwrap();
        let poll = mio::Poll::new().unwrap();
        let socket = socket.register(poll.registry(), Token(0)).unwrap();
        assert_eq!(socket.peer(), client.local_addr().unwrap().into());
    }
}
