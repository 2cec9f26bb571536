//! A broker in this process, and clients that say what they like to it.
//!
//! - [`World`] is a broker on a loopback socket with a mesh; its owner, ana, is a [`Member`]: keys
//!   without a node. [`World::member`] admits more of them, [`World::node`] real nodes.
//! - [`Opening`] is a connection before its hello, [`Client`] one after it; both speak either
//!   encoding and can send bytes that are no frame.
//! - [`Proxy`] stands between nodes and broker and rewrites frames: the hostile broker.
//!   [`Cutter`] only cuts connections.
//! - [`Post`] is a message to a group, whose wraps a test gives to whom it likes.
//! - [`http`] makes requests that no client of ours makes.
//!
//! Waits are for events, bounded by [`PATIENCE`].

// Each test binary uses a part; helpers panic, which is what they are for.
#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods, clippy::missing_panics_doc, clippy::large_futures)]

mod client;
mod group;
pub mod http;
mod link;
mod node;
mod proxy;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshwire::{Broker, BrokerConfig, Database, Net, Node, OsNet, Policy, Tls, api};
use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::{Author, StateHead, Suite, box_key_id};
use meshwire_signaling::frame::HelloBody;
use meshwire_signaling::frame::http::{ClaimRequest, CreateMesh};
use meshwire_signaling::invite::{Chain, Claim, Genesis, InviteLink, Role, mesh_id};
use meshwire_signaling::receipt::{Ends, Receipt, Verdict};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{
    Channel, Content, Durability, Envelope, EnvelopeId, Hash, Header, InstanceId, MeshId, Priority,
    PublicKey, SecretKey, Target,
};
use meshwire_transport::http as calls;
use meshwire_transport::net::random;
use meshwire_transport::url::BaseUrl;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

pub use client::{Client, Opening, Refused};
pub use group::Post;
pub use link::{Certificate, refusal, relay, relay_config};
pub use node::{Shifted, inbox, outbox_is, send, stop, until, up};
pub use proxy::{Cutter, Proxy, Side};

/// Longest wait for anything: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Both encodings.
pub const BOTH: [Encoding; 2] = [Encoding::MsgPack, Encoding::Json];
/// Life of what tests sign.
pub const HOUR_MS: u64 = 3_600_000;

/// Waits for `work`, but not for ever.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// The wall clock.
pub fn now() -> u64 {
    OsNet.unix_ms()
}

/// A new key.
pub fn new_key() -> SecretKey {
    SecretKey::from_seed(&random(&OsNet))
}

/// A member without a node.
pub struct Member {
    pub key: SecretKey,
    pub name: String,
    pub chain: Chain,
    pub instance: InstanceId,
    counter: AtomicU64,
}

