//! One allocation's life.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use turn_client_proto::api::{TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::TurnClientApi as _;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::{AddressFamily, TransportType};
use turn_client_proto::types::TurnCredentials;
use turn_client_proto::udp::TurnClientUdp;

use super::{NUMBERS, Relay, Told, TurnServer};
use crate::quic::candidates::refusal;
use crate::quic::demux::{self, Kind};
use crate::quic::gather::Gathered;
use crate::quic::mux::Mux;
use crate::quic::servers::{Credentials, Scope};
use crate::quic::stun::{address, attribute};

/// The first bytes of a CreatePermission request, and the attribute with the peer (RFC 8656 sections
/// 17 and 18).
const CREATE_PERMISSION: [u8; 2] = [0x00, 0x08];
const XOR_PEER_ADDRESS: u16 = 0x0012;
/// The first bytes of an error response to Allocate, and the attribute that begins with 0, 0, 4, 1 in a 401
/// (RFC 8489 section 14.8).
const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];
const ERROR_CODE: u16 = 0x0009;
/// How long an allocation may take. Its first request is repeated with growing pauses.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether the request for another allocation is to be repeated.
const ASKING: Duration = Duration::from_millis(50);
/// How long an allocation is taken for granted once it was asked for another one.
const SURE: Duration = Duration::from_secs(3);

/// How a session ended.
pub(super) enum Over {
    /// There was no allocation.
    Failed,
    /// There is none any more.
    Ended,
    /// There is another one, made with this mesh's credentials.
    Replaced(Box<TurnClientUdp>, SocketAddr, Scope),
}

