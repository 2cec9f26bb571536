//! Whole worlds: stacked routers, presets, errors on the way, changes while running.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod build;
mod properties;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use build::{SERVER, World, books_balance, ends, ip, send, sock};
use meshwire_netsim::packet::{ACK, Build, SYN, Transport, View, build as packet};
use meshwire_netsim::{
    Builder, Change, ConfigError, Direction, LinkConfig, LinkState, Preset, Reason, RouterConfig,
    Time, Uplink, Wire,
};

const T0: Time = Time::ZERO;
const UDP: Build<'static> = Build::Udp(b"x");

fn to(port: u16) -> String {
    format!("{SERVER}:{port}")
}

/// ICMP type and code, if it is one.
fn icmp(packet: &[u8]) -> (u8, u8) {
    let at = View::parse(packet).unwrap().ip.transport;
    (packet[at], packet[at + 1])
}

#[test]
fn presets_let_through_what_they_say() {
    // UDP to 53, UDP to 443, TCP to 443, TCP to 22, IPv6 UDP.
    let expected = |preset| match preset {
        Preset::Hotel => [true, false, true, true, false],
        Preset::Corporate => [false, false, true, false, false],
        Preset::Ipv6Only => [false, false, false, false, true],
        Preset::CloudOneToOne => [false, false, false, false, true],
        _ => [true; 5],
    };
    for preset in Preset::ALL {
        let mut world = World::new(1);
        let home = world.preset(1, preset);
        let server = world.server;
        let mut engine = world.go();
        let v6 = "[2001:db8:5::5]:443";
        let mut reaches = |from: &str, to: &str, what| {
            let got = send(&mut engine, T0, home.host, from, to, what);
            got.iter().any(|d| d.host == server)
        };
        // An open router translates nothing; the core has no way back, but a way there.
        let got = [
            reaches("10.0.1.2:1000", &to(53), UDP),
            reaches("10.0.1.2:1001", &to(443), UDP),
            reaches("10.0.1.2:1002", &to(443), Build::tcp(SYN)),
            reaches("10.0.1.2:1003", &to(22), Build::tcp(SYN)),
            reaches("[2001:db8:101::2]:1004", v6, UDP),
        ];
        assert_eq!(got, expected(preset), "{preset}");
        books_balance(&engine);
        assert_eq!(preset.name().parse(), Ok(preset));
        assert!(!preset.properties().is_empty() && !preset.equipment().is_empty());
    }
}

#[test]
fn rejected_flows_are_told() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::Corporate);
    let mut engine = world.go();
    let got = send(&mut engine, T0, home.host, "10.0.1.2:1", &to(9), UDP);
    assert_eq!(icmp(&got[0].packet), (3, 13));
    let got = send(&mut engine, T0, home.host, "10.0.1.2:1", &to(22), Build::tcp(SYN));
    let view = View::parse(&got[0].packet).unwrap();
    assert!(matches!(view.transport, Transport::Tcp { flags, .. } if flags & 4 != 0));
}

#[test]
fn ipv6_firewall_admits_answers_only() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::Ipv6Only);
    let server = world.server;
    let mut engine = world.go();
    let (inside, outside) = ("[2001:db8:101::2]:1000", "[2001:db8:5::5]:2000");
    assert!(send(&mut engine, T0, server, outside, inside, UDP).is_empty());
    assert_eq!(send(&mut engine, T0, home.host, inside, outside, UDP).len(), 1);
    assert_eq!(send(&mut engine, T0, server, outside, inside, UDP).len(), 1);
    let other = "[2001:db8:5::5]:2001";
    assert!(send(&mut engine, T0, server, other, inside, UDP).is_empty());
    let later = Time::from_secs(301);
    assert!(send(&mut engine, later, server, outside, inside, UDP).is_empty(), "forgotten");
    assert_eq!(engine.ledger().dropped(Reason::Firewall), 3);
    books_balance(&engine);
}

