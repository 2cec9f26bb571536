//! What a node offers of its own addresses.

use std::net::{IpAddr, Ipv6Addr};

use super::{Interface, InterfaceAddr, MAX_HOST};

/// Names of interfaces that lead to containers and virtual machines on this machine, as prefixes
/// (Docker, Podman, LXC, libvirt, VMware, VirtualBox, Parallels, Hyper-V, Kubernetes' CNIs).
const VIRTUAL: [&str; 19] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "vmnet",
    "vboxnet",
    "vnet",
    "vnic",
    "lxc",
    "lxd",
    "podman",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "kube",
    "bridge",
    "vEthernet",
    "nerdctl",
];

/// Names of tunnels, as prefixes, for systems that do not say that they are point to point.
const TUNNELS: [&str; 8] = ["tun", "tap", "wg", "utun", "tailscale", "zt", "ppp", "ipsec"];

/// Whether an interface leads to virtual machines or containers, by its name.
#[must_use]
pub fn is_virtual(name: &str) -> bool {
    VIRTUAL.iter().any(|prefix| name.starts_with(prefix))
}

/// The own addresses worth offering, the best first, at most [`MAX_HOST`].
///
/// Never: unspecified, multicast, broadcast, link-local, IPv4-mapped and IPv4-compatible ones, those
/// of interfaces that are down, deprecated ones, and a stable IPv6 address beside a temporary one of
/// the same network and interface (RFC 8445 section 5.1.1.1: it would let others track the machine).
/// Loopback only with `loopback`: when both nodes reach the broker over it.
#[must_use]
pub fn host_candidates(interfaces: &[Interface], loopback: bool) -> Vec<IpAddr> {
    let mut found: Vec<(u8, u32, usize, IpAddr)> = Vec::new();
    for interface in interfaces.iter().filter(|i| i.up) {
        for (n, addr) in interface.addrs.iter().enumerate() {
            let known = found.iter().any(|f| f.3 == addr.ip);
            if !known && offered(interface, addr, loopback) {
                found.push((rank(interface, addr.ip), interface.index, n, addr.ip));
            }
        }
    }
    found.sort();
    found.into_iter().map(|f| f.3).take(MAX_HOST).collect()
}

fn offered(interface: &Interface, addr: &InterfaceAddr, loopback: bool) -> bool {
    if addr.deprecated || (addr.ip.is_loopback() && !loopback) {
        return false;
    }
    if addr.ip.is_loopback() {
        return true;
    }
    match addr.ip {
        IpAddr::V4(ip) => {
            !(interface.loopback
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local())
        }
        IpAddr::V6(ip) => {
            let shadowed = !addr.temporary
                && interface
                    .addrs
                    .iter()
                    .any(|other| other.temporary && !other.deprecated && same_network(other, addr));
            !(interface.loopback
                || shadowed
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || site_local(ip)
                || ip.to_ipv4().is_some())
        }
    }
}

/// fec0::/10, deprecated by RFC 3879.
pub(super) fn site_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfec0
}

fn same_network(a: &InterfaceAddr, b: &InterfaceAddr) -> bool {
    let (IpAddr::V6(one), IpAddr::V6(two)) = (a.ip, b.ip) else { return false };
    let bits = u32::from(a.prefix.min(b.prefix).min(128));
    let differing = (one.to_bits() ^ two.to_bits()).leading_zeros();
    differing >= bits
}

