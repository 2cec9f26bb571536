//! The engine and what its hosts have on top of it: sockets, listeners, connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::conn::{Conn, Opening, Role};
use super::local::{Admission, Local};
use crate::engine::Engine;
use crate::packet::{
    ACK, FIN, IcmpError, Protocol, RST, SYN, Transport, View, echo_reply, header_checksum_ok,
    icmp_error, tcp_reset, transport_checksum_ok,
};
use crate::time::Time;
use crate::topology::HostId;

/// Packets that may have arrived and not be handed out yet.
const ARRIVED: usize = 1024;

/// A TCP connection, in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId(u64);

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) now: Time,
    pub(super) hosts: Vec<Local>,
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    /// Connections that have something to do now, by age: in which order their programs ran does not
    /// matter.
    dirty: BTreeSet<ConnId>,
    timers: BTreeSet<(Time, ConnId)>,
    /// What hosts send to themselves by a loopback address, which no network carries.
    loopback: VecDeque<(HostId, Vec<u8>)>,
}

impl World {
    pub(super) fn new(seed: u64, engine: Engine) -> Self {
        Self {
            hosts: engine.hosts.iter().map(|h| Local::new(seed, &h.name)).collect(),
            engine,
            now: Time::ZERO,
            names: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            loopback: VecDeque::new(),
        }
    }

