//! By what clients' addresses are told apart.
//!
//! **Runs on**: doors and the router (a plain value). **Owns**: nothing. **Never**: tells two addresses of
//! one IPv6 network apart: whoever has one has 2^64 of them.

use std::net::IpAddr;

use ara_shards::base::socket::PeerAddress;

/// An IPv4 address, or the /64 of an IPv6 address: the least that is given to one subscriber
/// (RFC 6177 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressBlock {
    /// The address.
    V4(u32),
    /// Its first 64 bits.
    V6(u64),
}

impl From<PeerAddress> for AddressBlock {
    fn from(peer: PeerAddress) -> Self {
        match peer.ip() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let network = ip.to_bits() >> 64;
                Self::V6(u64::try_from(network).expect("64 bits are left"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn an_ipv4_address_stands_for_itself_and_an_ipv6_address_for_its_network() {
        let block =
            |text: &str| AddressBlock::from(PeerAddress::from(text.parse::<SocketAddr>().unwrap()));
        assert_eq!(block("192.0.2.1:1"), block("192.0.2.1:2"));
        assert_eq!(block("192.0.2.1:1"), block("[::ffff:192.0.2.1]:2"));
        assert_ne!(block("192.0.2.1:1"), block("192.0.2.2:1"));
        assert_eq!(block("[2001:db8:1:2::1]:1"), block("[2001:db8:1:2:ffff::]:1"));
        assert_ne!(block("[2001:db8:1:2::1]:1"), block("[2001:db8:1:3::1]:1"));
        assert_ne!(block("[::1]:1"), block("0.0.0.1:1"));
    }
}
