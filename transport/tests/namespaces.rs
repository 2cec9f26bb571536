//! What a node offers of its own addresses on machines of several kinds: each test makes a network
//! namespace, gives it interfaces, and runs itself in there with the system's sockets and interfaces.
//! Needs root, iproute2 and util-linux; where they are missing, tests say so and pass, unless
//! `MESHWIRE_REQUIRE_LAB=1`. A namespace ends with the process in it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, or says why"
)]

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshwire_transport::net::OsNet;
use meshwire_transport::quic::candidates::{Candidate, CandidateKind, MAX_CANDIDATES, MAX_HOST};
use meshwire_transport::quic::interfaces::OsInterfaces;
use meshwire_transport::quic::{AttemptEvent, Config, Dial, QuicNode, Role};
use tokio::time::timeout;

/// Set for the process in the namespace: what happens there once the node has made its offer.
const INSIDE: &str = "MESHWIRE_TEST_INSIDE";
/// Before each candidate that the process in the namespace tells.
const TOLD: &str = "candidate: ";
/// An IPv6 address may come into use after some seconds.
const LONG: Duration = Duration::from_secs(30);

/// Not a test of its own: what the others run in their namespaces.
#[tokio::test]
async fn inside() {
    let Ok(later) = std::env::var(INSIDE) else { return };
    let interfaces = Arc::new(OsInterfaces::watch().await.unwrap());
    let config = Config { port_mapping: false, ..Config::new(interfaces) };
    let node = QuicNode::start(Arc::new(OsNet), config).await.unwrap();
    let mut attempt = node.dial(Dial::new(Role::Controlling)).unwrap();
    let mut all = attempt.local().candidates.clone();
    assert!(all.iter().all(|c| c.kind == CandidateKind::Host), "{all:?}");
    all.sort_by_key(|c| std::cmp::Reverse(c.priority));
    let (v4, v6) = node.ports();
    let tell = |c: &Candidate| {
        let own = if c.addr.is_ipv4() { v4 } else { v6 };
        assert_eq!(Some(c.addr.port()), own, "{c:?}");
        eprintln!("\n{TOLD}{}", c.addr.ip());
    };
    all.iter().for_each(tell);
    // Each line, and the candidate that comes of it: to a running attempt, and to the next one.
    for line in later.lines() {
        let done = Command::new("sh").args(["-euc", line]).stdin(Stdio::null()).status();
        assert!(done.unwrap().success(), "{line}");
        let candidate = loop {
            match timeout(LONG, attempt.next()).await.expect("it is noticed") {
                Some(AttemptEvent::Candidate(candidate)) => break candidate,
                // There is nobody to reach.
                Some(AttemptEvent::Failed(_)) => {
                    attempt = node.dial(Dial::new(Role::Controlling)).unwrap();
                    let new = attempt.local().candidates.iter();
                    let new: Vec<_> = new.filter(|c| !all.contains(c)).copied().collect();
                    if let [candidate] = new[..] {
                        break candidate;
                    }
                }
                other => panic!("{line}: {other:?}"),
            }
        };
        tell(&candidate);
        all.push(candidate);
    }
}

fn in_a_namespace(script: &str) -> Command {
    let mut command = Command::new("unshare");
    // The namespace's own /sys/class/net, as `ip netns exec` gives it.
    let script = format!("mount -t sysfs sysfs /sys\n{script}\nexec \"$0\" \"$@\"");
    command.args(["--net", "--mount", "--", "sh", "-euc", &script]);
    command.stdin(Stdio::null());
    command
}

/// Whether there can be namespaces. Panics where there must be.
fn ready() -> bool {
    let tried = in_a_namespace("ip link set lo up").arg("true").output();
    let why = match tried {
        Ok(out) if out.status.success() => return true,
        Ok(out) => String::from_utf8_lossy(&out.stderr).into_owned(),
        Err(e) => e.to_string(),
    };
    let message = format!("no namespace with `unshare` and `ip` (as root): {why}");
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none_or(|v| v != "1"), "{message}");
    eprintln!("skipped: {message}");
    false
}

/// The addresses that a node offers on a machine that `script` sets up, the best first; then those of
/// each line of `later`. None where there can be no namespaces.
fn offered(script: &str, later: &str) -> Option<Vec<String>> {
    if !ready() {
        return None;
    }
    let program = std::env::current_exe().unwrap();
    let out = in_a_namespace(script)
        .arg(program)
        .args(["--exact", "inside", "--nocapture"])
        .env(INSIDE, later)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stdout));
    Some(said.lines().filter_map(|l| l.strip_prefix(TOLD)).map(str::to_owned).collect())
}

