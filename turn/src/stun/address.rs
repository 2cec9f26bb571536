//! Addresses in attributes: one reserved byte, the family (1 or 2), port, address; the xored forms
//! hide them from NATs that rewrite what looks like an address (RFC 8489 section 14.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::MAGIC;

const V4: u8 = 1;
const V6: u8 = 2;

fn mask(transaction: &[u8; 12]) -> u128 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[4..].copy_from_slice(transaction);
    u128::from_be_bytes(bytes)
}

const PORT_MASK: u16 = 0x2112;

/// Appends a plain address.
pub(crate) fn encode_plain(out: &mut Vec<u8>, addr: SocketAddr) {
    out.push(0);
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(V4);
            out.extend(addr.port().to_be_bytes());
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(V6);
            out.extend(addr.port().to_be_bytes());
            out.extend(ip.octets());
        }
    }
}

fn xored(addr: SocketAddr, transaction: &[u8; 12]) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) ^ MAGIC).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) ^ mask(transaction)).into(),
    };
    SocketAddr::new(ip, addr.port() ^ PORT_MASK)
}

/// Appends an address, xored.
pub(crate) fn encode_xor(out: &mut Vec<u8>, addr: SocketAddr, transaction: &[u8; 12]) {
    encode_plain(out, xored(addr, transaction));
}

fn decode_plain(value: &[u8]) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2], head[3]]);
    let ip = match head[1] {
        V4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        V6 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The address in an xored attribute.
pub(crate) fn decode_xor(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    Some(xored(decode_plain(value)?, transaction))
}
