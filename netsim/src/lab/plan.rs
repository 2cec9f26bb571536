//! What the hosts of an engine need from the kernel: functions from the engine's state to lines of
//! `ip -batch`, and seeing that the kernel is there.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use super::bulk::PIECES;
use super::error::LabError;
use super::namespace;
use crate::engine::Engine;
use crate::link::LinkState;
use crate::prefix::Prefix;
use crate::topology::{HostId, Iface, IfaceId, Owner};

/// The least MTU with which Linux lets an interface have IPv6 (RFC 8200, section 5).
const IPV6_MTU: u32 = 1280;
/// The largest that a TUN device takes (drivers/net/tun.c, `MAX_MTU`).
const MAX_MTU: u32 = 65_535;
/// What a host that is not told of its link's MTU takes for granted.
const USUAL_MTU: u32 = 1500;
/// Packets that the kernel holds for us. Enough for 60 ms of 1 Gbit/s in which this process is not
/// scheduled: what it does not hold is a loss that nobody asked for.
const QUEUE: u32 = 5_000;
/// Routing tables of interfaces begin here: below are main, default and what people use.
const TABLES: usize = 1_000;

/// A host's interface as the kernel must have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) host: HostId,
    pub(crate) iface: IfaceId,
    /// Which of the host's interfaces it is, and whether it has others.
    index: usize,
    alone: bool,
    /// With the length of the subnet.
    addresses: Vec<(IpAddr, u8)>,
    mtu: u32,
    carrier: bool,
}

/// A host.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) host: HostId,
    pub(crate) name: String,
    pub(crate) ports: Vec<Port>,
}

/// All hosts.
pub(crate) fn plans(engine: &Engine) -> Vec<Plan> {
    let hosts = (0..).map(HostId).zip(&engine.hosts);
    hosts
        .map(|(host, known)| {
            let ports = known.ifaces.iter().filter_map(|id| Port::of(engine, *id)).collect();
            Plan { host, name: known.name.clone(), ports }
        })
        .collect()
}

/// The lines of a hosts file: the given names, then hosts that everybody can reach.
pub(crate) fn hosts_file(engine: &Engine, names: &[(String, Vec<IpAddr>)]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    let mut say = |name: &str, address: &IpAddr| {
        // Memory takes every write.
        let _ = writeln!(text, "{address} {name}");
    };
    for (name, addresses) in names {
        addresses.iter().for_each(|a| say(name, a));
    }
    for host in engine.hosts.iter().filter(|h| names.iter().all(|(n, _)| *n != h.name)) {
        let ifaces = host.ifaces.iter().filter_map(|i| engine.ifaces.get(i.index()));
        let public = ifaces.filter(|i| engine.nets.get(i.net.index()).is_some_and(|n| n.core));
        public.flat_map(|i| &i.addresses).for_each(|a| say(&host.name, a));
    }
    text
}

/// A host knows the MTU of its own link, unless the link keeps it secret.
fn mtu(iface: &Iface) -> u32 {
    let link = iface.up.link.config();
    let known = if link.mtu_signal { link.mtu } else { link.mtu.max(USUAL_MTU) };
    known.min(MAX_MTU)
}

impl Port {
    /// None for a router's interface.
    pub(crate) fn of(engine: &Engine, id: IfaceId) -> Option<Self> {
        let iface = engine.ifaces.get(id.index())?;
        let Owner::Host(host) = iface.owner else { return None };
        let siblings = &engine.hosts.get(host.index())?.ifaces;
        let index = siblings.iter().position(|i| *i == id)?;
        let net = engine.nets.get(iface.net.index())?;
        let length = |a: &IpAddr| {
            let subnet = net.subnets.iter().find(|p| p.contains(*a)).map(Prefix::length);
            subnet.unwrap_or(if a.is_ipv4() { 32 } else { 128 })
        };
        let mtu = mtu(iface);
        let fits = |a: &&IpAddr| a.is_ipv4() || mtu >= IPV6_MTU;
        let addresses = iface.addresses.iter().filter(fits).map(|a| (*a, length(a))).collect();
        let down = |state| state == LinkState::Down;
        let carrier = !(down(iface.up.link.state()) && down(iface.down.link.state()));
        let alone = siblings.len() == 1;
        Some(Self { host, iface: id, index, alone, addresses, mtu, carrier })
    }

    pub(crate) fn device(&self) -> String {
        format!("eth{}", self.index)
    }

