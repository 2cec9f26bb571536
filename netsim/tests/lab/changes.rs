//! Changes while programs run.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use meshwire_netsim::lab::{LabError, Options};
use meshwire_netsim::{Change, ConfigError, Direction, LinkConfig, LinkState, Preset, Wire};

use crate::world::{ip, output, ready, receive, soon, udp, world};

/// Longer than a packet needs that comes at all.
const NEVER: Duration = Duration::from_millis(300);

#[test]
fn a_black_hole_swallows_and_an_address_change_moves_a_host() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::FullCone, Wire::default());
    let lab = world.start(Options::default());
    let server = udp(&lab, world.server, "0.0.0.0:53");
    let alice = udp(&lab, world.alice, "0.0.0.0:4000");
    alice.send_to(b"1", "203.0.113.1:53").expect("sent");
    assert_eq!(soon(&server).0, b"1");

    let state = |state| {
        let iface = world.alice_uplink;
        lab.control(Change::State { iface, direction: Direction::Both, state }).expect("a change");
    };
    state(LinkState::BlackHole);
    alice.send_to(b"2", "203.0.113.1:53").expect("sent");
    assert_eq!(receive(&server, NEVER), None);
    state(LinkState::Up);
    alice.send_to(b"3", "203.0.113.1:53").expect("sent");
    assert_eq!(soon(&server).0, b"3");

    // The router's uplink, then the host itself.
    let addresses = vec![ip("198.18.0.77")];
    lab.control(Change::Address { iface: world.alice_uplink, addresses }).expect("a change");
    alice.send_to(b"4", "203.0.113.1:53").expect("sent");
    let (text, from) = soon(&server);
    assert_eq!((&text[..], from.ip()), (&b"4"[..], ip("198.18.0.77")));
    let addresses = vec![ip("10.0.1.9")];
    lab.control(Change::Address { iface: world.alice_iface, addresses }).expect("a change");
    alice.send_to(b"5", "203.0.113.1:53").expect("sent");
    assert_eq!(soon(&server).0, b"5");
    let shown = output(&lab, world.alice, "ip", &["-o", "addr", "show", "dev", "eth0"]);
    assert!(shown.contains("10.0.1.9/24") && !shown.contains("10.0.1.2"), "{shown}");
    let addresses = vec![ip("2001:db8:1::2"), ip("203.0.113.2")];
    lab.control(Change::Address { iface: world.server_iface, addresses }).expect("a change");
    alice.send_to(b"6", "203.0.113.2:53").expect("sent");
    assert_eq!(soon(&server).0, b"6");

    let addresses = vec![ip("10.0.1.1")];
    let taken = lab.control(Change::Address { iface: world.alice_iface, addresses });
    assert!(matches!(taken, Err(LabError::Config(ConfigError::AddressTaken { .. }))));
    lab.shutdown().expect("an end");
}

#[test]
fn names_follow_the_addresses_of_hosts() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::FullCone, Wire::default());
    let lab = world.start(Options::default());
    let asks = |host| output(&lab, host, "getent", &["ahostsv4", "server"]);
    assert!(asks(world.alice).starts_with("203.0.113.1 "));
    // A program that runs while the name changes.
    let script = "read; getent ahostsv4 server";
    let mut asker = lab.command(world.bob, "bash").expect("a host");
    asker.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut asker = asker.spawn().expect("bash");
    for address in ["203.0.113.200", "203.0.113.2"] {
        let (iface, addresses) = (world.server_iface, vec![ip(address), ip("2001:db8:1::2")]);
        lab.control(Change::Address { iface, addresses }).expect("a change");
        assert!(asks(world.alice).starts_with(&format!("{address} ")), "{}", asks(world.alice));
        assert!(!output(&lab, world.alice, "cat", &["/etc/hosts"]).contains("203.0.113.1 "));
    }
    asker.stdin.take().expect("its input").write_all(b"now\n").expect("written");
    let said = asker.wait_with_output().expect("an end").stdout;
    assert!(said.starts_with(b"203.0.113.2 "), "{}", String::from_utf8_lossy(&said));
    lab.shutdown().expect("an end");
}

#[test]
fn a_host_sees_its_carrier_and_its_mtu() {
    if !ready() {
        return;
    }
    let mut world = world(Preset::FullCone, Wire::default());
    let lab = world.start(Options::default());
    let (iface, direction) = (world.alice_iface, Direction::Both);
    let link = || output(&lab, world.alice, "ip", &["-o", "link", "show", "dev", "eth0"]);
    assert!(link().contains("mtu 1500") && link().contains("LOWER_UP"), "{}", link());
    let config = LinkConfig { mtu: 1280, ..LinkConfig::default() };
    lab.control(Change::Link { iface, direction, config }).expect("a change");
    assert!(link().contains("mtu 1280"), "{}", link());
    lab.control(Change::State { iface, direction, state: LinkState::Down }).expect("a change");
    assert!(link().contains("NO-CARRIER"), "{}", link());
    lab.control(Change::State { iface, direction, state: LinkState::Up }).expect("a change");
    let server = udp(&lab, world.server, "0.0.0.0:53");
    udp(&lab, world.alice, "0.0.0.0:0").send_to(b"back", "203.0.113.1:53").expect("sent");
    assert_eq!(soon(&server).0, b"back");
    lab.shutdown().expect("an end");
}

#[test]
fn a_host_with_two_interfaces_answers_through_the_one_that_was_asked() {
    if !ready() {
        return;
    }
    let mut builder = meshwire_netsim::Builder::new(1);
    let core = builder.core("internet").expect("a core");
    let both = builder.host("both").expect("a host");
    let wifi = [ip("198.51.100.1"), ip("2001:db8::1")];
    let mobile = [ip("203.0.113.1"), ip("2001:db8::2")];
    let first = builder.attach(both, core, &wifi, Wire::default()).expect("a link");
    let second = builder.attach(both, core, &mobile, Wire::default()).expect("a link");
    let peer = builder.host("peer").expect("a host");
    let own = [ip("192.0.2.1"), ip("2001:db8::3")];
    builder.attach(peer, core, &own, Wire::default()).expect("a link");
    let lab = meshwire_netsim::lab::Lab::start(builder, Options::default()).expect("a lab");
    for (bind, from, to) in [
        ("203.0.113.1:0", "192.0.2.1:0", "192.0.2.1"),
        ("[2001:db8::2]:0", "[2001:db8::3]:0", "2001:db8::3"),
    ] {
        let asker = udp(&lab, peer, from);
        let socket = udp(&lab, both, bind);
        let at = asker.local_addr().expect("an address");
        assert_eq!(at.ip(), ip(to));
        socket.send_to(b"hello", at).expect("sent");
        assert_eq!(soon(&asker).1, socket.local_addr().expect("an address"));
    }
    let traffic = |iface| lab.traffic(iface).expect("the lab").expect("an interface").up_packets;
    assert_eq!((traffic(first), traffic(second)), (0, 2));
    // Without the first link, programs leave through the second.
    let (direction, state) = (Direction::Both, LinkState::Down);
    lab.control(Change::State { iface: first, direction, state }).expect("a change");
    let asker = udp(&lab, peer, "192.0.2.1:7");
    udp(&lab, both, "0.0.0.0:0").send_to(b"hello", "192.0.2.1:7").expect("sent");
    assert_eq!(soon(&asker).1.ip(), ip("203.0.113.1"));
    lab.shutdown().expect("an end");
}
