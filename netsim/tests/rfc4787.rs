//! RFC 4787, Network Address Translation (NAT) Behavioral Requirements for Unicast UDP: each
//! requirement that the engine claims.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use meshwire_netsim::nat::{Napt, Pooling, PortRule, Ports, Taken, Verdict};
use meshwire_netsim::packet::{Build, View, build, fragment};
use meshwire_netsim::{Lifetimes, Reason, Time};

#[test]
fn rfc4787_req_1_endpoint_independent_mapping_keeps_the_outside_endpoint() {
    let mut lab = Lab::new(Napt::default());
    let first = lab.udp(IN, A).unwrap();
    assert_eq!(lab.udp(IN, A2), Ok(first));
    assert_eq!(lab.udp(IN, B), Ok(first));
    assert_ne!(lab.udp(IN2, A).unwrap(), first);
}

#[test]
fn rfc4787_req_1_the_other_mappings_are_told_apart() {
    for filtering in ALL {
        let mut lab = Lab::new(Napt::new(AD, filtering));
        let first = lab.udp(IN, A).unwrap();
        assert_eq!(lab.udp(IN, A2), Ok(first));
        assert_ne!(lab.udp(IN, B).unwrap(), first);

        let mut lab = Lab::new(Napt::new(APD, filtering));
        let ends: BTreeSet<_> = [A, A2, B].map(|to| lab.udp(IN, to).unwrap()).into();
        assert_eq!(ends.len(), 3);
        assert_eq!(lab.udp(IN, A).unwrap().port(), 4000);
    }
}

#[test]
fn rfc4787_req_2_paired_pooling_gives_a_host_one_address() {
    let pool = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
    let mut lab = Lab::with(Napt::new(APD, APD), &pool);
    let addresses = |lab: &mut Lab, host: &str| -> BTreeSet<_> {
        let to = |n| format!("203.0.113.1:{n}");
        (1..20).map(|n| lab.udp(host, &to(n)).unwrap().ip()).collect()
    };
    let (one, two) = (addresses(&mut lab, IN), addresses(&mut lab, IN2));
    assert_eq!((one.len(), two.len()), (1, 1));
    assert_ne!(one, two, "hosts are spread");
    let arbitrary = Napt { pooling: Pooling::Arbitrary, ..Napt::new(APD, APD) };
    assert_eq!(addresses(&mut Lab::with(arbitrary, &pool), IN).len(), 3);
}

#[test]
fn rfc4787_req_3_no_port_overloading() {
    for taken in [Taken::NextFree, Taken::Random] {
        let ports = Ports { rule: PortRule::Preserving(taken), ..Ports::default() };
        let mut lab = Lab::new(Napt { ports, ..Napt::new(APD, APD) });
        let (one, two) = (lab.udp(IN, A).unwrap(), lab.udp(IN2, B).unwrap());
        assert_eq!(one.port(), 4000);
        assert_ne!(one, two);
    }
    // What the requirement forbids, as Linux does it.
    let ports = Ports { rule: PortRule::Preserving(Taken::Share), ..Ports::default() };
    let mut lab = Lab::new(Napt { ports, ..Napt::new(APD, APD) });
    let (one, two) = (lab.udp(IN, A).unwrap(), lab.udp(IN2, B).unwrap());
    assert_eq!(one, two);
    assert_eq!(lab.udp_back(A, one), Ok(sock(IN)));
    assert_eq!(lab.udp_back(B, one), Ok(sock(IN2)));
    let other = lab.udp(IN2, A).unwrap();
    assert_ne!(other, one, "the whole tuple is taken");
    assert_eq!(lab.udp(IN2, A2), Ok(other), "what it was given last goes before what it wants");
}

#[test]
fn rfc4787_req_3a_ports_keep_their_class() {
    for rule in [PortRule::Preserving(Taken::NextFree), PortRule::Sequential, PortRule::Random] {
        let ports = Ports { rule, ..Ports::default() };
        let mut lab = Lab::new(Napt { ports, ..Napt::default() });
        for host in 2..40 {
            let low = lab.udp(&format!("10.0.0.{host}:500"), A).unwrap();
            let high = lab.udp(&format!("10.0.0.{host}:5000"), A).unwrap();
            assert!(low.port() < 1024 && high.port() >= 1024, "{low} {high}");
        }
    }
}

