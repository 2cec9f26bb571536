//! What a NAT does, as data. [`NatConfig::check`] refuses what cannot be.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::error::ConfigError;
use crate::prefix::Prefix;
use crate::session::{Dependence, Lifetimes};

/// A translator between an inside and an outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatConfig {
    /// Addresses and ports (NAPT, RFC 3022 section 2.2): most NATs.
    Ports(Box<Napt>),
    /// Addresses one to one (Basic NAT, RFC 3022 section 2.1), as clouds give public addresses to
    /// machines. It has no ports, timers or filters; put a [`crate::FirewallConfig`] beside it.
    OneToOne(Vec<Pair>),
}

/// An inside address and the outside address that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The machine's own address.
    pub inside: Ipv4Addr,
    /// One of the router's outside addresses.
    pub outside: Ipv4Addr,
}

/// Mapping and filtering of one protocol (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// For which destinations an inside endpoint keeps its outside endpoint.
    pub mapping: Dependence,
    /// Who may send to that outside endpoint.
    pub filtering: Dependence,
}

/// A NAT of addresses and ports. The default is what the RFCs recommend to a home router; every field
/// names its clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Napt {
    /// UDP (RFC 4787, REQ-1 and REQ-8). ICMP queries follow its filtering by address.
    pub udp: Behaviour,
    /// TCP (RFC 5382, REQ-1 and REQ-3, which wants them set apart from UDP's).
    pub tcp: Behaviour,
    /// Which outside ports are given out.
    pub ports: Ports,
    /// Whether inside hosts reach each other by their outside endpoints. The source is then the
    /// outside endpoint too (RFC 4787, REQ-9a).
    pub hairpin: bool,
    /// How long mappings last.
    pub lifetimes: Lifetimes,
    /// Whether packets from outside prolong a UDP mapping; those from inside always do (RFC 4787,
    /// REQ-6), so a NAT refreshed from outside alone cannot be written down.
    pub inbound_refresh: bool,
    /// Which outside address a host gets when there are several.
    pub pooling: Pooling,
    /// Bounds.
    pub limits: Limits,
    /// What answers a TCP SYN that nobody asked for.
    pub unsolicited_syn: UnsolicitedSyn,
    /// What happens to a TCP segment from inside that belongs to no known connection.
    pub mid_stream: MidStream,
    /// What an inside host is told when there is no mapping for it.
    pub refusal: Refusal,
    /// Ports that are open from outside at all times.
    pub forwards: Vec<Forward>,
    /// Destinations to which nothing is translated (RFC 6888, REQ-6).
    pub exempt: Vec<Exempt>,
}

/// Outside ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// How one is chosen.
    pub rule: PortRule,
    /// Lowest and highest port given out to inside ports from 1024 on. Inside ports below 1024 get one
    /// below 1024 (RFC 4787, REQ-3a) if `keep_class` is set.
    pub range: (u16, u16),
    /// Whether inside ports below 1024 are mapped to such ports.
    pub keep_class: bool,
    /// Whether even ports get even ones and odd ports odd ones (RFC 4787, REQ-4).
    pub parity: bool,
    /// How long a port rests after its mapping ended (RFC 6888, REQ-8). TCP ports never rest, as the
    /// NAT follows connections (REQ-8A).
    pub hold: Duration,
}

/// How an outside port is chosen (RFC 4787 section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRule {
    /// The inside port, if it is free.
    Preserving(Taken),
    /// One after the other.
    Sequential,
    /// At random (RFC 6888, REQ-15).
    Random,
}

/// What a port-preserving NAT does when the port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next free one above.
    NextFree,
    /// A random free one.
    Random,
    /// Shares the port as long as the remote ends differ, as Linux does; otherwise the one that the
    /// inside endpoint was given last, if the remote ends differ there, or a random one. Identifiers of
    /// queries likewise, by remote address. RFC 4787, REQ-3 forbids it. Needs mapping and filtering by
    /// address and port.
    Share,
}

/// Which outside address a host gets (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// All of a host's mappings have one outside address (REQ-2).
    Paired,
    /// Each mapping has the next outside address.
    Arbitrary,
}

/// Bounds of a NAT's memory. Mappings in use are never removed to make room (RFC 6888, REQ-11D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Mappings in all.
    pub mappings: u32,
    /// Mappings of one inside address, per protocol (RFC 6888, REQ-4).
    pub per_subscriber: Option<u32>,
    /// Remote ends that one mapping remembers (RFC 6888, REQ-5).
    pub sessions: u32,
}

/// What answers a TCP SYN that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsolicitedSyn {
    /// Nothing for this long, so that a simultaneous open can come true, then ICMP Port Unreachable
    /// (RFC 5382, REQ-4: at least 6 s).
    Wait(Duration),
    /// A RST at once, which breaks simultaneous opens.
    Reset,
    /// Nothing.
    Drop,
}

/// What happens to a TCP segment from inside that belongs to no known connection, such as after a
/// reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MidStream {
    /// It is dropped.
    Drop,
    /// It is dropped, and its sender gets a RST.
    Reset,
    /// It gets a mapping, as with Linux' `nf_conntrack_tcp_loose`.
    Adopt,
}

