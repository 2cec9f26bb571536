//! From a scenario to a world: the same for both drivers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Scenario;
use super::flaw::{Flaw, Place, choices, tip};
use super::timeline::Disturbance;
use super::world::INTERNET;
use crate::change::{Change, Direction};
use crate::nat::NatConfig;
use crate::topology::{Builder, HostId, IfaceId, NetId, RouterId, Uplink, Wire};

/// A world that is ready to be built, and its names.
pub struct Plan {
    /// Build it, or give it to a driver.
    pub builder: Builder,
    /// The names that things in the world go by.
    pub map: Map,
}

/// Where the names of a scenario are in its world.
#[derive(Clone, Debug, Default)]
pub struct Map {
    hosts: BTreeMap<String, Machine>,
    routers: BTreeMap<String, RouterId>,
    networks: BTreeMap<String, NetId>,
    links: BTreeMap<String, Link>,
    /// What names stand for, as labels of `links`, the most usual meaning first.
    names: BTreeMap<String, Vec<String>>,
}

/// A host in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// In the engine.
    pub id: HostId,
    /// Its interfaces with their addresses.
    pub interfaces: Vec<(IfaceId, Vec<IpAddr>)>,
    /// Whether it is in the core, so that others find it by name.
    pub public: bool,
}

impl Machine {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces.iter().flat_map(|(_, all)| all.iter().copied())
    }
}

/// A link in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    iface: IfaceId,
    network: NetId,
    wire: Wire,
}

impl Scenario {
    /// The world of this scenario, with this seed.
    ///
    /// # Errors
    /// The first [`Flaw`], with its place.
    pub fn plan(&self, seed: u64) -> Result<Plan, Flaw> {
        let mut builder = Builder::new(seed);
        let mut map = Map::default();
        let nowhere = Place::default();
        let core = builder.core(INTERNET).map_err(|e| nowhere.flaw(e.to_string()))?;
        map.networks.insert(INTERNET.to_owned(), core);
        for network in &self.networks {
            let made = if network.core {
                builder.core(&network.name)
            } else {
                builder.segment(&network.name, &network.subnets)
            };
            let id = made.map_err(|e| network.place.flaw(e.to_string()))?;
            map.networks.insert(network.name.clone(), id);
        }
        for router in &self.routers {
            let at = &router.place;
            let wrong = |e: crate::ConfigError| at.flaw(e.to_string());
            let uplink = Uplink {
                net: map.network(&router.network, at)?,
                addresses: &router.addresses,
                routed: &router.routed,
                wire: router.wire,
            };
            let id = builder.router(&router.name, router.config.clone(), &uplink).map_err(wrong)?;
            map.routers.insert(router.name.clone(), id);
            let up = format!("{}.up", router.name);
            if let Some(iface) = builder.uplink(id) {
                map.links
                    .insert(up.clone(), Link { iface, network: uplink.net, wire: uplink.wire });
            }
            map.call(&router.name, &up);
            if let Some(home) = router.name.strip_suffix(".router") {
                map.call(home, &up);
            }
            for inside in &router.inside {
                let network = map.network(&inside.network, at)?;
                let iface = builder
                    .inside(id, network, &inside.addresses, &inside.beyond, inside.wire)
                    .map_err(wrong)?;
                let label = format!("{}.{}", router.name, inside.network);
                map.links.insert(label.clone(), Link { iface, network, wire: inside.wire });
                map.call(&router.name, &label);
            }
        }
        for host in &self.hosts {
            let wrong = |e: crate::ConfigError| host.place.flaw(e.to_string());
            let id = builder.host(&host.name).map_err(wrong)?;
            let mut machine = Machine { id, interfaces: Vec::new(), public: false };
            for (n, interface) in host.interfaces.iter().enumerate() {
                let network = map.network(&interface.network, &host.place)?;
                let iface = builder
                    .attach(id, network, &interface.addresses, interface.wire)
                    .map_err(wrong)?;
                let label = format!("{}.{n}", host.name);
                map.links.insert(label.clone(), Link { iface, network, wire: interface.wire });
                map.call(&host.name, &label);
                machine.interfaces.push((iface, interface.addresses.clone()));
                machine.public |= network == core;
            }
            map.hosts.insert(host.name.clone(), machine);
        }
        Ok(Plan { builder, map })
    }
}

impl Map {
    fn call(&mut self, name: &str, label: &str) {
        self.names.entry(name.to_owned()).or_default().push(label.to_owned());
    }

    fn network(&self, name: &str, place: &Place) -> Result<NetId, Flaw> {
        self.networks.get(name).copied().ok_or_else(|| {
            let all = || self.networks.keys().map(String::as_str);
            let text = format!("there is no network {name:?}{}", tip(name, all()));
            place.flaw(format!("{text}; networks are {}", choices(all())))
        })
    }

