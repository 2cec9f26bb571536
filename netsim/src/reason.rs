//! Why a packet went no further.

use std::fmt;

/// Why a packet was dropped. Every packet that enters the engine is delivered, absorbed by a router it
/// was addressed to, still on its way, or dropped with one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Not an IP packet, or shorter than its headers say.
    Malformed,
    /// The checksum of the IP header, or of an ICMP error on its way through a NAT, is wrong.
    BadChecksum,
    /// TTL or hop limit ran out.
    TtlExpired,
    /// Nobody has the address.
    NoRoute,
    /// The sending host does not have the source address.
    WrongSource,
    /// The link is down, or went down while the packet was on it.
    LinkDown,
    /// The link is up and swallows everything.
    BlackHole,
    /// Lost on the link.
    Loss,
    /// The link's queue was full.
    QueueFull,
    /// Larger than the link takes and not to be fragmented.
    TooBig,
    /// Sender and receiver are in different parts of a partitioned network.
    Partitioned,
    /// A NAT has no mapping for it.
    NoMapping,
    /// A NAT has the mapping, but not for this sender.
    Filtered,
    /// A NAT has no free port.
    NoPorts,
    /// A limit of a NAT or firewall was reached: mappings, sessions, ports of one subscriber.
    Limit,
    /// A NAT cannot translate this protocol or message.
    Untranslatable,
    /// From inside to the NAT's own outside, and the NAT does not hairpin.
    NoHairpin,
    /// A fragment whose first one never came, or for which there was no room.
    Fragment,
    /// A TCP segment that fits no connection.
    TcpState,
    /// A TCP SYN that nobody asked for.
    UnsolicitedSyn,
    /// A firewall's rule.
    Firewall,
    /// A router's own address, for something it does not serve.
    NotServed,
    /// The engine holds as many packets as it may.
    EngineFull,
}

impl Reason {
    /// All reasons, in the order in which [`crate::Ledger`] counts them.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::BadChecksum,
        Self::TtlExpired,
        Self::NoRoute,
        Self::WrongSource,
        Self::LinkDown,
        Self::BlackHole,
        Self::Loss,
        Self::QueueFull,
        Self::TooBig,
        Self::Partitioned,
        Self::NoMapping,
        Self::Filtered,
        Self::NoPorts,
        Self::Limit,
        Self::Untranslatable,
        Self::NoHairpin,
        Self::Fragment,
        Self::TcpState,
        Self::UnsolicitedSyn,
        Self::Firewall,
        Self::NotServed,
        Self::EngineFull,
    ];

    /// Its name in traces and assertions.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad-checksum",
            Self::TtlExpired => "ttl-expired",
            Self::NoRoute => "no-route",
            Self::WrongSource => "wrong-source",
            Self::LinkDown => "link-down",
            Self::BlackHole => "black-hole",
            Self::Loss => "loss",
            Self::QueueFull => "queue-full",
            Self::TooBig => "too-big",
            Self::Partitioned => "partitioned",
            Self::NoMapping => "no-mapping",
            Self::Filtered => "filtered",
            Self::NoPorts => "no-ports",
            Self::Limit => "limit",
            Self::Untranslatable => "untranslatable",
            Self::NoHairpin => "no-hairpin",
            Self::Fragment => "fragment",
            Self::TcpState => "tcp-state",
            Self::UnsolicitedSyn => "unsolicited-syn",
            Self::Firewall => "firewall",
            Self::NotServed => "not-served",
            Self::EngineFull => "engine-full",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
