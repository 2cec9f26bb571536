//! Raw IP packets: views, builders, rewriting.
//!
//! Everything is total: bytes of any kind give a view or a [`Malformed`], never a panic.
//!
//! | part | what |
//! |---|---|
//! | [`View::parse`] | the headers of a whole packet |
//! | [`build`] | packets with right checksums |
//! | [`checksum`], [`adjust`] | RFC 1071, RFC 1624 |
//! | [`icmp_error`], [`IcmpError`] | ICMP errors about a packet |
//! | [`fragment`] | IPv4 fragmentation |

mod build;
mod checksum;
mod ecn;
mod fragments;
mod icmp;
mod reset;
mod rewrite;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use build::{Build, build};
pub use checksum::{adjust, checksum, transport_checksum};
pub use ecn::{ecn, mark_ecn};
pub use fragments::fragment;
pub(crate) use fragments::{allow_fragments, join};
pub use icmp::{IcmpError, echo_reply, icmp_error};
pub use reset::tcp_reset;
pub(crate) use rewrite::rewrite_embedded;
pub use rewrite::{End, decrement_ttl, rewrite_v4};

/// FIN of TCP's flags (RFC 9293).
pub const FIN: u8 = 0x01;
/// SYN of TCP's flags.
pub const SYN: u8 = 0x02;
/// RST of TCP's flags.
pub const RST: u8 = 0x04;
/// ACK of TCP's flags.
pub const ACK: u8 = 0x10;

/// Extension headers that are walked before giving up; real packets have two or three.
const MAX_EXTENSIONS: usize = 8;

/// Bytes that are not what their headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer bytes than the headers need or claim.
    #[error("truncated: {need} bytes are needed, {have} are there")]
    Truncated {
        /// Bytes that the headers need or claim.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// Neither IPv4 nor IPv6.
    #[error("IP version {0}; 4 and 6 are known")]
    Version(u8),
    /// A length field that contradicts another.
    #[error("a length field contradicts the headers")]
    Length,
    /// More extension headers than anybody sends.
    #[error("more than 8 IPv6 extension headers")]
    Extensions,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// UDP (17).
    Udp,
    /// TCP (6).
    Tcp,
    /// ICMP for IPv4 (1).
    Icmp,
    /// ICMP for IPv6 (58).
    Icmpv6,
    /// Any other.
    Other(u8),
}

impl Protocol {
    /// IANA's number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
            Self::Other(n) => n,
        }
    }

    /// From IANA's number.
    #[must_use]
    pub fn from_number(n: u8) -> Self {
        match n {
            17 => Self::Udp,
            6 => Self::Tcp,
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            n => Self::Other(n),
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp => f.write_str("udp"),
            Self::Tcp => f.write_str("tcp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("icmpv6"),
            Self::Other(n) => write!(f, "ip{n}"),
        }
    }
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification, which all fragments of a packet share.
    pub id: u32,
    /// Offset of its first byte in the original payload.
    pub offset: u32,
    /// Whether fragments follow it.
    pub more: bool,
}

/// The IP header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries, behind all extension headers.
    pub protocol: Protocol,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4's DF bit; true for IPv6, which routers never fragment.
    pub dont_fragment: bool,
    /// Set when this is one fragment of several.
    pub fragment: Option<Fragment>,
    /// Where the transport header starts.
    pub transport: usize,
    /// Where the packet ends: its total length.
    pub end: usize,
}

/// What is known of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags byte; zero where only an error's quote is left of the segment.
        flags: u8,
    },
    /// An ICMP query (echo, timestamp) or its reply.
    Query {
        /// The identifier, which NATs treat like a port (RFC 5508 section 3).
        id: u16,
        /// True for the query, false for its reply.
        request: bool,
    },
    /// An ICMP error, which quotes the packet it is about from 8 bytes on.
    Error,
    /// A fragment other than the first: it has no transport header.
    Later,
    /// Anything else.
    Other,
}