#[test]
fn double_nat_and_cgnat_translate_twice_and_back() {
    let mut world = World::new(3);
    let access = {
        let b = &mut world.builder;
        let access = b.segment("access", &["100.64.0.0/10".parse().unwrap()]).unwrap();
        let up = [ip("198.51.100.200")];
        let uplink = Uplink { net: world.core, addresses: &up, routed: &[], wire: Wire::default() };
        let cgn = b.router("cgn", Preset::Cgnat.router(), &uplink).unwrap();
        b.inside(cgn, access, &[ip("100.64.0.1")], &[], Wire::default()).unwrap();
        access
    };
    let router = Preset::PortRestricted.router();
    let home = world.behind(1, router.clone(), Wire::default(), access, "100.64.0.10");
    let other = world.behind(2, router, Wire::default(), access, "100.64.0.11");
    let server = world.server;
    let mut engine = world.go();
    let got = send(&mut engine, T0, home.host, "10.0.1.2:4000", &to(9), UDP);
    let seen = ends(&got[0].packet).0;
    assert_eq!(seen.ip(), ip("198.51.100.200"));
    let back = send(&mut engine, T0, server, &to(9), &seen.to_string(), UDP);
    assert_eq!(ends(&back[0].packet).1, sock("10.0.1.2:4000"));
    assert_eq!(back[0].host, home.host);
    // Both homes punch towards each other's outermost endpoint: the carrier's NAT hairpins.
    let got = send(&mut engine, T0, other.host, "10.0.2.2:4000", &to(9), UDP);
    let seen2 = ends(&got[0].packet).0;
    send(&mut engine, T0, home.host, "10.0.1.2:4000", &seen2.to_string(), UDP);
    let got = send(&mut engine, T0, other.host, "10.0.2.2:4000", &seen.to_string(), UDP);
    assert_eq!((got.len(), got[0].host), (1, home.host));
    assert_eq!(ends(&got[0].packet).0, seen2);
    books_balance(&engine);
}

/// Whether two homes can reach each other by sending to the endpoint that a server saw.
fn punches(one: Preset, two: Preset) -> bool {
    let mut world = World::new(5);
    let (a, b) = (world.preset(1, one), world.preset(2, two));
    let mut engine = world.go();
    let (inside_a, inside_b) = ("10.0.1.2:4000", "10.0.2.2:4000");
    let seen_a = ends(&send(&mut engine, T0, a.host, inside_a, &to(9), UDP)[0].packet).0;
    let seen_b = ends(&send(&mut engine, T0, b.host, inside_b, &to(9), UDP)[0].packet).0;
    (0..3).any(|_| {
        let there = send(&mut engine, T0, a.host, inside_a, &seen_b.to_string(), UDP);
        let back = send(&mut engine, T0, b.host, inside_b, &seen_a.to_string(), UDP);
        there.iter().any(|d| d.host == b.host) && back.iter().any(|d| d.host == a.host)
    })
}

#[test]
fn plain_hole_punching_works_where_it_can() {
    use Preset::{AddressRestricted, Cgnat, FullCone, Mobile, PortRestricted, Symmetric};
    for one in [FullCone, AddressRestricted, PortRestricted, Cgnat] {
        for two in [FullCone, AddressRestricted, PortRestricted, Cgnat] {
            assert!(punches(one, two), "{one} {two}");
        }
    }
    // Without learning the peer's real endpoint, a symmetric side is reached by nobody.
    for (one, two) in [(Symmetric, Symmetric), (PortRestricted, Symmetric), (Mobile, Symmetric)] {
        assert!(!punches(one, two) && !punches(two, one), "{one} {two}");
    }
}