pub(super) fn client(server: &TurnServer, local: SocketAddr) -> TurnClientUdp {
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
pub(super) struct Published {
    pub(super) relay: Arc<Relay>,
    pub(super) mux: Arc<Mux>,
    pub(super) known: Arc<watch::Sender<Gathered>>,
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
pub(super) struct Session {
    published: Published,
    client: TurnClientUdp,
    started: Instant,
    /// The credentials in use, and whose they are.
    with: (Scope, TurnServer),
    /// For whom a channel is being made: asking twice would make the second one fail.
    binding: HashSet<SocketAddr>,
    /// Asks for another allocation, with somebody's credentials.
    another: Option<(TurnClientUdp, Scope)>,
    /// When an allocation was last asked for.
    asked: Instant,
    /// The request that the server asked for credentials.
    challenged: Option<[u8; 12]>,
    /// Another allocation has taken the place of this one at the server, too.
    replaced: bool,
}

impl Drop for Session {
    /// Gives the allocation back: one request, whose answer nobody waits for. If it is lost, the server
    /// lets the allocation expire.
    fn drop(&mut self) {
        let allocated = self.published.relay.relayed().is_some();
        // After a panic nothing more is asked of the client.
        if allocated && !self.replaced && !std::thread::panicking() {
            let _ = self.client.delete(self.now());
            self.flush();
        }
    }
}

type TurnInstant = turn_client_proto::stun::Instant;

impl Session {
    /// `started` is the beginning of the client's time: it cannot read tokio's clock.
    pub(super) fn new(
        published: Published,
        client: TurnClientUdp,
        started: Instant,
        with: (Scope, TurnServer),
    ) -> Self {
        let binding = HashSet::new();
        let (asked, another) = (Instant::now(), None);
        let (replaced, challenged) = (false, None);
        Self { published, client, started, with, binding, another, asked, challenged, replaced }
    }

    fn now(&self) -> TurnInstant {
        let nanos = self.started.elapsed().as_nanos();
        TurnInstant::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// Runs until the server does not want us any more, or there is another allocation.
    pub(super) async fn run(
        mut self,
        mut told: mpsc::Receiver<Told>,
        mut server: watch::Receiver<Credentials>,
        mut doubts: watch::Receiver<u64>,
    ) -> Over {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let replaced = self.settle_another();
            if let Some((client, relayed, with)) = replaced {
                self.replaced = true;
                return Over::Replaced(Box::new(client), relayed, with);
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
                    Told::Server(bytes) if self.is_refused(&bytes) => return Over::Failed,
                    Told::Server(bytes) => self.hear(bytes),
                    Told::Peer(peer, data) => self.send(peer, &data),
                },
                Ok(()) = server.changed(), if allocated => {
                    let all = server.borrow_and_update().clone();
                    self.ask_another(&all, false);
                }
                Ok(()) = doubts.changed(), if allocated => {
                    if self.another.is_none() && self.asked.elapsed() >= SURE {
                        let all = server.borrow().clone();
                        self.ask_another(&all, true);
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Asks for another allocation: in doubt, or if the credentials in use are others now. What other
    /// meshes' brokers say is nothing to the one that works.
    fn ask_another(&mut self, all: &Credentials, doubt: bool) {
        let ours = all.get_key_value(&self.with.0);
        let Some((scope, server)) = ours.or_else(|| all.first_key_value()) else { return };
        if doubt || *server != self.with.1 {
            self.asked = Instant::now();
            self.another = Some((client(server, self.published.relay.local()), *scope));
        }
    }

    /// Does what is due for another allocation; says if there is one.
    fn settle_another(&mut self) -> Option<(TurnClientUdp, SocketAddr, Scope)> {
        let now = self.now();
        let (mut another, scope) = self.another.take()?;
        let over = matches!(another.poll(now), TurnPollRet::Closed);
        let (server, local) = (self.published.relay.server(), self.published.relay.local());
        while let Some(out) = another.poll_transmit(now) {
            self.published.mux.send(local.ip(), server, out.data.as_ref());
        }
        while let Some(event) = another.poll_event() {
            match event {
                TurnEvent::AllocationCreated(_, relayed) => return Some((another, relayed, scope)),
                TurnEvent::AllocationCreateFailed(_) => return None,
                _ => {}
            }
        }
        self.another = Some((another, scope)).filter(|_| !over);
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
                TurnEvent::PermissionCreateFailed(_, peer) => {
                    self.published.relay.permissions().refused(peer, Instant::now());
                }
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
            // The client refreshes permissions for ever.
            let peer = permitted(out.data.as_ref());
            if peer.is_some_and(|ip| !self.published.relay.permissions().is_used(ip)) {
                continue;
            }
            self.published.mux.send(local.ip(), server, out.data.as_ref());
        }
    }

    pub(super) fn allocated(&self, relayed: SocketAddr) {
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

    /// Whether the server takes our credentials for false: it asks for them again. The client would wait
    /// for a better answer, and others' credentials would have to.
    fn is_refused(&mut self, bytes: &[u8]) -> bool {
        if self.published.relay.relayed().is_some() || !is_challenge(bytes) {
            return false;
        }
        let request = demux::transaction(bytes);
        let first = self.challenged;
        self.challenged = first.or(request);
        first.is_some() && first != request
    }

    fn hear(&mut self, bytes: Vec<u8>) {
        let (server, local) = (self.published.relay.server(), self.published.relay.local());
        let now = self.now();
        let mut transmit = Transmit::new(bytes, TransportType::Udp, server, local);
        // Answers may be the other client's; it could not tell whose anything else is.
        if demux::is_response(&transmit.data)
            && let Some((another, _)) = &mut self.another
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
            if self.published.relay.permissions().ask(peer.ip(), Instant::now()) {
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

/// Whether a response asks for credentials for an allocation.
fn is_challenge(response: &[u8]) -> bool {
    let code = attribute(response, ERROR_CODE).and_then(<[u8]>::first_chunk);
    response.starts_with(&ALLOCATE_ERROR) && code == Some(&[0, 0, 4, 1])
}

/// For whom a permission is asked in a request.
fn permitted(request: &[u8]) -> Option<IpAddr> {
    let mask: &[u8; 16] = request.get(4..20)?.try_into().ok()?;
    if !request.starts_with(&CREATE_PERMISSION) {
        return None;
    }
    Some(address(attribute(request, XOR_PEER_ADDRESS)?, mask)?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 5769 section 2.2 has it, in another attribute.
    #[test]
    fn whom_a_request_is_about() {
        let head = [0, 8, 0, 12, 0x21, 0x12, 0xa4, 0x42];
        let rest = [0, 0x12, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let mut request = [&head[..], &[7; 12], &rest].concat();
        assert_eq!(permitted(&request), Some(IpAddr::from([192, 0, 2, 1])));
        request[1] = 9;
        assert_eq!(permitted(&request), None);
        assert_eq!(permitted(&CREATE_PERMISSION), None);
    }
}
