//! The node's QUIC: its sockets, its key, its attempts.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use meshwire_signaling::{Hash, MeshId};
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::QuicError;
use super::attempt::{Attempt, Command, Dial};
use super::congestion::Congestion;
use super::gather::{Asked, Gathered, Wanted, gather};
use super::guess::Guesses;
use super::interfaces::Interfaces;
use super::mux::Mux;
use super::pace::Pace;
use super::portmap;
use super::routes::Id;
use super::servers::{Credentials, Meshes, Servers};
use super::tls::Identity;
use super::turn;
use crate::net::{Datagram, Net, random};
use crate::queue;

/// What a round trip is taken for before it is measured. quinn's 333 ms make a lost first packet cost
/// a second; on the paths that this is for, ICE has just seen an answer within much less.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Bytes of one QUIC stream that may be under way: more than the largest window of a stream's records, which is
/// what holds a sender. quinn reassembles around at most 1,024 gaps per stream: one packet of eleven would
/// have to be lost of all that such a window has.
const STREAM_WINDOW: u32 = 18 << 20;
/// Bytes of one connection that may be under way once it carries a stream of records.
pub(super) const WINDOW: u32 = 24 << 20;
/// The same before: for messages. A peer could make us hold as much, whatever it says over how many streams.
const FIRST_WINDOW: u32 = 4 << 20;
/// Bytes of datagrams that wait: they are empty, and say that there is a new way.
const NUDGE: usize = 64;
/// Streams that a peer may have open at first: one is for messages, and each of the others for records.
pub(super) const STREAMS: u32 = 4;

/// How long giving back what others hold may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a node's QUIC is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The UDP port; 0 takes a free one. The IPv6 socket has the same one if it is free.
    pub port: u16,
    /// Tells of the machine's addresses.
    pub interfaces: Arc<dyn Interfaces>,
    /// Offer relayed addresses alone, and send from nowhere else: peers do not learn where this node
    /// is (`--relay-only`, `--hide-addresses`).
    pub relayed_only: bool,
    /// Ask the router to forward a port (PCP, NAT-PMP, UPnP), when the first attempt begins.
    pub port_mapping: bool,
    /// Attempts and connections at once.
    pub max_attempts: usize,
    /// How connections find out how much they may have under way.
    pub congestion: Congestion,
}

impl Config {
    /// Any port, direct addresses, port mapping, and room for every peer of a large mesh.
    #[must_use]
    pub fn new(interfaces: Arc<dyn Interfaces>) -> Self {
        let congestion = Congestion::default();
        Self {
            port: 0,
            interfaces,
            relayed_only: false,
            port_mapping: true,
            max_attempts: 4096,
            congestion,
        }
    }
}

/// What attempts need of the node.
pub(super) struct Shared {
    pub(super) net: Arc<dyn Net>,
    pub(super) mux: Arc<Mux>,
    pub(super) identity: Identity,
    pub(super) transport: Arc<TransportConfig>,
    pub(super) relayed_only: bool,
    pub(super) wanted: Arc<Wanted>,
    pub(super) endpoint: Endpoint,
    pub(super) guesses: Arc<Guesses>,
    pace: Mutex<Pace>,
    /// The owner has chosen the port: no others are opened.
    pub(super) one_port: bool,
    room: Arc<Semaphore>,
    most: usize,
    last_id: AtomicU64,
    known: watch::Receiver<Gathered>,
    attempts: Mutex<HashMap<Id, queue::WeakSender<Command>>>,
}

impl Shared {
    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, QuicError> {
        let permit = Arc::clone(&self.room).try_acquire_owned();
        permit.map_err(|_| QuicError::TooMany(self.most))
    }

    pub(super) fn next_id(&self) -> Id {
        Id(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Whether a check may be sent to somebody who has never answered.
    pub(super) fn may_check(&self, now: std::time::Instant) -> bool {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    pub(super) fn known(&self) -> watch::Receiver<Gathered> {
        self.known.clone()
    }

    pub(super) fn register(&self, id: Id, commands: queue::WeakSender<Command>) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).insert(id, commands);
    }

    pub(super) fn unregister(&self, id: Id) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn commands(&self, id: Id) -> Option<queue::Sender<Command>> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.get(&id)?.upgrade()
    }
}

/// Tells who keeps an allocation of new credentials, and who that is.
type Keeping = (watch::Sender<Credentials>, JoinHandle<()>);

/// The node's QUIC; see the module's documentation. Dropping it ends everything.
pub struct QuicNode {
    shared: Arc<Shared>,
    servers: Mutex<Meshes>,
    stun: watch::Sender<Asked>,
    known: Arc<watch::Sender<Gathered>>,
    relays: Mutex<HashMap<SocketAddr, Keeping>>,
    /// Keeps a port of the router.
    forwarding: Mutex<Option<JoinHandle<()>>>,
    tasks: Vec<AbortHandle>,
}

