//! Who is behind which address: what the socket looks up for each packet.
//!
//! QUIC knows a peer by a virtual address that is a number and never changes. To which
//! real address packets go is the attempt's business ([`Routes::set_route`]); from which ones they are
//! taken, too ([`Routes::add_source`]). Two attempts with one peer share all its addresses: there the
//! connection id decides ([`Table::whose`]), which the socket learns from the packets of the handshake that it
//! sends. The first packets of a connection carry none of ours, but one that both sides know from the
//! signaling ([`Routes::listen`], docs/protocol.md section 24).
//!
//! The ids that come after the handshake are told to the peer in secret, and servers, quinn's for one, take to
//! them at once. QUIC finds the connection of such a packet, if only it comes from the right virtual address: all
//! attempts with one node in which we are the client have the same one ([`Routes::dial`]). What leaves by it is told
//! apart by the ids that the server has shown in its handshake ([`Table::sender`]). A client keeps to those.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use meshwire_signaling::Hash;

use super::demux;
use super::ice::Way;
use super::turn::Relay;
use crate::queue;

/// fd6d:6573:6877::/64, unique-local and never on a wire.
const PREFIX: u64 = 0xfd6d_6573_6877_0000;
/// QUIC wants a port.
const PORT: u16 = 1024;
/// Bytes of our connection ids, as quinn makes them.
const CONNECTION_ID: usize = 8;
/// Most own connection ids that are kept per attempt: one, and a few for handshakes that came to
/// nothing. The one of [`Routes::listen`] comes on top.
const IDS: usize = 8;
/// Most connection ids of the peer that are kept per attempt: the first one, a Retry's, the server's own.
const THEIRS: usize = 4;
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
    /// What its client's first packets are addressed to, if it is QUIC's server.
    initial: Option<Vec<u8>>,
    /// By what QUIC knows the peer, if we are its client, and what packets to it are addressed to.
    dialed: Option<(Id, Vec<Vec<u8>>)>,
}

/// The attempts with one node in which we are the client: one virtual address.
#[derive(Debug)]
struct Bundle {
    node: Hash,
    /// The newest last.
    members: Vec<Id>,
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
    bundles: HashMap<Id, Bundle>,
    /// The bundle of the node with that key.
    nodes: HashMap<Hash, Id>,
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

    /// Whose QUIC packet that is, of the attempts whose peer sends from its address.
    pub(super) fn whose(&self, source: SocketAddr, datagram: &[u8]) -> Option<Id> {
        let at = self.at(source);
        let (newest, others) = at.split_last()?;
        if others.is_empty() {
            return Some(*newest);
        }
        let id = demux::destination_id(datagram, CONNECTION_ID)?;
        if let Some(owner) = self.ids.get(id) {
            return Some(*owner).filter(|owner| at.contains(owner));
        }
        if demux::source_id(datagram).is_none() {
            // A server's, to an id that it was told in secret: any attempt with that node will do. Or a reset.
            // Who sends from there by what somebody claims alone comes after those whose packets we send there.
            let dialed = || at.iter().rev().filter(|id| self.dialed(**id).is_some());
            let proven = dialed().find(|id| self.leads_to(**id, source));
            return proven.or_else(|| dialed().next()).or(Some(newest)).copied();
        }
        // The beginning of a handshake by a peer that does not know our rule: only who waits for one can take it.
        let waits = |id: &&Id| self.peers.get(id).is_some_and(|peer| peer.initial.is_some());
        at.iter().rev().find(waits).copied()
    }

    fn leads_to(&self, id: Id, remote: SocketAddr) -> bool {
        match self.route(id) {
            Some(Route::Direct(way)) => way.remote == remote,
            Some(Route::Relayed(_, peer)) => *peer == remote,
            None => false,
        }
    }

    fn dialed(&self, id: Id) -> Option<&(Id, Vec<Vec<u8>>)> {
        self.peers.get(&id)?.dialed.as_ref()
    }

    /// By what QUIC knows the peer of an attempt.
    pub(super) fn face(&self, id: Id) -> Id {
        self.dialed(id).map_or(id, |(face, _)| *face)
    }