impl Member {
    fn new(key: SecretKey, name: &str, chain: Chain) -> Self {
        let instance = InstanceId(random(&OsNet));
        Self { key, name: name.to_owned(), chain, instance, counter: AtomicU64::new(0) }
    }

    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// A counter that was never said before.
    pub fn next_counter(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The same member after its home was restored: another instance.
    pub fn elsewhere(&self) -> Self {
        Self::new(self.key.clone(), &self.name, self.chain.clone())
    }

    /// A signed direct message, its header changed by `twist` before it is signed.
    pub fn letter(
        &self,
        mesh: &MeshId,
        to: PublicKey,
        seq: u64,
        text: &str,
        twist: impl FnOnce(&mut Header),
    ) -> (EnvelopeId, Envelope) {
        letter(mesh, (&self.key, self.instance), to, seq, text, twist)
    }

    /// This member's word on an envelope that came from `author`.
    pub fn receipt(
        &self,
        mesh: &MeshId,
        author: PublicKey,
        envelope: &Envelope,
        verdict: Verdict,
        reason: Option<&str>,
    ) -> Receipt {
        let pair = Pair::new(&self.key, &author).unwrap();
        let by = self.public();
        let ends = Ends { mesh, sender: &author, recipient: &by };
        Receipt::new(&pair, ends, &envelope.hash(mesh), verdict, reason)
    }

    /// Whether `receipt` is `by`'s for this member's `envelope`.
    pub fn believes(&self, mesh: &MeshId, envelope: &Envelope, receipt: &Receipt) -> bool {
        let pair = Pair::new(&self.key, &receipt.by).unwrap();
        let ends = Ends { mesh, sender: &self.public(), recipient: &receipt.by };
        receipt.verify(&pair, ends, &envelope.hash(mesh))
    }

    /// The text of an envelope for this member.
    pub fn open(&self, envelope: &Envelope) -> String {
        let author = envelope.header().unwrap().from.key;
        let content = envelope.open_box(&Pair::new(&self.key, &author).unwrap()).unwrap();
        String::from_utf8(content.content.0).unwrap()
    }

    /// Vouches for a session's key.
    pub fn attest(&self, mesh: &MeshId, key: PublicKey) -> Signed {
        self.vouch(mesh, key, |_| {})
    }

    /// Vouches for a session's key, with words that `twist` has changed.
    pub fn vouch(
        &self,
        mesh: &MeshId,
        key: PublicKey,
        twist: impl FnOnce(&mut Attestation),
    ) -> Signed {
        let at = now();
        let mut words = Attestation {
            mesh: *mesh,
            member: self.public(),
            key,
            kind: IdentityKind::Session,
            name: "agent".into(),
            capabilities: Capabilities::All,
            issued_at: at,
            expires_at: at + HOUR_MS,
        };
        twist(&mut words);
        words.sign(&self.key)
    }

    /// A session of this member: a key and an outbox of its own, under the member's chain.
    pub fn agent(&self) -> Self {
        Self::new(new_key(), "agent", self.chain.clone())
    }
}

/// A signed direct message from any key.
pub fn letter(
    mesh: &MeshId,
    (author, instance): (&SecretKey, InstanceId),
    to: PublicKey,
    seq: u64,
    text: &str,
    twist: impl FnOnce(&mut Header),
) -> (EnvelopeId, Envelope) {
    let at = now();
    let mut header = Header {
        channel: Channel::Dm,
        from: Author { key: author.public(), instance },
        target: Target::Member { key: to },
        id: EnvelopeId::new(at, u128::from_be_bytes(random(&OsNet))),
        priority: Priority::Next,
        durability: Durability::Queued,
        sent_at: at,
        expires_at: at + HOUR_MS,
        suite: Suite::Box,
        key_id: box_key_id(&to).unwrap(),
        ephemeral: None,
    };
    twist(&mut header);
    let content = Content {
        kind: "text/plain".into(),
        reply_to: None,
        mentions: Vec::new(),
        correlation: None,
        response: false,
        seq,
        floor: seq,
        head: StateHead::origin(mesh),
        content: text.as_bytes().to_vec().into(),
    };
    let pair = Pair::new(author, &to).unwrap();
    let sealed = Envelope::seal_box(mesh, author, &header, &pair, &random(&OsNet), &content);
    (header.id, sealed)
}

/// A broker with a mesh.
pub struct World {
    pub dir: TempDir,
    pub broker: Broker,
    pub base: BaseUrl,
    pub pin: Option<Hash>,
    pub mesh: MeshId,
    /// Ana, the owner.
    pub owner: Member,
    /// An invite for many.
    pub link: InviteLink,
}

impl World {
    /// With SQLite, without TLS.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With another setup.
    pub async fn with(twist: impl FnOnce(&mut BrokerConfig)) -> Self {
        Self::on(&Handle::current(), twist).await
    }

    /// With the broker on a runtime of its own.
    pub async fn on(runtime: &Handle, twist: impl FnOnce(&mut BrokerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir.path().join("broker"));
        twist(&mut config);
        // Clients of an operator's certificate use their own roots; tests pin it.
        let pin = match &config.tls {
            Tls::Files { cert, .. } => Some(pin_of(cert)),
            _ => None,
        };
        let broker = start(runtime, config).await;
        let pin = broker.pin().or(pin);
        let base: BaseUrl = broker.url().parse().unwrap();
        let mut token = broker.admin_token().unwrap().clone();
        token.pin = pin;
        let key = new_key();
        let genesis = Genesis {
            name: "lab".into(),
            owner: key.public(),
            owner_name: "ana".into(),
            broker: broker.key(),
            created_at: now(),
            nonce: Hash(random(&OsNet)),
        };
        let genesis = Signed::new(&key, domains::GENESIS, &genesis);
        let mesh = mesh_id(&genesis);
        let body = CreateMesh { genesis: genesis.clone() };
        let made = calls::create_mesh(&OsNet, &base, &token, &body).await.unwrap();
        assert_eq!(made.mesh, mesh);
        let owner = Member::new(key, "ana", Chain::owner(genesis));
        let link = InviteLink {
            base: broker.url().to_owned(),
            secret: new_key(),
            mesh,
            broker: broker.key(),
            pin,
        };
        let world = Self { dir, broker, base, pin, mesh, owner, link };
        let mut ana = world.connect(&world.owner, Encoding::MsgPack).await;
        ana.create_invite(&world, &world.link.secret, |c| c.uses = 1_000).await.unwrap();
        ana.leave().await;
        world
    }

    /// The same world after its broker has been started anew at the same address: stopped in good
    /// order, or killed with its runtime.
    pub async fn again(
        self,
        killed: Option<Mortal>,
        twist: impl FnOnce(&mut BrokerConfig),
    ) -> Self {
        let mut config = config(&self.dir.path().join("broker"));
        config.listen = self.broker.addr();
        config.new_admin_token = false;
        twist(&mut config);
        match killed {
            Some(runtime) => runtime.kill().await,
            None => self.broker.shutdown().await,
        }
        Self { broker: start(&Handle::current(), config).await, ..self }
    }

    /// The broker's own secret: what a hostile broker has.
    pub fn broker_secret(&self) -> SecretKey {
        let text = std::fs::read_to_string(self.dir.path().join("broker/broker.key")).unwrap();
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim(), &mut seed).unwrap();
        SecretKey::from_seed(&seed)
    }

