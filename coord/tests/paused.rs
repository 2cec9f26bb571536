//! The broker under paused time, with in-memory pipes for sockets: what depends on minutes takes
//! milliseconds here.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use meshwire_coord::{Broker, BrokerConfig, Database, Policy, Tls};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::{
    Author, Channel, Content, Durability, Header, StateHead, Suite, Target, box_key_id,
};
use meshwire_signaling::frame::http::{ClaimRequest, CreateMesh};
use meshwire_signaling::invite::{Capability, Claim, Genesis, Role, mesh_id};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{
    Envelope, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, SecretKey, UnixMillis,
};
use meshwire_transport::http;
use meshwire_transport::link::{Answer, Inbound, LinkEvent, MessageLink as _};
use meshwire_transport::net::{BoxStream, Listener, Net};
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use meshwire_transport::url::BaseUrl;
use tokio::io::DuplexStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Duration, Instant};

const BASE: &str = "http://broker.test:7900";

/// One listener and whoever connects to it; the wall clock follows tokio's.
#[derive(Debug)]
struct Pipes {
    start: Instant,
    draws: AtomicU64,
    tx: mpsc::Sender<DuplexStream>,
    rx: std::sync::Mutex<VecDeque<mpsc::Receiver<DuplexStream>>>,
}

impl Pipes {
    fn new() -> Arc<Self> {
        let (tx, rx) = mpsc::channel(64);
        let rx = std::sync::Mutex::new(VecDeque::from([rx]));
        Arc::new(Self { start: Instant::now(), draws: AtomicU64::new(1), tx, rx })
    }
}

#[async_trait]
impl Net for Pipes {
    fn unix_ms(&self) -> UnixMillis {
        1_700_000_000_000 + u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    fn fill(&self, buf: &mut [u8]) {
        // Distinct, repeatable draws are all that a test needs.
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        let hash = Hash::of(&draw.to_be_bytes());
        buf.iter_mut().zip(hash.0.iter().cycle()).for_each(|(b, h)| *b = *h);
    }

    async fn tcp_connect(&self, _: &str, _: u16) -> io::Result<BoxStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.tx.send(far).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(near))
    }

    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let rx = self.rx.lock().unwrap().pop_front().ok_or(io::ErrorKind::AddrInUse)?;
        Ok(Box::new(Bound(Mutex::new(rx), addr)))
    }
}

struct Bound(Mutex<mpsc::Receiver<DuplexStream>>, SocketAddr);

#[async_trait]
impl Listener for Bound {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        match self.0.lock().await.recv().await {
            Some(stream) => Ok((Box::new(stream), self.1)),
            None => std::future::pending().await,
        }
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

/// Counts hellos of one instance.
struct Counter(AtomicU64);

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        Ok((InstanceId([1; 16]), self.0.fetch_add(1, Ordering::Relaxed)))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        Err(CounterError("not in this test".into()))
    }
}

struct World {
    net: Arc<Pipes>,
    broker: Broker,
    mesh: MeshId,
    _data: tempfile::TempDir,
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

type Link = (Arc<RelayLink>, mpsc::Receiver<LinkEvent>);

impl World {
    /// A broker, and a mesh whose owner is key 1.
    async fn new() -> Self {
        let net = Pipes::new();
        let data = tempfile::tempdir().unwrap();
        let config = BrokerConfig {
            listen: ([127, 0, 0, 1], 7900).into(),
            public_url: None,
            data: data.path().to_owned(),
            database: Database::Memory,
            tls: Tls::Auto,
            policy: Policy::default(),
            new_admin_token: false,
        };
        let broker = Broker::start(net.clone(), config).await.unwrap();
        let genesis = Genesis {
            name: "lab".into(),
            owner: key(1).public(),
            owner_name: "ana".into(),
            broker: broker.key(),
            created_at: net.unix_ms(),
            nonce: Hash([0; 32]),
        };
        let genesis = Signed::new(&key(1), domains::GENESIS, &genesis);
        let mesh = mesh_id(&genesis);
        let base: BaseUrl = BASE.parse().unwrap();
        let token = broker.admin_token().unwrap();
        http::create_mesh(net.as_ref(), &base, token, &CreateMesh { genesis }).await.unwrap();
        Self { net, broker, mesh, _data: data }
    }

