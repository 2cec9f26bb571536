//! The short forms: `[[server]]` and `[[home]]`, which become hosts, routers and networks.
//!
//! Addresses are given in order. They look like addresses of the Internet and not like those of
//! documents and laboratories, which programs may treat in their own way; no packet leaves the machine.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | n-th server | 11.1.n | 2600:1:1::n |
//! | n-th home's router, outside | 11.2.n | 2600:1:2::n |
//! | its machines | 10.n.2 and on; behind carriers 100.64.n.2; without NAT 11.16.n.2 | 2600:1:3:n::2 |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flaw::{Place, choices, tip};
use super::link::read_wire;
use super::read::{Source, Table};
use super::world::{Host, INTERNET, Inside, Interface, Network, Router, read_preset};
use crate::nat::{NatConfig, Pair};
use crate::prefix::Prefix;
use crate::preset::Preset;
use crate::topology::Wire;

/// Machines of one home: its LAN has addresses for 253.
const MAX_MACHINES: usize = 100;
/// Homes of one scenario.
const MAX_HOMES: usize = 4_000;

/// A router, its LAN and the machines there.
pub(super) struct Home {
    pub(super) name: String,
    pub(super) preset: Preset,
    pub(super) wire: Wire,
    pub(super) behind: Option<(String, Place)>,
    pub(super) machines: Vec<String>,
    pub(super) place: Place,
}

impl Home {
    pub(super) fn read(table: &Table<'_, '_>) -> Option<Self> {
        let home = Self::keys(table);
        table.end();
        home
    }

    /// Reads the keys of a home; other keys of the table are the caller's to ask for.
    pub(super) fn keys(table: &Table<'_, '_>) -> Option<Self> {
        let name = table.need("name").and_then(|v| v.name());
        let preset = table.get("preset").map_or(Some(Preset::Open), |v| read_preset(&v));
        let behind = table.get("behind").and_then(|v| Some((v.name()?, v.place.clone())));
        let wire = read_wire(table);
        let machines = match table.get("machines") {
            None => name.clone().into_iter().collect(),
            Some(list) => list.list().iter().filter_map(|v| v.name()).collect::<Vec<_>>(),
        };
        if machines.len() > MAX_MACHINES {
            table.wrong(format!("a home has at most {MAX_MACHINES} machines"));
            return None;
        }
        Some(Self {
            name: name?,
            preset: preset?,
            wire,
            behind,
            machines,
            place: table.place.clone(),
        })
    }

    fn v4(&self) -> bool {
        self.preset != Preset::Ipv6Only
    }
}

/// A machine in the core, by its number from 1.
pub(super) fn server(name: String, number: u16, wire: Wire, place: Place) -> Host {
    let [high, low] = number.to_be_bytes();
    let v6 = Ipv6Addr::new(0x2600, 1, 1, 0, 0, 0, 0, number);
    let addresses = vec![Ipv4Addr::new(11, 1, high, low).into(), v6.into()];
    let interfaces = vec![Interface { network: INTERNET.to_owned(), addresses, wire }];
    Host { name, interfaces, place }
}

/// A home's LAN: its prefixes, and addresses in it by number.
struct Lan {
    v4: Option<[u8; 3]>,
    number: u16,
    next: u8,
}

impl Lan {
    fn new(home: &Home, number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let v4 = match home.preset {
            Preset::Open => [11, 16 + high, low],
            Preset::Cgnat | Preset::Mobile => [100, 64 + high, low],
            _ => [10, high, low],
        };
        Self { v4: home.v4().then_some(v4), number, next: 2 }
    }

    fn at(&self, last: u8) -> Vec<IpAddr> {
        let v4 = self.v4.map(|[a, b, c]| Ipv4Addr::new(a, b, c, last).into());
        let v6 = Ipv6Addr::new(0x2600, 1, 3, self.number, 0, 0, 0, last.into());
        v4.into_iter().chain([v6.into()]).collect()
    }

    /// The next free addresses.
    fn take(&mut self) -> Vec<IpAddr> {
        let last = self.next;
        self.next = self.next.saturating_add(1);
        self.at(last)
    }

    fn prefixes(&self) -> Vec<Prefix> {
        let length = |a: &IpAddr| if a.is_ipv4() { 24 } else { 64 };
        self.at(0).iter().filter_map(|a| Prefix::new(*a, length(a)).ok()).collect()
    }
}

/// What homes become.
#[derive(Default)]
pub(super) struct Built {
    pub(super) networks: Vec<Network>,
    pub(super) routers: Vec<Router>,
    pub(super) hosts: Vec<Host>,
}