impl fmt::Debug for QuicNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicNode({})", self.tls_fingerprint().short())
    }
}

impl Drop for QuicNode {
    fn drop(&mut self) {
        self.shared.endpoint.close(VarInt::from_u32(0), b"going away");
        for task in &self.tasks {
            task.abort();
        }
        for (_, task) in self.relays.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            task.abort();
        }
        let forwarding = self.forwarding.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(forwarding) = forwarding {
            forwarding.abort();
        }
    }
}

impl QuicNode {
    /// Binds the sockets and makes the key.
    ///
    /// # Errors
    /// [`QuicError::Socket`] when neither family has a socket; [`QuicError::Tls`].
    pub async fn start(net: Arc<dyn Net>, config: Config) -> Result<Self, QuicError> {
        let mux = Arc::new(bind(&*net, config.port).await?);
        let identity = Identity::new(&*net)?;
        let transport = Arc::new(transport(config.congestion));
        let endpoint = endpoint(&*net, &mux, &identity)?;
        let (known, gathered) = watch::channel(Gathered {
            interfaces: config.interfaces.list().await,
            ..Gathered::default()
        });
        let known = Arc::new(known);
        let wanted = Arc::new(Wanted::default());
        let shared = Arc::new(Shared {
            net: Arc::clone(&net),
            mux: Arc::clone(&mux),
            identity,
            transport,
            relayed_only: config.relayed_only,
            wanted: Arc::clone(&wanted),
            endpoint: endpoint.clone(),
            guesses: Arc::default(),
            pace: Mutex::default(),
            one_port: config.port != 0,
            room: Arc::new(Semaphore::new(config.max_attempts)),
            most: config.max_attempts,
            last_id: AtomicU64::new(0),
            known: gathered,
            attempts: Mutex::default(),
        });
        let (stun, servers) = watch::channel(Asked::new());
        let maps = config.port_mapping && !config.relayed_only;
        let forwarded = mux.port(Ipv4Addr::UNSPECIFIED.into()).filter(|_| maps);
        let forwarding = forwarded.map(|port| {
            let (net, interfaces) = (Arc::clone(&net), Arc::clone(&config.interfaces));
            portmap::keep(net, interfaces, port, Arc::clone(&wanted), Arc::clone(&known))
        });
        let gathering = gather(
            net,
            Arc::downgrade(&mux),
            config.interfaces,
            servers,
            wanted,
            Arc::clone(&known),
        );
        let accepting = accept(endpoint, Arc::downgrade(&shared));
        let tasks =
            vec![tokio::spawn(gathering).abort_handle(), tokio::spawn(accepting).abort_handle()];
        let forwarding = Mutex::new(forwarding.map(tokio::spawn));
        let (servers, relays) = (Mutex::default(), Mutex::default());
        Ok(Self { shared, servers, stun, known, relays, forwarding, tasks })
    }

