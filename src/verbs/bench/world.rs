//! A broker and nodes in this process, over loopback, in a temporary folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use meshwire::direct::{Settings, paths_with};
use meshwire::testing;
use meshwire_coord::Broker;
use meshwire_peer::Home;
use meshwire_peer::api::{self, AskPath, Done, ListPeers};
use meshwire_peer::core::outbox::OutboxState;
use meshwire_peer::node::{Event, MemoryHome, Node};
use meshwire_peer::path::{PathMode, Via};
#[cfg(target_os = "linux")]
use meshwire_signaling::invite::Role;
use meshwire_signaling::{EnvelopeId, PublicKey};
use meshwire_transport::net::Net;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

/// Longest wait for anything: far beyond what a loaded machine needs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time until somebody who waits looks again, should an event not tell of a change.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Uses and life of an invite.
#[cfg(target_os = "linux")]
const USES: u32 = 1_000;
#[cfg(target_os = "linux")]
const TTL_MS: u64 = 3_600_000;

/// Where a node keeps its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// In SQLite, as users have it: each step is on disk before it counts.
    Disk,
    /// In memory alone.
    Memory,
}

/// See the module's documentation.
pub(super) struct World {
    broker: Broker,
    invite: String,
    net: Arc<dyn Net>,
    /// The first member; it says nothing.
    owner: Node,
    // Last: everything that has files in it has ended by then.
    folder: TempDir,
}

/// A member that runs.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) key: PublicKey,
}

impl World {
    /// A broker with SQLite, and a mesh.
    pub(super) async fn start(net: Arc<dyn Net>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("meshwire-bench-").tempdir()?;
        let broker = Box::pin(testing::broker(folder.path())).await.context("the broker")?;
        let owner = open(&net, Keep::Memory, folder.path(), PathMode::RelayOnly).await?;
        let invite = testing::found(&owner, &broker).await?;
        Ok(Self { broker, invite, net, owner, folder })
    }

    /// One more mesh; an invite for others who are to join.
    #[cfg(target_os = "linux")]
    pub(super) async fn found(&self, name: &str) -> anyhow::Result<String> {
        let token = self.broker.admin_token().context("the broker has no admin token")?;
        let mesh = api::CreateMesh {
            name: name.to_owned(),
            broker_url: self.broker.url().to_owned(),
            admin_token: token.to_string(),
            member_name: "owner".to_owned(),
        };
        self.owner.create_mesh(mesh).await?;
        self.owner.settle(PATIENCE).await;
        let terms = api::CreateInvite {
            mesh: Some(name.to_owned()),
            uses: USES,
            ttl_ms: TTL_MS,
            role: Role::Member,
            broker_url: None,
        };
        Ok(self.owner.invite(terms).await?.link)
    }

    /// The outside world.
    #[cfg(target_os = "linux")]
    pub(super) fn net(&self) -> &Arc<dyn Net> {
        &self.net
    }

    /// Where everything is.
    #[cfg(target_os = "linux")]
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new member, connected to the broker.
    pub(super) async fn member(
        &self,
        name: &str,
        keep: Keep,
        mode: PathMode,
    ) -> anyhow::Result<Member> {
        let node = open(&self.net, keep, &self.folder.path().join(name), mode).await?;
        let key = join(&node, &self.invite, name).await?;
        Ok(Member { node, key })
    }

    /// Ends everything and removes the folder.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.owner.close().await;
        self.broker.shutdown().await;
        Ok(self.folder.close()?)
    }
}

/// A node with direct paths over loopback alone, where its mode has them.
pub(super) async fn open(
    net: &Arc<dyn Net>,
    keep: Keep,
    home: &Path,
    mode: PathMode,
) -> anyhow::Result<Node> {
    let interfaces = Arc::new(FixedInterfaces::new([]));
    let paths =
        paths_with(net.clone(), interfaces, Settings { mode, ..Settings::default() }).await?;
    if keep == Keep::Memory {
        return Ok(Box::pin(Node::in_memory(net.clone(), &MemoryHome::default(), paths)).await?);
    }
    let home = Home::open(home)?;
    let lock = home.try_lock()?.context("somebody else has the home")?;
    Ok(Box::pin(Node::open(net.clone(), &home, lock, paths)).await?)
}

/// Joins, and waits for the broker; the member's key.
pub(super) async fn join(node: &Node, invite: &str, name: &str) -> anyhow::Result<PublicKey> {
    let ask = api::Join { invite: invite.to_owned(), member_name: name.to_owned() };
    let info = node.join(ask).await?;
    node.settle(PATIENCE).await;
    let status = node.status(Done {}).await?;
    let mesh = status.meshes.iter().find(|m| m.mesh.mesh == info.mesh).context("the mesh")?;
    if mesh.link != "up" {
        bail!("{name} is not connected: {}", mesh.reason.as_deref().unwrap_or(&mesh.link));
    }
    Ok(mesh.mesh.key)
}

impl Member {
    /// Puts a message into the outbox.
    pub(super) async fn send(&self, to: &PublicKey, text: String) -> anyhow::Result<EnvelopeId> {
        let ask = api::Send {
            mesh: None,
            to: to.to_string(),
            message: text,
            priority: Default::default(),
            reply_to: None,
            idempotency_key: None,
            ttl_ms: None,
            wait: None,
            timeout_ms: None,
        };
        Ok(self.node.send(ask).await?.id)
    }

    /// Waits until it sees that `peer` is there.
    pub(super) async fn sees(&self, peer: &PublicKey) -> anyhow::Result<()> {
        self.look("a peer's presence", async || {
            let peers = self.node.peers(ListPeers::default()).await?;
            Ok(peers.iter().any(|p| p.key == *peer && p.online == Some(true)))
        })
        .await
    }

    /// Waits until messages to `peer` go directly.
    pub(super) async fn is_direct(&self, peer: &PublicKey) -> anyhow::Result<()> {
        self.look("a direct path", async || {
            let ask = AskPath { mesh: None, peer: peer.to_string() };
            Ok(self.node.path(ask).await?.via == Via::Direct)
        })
        .await
    }

    async fn look(
        &self,
        what: &str,
        look: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut events = self.node.events();
        let all = async {
            while !look().await? {
                let _ = timeout(LOOK_AGAIN, events.recv()).await;
            }
            Ok(())
        };
        timeout(PATIENCE, all).await.map_err(|_| anyhow!("{what}: not within {PATIENCE:?}"))?
    }
}

/// The next event that `pick` takes.
pub(super) async fn until<T>(
    events: &mut Receiver<Event>,
    pick: impl Fn(Event) -> Option<T>,
) -> anyhow::Result<T> {
    let found = async {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return Ok(found);
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => bail!("a node has ended"),
            }
        }
    };
    timeout(PATIENCE, found).await.map_err(|_| anyhow!("an event: not within {PATIENCE:?}"))?
}

/// The text of a message that surfaced.
pub(super) fn text(event: &Event) -> Option<&[u8]> {
    match event {
        Event::Message(row) => Some(&row.item.content),
        _ => None,
    }
}

/// The message whose receipt came.
pub(super) fn receipt(event: &Event) -> Option<EnvelopeId> {
    match event {
        Event::Outbox { id, state: OutboxState::Delivered, .. } => Some(*id),
        _ => None,
    }
}