/// Gives homes their addresses and routes.
pub(super) fn build(source: &Source<'_>, homes: &[Home]) -> Built {
    let mut built = Built::default();
    let Some(parents) = parents(source, homes) else { return built };
    let mut lans: Vec<Lan> = homes.iter().zip(1..).map(|(h, n)| Lan::new(h, n)).collect();
    let mut outsides = 0_u16;
    for (n, home) in homes.iter().enumerate() {
        let machines: Vec<Vec<IpAddr>> = match lans.get_mut(n) {
            Some(lan) => home.machines.iter().map(|_| lan.take()).collect(),
            None => continue,
        };
        let mut uplink = match parents.get(n).copied().flatten().and_then(|p| lans.get_mut(p)) {
            Some(parent) => parent.take(),
            None => outside(&mut outsides),
        };
        let mut config = home.preset.router();
        if matches!(config.nat, Some(NatConfig::OneToOne(_))) {
            let pairs = pair(&machines, &mut uplink, &mut outsides);
            config = config.with_pairs(pairs);
        }
        if !home.v4() {
            uplink.retain(IpAddr::is_ipv6);
        }
        let Some(lan) = lans.get(n) else { continue };
        let translated = config.nat.is_some();
        let beyond = beneath(n, &parents, homes, &lans);
        let own = lan.prefixes().into_iter().filter(|p| !translated || p.address().is_ipv6());
        // What a NAT hides, nobody outside has a route to.
        let deeper = beyond.iter().copied().filter(|p| !translated || p.address().is_ipv6());
        let routed = own.chain(deeper).collect();
        let name = format!("{}.lan", home.name);
        let parent = parents.get(n).copied().flatten().and_then(|p| homes.get(p));
        let inside =
            Inside { network: name.clone(), addresses: lan.at(1), beyond, wire: Wire::default() };
        built.routers.push(Router {
            name: format!("{}.router", home.name),
            preset: Some(home.preset),
            config,
            network: parent.map_or(INTERNET.to_owned(), |p| format!("{}.lan", p.name)),
            addresses: uplink,
            routed,
            wire: home.wire,
            inside: vec![inside],
            place: home.place.clone(),
        });
        for (machine, addresses) in home.machines.iter().zip(machines) {
            let interface = Interface { network: name.clone(), addresses, wire: Wire::default() };
            built.hosts.push(Host {
                name: machine.clone(),
                interfaces: vec![interface],
                place: home.place.clone(),
            });
        }
        let (subnets, place) = (lan.prefixes(), home.place.clone());
        built.networks.push(Network { name, core: false, subnets, place });
    }
    // Outer routers come first: they make the networks that inner ones hang in.
    let depth = |name: &str| {
        let mut at = homes.iter().position(|h| format!("{}.router", h.name) == name);
        std::iter::from_fn(|| {
            at = at.and_then(|n| parents.get(n).copied().flatten());
            at
        })
        .count()
    };
    built.routers.sort_by_key(|r| depth(&r.name));
    built
}

fn outside(number: &mut u16) -> Vec<IpAddr> {
    *number = number.saturating_add(1);
    let [high, low] = number.to_be_bytes();
    let v6 = Ipv6Addr::new(0x2600, 1, 2, 0, 0, 0, 0, *number);
    vec![Ipv4Addr::new(11, 2, high, low).into(), v6.into()]
}

/// An outside address for each machine; the uplink gets those that it lacks.
fn pair(machines: &[Vec<IpAddr>], uplink: &mut Vec<IpAddr>, number: &mut u16) -> Vec<Pair> {
    let v4 = |list: &[IpAddr]| {
        list.iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None }).next()
    };
    let mut pairs = Vec::new();
    for (n, machine) in machines.iter().enumerate() {
        let free = if n == 0 { v4(uplink) } else { v4(&outside(number)) };
        let (Some(inside), Some(outside)) = (v4(machine), free) else { continue };
        if n > 0 {
            uplink.push(outside.into());
        }
        pairs.push(Pair { inside, outside });
    }
    pairs
}

/// The home that each home is behind; None when that cannot be.
fn parents(source: &Source<'_>, homes: &[Home]) -> Option<Vec<Option<usize>>> {
    if homes.len() > MAX_HOMES {
        let place = homes.last().map(|h| h.place.clone()).unwrap_or_default();
        source.flaw(&place, format!("a scenario has at most {MAX_HOMES} homes"));
        return None;
    }
    let names = || homes.iter().map(|h| h.name.as_str());
    let mut parents = Vec::new();
    for home in homes {
        let found = home.behind.as_ref().and_then(|(name, place)| {
            let found = homes.iter().position(|h| h.name == *name);
            if found.is_none() {
                let text = format!("there is no home {name:?}{}", tip(name, names()));
                source.flaw(place, format!("{text}; homes are {}", choices(names())));
            }
            found
        });
        parents.push(found);
    }
    for (n, home) in homes.iter().enumerate() {
        let mut at = n;
        for _ in 0..homes.len() {
            match parents.get(at).copied().flatten() {
                Some(next) => at = next,
                None => break,
            }
            if at == n {
                source.flaw(&home.place, "this home is behind itself; put one of them in the core");
                return None;
            }
        }
    }
    Some(parents)
}

/// The prefixes of all homes behind the n-th.
fn beneath(n: usize, parents: &[Option<usize>], homes: &[Home], lans: &[Lan]) -> Vec<Prefix> {
    let mut found = Vec::new();
    for (child, parent) in parents.iter().enumerate() {
        if *parent != Some(n) {
            continue;
        }
        let hidden = homes.get(child).is_some_and(|h| h.preset.router().nat.is_some());
        let prefixes = lans.get(child).map(Lan::prefixes).unwrap_or_default();
        found.extend(prefixes.into_iter().filter(|p| !hidden || p.address().is_ipv6()));
        let deeper = beneath(child, parents, homes, lans);
        found.extend(deeper.into_iter().filter(|p| !hidden || p.address().is_ipv6()));
    }
    found
}