/// Both headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The IP header.
    pub ip: Ip,
    /// The transport header.
    pub transport: Transport,
}

impl View {
    /// Reads the headers of a whole packet. Bytes behind the packet's end are ignored.
    ///
    /// # Errors
    /// [`Malformed`] when a header is cut short or contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read(bytes, false)
    }

    /// Reads the headers of a packet quoted by an ICMP error, of which only the beginning is there.
    ///
    /// # Errors
    /// [`Malformed`] when not even addresses and ports are there.
    pub fn parse_quoted(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read(bytes, true)
    }

    fn read(bytes: &[u8], quoted: bool) -> Result<Self, Malformed> {
        let ip = match at(bytes, 0)? >> 4 {
            4 => read_v4(bytes, quoted)?,
            6 => read_v6(bytes, quoted)?,
            v => return Err(Malformed::Version(v)),
        };
        let transport = read_transport(&ip, bytes.get(..ip.end).unwrap_or(bytes), quoted)?;
        Ok(Self { ip, transport })
    }

    /// Source and destination port; an ICMP query's identifier stands in both. Zero without ports.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::Udp { source, destination } | Transport::Tcp { source, destination, .. } => {
                (source, destination)
            }
            Transport::Query { id, .. } => (id, id),
            Transport::Error | Transport::Later | Transport::Other => (0, 0),
        }
    }
}

fn at(bytes: &[u8], index: usize) -> Result<u8, Malformed> {
    bytes.get(index).copied().ok_or(Malformed::Truncated { need: index + 1, have: bytes.len() })
}

fn array<const N: usize>(bytes: &[u8], from: usize) -> Result<[u8; N], Malformed> {
    bytes
        .get(from..)
        .and_then(|b| b.first_chunk::<N>())
        .copied()
        .ok_or(Malformed::Truncated { need: from.saturating_add(N), have: bytes.len() })
}

fn be16(bytes: &[u8], from: usize) -> Result<u16, Malformed> {
    array(bytes, from).map(u16::from_be_bytes)
}

fn read_v4(bytes: &[u8], quoted: bool) -> Result<Ip, Malformed> {
    let header: [u8; 20] = array(bytes, 0)?;
    let transport = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if transport < 20 || total < transport {
        return Err(Malformed::Length);
    }
    if bytes.len() < transport || (!quoted && bytes.len() < total) {
        return Err(Malformed::Truncated { need: total, have: bytes.len() });
    }
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let offset = u32::from(flags & 0x1fff) * 8;
    let more = flags & 0x2000 != 0;
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    Ok(Ip {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        protocol: Protocol::from_number(header[9]),
        ttl: header[8],
        dont_fragment: flags & 0x4000 != 0,
        fragment: (more || offset != 0).then_some(Fragment { id, offset, more }),
        transport,
        end: total.min(bytes.len()),
    })
}

fn read_v6(bytes: &[u8], quoted: bool) -> Result<Ip, Malformed> {
    let header: [u8; 40] = array(bytes, 0)?;
    let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if !quoted && bytes.len() < total {
        return Err(Malformed::Truncated { need: total, have: bytes.len() });
    }
    let end = total.min(bytes.len());
    let body = bytes.get(..end).unwrap_or(bytes);
    let (mut next, mut transport, mut fragment) = (header[6], 40, None);
    for step in 0.. {
        if step == MAX_EXTENSIONS {
            return Err(Malformed::Extensions);
        }
        match next {
            // Hop-by-hop, routing, destination options (RFC 8200 section 4).
            0 | 43 | 60 => {
                next = at(body, transport)?;
                transport += 8 + usize::from(at(body, transport + 1)?) * 8;
            }
            44 => {
                let [after, _, high, low, id @ ..] = array::<8>(body, transport)?;
                let field = u16::from_be_bytes([high, low]);
                let (offset, more) = (u32::from(field & 0xfff8), field & 1 != 0);
                // An atomic fragment (RFC 6946) is a whole packet.
                fragment = (more || offset != 0).then_some(Fragment {
                    id: u32::from_be_bytes(id),
                    offset,
                    more,
                });
                next = after;
                transport += 8;
                if offset != 0 {
                    break;
                }
            }
            _ => break,
        }
    }
    if transport > end {
        return Err(Malformed::Truncated { need: transport, have: end });
    }
    Ok(Ip {
        source: Ipv6Addr::from(array::<16>(&header, 8)?).into(),
        destination: Ipv6Addr::from(array::<16>(&header, 24)?).into(),
        protocol: Protocol::from_number(next),
        ttl: header[7],
        dont_fragment: true,
        fragment,
        transport,
        end,
    })
}

