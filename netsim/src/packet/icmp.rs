//! ICMP errors about a packet (RFC 792, 1812, 4443) and echo replies.

use std::net::IpAddr;

use super::build::{packet, put16, seal_segment};
use super::{Protocol, Transport, View, adjust, be16};

/// An error that a router or host reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IcmpError {
    /// TTL or hop limit ran out (11/0; 3/0).
    TimeExceeded,
    /// Nobody has the address (3/1; 1/3).
    HostUnreachable,
    /// No route (3/0; 1/0).
    NetUnreachable,
    /// Nobody listens (3/3; 1/4).
    PortUnreachable,
    /// A rule forbids it (3/13; 1/1).
    Prohibited,
    /// Larger than the next link takes (3/4; 2/0).
    TooBig {
        /// What the next link takes, in bytes.
        mtu: u32,
    },
}

impl IcmpError {
    /// Type, code, and the four bytes behind the checksum.
    fn fields(self, v4: bool) -> (u8, u8, [u8; 4]) {
        let none = [0; 4];
        match (self, v4) {
            (Self::TimeExceeded, true) => (11, 0, none),
            (Self::TimeExceeded, false) => (3, 0, none),
            (Self::HostUnreachable, true) => (3, 1, none),
            (Self::HostUnreachable, false) => (1, 3, none),
            (Self::NetUnreachable, true) => (3, 0, none),
            (Self::NetUnreachable, false) => (1, 0, none),
            (Self::PortUnreachable, true) => (3, 3, none),
            (Self::PortUnreachable, false) => (1, 4, none),
            (Self::Prohibited, true) => (3, 13, none),
            (Self::Prohibited, false) => (1, 1, none),
            // RFC 1191: 16 unused bits, then the MTU.
            (Self::TooBig { mtu }, true) => (3, 4, mtu.min(0xffff).to_be_bytes()),
            (Self::TooBig { mtu }, false) => (2, 0, mtu.to_be_bytes()),
        }
    }
}

/// The error `what` about the packet `about`, sent by `from` to its source. Quotes as much as keeps the
/// answer within 576 bytes (RFC 1812 section 4.3.2.3) or 1,280 (RFC 4443 section 2.4).
///
/// None where no error may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4): about ICMP errors,
/// fragments other than the first, multicast, broadcast, unspecified sources, other families, or
/// packets that do not parse.
#[must_use]
pub fn icmp_error(from: IpAddr, what: IcmpError, about: &[u8]) -> Option<Vec<u8>> {
    let view = View::parse(about).ok()?;
    let (to, v4) = (view.ip.source, from.is_ipv4());
    let broadcast = |a: IpAddr| matches!(a, IpAddr::V4(a) if a.is_broadcast());
    let nobody = to.is_unspecified() || to.is_multicast() || broadcast(to);
    let group = view.ip.destination.is_multicast() || broadcast(view.ip.destination);
    if nobody
        || group
        || to.is_ipv4() != v4
        || matches!(view.transport, Transport::Error | Transport::Later)
    {
        return None;
    }
    let quote = if v4 { 576 - 20 - 8 } else { 1280 - 40 - 8 };
    let (kind, code, rest) = what.fields(v4);
    let mut segment = vec![kind, code, 0, 0];
    segment.extend(rest);
    segment.extend(about.get(..view.ip.end.min(quote))?);
    let protocol = if v4 { Protocol::Icmp } else { Protocol::Icmpv6 };
    seal_segment(from, to, protocol, &mut segment, 2);
    Some(packet(from, to, protocol, &segment))
}

/// The reply to an echo request; None for anything else.
#[must_use]
pub fn echo_reply(request: &[u8], view: &View) -> Option<Vec<u8>> {
    let Transport::Query { request: true, .. } = view.transport else { return None };
    let kind = *request.get(view.ip.transport)?;
    let answer = match kind {
        8 => 0,
        128 => 129,
        _ => return None,
    };
    let mut segment = request.get(view.ip.transport..view.ip.end)?.to_vec();
    let code = *segment.get(1)?;
    let check = adjust(be16(&segment, 2).ok()?, &[kind, code], &[answer, code]);
    put16(&mut segment, 0, u16::from_be_bytes([answer, code]));
    put16(&mut segment, 2, check);
    Some(packet(view.ip.destination, view.ip.source, view.ip.protocol, &segment))
}
