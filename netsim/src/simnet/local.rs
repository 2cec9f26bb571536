//! What one host has: sockets, listeners, ports, what it knows of paths, randomness.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use super::reassembly::Reassembly;
use super::udp::UdpQueue;
use super::world::ConnId;
use crate::dice::Dice;
use crate::engine::Engine;
use crate::link::LinkState;
use crate::packet::View;
use crate::prefix::pack;
use crate::time::Time;
use crate::topology::HostId;

/// Ports that are handed out: Linux' `ip_local_port_range`.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Connections that may wait to be accepted, like Linux' `somaxconn`; a SYN beyond is refused.
const BACKLOG: usize = 4096;

/// How long a path's MTU is believed (RFC 1191 section 6.3), and how many are kept.
const MTU_LIFETIME: Duration = Duration::from_secs(600);
const MTU_ENTRIES: usize = 4096;

#[derive(Default)]
pub(super) struct Backlog {
    /// Connections that shake hands or wait to be accepted.
    pub(super) waiting: usize,
    pub(super) ready: VecDeque<ConnId>,
    pub(super) waker: Option<Waker>,
}

pub(super) struct Local {
    pub(super) name: String,
    pub(super) udp: BTreeMap<SocketAddr, UdpQueue>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    /// Connections by their ends: here, there.
    pub(super) flows: BTreeMap<(SocketAddr, SocketAddr), ConnId>,
    pub(super) fragments: Reassembly,
    /// How far its wall clock is ahead of virtual time, in milliseconds.
    pub(super) skew_ms: i64,
    pub(super) dice: Dice,
    path_mtu: BTreeMap<IpAddr, (u32, Time)>,
    ports: Dice,
    secrets: Dice,
    next_packet_id: u16,
}

impl Local {
    pub(super) fn new(seed: u64, _: HostId, name: &str) -> Self {
        let dice = |purpose: &str| Dice::new(seed, &format!("host:{name}/{purpose}"));
        Self {
            name: name.to_owned(),
            udp: BTreeMap::new(),
            listeners: BTreeMap::new(),
            flows: BTreeMap::new(),
            fragments: Reassembly::default(),
            skew_ms: 0,
            dice: dice("random"),
            path_mtu: BTreeMap::new(),
            ports: dice("ports"),
            secrets: dice("tcp"),
            next_packet_id: 0,
        }
    }

    /// Where a connection's sequence numbers start.
    pub(super) fn secret(&mut self) -> u64 {
        self.secrets.up_to(u64::MAX)
    }

    /// An identification for a packet that may be fragmented.
    pub(super) fn packet_id(&mut self) -> u16 {
        self.next_packet_id = self.next_packet_id.wrapping_add(1);
        self.next_packet_id
    }

    /// The listener that a SYN to `here` belongs to, with one more waiting there.
    pub(super) fn admit(&mut self, here: SocketAddr) -> Option<SocketAddr> {
        let key = wildcards(here).into_iter().find(|key| self.listeners.contains_key(key))?;
        let backlog = self.listeners.get_mut(&key).filter(|b| b.waiting < BACKLOG)?;
        backlog.waiting += 1;
        Some(key)
    }

    /// A connection is ready to be accepted. False when nobody listens any more.
    pub(super) fn arrived(&mut self, listener: SocketAddr, id: ConnId) -> bool {
        let Some(backlog) = self.listeners.get_mut(&listener) else { return false };
        backlog.ready.push_back(id);
        if let Some(waker) = backlog.waker.take() {
            waker.wake();
        }
        true
    }

    /// Gives a datagram to its socket. False when there is none.
    pub(super) fn udp_in(&mut self, view: &View, packet: &[u8]) -> bool {
        let (source, destination) = view.ports();
        let here = SocketAddr::new(view.ip.destination, destination);
        let Some(key) = wildcards(here).into_iter().find(|key| self.udp.contains_key(key)) else {
            return false;
        };
        if let Some(queue) = self.udp.get_mut(&key) {
            let payload = packet.get(view.ip.transport + 8..view.ip.end).unwrap_or_default();
            queue.push(SocketAddr::new(view.ip.source, source), payload);
        }
        true
    }

