//! Packets with right checksums, for drivers and tests.

use std::net::{IpAddr, SocketAddr};

use super::{Protocol, checksum, transport_checksum};

/// TTL of packets that are built here; Linux's default.
pub(crate) const TTL: u8 = 64;

/// What a built packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build<'a> {
    /// A UDP datagram.
    Udp(&'a [u8]),
    /// A TCP segment without options.
    Tcp {
        /// Flags, see [`super::SYN`] and its kin.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledge: u32,
        /// Receive window.
        window: u16,
        /// Data.
        payload: &'a [u8],
    },
    /// An echo request (`reply: false`) or reply; its identifier is the source's port.
    Echo {
        /// Whether it is a reply.
        reply: bool,
        /// Sequence number.
        sequence: u16,
        /// Data.
        payload: &'a [u8],
    },
}

impl Build<'_> {
    /// A TCP segment of nothing but flags.
    #[must_use]
    pub fn tcp(flags: u8) -> Self {
        Build::Tcp { flags, sequence: 1, acknowledge: 0, window: u16::MAX, payload: &[] }
    }
}

/// Builds a packet with TTL 64 and DF set. Both ends must be of one family; if they are not, the
/// source's family counts and the destination becomes the unspecified address, which goes nowhere.
/// A payload that does not fit an IP packet is cut.
#[must_use]
pub fn build(source: SocketAddr, destination: SocketAddr, what: Build<'_>) -> Vec<u8> {
    let v4 = source.is_ipv4();
    let to = match (v4, destination.ip()) {
        (true, IpAddr::V4(a)) => a.into(),
        (false, IpAddr::V6(a)) => a.into(),
        (true, _) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        (false, _) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let (protocol, mut segment, check_at) = match what {
        Build::Udp(payload) => {
            let payload = cut(payload, 8);
            let mut s = Vec::with_capacity(8 + payload.len());
            s.extend(source.port().to_be_bytes());
            s.extend(destination.port().to_be_bytes());
            s.extend(length16(8 + payload.len()).to_be_bytes());
            s.extend([0, 0]);
            s.extend(payload);
            (Protocol::Udp, s, 6)
        }
        Build::Tcp { flags, sequence, acknowledge, window, payload } => {
            let payload = cut(payload, 20);
            let mut s = Vec::with_capacity(20 + payload.len());
            s.extend(source.port().to_be_bytes());
            s.extend(destination.port().to_be_bytes());
            s.extend(sequence.to_be_bytes());
            s.extend(acknowledge.to_be_bytes());
            s.extend([5 << 4, flags]);
            s.extend(window.to_be_bytes());
            s.extend([0; 4]);
            s.extend(payload);
            (Protocol::Tcp, s, 16)
        }
        Build::Echo { reply, sequence, payload } => {
            let kind = match (v4, reply) {
                (true, false) => 8,
                (true, true) => 0,
                (false, false) => 128,
                (false, true) => 129,
            };
            let mut s = vec![kind, 0, 0, 0];
            s.extend(source.port().to_be_bytes());
            s.extend(sequence.to_be_bytes());
            s.extend(cut(payload, 8));
            (if v4 { Protocol::Icmp } else { Protocol::Icmpv6 }, s, 2)
        }
    };
    seal_segment(source.ip(), to, protocol, &mut segment, check_at);
    packet(source.ip(), to, protocol, &segment)
}

/// Puts the transport checksum in.
pub(super) fn seal_segment(
    from: IpAddr,
    to: IpAddr,
    protocol: Protocol,
    segment: &mut [u8],
    check_at: usize,
) {
    let check = match protocol {
        Protocol::Icmp => checksum(segment),
        _ => transport_checksum(from, to, protocol.number(), segment),
    };
    // Zero says "no checksum" in UDP (RFC 768).
    let check = if check == 0 && protocol == Protocol::Udp { u16::MAX } else { check };
    put16(segment, check_at, check);
}

/// Puts an IP header in front of a segment.
pub(super) fn packet(from: IpAddr, to: IpAddr, protocol: Protocol, segment: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length16(20 + segment.len()).to_be_bytes();
            let mut p = Vec::with_capacity(20 + segment.len());
            p.extend([0x45, 0, total[0], total[1], 0, 0, 0x40, 0, TTL, protocol.number(), 0, 0]);
            p.extend(from.octets());
            p.extend(to.octets());
            let check = checksum(&p);
            put16(&mut p, 10, check);
            p.extend(segment);
            p
        }
        (from, to) => {
            let octets = |a: IpAddr| match a {
                IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                IpAddr::V6(a) => a.octets(),
            };
            let length = length16(segment.len()).to_be_bytes();
            let mut p = Vec::with_capacity(40 + segment.len());
            p.extend([0x60, 0, 0, 0, length[0], length[1], protocol.number(), TTL]);
            p.extend(octets(from));
            p.extend(octets(to));
            p.extend(segment);
            p
        }
    }
}

/// Overwrites two bytes, if they are there.
pub(super) fn put16(bytes: &mut [u8], from: usize, value: u16) {
    if let Some(to) = bytes.get_mut(from..from + 2) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

/// The part of a payload that fits behind `header` and an IPv4 header.
fn cut(payload: &[u8], header: usize) -> &[u8] {
    payload.get(..65_535 - 20 - header).unwrap_or(payload)
}

fn length16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