#[test]
fn rfc4787_req_4_port_parity_is_preserved() {
    for rule in [PortRule::Preserving(Taken::Random), PortRule::Sequential, PortRule::Random] {
        let ports = Ports { rule, range: (2001, 2200), ..Ports::default() };
        let mut lab = Lab::new(Napt { ports, ..Napt::default() });
        for n in 0..100_u16 {
            let out = lab.udp(&format!("10.0.0.{}:{}", 2 + n % 5, 3000 + n), A).unwrap();
            assert_eq!(out.port() % 2, n % 2, "{rule:?}");
        }
    }
}

#[test]
fn rfc4787_req_5_and_5b_and_5c_udp_mapping_lasts_its_timeout_and_no_longer() {
    assert!(Lifetimes::RFC.udp >= Duration::from_secs(300), "REQ-5c");
    let lifetimes = Lifetimes {
        udp: Duration::from_secs(120),
        udp_unanswered: Duration::from_secs(120),
        ..Lifetimes::RFC
    };
    let mut lab = Lab::new(Napt { lifetimes, ..Napt::default() });
    let outer = lab.udp(IN, A).unwrap();
    lab.wait(119);
    assert_eq!(lab.udp_back(A, outer), Ok(sock(IN)));
    lab.wait(1);
    assert_eq!(lab.udp_back(A, outer), Err(Reason::NoMapping));
    assert_eq!(lab.live(), 0);
}

#[test]
fn rfc4787_req_5_is_broken_by_what_lives_short_until_it_is_a_stream() {
    let secs = Duration::from_secs;
    let lifetimes = Lifetimes {
        udp: secs(120),
        udp_unanswered: secs(30),
        udp_stream_after: Some(secs(2)),
        ..Lifetimes::RFC
    };
    let mut lab = Lab::new(Napt { lifetimes, inbound_refresh: true, ..Napt::default() });
    // A question and its answer.
    let outer = lab.udp(IN, A).unwrap();
    lab.wait(3);
    lab.udp_back(A, outer).unwrap();
    lab.wait(30);
    assert_eq!(lab.udp_back(A, outer), Err(Reason::NoMapping));
    // More than that.
    let outer = lab.udp(IN, A).unwrap();
    lab.udp_back(A, outer).unwrap();
    lab.wait(3);
    lab.udp(IN, A).unwrap();
    lab.wait(119);
    assert_eq!(lab.udp_back(A, outer), Ok(sock(IN)));
}

#[test]
fn rfc4787_req_6_and_6a_outbound_packets_refresh_inbound_ones_only_if_told() {
    for inbound_refresh in [false, true] {
        let mut lab = Lab::new(Napt { inbound_refresh, ..Napt::default() });
        let outer = lab.udp(IN, A).unwrap();
        lab.wait(299);
        assert_eq!(lab.udp(IN, A), Ok(outer), "outbound refreshes");
        lab.wait(299);
        lab.udp_back(A, outer).unwrap();
        lab.wait(299);
        assert_eq!(lab.udp_back(A, outer).is_ok(), inbound_refresh);
    }
}

#[test]
fn rfc4787_req_8_and_8a_filtering_is_what_it_is_told_to_be() {
    for mapping in ALL {
        let admitted = |filtering| {
            let mut lab = Lab::new(Napt::new(mapping, filtering));
            let outer = lab.udp(IN, A).unwrap();
            [A, A2, B].map(|from| lab.udp_back(from, outer).is_ok())
        };
        assert_eq!(admitted(EI), [true, true, true]);
        assert_eq!(admitted(AD), [true, true, false]);
        assert_eq!(admitted(APD), [true, false, false]);
    }
}

#[test]
fn rfc4787_req_8_what_came_in_is_answered_from_the_same_endpoint() {
    for mapping in ALL {
        let mut lab = Lab::new(Napt::new(mapping, EI));
        let outer = lab.udp(IN, A).unwrap();
        lab.udp_back(B, outer).unwrap();
        assert_eq!(lab.udp(IN, B), Ok(outer), "{mapping:?}");
    }
}

#[test]
fn rfc4787_req_9_and_9a_hairpinning_with_external_source() {
    let mut lab = Lab::new(Napt::new(EI, EI));
    let (one, two) = (lab.udp(IN, A).unwrap(), lab.udp(IN2, A).unwrap());
    let packet = build(sock(IN), two, Build::Udp(b"over"));
    assert_eq!(lab.hairpin(packet.clone()), Ok((one, sock(IN2))));
    let mut lab = Lab::new(Napt { hairpin: false, ..Napt::new(EI, EI) });
    lab.udp(IN2, A).unwrap();
    assert_eq!(lab.hairpin(packet), Err(Reason::NoHairpin));
}