    /// The addresses that the kernel needs a moment for.
    fn v6(&self) -> Vec<Ipv6Addr> {
        let only = |(a, _): &(IpAddr, u8)| if let IpAddr::V6(a) = a { Some(*a) } else { None };
        self.addresses.iter().filter_map(only).collect()
    }

    /// Makes the kernel what this port says.
    pub(crate) fn set_up(&self, namespace: &str) -> Result<(), LabError> {
        namespace::configure(namespace, &self.up())?;
        self.settle(namespace, self.carrier)
    }

    /// Makes the kernel what `new` says, where it was what this port says.
    pub(crate) fn become_new(&self, new: &Self, namespace: &str) -> Result<(), LabError> {
        namespace::configure(namespace, &self.change(new))?;
        new.settle(namespace, self.carrier == new.carrier)
    }

    fn settle(&self, namespace: &str, same_carrier: bool) -> Result<(), LabError> {
        if !same_carrier {
            namespace::await_carrier(namespace, &self.device(), self.carrier)?;
        }
        namespace::await_addresses(namespace, &self.v6())
    }

    /// Sets a new device up.
    fn up(&self) -> String {
        let (device, mtu) = (self.device(), self.mtu);
        let mut lines = format!(
            "link set dev {device} mtu {mtu} txqueuelen {QUEUE} gso_max_segs {PIECES} up\n"
        );
        lines += &self.addresses.iter().map(|a| self.add(*a)).collect::<String>();
        lines += &self.routes();
        if !self.carrier {
            lines += &format!("link set dev {device} carrier off\n");
        }
        lines
    }

    /// What must happen for this port to become `new`.
    fn change(&self, new: &Self) -> String {
        let device = self.device();
        let mut lines = String::new();
        if self.mtu != new.mtu {
            lines += &format!("link set dev {device} mtu {}\n", new.mtu);
        }
        let without = |a: &[(IpAddr, u8)], b: &[(IpAddr, u8)]| {
            a.iter().filter(|x| !b.contains(x)).copied().collect::<Vec<_>>()
        };
        let added = without(&new.addresses, &self.addresses);
        let removed = without(&self.addresses, &new.addresses);
        // The new ones first: with its last address an interface loses its routes.
        lines += &added.iter().map(|a| new.add(*a)).collect::<String>();
        for (address, length) in removed {
            // Linux takes its IPv6 addresses from an interface whose MTU falls below what IPv6 needs.
            if address.is_ipv4() || new.mtu >= IPV6_MTU {
                lines += &format!("addr del {address}/{length} dev {device}\n");
            }
            lines += &self.rule("del", address);
        }
        if self.addresses != new.addresses || self.mtu != new.mtu {
            lines += &new.routes();
        }
        if self.carrier != new.carrier {
            lines += &format!("link set dev {device} carrier {}\n", on_off(new.carrier));
        }
        lines
    }

    fn add(&self, (address, length): (IpAddr, u8)) -> String {
        // Nobody answers duplicate address detection, and programs need not wait for that.
        let nodad = if address.is_ipv4() { "" } else { " nodad" };
        format!("addr add {address}/{length} dev {}{nodad}\n", self.device())
            + &self.rule("add", address)
    }

    /// What has an interface's source leaves through that interface.
    fn rule(&self, verb: &str, address: IpAddr) -> String {
        if self.alone {
            return String::new();
        }
        format!("rule {verb} from {address} lookup {}\n", TABLES + self.index)
    }

    /// Everything goes to the engine, by the first interface where the program does not say.
    fn routes(&self) -> String {
        let (device, metric) = (self.device(), 100 + self.index);
        let has = |v4: bool| self.addresses.iter().any(|(a, _)| a.is_ipv4() == v4);
        let families = [("0.0.0.0/0", has(true)), ("::/0", has(false))];
        let mut lines = String::new();
        for (all, _) in families.iter().filter(|(_, has)| *has) {
            lines += &format!("route replace {all} dev {device} metric {metric}\n");
            if !self.alone {
                let table = TABLES + self.index;
                lines += &format!("route replace {all} dev {device} table {table}\n");
            }
        }
        lines
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Change, Direction, LinkConfig, Time, Wire};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn world(mtu: u32) -> (Engine, IfaceId) {
        let mut world = Builder::new(1);
        let core = world.core("internet").expect("a core");
        let subnets: Vec<Prefix> = vec![
            "10.0.0.0/24".parse().expect("a prefix"),
            "2001:db8::/64".parse().expect("a prefix"),
        ];
        let lan = world.segment("lan", &subnets).expect("a segment");
        let server = world.host("server").expect("a host");
        world.attach(server, core, &[ip("203.0.113.1")], Wire::default()).expect("an interface");
        let both = world.host("both").expect("a host");
        let wire = Wire::both(LinkConfig { mtu, ..LinkConfig::default() });
        let first = world.attach(both, lan, &[ip("10.0.0.2"), ip("2001:db8::2")], wire);
        world.attach(both, core, &[ip("203.0.113.2")], Wire::default()).expect("an interface");
        (world.build(), first.expect("an interface"))
    }

