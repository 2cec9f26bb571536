//! Who is connected to what. [`Builder`] checks it and makes an [`Engine`].
//!
//! A network is a LAN segment, an operator's access network, or the Internet's core; hosts and routers
//! have interfaces in networks, each with a link up and a link down. A network forwards by destination:
//! to the interface that has the address, else by longest prefix, else to its gateway. The core takes
//! one off the TTL; a segment, being a wire, takes none.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dice::Dice;
use crate::engine::Engine;
use crate::error::ConfigError;
use crate::hash::Table;
use crate::link::{Link, LinkConfig};
use crate::prefix::{Prefix, pack};
use crate::router::{Router, RouterConfig};
use crate::time::Time;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            pub(crate) fn index(self) -> usize {
                usize::try_from(self.0).unwrap_or(usize::MAX)
            }

            fn next<T>(list: &[T]) -> Self {
                Self(u32::try_from(list.len()).unwrap_or(u32::MAX))
            }
        }
    )*};
}

ids! {
    /// A host.
    HostId
    /// A router.
    RouterId
    /// A network.
    NetId
    /// An interface of a host or router in a network.
    IfaceId
}

/// Both directions of an interface's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// From the interface into the network.
    pub up: LinkConfig,
    /// From the network to the interface.
    pub down: LinkConfig,
}

impl Wire {
    /// The same in both directions.
    #[must_use]
    pub fn both(config: LinkConfig) -> Self {
        Self { up: config, down: config }
    }
}

/// A router's place in a network.
#[derive(Clone, Debug)]
pub struct Uplink<'a> {
    /// The network.
    pub net: NetId,
    /// The router's addresses there.
    pub addresses: &'a [IpAddr],
    /// Prefixes that the network sends to the router, such as a delegated IPv6 prefix.
    pub routed: &'a [Prefix],
    /// The link.
    pub wire: Wire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Host(HostId),
    Router(RouterId),
}

/// One direction of an interface's link with what it carried.
pub(crate) struct Lane {
    pub(crate) link: Link,
    /// Rises when the link goes down: what was on it then is lost.
    pub(crate) epoch: u32,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// What is on it, in order of arrival: time, place among the events of that time, epoch, packet.
    /// Reordered packets are not here but in the engine's queue.
    pub(crate) flying: VecDeque<(Time, u64, u32, Vec<u8>)>,
}

pub(crate) struct Iface {
    pub(crate) owner: Owner,
    pub(crate) net: NetId,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) up: Lane,
    pub(crate) down: Lane,
    /// Which part of a partitioned network it is in.
    pub(crate) part: usize,
}

pub(crate) struct Net {
    pub(crate) name: String,
    pub(crate) core: bool,
    pub(crate) subnets: Vec<Prefix>,
    pub(crate) by_address: Table<IfaceId>,
    /// Longest first.
    pub(crate) by_prefix: Vec<(Prefix, IfaceId)>,
    pub(crate) gateway: Option<IfaceId>,
}

impl Net {
    /// Which interface an address is behind.
    pub(crate) fn route(&self, to: IpAddr) -> Option<IfaceId> {
        let exact = self.by_address.get(&pack(to)).copied();
        let prefix = || self.by_prefix.iter().find(|(p, _)| p.contains(to)).map(|(_, i)| *i);
        // An address of the network's own that nobody has is not the gateway's business.
        let off_link = || self.gateway.filter(|_| !self.subnets.iter().any(|p| p.contains(to)));
        exact.or_else(prefix).or_else(off_link)
    }

    /// Who speaks for the network: the IPv4 dummy address (RFC 7600), and one from a range that
    /// nobody is given.
    pub(crate) fn speaker(to: IpAddr) -> IpAddr {
        match to {
            IpAddr::V4(_) => Ipv4Addr::new(192, 0, 0, 8).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1).into(),
        }
    }
}

pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) ifaces: Vec<IfaceId>,
}

/// Describes a topology and makes an [`Engine`] of it.
pub struct Builder {
    seed: u64,
    names: BTreeSet<String>,
    nets: Vec<Net>,
    ifaces: Vec<Iface>,
    hosts: Vec<Host>,
    routers: Vec<Router>,
}