    pub(super) fn host(&mut self, id: HostId) -> io::Result<&mut Local> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "a host of another simulation");
        self.hosts.get_mut(id.index()).ok_or_else(unknown)
    }

    pub(super) fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(&id)
    }

    /// Does everything that is due now. Says whether a host noticed anything.
    pub(super) fn settle(&mut self) -> bool {
        let mut stirred = false;
        while let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.pop_first();
            self.touch(id);
        }
        loop {
            stirred |= self.deliver();
            let Some(id) = self.dirty.pop_first() else { return stirred };
            self.poll_conn(id);
            stirred = true;
        }
    }

    /// Hands out every packet that has arrived. Says whether there was one.
    fn deliver(&mut self) -> bool {
        let mut any = false;
        loop {
            if let Some(delivery) = self.engine.poll(self.now) {
                self.receive(delivery.host, delivery.packet);
            } else if let Some((host, packet)) = self.loopback.pop_front() {
                self.receive(host, packet);
            } else {
                return any;
            }
            any = true;
        }
    }

    /// A program sends a packet. What arrives at once waits for the next idle moment, but only so
    /// much of it: sockets' buffers are bounded, this queue is not.
    pub(super) fn submit(&mut self, host: HostId, packet: Vec<u8>) {
        self.emit(host, packet);
        if self.engine.arrived() + self.loopback.len() >= ARRIVED {
            self.deliver();
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [self.engine.next_deadline(), timer].into_iter().flatten().min()
    }

    /// A host sends a packet.
    fn emit(&mut self, host: HostId, packet: Vec<u8>) {
        let to = View::parse(&packet).map(|v| v.ip.destination);
        if to.is_ok_and(|to| to.is_loopback()) {
            self.loopback.push_back((host, packet));
        } else {
            self.engine.send(self.now, host, packet);
        }
    }

    fn receive(&mut self, host: HostId, packet: Vec<u8>) {
        let now = self.now;
        let Some(local) = self.hosts.get_mut(host.index()) else { return };
        let Some(packet) = local.fragments.whole(now, packet) else { return };
        let Ok(view) = View::parse(&packet) else { return };
        if !header_checksum_ok(&packet, &view.ip) || !transport_checksum_ok(&packet, &view.ip) {
            return;
        }
        match view.transport {
            Transport::Udp { .. } => {
                let taken = local.udp_in(&view, &packet);
                let unreachable = IcmpError::PortUnreachable;
                if let Some(error) = (!taken)
                    .then(|| icmp_error(view.ip.destination, unreachable, &packet))
                    .flatten()
                {
                    self.emit(host, error);
                }
            }
            Transport::Tcp { flags, .. } => self.tcp_in(host, flags, &view, packet),
            Transport::Query { request: true, .. } => {
                if let Some(reply) = echo_reply(&packet, &view) {
                    self.emit(host, reply);
                }
            }
            Transport::Error => self.error_in(host, &view, &packet),
            _ => {}
        }
    }

    fn tcp_in(&mut self, host: HostId, flags: u8, view: &View, packet: Vec<u8>) {
        let (source, destination) = view.ports();
        let here = SocketAddr::new(view.ip.destination, destination);
        let there = SocketAddr::new(view.ip.source, source);
        let Some(local) = self.hosts.get_mut(host.index()) else { return };
        let known = local.flows.get(&(here, there)).copied();
        let opens = flags & (SYN | ACK | RST | FIN) == SYN;
        // A port may be used again before the other side forgets it (RFC 9293 section 3.6.1).
        let over = |id: &ConnId| opens && self.conns.get(id).is_some_and(Conn::is_over);
        let id = match known.filter(|id| !over(id)) {
            Some(id) => Some(id),
            None if opens => match local.admit(here) {
                Admission::Welcome(listener) => {
                    self.open(host, here, there, Role::Arriving(listener)).ok()
                }
                // Linux drops it, too: the other side tries again.
                Admission::Full => return,
                Admission::Nobody => None,
            },
            None => None,
        };
        let now = self.now;
        match id.and_then(|id| Some((id, self.conns.get_mut(&id)?))) {
            Some((id, conn)) => {
                conn.receive(now, flags, packet);
                self.touch(id);
            }
            None => {
                if let Some(reset) = tcp_reset(&packet, view) {
                    self.emit(host, reset);
                }
            }
        }
    }

    /// Somebody could not pass on or take what this host had sent.
    fn error_in(&mut self, host: HostId, view: &View, packet: &[u8]) {
        let Some((icmp, quote)) =
            packet.get(view.ip.transport..view.ip.end).and_then(|m| m.split_first_chunk::<8>())
        else {
            return;
        };
        let Ok(about) = View::parse_quoted(quote) else { return };
        let (source, destination) = about.ports();
        let here = SocketAddr::new(about.ip.source, source);
        let there = SocketAddr::new(about.ip.destination, destination);
        let v4 = view.ip.protocol == Protocol::Icmp;
        let now = self.now;
        let Some(local) = self.hosts.get_mut(host.index()) else { return };
        let flow = local.flows.get(&(here, there)).copied();
        match (v4, icmp[0], icmp[1]) {
            (true, 3, 4) | (false, 2, _) => {
                let field = [icmp[4], icmp[5], icmp[6], icmp[7]];
                // RFC 1191: in IPv4 only the lower half is the MTU.
                let mtu = u32::from_be_bytes(field) & if v4 { 0xffff } else { u32::MAX };
                let mtu = local.learn_mtu(now, there.ip(), mtu);
                if let Some(id) = flow.filter(|_| about.ip.protocol == Protocol::Tcp) {
                    if let Some(conn) = self.conns.get_mut(&id) {
                        conn.set_mtu(now, mtu);
                    }
                    self.touch(id);
                }
            }
            (true, 3, _) | (false, 1, _) if about.ip.protocol == Protocol::Tcp => {
                let refused = matches!((v4, icmp[1]), (true, 2 | 3) | (false, 4));
                let kind = if refused {
                    io::ErrorKind::ConnectionRefused
                } else {
                    io::ErrorKind::HostUnreachable
                };
                if let Some(conn) = flow.and_then(|id| self.conns.get_mut(&id)) {
                    conn.unreachable(kind);
                }
            }
            _ => {}
        }
    }

    /// A new connection: outgoing, or one whose SYN has just come.
    pub(super) fn open(
        &mut self,
        host: HostId,
        here: SocketAddr,
        there: SocketAddr,
        role: Role,
    ) -> io::Result<ConnId> {
        let (now, mtu) = (self.now, self.mtu(host, there.ip()));
        let local = self.host(host)?;
        let (secret, buffer) = (local.secret(), local.options.tcp_buffer());
        let opening = Opening { host, here, there, role, mtu, secret, buffer };
        let conn = Conn::new(now, &opening)?;
        let id = ConnId(self.next_conn);
        self.host(host)?.flows.insert((here, there), id);
        self.next_conn += 1;
        self.conns.insert(id, conn);
        self.touch(id);
        Ok(id)
    }

    /// The largest packet that the way to `to` takes, as far as the host knows.
    pub(super) fn mtu(&self, host: HostId, to: IpAddr) -> u32 {
        let link = self.engine.way_to(host, to).map_or(u32::from(u16::MAX), |(_, mtu)| mtu);
        let known = self.hosts.get(host.index()).and_then(|h| h.path_mtu(self.now, to));
        known.map_or(link, |known| known.min(link))
    }

    /// A connection is to be looked at.
    pub(super) fn touch(&mut self, id: ConnId) {
        if self.conns.contains_key(&id) {
            self.dirty.insert(id);
        }
    }

    /// Nobody holds a connection any more.
    pub(super) fn release(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            if conn.abandon() {
                self.touch(id);
            } else {
                self.forget(id);
            }
        }
    }

    fn poll_conn(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (host, before) = (conn.host, conn.deadline);
        let packets = conn.poll(now);
        if conn.deadline != before
            && let Some(at) = before
        {
            self.timers.remove(&(at, id));
        }
        if let Some(at) = conn.deadline {
            self.timers.insert((at, id));
        }
        match conn.role {
            Role::Arriving(listener) if conn.came_to_nothing() => {
                self.unadmit(host, listener);
                self.forget(id);
            }
            Role::Arriving(listener) if conn.is_established() => {
                conn.role = Role::Held;
                let local = self.hosts.get_mut(host.index());
                if local.is_none_or(|l| !l.arrived(listener, id)) {
                    self.release(id);
                }
            }
            Role::Abandoned if conn.is_closed() => self.forget(id),
            _ => {}
        }
        for packet in packets {
            self.emit(host, packet);
        }
    }

    fn unadmit(&mut self, host: HostId, listener: SocketAddr) {
        if let Some(backlog) = self.hosts.get_mut(host.index()).and_then(|h| h.listener(listener)) {
            backlog.waiting = backlog.waiting.saturating_sub(1);
        }
    }

    fn forget(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else { return };
        if let Some(at) = conn.deadline {
            self.timers.remove(&(at, id));
        }
        let flow = (conn.here, conn.there);
        if let Some(host) = self.hosts.get_mut(conn.host.index())
            && host.flows.get(&flow) == Some(&id)
        {
            host.flows.remove(&flow);
        }
    }
}