#[test]
fn time_exceeded_comes_back_through_the_nat() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::Symmetric);
    let mut engine = world.go();
    for (ttl, from) in [(1, "10.0.1.1"), (2, "192.0.0.8")] {
        let mut probe = packet(sock("10.0.1.2:4000"), sock(&to(33_434)), UDP);
        let view = View::parse(&probe).unwrap();
        assert!(meshwire_netsim::packet::decrement_ttl(&mut probe, &view, 64 - ttl));
        engine.send(T0, home.host, probe);
        let got = engine.poll(T0).unwrap();
        let view = View::parse(&got.packet).unwrap();
        assert_eq!((icmp(&got.packet), view.ip.source), ((11, 0), ip(from)));
        let quote = View::parse_quoted(&got.packet[view.ip.transport + 8..]).unwrap();
        assert_eq!((quote.ip.source, quote.ports().0), (ip("10.0.1.2"), 4000));
    }
    assert_eq!(engine.ledger().dropped(Reason::TtlExpired), 2);
    books_balance(&engine);
}

#[test]
fn unknown_addresses_are_unreachable_and_own_ones_answer() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::PortRestricted);
    let mut engine = world.go();
    let got = send(&mut engine, T0, home.host, "10.0.1.2:1", "192.0.2.99:1", UDP);
    assert_eq!(icmp(&got[0].packet), (3, 1));
    let ping = Build::Echo { reply: false, sequence: 1, payload: b"p" };
    for target in ["10.0.1.1:1", "198.51.100.1:1"] {
        let got = send(&mut engine, T0, home.host, "10.0.1.2:1", target, ping);
        assert_eq!(icmp(&got[0].packet).0, 0);
    }
    send(&mut engine, T0, home.host, "10.9.9.9:1", &to(1), UDP);
    assert_eq!(engine.ledger().dropped(Reason::WrongSource), 1);
    books_balance(&engine);
}

#[test]
fn too_big_packets_are_reported_fragmented_or_swallowed() {
    for (mtu_signal, v6) in [(true, false), (true, true), (false, false)] {
        let narrow = LinkConfig { mtu: 1280, mtu_signal, ..LinkConfig::default() };
        let mut world = World::new(1);
        let home = world.home(1, Preset::PortRestricted.router(), Wire::both(narrow));
        let server = world.server;
        let mut engine = world.go();
        let payload = [7; 1400];
        let (from, target) = if v6 {
            ("[2001:db8:101::2]:1", "[2001:db8:5::5]:9".to_owned())
        } else {
            ("10.0.1.2:1", to(9))
        };
        let got = send(&mut engine, T0, home.host, from, &target, Build::Udp(&payload));
        match (mtu_signal, v6) {
            (false, _) => assert!(got.is_empty()),
            (true, true) => assert_eq!(icmp(&got[0].packet), (2, 0)),
            (true, false) => {
                assert_eq!((icmp(&got[0].packet), got[0].host), ((3, 4), home.host));
                assert_eq!(got[0].packet[26..28], 1280_u16.to_be_bytes());
                // Back down the narrow link: the core reports, the NAT puts it back... to the server.
                let hello = send(&mut engine, T0, home.host, from, &target, UDP);
                let seen = ends(&hello[0].packet).0.to_string();
                let got = send(&mut engine, T0, server, &target, &seen, Build::Udp(&payload));
                assert_eq!((icmp(&got[0].packet), got[0].host), ((3, 4), server));
            }
        }
        assert!(engine.ledger().dropped(Reason::TooBig) >= 1);
        books_balance(&engine);
    }
}

/// RFC 4787, REQ-13 and REQ-13a.
#[test]
fn rfc4787_req_13_and_13a_fragmentation_of_outbound_packets() {
    let narrow = Wire::both(LinkConfig { mtu: 600, ..LinkConfig::default() });
    let mut world = World::new(1);
    let home = world.home(1, Preset::FullCone.router(), narrow);
    let mut engine = world.go();
    let mut whole = packet(sock("10.0.1.2:1"), sock(&to(9)), Build::Udp(&[7; 1400]));
    engine.send(T0, home.host, whole.clone());
    assert_eq!(icmp(&engine.poll(T0).unwrap().packet), (3, 4), "DF set");
    whole[6] = 0;
    whole[10..12].copy_from_slice(&[0, 0]);
    let check = meshwire_netsim::packet::checksum(&whole[..20]);
    whole[10..12].copy_from_slice(&check.to_be_bytes());
    engine.send(T0, home.host, whole);
    let mut offset = 0;
    while let Some(piece) = engine.poll(T0) {
        let view = View::parse(&piece.packet).unwrap();
        assert!(piece.packet.len() <= 600);
        assert_eq!(view.ip.fragment.unwrap().offset, offset, "in order");
        offset += u32::try_from(view.ip.end - view.ip.transport).unwrap();
    }
    assert_eq!(offset, 1408);
    books_balance(&engine);
}