fn read_transport(ip: &Ip, bytes: &[u8], quoted: bool) -> Result<Transport, Malformed> {
    if ip.fragment.is_some_and(|f| f.offset != 0) {
        return Ok(Transport::Later);
    }
    let from = ip.transport;
    let ports = || Ok((be16(bytes, from)?, be16(bytes, from + 2)?));
    Ok(match ip.protocol {
        Protocol::Udp => {
            let (source, destination) = ports()?;
            // A fragment's UDP length is that of the whole packet.
            let length = usize::from(be16(bytes, from + 4)?);
            let whole = !quoted && ip.fragment.is_none();
            if length < 8 || (whole && length > bytes.len() - from) {
                return Err(Malformed::Length);
            }
            array::<8>(bytes, from)?;
            Transport::Udp { source, destination }
        }
        Protocol::Tcp => {
            let (source, destination) = ports()?;
            let flags = match array::<20>(bytes, from) {
                Ok(header) if header[12] >> 4 < 5 => return Err(Malformed::Length),
                Ok(header) => header[13],
                Err(_) if quoted => 0,
                Err(e) => return Err(e),
            };
            Transport::Tcp { source, destination, flags }
        }
        Protocol::Icmp | Protocol::Icmpv6 => {
            let header: [u8; 8] = array(bytes, from)?;
            let id = u16::from_be_bytes([header[4], header[5]]);
            match (ip.protocol, header[0]) {
                (Protocol::Icmp, 8 | 13) | (Protocol::Icmpv6, 128) => {
                    Transport::Query { id, request: true }
                }
                (Protocol::Icmp, 0 | 14) | (Protocol::Icmpv6, 129) => {
                    Transport::Query { id, request: false }
                }
                (Protocol::Icmp, 3 | 4 | 5 | 11 | 12) | (Protocol::Icmpv6, 0..=127) => {
                    Transport::Error
                }
                _ => Transport::Other,
            }
        }
        Protocol::Other(_) => Transport::Other,
    })
}

/// Whether an IPv4 header's checksum is right; true for IPv6, which has none.
#[must_use]
pub fn header_checksum_ok(bytes: &[u8], ip: &Ip) -> bool {
    !ip.source.is_ipv4() || bytes.get(..ip.transport).is_some_and(|header| checksum(header) == 0)
}

/// Whether the transport's checksum is right. True where it cannot be known: fragments, other
/// protocols, and UDP over IPv4 without one.
#[must_use]
pub fn transport_checksum_ok(bytes: &[u8], ip: &Ip) -> bool {
    let Some(segment) = bytes.get(ip.transport..ip.end) else { return false };
    if ip.fragment.is_some() {
        return true;
    }
    match ip.protocol {
        Protocol::Udp if ip.source.is_ipv4() && segment.get(6..8) == Some(&[0, 0]) => true,
        Protocol::Icmp => checksum(segment) == 0,
        Protocol::Udp | Protocol::Tcp | Protocol::Icmpv6 => {
            transport_checksum(ip.source, ip.destination, ip.protocol.number(), segment) == 0
        }
        Protocol::Other(_) => true,
    }
}
