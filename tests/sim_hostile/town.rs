//! Homes whose nodes reach their broker through a [`Meddler`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use meshwire::sim::virtual_world::{BrokerSite, VirtualNode, VirtualWorld};
use meshwire_netsim::simnet::{Home, Internet, SimHost, Stage, run};
use meshwire_netsim::{Change, LinkConfig, Preset, Wire};
use meshwire_peer::api::{CreateInvite, Done};
use meshwire_peer::node::Event;
use meshwire_peer::node::Misbehaviour;
use meshwire_peer::path::{PathMode, Via};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::http::ClaimRequest;
use meshwire_signaling::frame::{Features, P2pFrame, P2pKind, feature};
use meshwire_signaling::id::Blob;
use meshwire_signaling::invite::{Claim, InviteLink, Role};
use meshwire_signaling::p2p::quic::{Candidate, CandidateKind, Content, Params};
use meshwire_signaling::p2p::{Negotiation, VERSION};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::{AttemptId, Hash, InstanceId, MeshId, PublicKey, SecretKey};
use meshwire_transport::http as calls;
use meshwire_transport::link::LinkEvent;
use meshwire_transport::net::{Net as _, random};
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep, timeout};

use super::meddler::Meddler;

/// Longest virtual time for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for `work`, but not for ever.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Nodes, their homes, and who is in between.
pub(crate) struct Town {
    pub(crate) world: VirtualWorld,
    pub(crate) meddler: Meddler,
    pub(crate) homes: BTreeMap<&'static str, Home>,
    /// The host of somebody who has no node.
    pub(crate) eve: SimHost,
    misdeeds: BTreeMap<&'static str, Arc<Mutex<Vec<Misbehaviour>>>>,
    sent: u64,
}

/// Plays a case between nodes of these names.
pub(crate) fn with(names: &'static [&'static str], seed: u64, case: impl AsyncFnOnce(&mut Town)) {
    run(seed, async |stage| {
        let mut town = Box::pin(Town::new(stage, names)).await;
        Box::pin(case(&mut town)).await;
    });
}

impl Town {
    async fn new(stage: Stage, names: &[&'static str]) -> Self {
        let mut net = Internet::new(stage).unwrap();
        let broker = net.server("broker", Wire::default()).unwrap();
        let between = net.server("between", Wire::default()).unwrap();
        let eve = net.server("eve", Wire::default()).unwrap();
        let wire = Wire::both(LinkConfig::with_latency(Duration::from_millis(10)));
        let homes: BTreeMap<_, _> = names
            .iter()
            .map(|name| (*name, net.home(name, Preset::PortRestricted, wire).unwrap()))
            .collect();
        let sim = net.start();
        for home in homes.values() {
            let mut addresses = sim.host(home.host).addresses();
            addresses.retain(IpAddr::is_ipv4);
            sim.control(Change::Address { iface: home.iface, addresses }).unwrap();
        }
        let meddler = Meddler::start(sim.host(between), "broker").await;
        let eve = sim.host(eve);
        let url = "http://between:443".to_owned();
        let site = BrokerSite { turn: true, url, ..BrokerSite::on(broker, "broker") };
        let mut world = VirtualWorld::start(sim, site).await.unwrap();
        world.set_paths(PathMode::Auto);
        let mut misdeeds = BTreeMap::new();
        for name in names {
            within("joining", Box::pin(world.add(name, homes[name].host))).await.unwrap();
            misdeeds.insert(*name, watch(world.node(name).unwrap()));
        }
        for name in names {
            for other in names.iter().filter(|other| *other != name) {
                within("a roster", world.node(name).unwrap().knows(other)).await.unwrap();
            }
        }
        Self { world, meddler, homes, eve, misdeeds, sent: 0 }
    }

    pub(crate) fn node(&self, name: &str) -> &VirtualNode {
        self.world.node(name).unwrap()
    }

    /// The mesh, and a node's key in it.
    pub(crate) async fn key(&self, name: &str) -> (MeshId, PublicKey) {
        let status = self.node(name).node().unwrap().status(Done {}).await.unwrap();
        let mesh = &status.meshes[0];
        (mesh.mesh.mesh, mesh.mesh.key)
    }

    /// A message that arrives, whatever its path.
    pub(crate) async fn talk(&mut self, from: &str, to: &str) {
        self.sent += 1;
        let text = format!("{from} to {to} {}", self.sent);
        let id = self.node(from).send(to, &text).await.unwrap();
        within(&text, self.node(from).delivered(id)).await.unwrap();
        let texts = self.node(to).texts().await.unwrap();
        assert_eq!(texts.iter().filter(|t| **t == text).count(), 1, "{texts:?}");
    }

    /// Talks once a second for a while, and says whether there was ever a direct path.
    pub(crate) async fn talks_for(&mut self, seconds: u64, from: &str, to: &str) -> bool {
        let mut direct = false;
        for _ in 0..seconds {
            self.talk(from, to).await;
            sleep(Duration::from_secs(1)).await;
            for (one, other) in [(from, to), (to, from)] {
                direct |= self.node(one).path(other).await.unwrap().via == Via::Direct;
            }
        }
        direct
    }

    /// Talks until the path is direct; then it leads to the right home.
    pub(crate) async fn gets_direct(&mut self, from: &str, to: &str) {
        for _ in 0..60 {
            self.talk(from, to).await;
            let path = self.node(from).path(to).await.unwrap();
            if let Some(direct) = path.direct.filter(|_| path.via == Via::Direct) {
                assert_eq!(direct.remote.ip(), self.homes[to].outside, "{direct:?}");
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        panic!("not direct: {:#?}", self.node(from).path(to).await.unwrap());
    }

    /// What a node has found out about its broker and peers, and forgets that it has said so.
    pub(crate) fn misdeeds(&self, name: &str) -> Vec<Misbehaviour> {
        std::mem::take(&mut *self.misdeeds[name].lock().unwrap())
    }

    /// What a node has done about a pair, in words.
    pub(crate) async fn history(&self, name: &str, peer: &str) -> Vec<String> {
        let report = self.node(name).path(peer).await.unwrap();
        report.history.into_iter().map(|e| format!("{} {:?}", e.what, e.cause)).collect()
    }
}

fn watch(node: &VirtualNode) -> Arc<Mutex<Vec<Misbehaviour>>> {
    let all: Arc<Mutex<Vec<Misbehaviour>>> = Arc::default();
    let (heard, mut events) = (all.clone(), node.node().unwrap().events());
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            if let Event::Misbehaviour { what, .. } = event {
                heard.lock().unwrap().push(what);
            }
        }
    });
    all
}

