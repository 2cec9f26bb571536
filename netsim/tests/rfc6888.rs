//! RFC 6888, Common Requirements for Carrier-Grade NATs: each requirement that the engine claims.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use meshwire_netsim::nat::{Exempt, Limits, Napt, NatConfig, PortRule, Ports, Refusal};
use meshwire_netsim::packet::{ACK, Build, FIN, SYN, View, build};
use meshwire_netsim::{ConfigError, Preset, Reason};

fn carrier() -> Napt {
    match Preset::Cgnat.router().nat {
        Some(NatConfig::Ports(napt)) => *napt,
        other => panic!("{other:?}"),
    }
}

fn subscriber(n: u32) -> String {
    format!("100.64.{}.{}:4000", n / 200, 2 + n % 200)
}

#[test]
fn rfc6888_req_1_and_7_the_preset_meets_the_protocols_requirements() {
    let mut lab = Lab::new(carrier());
    let outer = lab.udp(IN, A).unwrap();
    assert_eq!(lab.udp(IN, B), Ok(outer), "REQ-7: endpoint-independent mapping");
    assert_eq!(lab.udp_back("203.0.113.77:1", outer), Ok(sock(IN)), "REQ-7: and filtering");
    let two = lab.udp(IN2, A).unwrap();
    assert_eq!(lab.hairpin(build(sock(IN), two, Build::Udp(b"x"))), Ok((outer, sock(IN2))));
}

#[test]
fn rfc6888_req_2_pooling_is_paired_by_default() {
    let mut lab = Lab::with(carrier(), &["198.51.100.1", "198.51.100.2", "198.51.100.3"]);
    for n in 0..30 {
        let host = format!("100.64.0.{}", n + 2);
        let udp = lab.udp(&format!("{host}:1000"), A).unwrap().ip();
        assert_eq!(lab.udp(&format!("{host}:2000"), B).unwrap().ip(), udp);
        assert_eq!(lab.tcp(&format!("{host}:1000"), A, SYN).unwrap().ip(), udp);
    }
}

#[test]
fn rfc6888_req_3_the_pool_need_not_be_contiguous() {
    let pool = ["198.51.100.1", "192.0.2.200", "203.0.113.250"];
    let mut lab = Lab::with(carrier(), &pool);
    let used: BTreeSet<_> = (0..30).map(|n| lab.udp(&subscriber(n), A).unwrap().ip()).collect();
    assert_eq!(used, pool.map(ip).into());
}

#[test]
fn rfc6888_req_4_and_4a_and_4b_ports_of_one_subscriber_are_limited() {
    let limits = Limits { per_subscriber: Some(10), ..Limits::default() };
    let mut lab = Lab::new(Napt { limits, ..carrier() });
    let from = |n: u16| format!("100.64.0.2:{}", 2000 + n);
    for n in 0..10 {
        lab.udp(&from(n), A).unwrap();
    }
    assert_eq!(lab.udp(&from(10), A), Err(Reason::Limit));
    assert!(lab.tcp(&from(10), A, SYN).is_ok(), "REQ-4B: each protocol by itself");
    assert!(lab.udp("100.64.0.3:2000", A).is_ok(), "another subscriber");
    assert!(lab.udp(&from(3), B).is_ok(), "a mapping that is there");
}

#[test]
fn rfc6888_req_5_and_5a_state_of_one_mapping_is_limited() {
    let limits = Limits { sessions: 16, ..Limits::default() };
    let mut lab = Lab::new(Napt { limits, ..Napt::new(EI, APD) });
    let to = |n: u16| format!("203.0.113.1:{}", 1000 + n);
    for n in 0..16 {
        lab.udp(IN, &to(n)).unwrap();
    }
    assert_eq!(lab.udp(IN, &to(16)), Err(Reason::Limit));
}

#[test]
fn rfc6888_req_6_translation_can_be_turned_off_for_destinations() {
    let exempt = vec![
        Exempt { to: "192.0.2.0/24".parse().unwrap(), port: None },
        Exempt { to: "203.0.113.9/32".parse().unwrap(), port: Some(7000) },
    ];
    let mut lab = Lab::new(Napt { exempt, ..carrier() });
    assert_eq!(lab.udp(IN, "192.0.2.7:1"), Ok(sock(IN)));
    assert_eq!(lab.udp_back("192.0.2.7:1", sock(IN)), Ok(sock(IN)));
    assert_eq!(lab.udp(IN, B), Ok(sock(IN)));
    assert_eq!(lab.udp(IN, "203.0.113.9:7001").unwrap().ip(), ip(EXT));
}