    /// A new member.
    pub async fn member(&self, name: &str) -> Member {
        self.member_by(&self.link, name).await
    }

    /// A new member by a given invite.
    pub async fn member_by(&self, link: &InviteLink, name: &str) -> Member {
        let key = new_key();
        let body = self.claim(link, &key, name);
        let invite = link.secret.public();
        let answer = calls::claim(&OsNet, &self.base, self.pin, &invite, &body).await.unwrap();
        assert_eq!(answer.chain.verify(&self.mesh).unwrap().key, key.public());
        Member::new(key, name, answer.chain)
    }

    /// What somebody who has `link` says to join.
    pub fn claim(&self, link: &InviteLink, key: &SecretKey, name: &str) -> ClaimRequest {
        let claim = Claim {
            mesh: self.mesh,
            invite: link.secret.public(),
            member: key.public(),
            name: name.to_owned(),
            claimed_at: now(),
        };
        let (claim, proof) = claim.sign(&link.secret, key);
        ClaimRequest { claim, proof }
    }

    /// A fresh invite, made on a connection of the owner's that ends here.
    pub async fn invite(&self, uses: u32, role: Role) -> InviteLink {
        let link = InviteLink { secret: new_key(), ..self.link.clone() };
        let mut ana = self.connect(&self.owner, Encoding::MsgPack).await;
        let terms = |c: &mut meshwire_signaling::invite::Capability| {
            c.uses = uses;
            c.role = role;
        };
        ana.create_invite(self, &link.secret, terms).await.unwrap();
        ana.leave().await;
        link
    }

    /// A home's folder.
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A real node that has joined, straight.
    pub async fn node(&self, name: &str) -> Node {
        self.node_through(&self.link.base, name).await
    }

    /// A real node that reaches the broker at another address: a [`Proxy`] or [`Cutter`].
    pub async fn node_through(&self, base: &str, name: &str) -> Node {
        let node = Node::at(&self.home(name)).await.unwrap();
        let link = InviteLink { base: base.to_owned(), ..self.link.clone() };
        let join = api::Join { invite: link.to_string(), member_name: name.to_owned() };
        node.join(join).await.unwrap();
        node
    }

    /// A TCP connection with its WebSocket, challenged.
    pub async fn dial(&self, encoding: Encoding) -> Opening {
        Opening::dial(&self.base, self.pin, encoding).await
    }

    /// A member's connection.
    pub async fn connect(&self, member: &Member, encoding: Encoding) -> Client {
        self.try_connect(member, encoding).await.unwrap()
    }

    /// A member's connection, or why there is none.
    pub async fn try_connect(
        &self,
        member: &Member,
        encoding: Encoding,
    ) -> Result<Client, Refused> {
        self.connect_as(member, encoding, |_| {}).await
    }

    /// A member's connection with a hello that `twist` has changed, or why there is none.
    pub async fn connect_as(
        &self,
        member: &Member,
        encoding: Encoding,
        twist: impl FnOnce(&mut HelloBody),
    ) -> Result<Client, Refused> {
        let opening = self.dial(encoding).await;
        let mut body = opening.body(&self.mesh, member);
        twist(&mut body);
        opening.say(body.sign(&member.key), None).await
    }

    /// A session's own connection, or why there is none.
    pub async fn delegate(
        &self,
        member: &Member,
        agent: &Member,
        attestation: &Signed,
        twist: impl FnOnce(&mut HelloBody),
    ) -> Result<Client, Refused> {
        let opening = self.dial(Encoding::MsgPack).await;
        let mut body = opening.body(&self.mesh, agent);
        (body.kind, body.member) = (IdentityKind::Session, member.public());
        twist(&mut body);
        opening.say(body.sign(&agent.key), Some(attestation.clone())).await
    }
}

/// A runtime that ends at once with all its tasks, as if by a kill.
pub struct Mortal(Option<Runtime>);

impl Mortal {
    pub fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(builder.worker_threads(1).enable_all().build().unwrap()))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().unwrap().handle()
    }

    async fn kill(mut self) {
        let runtime = self.0.take().unwrap();
        let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
        ending.await.unwrap();
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn start(runtime: &Handle, config: BrokerConfig) -> Broker {
    let starting = runtime.spawn(Broker::start(Arc::new(OsNet), config));
    starting.await.unwrap().unwrap()
}

/// A broker's setup: loopback, a free port, SQLite.
pub fn config(data: &std::path::Path) -> BrokerConfig {
    BrokerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        public_url: None,
        data: data.to_owned(),
        database: Database::Sqlite,
        tls: Tls::Auto,
        policy: Policy::default(),
        new_admin_token: true,
        turn: None,
    }
}

/// SHA-256 of the public key of the certificate in a PEM file.
pub fn pin_of(cert: &std::path::Path) -> Hash {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    let cert = CertificateDer::from_pem_file(cert).unwrap();
    meshwire_transport::tls::spki_pin(&cert).unwrap()
}
