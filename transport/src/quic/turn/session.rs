//! One allocation's life.

use std::collections::{HashMap, HashSet};
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

/// How a session ended.
pub(super) enum Over {
    /// There was no allocation.
    Failed,
    /// There is none any more.
    Ended,
    /// There is another one.
    Replaced(Box<TurnClientUdp>, SocketAddr),
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
    /// For whom a permission was asked, and when.
    permissions: HashMap<IpAddr, Instant>,
    /// For whom a channel is being made: asking twice would make the second one fail.
    binding: HashSet<SocketAddr>,
    /// Asks for another allocation.
    another: Option<TurnClientUdp>,
    /// When an allocation was last asked for.
    asked: Instant,
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
    pub(super) fn new(published: Published, client: TurnClientUdp, started: Instant) -> Self {
        let (permissions, binding) = (HashMap::new(), HashSet::new());
        let (asked, another) = (Instant::now(), None);
        let replaced = false;
        Self { published, client, started, permissions, binding, another, asked, replaced }
    }

    fn now(&self) -> TurnInstant {
        let nanos = self.started.elapsed().as_nanos();
        TurnInstant::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// Runs until the server does not want us any more, or there is another allocation.
    pub(super) async fn run(
        mut self,
        mut told: mpsc::Receiver<Told>,
        mut server: watch::Receiver<TurnServer>,
        mut doubts: watch::Receiver<u64>,
    ) -> Over {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let replaced = self.settle_another();
            if let Some((client, relayed)) = replaced {
                self.replaced = true;
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