/// Keys without a node, which can make steps of their own.
pub(crate) struct Stranger {
    pub(crate) key: SecretKey,
    pub(crate) mesh: MeshId,
    host: SimHost,
    instance: InstanceId,
}

impl Stranger {
    pub(crate) fn new(town: &Town, mesh: MeshId) -> Self {
        let host = town.eve.clone();
        let key = SecretKey::from_seed(&random(&host));
        let instance = InstanceId(random(&host));
        Self { key, mesh, host, instance }
    }

    /// An offer to somebody, signed and sealed as it must be.
    pub(crate) fn offer(&self, to: PublicKey, addresses: &[SocketAddr]) -> P2pFrame {
        let kinds = [CandidateKind::Host, CandidateKind::Srflx, CandidateKind::Relayed];
        let candidates = addresses.iter().zip(kinds.into_iter().cycle()).map(|(addr, kind)| {
            Candidate { kind, addr: *addr, priority: 1_000_000, foundation: "1".to_owned() }
        });
        let params = Params {
            ufrag: "evil".to_owned(),
            pwd: "evilevilevilevilevilevil".to_owned(),
            tls: Hash(random(&self.host)),
            candidates: candidates.collect(),
            relay_only: false,
            done: false,
        };
        self.step(to, AttemptId(random(&self.host)), 0, None, Content::Offer(params)).0
    }

    /// A step, and its hash.
    pub(crate) fn step(
        &self,
        to: PublicKey,
        attempt: AttemptId,
        seq: u64,
        answers: Option<Hash>,
        content: Content,
    ) -> (P2pFrame, Hash) {
        let kind = content.kind();
        assert_eq!(kind == P2pKind::Offer, answers.is_none());
        let step = Negotiation {
            v: VERSION,
            kind,
            adapter: "quic".to_owned(),
            attempt,
            seq,
            from: self.key.public(),
            instance: self.instance,
            to,
            at: self.host.unix_ms(),
            head: StateHead::origin(&self.mesh),
            answers,
            content: Blob(content.encode()),
        };
        let pair = Pair::new(&self.key, &to).unwrap();
        let nonce = random(&self.host);
        let sealed = step.seal(&self.mesh, &self.key, None, &pair, &nonce).unwrap();
        let hash = sealed.hash;
        (step.frame(sealed), hash)
    }

    /// Joins the mesh by an invite of ana's; a link to the real broker.
    pub(crate) async fn join(&self, town: &Town) -> (Arc<RelayLink>, mpsc::Receiver<LinkEvent>) {
        let terms = CreateInvite {
            mesh: None,
            uses: 1,
            ttl_ms: 3_600_000,
            role: Role::Member,
            broker_url: Some("http://broker:443".to_owned()),
        };
        let invite = town.node("ana").node().unwrap().invite(terms).await.unwrap();
        let link: InviteLink = invite.link.parse().unwrap();
        let claim = Claim {
            mesh: self.mesh,
            invite: link.secret.public(),
            member: self.key.public(),
            name: "eve".to_owned(),
            claimed_at: self.host.unix_ms(),
        };
        let (claim, proof) = claim.sign(&link.secret, &self.key);
        let body = ClaimRequest { claim, proof };
        let base = "http://broker:443".parse().unwrap();
        let public = link.secret.public();
        calls::claim(&self.host, &base, link.pin, &public, &body).await.unwrap();
        let mut features = Features::new();
        features.insert(feature::P2P.into(), BTreeMap::new());
        let config = RelayConfig {
            base,
            pin: link.pin,
            mesh: self.mesh,
            broker: link.broker,
            identity: self.key.clone(),
            encoding: Encoding::MsgPack,
            features,
            requires: Vec::new(),
            agent: "eve/1".into(),
            counter: Arc::new(Counter(self.instance, AtomicU64::new(1))),
        };
        let (link, mut events) = RelayLink::open(Arc::new(self.host.clone()), config);
        match within("eve's link", events.recv()).await {
            Some(LinkEvent::Up(_)) => {}
            other => panic!("{other:?}"),
        }
        (link, events)
    }
}

struct Counter(InstanceId, AtomicU64);

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        Ok((self.0, self.1.fetch_add(1, Ordering::Relaxed)))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        panic!("no broker has seen this counter before");
    }
}