#[test]
fn partitions_divide_and_heal() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::FullCone);
    let (core, server_iface) = (world.core, world.server_iface);
    let mut engine = world.go();
    let reaches =
        |engine: &mut _| !send(engine, T0, home.host, "10.0.1.2:1", &to(9), UDP).is_empty();
    assert!(reaches(&mut engine));
    let parts = vec![vec![server_iface], vec![home.uplink]];
    engine.control(T0, Change::Partition { net: core, parts }).unwrap();
    assert!(!reaches(&mut engine));
    assert_eq!(engine.ledger().dropped(Reason::Partitioned), 1);
    engine.control(T0, Change::Heal { net: core }).unwrap();
    assert!(reaches(&mut engine));
    let stranger = vec![vec![home.host_iface]];
    let refused = engine.control(T0, Change::Partition { net: core, parts: stranger });
    assert!(matches!(refused, Err(ConfigError::Unknown(_))));
}

#[test]
fn links_go_down_with_what_is_on_them_and_black_holes_swallow() {
    let mut world = World::new(1);
    let slow = Wire::both(LinkConfig::with_latency(Duration::from_millis(50)));
    let home = world.home(1, Preset::FullCone.router(), slow);
    let mut engine = world.go();
    let state = |state| Change::State { iface: home.uplink, direction: Direction::Both, state };
    let at = Time::from_millis;
    assert!(send(&mut engine, T0, home.host, "10.0.1.2:1", &to(9), UDP).is_empty());
    engine.control(at(20), state(LinkState::Down)).unwrap();
    engine.control(at(21), state(LinkState::Up)).unwrap();
    assert!(engine.poll(at(100)).is_none());
    assert_eq!(engine.ledger().dropped(Reason::LinkDown), 1);
    // Into a black hole: what was on the way arrives, what comes after does not.
    send(&mut engine, at(200), home.host, "10.0.1.2:1", &to(9), UDP);
    engine.control(at(210), state(LinkState::BlackHole)).unwrap();
    send(&mut engine, at(220), home.host, "10.0.1.2:1", &to(9), UDP);
    assert_eq!(engine.poll(at(400)).unwrap().at, at(250));
    assert!(engine.poll(at(400)).is_none());
    assert_eq!(engine.ledger().dropped(Reason::BlackHole), 1);
    books_balance(&engine);
}

#[test]
fn a_new_outside_address_and_a_reboot_end_all_mappings() {
    for reboot in [false, true] {
        let mut world = World::new(1);
        let home = world.preset(1, Preset::FullCone);
        let server = world.server;
        let mut engine = world.go();
        let hello = |engine: &mut _| {
            ends(&send(engine, T0, home.host, "10.0.1.2:1", &to(9), UDP)[0].packet).0
        };
        let old = hello(&mut engine);
        assert_eq!(engine.mappings(home.router).len(), 1);
        let change = if reboot {
            Change::Reboot { router: home.router }
        } else {
            let addresses = vec![ip("198.51.100.77"), ip("2001:db8:ff::1")];
            Change::Address { iface: home.uplink, addresses }
        };
        engine.control(T0, change).unwrap();
        assert_eq!(engine.mappings(home.router).len(), 0);
        let back = send(&mut engine, T0, server, &to(9), &old.to_string(), UDP);
        assert!(back.iter().all(|d| d.host == server), "the old mapping is gone");
        let new = hello(&mut engine);
        assert_eq!(new.ip() == old.ip(), reboot);
        assert_eq!(send(&mut engine, T0, server, &to(9), &new.to_string(), UDP).len(), 1);
        let taken = Change::Address { iface: home.uplink, addresses: vec![ip(SERVER)] };
        assert!(matches!(engine.control(T0, taken), Err(ConfigError::AddressTaken { .. })));
        books_balance(&engine);
    }
}

