//! The node's sockets as QUIC sees them.
//!
//! One UDP socket per address family carries everything: QUIC of all peers, STUN, TURN. Outgoing QUIC
//! goes from a virtual address to wherever its attempt's route leads; incoming packets are told apart
//! per datagram ([`super::demux`]), STUN goes to whoever waits for it, QUIC of a known address on to
//! quinn under its virtual one, and the rest is dropped.
//!
//! A way that was guessed ([`super::guess`]) has a socket of its own, for as long as its attempt lives.
//!
//! No error of a socket reaches quinn, which would give the connection or the whole endpoint up: a
//! packet that cannot be sent is a lost packet.

mod poller;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use quinn::{AsyncUdpSocket, UdpPoller};

use self::poller::Poller;
use super::demux::{self, Kind};
use super::ice::Way;
use super::routes::{Id, Route, Routes, Stun, Table};
use super::turn::Relay;
use crate::net::{Datagram, RecvMeta, Transmit};

/// Packets that wait for room in quinn's buffers: those of relays and of mixed batches.
const SPILL: usize = 512;
/// The largest STUN message taken. ICE's have about 100 bytes.
const MAX_STUN: usize = 1500;
/// Receptions in a row that bring quinn nothing, before other tasks get their turn.
const ROUNDS: usize = 32;

/// One of the sockets.
#[derive(Debug)]
struct Socket {
    io: Arc<dyn Datagram>,
    port: u16,
    /// A send found no room. Whoever waits asks the socket itself.
    full: AtomicBool,
}

impl Socket {
    fn new(io: Arc<dyn Datagram>) -> io::Result<Arc<Self>> {
        let port = io.local_addr()?.port();
        Ok(Arc::new(Self { io, port, full: AtomicBool::new(false) }))
    }
}

/// Sockets of one attempt each.
type Own = Arc<[(Id, Arc<Socket>)]>;

/// What came in and goes nowhere, for metrics.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Datagrams of unknown sources or kinds.
    pub(super) dropped: AtomicU64,
    /// Sends that the system refused.
    pub(super) unsent: AtomicU64,
}

pub(super) struct Mux {
    v4: Option<Arc<Socket>>,
    v6: Option<Arc<Socket>>,
    /// Sockets of one attempt each, for IPv4.
    own: RwLock<Own>,
    pub(super) routes: Routes,
    pub(super) counters: Counters,
    spill: Mutex<VecDeque<(Id, Vec<u8>)>>,
    /// Which socket is read first.
    turn: AtomicUsize,
    /// Who waits in [`AsyncUdpSocket::poll_recv`], for what does not come from a socket.
    reader: Mutex<Option<Waker>>,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("v4", &self.v4).field("v6", &self.v6).finish_non_exhaustive()
    }
}

impl Mux {
    /// At least one of the sockets is there.
    pub(super) fn new(
        v4: Option<Arc<dyn Datagram>>,
        v6: Option<Arc<dyn Datagram>>,
    ) -> io::Result<Self> {
        Ok(Self {
            v4: v4.map(Socket::new).transpose()?,
            v6: v6.map(Socket::new).transpose()?,
            own: RwLock::new(Arc::new([])),
            routes: Routes::default(),
            counters: Counters::default(),
            spill: Mutex::default(),
            turn: AtomicUsize::new(0),
            reader: Mutex::default(),
        })
    }

    /// The port of the socket that an address is reached with; none without such a socket.
    pub(super) fn port(&self, like: IpAddr) -> Option<u16> {
        self.socket(like).map(|s| s.port)
    }