/// An interface with a cable in it. What is at the other end has no addresses but link-local ones.
fn cable(name: &str, addresses: &[&str]) -> String {
    let mut script = format!("ip link add {name} type veth peer name x{name}\n");
    for addr in addresses {
        let now = if addr.contains(':') { " nodad" } else { "" };
        writeln!(script, "ip addr add {addr} dev {name}{now}").unwrap();
    }
    script + &format!("ip link set {name} up\nip link set x{name} up\n")
}

/// A bridge of containers, which have an end of a cable each.
fn bridge(name: &str, address: &str) -> String {
    format!(
        "ip link add {name} type bridge\nip addr add {address} dev {name}\nip link set {name} up\n"
    )
}

const LO: &str = "ip link set lo up\n";

#[test]
fn three_interfaces_come_lan_before_public_before_vpn() {
    let wg0 = "ip tuntap add wg0 mode tun\nip addr add 10.9.0.2/24 dev wg0\nip link set wg0 up\n";
    let script = [
        LO,
        wg0,
        &cable("eth0", &["203.0.113.4/24", "2001:db8:4::4/64"]),
        &cable("eth1", &["192.168.7.9/24"]),
        &cable("wlan0", &["10.1.2.3/16", "fd00:7::9/64"]),
    ];
    let Some(offered) = offered(&script.concat(), "") else { return };
    let expected =
        ["192.168.7.9", "10.1.2.3", "fd00:7::9", "2001:db8:4::4", "203.0.113.4", "10.9.0.2"];
    assert_eq!(offered, expected);
}

#[test]
fn ipv6_alone_offers_what_others_can_reach() {
    let eth0 = cable("eth0", &["fe80::1234/64", "2001:db8:4::4/64", "fd00:7::9/64"]);
    let old = "ip addr add 2001:db8:4::5/64 dev eth0 nodad preferred_lft 0\n";
    let Some(offered) = offered(&[LO, &eth0, old].concat(), "") else { return };
    assert_eq!(offered, ["fd00:7::9", "2001:db8:4::4"], "neither link-local nor deprecated");
}

#[test]
fn without_ipv6_there_is_ipv4() {
    let off = "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done\n";
    let script =
        [off, LO, &cable("eth0", &["192.168.7.9/24"]), &cable("eth1", &["198.51.100.7/24"])];
    let Some(offered) = offered(&script.concat(), "") else { return };
    assert_eq!(offered, ["192.168.7.9", "198.51.100.7"]);
}

#[test]
fn twenty_bridges_come_last_and_only_as_many_as_there_is_room() {
    let mut script = LO.to_owned();
    // Before the cables, so that the system lists them first; named as Docker, libvirt and LXC do.
    let names = ["docker", "br-0c9f5a1b3d", "virbr", "lxcbr", "podman"];
    for n in 0..20 {
        let name = format!("{}{n}", names[n % names.len()]);
        script += &bridge(&name, &format!("172.{}.{n}.1/24", 17 + n % 15));
    }
    script += &cable("veth12ab", &["172.30.255.1/24"]);
    script += &cable("eth0", &["192.168.7.9/24", "2001:db8:4::4/64"]);
    script += &cable("wlan0", &["10.1.2.3/16"]);
    let Some(offered) = offered(&script, "") else { return };
    assert_eq!(offered[..3], ["192.168.7.9", "10.1.2.3", "2001:db8:4::4"]);
    // By name: four of Docker's networks, four docker bridges, and the first of LXC.
    let bridges = [
        "172.18.1.1",
        "172.28.11.1",
        "172.18.16.1",
        "172.23.6.1",
        "172.17.0.1",
        "172.27.10.1",
        "172.17.15.1",
        "172.22.5.1",
        "172.30.13.1",
    ];
    assert_eq!(offered[3..], bridges);
    assert_eq!(offered.len(), MAX_HOST);
    const { assert!(MAX_HOST < MAX_CANDIDATES, "reflexive and relayed addresses have room") };
}

#[test]
fn an_interface_that_comes_later_is_offered_when_it_does() {
    let script = [LO, &cable("eth0", &["192.168.7.9/24"])].concat();
    let wlan0 = cable("wlan0", &["10.1.2.3/16"]).replace('\n', ";");
    // An address that IPv6 first makes sure of, and one of an interface that was down.
    let v6 = "ip addr add 2001:db8:4::4/64 dev eth0";
    let eth1 = cable("eth1", &["10.8.0.1/16"]);
    let down = format!("{eth1}ip link set eth1 down\n");
    let later = [wlan0.as_str(), v6, "ip link set eth1 up"].join("\n");
    let Some(offered) = offered(&[&script, &down[..]].concat(), &later) else { return };
    assert_eq!(offered, ["192.168.7.9", "10.1.2.3", "2001:db8:4::4", "10.8.0.1"]);
}