#[test]
fn rfc6888_req_8_ports_rest_before_they_are_given_out_again() {
    assert!(carrier().ports.hold >= Duration::from_secs(120));
    let ports = Ports { rule: PortRule::Sequential, range: (5000, 5000), ..carrier().ports };
    let limits = Limits { per_subscriber: Some(1), ..Limits::default() };
    let mut lab = Lab::new(Napt { ports, limits, ..carrier() });
    lab.udp(&subscriber(0), A).unwrap();
    lab.wait(300);
    assert_eq!(lab.udp(&subscriber(1), A), Err(Reason::NoPorts));
    lab.wait(119);
    assert_eq!(lab.udp(&subscriber(1), A), Err(Reason::NoPorts));
    lab.wait(1);
    assert!(lab.udp(&subscriber(1), A).is_ok());
}

#[test]
fn rfc6888_req_8a_tcp_ports_may_be_used_again_at_once() {
    let ports = Ports { rule: PortRule::Sequential, range: (5000, 5000), ..carrier().ports };
    let limits = Limits { per_subscriber: Some(1), ..Limits::default() };
    let mut lab = Lab::new(Napt { ports, limits, ..carrier() });
    let outer = lab.tcp(&subscriber(0), A, SYN).unwrap();
    lab.tcp_back(A, outer, FIN | ACK).unwrap();
    lab.tcp(&subscriber(0), A, FIN | ACK).unwrap();
    lab.wait(240);
    assert!(lab.tcp(&subscriber(1), A, SYN).is_ok());
}

#[test]
fn rfc6888_req_11_and_11a_and_11b_and_11d_exhaustion_drops_tells_and_removes_nothing() {
    let ports = Ports { range: (5000, 5009), hold: Duration::ZERO, ..carrier().ports };
    let limits = Limits { per_subscriber: Some(10), ..Limits::default() };
    assert_eq!(carrier().refusal, Refusal::HostUnreachable);
    let mut lab = Lab::new(Napt { ports, limits, ..carrier() });
    let outers: Vec<_> = (0..10).map(|n| lab.udp(&subscriber(n), A).unwrap()).collect();
    assert_eq!(lab.udp(&subscriber(10), A), Err(Reason::NoPorts), "A: dropped");
    let answer = lab.answer.take().unwrap();
    assert_eq!(icmp(&answer), (3, 1, sock(&subscriber(10)), sock(A)), "B: told");
    for (n, outer) in (0..).zip(outers) {
        assert_eq!(lab.udp_back(A, outer), Ok(sock(&subscriber(n))), "D: none removed");
    }
}

#[test]
fn rfc6888_req_13_every_port_can_be_used() {
    let ports = Ports { range: (5000, 5999), ..carrier().ports };
    let mut lab = Lab::new(Napt { ports, ..carrier() });
    let used: BTreeSet<_> = (0..1000).map(|n| lab.udp(&subscriber(n), A).unwrap()).collect();
    assert_eq!(used.len(), 1000);
}

#[test]
fn rfc6888_req_15_ports_are_hard_to_guess() {
    let mut lab = Lab::new(carrier());
    let ports: Vec<u16> = (0..400).map(|n| lab.udp(&subscriber(n), A).unwrap().port()).collect();
    let near = ports.windows(2).filter(|w| w[0].abs_diff(w[1]) < 256).count();
    // Two independent ports are that near with a chance of 0.8 %: 3 of 399 expected.
    assert!(near < 15, "{near} of 399 neighbours are near");
    let low = ports.iter().filter(|p| **p < 33_280).count();
    assert!((140..260).contains(&low), "{low} of 400 in the lower half");
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let outside = ["198.51.100.1".parse().unwrap()];
    let check = |napt| NatConfig::ports(napt).check(&outside);
    let limit = |n| Limits { per_subscriber: Some(n), ..Limits::default() };
    let refused = check(Napt { limits: limit(100), ..Napt::default() });
    assert_eq!(refused, Err(ConfigError::PreserveLimit(100)));
    let refused = check(Napt { limits: limit(70_000), ..carrier() });
    assert_eq!(refused, Err(ConfigError::LimitAboveRange { limit: 70_000, ports: 64_512 }));
    assert!(matches!(
        check(Napt { limits: limit(0), ..carrier() }),
        Err(ConfigError::ZeroLimit(_))
    ));
    let (packet, _) =
        Lab::new(carrier()).pass(true, build(sock(IN), sock(A), Build::Udp(b""))).unwrap();
    assert!(View::parse(&packet).is_ok());
}