#[test]
fn a_host_changes_its_address() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::FullCone);
    let mut engine = world.go();
    let addresses = vec![ip("10.0.1.99")];
    engine.control(T0, Change::Address { iface: home.host_iface, addresses }).unwrap();
    assert!(send(&mut engine, T0, home.host, "10.0.1.2:1", &to(9), UDP).is_empty());
    assert_eq!(send(&mut engine, T0, home.host, "10.0.1.99:1", &to(9), UDP).len(), 1);
}

#[test]
fn unsolicited_syn_is_answered_by_the_engine_in_time() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::PortRestricted);
    let server = world.server;
    let mut engine = world.go();
    send(&mut engine, T0, home.host, "10.0.1.2:80", &to(9), Build::tcp(SYN));
    assert!(send(&mut engine, T0, server, &to(10), "198.51.100.1:80", Build::tcp(SYN)).is_empty());
    assert_eq!(engine.next_deadline(), Some(Time::from_secs(6)));
    assert!(engine.poll(Time::from_millis(5999)).is_none());
    let got = engine.poll(Time::from_secs(6)).unwrap();
    assert_eq!((got.host, icmp(&got.packet)), (server, (3, 3)));
    assert_eq!(
        send(&mut engine, T0, server, &to(9), "198.51.100.1:80", Build::tcp(SYN | ACK)).len(),
        1
    );
    books_balance(&engine);
}

#[test]
fn the_trace_names_time_place_ends_and_event() {
    let mut world = World::new(1);
    let home = world.preset(1, Preset::FullCone);
    let mut engine = world.go();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    engine.set_trace(move |t| sink.lock().unwrap().push(t.to_string()));
    send(&mut engine, Time::from_nanos(7), home.host, "10.0.1.2:1024", &to(9), UDP);
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "7 host1 10.0.1.2:1024 203.0.113.5:9 udp 29 sent",
            "7 router1 198.51.100.1:1024 203.0.113.5:9 udp 29 forwarded",
            "7 server 198.51.100.1:1024 203.0.113.5:9 udp 29 delivered",
        ]
    );
}

#[test]
fn topologies_that_cannot_be_are_refused() {
    let mut b = Builder::new(1);
    let core = b.core("net").unwrap();
    assert_eq!(b.core("net").unwrap_err(), ConfigError::NameTaken("net".to_owned()));
    let bare = b.segment("bare", &[]).unwrap();
    let v6 = [ip("2001:db8::1")];
    let uplink = Uplink { net: core, addresses: &v6, routed: &[], wire: Wire::default() };
    let refused = b.router("r", Preset::FullCone.router(), &uplink);
    assert_eq!(refused.unwrap_err(), ConfigError::NoExternalAddress);
    let router = b.router("r", RouterConfig::default(), &uplink).unwrap();
    let wire = Wire::default();
    let refused = b.inside(router, bare, &v6, &[], wire).unwrap_err();
    assert_eq!(refused, ConfigError::NoSubnet("bare".to_owned()));
    let host = b.host("h").unwrap();
    assert!(matches!(b.attach(host, core, &v6, wire), Err(ConfigError::AddressTaken { .. })));
    assert!(matches!(b.attach(host, core, &[], wire), Err(ConfigError::NoAddress(_))));
    let lan = b.segment("lan", &["10.0.0.0/8".parse().unwrap()]).unwrap();
    b.inside(router, lan, &[ip("10.0.0.1")], &[], wire).unwrap();
    let refused = b.inside(router, lan, &[ip("10.0.0.2")], &[], wire).unwrap_err();
    assert_eq!(refused, ConfigError::TwoGateways("lan".to_owned()));
}