    /// A UDP or TCP address to bind to, with a free port if none is named. `taken` says which are not.
    pub(super) fn port_for(
        &mut self,
        ip: IpAddr,
        port: u16,
        taken: impl Fn(&Self, SocketAddr) -> bool,
    ) -> io::Result<SocketAddr> {
        if port != 0 {
            let wanted = SocketAddr::new(ip, port);
            return if taken(self, wanted) {
                Err(io::ErrorKind::AddrInUse.into())
            } else {
                Ok(wanted)
            };
        }
        let (low, high) = EPHEMERAL;
        let count = high - low + 1;
        let start = u16::try_from(self.ports.below(u32::from(count))).unwrap_or(0);
        let mut all = (start..count).chain(0..start).map(|n| SocketAddr::new(ip, low + n));
        all.find(|a| !taken(self, *a)).ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    /// Notes what a router said of the way to `to`; gives what is now believed.
    pub(super) fn learn_mtu(&mut self, now: Time, to: IpAddr, mtu: u32) -> u32 {
        // Less than every IP link takes is a lie.
        let mtu = mtu.max(if to.is_ipv4() { 68 } else { 1280 });
        let mtu = self.path_mtu(now, to).map_or(mtu, |old| old.min(mtu));
        if self.path_mtu.len() >= MTU_ENTRIES && !self.path_mtu.contains_key(&to) {
            self.path_mtu.pop_first();
        }
        self.path_mtu.insert(to, (mtu, now + MTU_LIFETIME));
        mtu
    }

    pub(super) fn path_mtu(&self, now: Time, to: IpAddr) -> Option<u32> {
        self.path_mtu.get(&to).filter(|(_, until)| now < *until).map(|(mtu, _)| *mtu)
    }
}

/// The addresses under which something bound can stand for `here`, the closest first.
fn wildcards(here: SocketAddr) -> [SocketAddr; 2] {
    [here, SocketAddr::new(unspecified(here.ip()), here.port())]
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether two addresses cannot both be bound.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && same
}

impl Engine {
    /// A host's addresses, interface by interface.
    pub fn addresses(&self, host: HostId) -> impl Iterator<Item = IpAddr> + '_ {
        let ifaces = self.hosts.get(host.index()).map(|h| h.ifaces.as_slice()).unwrap_or_default();
        ifaces
            .iter()
            .filter_map(|i| self.ifaces.get(i.index()))
            .flat_map(|i| i.addresses.iter().copied())
    }

    /// The source that a host would choose towards `to`, and its link's MTU: through the interface in
    /// whose network `to` is, else through the first one whose link is not down.
    pub(crate) fn way_to(&self, host: HostId, to: IpAddr) -> Option<(IpAddr, u32)> {
        if to.is_loopback() {
            return Some((to, u32::from(u16::MAX)));
        }
        let ifaces = &self.hosts.get(host.index())?.ifaces;
        let ways = || {
            ifaces.iter().filter_map(|i| self.ifaces.get(i.index())).filter_map(|iface| {
                let source = iface.addresses.iter().find(|a| a.is_ipv4() == to.is_ipv4())?;
                Some((iface, *source))
            })
        };
        let on_link = ways().find(|(iface, _)| {
            let net = self.nets.get(iface.net.index());
            net.is_some_and(|n| {
                n.by_address.contains_key(&pack(to)) || n.subnets.iter().any(|p| p.contains(to))
            })
        });
        let up = || ways().find(|(iface, _)| iface.up.link.state() != LinkState::Down);
        let (iface, source) = on_link.or_else(up).or_else(|| ways().next())?;
        Some((source, iface.up.link.config().mtu))
    }
}
