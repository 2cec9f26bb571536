//! Which peers may be relayed to: a pure function.
//!
//! Addresses are canonicalized first (IPv4-mapped IPv6 is IPv4). What IANA's special-purpose
//! registries do not call globally reachable is refused, and so are the forms that carry an IPv4
//! address through a gateway (6to4, Teredo, NAT64): nobody needs them here, and each hides its
//! target. Of this server's own addresses only live relayed ports are reachable. An operator may
//! allow ranges; its own addresses stay refused even inside these.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    bits: u8,
}

/// Not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{text:?} is no range of addresses: write it as 192.168.0.0/16 or fd00::/8{hint}")]
pub struct CidrError {
    text: String,
    hint: String,
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Self {
        Self { ip: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), bits }
    }

    /// Whether `ip` is one of them. An IPv4-mapped address is not an IPv4 address here.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = u32::from(a) ^ u32::from(b);
                differ.checked_shr(32_u32.saturating_sub(self.bits.into())).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = u128::from(a) ^ u128::from(b);
                differ.checked_shr(128_u32.saturating_sub(self.bits.into())).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    fn first(ip: IpAddr, bits: u8) -> IpAddr {
        match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
                Ipv4Addr::from(u32::from(ip) & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
                Ipv6Addr::from(u128::from(ip) & mask).into()
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = |hint: String| CidrError { text: text.chars().take(80).collect(), hint };
        let (ip, bits) = text.split_once('/').unwrap_or((text, ""));
        let ip: IpAddr = ip.parse().map_err(|_| bad(String::new()))?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            "" if !text.contains('/') => width,
            bits => match bits.parse() {
                Ok(bits) if bits <= width => bits,
                _ => return Err(bad(format!("; after the slash come 0 to {width}"))),
            },
        };
        let first = Self::first(ip, bits);
        if first != ip {
            return Err(bad(format!("; did you mean {first}/{bits}?")));
        }
        Ok(Self { ip, bits })
    }
}

/// Why a peer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// This server's own address, and no live relayed port.
    Own,
    /// This host, or this network (0.0.0.0/8, ::).
    Unspecified,
    /// 127.0.0.0/8, ::1.
    Loopback,
    /// RFC 1918, shared (RFC 6598), unique local.
    Private,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Multicast and broadcast.
    Multicast,
    /// IPv4 inside IPv6: 6to4, Teredo, NAT64.
    Translated,
    /// Documentation, benchmarks, protocol assignments, not assigned at all.
    Reserved,
    /// Port 0.
    Port,
}

impl Refusal {
    pub(crate) const ALL: [Self; 9] = [
        Self::Own,
        Self::Unspecified,
        Self::Loopback,
        Self::Private,
        Self::LinkLocal,
        Self::Multicast,
        Self::Translated,
        Self::Reserved,
        Self::Port,
    ];

    /// As metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Translated => "translated",
            Self::Reserved => "reserved",
            Self::Port => "port",
        }
    }
}

/// IANA "IPv4 Special-Purpose Address Registry", what is not globally reachable.
const SPECIAL_V4: &[(Cidr, Refusal)] = &[
    (Cidr::v4(0, 0, 0, 0, 8), Refusal::Unspecified),
    (Cidr::v4(10, 0, 0, 0, 8), Refusal::Private),
    (Cidr::v4(100, 64, 0, 0, 10), Refusal::Private),
    (Cidr::v4(127, 0, 0, 0, 8), Refusal::Loopback),
    (Cidr::v4(169, 254, 0, 0, 16), Refusal::LinkLocal),
    (Cidr::v4(172, 16, 0, 0, 12), Refusal::Private),
    (Cidr::v4(192, 0, 0, 0, 24), Refusal::Reserved),
    (Cidr::v4(192, 0, 2, 0, 24), Refusal::Reserved),
    (Cidr::v4(192, 88, 99, 0, 24), Refusal::Translated),
    (Cidr::v4(192, 168, 0, 0, 16), Refusal::Private),
    (Cidr::v4(198, 18, 0, 0, 15), Refusal::Reserved),
    (Cidr::v4(198, 51, 100, 0, 24), Refusal::Reserved),
    (Cidr::v4(203, 0, 113, 0, 24), Refusal::Reserved),
    (Cidr::v4(224, 0, 0, 0, 4), Refusal::Multicast),
    (Cidr::v4(255, 255, 255, 255, 32), Refusal::Multicast),
    (Cidr::v4(240, 0, 0, 0, 4), Refusal::Reserved),
];

