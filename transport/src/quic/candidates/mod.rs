//! Which addresses a node offers, and which ones it takes from a peer: pure functions.
//!
//! A list has at most [`MAX_CANDIDATES`], both ways, over the whole attempt:
//!
//! | kind | at most | ranked |
//! |---|---|---|
//! | host | 12 | loopback (if allowed), LAN, IPv6, public IPv4, tunnels, virtual bridges |
//! | port-mapped | 2 | by the order they come in |
//! | server-reflexive | 4 | by the order they come in |
//! | relayed | 2 | by the order they come in |

mod local;
mod remote;

use std::net::{IpAddr, SocketAddr};

pub use local::{host_candidates, is_virtual};
pub use remote::{Refusal, Screen, refusal};
use serde::{Deserialize, Serialize};

/// Most candidates of one node in one attempt (inventory A3; design section 6).
pub const MAX_CANDIDATES: usize = 20;
/// Most of them of one kind, so that one kind cannot crowd out the others.
pub const MAX_HOST: usize = 12;
/// See [`MAX_HOST`].
pub const MAX_MAPPED: usize = 2;
/// See [`MAX_HOST`].
pub const MAX_REFLEXIVE: usize = 4;
/// See [`MAX_HOST`].
pub const MAX_RELAYED: usize = 2;

/// The lowest port that a candidate may have. Below are the services of a LAN's machines, which no
/// offer shall make us knock at; NATs and nodes have no need for them.
pub const LEAST_PORT: u16 = 1024;

/// How a node comes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateKind {
    /// An address of its own.
    Host,
    /// A port that its router was asked to forward (UPnP, NAT-PMP, PCP).
    Mapped,
    /// Its address as a STUN server sees it.
    Reflexive,
    /// A TURN server's address that forwards to it.
    Relayed,
}

impl CandidateKind {
    /// Most candidates of this kind.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            Self::Host => MAX_HOST,
            Self::Mapped => MAX_MAPPED,
            Self::Reflexive => MAX_REFLEXIVE,
            Self::Relayed => MAX_RELAYED,
        }
    }
}

/// An address under which a node may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The address.
    pub addr: SocketAddr,
    /// ICE's priority (RFC 8445 section 5.1.2), 1 to 2^31−1.
    pub priority: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// It is being phased out (RFC 4862 section 5.5.4).
    pub deprecated: bool,
    /// It changes by itself, for privacy (RFC 8981).
    pub temporary: bool,
}

impl InterfaceAddr {
    /// A stable address.
    #[must_use]
    pub fn stable(ip: IpAddr, prefix: u8) -> Self {
        Self { ip, prefix, deprecated: false, temporary: false }
    }
}

/// What is known of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// The system's number for it.
    pub index: u32,
    /// It is up.
    pub up: bool,
    /// It is the loopback interface.
    pub loopback: bool,
    /// It has one other end: a tunnel.
    pub point_to_point: bool,
    /// Its addresses.
    pub addrs: Vec<InterfaceAddr>,
}

/// Whether both addresses can talk to each other at all.
pub(super) fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
