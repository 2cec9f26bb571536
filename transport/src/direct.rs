//! What a technique for direct paths looks like to the node (design section 6).
//!
//! An [`Adapter`] makes [`Attempt`]s. One attempt is one negotiation with one peer: it says what the
//! peer has to be told ([`Signal::Say`]), hears what the peer said ([`Attempt::hear`]), and ends in a
//! [`DirectPath`] or a failure. How its words travel (sealed, signed, bound to both keys and the
//! attempt: [`meshwire_signaling::p2p`]) is the node's business; what they mean is the adapter's alone.
//! Dropping an attempt ends it, unless it has connected: then its path lives on until its link is
//! closed or lost.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use meshwire_signaling::frame::{P2pKind, TurnServers};
use meshwire_signaling::id::Blob;
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Duration;

use crate::link::{LinkEvent, MessageLink};
use crate::queue;
use crate::stream::Live;

/// Between which kinds of addresses a direct path goes. The better ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Both ends by addresses of their own interfaces.
    Host,
    /// Through a NAT at one end or both.
    Nat,
    /// Through NATs at both ends, by a port that was guessed.
    Guessed,
    /// Through a port that a NAT was asked to forward.
    Mapped,
    /// Through a TURN server.
    Relayed,
}

impl Reach {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Nat => "nat",
            Self::Guessed => "guessed",
            Self::Mapped => "mapped",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a direct path is right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// Between which kinds of addresses.
    pub reach: Reach,
    /// Our end: an interface's address, or the TURN server's port for us.
    pub local: SocketAddr,
    /// The peer's end, as we send to it.
    pub remote: SocketAddr,
    /// Round trip, as measured by the path itself.
    pub rtt: Duration,
    /// Largest datagram that it is known to carry, in bytes.
    pub mtu: u16,
    /// The peer has not been heard for longer than it is ever silent: the path may be dead.
    pub silent: bool,
}

/// What an attempt is for.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The mesh.
    pub mesh: MeshId,
    /// Our member's key.
    pub me: PublicKey,
    /// The peer's member key.
    pub peer: PublicKey,
    /// Whether we offer; else the peer's offer is heard first.
    pub offers: bool,
    /// Relayed candidates alone: the peer learns no address of ours.
    pub hide: bool,
    /// One through a relay is no use: there is such a path already. Of whoever has the lower key.
    pub better: bool,
    /// Whether both reach the broker over loopback: only then are loopback addresses offered and taken.
    pub loopback: bool,
}

/// What an attempt brings.
#[derive(Debug)]
pub enum Signal {
    /// To be told to the peer, in this order.
    Say {
        /// Which step.
        kind: P2pKind,
        /// The adapter's own words.
        content: Blob,
    },
    /// The path is up. Nothing comes after it but [`Signal::Say`] and [`Signal::Stayed`].
    Connected(DirectPath),
    /// A better way for the path was sought, in vain.
    Stayed {
        /// Why, for people.
        detail: String,
    },
    /// The attempt is over.
    Failed {
        /// How far it came.
        stage: Stage,
        /// More, for people.
        detail: String,
    },
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No pair of addresses let anything through.
    Pairs,
    /// Addresses were found, the connection did not come about.
    Handshake,
    /// The peer's words made no sense, or it refused.
    Peer,
}

/// What carries the records of streams on a direct path. It keeps the path's connection open no longer than its
/// link does.
pub trait RecordCarrier: fmt::Debug + Send + Sync {
    /// Carries a stream whose acceptor we are, until what this returns is dropped, or the path is lost.
    fn carry(&self, live: &Live) -> Box<dyn CarriedRecords>;

    /// Takes every stream that the peer wants to carry and `find` knows, until the path is lost or this is
    /// dropped. `find` is to know streams with this very peer alone.
    fn serve<'a>(&'a self, find: FindStream<'a>) -> BoxFuture<'a, ()>;
}

/// Looks for a stream of ours.
pub type FindStream<'a> = &'a (dyn Fn(&StreamId) -> Option<Live> + Send + Sync);

/// A stream on a direct path; dropping it takes the stream off.
pub trait CarriedRecords: fmt::Debug + Send + Sync {
    /// Resolves when the path carries the stream no more.
    fn ended(&self) -> BoxFuture<'_, ()>;
}

/// A path that is up.
pub struct DirectPath {
    /// For messages.
    pub link: Arc<dyn MessageLink>,
    /// For streams, where the technique carries them.
    pub records: Option<Arc<dyn RecordCarrier>>,
    /// What happens on it; the first is [`LinkEvent::Up`], the last [`LinkEvent::Down`].
    pub events: queue::Receiver<LinkEvent>,
    /// How it is, kept up to date.
    pub info: watch::Receiver<PathInfo>,
}

impl fmt::Debug for DirectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectPath({:?})", self.link)
    }
}

/// One negotiation; see the module's documentation.
#[derive(Debug)]
pub struct Attempt {
    /// What the peer says, in the order in which it came; a few wait at most.
    pub hear: queue::Sender<(P2pKind, Blob)>,
    /// What to do about it.
    pub signals: queue::Receiver<Signal>,
}

/// A technique for direct paths. One per node, for all meshes and pairs.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// Its name in negotiations, see [`meshwire_signaling::p2p::is_adapter`].
    fn name(&self) -> &'static str;

    /// Begins a negotiation. Must be called inside a tokio runtime; never waits.
    fn begin(&self, begin: Begin) -> Attempt;

    /// The STUN and TURN servers that a mesh's broker offers, with credentials for a while, for negotiations
    /// in that mesh alone; an empty list when the mesh is left.
    fn set_servers(&self, mesh: MeshId, servers: TurnServers);

    /// Counts changes of this machine's interfaces and addresses.
    fn network(&self) -> watch::Receiver<u64>;

    /// Gives back what others hold for this node, as far as they hear of it within a second or so. The
    /// node begins no negotiation afterwards.
    fn close(&self) -> BoxFuture<'_, ()>;
}