/// IANA "IPv6 Special-Purpose Address Registry" and, last, all that is not global unicast.
const SPECIAL_V6: &[(Cidr, Refusal)] = &[
    (Cidr::v6(0, 0, 0, 128), Refusal::Unspecified),
    (Cidr { ip: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 }, Refusal::Loopback),
    (Cidr::v6(0, 0, 0, 96), Refusal::Translated), // IPv4-compatible, deprecated
    (Cidr::v6(0x64, 0xff9b, 0, 47), Refusal::Translated), // 64:ff9b::/96 and 64:ff9b:1::/48
    (Cidr::v6(0x2001, 0, 0, 32), Refusal::Translated),
    (Cidr::v6(0x2001, 0, 0, 23), Refusal::Reserved),
    (Cidr::v6(0x2001, 0xdb8, 0, 32), Refusal::Reserved),
    (Cidr::v6(0x2002, 0, 0, 16), Refusal::Translated),
    (Cidr::v6(0x3fff, 0, 0, 20), Refusal::Reserved),
    (Cidr::v6(0xfc00, 0, 0, 7), Refusal::Private),
    (Cidr::v6(0xfe80, 0, 0, 10), Refusal::LinkLocal),
    (Cidr::v6(0xff00, 0, 0, 8), Refusal::Multicast),
];
const GLOBAL_V6: Cidr = Cidr::v6(0x2000, 0, 0, 3);

/// Why an address is special, or nothing where it is an ordinary one. Wants a canonical address.
#[must_use]
pub fn special(ip: IpAddr) -> Option<Refusal> {
    let table = if ip.is_ipv4() { SPECIAL_V4 } else { SPECIAL_V6 };
    let found = table.iter().find(|(range, _)| range.contains(ip)).map(|(_, refusal)| *refusal);
    let other = || (ip.is_ipv6() && !GLOBAL_V6.contains(ip)).then_some(Refusal::Reserved);
    found.or_else(other)
}

/// What a server may relay to.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// Special ranges that are allowed all the same (`--turn-allow`).
    pub allow: Vec<Cidr>,
    /// Addresses of this host: those that it listens on and those that others know it by.
    pub own: Vec<IpAddr>,
}

impl AddressPolicy {
    /// Whether `ip` (canonical) is this host.
    #[must_use]
    pub fn is_own(&self, ip: IpAddr) -> bool {
        self.own.iter().any(|own| own.to_canonical() == ip)
    }

    /// Judges the address of a peer for a permission, which concerns all its ports: `live` says
    /// whether this port is a live relayed one. With port 0 (a client that does not say which) an
    /// own address passes, for [`Self::check`] judges each datagram again.
    ///
    /// # Errors
    /// Why not.
    pub fn check_permission(
        &self,
        peer: SocketAddr,
        live: impl Fn(SocketAddr) -> bool,
    ) -> Result<(), Refusal> {
        let peer = canonical(peer);
        if peer.port() == 0 && self.is_own(peer.ip()) {
            return Ok(());
        }
        self.judge(peer, live)
    }

    /// Judges a peer that data is to go to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        peer: SocketAddr,
        live: impl Fn(SocketAddr) -> bool,
    ) -> Result<(), Refusal> {
        if peer.port() == 0 { Err(Refusal::Port) } else { self.judge(canonical(peer), live) }
    }

    fn judge(&self, peer: SocketAddr, live: impl Fn(SocketAddr) -> bool) -> Result<(), Refusal> {
        if live(peer) {
            return Ok(());
        }
        if self.is_own(peer.ip()) {
            return Err(Refusal::Own);
        }
        match special(peer.ip()) {
            Some(refusal) if !self.allow.iter().any(|r| r.contains(peer.ip())) => Err(refusal),
            _ => Ok(()),
        }
    }
}

/// An IPv4-mapped address as the IPv4 address that it is, without scope or flow.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