    /// Gives back what others hold for this node, as far as they hear of it in a second: allocations
    /// of TURN servers, and the router's port. No attempts are to begin afterwards.
    pub async fn close(&self) {
        self.shared.wanted.close();
        let mut ending: Vec<JoinHandle<()>> = Vec::new();
        {
            let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
            ending.extend(relays.drain().map(|(_, (_, task))| task));
            ending.extend(self.forwarding.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        let aborts: Vec<AbortHandle> = ending.iter().map(JoinHandle::abort_handle).collect();
        let _ = timeout(FAREWELL, join_all(ending)).await;
        for task in aborts {
            task.abort();
        }
    }

    /// SHA-256 of the SPKI of this node's key.
    #[must_use]
    pub fn tls_fingerprint(&self) -> Hash {
        self.shared.identity.fingerprint()
    }

    /// The sockets' ports: IPv4, IPv6.
    #[must_use]
    pub fn ports(&self) -> (Option<u16>, Option<u16>) {
        let mux = &self.shared.mux;
        (mux.port(Ipv4Addr::UNSPECIFIED.into()), mux.port(Ipv6Addr::UNSPECIFIED.into()))
    }

    /// Whom to ask for addresses from now on, for attempts in one mesh; none: for those in no mesh. A TURN
    /// server that stays keeps its allocation, and has its new credentials used for the next one.
    pub fn set_servers(&self, mesh: Option<MeshId>, mut servers: Servers) {
        let reachable = |addr: SocketAddr| self.shared.mux.port(addr.ip()).is_some();
        servers.stun.retain(|addr| reachable(*addr));
        servers.turn.retain(|server| reachable(server.addr));
        let mut meshes = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        meshes.set(mesh, servers);
        self.set_relays(meshes.turn());
        self.stun.send_if_modified(|old| {
            let stun = meshes.stun();
            let differs = *old != stun;
            *old = stun;
            differs
        });
    }

    fn set_relays(&self, servers: BTreeMap<SocketAddr, Credentials>) {
        let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
        relays.retain(|addr, (_, task)| {
            let stays = servers.contains_key(addr);
            if !stays {
                task.abort();
            }
            stays
        });
        for (addr, credentials) in servers {
            if let Some((told, _)) = relays.get(&addr) {
                let others = !told.borrow().keys().eq(credentials.keys());
                told.send_if_modified(|old| {
                    let differs = *old != credentials;
                    *old = credentials;
                    differs
                });
                if others {
                    // It serves other meshes now.
                    self.known.send_modify(|_| {});
                }
                continue;
            }
            let (told, current) = watch::channel(credentials);
            let (mux, wanted) = (Arc::downgrade(&self.shared.mux), &self.shared.wanted);
            let keeping = turn::keep(mux, current, Arc::clone(wanted), Arc::clone(&self.known));
            relays.insert(addr, (told, tokio::spawn(keeping)));
        }
    }

    /// Begins to connect to a peer.
    ///
    /// # Errors
    /// [`QuicError::TooMany`].
    pub fn dial(&self, dial: Dial) -> Result<Attempt, QuicError> {
        self.shared.wanted.begin(dial.loopback);
        Attempt::start(&self.shared, dial)
    }

    /// Counts changes of the interfaces.
    #[must_use]
    pub fn network(&self) -> watch::Receiver<u64> {
        self.shared.wanted.changes.subscribe()
    }

    /// The network changed in a way that the interfaces do not tell: asks all servers again. Running
    /// attempts get the news, and connections go on over what still works.
    pub fn network_changed(&self) {
        self.shared.wanted.afresh.notify_one();
    }
}

async fn bind(net: &dyn Net, port: u16) -> Result<Mux, QuicError> {
    async fn one(net: &dyn Net, ip: IpAddr, port: u16) -> std::io::Result<Arc<dyn Datagram>> {
        let bound = net.udp_bind(SocketAddr::new(ip, port)).await;
        let bound = match bound {
            Err(e) if port != 0 && e.kind() == std::io::ErrorKind::AddrInUse => {
                net.udp_bind(SocketAddr::new(ip, 0)).await
            }
            other => other,
        };
        bound.map(Arc::from)
    }
    let v4 = one(net, Ipv4Addr::UNSPECIFIED.into(), port).await;
    let taken = v4.as_ref().ok().and_then(|s| s.local_addr().ok()).map_or(port, |a| a.port());
    let v6 = one(net, Ipv6Addr::UNSPECIFIED.into(), taken).await;
    match (v4, v6) {
        (Err(e), Err(_)) => Err(QuicError::Socket(e)),
        (v4, v6) => Mux::new(v4.ok(), v6.ok()).map_err(QuicError::Socket),
    }
}

fn endpoint(net: &dyn Net, mux: &Arc<Mux>, identity: &Identity) -> Result<Endpoint, QuicError> {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false).rng_seed(Some(random(net)));
    // Attempts accept with a configuration of their own; this one takes no key at all.
    let mut server = ServerConfig::with_crypto(identity.server(Hash([0; 32]))?);
    server.max_incoming(64).incoming_buffer_size(64 << 10).incoming_buffer_size_total(1 << 20);
    let mux = Arc::clone(mux);
    let made =
        Endpoint::new_with_abstract_socket(config, Some(server), mux, Arc::new(TokioRuntime));
    made.map_err(QuicError::Socket)
}

pub(super) fn transport(congestion: Congestion) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .initial_rtt(INITIAL_RTT)
        .congestion_controller_factory(congestion.factory())
        // Its attempt keeps a connection alive, and ends one whose peer is not heard any more.
        .max_idle_timeout(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(FIRST_WINDOW))
        .send_window(u64::from(WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(NUDGE))
        .allow_spin(false);
    config
}

/// Gives incoming handshakes to their attempts.
async fn accept(endpoint: Endpoint, shared: std::sync::Weak<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let Some(shared) = shared.upgrade() else { return };
        let commands = Id::of(incoming.remote_address()).and_then(|id| shared.commands(id));
        let Some(commands) = commands else {
            incoming.ignore();
            continue;
        };
        if let Err(e) = commands.try_send(Command::Incoming(Box::new(incoming)))
            && let Command::Incoming(incoming) = e.into_inner()
        {
            incoming.ignore();
        }
    }
}