    /// Which attempt sends that packet to what QUIC knows as `face`.
    pub(super) fn sender(&self, face: Id, datagram: &[u8]) -> Option<Id> {
        let Some(bundle) = self.bundles.get(&face) else { return Some(face) };
        let (newest, others) = bundle.members.split_last()?;
        if others.is_empty() {
            return Some(*newest);
        }
        let ours = demux::source_id(datagram).and_then(|ours| self.ids.get(ours));
        if let Some(member) = ours.filter(|member| bundle.members.contains(member)) {
            return Some(*member);
        }
        let addressed = |member: &&Id| {
            self.dialed(**member).is_some_and(|(_, theirs)| {
                theirs.iter().any(|id| demux::destination_id(datagram, id.len()) == Some(id))
            })
        };
        // The peer may have told QUIC of others. All ways lead to the same node.
        bundle.members.iter().find(addressed).or(Some(newest)).copied()
    }

    /// Notes a connection id, unless it is somebody's.
    fn claim(&mut self, id: Id, connection: &[u8]) -> bool {
        match self.ids.entry(connection.to_vec()) {
            Entry::Vacant(vacant) => {
                vacant.insert(id);
                true
            }
            Entry::Occupied(_) => false,
        }
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
        let (route, sources, ids) = (None, Vec::new(), Vec::new());
        let peer = Peer { stun, ufrag, route, sources, ids, initial: None, dialed: None };
        table.peers.insert(id, peer);
    }

    /// An attempt is over.
    pub(super) fn remove(&self, id: Id) {
        let mut table = self.write();
        let Some(peer) = table.peers.remove(&id) else { return };
        table.ufrags.remove(&peer.ufrag);
        for connection in peer.ids.iter().chain(&peer.initial) {
            table.ids.remove(connection);
        }
        if let Some((face, _)) = peer.dialed
            && let Some(bundle) = table.bundles.get_mut(&face)
        {
            bundle.members.retain(|other| *other != id);
            if bundle.members.is_empty()
                && let Some(bundle) = table.bundles.remove(&face)
            {
                table.nodes.remove(&bundle.node);
            }
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

    /// A packet of the handshake, to what QUIC knows as `face`, shows connection ids: ours, and the peer's.
    pub(super) fn learn(&self, face: Id, datagram: &[u8]) {
        let Some(ours) = demux::source_id(datagram) else { return };
        let Some(id) = self.read().sender(face, datagram) else { return };
        self.add_connection_id(id, ours);
        if let Some(theirs) = demux::destination_id(datagram, 0) {
            self.add_their_id(id, theirs);
        }
    }

    fn add_connection_id(&self, id: Id, connection: &[u8]) {
        if self.read().ids.contains_key(connection) {
            return;
        }
        let mut table = self.write();
        let room = table.peers.get(&id).is_some_and(|peer| peer.ids.len() < IDS);
        if room
            && table.claim(id, connection)
            && let Some(peer) = table.peers.get_mut(&id)
        {
            peer.ids.push(connection.to_vec());
        }
    }

    fn add_their_id(&self, id: Id, theirs: &[u8]) {
        if theirs.len() < CONNECTION_ID {
            // Ours are never that short, and one of no bytes would be in front of everybody's packets.
            return;
        }
        let known = |(_, known): &(Id, Vec<Vec<u8>>)| known.iter().any(|k| k == theirs);
        if self.read().dialed(id).is_none_or(known) {
            return;
        }
        let mut table = self.write();
        let dialed = table.peers.get_mut(&id).and_then(|peer| peer.dialed.as_mut());
        if let Some((_, known)) = dialed.filter(|(_, known)| known.len() < THEIRS) {
            known.push(theirs.to_vec());
        }
    }

    /// An attempt is QUIC's client from now on: its first packets are addressed to `initial`. Says by what QUIC is to
    /// know the node with that key: `fresh`, a number that nobody has, or what it knows it by already.
    pub(super) fn dial(&self, id: Id, fresh: Id, node: Hash, initial: &[u8]) -> Id {
        let mut table = self.write();
        let face = table.nodes.get(&node).copied().unwrap_or(fresh);
        let Some(peer) = table.peers.get_mut(&id) else { return face };
        peer.dialed = Some((face, vec![initial.to_vec()]));
        table.nodes.insert(node, face);
        let bundle = table.bundles.entry(face);
        bundle.or_insert_with(|| Bundle { node, members: Vec::new() }).members.push(id);
        face
    }

    /// An attempt is QUIC's server from now on: packets of its client that begin the handshake are
    /// addressed to `initial`.
    pub(super) fn listen(&self, id: Id, initial: &[u8]) {
        let mut table = self.write();
        let free = table.peers.get(&id).is_some_and(|peer| peer.initial.is_none());
        if free
            && table.claim(id, initial)
            && let Some(peer) = table.peers.get_mut(&id)
        {
            peer.initial = Some(initial.to_vec());
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
