//! This machine's addresses as other machines may reach it.

use std::net::{IpAddr, SocketAddr};

/// Most addresses suggested.
const MAX_SUGGESTED: usize = 4;
/// How interfaces of virtual machines and containers are called: others rarely reach those.
const VIRTUAL: [&str; 8] =
    ["docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "bridge", "podman"];

/// Addresses that another machine could use, the likeliest first; empty if there are none.
pub(crate) fn reachable() -> Vec<IpAddr> {
    // No addresses to suggest is no reason to fail.
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    rank(all.into_iter().map(|i| (i.ip(), i.name)).collect())
}

fn rank(mut all: Vec<(IpAddr, String)>) -> Vec<IpAddr> {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    all.retain(|(ip, _)| usable(ip));
    all.sort_by_key(|(ip, name)| (VIRTUAL.iter().any(|v| name.starts_with(v)), ip.is_ipv6(), *ip));
    all.dedup_by_key(|(ip, _)| *ip);
    all.into_iter().map(|(ip, _)| ip).take(MAX_SUGGESTED).collect()
}

/// Whether a host, as a broker's address names it, is this machine only.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let name = host == "localhost" || host.ends_with(".localhost");
    // The unspecified address connects to this machine too.
    name || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified())
}

/// The broker command that lets other machines reach `ip`.
pub(crate) fn broker_command(ip: IpAddr, port: u16) -> String {
    let any = if ip.is_ipv4() { "0.0.0.0" } else { "[::]" };
    format!("meshwire broker --listen {any}:{port} --public-url {}", url(ip, port))
}

/// The https address of a broker there.
pub(crate) fn url(ip: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_others_reach_come_first() {
        let all = [
            ("127.0.0.1", "lo"),
            ("172.17.0.1", "docker0"),
            ("fe80::1", "eth0"),
            ("2001:db8::7", "eth0"),
            ("169.254.1.1", "eth1"),
            ("192.168.1.20", "eth0"),
            ("::1", "lo"),
        ];
        let ranked = rank(all.map(|(ip, n)| (ip.parse().unwrap(), n.to_owned())).to_vec());
        let text: Vec<String> = ranked.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["192.168.1.20", "2001:db8::7", "172.17.0.1"]);
    }

    #[test]
    fn loopback_has_many_names() {
        for host in [
            "localhost",
            "localhost.",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["broker.example", "192.168.1.2", "2001:db8::1", "notlocalhost", "128.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_suggested_command_has_brackets_around_ipv6() {
        assert_eq!(
            broker_command("192.168.1.20".parse().unwrap(), 7900),
            "meshwire broker --listen 0.0.0.0:7900 --public-url https://192.168.1.20:7900"
        );
        assert_eq!(
            broker_command("2001:db8::7".parse().unwrap(), 7900),
            "meshwire broker --listen [::]:7900 --public-url https://[2001:db8::7]:7900"
        );
    }
}
