//! Who is behind which address: what the socket looks up for each packet.
//!
//! QUIC knows a peer by a virtual address that is the attempt's number and never changes. To which
//! real address packets go is the attempt's business ([`Routes::set_route`]); from which ones they are
//! taken, too ([`Routes::add_source`]). Two attempts with one peer share all its addresses: there the
//! connection id decides, which the socket learns from the packets of the handshake that it sends.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::ice::Way;
use super::turn::Relay;
use crate::queue;

/// fd6d:6573:6877::/64, unique-local and never on a wire.
const PREFIX: u64 = 0xfd6d_6573_6877_0000;
/// QUIC wants a port.
const PORT: u16 = 1024;
/// Most own connection ids that are kept per attempt: one, and a few for handshakes that came to
/// nothing.
const IDS: usize = 8;
/// Most addresses of one peer.
const SOURCES: usize = 64;

/// An attempt's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u64);

impl Id {
    /// Under which address QUIC knows the peer.
    pub(super) fn address(self) -> SocketAddr {
        let bits = (u128::from(PREFIX) << 64) | u128::from(self.0);
        SocketAddr::new(Ipv6Addr::from_bits(bits).into(), PORT)
    }

    /// The attempt with that address.
    #[expect(clippy::cast_possible_truncation, reason = "the prefix is compared before")]
    pub(super) fn of(addr: SocketAddr) -> Option<Self> {
        let SocketAddr::V6(addr) = addr else { return None };
        let bits = addr.ip().to_bits();
        (bits >> 64 == u128::from(PREFIX)).then_some(Self(bits as u64))
    }
}

/// A STUN message for whoever waits for it.
#[derive(Debug)]
pub(super) struct Stun {
    /// From and to where it went; the local IP is unspecified when the system does not tell.
    pub(super) way: Way,
    pub(super) bytes: Vec<u8>,
}

/// How an attempt's packets travel.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// From an own address.
    Direct(Way),
    /// Through a TURN server.
    Relayed(Arc<Relay>, SocketAddr),
}

#[derive(Debug)]
struct Peer {
    stun: queue::Sender<Stun>,
    ufrag: Vec<u8>,
    route: Option<Route>,
    sources: Vec<SocketAddr>,
    ids: Vec<Vec<u8>>,
}

/// The table; see the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Routes(RwLock<Table>);

#[derive(Debug, Default)]
pub(super) struct Table {
    peers: HashMap<Id, Peer>,
    sources: HashMap<SocketAddr, Vec<Id>>,
    ufrags: HashMap<Vec<u8>, Id>,
    ids: HashMap<Vec<u8>, Id>,
    transactions: HashMap<[u8; 12], queue::Sender<Stun>>,
    relays: HashMap<SocketAddr, Arc<Relay>>,
}

impl Table {
    pub(super) fn route(&self, id: Id) -> Option<&Route> {
        self.peers.get(&id)?.route.as_ref()
    }

    /// The attempts whose peer sends from there, the newest last.
    pub(super) fn at(&self, source: SocketAddr) -> &[Id] {
        self.sources.get(&source).map_or(&[], Vec::as_slice)
    }

    pub(super) fn relay(&self, server: SocketAddr) -> Option<&Arc<Relay>> {
        self.relays.get(&server)
    }

    /// Whose connection id that is.
    pub(super) fn owner(&self, connection: &[u8]) -> Option<Id> {
        self.ids.get(connection).copied()
    }

    /// Whom a request with that user name is for.
    pub(super) fn user(&self, ufrag: &[u8]) -> Option<&queue::Sender<Stun>> {
        Some(&self.peers.get(self.ufrags.get(ufrag)?)?.stun)
    }

    /// Who asked, of an answer.
    pub(super) fn asker(&self, transaction: &[u8; 12]) -> Option<&queue::Sender<Stun>> {
        self.transactions.get(transaction)
    }
}

impl Routes {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new attempt, which is told of STUN requests to its `ufrag`.
    pub(super) fn add(&self, id: Id, ufrag: &str, stun: queue::Sender<Stun>) {
        let ufrag = ufrag.as_bytes().to_vec();
        let mut table = self.write();
        table.ufrags.insert(ufrag.clone(), id);
        let peer = Peer { stun, ufrag, route: None, sources: Vec::new(), ids: Vec::new() };
        table.peers.insert(id, peer);
    }

    /// An attempt is over.
    pub(super) fn remove(&self, id: Id) {
        let mut table = self.write();
        let Some(peer) = table.peers.remove(&id) else { return };
        table.ufrags.remove(&peer.ufrag);
        for connection in &peer.ids {
            table.ids.remove(connection);
        }
        for source in &peer.sources {
            if let Some(ids) = table.sources.get_mut(source) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    table.sources.remove(source);
                }
            }
        }
    }

    /// Where an attempt's packets go from now on.
    pub(super) fn set_route(&self, id: Id, route: Option<Route>) {
        if let Some(peer) = self.write().peers.get_mut(&id) {
            peer.route = route;
        }
    }

    /// From where an attempt's packets may come, too. For a relayed peer its own address: the relay
    /// says who sent what.
    pub(super) fn add_source(&self, id: Id, source: SocketAddr) {
        let mut table = self.write();
        let Some(peer) = table.peers.get_mut(&id) else { return };
        if !peer.sources.contains(&source) && peer.sources.len() < SOURCES {
            peer.sources.push(source);
            table.sources.entry(source).or_default().push(id);
        }
    }

    /// A packet of the handshake shows a connection id of ours.
    pub(super) fn add_connection_id(&self, id: Id, connection: &[u8]) {
        if self.read().owner(connection) == Some(id) {
            return;
        }
        let mut table = self.write();
        let Some(peer) = table.peers.get_mut(&id) else { return };
        if peer.ids.len() < IDS {
            peer.ids.push(connection.to_vec());
            table.ids.insert(connection.to_vec(), id);
        }
    }

    /// The answer to this transaction is for `to`.
    pub(super) fn expect(&self, transaction: [u8; 12], to: &queue::Sender<Stun>) {
        self.write().transactions.insert(transaction, to.clone());
    }

    /// No answer to these is waited for any more.
    pub(super) fn forget<'a>(&self, transactions: impl IntoIterator<Item = &'a [u8; 12]>) {
        let mut table = self.write();
        for transaction in transactions {
            table.transactions.remove(transaction);
        }
    }

    /// What comes from the relay's server is for it.
    pub(super) fn add_relay(&self, relay: &Arc<Relay>) {
        self.write().relays.insert(relay.server(), Arc::clone(relay));
    }

    /// The relay is over.
    pub(super) fn remove_relay(&self, relay: &Arc<Relay>) {
        let mut table = self.write();
        if table.relay(relay.server()).is_some_and(|r| Arc::ptr_eq(r, relay)) {
            table.relays.remove(&relay.server());
        }
    }
}
