//! One TCP connection: smoltcp's state machine with an interface of its own.
//!
//! An interface per connection keeps what each packet costs independent of how many connections there
//! are, and lets each have the MTU of its path.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::sent::Sent;
use crate::packet::RST;
use crate::time::Time;
use crate::topology::HostId;

/// How long a SYN is repeated: Linux' six retries.
const CONNECT: Duration = Duration::from_secs(127);

/// How long data or a FIN may stay unacknowledged by somebody who is silent: Linux' fifteen retries.
const UNACKNOWLEDGED: Duration = Duration::from_secs(924);

/// The same where nobody holds the connection any more: Linux' `tcp_fin_timeout`.
const ABANDONED: Duration = Duration::from_secs(60);

/// The least MTU that is believed (RFC 791), so that a segment has room.
const LEAST_MTU: u32 = 68;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// On its way to this listener's queue.
    Arriving(SocketAddr),
    /// Somebody connects or has it.
    Held,
    /// Nobody's; it closes by itself.
    Abandoned,
}

pub(super) struct Conn {
    pub(super) host: HostId,
    pub(super) here: SocketAddr,
    pub(super) there: SocketAddr,
    pub(super) role: Role,
    /// When it has something to do by itself.
    pub(super) deadline: Option<Time>,
    secret: u64,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    sent: Sent,
    was_reset: bool,
    error: Option<io::ErrorKind>,
    /// What a router said since then, which counts if nothing else comes (RFC 5461 section 4.2).
    hint: Option<io::ErrorKind>,
    /// When the last packet came.
    heard: Time,
    /// Since when it waits for an answer.
    waits: Option<Time>,
}

/// What a new connection is given.
pub(super) struct Opening {
    pub(super) host: HostId,
    pub(super) here: SocketAddr,
    pub(super) there: SocketAddr,
    pub(super) role: Role,
    pub(super) mtu: u32,
    /// Where its sequence numbers start.
    pub(super) secret: u64,
    /// Bytes of each direction's buffer.
    pub(super) buffer: usize,
}

