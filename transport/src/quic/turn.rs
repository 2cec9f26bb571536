//! Relayed addresses of TURN servers (RFC 8656), over the node's own sockets.
//!
//! `turn-client-proto` does the protocol: allocation, refresh, permissions, channels. It runs in a task
//! of its own, to which the socket hands what servers say; so whatever a server, or somebody who
//! pretends to be it, makes of that crate, only the relay is lost. Data of peers that have a channel
//! does not pass the task: its four bytes of framing are written and read here.
//!
//! A server allocates when the first attempt begins, and for as long as the node wants it. An
//! allocation that is gone does not say so: the server was restarted, or our router shows us to it by
//! another port. So when in doubt (new credentials, a new attempt, a peer that has fallen silent) we ask
//! for another one. The server refuses while the first one is there (437, RFC 8656 section 7.2); if it
//! does not, the new one takes its place.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::TurnClientApi as _;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::{AddressFamily, TransportType};
use turn_client_proto::types::TurnCredentials;
use turn_client_proto::udp::TurnClientUdp;

use super::candidates::refusal;
use super::demux::{self, Kind};
use super::gather::{Gathered, Wanted};
use super::mux::Mux;

/// Most TURN servers that are used.
pub(super) const MAX_SERVERS: usize = 2;
/// Datagrams that wait for a relay's task.
const QUEUE: usize = 128;
/// Peers that have a channel.
const CHANNELS: usize = 256;
/// Peers' addresses that have a permission.
const PERMISSIONS: usize = 512;
/// How long one that was asked for counts among [`PERMISSIONS`].
const PERMISSION_FOR: Duration = Duration::from_secs(600);
/// Pause before a permission is asked for again that was refused: checks come many times a second.
const PERMISSION_AGAIN: Duration = Duration::from_secs(10);
/// How long an allocation may take. Its first request is repeated with growing pauses.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether the request for another allocation is to be repeated.
const ASKING: Duration = Duration::from_millis(50);
/// How long an allocation is taken for granted once it was asked for another one.
const SURE: Duration = Duration::from_secs(3);
/// First and longest pause before a server that failed is asked again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// RFC 8656 section 12: channel numbers.
const NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;

/// A TURN server, and what lets us use it.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnServer {
    /// Its address, for UDP.
    pub addr: SocketAddr,
    /// User name, as the broker gave it.
    pub username: String,
    /// Password, as the broker gave it.
    pub password: String,
}

impl std::fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnServer({}, {})", self.addr, self.username)
    }
}

/// What a relay's task is told.
#[derive(Debug)]
enum Told {
    /// The server says something.
    Server(Vec<u8>),
    /// A datagram for a peer that has no channel.
    Peer(SocketAddr, Vec<u8>),
}

#[derive(Debug, Default)]
struct Channels {
    numbers: HashMap<SocketAddr, u16>,
    peers: HashMap<u16, SocketAddr>,
}

/// A server with an allocation, or one in the making.
#[derive(Debug)]
pub(super) struct Relay {
    server: SocketAddr,
    local: SocketAddr,
    relayed: OnceLock<SocketAddr>,
    channels: RwLock<Channels>,
    task: mpsc::Sender<Told>,
}

