//! The PROXY protocol: a header in which a proxy says who has connected to it, before anything of that
//! client's (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, versions 1 and 2).
//!
//! **Runs on**: a shard's thread, in the door's short-lived tasks. **Owns**: nothing. **Never**: guesses:
//! whoever may send such a header must, so that no client can send one of its own through a proxy.

use std::net::SocketAddr;

use ara_shards::base::socket::PeerAddress;
use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::head::{BadHead, HeadError};
use crate::refusal::{Code, Refusal};

/// The longest header: addresses, and what proxies add of names, certificates and networks.
const HEADER_BYTES_MAX: usize = 4096;
/// The longest line of version 1 (section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// Reads a header, and leaves in `bytes` what came behind it. Who has connected to the proxy; `None` if it
/// speaks for itself (its own health check) or does not say.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<Option<PeerAddress>, HeadError> {
    loop {
        let count = stream.read_buf(bytes).await.map_err(|_broken| HeadError::Gone)?;
        if count == 0 {
            return Err(HeadError::Gone);
        }
        if let Some((client, length)) = parse(bytes).map_err(HeadError::Bad)? {
            bytes.drain(..length);
            return Ok(client);
        }
    }
}

/// The client that a header names, and how many bytes that took; `None` while it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Option<PeerAddress>, usize)>, BadHead> {
    // The parser takes a line that ends after a space for a wrong one rather than for a part of one.
    let is_part_of_line = bytes.starts_with(v1::PROTOCOL_PREFIX.as_bytes())
        && bytes.len() < LINE_BYTES_MAX
        && !bytes.contains(&b'\n');
    if is_part_of_line {
        return Ok(None);
    }
    let header = HeaderResult::parse(bytes);
    if header.is_incomplete() && bytes.len() < HEADER_BYTES_MAX {
        return Ok(None);
    }
    let (client, length) = match header {
        HeaderResult::V1(Ok(header)) => (client_of_v1(header.addresses), header.header.len()),
        HeaderResult::V2(Ok(header)) => (client_of_v2(&header), header.len()),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Err(missing()),
    };
    Ok(Some((client.map(PeerAddress::from), length)))
}

fn client_of_v1(addresses: v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn client_of_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
            Some((ip.source_address, ip.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
            Some((ip.source_address, ip.source_port).into())
        }
        _ => None,
    }
}

fn missing() -> BadHead {
    let sentence = "a connection must begin with a PROXY protocol header here \
                    (server.proxy_protocol): switch it on for this backend at the proxy or load \
                    balancer, or connect through it";
    BadHead { refusal: Refusal::new(Code::Validation, sentence), warning: Some(sentence) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_IPV4: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x13\x88\0\x50";

    async fn client(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), String> {
        let (mut stream, mut rest) = (bytes, Vec::new());
        match read(&mut stream, &mut rest).await {
            Ok(client) => {
                rest.extend_from_slice(stream);
                Ok((client.map(|client| client.to_string()), rest))
            }
            Err(HeadError::Bad(bad)) => Err(bad.refusal.message),
            Err(HeadError::Gone) => Err("gone".to_owned()),
        }
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_what_follows() {
        let v6 = [
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27".as_slice(),
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07",
            &[0; 16],
            b"\x13\x88\0\x50\x04\0\0",
        ]
        .concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n".as_slice(), Some("192.0.2.7:5000")),
            (b"PROXY TCP6 2001:db8::7 ::1 5000 80\r\n", Some("[2001:db8::7]:5000")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN anything at all\r\n", None),
            (V2_IPV4, Some("192.0.2.7:5000")),
            (&v6, Some("[2001:db8::7]:5000")),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", None),
        ] {
            let bytes = [header, b"GET / HTTP/1.1\r\n"].concat();
            let (client, rest) = client(&bytes).await.unwrap();
            assert_eq!(client.as_deref(), expected, "{header:?}");
            assert_eq!(rest, b"GET / HTTP/1.1\r\n");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte() {
        for header in [b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n".as_slice(), V2_IPV4] {
            for end in 1..header.len() {
                let part = header.get(..end).unwrap();
                assert!(matches!(parse(part), Ok(None)), "{end} of {header:?}");
            }
            let (client, length) = parse(header).unwrap().unwrap();
            assert_eq!((client.unwrap().port(), length), (5000, header.len()));
        }
    }

    #[tokio::test]
    async fn what_is_none_is_refused_and_not_waited_for() {
        let endless = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(), &[0; 5000]].concat();
        let long_line = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 5000\r\n",
            b"PROXY TCP4 192.0.2.999 192.0.2.1 5000 80\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 5000 80\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc0\0\x02\x07",
            &endless,
            &long_line,
        ] {
            let refusal = client(bytes).await.unwrap_err();
            assert!(refusal.contains("server.proxy_protocol"), "{bytes:?}: {refusal}");
        }
        assert_eq!(client(b"PROXY TC").await.unwrap_err(), "gone");
    }
}