    fn socket(&self, like: IpAddr) -> Option<&Arc<Socket>> {
        if like.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    fn sockets(&self) -> impl Iterator<Item = &Arc<Socket>> {
        self.v4.iter().chain(&self.v6)
    }

    fn own(&self) -> Own {
        Arc::clone(&self.own.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The socket that a way begins at: one with its port, or else the node's.
    fn socket_of(&self, way: Way) -> Option<Arc<Socket>> {
        let node = self.socket(way.remote.ip())?;
        let port = way.local.port();
        if port == node.port || way.remote.is_ipv6() {
            return Some(Arc::clone(node));
        }
        let own = self.own();
        let found = own.iter().find(|(_, socket)| socket.port == port);
        Some(Arc::clone(found.map_or(node, |(_, socket)| socket)))
    }

    /// Gives an attempt an IPv4 socket of its own, in the place of one that it had.
    pub(super) fn adopt(&self, id: Id, io: Arc<dyn Datagram>) -> io::Result<()> {
        let socket = Socket::new(io)?;
        {
            let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
            let others = own.iter().filter(|(other, _)| *other != id).cloned();
            *own = others.chain([(id, socket)]).collect();
        }
        self.wake_reader();
        Ok(())
    }

    /// An attempt is over, and so is its socket.
    pub(super) fn release(&self, id: Id) {
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        if own.iter().any(|(other, _)| *other == id) {
            *own = own.iter().filter(|(other, _)| *other != id).cloned().collect();
        }
    }

    fn wake_reader(&self) {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Sends one datagram of ours from `from` (an unspecified address leaves the choice to the system).
    /// Without room it is dropped: who needs an answer asks again.
    pub(super) fn send(&self, from: IpAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(socket) = self.socket(to.ip()) else { return };
        self.send_on_one(socket, from, to, bytes);
    }

    /// As [`Self::send`], from the socket that the way begins at.
    pub(super) fn send_by(&self, way: Way, bytes: &[u8]) {
        let Some(socket) = self.socket_of(way) else { return };
        self.send_on_one(&socket, way.local.ip(), way.remote, bytes);
    }

    fn send_on_one(&self, socket: &Socket, from: IpAddr, to: SocketAddr, bytes: &[u8]) {
        let src_ip = (!from.is_unspecified() && from.is_ipv4() == to.is_ipv4()).then_some(from);
        let transmit =
            Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip };
        if socket.io.try_send(&transmit).is_err() {
            self.counters.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_on(&self, socket: Option<&Socket>, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(socket) = socket else { return Ok(()) };
        match socket.io.try_send(transmit) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                socket.full.store(true, Ordering::Release);
                Err(e)
            }
            Err(_) => {
                // A probe that is too large for the path, an address that is gone: ICE will see.
                self.counters.unsent.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn relay_out(
        &self,
        id: Id,
        (relay, peer): (&Relay, SocketAddr),
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        let each = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(each) {
            let Some(wrapped) = relay.wrap(id, peer, datagram) else { continue };
            let local = relay.local().ip();
            let wrapped = Transmit {
                destination: relay.server(),
                ecn: None,
                contents: &wrapped,
                segment_size: None,
                src_ip: (!local.is_unspecified()).then_some(local),
            };
            // With part of the batch gone, trying again would double it: the rest counts as lost.
            let socket = self.socket(wrapped.destination.ip());
            if self.send_on(socket.map(|s| &**s), &wrapped).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Sorts what one buffer holds. Afterwards it holds only QUIC of one peer, or nothing.
    fn sort(&self, table: &Table, port: u16, meta: &mut RecvMeta, buf: &mut [u8]) {
        let source = SocketAddr::new(meta.addr.ip(), meta.addr.port());
        let at = table.at(source);
        let relay = table.relay(source);
        let stride = meta.stride.max(1);
        let whole = buf.get(..meta.len.min(buf.len())).unwrap_or_default();
        let quic = |datagram| demux::classify(datagram, false) == Kind::Quic;
        if let ([only], None) = (at, relay)
            && whole.chunks(stride).all(quic)
        {
            meta.addr = table.face(*only).address();
            meta.dst_ip = None;
            return;
        }
        let unknown = || super::unspecified(source.ip());
        let local = SocketAddr::new(meta.dst_ip.unwrap_or_else(unknown), port);
        let way = Way { local, remote: source };
        let (mut kept, mut owner, mut start) = (0, None, 0);
        while start < meta.len {
            let end = (start + stride).min(meta.len);
            let datagram = buf.get(start..end).unwrap_or_default();
            match demux::classify(datagram, relay.is_some()) {
                Kind::Quic => match table.whose(source, datagram).map(|id| table.face(id)) {
                    Some(id) if owner.is_none_or(|o| o == id) => {
                        owner = Some(id);
                        buf.copy_within(start..end, kept);
                        kept += end - start;
                    }
                    Some(id) => self.spill(id, datagram.to_vec()),
                    None => self.drop_one(),
                },
                Kind::Stun if relay.is_none() || !demux::is_request(datagram) => {
                    self.stun_in(table, relay, way, datagram);
                }
                Kind::Channel => self.relay_in(table, relay, datagram),
                Kind::Stun | Kind::Other => self.drop_one(),
            }
            start = end;
        }
        meta.len = kept;
        if let Some(id) = owner {
            meta.addr = id.address();
            meta.dst_ip = None;
        }
    }

    fn stun_in(&self, table: &Table, relay: Option<&Arc<Relay>>, way: Way, datagram: &[u8]) {
        if datagram.len() > MAX_STUN {
            return self.drop_one();
        }
        let whom = match demux::is_request(datagram) {
            true => demux::ufrag(datagram).and_then(|ufrag| table.user(ufrag)),
            false => demux::transaction(datagram).and_then(|t| table.asker(&t)),
        };
        match (whom, relay) {
            // A reader that does not keep up loses some; they are repeated.
            (Some(whom), _) => drop(whom.try_send(Stun { way, bytes: datagram.to_vec() })),
            (None, Some(_)) => self.relay_in(table, relay, datagram),
            (None, None) => self.drop_one(),
        }
    }

    /// Something of a TURN server: if it is a peer's datagram, sorts that.
    fn relay_in(&self, table: &Table, relay: Option<&Arc<Relay>>, datagram: &[u8]) {
        let Some(relay) = relay else { return self.drop_one() };
        if let Some((peer, inner)) = relay.unwrap(datagram) {
            self.relayed_in(table, relay, peer, &inner);
        }
    }

    fn relayed_in(&self, table: &Table, relay: &Relay, peer: SocketAddr, datagram: &[u8]) {
        match (demux::classify(datagram, false), relay.relayed()) {
            (Kind::Quic, _) => match table.whose(peer, datagram) {
                Some(id) => self.spill(table.face(id), datagram.to_vec()),
                None => self.drop_one(),
            },
            (Kind::Stun, Some(local)) => {
                self.stun_in(table, None, Way { local, remote: peer }, datagram);
            }
            _ => self.drop_one(),
        }
    }

    /// A peer's datagram that a relay's task found in something else than a channel.
    pub(super) fn inject(&self, relay: &Relay, peer: SocketAddr, datagram: &[u8]) {
        self.relayed_in(&self.routes.read(), relay, peer, datagram);
        self.wake_reader();
    }

    fn spill(&self, id: Id, datagram: Vec<u8>) {
        let mut spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        if spill.len() < SPILL {
            spill.push_back((id, datagram));
        }
    }

    /// Hands out what was spilt.
    fn unspill(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        let mut filled = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((id, datagram)) = spill.pop_front() else { break };
            let len = datagram.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..len), datagram.get(..len)) {
                to.copy_from_slice(from);
            }
            *meta = RecvMeta { addr: id.address(), len, stride: len, ecn: None, dst_ip: None };
            filled += 1;
        }
        filled
    }

    fn drop_one(&self) {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// One reception from one socket. Ready: something came, perhaps nothing for quinn.
    fn receive(
        &self,
        socket: &Socket,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        let received = std::task::ready!(socket.io.poll_recv(cx, bufs, meta)).unwrap_or(0);
        let table = self.routes.read();
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(received) {
            self.sort(&table, socket.port, meta, buf);
        }
        let used = meta.iter().take(received).any(|m| m.len > 0);
        Poll::Ready(if used { received } else { 0 })
    }
}

impl AsyncUdpSocket for Mux {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller::new(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(face) = Id::of(transmit.destination) else { return Ok(()) };
        self.routes.learn(face, transmit.contents);
        let table = self.routes.read();
        let Some(id) = table.sender(face, transmit.contents) else { return Ok(()) };
        match table.route(id) {
            Some(Route::Direct(way)) => {
                let (local, socket) = (way.local.ip(), self.socket_of(*way));
                let transmit = Transmit {
                    destination: way.remote,
                    src_ip: (!local.is_unspecified()).then_some(local),
                    ..transmit.clone()
                };
                self.send_on(socket.as_deref(), &transmit)
            }
            Some(Route::Relayed(relay, peer)) => {
                let (relay, peer) = (Arc::clone(relay), *peer);
                drop(table);
                self.relay_out(id, (&relay, peer), transmit)
            }
            None => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        let own = self.own();
        for _ in 0..ROUNDS {
            let spilt = self.unspill(bufs, meta);
            if spilt > 0 {
                return Poll::Ready(Ok(spilt));
            }
            // In turns, so that one busy socket does not silence the others.
            let all = 2 + own.len();
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % all;
            let mut any = false;
            for n in 0..all {
                let socket = match (first + n) % all {
                    0 => self.v4.as_ref(),
                    1 => self.v6.as_ref(),
                    n => own.get(n - 2).map(|(_, socket)| socket),
                };
                let Some(socket) = socket else { continue };
                match self.receive(socket, cx, bufs, meta) {
                    Poll::Ready(0) => any = true,
                    Poll::Ready(filled) => return Poll::Ready(Ok(filled)),
                    Poll::Pending => {}
                }
            }
            if !any {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(Id(0).address())
    }

    fn max_transmit_segments(&self) -> usize {
        self.sockets().map(|s| s.io.max_transmit_segments()).min().unwrap_or(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.sockets().map(|s| s.io.max_receive_segments()).max().unwrap_or(1)
    }

    fn may_fragment(&self) -> bool {
        self.sockets().any(|s| s.io.may_fragment())
    }
}