impl Relay {
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Our end of the way to the server; the system chooses the IP.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// The allocated address.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.relayed.get().copied()
    }

    /// What to send to the server to reach a peer. None: it goes by the task, if at all.
    pub(super) fn wrap(&self, peer: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let length = u16::try_from(data.len()).ok()?;
        let Some(number) = channels.numbers.get(&peer) else {
            let _ = self.task.try_send(Told::Peer(peer, data.to_vec()));
            return None;
        };
        let mut framed = Vec::with_capacity(data.len() + 4);
        framed.extend_from_slice(&number.to_be_bytes());
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(data);
        Some(framed)
    }

    /// A peer's datagram in what the server sent. None: it is for the task.
    pub(super) fn unwrap(&self, datagram: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        if let Some(([a, b, c, d], rest)) = datagram.split_first_chunk::<4>()
            && let number = u16::from_be_bytes([*a, *b])
            && NUMBERS.contains(&number)
        {
            let length = usize::from(u16::from_be_bytes([*c, *d]));
            let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(peer) = channels.peers.get(&number) {
                return Some((*peer, rest.get(..length)?.to_vec()));
            }
            // The task may not have told of it yet.
        }
        let _ = self.task.try_send(Told::Server(datagram.to_vec()));
        None
    }

    fn bound(&self, peer: SocketAddr, number: u16) {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        if channels.peers.len() < CHANNELS {
            channels.numbers.insert(peer, number);
            channels.peers.insert(number, peer);
        }
    }

    fn unbound(&self, peer: SocketAddr) {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = channels.numbers.remove(&peer) {
            channels.peers.remove(&number);
        }
    }
}

/// Keeps an allocation at one server, until it is aborted.
pub(super) async fn keep(
    mux: Weak<Mux>,
    server: watch::Receiver<TurnServer>,
    wanted: Arc<Wanted>,
    known: Arc<watch::Sender<Gathered>>,
) {
    let mut pause = BACK_OFF.0;
    let started = Instant::now();
    let mut server = server;
    let mut doubts = wanted.doubts.subscribe();
    let mut ready = None;
    loop {
        wanted.relay().await;
        let with = server.borrow_and_update().clone();
        let Some(mux) = mux.upgrade() else { return };
        let Some(port) = mux.port(with.addr.ip()) else { return };
        let (task, told) = mpsc::channel(QUEUE);
        let local = SocketAddr::new(super::unspecified(with.addr.ip()), port);
        let relay = Arc::new(Relay {
            server: with.addr,
            local,
            relayed: OnceLock::new(),
            channels: RwLock::default(),
            task,
        });
        mux.routes.add_relay(&relay);
        let published = Published { relay, mux, known: Arc::clone(&known) };
        let session = match ready.take() {
            Some((client, relayed)) => {
                let session = Session::new(published, client, started);
                session.allocated(relayed);
                session
            }
            None => Session::new(published, client(&with, local), started),
        };
        // A task, so that a panic stays in it. Whoever aborts us aborts it, too.
        let mut running = tokio::task::JoinSet::new();
        running.spawn(session.run(told, server.clone(), doubts.clone()));
        let over = running.join_next().await.and_then(Result::ok).unwrap_or(Over::Failed);
        pause = match over {
            Over::Replaced(client, relayed) => {
                ready = Some((*client, relayed));
                continue;
            }
            Over::Ended => BACK_OFF.0,
            Over::Failed => (pause * 2).min(BACK_OFF.1),
        };
        // Who wants a relay now does not wait longer than the shortest pause.
        sleep(BACK_OFF.0).await;
        doubts.mark_unchanged();
        tokio::select! {
            biased;
            Ok(()) = server.changed() => {}
            Ok(()) = doubts.changed() => {}
            () = sleep(pause - BACK_OFF.0) => {}
        }
    }
}

/// How a session ended.
enum Over {
    /// There was no allocation.
    Failed,
    /// There is none any more.
    Ended,
    /// There is another one.
    Replaced(Box<TurnClientUdp>, SocketAddr),
}

fn client(server: &TurnServer, local: SocketAddr) -> TurnClientUdp {
    let credentials = TurnCredentials::new(&server.username, &server.password);
    let mut config = TurnConfig::new(credentials);
    config.set_address_family(match server.addr.ip() {
        IpAddr::V4(_) => AddressFamily::IPV4,
        IpAddr::V6(_) => AddressFamily::IPV6,
    });
    let (first, most) = (Duration::from_millis(150), Duration::from_secs(2));
    config.set_request_retransmits(first, most, 6, Duration::from_secs(2));
    TurnClientUdp::allocate(local, server.addr, config)
}