#[test]
fn rfc4787_req_10_there_are_no_application_gateways() {
    let mut lab = Lab::new(Napt::default());
    let payload = b"INVITE sip:10.0.0.2:4000 PORT 10,0,0,2,15,160";
    let (packet, _) = lab.pass(true, build(sock(IN), sock(A), Build::Udp(payload))).unwrap();
    assert!(packet.ends_with(payload));
}

#[test]
fn rfc4787_req_11_behaviour_is_deterministic() {
    for mapping in ALL {
        let mut lab = Lab::new(Napt::new(mapping, APD));
        // A conflict for the port must not change mapping or filtering.
        for host in 2..60 {
            let from = format!("10.0.0.{host}:4000");
            let outer = lab.udp(&from, A).unwrap();
            assert_eq!(lab.udp(&from, A2).unwrap() == outer, mapping != APD);
            assert_eq!(lab.udp(&from, B).unwrap() == outer, mapping == EI);
            assert_eq!(lab.udp_back("203.0.113.77:1", outer), Err(Reason::Filtered));
        }
    }
}

#[test]
fn rfc4787_req_12_and_12a_and_12b_icmp_does_not_end_mappings_and_is_not_filtered_by_source() {
    let mut lab = Lab::new(Napt::new(EI, APD));
    let sent = build(sock(IN), sock(A), Build::Udp(b"x"));
    let (outside, _) = lab.pass(true, sent).unwrap();
    let error = error_about("192.0.2.77", &outside);
    let (inside, _) = lab.pass(false, error).unwrap();
    assert_eq!(icmp(&inside), (3, 3, sock(IN), sock(A)));
    let outer = sock(&format!("{EXT}:4000"));
    assert_eq!(lab.udp_back(A, outer), Ok(sock(IN)));
}

fn pieces(way_from: &str, way_to: &str, payload: &[u8]) -> Vec<Vec<u8>> {
    let mut whole = build(sock(way_from), sock(way_to), Build::Udp(payload));
    // Clears DF and gives an identification; the checksum follows.
    whole[4..8].copy_from_slice(&[0xbe, 0xef, 0, 0]);
    whole[10..12].copy_from_slice(&[0, 0]);
    let check = meshwire_netsim::packet::checksum(&whole[..20]);
    whole[10..12].copy_from_slice(&check.to_be_bytes());
    fragment(&whole, 576)
}

#[test]
fn rfc4787_req_14_fragments_in_order_and_out_of_order() {
    let payload: Vec<u8> = (0..2000_u32).map(|n| n.to_be_bytes()[3]).collect();
    for reversed in [false, true] {
        let mut lab = Lab::new(Napt::default());
        let mut fragments = pieces(IN, A, &payload);
        assert_eq!(fragments.len(), 4);
        if reversed {
            fragments.reverse();
        }
        let mut got = Vec::new();
        for mut piece in fragments {
            match lab.nat.outbound(lab.now, &mut piece) {
                Verdict::Forward => got.push(piece),
                Verdict::Held => {}
                other => panic!("{other:?}"),
            }
        }
        while let Some(output) = lab.nat.poll(lab.now) {
            let meshwire_netsim::nat::Output::Outside(piece) = output else { panic!() };
            got.push(piece);
        }
        assert_eq!((got.len(), lab.nat.held()), (4, 0));
        let mut body = vec![0; 2008];
        for piece in got {
            let view = View::parse(&piece).unwrap();
            assert_eq!(view.ip.source, ip(EXT));
            let at = view.ip.fragment.unwrap().offset as usize;
            let part = &piece[view.ip.transport..view.ip.end];
            body[at..at + part.len()].copy_from_slice(part);
        }
        let whole =
            meshwire_netsim::packet::transport_checksum(ip(EXT), ip("203.0.113.1"), 17, &body);
        assert_eq!(whole, 0, "the whole packet's checksum is right");
    }
}

#[test]
fn rfc4787_req_14a_fragments_alone_cannot_use_up_the_nat() {
    let mut lab = Lab::new(Napt::default());
    for n in 0..5000_u32 {
        let from = format!("10.0.{}.{}:4000", n / 250, 2 + n % 250);
        let mut last = pieces(&from, A, &[7; 1000]).pop().unwrap();
        lab.nat.outbound(lab.now, &mut last);
        while lab.nat.poll(lab.now).is_some() {}
    }
    assert!(lab.nat.held() <= 256);
    assert!(lab.udp(IN, A).is_ok(), "whole packets pass all the same");
    lab.now = Time::from_secs(60);
    while lab.nat.poll(lab.now).is_some() {}
    assert_eq!(lab.nat.held(), 0);
}