/// What an inside host is told when there is no mapping for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing.
    Silent,
    /// ICMP 3/13 (RFC 5508, REQ-8).
    Prohibited,
    /// ICMP 3/1 (RFC 6888, REQ-11B).
    HostUnreachable,
}

/// A port that is always open from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP instead of UDP.
    pub tcp: bool,
    /// Which of the outside addresses, from 0.
    pub external: usize,
    /// The outside port.
    pub port: u16,
    /// The inside address.
    pub to: Ipv4Addr,
    /// The inside port.
    pub to_port: u16,
}

/// A destination to which nothing is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exempt {
    /// Outside addresses.
    pub to: Prefix,
    /// One port of them; all if none.
    pub port: Option<u16>,
}

impl Default for Napt {
    fn default() -> Self {
        let rfc = Behaviour {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::EndpointIndependent,
        };
        Self {
            udp: rfc,
            tcp: rfc,
            ports: Ports::default(),
            hairpin: true,
            lifetimes: Lifetimes::RFC,
            inbound_refresh: false,
            pooling: Pooling::Paired,
            limits: Limits::default(),
            unsolicited_syn: UnsolicitedSyn::Wait(Duration::from_secs(6)),
            mid_stream: MidStream::Drop,
            refusal: Refusal::Prohibited,
            forwards: Vec::new(),
            exempt: Vec::new(),
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            rule: PortRule::Preserving(Taken::NextFree),
            range: (1024, u16::MAX),
            keep_class: true,
            parity: true,
            hold: Duration::ZERO,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        // Linux' nf_conntrack_max is of this order on home routers.
        Self { mappings: 65_536, per_subscriber: None, sessions: 1024 }
    }
}

impl Napt {
    /// Mapping and filtering of UDP and TCP alike; the rest as by default.
    #[must_use]
    pub fn new(mapping: Dependence, filtering: Dependence) -> Self {
        let both = Behaviour { mapping, filtering };
        Self { udp: both, tcp: both, ..Self::default() }
    }

    fn check(&self, external: usize) -> Result<(), ConfigError> {
        let (low, high) = self.ports.range;
        if low == 0 || low > high {
            return Err(ConfigError::PortRange(low, high));
        }
        if self.ports.parity && low == high {
            return Err(ConfigError::Parity);
        }
        let strict = Behaviour {
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::AddressAndPortDependent,
        };
        let preserving = matches!(self.ports.rule, PortRule::Preserving(_));
        if self.ports.rule == PortRule::Preserving(Taken::Share)
            && (self.udp != strict || self.tcp != strict)
        {
            return Err(ConfigError::Overload);
        }
        let Limits { mappings, per_subscriber, sessions } = self.limits;
        for (limit, what) in [
            (mappings, "mappings"),
            (sessions, "sessions per mapping"),
            (per_subscriber.unwrap_or(1), "ports per subscriber"),
        ] {
            if limit == 0 {
                return Err(ConfigError::ZeroLimit(what));
            }
        }
        if let Some(limit) = per_subscriber {
            let addresses = match self.pooling {
                Pooling::Paired => 1,
                Pooling::Arbitrary => u32::try_from(external).unwrap_or(u32::MAX),
            };
            let ports = (u32::from(high - low) + 1).saturating_mul(addresses);
            if limit > ports {
                return Err(ConfigError::LimitAboveRange { limit, ports });
            }
            // Below this no operating system's range of ephemeral ports could be preserved.
            if preserving && limit < 1024 {
                return Err(ConfigError::PreserveLimit(limit));
            }
        }
        if let Some((what, _)) = self.lifetimes.all().iter().find(|(_, d)| d.is_zero()) {
            return Err(ConfigError::ZeroTimeout(what));
        }
        let mut seen = BTreeSet::new();
        for Forward { tcp, external: index, port, .. } in &self.forwards {
            if *index >= external {
                return Err(ConfigError::ForwardAddress {
                    port: *port,
                    index: *index,
                    have: external,
                });
            }
            if *port == 0 || !seen.insert((tcp, index, port)) {
                return Err(ConfigError::ForwardTwice(*port));
            }
        }
        Ok(())
    }
}

impl NatConfig {
    /// A NAT of addresses and ports.
    #[must_use]
    pub fn ports(napt: Napt) -> Self {
        Self::Ports(Box::new(napt))
    }

    /// Whether a router with these outside addresses can do this.
    ///
    /// # Errors
    /// The [`ConfigError`] that says what contradicts what.
    pub fn check(&self, external: &[Ipv4Addr]) -> Result<(), ConfigError> {
        if external.is_empty() {
            return Err(ConfigError::NoExternalAddress);
        }
        match self {
            Self::Ports(napt) => napt.check(external.len()),
            Self::OneToOne(pairs) => {
                let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
                for pair in pairs {
                    if !external.contains(&pair.outside) || !outside.insert(pair.outside) {
                        return Err(ConfigError::Pair(pair.outside.into()));
                    }
                    if !inside.insert(pair.inside) {
                        return Err(ConfigError::Pair(pair.inside.into()));
                    }
                }
                Ok(())
            }
        }
    }
}