/// Takes the relay away from everybody when its session is over.
struct Published {
    relay: Arc<Relay>,
    mux: Arc<Mux>,
    known: Arc<watch::Sender<Gathered>>,
}

impl Drop for Published {
    fn drop(&mut self) {
        self.mux.routes.remove_relay(&self.relay);
        self.known.send_if_modified(|k| {
            let before = k.relays.len();
            k.relays.retain(|r| !Arc::ptr_eq(r, &self.relay));
            k.relays.len() != before
        });
    }
}

/// One allocation's life.
struct Session {
    published: Published,
    client: TurnClientUdp,
    started: Instant,
    /// For whom a permission was asked, and when.
    permissions: HashMap<IpAddr, Instant>,
    /// For whom a channel is being made: asking twice would make the second one fail.
    binding: HashSet<SocketAddr>,
    /// Asks for another allocation.
    another: Option<TurnClientUdp>,
    /// When an allocation was last asked for.
    asked: Instant,
}

type TurnInstant = turn_client_proto::stun::Instant;

impl Session {
    /// `started` is the beginning of the client's time: it cannot read tokio's clock.
    fn new(published: Published, client: TurnClientUdp, started: Instant) -> Self {
        let (permissions, binding) = (HashMap::new(), HashSet::new());
        let asked = Instant::now();
        Self { published, client, started, permissions, binding, another: None, asked }
    }