impl Conn {
    pub(super) fn new(now: Time, opening: &Opening) -> io::Result<Self> {
        let Opening { host, here, there, role, mtu, secret, buffer } = *opening;
        let mut wire = Wire::new(mtu);
        let mut interface = interface(now, here.ip(), secret, &mut wire);
        let buffer = || SocketBuffer::new(vec![0; buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        // As transport::net's own sockets, which set TCP_NODELAY.
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Reno);
        let invalid =
            |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, e.to_string());
        if role == Role::Held {
            let context = interface.context();
            socket.connect(context, there, here).map_err(|e| invalid(&e))?;
        } else {
            socket.listen(here).map_err(|e| invalid(&e))?;
        }
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Ok(Self {
            host,
            here,
            there,
            role,
            deadline: None,
            secret,
            interface,
            sockets,
            handle,
            wire,
            sent: Sent::default(),
            was_reset: false,
            error: None,
            hint: None,
            heard: now,
            waits: None,
        })
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.handle).state()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state() == State::Closed
    }

    pub(super) fn is_established(&self) -> bool {
        !matches!(self.state(), State::Closed | State::Listen | State::SynSent | State::SynReceived)
    }

    /// Whether it only waits for packets that are late.
    pub(super) fn is_over(&self) -> bool {
        self.state() == State::TimeWait
    }

    /// Whether a SYN that was to open it did not, or was taken back (RFC 9293 section 3.10.7.4).
    pub(super) fn came_to_nothing(&self) -> bool {
        matches!(self.state(), State::Closed | State::Listen)
    }

    /// Why it closed.
    pub(super) fn error(&self) -> io::Error {
        let guess =
            if self.was_reset { io::ErrorKind::ConnectionReset } else { io::ErrorKind::TimedOut };
        self.error.unwrap_or(guess).into()
    }

    /// Whether the other side answered a SYN with a reset.
    pub(super) fn refused(&self) -> bool {
        self.was_reset && self.error.is_none()
    }

    /// A packet for it has come.
    pub(super) fn receive(&mut self, now: Time, flags: u8, packet: Vec<u8>) {
        self.was_reset |= flags & RST != 0;
        self.heard = now;
        self.hint = None;
        self.wire.inbox.push_back(packet);
    }

    /// A router or host says that the other side cannot be reached. Ends it only while it connects.
    pub(super) fn unreachable(&mut self, kind: io::ErrorKind) {
        if self.state() == State::SynSent {
            self.error = Some(kind);
            self.socket().abort();
        } else {
            self.hint = Some(kind);
        }
    }

    /// Packets are at most this large from now on.
    pub(super) fn set_mtu(&mut self, now: Time, mtu: u32) {
        let mtu = usize::try_from(mtu.max(LEAST_MTU)).unwrap_or(usize::MAX);
        if mtu < self.wire.mtu {
            self.wire.mtu = mtu;
            self.interface = interface(now, self.here.ip(), self.secret, &mut self.wire);
        }
    }

    /// Its holder is gone. False when there is nothing left to say.
    pub(super) fn abandon(&mut self) -> bool {
        self.role = Role::Abandoned;
        self.waits = None;
        if matches!(self.state(), State::SynSent | State::Closed) {
            // A closed one has a reset to send if this side closed it, which it did when it was polled.
            return false;
        }
        let socket = self.socket();
        if socket.recv_queue() > 0 {
            // RFC 1122 section 4.2.2.13: data that nobody will read is not acknowledged by a FIN.
            socket.abort();
        } else {
            socket.close();
        }
        true
    }

    /// Lets it act; gives what it sends.
    pub(super) fn poll(&mut self, now: Time) -> VecDeque<Vec<u8>> {
        self.deadline = None;
        if self.error.is_some() {
            return VecDeque::new();
        }
        let at = instant(now);
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        if self.role == Role::Abandoned && self.socket().recv_queue() > 0 {
            // RFC 1122 section 4.2.2.13: the other side learns that nobody reads any more.
            self.socket().abort();
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
        }
        let patience = self.patience();
        let waits = patience.map(|_| *self.waits.get_or_insert(now));
        self.waits = waits;
        let until = patience.zip(waits).map(|(limit, since)| since.max(self.heard) + limit);
        if until.is_some_and(|until| until <= now) {
            self.error = Some(self.hint.unwrap_or(io::ErrorKind::TimedOut));
            self.socket().abort();
            return VecDeque::new();
        }
        let next = self.interface.poll_at(at, &self.sockets);
        // What is due at once was done; smoltcp counts in microseconds.
        let next = next.map(|next| {
            let micros = u64::try_from(next.total_micros()).unwrap_or(0);
            Time::from_nanos(micros.saturating_mul(1000)).max(now.plus_nanos(1000))
        });
        self.deadline = [next, until].into_iter().flatten().min();
        let mut out = std::mem::take(&mut self.wire.outbox);
        for packet in &mut out {
            self.sent.pass(packet);
        }
        out
    }

    /// How long the other side may be silent now; None when it owes nothing. smoltcp's own timeout
    /// would also count the silence before there was anything to answer.
    fn patience(&self) -> Option<Duration> {
        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        match socket.state() {
            State::Closed | State::Listen | State::TimeWait => None,
            State::SynSent | State::SynReceived => Some(CONNECT),
            _ if self.role == Role::Abandoned => Some(ABANDONED),
            State::FinWait1 | State::Closing | State::LastAck => Some(UNACKNOWLEDGED),
            _ => (socket.send_queue() > 0).then_some(UNACKNOWLEDGED),
        }
    }
}

fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

fn interface(now: Time, here: IpAddr, secret: u64, wire: &mut Wire) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = secret;
    let mut interface = Interface::new(config, wire, instant(now));
    let bits = if here.is_ipv4() { 32 } else { 128 };
    // One address and one route fit into tables of any size.
    interface.update_ip_addrs(|all| {
        let _ = all.push(IpCidr::new(here.into(), bits));
    });
    let _ = match here {
        IpAddr::V4(a) => interface.routes_mut().add_default_ipv4_route(a).map(drop),
        IpAddr::V6(a) => interface.routes_mut().add_default_ipv6_route(a).map(drop),
    };
    interface
}

/// Where smoltcp leaves and finds packets.
struct Wire {
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Wire {
    fn new(mtu: u32) -> Self {
        let mtu = usize::try_from(mtu.max(LEAST_MTU)).unwrap_or(usize::MAX);
        Self { inbox: VecDeque::new(), outbox: VecDeque::new(), mtu }
    }
}

impl Device for Wire {
    type RxToken<'a> = Taken;
    type TxToken<'a> = Outbox<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Taken, Outbox<'_>)> {
        let packet = self.inbox.pop_front()?;
        Some((Taken(packet), Outbox(&mut self.outbox)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outbox<'_>> {
        Some(Outbox(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Whoever hands packets in has looked at their checksums.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Taken(Vec<u8>);

impl RxToken for Taken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Outbox<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outbox<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
