//! For this crate's unit tests: a node with a store in memory, whose brokers cannot be reached and
//! whose clock is tokio's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use meshwire_signaling::invite::{Chain, Genesis, Role, mesh_id};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{
    Channel, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, SecretKey, Target,
    UnixMillis,
};
use meshwire_transport::net::{BoxStream, Listener, Net};
use tempfile::TempDir;
use tokio::time::Instant;

use super::events::Event;
use super::mesh::Mesh;
use super::{DirectPaths, Node};
use crate::api::{SessionStarted, StartSession};
use crate::core::gate::Arrival;
use crate::core::inbox::Item;
use crate::keyring::Keyring;
use crate::store::{Arrived, InboxRow, MemoryStore, MeshRow, NewMember, PeerStore};

/// The wall clock at the start of each test.
pub(super) const NOW: UnixMillis = 1_700_000_000_000;

/// Nothing can be reached; randomness is a counter's hash.
#[derive(Debug)]
struct TestNet {
    start: Instant,
    random: AtomicU64,
}

#[async_trait]
impl Net for TestNet {
    fn unix_ms(&self) -> UnixMillis {
        NOW + u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }
    fn fill(&self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(32) {
            let n = self.random.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&Hash::of(&n.to_be_bytes()).0[..chunk.len()]);
        }
    }
    async fn tcp_connect(&self, _: &str, _: u16) -> io::Result<BoxStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
    async fn tcp_bind(&self, _: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What outlives a node: its home and its store.
pub(crate) struct World {
    folder: TempDir,
    net: Arc<TestNet>,
    store: Arc<dyn PeerStore>,
    messages: u64,
}

/// A key of a test.
pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// Whose message with which priority and text.
pub(super) type Mail<'a> = (PublicKey, Priority, &'a str);

impl World {
    /// A home in the meshes `lab` and `annex`, as the member ana.
    pub(crate) async fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new())).await
    }

    /// The same with another store.
    pub(super) async fn on(store: Arc<dyn PeerStore>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let net = Arc::new(TestNet { start: Instant::now(), random: AtomicU64::new(0) });
        let world = Self { folder, net, store, messages: 0 };
        for (n, name) in [(1, "lab"), (2, "annex")] {
            world.found(n, name).await;
        }
        world
    }

    async fn found(&self, n: u8, name: &str) {
        let own = key(n);
        let genesis = Genesis {
            name: name.into(),
            owner: own.public(),
            owner_name: "ana".into(),
            broker: key(99).public(),
            created_at: NOW,
            nonce: Hash([n; 32]),
        };
        let genesis = Signed::new(&own, domains::GENESIS, &genesis);
        let mesh = mesh_id(&genesis);
        let row = MeshRow {
            mesh,
            name: name.into(),
            broker_url: "http://broker.example:7900".into(),
            broker_key: key(99).public(),
            pin: None,
            chain: Chain::owner(genesis),
            self_key: own.public(),
            self_name: "ana".into(),
            role: Role::Owner,
            joined_at: NOW + u64::from(n),
        };
        self.keyring().save(&mesh, &own).unwrap();
        self.store.mesh_insert(&row, InstanceId([n; 16])).await.unwrap();
        let member = NewMember {
            mesh,
            key: own.public(),
            name: "ana".into(),
            role: Role::Owner,
            chain: row.chain,
            now: NOW,
        };
        self.store.upsert_member(&member).await.unwrap();
    }

    /// Lets a member bob be known in mesh `lab`.
    pub(super) async fn bob(&self, node: &Node) {
        let mesh = lab(node);
        let member = NewMember {
            mesh: mesh.id(),
            key: key(50).public(),
            name: "bob".into(),
            role: Role::Member,
            chain: mesh.row.chain.clone(),
            now: NOW,
        };
        self.store.upsert_member(&member).await.unwrap();
    }

    /// The clock and network of its nodes.
    pub(crate) fn net(&self) -> Arc<dyn Net> {
        self.net.clone()
    }

    fn keyring(&self) -> Keyring {
        Keyring::open(self.folder.path().join("keys")).unwrap()
    }

    /// Starts the home's node, as one that stays.
    pub(crate) async fn node(&self) -> Node {
        let (net, store) = (self.net.clone(), self.store.clone());
        let node =
            Node::assemble(net, self.keyring(), store, None, DirectPaths::default()).await.unwrap();
        node.inner.background.store(true, Ordering::Relaxed);
        node
    }

    /// Lets a message come in by mesh `lab`: from bob, to one of our identities there.
    pub(super) async fn receive(&mut self, node: &Node, mail: Mail<'_>) {
        self.receive_as(node, mail, "text/plain").await;
    }

    /// As [`Self::receive`], with a content type.
    pub(super) async fn receive_as(&mut self, node: &Node, mail: Mail<'_>, kind: &str) {
        let (to, priority, text) = mail;
        self.messages += 1;
        let mesh = lab(node).id();
        let n = self.messages;
        let item = Item {
            mesh,
            author: key(50).public(),
            id: EnvelopeId::new(NOW + n, u128::from(n)),
            hash: Hash::of(&n.to_be_bytes()),
            member: key(50).public(),
            author_name: "bob".into(),
            recipient: to,
            channel: Channel::Dm,
            priority,
            kind: kind.into(),
            content: text.into(),
            reply_to: None,
            instance: InstanceId([50; 16]),
            seq: n,
            floor: n,
            target: Target::Member { key: to },
            sent_at: NOW,
            received_at: self.net.unix_ms(),
        };
        let keep = NOW + 1_000_000_000;
        let arrived = self.store.accept_inbound(&[(item.clone(), keep)]).await.unwrap();
        let [Arrived::Inserted(row)] = arrived[..] else { panic!("{arrived:?}") };
        node.services().surfacer.offer(vec![Arrival::new(&item, row)]).await;
    }

    /// How many messages have not surfaced.
    pub(super) async fn held(&self) -> usize {
        self.store.held().await.unwrap().len()
    }
}

/// The mesh `lab`.
pub(super) fn lab(node: &Node) -> Arc<Mesh> {
    node.pick(Some("lab")).unwrap()
}

/// The member's key in mesh `lab`.
pub(super) fn member(node: &Node) -> PublicKey {
    lab(node).row.self_key
}

/// Which mesh is meant.
pub(super) fn mesh_of(node: &Node, name: &str) -> MeshId {
    node.pick(Some(name)).unwrap().id()
}

/// Starts a session of this very process in mesh `lab`, with these capabilities or all.
pub(crate) async fn session(node: &Node, name: &str, may: Option<&[&str]>) -> SessionStarted {
    let ask = StartSession {
        mesh: Some("lab".into()),
        name: name.into(),
        capabilities: may.map(|words| words.iter().map(|w| (*w).to_owned()).collect()),
        pid: std::process::id(),
    };
    node.start_session(ask).await.unwrap()
}

/// The texts of the messages that surface, as events tell them, until there are `count`.
pub(super) async fn surfaced(
    events: &mut tokio::sync::broadcast::Receiver<Event>,
    count: usize,
) -> Vec<String> {
    let mut out = Vec::new();
    while out.len() < count {
        if let Event::Message(row) = events.recv().await.unwrap() {
            out.push(text(&row));
        }
    }
    out
}

fn text(row: &InboxRow) -> String {
    String::from_utf8_lossy(&row.item.content).into_owned()
}
