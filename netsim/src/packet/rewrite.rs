//! Changing addresses, ports and TTL in place, with checksums updated as RFC 1624 says. A checksum
//! that was wrong stays wrong: a NAT must not repair what the wire broke.

use std::net::{IpAddr, Ipv4Addr};

use super::build::put16;
use super::{Protocol, Transport, View, adjust, be16, checksum};

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Gives one end of an IPv4 packet another address and port (or ICMP identifier). Fragments without a
/// transport header change their address only.
pub fn rewrite_v4(bytes: &mut [u8], view: &View, end: End, address: Ipv4Addr, port: u16) {
    let address_at = if end == End::Source { 12 } else { 16 };
    let new = address.octets();
    let Some(old) = bytes.get_mut(address_at..address_at + 4) else { return };
    let was = [old[0], old[1], old[2], old[3]];
    old.copy_from_slice(&new);
    if let Ok(check) = be16(bytes, 10) {
        put16(bytes, 10, adjust(check, &was, &new));
    }
    let from = view.ip.transport;
    let (port_at, check_at, pseudo) = match (view.transport, end) {
        (Transport::Udp { .. }, End::Source) => (from, from + 6, true),
        (Transport::Udp { .. }, End::Destination) => (from + 2, from + 6, true),
        (Transport::Tcp { .. }, End::Source) => (from, from + 16, true),
        (Transport::Tcp { .. }, End::Destination) => (from + 2, from + 16, true),
        // ICMP for IPv4 has no pseudo header.
        (Transport::Query { .. }, _) => (from + 4, from + 2, false),
        _ => return,
    };
    let Ok(old_port) = be16(bytes, port_at) else { return };
    put16(bytes, port_at, port);
    // An ICMP error's quote may end before TCP's checksum.
    let Ok(check) = be16(bytes, check_at) else { return };
    let udp = view.ip.protocol == Protocol::Udp;
    if udp && check == 0 {
        return;
    }
    let mut updated = adjust(check, &old_port.to_be_bytes(), &port.to_be_bytes());
    if pseudo {
        updated = adjust(updated, &was, &new);
    }
    put16(bytes, check_at, if udp && updated == 0 { u16::MAX } else { updated });
}

/// Rewrites one end of the packet that an ICMPv4 error quotes, and the error's checksum. `view` is of
/// the error, `quoted` of its quote.
pub(crate) fn rewrite_embedded(
    bytes: &mut [u8],
    view: &View,
    quoted: &View,
    end: End,
    address: Ipv4Addr,
    port: u16,
) {
    let from = view.ip.transport;
    if let Some(inner) = bytes.get_mut(from + 8..view.ip.end) {
        rewrite_v4(inner, quoted, end, address, port);
    }
    put16(bytes, from + 2, 0);
    if let Some(message) = bytes.get(from..view.ip.end) {
        let check = checksum(message);
        put16(bytes, from + 2, check);
    }
}

/// Takes `hops` off TTL or hop limit; false, and nothing changed, when it would not stay above zero.
pub fn decrement_ttl(bytes: &mut [u8], view: &View, hops: u8) -> bool {
    if view.ip.ttl <= hops {
        return false;
    }
    let ttl = view.ip.ttl - hops;
    match view.ip.source {
        IpAddr::V4(_) => {
            if let (Some([old, protocol]), Ok(check)) =
                (bytes.get(8..10).and_then(|b| b.first_chunk::<2>()).copied(), be16(bytes, 10))
            {
                put16(bytes, 10, adjust(check, &[old, protocol], &[ttl, protocol]));
                put16(bytes, 8, u16::from_be_bytes([ttl, protocol]));
            }
        }
        IpAddr::V6(_) => {
            if let Some(limit) = bytes.get_mut(7) {
                *limit = ttl;
            }
        }
    }
    true
}