impl Builder {
    /// An empty world. Everything random in it comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            names: BTreeSet::new(),
            nets: Vec::new(),
            ifaces: Vec::new(),
            hosts: Vec::new(),
            routers: Vec::new(),
        }
    }

    /// The Internet's core, or another routed backbone.
    ///
    /// # Errors
    /// [`ConfigError::NameTaken`].
    pub fn core(&mut self, name: &str) -> Result<NetId, ConfigError> {
        self.net(name, true, &[])
    }

    /// A LAN segment or access network with its subnets.
    ///
    /// # Errors
    /// [`ConfigError::NameTaken`].
    pub fn segment(&mut self, name: &str, subnets: &[Prefix]) -> Result<NetId, ConfigError> {
        self.net(name, false, subnets)
    }

    fn net(&mut self, name: &str, core: bool, subnets: &[Prefix]) -> Result<NetId, ConfigError> {
        self.name(name)?;
        let id = NetId::next(&self.nets);
        self.nets.push(Net {
            name: name.to_owned(),
            core,
            subnets: subnets.to_vec(),
            by_address: Table::default(),
            by_prefix: Vec::new(),
            gateway: None,
        });
        Ok(id)
    }

    fn name(&mut self, name: &str) -> Result<(), ConfigError> {
        if self.names.insert(name.to_owned()) {
            Ok(())
        } else {
            Err(ConfigError::NameTaken(name.to_owned()))
        }
    }

    /// A host without an interface yet.
    ///
    /// # Errors
    /// [`ConfigError::NameTaken`].
    pub fn host(&mut self, name: &str) -> Result<HostId, ConfigError> {
        self.name(name)?;
        let id = HostId::next(&self.hosts);
        self.hosts.push(Host { name: name.to_owned(), ifaces: Vec::new() });
        Ok(id)
    }

    /// Gives a host an interface in a network. It sends through the one that has the packet's source.
    ///
    /// # Errors
    /// [`ConfigError`]: unknown handle, no address, address taken, impossible link.
    pub fn attach(
        &mut self,
        host: HostId,
        net: NetId,
        addresses: &[IpAddr],
        wire: Wire,
    ) -> Result<IfaceId, ConfigError> {
        let known = self.hosts.get(host.index()).ok_or(ConfigError::Unknown("this host"))?;
        let label = format!("{}.{}", known.name, known.ifaces.len());
        let id = self.iface(Owner::Host(host), &label, net, addresses, wire)?;
        if let Some(host) = self.hosts.get_mut(host.index()) {
            host.ifaces.push(id);
        }
        Ok(id)
    }

    /// A router with its uplink.
    ///
    /// # Errors
    /// [`ConfigError`]: name or address taken, unknown network, or a configuration that cannot be.
    pub fn router(
        &mut self,
        name: &str,
        config: RouterConfig,
        uplink: &Uplink<'_>,
    ) -> Result<RouterId, ConfigError> {
        // Made before anything is touched, so that a refusal leaves no half of it.
        let outside = IfaceId::next(&self.ifaces);
        let made = Router::new(self.seed, name, config, (outside, uplink.addresses))?;
        if self.names.contains(name) {
            return Err(ConfigError::NameTaken(name.to_owned()));
        }
        let id = RouterId::next(&self.routers);
        let label = format!("{name}.up");
        self.iface(Owner::Router(id), &label, uplink.net, uplink.addresses, uplink.wire)?;
        self.name(name)?;
        if let Some(net) = self.nets.get_mut(uplink.net.index()) {
            net.by_prefix.extend(uplink.routed.iter().map(|p| (*p, outside)));
            net.by_prefix.sort_by_key(|(p, _)| std::cmp::Reverse(p.length()));
        }
        self.routers.push(made);
        Ok(id)
    }

    /// The interface of a router's uplink; None for a handle of another builder.
    #[must_use]
    pub fn uplink(&self, router: RouterId) -> Option<IfaceId> {
        self.routers.get(router.index()).map(Router::outside)
    }

    /// Puts a router in front of a network, as its gateway. `beyond` are prefixes reached through
    /// further routers in that network.
    ///
    /// # Errors
    /// [`ConfigError`]: unknown handle, network without subnets or with another gateway, address
    /// taken.
    pub fn inside(
        &mut self,
        router: RouterId,
        net: NetId,
        addresses: &[IpAddr],
        beyond: &[Prefix],
        wire: Wire,
    ) -> Result<IfaceId, ConfigError> {
        let known = self.routers.get(router.index()).ok_or(ConfigError::Unknown("this router"))?;
        let (name, outside) = (known.name.clone(), known.outside());
        let there = self.nets.get(net.index()).ok_or(ConfigError::Unknown("this network"))?;
        if there.subnets.is_empty() {
            return Err(ConfigError::NoSubnet(there.name.clone()));
        }
        if there.gateway.is_some() {
            return Err(ConfigError::TwoGateways(there.name.clone()));
        }
        if self.ifaces.get(outside.index()).is_some_and(|i| i.net == net) {
            return Err(ConfigError::SameNetwork(name));
        }
        let label = format!("{name}.{}", there.name);
        let prefixes: Vec<Prefix> = there.subnets.iter().chain(beyond).copied().collect();
        let id = self.iface(Owner::Router(router), &label, net, addresses, wire)?;
        if let Some(net) = self.nets.get_mut(net.index()) {
            net.gateway = Some(id);
        }
        if let Some(router) = self.routers.get_mut(router.index()) {
            router.add_inside(id, &prefixes, addresses);
        }
        Ok(id)
    }

    fn iface(
        &mut self,
        owner: Owner,
        label: &str,
        net: NetId,
        addresses: &[IpAddr],
        wire: Wire,
    ) -> Result<IfaceId, ConfigError> {
        if addresses.is_empty() {
            return Err(ConfigError::NoAddress(label.to_owned()));
        }
        let lane = |config, way| {
            let dice = Dice::new(self.seed, &format!("link:{label}/{way}"));
            Ok(Lane {
                link: Link::new(config, dice)?,
                epoch: 0,
                packets: 0,
                bytes: 0,
                flying: VecDeque::new(),
            })
        };
        let (up, down) = (lane(wire.up, "up")?, lane(wire.down, "down")?);
        let id = IfaceId::next(&self.ifaces);
        let there = self.nets.get_mut(net.index()).ok_or(ConfigError::Unknown("this network"))?;
        there.take(addresses, id)?;
        self.ifaces.push(Iface { owner, net, addresses: addresses.to_vec(), up, down, part: 0 });
        Ok(id)
    }

    /// The seed it was made with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The world, at time zero.
    #[must_use]
    pub fn build(self) -> Engine {
        Engine::new(self.nets, self.ifaces, self.hosts, self.routers)
    }
}

impl Net {
    /// Enters addresses of an interface; all or none.
    pub(crate) fn take(&mut self, addresses: &[IpAddr], id: IfaceId) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for address in addresses {
            let taken = self.by_address.get(&pack(*address)).is_some_and(|owner| *owner != id);
            if taken || !seen.insert(address) {
                let network = self.name.clone();
                return Err(ConfigError::AddressTaken { address: *address, network });
            }
        }
        self.by_address.extend(addresses.iter().map(|a| (pack(*a), id)));
        Ok(())
    }
}
