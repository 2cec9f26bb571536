//! A mesh in virtual time: a broker and nodes, as they are, on hosts of one simulation, with stores and
//! keys in memory. One seed, one run: whatever they send, and when, is the same each time.
//!
//! ```
//! use meshwire::sim::virtual_world::{BrokerSite, VirtualWorld};
//! use meshwire_netsim::simnet::{Internet, check};
//! use meshwire_netsim::{Preset, Wire};
//!
//! check(7, async |stage| {
//!     let mut net = Internet::new(stage)?;
//!     let broker = net.server("broker", Wire::default())?;
//!     let (ana, bob) = (
//!         net.home("ana", Preset::Symmetric, Wire::default())?,
//!         net.home("bob", Preset::Corporate, Wire::default())?,
//!     );
//!     let mut world = VirtualWorld::start(net.start(), BrokerSite::on(broker, "broker")).await?;
//!     world.add("ana", ana.host).await?;
//!     world.add("bob", bob.host).await?;
//!     let id = world.node("ana")?.send("bob", "hello").await?;
//!     world.node("ana")?.delivered(id).await?;
//!     assert_eq!(world.node("bob")?.texts().await?, ["hello"]);
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! });
//! ```

mod broker;
mod interfaces;
mod node;

use std::collections::BTreeMap;

use meshwire_coord::BrokerError;
use meshwire_netsim::HostId;
use meshwire_netsim::simnet::Sim;
use meshwire_peer::api::{ApiError, CreateInvite, CreateMesh, ErrorKind, Join};
use meshwire_peer::path::PathMode;
use meshwire_signaling::invite::Role;
use meshwire_transport::quic::QuicError;
use meshwire_turn::TurnError;

pub use broker::{BrokerSite, VirtualBroker};
pub use node::VirtualNode;

/// Uses and life of the invite by which all nodes but the first join: more than any run has.
const USES: u32 = 1_000;
const INVITE_TTL_MS: u64 = 24 * 3_600_000;

/// How often a node tries to join: each time may take 15 s.
const TRIES: u32 = 10;

/// The mesh's name.
pub const MESH: &str = "sim";