/// Lower is better.
fn rank(interface: &Interface, ip: IpAddr) -> u8 {
    let tunnel = interface.point_to_point || TUNNELS.iter().any(|p| interface.name.starts_with(p));
    match ip {
        _ if ip.is_loopback() => 0,
        _ if is_virtual(&interface.name) => 6,
        _ if tunnel => 5,
        IpAddr::V4(ip) if ip.is_private() => 1,
        IpAddr::V6(ip) if ip.is_unique_local() => 2,
        IpAddr::V6(_) => 3,
        IpAddr::V4(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, addrs: &[&str]) -> Interface {
        let addrs = addrs.iter().map(|text| {
            let (ip, rest) = text.split_once('/').unwrap();
            let mut words = rest.split(' ');
            let prefix = words.next().unwrap().parse().unwrap();
            let words: Vec<&str> = words.collect();
            InterfaceAddr {
                ip: ip.parse().unwrap(),
                prefix,
                deprecated: words.contains(&"deprecated"),
                temporary: words.contains(&"temporary"),
            }
        });
        Interface {
            name: name.to_owned(),
            index,
            up: true,
            loopback: name == "lo",
            point_to_point: false,
            addrs: addrs.collect(),
        }
    }

    fn offered(interfaces: &[Interface], loopback: bool) -> Vec<String> {
        host_candidates(interfaces, loopback).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn what_is_offered_of_each_address() {
        let rows: [(&str, bool); 19] = [
            ("192.168.1.2/24", true),
            ("10.0.0.1/8", true),
            ("100.64.0.9/10", true),
            ("198.51.100.7/24", true),
            ("2001:db8::1/64", true),
            ("2001:db8::1/64 temporary", true),
            ("2001:db8::1/64 deprecated", false),
            ("2001:db8::1/64 temporary deprecated", false),
            ("fd00::1/64", true),
            ("fe80::1/64", false),
            ("fec0::1/64", false),
            ("ff02::1/64", false),
            ("::/64", false),
            ("::ffff:192.168.1.2/96", false),
            ("::192.168.1.2/96", false),
            ("169.254.3.4/16", false),
            ("224.0.0.1/4", false),
            ("255.255.255.255/32", false),
            ("0.0.0.0/0", false),
        ];
        for (addr, expected) in rows {
            let offered = offered(&[interface("eth0", 2, &[addr])], false);
            assert_eq!(!offered.is_empty(), expected, "{addr}");
        }
    }

    #[test]
    fn loopback_is_offered_only_where_it_is_allowed_and_comes_first_then() {
        let all = [
            interface("eth0", 2, &["192.168.1.2/24"]),
            interface("lo", 1, &["127.0.0.1/8", "::1/128"]),
        ];
        assert_eq!(offered(&all, false), ["192.168.1.2"]);
        assert_eq!(offered(&all, true), ["127.0.0.1", "::1", "192.168.1.2"]);
    }

    #[test]
    fn lan_before_ipv6_before_tunnels_before_bridges() {
        let all = [
            interface("docker0", 4, &["172.17.0.1/16"]),
            interface("br-0123456789ab", 5, &["172.18.0.1/16"]),
            interface("wg0", 6, &["10.9.0.2/24"]),
            interface("eth0", 2, &["203.0.113.4/24", "2001:db8::4/64"]),
            interface("wlan0", 3, &["192.168.7.9/24"]),
        ];
        let expected =
            ["192.168.7.9", "2001:db8::4", "203.0.113.4", "10.9.0.2", "172.17.0.1", "172.18.0.1"];
        assert_eq!(offered(&all, false), expected);
    }

    #[test]
    fn a_temporary_address_hides_the_stable_one_of_its_network_and_interface() {
        let eth0 = interface(
            "eth0",
            2,
            &["2001:db8:0:1::aa/64", "2001:db8:0:1::77/64 temporary", "2001:db8:0:2::aa/64"],
        );
        let eth1 = interface("eth1", 3, &["2001:db8:0:1::bb/64"]);
        let expected = ["2001:db8:0:1::77", "2001:db8:0:2::aa", "2001:db8:0:1::bb"];
        assert_eq!(offered(&[eth0, eth1], false), expected);
    }

    #[test]
    fn twenty_bridges_do_not_push_out_the_lan_and_what_is_down_is_not_there() {
        let mut all: Vec<Interface> = (0..20)
            .map(|n| interface(&format!("br-{n}"), 10 + n, &[&format!("172.20.{n}.1/24")]))
            .collect();
        all.push(interface("eth0", 50, &["192.168.1.2/24", "192.168.1.2/24"]));
        all.push(Interface { up: false, ..interface("eth1", 51, &["192.168.2.2/24"]) });
        let offered = offered(&all, false);
        assert_eq!(offered.len(), MAX_HOST);
        assert_eq!(offered[..2], ["192.168.1.2", "172.20.0.1"]);
    }
}