    #[test]
    fn an_interface_gets_addresses_routes_and_rules() {
        let (engine, _) = world(1400);
        let plans = plans(&engine);
        assert_eq!(
            plans[0].ports[0].up(),
            "link set dev eth0 mtu 1500 txqueuelen 5000 gso_max_segs 128 up\n\
            addr add 203.0.113.1/32 dev eth0\nroute replace 0.0.0.0/0 dev eth0 metric 100\n"
        );
        assert_eq!(
            plans[1].ports[0].up(),
            "link set dev eth0 mtu 1400 txqueuelen 5000 gso_max_segs 128 up\n\
            addr add 10.0.0.2/24 dev eth0\nrule add from 10.0.0.2 lookup 1000\n\
            addr add 2001:db8::2/64 dev eth0 nodad\nrule add from 2001:db8::2 lookup 1000\n\
            route replace 0.0.0.0/0 dev eth0 metric 100\n\
            route replace 0.0.0.0/0 dev eth0 table 1000\n\
            route replace ::/0 dev eth0 metric 100\nroute replace ::/0 dev eth0 table 1000\n"
        );
        assert!(plans[1].ports[1].up().contains("metric 101"));
    }

    #[test]
    fn names_are_those_given_and_those_in_a_core() {
        let (engine, _) = world(1500);
        let names = [("server".to_owned(), vec![ip("2001:db8::7")])];
        let text = hosts_file(&engine, &names);
        let want = "127.0.0.1 localhost\n::1 localhost\n2001:db8::7 server\n203.0.113.2 both\n";
        assert_eq!(text, want);
    }

    #[test]
    fn a_change_touches_what_changes() {
        let (mut engine, iface) = world(1500);
        let before = plans(&engine)[1].ports[0].clone();
        assert_eq!(before.change(&before), "");
        let addresses = vec![ip("10.0.0.9"), ip("2001:db8::2")];
        engine.control(Time::ZERO, Change::Address { iface, addresses }).expect("a change");
        let moved = plans(&engine)[1].ports[0].clone();
        let lines = before.change(&moved);
        assert!(
            lines.starts_with("addr add 10.0.0.9/24 dev eth0\nrule add from 10.0.0.9"),
            "{lines}"
        );
        assert!(
            lines.contains("addr del 10.0.0.2/24") && !lines.contains("2001:db8::2"),
            "{lines}"
        );
        let direction = Direction::Both;
        let state = LinkState::Down;
        engine.control(Time::ZERO, Change::State { iface, direction, state }).expect("a change");
        let down = plans(&engine)[1].ports[0].clone();
        assert_eq!(moved.change(&down), "link set dev eth0 carrier off\n");
        assert_eq!(down.change(&moved), "link set dev eth0 carrier on\n");
        let config = LinkConfig { mtu: 1000, ..LinkConfig::default() };
        engine.control(Time::ZERO, Change::Link { iface, direction, config }).expect("a change");
        let small = plans(&engine)[1].ports[0].clone();
        let lines = down.change(&small);
        let want = "link set dev eth0 mtu 1000\nrule del from 2001:db8::2 lookup 1000\nroute";
        assert!(lines.starts_with(want) && !lines.contains("::/0"), "{lines}");
    }

    #[test]
    fn a_host_does_not_know_an_mtu_that_nobody_tells() {
        let (mut engine, iface) = world(1500);
        let config = LinkConfig { mtu: 1000, mtu_signal: false, ..LinkConfig::default() };
        let change = Change::Link { iface, direction: Direction::Both, config };
        engine.control(Time::ZERO, change).expect("a change");
        assert_eq!(plans(&engine)[1].ports[0].mtu, 1500);
    }
}
