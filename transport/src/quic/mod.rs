//! Direct paths: QUIC over ICE, all of a node on one UDP socket per address family.
//!
//! ```text
//! Description ⇄ (sealed, signed, through the broker: not here)
//!       │                          ┌─────────── Mux ───────────┐
//!   Attempt ── ICE checks ────────▶│ v4 socket     v6 socket   │── STUN, TURN, peers
//!       │  ── route of the peer ──▶│ virtual ⇄ real addresses  │
//!   QuicConn ◀── quinn ───────────▶└───────────────────────────┘
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`demux`] | what one datagram is |
//! | [`candidates`] | which addresses are offered and taken |
//! | [`stun`] | asking for the own address |
//! | `ice`, `pace` | one attempt's agent, with caps and timing |
//! | `routes`, `mux` | the socket under quinn |
//! | `tls` | pinned raw public keys |
//! | `gather`, `servers`, `turn`, [`portmap`], [`interfaces`] | the own addresses |
//! | `guess` | a direct way where a router shows another port to each |
//! | `attempt`, `node` | drivers |
//! | `conn`, `link`, `records` | what comes out: a connection, messages and streams over it |
//! | [`bare`] | raw quinn, to measure against |
//!
//! # What a peer or a broker can do
//! Somebody who may signal can make a node send at most 400 checks of about 100 bytes while paths
//! open, one per 5 ms, to at most twenty addresses that the [`candidates::Screen`] lets through, 60 of them to
//! an IP address that never answers (`pace`, which has a limit for all attempts, too), and QUIC only to
//! those that answered with the right password. Guessing ports has limits of its own, see `guess`. A datagram of an unknown source costs a look-up.

mod adapter;
mod attempt;
pub mod bare;
pub mod candidates;
mod congestion;
mod conn;
pub mod demux;
#[doc(hidden)]
pub mod fuzz;
mod gather;
mod guess;
mod ice;
pub mod interfaces;
mod link;
mod mux;
mod node;
mod pace;
pub mod portmap;
mod records;
mod routes;
mod servers;
pub mod stun;
mod tls;
mod turn;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use adapter::QuicAdapter;
pub use attempt::{Attempt, AttemptEvent, AttemptHandle, Dial, Role};
pub use congestion::{Algorithm, Congestion};
pub use conn::{Accepted, Pair, PairKind, QuicConn, Stats};
pub use guess::Ports;
pub use link::{Ends, Offered, QuicLink};
use meshwire_signaling::Hash;
pub use node::{Config, QuicNode};
pub use records::{Carried, OfferedStream};
use serde::{Deserialize, Serialize};
pub use servers::Servers;
pub use turn::TurnServer;

use self::candidates::Candidate;

/// What a peer must know to connect; the signed offer or answer carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// ICE user fragment, 4 to 32 ICE characters.
    pub ufrag: String,
    /// ICE password, 22 to 64 ICE characters.
    pub pwd: String,
    /// SHA-256 of the SPKI of the node's TLS key.
    pub tls: Hash,
    /// Candidates known so far; more may follow.
    pub candidates: Vec<Candidate>,
}

impl Description {
    /// Whether user fragment and password are well formed (RFC 8839 section 5.4, with tighter bounds).
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let chars =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        (4..=32).contains(&self.ufrag.len())
            && (22..=64).contains(&self.pwd.len())
            && chars(&self.ufrag)
            && chars(&self.pwd)
    }
}

/// The address that stands for any, of the same family.
fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// No socket could be bound.
    #[error("no UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// A key or configuration that ring or rustls does not take.
    #[error("TLS: {0}")]
    Tls(String),
    /// As many attempts as there may be are running already.
    #[error("{0} attempts are running already")]
    TooMany(usize),
    /// The peer's description is malformed.
    #[error("malformed description: user fragment and password are 4–32 and 22–64 ICE characters")]
    Description,
    /// No pair of addresses worked in time.
    #[error("no way to the peer was found within {0:?}")]
    NoPath(Duration),
    /// The handshake failed: another key than the pinned one, or the path died.
    #[error("QUIC: {0}")]
    Quic(#[from] quinn::ConnectionError),
    /// quinn does not take the request.
    #[error("QUIC: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// The attempt was given up.
    #[error("given up")]
    Aborted,
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}
