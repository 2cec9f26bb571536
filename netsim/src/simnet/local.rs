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
use crate::packet::{View, ecn};
use crate::prefix::pack;
use crate::time::Time;
use crate::topology::{HostId, Iface};

/// What a host's sockets are like. The default is Linux'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Bytes of each TCP connection in each direction, between 4 KiB and 16 MiB. Default: 256 KiB, what
    /// 200 ms take at 10 Mbit/s.
    pub tcp_buffer: usize,
    /// Bytes that may wait in a UDP socket, 64 more counted for each datagram; what comes when they are
    /// full is lost. Default: `rmem_default`, 212,992.
    pub udp_buffer: usize,
    /// Connections of a listener that shake hands or wait to be accepted; a SYN beyond is dropped.
    /// Default: `somaxconn`, 4,096.
    pub backlog: usize,
    /// Whether routers may cut IPv4 datagrams up, as on systems that cannot forbid it, and the host
    /// itself does. Otherwise one that is larger than the link is refused, as in IPv6. Default: no.
    pub udp_fragments: bool,
    /// The first and the last of the ports that are handed out. Default: `ip_local_port_range`, 32,768
    /// to 60,999.
    pub ports: (u16, u16),
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            tcp_buffer: 256 * 1024,
            udp_buffer: 212_992,
            backlog: 4096,
            udp_fragments: false,
            ports: (32_768, 60_999),
        }
    }
}

impl SocketOptions {
    pub(super) fn tcp_buffer(&self) -> usize {
        self.tcp_buffer.clamp(4 << 10, 16 << 20)
    }
}

/// Whether a SYN finds a listener.
pub(super) enum Admission {
    /// This one.
    Welcome(SocketAddr),
    Full,
    Nobody,
}

/// A port and an address bound there: by port first, so that all of a port are found together.
type Bound = (u16, IpAddr);

fn bound(addr: SocketAddr) -> Bound {
    (addr.port(), addr.ip())
}

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
    pub(super) options: SocketOptions,
    udp: BTreeMap<Bound, UdpQueue>,
    listeners: BTreeMap<Bound, Backlog>,
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
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let dice = |purpose: &str| Dice::new(seed, &format!("host:{name}/{purpose}"));
        Self {
            name: name.to_owned(),
            options: SocketOptions::default(),
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
    pub(super) fn admit(&mut self, here: SocketAddr) -> Admission {
        for at in closest_listener(here) {
            match self.listeners.get_mut(&bound(at)) {
                Some(backlog) if backlog.waiting < self.options.backlog => {
                    backlog.waiting += 1;
                    return Admission::Welcome(at);
                }
                Some(_) => return Admission::Full,
                None => {}
            }
        }
        Admission::Nobody
    }

    pub(super) fn listener(&mut self, at: SocketAddr) -> Option<&mut Backlog> {
        self.listeners.get_mut(&bound(at))
    }

    pub(super) fn unlisten(&mut self, at: SocketAddr) -> Option<Backlog> {
        self.listeners.remove(&bound(at))
    }

    pub(super) fn udp(&mut self, at: SocketAddr) -> Option<&mut UdpQueue> {
        self.udp.get_mut(&bound(at))
    }

    pub(super) fn unbind_udp(&mut self, at: SocketAddr) {
        self.udp.remove(&bound(at));
    }

    /// A connection is ready to be accepted. False when nobody listens any more.
    pub(super) fn arrived(&mut self, listener: SocketAddr, id: ConnId) -> bool {
        let Some(backlog) = self.listener(listener) else { return false };
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
        let taker = closest(here).into_iter().map(bound).find(|at| self.udp.contains_key(at));
        let Some(queue) = taker.and_then(|at| self.udp.get_mut(&at)) else { return false };
        // Its own length may leave bytes of the packet over (RFC 768).
        let length = packet.get(view.ip.transport + 4..view.ip.transport + 6);
        let length = length.map_or(8, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        let end = view.ip.end.min(view.ip.transport + length);
        let payload = packet.get(view.ip.transport + 8..end).unwrap_or_default();
        queue.push(
            SocketAddr::new(view.ip.source, source),
            view.ip.destination,
            ecn(packet),
            payload,
        );
        true
    }

    /// Binds a UDP socket; port 0 chooses a free one.
    pub(super) fn bind_udp(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let at = self.port_for(addr, |local, a| clashes(&local.udp, a))?;
        self.udp.insert(bound(at), UdpQueue::new(self.options.udp_buffer));
        Ok(at)
    }

    /// Listens; port 0 chooses a free one.
    pub(super) fn listen(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let at = self.port_for(addr, |local, a| clashes(&local.listeners, a))?;
        self.listeners.insert(bound(at), Backlog::default());
        Ok(at)
    }

    /// A free port for a connection from `ip`.
    pub(super) fn port_from(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        let least = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let port = self.port_for(SocketAddr::new(ip, 0), |local, a| {
            let first = local.flows.range((a, least)..).next();
            first.is_some_and(|((here, _), _)| *here == a) || clashes(&local.listeners, a)
        });
        port.map_err(|_| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The address itself, or with a free port if it names none. `taken` says which are not.
    fn port_for(
        &mut self,
        addr: SocketAddr,
        taken: impl Fn(&Self, SocketAddr) -> bool,
    ) -> io::Result<SocketAddr> {
        if addr.port() != 0 {
            let used = taken(self, addr);
            return if used { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(addr) };
        }
        let (low, high) = self.options.ports;
        let (low, high) = (u32::from(low.max(1)), u32::from(high));
        let start = low + self.ports.below((high + 1).saturating_sub(low).max(1));
        let ports = (start..=high).chain(low..start).filter_map(|port| u16::try_from(port).ok());
        let mut all = ports.map(|port| SocketAddr::new(addr.ip(), port));
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
fn closest(here: SocketAddr) -> [SocketAddr; 2] {
    [here, SocketAddr::new(unspecified(here.ip()), here.port())]
}

/// The same for listeners: one on `[::]` takes IPv4, too, as Linux' do.
fn closest_listener(here: SocketAddr) -> [SocketAddr; 3] {
    let [exact, any] = closest(here);
    [exact, any, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), here.port())]
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether an address cannot be bound besides those that are.
fn clashes<T>(all: &BTreeMap<Bound, T>, addr: SocketAddr) -> bool {
    let (least, most) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into());
    all.range((addr.port(), least)..=(addr.port(), most)).any(|((_, ip), _)| {
        let any = ip.is_unspecified() || addr.ip().is_unspecified();
        ip.is_ipv4() == addr.is_ipv4() && (any || *ip == addr.ip())
    })
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

    /// The source that a host would choose towards `to`, and its link's MTU: of the interfaces whose
    /// link is not down through the one in whose network `to` is, else through the first one.
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
        let on_link = |iface: &Iface| {
            let net = self.nets.get(iface.net.index());
            net.is_some_and(|n| {
                n.by_address.contains_key(&pack(to)) || n.subnets.iter().any(|p| p.contains(to))
            })
        };
        let is_up = |iface: &Iface| iface.up.link.state() != LinkState::Down;
        let (iface, source) = ways()
            .find(|(iface, _)| is_up(iface) && on_link(iface))
            .or_else(|| ways().find(|(iface, _)| is_up(iface)))
            .or_else(|| ways().next())?;
        Some((source, iface.up.link.config().mtu))
    }
}
