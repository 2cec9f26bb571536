//! A broker, links to it over in-memory pipes, and a wall clock that follows tokio's.

#![allow(unreachable_pub)] // a module of a test binary

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_coord::store::MemoryStore;
use meshwire_coord::{Broker, BrokerConfig, Database, Policy, Tls};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::{
    Author, Channel, Content, Durability, Header, StateHead, Suite, Target, box_key_id,
};
use meshwire_signaling::frame::http::{ClaimRequest, CreateMesh};
use meshwire_signaling::frame::{Features, Frame, PresenceEvent};
use meshwire_signaling::invite::{Capability, Claim, Genesis, Role, mesh_id};
use meshwire_signaling::receipt::{Ends, Receipt, Verdict};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{
    Envelope, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, SecretKey, UnixMillis,
};
use meshwire_transport::http;
use meshwire_transport::link::{Answer, Inbound, LinkEvent};
use meshwire_transport::net::{BoxStream, Listener, Net};
use meshwire_transport::relay::hello::{Greeting, Handshake, Step};
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use meshwire_transport::url::BaseUrl;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{DuplexStream, ReadBuf};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

const BASE: &str = "http://broker.test:7900";

/// One listener and whoever connects to it; the wall clock follows tokio's.
#[derive(Debug)]
pub struct Pipes {
    start: Instant,
    draws: AtomicU64,
    tx: std::sync::Mutex<mpsc::Sender<DuplexStream>>,
    rx: std::sync::Mutex<VecDeque<mpsc::Receiver<DuplexStream>>>,
    wires: std::sync::Mutex<Vec<Arc<Wire>>>,
}

impl Pipes {
    fn new() -> Arc<Self> {
        let (tx, rx) = mpsc::channel(64);
        let rx = std::sync::Mutex::new(VecDeque::from([rx]));
        Arc::new(Self {
            start: Instant::now(),
            draws: AtomicU64::new(1),
            tx: std::sync::Mutex::new(tx),
            rx,
            wires: Default::default(),
        })
    }