    async fn connect(&self, n: u8) -> Link {
        let config = RelayConfig {
            base: BASE.parse().unwrap(),
            pin: None,
            mesh: self.mesh,
            broker: self.broker.key(),
            identity: key(n),
            encoding: Encoding::MsgPack,
            features: Default::default(),
            requires: vec![],
            agent: "test".into(),
            counter: Arc::new(Counter(AtomicU64::new(u64::from(n) << 20))),
        };
        let (link, mut events) = RelayLink::open(self.net.clone(), config);
        while !matches!(events.recv().await.unwrap(), LinkEvent::Up(_)) {}
        (link, events)
    }

    /// Admits key `n` by an invite of the owner's.
    async fn admit(&self, owner: &RelayLink, n: u8) {
        let invite = key(n + 100);
        let now = self.net.unix_ms();
        let terms = Capability {
            mesh: self.mesh,
            issuer: key(1).public(),
            invite: invite.public(),
            role: Role::Member,
            uses: 1,
            issued_at: now,
            expires_at: now + 60_000,
            broker: self.broker.key(),
        };
        owner.invite_create(Signed::new(&key(1), domains::CAPABILITY, &terms)).await.unwrap();
        let claim = Claim {
            mesh: self.mesh,
            invite: invite.public(),
            member: key(n).public(),
            name: format!("m{n}"),
            claimed_at: now,
        };
        let (claim, proof) = claim.sign(&invite, &key(n));
        let base: BaseUrl = BASE.parse().unwrap();
        let ask = ClaimRequest { claim, proof };
        http::claim(self.net.as_ref(), &base, None, &invite.public(), &ask).await.unwrap();
    }

    fn letter(&self, from: u8, to: u8, id: u64) -> Envelope {
        let (author, to) = (key(from), key(to).public());
        let now = self.net.unix_ms();
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: author.public(), instance: InstanceId([1; 16]) },
            target: Target::Member { key: to },
            id: EnvelopeId::new(now, u128::from(id)),
            priority: Priority::Next,
            durability: Durability::Queued,
            sent_at: now,
            expires_at: now + 3_600_000,
            suite: Suite::Box,
            key_id: box_key_id(&to).unwrap(),
            ephemeral: None,
        };
        let content = Content {
            kind: "text/plain".into(),
            reply_to: None,
            mentions: vec![],
            correlation: None,
            response: false,
            seq: id,
            floor: 1,
            head: StateHead::origin(&self.mesh),
            content: b"hi".to_vec().into(),
        };
        let pair = Pair::new(&author, &to).unwrap();
        Envelope::seal_box(&self.mesh, &author, &header, &pair, &[7; 24], &content)
    }
}

async fn next_envelope(events: &mut mpsc::Receiver<LinkEvent>) -> Inbound {
    let wait = async {
        loop {
            if let LinkEvent::Envelope(inbound) = events.recv().await.unwrap() {
                return *inbound;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("no envelope in ten minutes")
}

fn later(inbound: &Inbound, by: PublicKey) -> Answer {
    let header = inbound.envelope.header().unwrap();
    Answer::Later { from: header.from.key, id: header.id, by, reason: "not now".into() }
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_comes_again_on_a_connection_where_nothing_else_happens() {
    let world = World::new().await;
    let (ana, _ana_events) = world.connect(1).await;
    world.admit(&ana, 2).await;
    let (bob, mut events) = world.connect(2).await;
    ana.send(world.letter(1, 2, 1)).await.unwrap().await.unwrap();
    let mut last = Instant::now();
    for attempt in 1..=3 {
        let inbound = next_envelope(&mut events).await;
        assert_eq!(inbound.attempt, attempt);
        if attempt > 1 {
            let waited = last.elapsed();
            assert!((29..40).contains(&waited.as_secs()), "put off for 30 s, not {waited:?}");
        }
        last = Instant::now();
        // Some time after the push, so that the lease and the put-off end at different times.
        tokio::time::sleep(Duration::from_millis(700)).await;
        last += Duration::from_millis(700);
        bob.answer(later(&inbound, key(2).public())).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_push_comes_again_when_its_lease_ends() {
    let world = World::new().await;
    let (ana, _ana_events) = world.connect(1).await;
    world.admit(&ana, 2).await;
    let (_bob, mut events) = world.connect(2).await;
    ana.send(world.letter(1, 2, 1)).await.unwrap().await.unwrap();
    assert_eq!(next_envelope(&mut events).await.attempt, 1);
    let start = Instant::now();
    assert_eq!(next_envelope(&mut events).await.attempt, 2);
    assert!((29..32).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}