    fn now(&self) -> TurnInstant {
        let nanos = self.started.elapsed().as_nanos();
        TurnInstant::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// Runs until the server does not want us any more, or there is another allocation.
    async fn run(
        mut self,
        mut told: mpsc::Receiver<Told>,
        mut server: watch::Receiver<TurnServer>,
        mut doubts: watch::Receiver<u64>,
    ) -> Over {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let replaced = self.settle_another();
            if let Some((client, relayed)) = replaced {
                return Over::Replaced(Box::new(client), relayed);
            }
            let wake = self.settle();
            let allocated = self.published.relay.relayed().is_some();
            let wake = match wake {
                Some(wake) if allocated => wake,
                Some(wake) if Instant::now() < deadline => wake.min(deadline),
                _ if allocated => return Over::Ended,
                _ => return Over::Failed,
            };
            tokio::select! {
                biased;
                Some(told) = told.recv() => match told {
                    Told::Server(bytes) => self.hear(bytes),
                    Told::Peer(peer, data) => self.send(peer, &data),
                },
                Ok(()) = server.changed(), if allocated => {
                    self.ask_another(&server.borrow_and_update().clone());
                }
                Ok(()) = doubts.changed(), if allocated => {
                    if self.another.is_none() && self.asked.elapsed() >= SURE {
                        self.ask_another(&server.borrow().clone());
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn ask_another(&mut self, server: &TurnServer) {
        self.asked = Instant::now();
        self.another = Some(client(server, self.published.relay.local()));
    }

    /// Does what is due for another allocation; says if there is one.
    fn settle_another(&mut self) -> Option<(TurnClientUdp, SocketAddr)> {
        let now = self.now();
        let mut another = self.another.take()?;
        let over = matches!(another.poll(now), TurnPollRet::Closed);
        let (server, local) = (self.published.relay.server(), self.published.relay.local());
        while let Some(out) = another.poll_transmit(now) {
            self.published.mux.send(local.ip(), server, out.data.as_ref());
        }
        while let Some(event) = another.poll_event() {
            match event {
                TurnEvent::AllocationCreated(_, relayed) => return Some((another, relayed)),
                TurnEvent::AllocationCreateFailed(_) => return None,
                _ => {}
            }
        }
        self.another = Some(another).filter(|_| !over);
        None
    }

    /// Does what is due; says when to come again, or that it is over.
    fn settle(&mut self) -> Option<Instant> {
        let now = self.now();
        let polled = self.client.poll(now);
        self.flush();
        while let Some(event) = self.client.poll_event() {
            match event {
                TurnEvent::AllocationCreated(_, relayed) => self.allocated(relayed),
                TurnEvent::AllocationCreateFailed(_) => return None,
                TurnEvent::ChannelCreated(_, peer) => {
                    self.binding.remove(&peer);
                    self.channel(peer);
                }
                TurnEvent::ChannelCreateFailed(_, peer) => {
                    self.binding.remove(&peer);
                    self.published.relay.unbound(peer);
                }
                _ => {}
            }
        }
        match polled {
            TurnPollRet::WaitUntil(at) => {
                let wait = at.saturating_duration_since(now).max(Duration::from_millis(1));
                // The other client's requests are repeated in time.
                let most = if self.another.is_some() { ASKING } else { Duration::from_secs(60) };
                Some(Instant::now() + wait.min(most))
            }
            TurnPollRet::Closed => None,
            _ => Some(Instant::now() + Duration::from_secs(1)),
        }
    }

    fn flush(&mut self) {
        let (server, local) = (self.published.relay.server(), self.published.relay.local());
        while let Some(out) = self.client.poll_transmit(self.now()) {
            self.published.mux.send(local.ip(), server, out.data.as_ref());
        }
    }

    fn allocated(&self, relayed: SocketAddr) {
        // A server must not make peers send to places of its choosing.
        if refusal(relayed, true).is_some() || self.published.relay.relayed.set(relayed).is_err() {
            return;
        }
        let relay = Arc::clone(&self.published.relay);
        self.published.known.send_modify(|k| k.relays.push(relay));
    }

    /// The client does not say a channel's number, but writes it before what it sends.
    fn channel(&mut self, peer: SocketAddr) {
        let sent = self.client.send_to(TransportType::Udp, peer, [], self.now());
        let Ok(Some(sent)) = sent else { return };
        if let Some(([a, b], _)) = sent.build().data.split_first_chunk::<2>() {
            let number = u16::from_be_bytes([*a, *b]);
            if NUMBERS.contains(&number) {
                self.published.relay.bound(peer, number);
            }
        }
    }

    fn hear(&mut self, bytes: Vec<u8>) {
        let (server, local) = (self.published.relay.server(), self.published.relay.local());
        let now = self.now();
        let mut transmit = Transmit::new(bytes, TransportType::Udp, server, local);
        // Answers may be the other client's; it could not tell whose anything else is.
        if demux::is_response(&transmit.data)
            && let Some(another) = &mut self.another
        {
            match another.recv(transmit, now) {
                TurnRecvRet::Ignored(not_its) => transmit = not_its,
                _ => return,
            }
        }
        if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, self.now()) {
            self.published.mux.inject(&self.published.relay, data.peer, data.data());
        }
    }

    /// Sends to a peer without a channel, or opens the way first: the datagram is lost then, and
    /// comes again.
    fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        let now = self.now();
        if !self.client.have_permission(TransportType::Udp, peer.ip()) {
            if self.permissions.len() >= PERMISSIONS {
                // Those that are in use are not asked for again.
                self.permissions.retain(|_, at| at.elapsed() < PERMISSION_FOR);
            }
            let asked = self.permissions.get(&peer.ip());
            let room = asked.is_some() || self.permissions.len() < PERMISSIONS;
            if room && asked.is_none_or(|at| at.elapsed() >= PERMISSION_AGAIN) {
                self.permissions.insert(peer.ip(), Instant::now());
                let _ = self.client.create_permission(TransportType::Udp, peer.ip(), now);
            }
            return;
        }
        // Checks are few. What is worth a channel is a connection.
        if demux::classify(data, false) == Kind::Quic
            && !self.binding.contains(&peer)
            && self.client.bind_channel(TransportType::Udp, peer, now).is_ok()
        {
            self.binding.insert(peer);
        }
        let (server, local) = (self.published.relay.server(), self.published.relay.local());
        if let Ok(Some(sent)) = self.client.send_to(TransportType::Udp, peer, data, now) {
            self.published.mux.send(local.ip(), server, &sent.build().data);
        }
    }
}