    /// Who connects from now on reaches the next one that listens.
    fn renew(&self) {
        let (tx, rx) = mpsc::channel(64);
        self.rx.lock().unwrap().push_back(rx);
        *self.tx.lock().unwrap() = tx;
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
        let tx = self.tx.lock().unwrap().clone();
        tx.send(far).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
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

/// A node's way to the broker, which can stop carrying anything without closing: a stopped process,
/// or a firewall that drops.
#[derive(Debug)]
pub struct Wire {
    pipes: Arc<Pipes>,
    state: std::sync::Mutex<WireState>,
}

#[derive(Debug, Default)]
struct WireState {
    frozen: bool,
    /// What may still be read, if that is limited.
    trickle: Option<usize>,
    waiting: Vec<Waker>,
}

impl Wire {
    pub fn freeze(&self) {
        self.state.lock().unwrap().frozen = true;
    }

    pub fn thaw(&self) {
        let mut state = self.state.lock().unwrap();
        (state.frozen, state.trickle) = (false, None);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Writes as always, but reads so many bytes more and no others.
    pub fn trickle(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap();
        state.trickle = Some(state.trickle.unwrap_or(0) + bytes);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// How much may be read.
    fn poll_allowed(&self, cx: &Context<'_>) -> Poll<usize> {
        let mut state = self.state.lock().unwrap();
        match (state.frozen, state.trickle) {
            (false, None) => Poll::Ready(usize::MAX),
            (false, Some(bytes @ 1..)) => Poll::Ready(bytes),
            _ => {
                state.waiting.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap();
        if !state.frozen {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

#[async_trait]
impl Net for Wire {
    fn unix_ms(&self) -> UnixMillis {
        self.pipes.unix_ms()
    }

    fn fill(&self, buf: &mut [u8]) {
        self.pipes.fill(buf);
    }

    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        std::future::poll_fn(|cx| self.poll_open(cx)).await;
        let inner = self.pipes.tcp_connect(host, port).await?;
        let state = self.pipes.wires.lock().unwrap();
        let wire = state.iter().find(|w| std::ptr::eq(w.as_ref(), self)).unwrap().clone();
        Ok(Box::new(Freezable { inner, wire }))
    }

    async fn tcp_bind(&self, _: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Freezable {
    inner: BoxStream,
    wire: Arc<Wire>,
}

impl AsyncRead for Freezable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = std::task::ready!(self.wire.poll_allowed(cx));
        let most = most.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let got = part.filled().len();
        buf.advance(got);
        if let Some(left) = &mut self.wire.state.lock().unwrap().trickle {
            *left = left.saturating_sub(got);
        }
        read
    }
}

impl AsyncWrite for Freezable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.wire.poll_open(cx));
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
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

pub struct World {
    pub net: Arc<Pipes>,
    pub broker: Broker,
    pub mesh: MeshId,
    counters: AtomicU64,
    store: Arc<MemoryStore>,
    policy: Policy,
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub type Link = (Arc<RelayLink>, mpsc::Receiver<LinkEvent>);

async fn start(net: &Arc<Pipes>, store: &Arc<MemoryStore>, policy: &Policy) -> Broker {
    let config = BrokerConfig {
        listen: ([127, 0, 0, 1], 7900).into(),
        public_url: None,
        data: "unused".into(),
        database: Database::Memory,
        tls: Tls::Auto,
        policy: policy.clone(),
        new_admin_token: false,
        turn: None,
    };
    Broker::start_with(net.clone(), config, store.clone(), key(200)).await.unwrap()
}

impl World {
    /// A broker, and a mesh whose owner is key 1.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// As [`Self::new`], with other limits.
    pub async fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::default();
        change(&mut policy);
        let net = Pipes::new();
        let store = Arc::new(MemoryStore::default());
        let broker = start(&net, &store, &policy).await;
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
        Self { net, broker, mesh, counters: AtomicU64::new(1), store, policy }
    }

    /// The broker stops, and another with its key and store runs.
    pub async fn restart(&mut self) {
        self.net.renew();
        let next = start(&self.net, &self.store, &self.policy).await;
        std::mem::replace(&mut self.broker, next).shutdown().await;
    }

    /// A link of key `n`, up.
    pub async fn connect(&self, n: u8) -> Link {
        self.connect_as(n, self.net.clone(), &[]).await
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let mut pipe = self.net.tcp_connect("", 0).await.unwrap();
        let ask = "GET /metrics HTTP/1.1\r\nHost: broker.test\r\nConnection: close\r\n\r\n";
        pipe.write_all(ask.as_bytes()).await.unwrap();
        let mut text = String::new();
        pipe.read_to_string(&mut text).await.unwrap();
        text
    }

    /// A connection of key `n` that does nothing by itself after its hello.
    pub async fn raw(&self, n: u8) -> WebSocketStream<BoxStream> {
        self.raw_with(n, &[]).await
    }

    /// As [`Self::raw`], with features.
    pub async fn raw_with(&self, n: u8, features: &[&str]) -> WebSocketStream<BoxStream> {
        let pipe = self.net.tcp_connect("", 0).await.unwrap();
        let mut request = "ws://broker.test/v2/ws".into_client_request().unwrap();
        let protocol = Encoding::MsgPack.subprotocol().parse().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let (mut ws, _) = client_async(request, pipe).await.unwrap();
        let mut handshake = Handshake::new(Greeting {
            mesh: self.mesh,
            broker: self.broker.key(),
            identity: key(n),
            instance: InstanceId([1; 16]),
            counter: self.counters.fetch_add(1 << 20, Ordering::Relaxed),
            features: features.iter().map(|f| ((*f).to_owned(), Default::default())).collect(),
            requires: vec![],
            resume: None,
            agent: "raw".into(),
            nonce: Hash([3; 32]),
            exporter: None,
        });
        loop {
            let message = ws.next().await.unwrap().unwrap();
            let frame = Frame::decode(Encoding::MsgPack, &message.into_data()).unwrap();
            match handshake.on_frame(frame, self.net.unix_ms()).unwrap() {
                Step::Send(frame) => {
                    ws.send(Message::binary(frame.encode(Encoding::MsgPack))).await.unwrap();
                }
                Step::Done(_) => return ws,
            }
        }
    }

    /// A wire that can be frozen.
    pub fn wire(&self) -> Arc<Wire> {
        let wire = Arc::new(Wire { pipes: self.net.clone(), state: Default::default() });
        self.net.wires.lock().unwrap().push(wire.clone());
        wire
    }

    /// A link of key `n` over `net`, up.
    pub async fn connect_as(&self, n: u8, net: Arc<dyn Net>, features: &[&str]) -> Link {
        let features: Features =
            features.iter().map(|f| ((*f).to_owned(), Default::default())).collect();
        let config = RelayConfig {
            base: BASE.parse().unwrap(),
            pin: None,
            mesh: self.mesh,
            broker: self.broker.key(),
            identity: key(n),
            encoding: Encoding::MsgPack,
            features,
            requires: vec![],
            agent: "test".into(),
            counter: Arc::new(Counter(AtomicU64::new(
                self.counters.fetch_add(1 << 20, Ordering::Relaxed),
            ))),
        };
        let (link, mut events) = RelayLink::open(net, config);
        while !matches!(events.recv().await.unwrap(), LinkEvent::Up(_)) {}
        (link, events)
    }

    /// Admits key `n` by an invite of the owner's.
    pub async fn admit(&self, owner: &RelayLink, n: u8) {
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

    pub fn letter(&self, from: u8, to: u8, id: u64) -> Envelope {
        self.urgent_letter(from, to, id, Priority::Next)
    }

    pub fn urgent_letter(&self, from: u8, to: u8, id: u64, priority: Priority) -> Envelope {
        self.any_letter(from, to, id, priority, b"hi".to_vec())
    }

    pub fn large_letter(&self, from: u8, to: u8, id: u64, bytes: usize) -> Envelope {
        self.any_letter(from, to, id, Priority::Next, vec![7; bytes])
    }

    fn any_letter(
        &self,
        from: u8,
        to: u8,
        id: u64,
        priority: Priority,
        content: Vec<u8>,
    ) -> Envelope {
        let (author, to) = (key(from), key(to).public());
        let now = self.net.unix_ms();
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: author.public(), instance: InstanceId([1; 16]) },
            target: Target::Member { key: to },
            id: EnvelopeId::new(now, u128::from(id)),
            priority,
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
            content: content.into(),
        };
        let pair = Pair::new(&author, &to).unwrap();
        Envelope::seal_box(&self.mesh, &author, &header, &pair, &[7; 24], &content)
    }
}

pub async fn next_envelope(events: &mut mpsc::Receiver<LinkEvent>) -> Inbound {
    let wait = async {
        loop {
            if let LinkEvent::Envelope(inbound) = events.recv().await.unwrap() {
                return *inbound;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("no envelope in ten minutes")
}

/// What a recipient answers when the message is in its inbox.
pub fn receipt(world: &World, inbound: &Inbound, by: u8) -> Answer {
    let header = inbound.envelope.header().unwrap();
    let (from, id, to) = (header.from.key, header.id, key(by).public());
    let ends = Ends { mesh: &world.mesh, sender: &from, recipient: &to };
    let pair = Pair::new(&key(by), &from).unwrap();
    let hash = inbound.envelope.hash(&world.mesh);
    Answer::Final { from, id, receipt: Receipt::new(&pair, ends, &hash, Verdict::Delivered, None) }
}

/// Who came and went, as a link was told since the last call.
pub fn news(events: &mut mpsc::Receiver<LinkEvent>) -> Vec<(PresenceEvent, PublicKey)> {
    let mut news = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let LinkEvent::Presence(p) = event {
            news.push((p.event, p.key));
        }
    }
    news
}