    /// A host by its name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Machine> {
        self.hosts.get(name)
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &Machine)> {
        self.hosts.iter().map(|(name, machine)| (name.as_str(), machine))
    }

    /// The link that a name or label means: of a home the one of its router to the outside.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<IfaceId> {
        self.label(name).and_then(|l| self.links.get(l)).map(|l| l.iface)
    }

    fn label<'m>(&'m self, name: &'m str) -> Option<&'m str> {
        if self.links.contains_key(name) {
            return Some(name);
        }
        self.names.get(name).and_then(|labels| labels.first()).map(String::as_str)
    }

    fn need(&self, name: &str, place: &Place) -> Result<String, Flaw> {
        self.label(name).map(str::to_owned).ok_or_else(|| {
            let all = || self.names.keys().chain(self.links.keys()).map(String::as_str);
            place.flaw(format!(
                "nothing is named {name:?}{}; names are {}",
                tip(name, all()),
                choices(self.names.keys().map(String::as_str))
            ))
        })
    }

    fn router(&self, name: &str, place: &Place) -> Result<RouterId, Flaw> {
        let home = format!("{name}.router");
        self.routers.get(name).or_else(|| self.routers.get(&home)).copied().ok_or_else(|| {
            let all = || self.routers.keys().map(String::as_str);
            let text = format!("there is no router {name:?}{}", tip(name, all()));
            place.flaw(format!("{text}; routers are {}", choices(all())))
        })
    }

    /// What a disturbance is to the engine. Remembers what links are then.
    ///
    /// # Errors
    /// A [`Flaw`] at `place`.
    pub fn changes(
        &mut self,
        disturbance: &Disturbance,
        place: &Place,
    ) -> Result<Vec<Change>, Flaw> {
        let change = match disturbance {
            Disturbance::Link { of, direction, patch } => {
                return self.patch(of, *direction, patch, place);
            }
            Disturbance::State { of, direction, state } => {
                let iface = self.iface(of, place)?;
                Change::State { iface, direction: *direction, state: *state }
            }
            Disturbance::Partition { network, parts } => {
                let net = self.network(network, place)?;
                let parts = parts.iter().map(|part| {
                    let members = part.iter().map(|name| self.member(name, (network, net), place));
                    members.collect::<Result<Vec<_>, _>>()
                });
                Change::Partition { net, parts: parts.collect::<Result<_, _>>()? }
            }
            Disturbance::Heal(network) => Change::Heal { net: self.network(network, place)? },
            Disturbance::Address { of, addresses } => {
                let iface = self.iface(of, place)?;
                for machine in self.hosts.values_mut() {
                    for (own, list) in &mut machine.interfaces {
                        if *own == iface {
                            list.clone_from(addresses);
                        }
                    }
                }
                Change::Address { iface, addresses: addresses.clone() }
            }
            Disturbance::Reboot(router) => Change::Reboot { router: self.router(router, place)? },
            Disturbance::Preset { router, preset } => {
                let router = self.router(router, place)?;
                let config = preset.router();
                if matches!(config.nat, Some(NatConfig::OneToOne(_))) {
                    let text = "a router cannot become one to one while it runs: nothing says \
                                which addresses are pairs";
                    return Err(place.flaw(text));
                }
                let firewall = Change::Firewall { router, config: config.firewall };
                return Ok(vec![Change::Nat { router, config: config.nat }, firewall]);
            }
        };
        Ok(vec![change])
    }

    fn iface(&self, name: &str, place: &Place) -> Result<IfaceId, Flaw> {
        let label = self.need(name, place)?;
        self.links.get(&label).map(|l| l.iface).ok_or_else(|| place.flaw("no such link"))
    }

    fn patch(
        &mut self,
        of: &str,
        direction: Direction,
        patch: &super::timeline::LinkChange,
        place: &Place,
    ) -> Result<Vec<Change>, Flaw> {
        let label = self.need(of, place)?;
        let Some(link) = self.links.get_mut(&label) else { return Ok(Vec::new()) };
        let new = patch.0.apply(link.wire)?;
        let mut changes = Vec::new();
        for (way, config, kept) in [
            (Direction::Up, new.up, &mut link.wire.up),
            (Direction::Down, new.down, &mut link.wire.down),
        ] {
            if direction == way || direction == Direction::Both {
                *kept = config;
                changes.push(Change::Link { iface: link.iface, direction: way, config });
            }
        }
        Ok(changes)
    }

    /// The interface by which something is in a network.
    fn member(
        &self,
        name: &str,
        (network, net): (&str, NetId),
        place: &Place,
    ) -> Result<IfaceId, Flaw> {
        self.need(name, place)?;
        let labels = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        let named = [name.to_owned()];
        let mut all = labels.iter().chain(&named).filter_map(|l| self.links.get(l));
        all.find(|l| l.network == net).map(|l| l.iface).ok_or_else(|| {
            place.flaw(format!("{name:?} is not in network {network:?}, and so in no part of it"))
        })
    }
}