/// Why something in a [`VirtualWorld`] could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// There is no such node.
    #[error("no node is named {name:?}; nodes here are: {known}")]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// A node of this name is there already.
    #[error("a node is named {0:?} already")]
    NameTaken(String),
    /// The broker or node is stopped.
    #[error("{0} is stopped: start it first")]
    Stopped(String),
    /// The broker or node runs already.
    #[error("{0} runs already")]
    Running(String),
    /// The broker does not start.
    #[error("the broker: {0}")]
    Broker(#[from] BrokerError),
    /// The broker's TURN server does not start.
    #[error("the TURN server: {0}")]
    Turn(#[from] TurnError),
    /// A node has no UDP for direct paths.
    #[error("direct paths: {0}")]
    Quic(#[from] QuicError),
    /// A node could not do what it was asked for.
    #[error("{name}: {error}")]
    Node {
        /// Which node.
        name: String,
        /// What it says.
        error: ApiError,
    },
}

/// A broker and nodes in one simulation.
#[derive(Debug)]
pub struct VirtualWorld {
    sim: Sim,
    broker: VirtualBroker,
    nodes: BTreeMap<String, VirtualNode>,
    invite: Option<String>,
    mode: PathMode,
}

impl VirtualWorld {
    /// A world with a running broker and no nodes. Everything will go over the broker's relay, unless
    /// [`Self::set_paths`] says otherwise.
    ///
    /// # Errors
    /// [`WorldError::Broker`].
    pub async fn start(sim: Sim, site: BrokerSite) -> Result<Self, WorldError> {
        let broker = VirtualBroker::new(&sim, site).await?;
        let mode = PathMode::RelayOnly;
        Ok(Self { sim, broker, nodes: BTreeMap::new(), invite: None, mode })
    }

    /// Which paths the nodes may use that are added from now on.
    pub fn set_paths(&mut self, mode: PathMode) {
        self.mode = mode;
    }

    /// The simulation: links, partitions and addresses change by [`Sim::control`].
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &VirtualBroker {
        &self.broker
    }

    /// The broker, to stop and start it.
    pub fn broker_mut(&mut self) -> &mut VirtualBroker {
        &mut self.broker
    }

    /// Starts a node on a host. The first one founds the mesh, the others join it: the broker must run
    /// and be reachable from them.
    ///
    /// # Errors
    /// [`WorldError`]: name taken, or what the node says of founding or joining.
    pub async fn add(&mut self, name: &str, host: HostId) -> Result<&VirtualNode, WorldError> {
        if self.nodes.contains_key(name) {
            return Err(WorldError::NameTaken(name.to_owned()));
        }
        let node = VirtualNode::new(name, self.sim.host(host), self.mode).await?;
        match &self.invite {
            Some(invite) => join(&node, invite).await?,
            None => self.invite = Some(self.found(&node).await?),
        }
        Ok(self.nodes.entry(name.to_owned()).or_insert(node))
    }

    /// Starts several nodes, which join at once after the first has founded the mesh, if there is
    /// none.
    ///
    /// # Errors
    /// As [`Self::add`], the first one's; none is added then, but what has joined stays a member.
    pub async fn add_all(&mut self, all: &[(String, HostId)]) -> Result<(), WorldError> {
        let mut all = all.iter();
        if self.invite.is_none()
            && let Some((name, host)) = all.next()
        {
            self.add(name, *host).await?;
        }
        let Some(invite) = self.invite.clone() else { return Ok(()) };
        let mut joining = Vec::new();
        for (name, host) in all {
            if self.nodes.contains_key(name) {
                return Err(WorldError::NameTaken(name.clone()));
            }
            let (host, invite, mode) = (self.sim.host(*host), invite.clone(), self.mode);
            joining.push(async move {
                let node = VirtualNode::new(name, host, mode).await?;
                join(&node, &invite).await?;
                Ok::<_, WorldError>(node)
            });
        }
        for node in futures_util::future::try_join_all(joining).await? {
            self.nodes.insert(node.name().to_owned(), node);
        }
        Ok(())
    }

    /// A node by its name.
    ///
    /// # Errors
    /// [`WorldError::UnknownNode`].
    pub fn node(&self, name: &str) -> Result<&VirtualNode, WorldError> {
        self.nodes.get(name).ok_or_else(|| self.unknown(name))
    }

    /// A node by its name, to stop and start it.
    ///
    /// # Errors
    /// [`WorldError::UnknownNode`].
    pub fn node_mut(&mut self, name: &str) -> Result<&mut VirtualNode, WorldError> {
        if !self.nodes.contains_key(name) {
            return Err(self.unknown(name));
        }
        self.nodes.get_mut(name).ok_or_else(|| WorldError::Stopped(name.to_owned()))
    }

    /// All nodes, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &VirtualNode> {
        self.nodes.values()
    }

    fn unknown(&self, name: &str) -> WorldError {
        let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        WorldError::UnknownNode { name: name.to_owned(), known: known.join(", ") }
    }

    /// Founds the mesh; gives an invite for all others.
    async fn found(&self, node: &VirtualNode) -> Result<String, WorldError> {
        let mesh = CreateMesh {
            name: MESH.to_owned(),
            broker_url: self.broker.url().to_owned(),
            admin_token: self.broker.admin_token().to_owned(),
            member_name: node.name().to_owned(),
        };
        let terms = CreateInvite {
            mesh: None,
            uses: USES,
            ttl_ms: INVITE_TTL_MS,
            role: Role::Member,
            broker_url: None,
        };
        let own = node.node()?;
        own.create_mesh(mesh).await.map_err(|e| node.says(e))?;
        node.connected().await?;
        Ok(own.invite(terms).await.map_err(|e| node.says(e))?.link)
    }
}

/// Tries again over a link that loses much, as whoever runs the node would.
async fn join(node: &VirtualNode, invite: &str) -> Result<(), WorldError> {
    let ask = || Join { invite: invite.to_owned(), member_name: node.name().to_owned() };
    for _ in 1..TRIES {
        match node.node()?.join(ask()).await {
            Err(e) if e.kind == ErrorKind::Unreachable => {}
            joined => return joined.map(drop).map_err(|e| node.says(e)),
        }
    }
    node.node()?.join(ask()).await.map(drop).map_err(|e| node.says(e))
}
