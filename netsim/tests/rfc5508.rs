//! RFC 5508, NAT Behavioral Requirements for ICMP: each requirement that the engine claims.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use meshwire_netsim::nat::{
    Limits, Napt, Nat, NatConfig, Pair, PortRule, Ports, Refusal, Taken, Verdict,
};
use meshwire_netsim::packet::{Build, IcmpError, View, build, icmp_error};
use meshwire_netsim::{Lifetimes, Reason};

fn ping(reply: bool) -> Build<'static> {
    Build::Echo { reply, sequence: 1, payload: b"ping" }
}

#[test]
fn rfc5508_req_1_queries_from_inside_are_answered() {
    let mut lab = Lab::new(Napt::new(APD, APD));
    let outer = lab.out("10.0.0.2:77", "203.0.113.1:77", ping(false)).unwrap();
    assert_eq!(outer.ip(), ip(EXT));
    let reply_from = format!("203.0.113.1:{}", outer.port());
    let inside = lab.pass(false, build(sock(&reply_from), outer, ping(true))).unwrap().0;
    let view = View::parse(&inside).unwrap();
    assert_eq!((view.ip.destination, view.ports().0), (ip("10.0.0.2"), 77));
}

#[test]
fn rfc5508_req_1a_identifiers_are_mapped_independently_of_the_destination() {
    let mut lab = Lab::new(Napt::new(APD, APD));
    let first = lab.out("10.0.0.2:77", "203.0.113.1:77", ping(false)).unwrap();
    assert_eq!(lab.out("10.0.0.2:77", "203.0.113.9:77", ping(false)), Ok(first));
    assert_ne!(lab.out("10.0.0.3:77", "203.0.113.9:77", ping(false)), Ok(first));
}

/// What REQ-1a advises against, as Linux does it: identifiers are shared while destinations differ.
#[test]
fn rfc5508_req_1a_is_not_kept_where_ports_are_shared() {
    let ports = Ports { rule: PortRule::Preserving(Taken::Share), ..Ports::default() };
    let mut lab = Lab::new(Napt { ports, ..Napt::new(APD, APD) });
    let first = lab.out("10.0.0.2:77", "203.0.113.1:77", ping(false)).unwrap();
    assert_eq!(lab.out("10.0.0.3:77", "203.0.113.9:77", ping(false)), Ok(first));
    let back = |from: &str| build(sock(from), first, ping(true));
    for (from, to) in [("203.0.113.1:77", "10.0.0.2"), ("203.0.113.9:77", "10.0.0.3")] {
        let (inside, _) = lab.pass(false, back(from)).unwrap();
        assert_eq!(View::parse(&inside).unwrap().ip.destination, ip(to));
    }
    assert_ne!(lab.out("10.0.0.3:77", "203.0.113.1:77", ping(false)), Ok(first));
}

#[test]
fn rfc5508_req_2_query_mappings_last_sixty_seconds() {
    assert!(Lifetimes::RFC.icmp >= Duration::from_secs(60));
    let mut lab = Lab::new(Napt::default());
    lab.out("10.0.0.2:77", "203.0.113.1:77", ping(false)).unwrap();
    lab.wait(59);
    assert_eq!(lab.live(), 1);
    lab.wait(1);
    assert_eq!(lab.live(), 0);
}

#[test]
fn rfc5508_req_2a_the_timeout_can_be_set() {
    let lifetimes = Lifetimes { icmp: Duration::from_secs(200), ..Lifetimes::RFC };
    let mut lab = Lab::new(Napt { lifetimes, ..Napt::default() });
    lab.out("10.0.0.2:77", "203.0.113.1:77", ping(false)).unwrap();
    lab.wait(199);
    assert_eq!(lab.live(), 1);
    lab.wait(1);
    assert_eq!(lab.live(), 0);
}

fn leave(lab: &mut Lab) -> Vec<u8> {
    lab.pass(true, build(sock(IN), sock(A), Build::Udp(b"payload"))).unwrap().0
}

#[test]
fn rfc5508_req_3_and_3a_and_3c_errors_with_a_wrong_checksum_are_dropped() {
    let mut lab = Lab::new(Napt::default());
    let outside = leave(&mut lab);
    let good = error_about("203.0.113.1", &outside);
    for at in [22, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert_eq!(lab.pass(false, bad), Err(Reason::BadChecksum));
    }
    // REQ-3a: the quoted header's own checksum.
    let mut quoted = outside.clone();
    quoted[10] ^= 1;
    assert_eq!(lab.pass(false, error_about("203.0.113.1", &quoted)), Err(Reason::BadChecksum));
    // REQ-3c: a quote that is cut short is no fault.
    assert!(lab.pass(false, error_about("203.0.113.1", &outside)).is_ok());
}

#[test]
fn rfc5508_req_3b_ip_options_of_the_quote_are_passed_over() {
    let mut lab = Lab::new(Napt::default());
    let plain = leave(&mut lab);
    let mut outside = plain[..20].to_vec();
    outside[0] = 0x46;
    outside[2..4].copy_from_slice(&u16::try_from(plain.len() + 4).unwrap().to_be_bytes());
    outside[10..12].copy_from_slice(&[0, 0]);
    outside.extend([1, 1, 1, 0]);
    let check = meshwire_netsim::packet::checksum(&outside);
    outside[10..12].copy_from_slice(&check.to_be_bytes());
    outside.extend(&plain[20..]);
    let (inside, _) = lab.pass(false, error_about("203.0.113.1", &outside)).unwrap();
    assert_eq!(icmp(&inside), (3, 3, sock(IN), sock(A)));
}

#[test]
fn rfc5508_req_4_and_4b_and_4c_errors_from_outside_are_put_back() {
    let mut lab = Lab::new(Napt::default());
    let outside = leave(&mut lab);
    for what in [
        IcmpError::TimeExceeded,
        IcmpError::HostUnreachable,
        IcmpError::TooBig { mtu: 1280 },
        IcmpError::PortUnreachable,
    ] {
        let error = icmp_error(ip("192.0.2.1"), what, &outside).unwrap();
        let fields = error[20..28].to_vec();
        let (inside, _) = lab.pass(false, error).unwrap();
        assert_eq!(View::parse(&inside).unwrap().ip.destination, ip("10.0.0.2"));
        let (kind, code, from, to) = icmp(&inside);
        assert_eq!(([kind, code], from, to), ([fields[0], fields[1]], sock(IN), sock(A)));
        assert_eq!(inside[24..28], fields[4..8], "the MTU stays");
    }
}

#[test]
fn rfc5508_req_4a_errors_about_nothing_known_are_dropped_silently() {
    let mut lab = Lab::new(Napt::default());
    let stranger = build(sock("198.51.100.1:9"), sock(A), Build::Udp(b"x"));
    assert_eq!(lab.pass(false, error_about("203.0.113.1", &stranger)), Err(Reason::NoMapping));
    assert_eq!(lab.answer, None);
}

#[test]
fn rfc5508_req_5_and_5a_and_5b_errors_from_inside_get_the_nats_source() {
    let mut lab = Lab::new(Napt::default());
    leave(&mut lab);
    let outer = sock(&format!("{EXT}:4000"));
    let (inside, _) = lab.pass(false, build(sock(A), outer, Build::Udp(b"in"))).unwrap();
    // From the host itself, and from a router on the way to it.
    for from in ["10.0.0.2", "10.0.0.254"] {
        let (outside, _) = lab.pass(true, error_about(from, &inside)).unwrap();
        assert_eq!(View::parse(&outside).unwrap().ip.source, ip(EXT));
        assert_eq!(icmp(&outside), (3, 3, sock(A), outer));
    }
    let stranger = build(sock(A), sock("10.0.0.9:9"), Build::Udp(b"x"));
    assert_eq!(lab.pass(true, error_about("10.0.0.9", &stranger)), Err(Reason::NoMapping));
}

fn one_to_one() -> Nat {
    let pair = |inside: &str, outside: &str| Pair {
        inside: inside.parse().unwrap(),
        outside: outside.parse().unwrap(),
    };
    let pairs = vec![pair("10.0.0.2", "198.51.100.2"), pair("10.0.0.3", "198.51.100.3")];
    let outside = ["198.51.100.2", "198.51.100.3"].map(|a| a.parse().unwrap());
    Nat::new(1, "basic", &NatConfig::OneToOne(pairs), &outside).unwrap()
}

#[test]
fn rfc5508_req_5c_basic_nat_translates_the_source_of_errors_by_its_pair() {
    let mut lab = Lab { nat: one_to_one(), ..Lab::new(Napt::default()) };
    let (inside, _) =
        lab.pass(false, build(sock(A), sock("198.51.100.2:80"), Build::Udp(b"x"))).unwrap();
    let (outside, _) = lab.pass(true, error_about("10.0.0.2", &inside)).unwrap();
    assert_eq!(View::parse(&outside).unwrap().ip.source, ip("198.51.100.2"));
    assert_eq!(icmp(&outside), (3, 3, sock(A), sock("198.51.100.2:80")));
}

#[test]
fn rfc5508_req_6_errors_neither_refresh_nor_end_mappings() {
    let mut lab = Lab::new(Napt { inbound_refresh: true, ..Napt::default() });
    let outside = leave(&mut lab);
    lab.wait(299);
    lab.pass(false, error_about("203.0.113.1", &outside)).unwrap();
    assert_eq!(lab.live(), 1);
    lab.wait(1);
    assert_eq!(lab.live(), 0);
}

#[test]
fn rfc5508_req_6_errors_about_queries_neither_refresh_nor_end_them() {
    let mut lab = Lab::new(Napt { inbound_refresh: true, ..Napt::default() });
    let query = build(sock("10.0.0.2:77"), sock("203.0.113.1:77"), ping(false));
    let (outside, _) = lab.pass(true, query).unwrap();
    lab.wait(59);
    let unreachable = icmp_error(ip("192.0.2.1"), IcmpError::HostUnreachable, &outside).unwrap();
    let (inside, _) = lab.pass(false, unreachable).unwrap();
    assert_eq!(View::parse(&inside).unwrap().ip.destination, ip("10.0.0.2"));
    assert_eq!(lab.live(), 1);
    lab.wait(1);
    assert_eq!(lab.live(), 0);
}

#[test]
fn rfc5508_req_7_hairpinned_queries_by_basic_nat() {
    let mut lab = Lab { nat: one_to_one(), ..Lab::new(Napt::default()) };
    let query = build(sock("10.0.0.2:5"), sock("198.51.100.3:5"), ping(false));
    let (packet, turned) = lab.pass(true, query).unwrap();
    let view = View::parse(&packet).unwrap();
    assert!(turned);
    assert_eq!((view.ip.source, view.ip.destination), (ip("198.51.100.2"), ip("10.0.0.3")));
}

#[test]
fn rfc5508_req_7_and_7a_hairpinned_errors_by_all() {
    let basic = Lab { nat: one_to_one(), ..Lab::new(Napt::default()) };
    for mut lab in [Lab::new(Napt::default()), basic] {
        let seen = |lab: &mut Lab, from: &str| {
            let packet = lab.pass(true, build(sock(from), sock(A), Build::Udp(b"x"))).unwrap().0;
            let view = View::parse(&packet).unwrap();
            std::net::SocketAddr::new(view.ip.source, view.ports().0)
        };
        let (one, two) = (seen(&mut lab, IN), seen(&mut lab, IN2));
        let (inside, _) = lab.pass(true, build(sock(IN), two, Build::Udp(b"turn"))).unwrap();
        let (back, turned) = lab.pass(true, error_about("10.0.0.3", &inside)).unwrap();
        assert!(turned);
        assert_eq!(icmp(&back), (3, 3, sock(IN), two));
        let outer = View::parse(&back).unwrap().ip;
        assert_eq!((outer.source, outer.destination), (two.ip(), ip("10.0.0.2")));
        assert_ne!(one, two);
    }
}

#[test]
fn rfc5508_req_8_without_room_the_sender_is_told_that_it_is_prohibited() {
    let limits = Limits { mappings: 1, ..Limits::default() };
    let mut lab = Lab::new(Napt { limits, ..Napt::default() });
    lab.udp(IN, A).unwrap();
    assert_eq!(lab.udp(IN2, A), Err(Reason::Limit));
    let answer = lab.answer.take().unwrap();
    assert_eq!(icmp(&answer), (3, 13, sock(IN2), sock(A)));
}

#[test]
fn rfc5508_req_9_policy_may_be_silence() {
    let limits = Limits { mappings: 1, ..Limits::default() };
    let mut lab = Lab::new(Napt { limits, refusal: Refusal::Silent, ..Napt::default() });
    lab.udp(IN, A).unwrap();
    assert_eq!(lab.udp(IN2, A), Err(Reason::Limit));
    assert_eq!(lab.answer, None);
}

#[test]
fn rfc5508_req_10a_echo_requests_to_the_nat_are_its_own() {
    let mut lab = Lab::new(Napt::default());
    let ask = |from: &str| build(sock(from), sock("198.51.100.1:5"), ping(false));
    assert_eq!(lab.nat.inbound(lab.now, &mut ask("203.0.113.1:5")), Verdict::Own);
    assert_eq!(lab.nat.outbound(lab.now, &mut ask("10.0.0.2:5")), Verdict::Own);
}

/// The message `kind` about a packet, from 192.0.2.1 to its source.
fn error_of_kind(kind: u8, about: &[u8]) -> Vec<u8> {
    let mut error = icmp_error(ip("192.0.2.1"), IcmpError::HostUnreachable, about).unwrap();
    let code = 0;
    let old = [error[20], error[21]];
    error[20..22].copy_from_slice(&[kind, code]);
    let check = u16::from_be_bytes([error[22], error[23]]);
    let check = meshwire_netsim::packet::adjust(check, &old, &[kind, code]);
    error[22..24].copy_from_slice(&check.to_be_bytes());
    error
}

#[test]
fn rfc5508_req_10a_unreachable_and_time_exceeded_pass_and_10b_parameter_problem() {
    let mut lab = Lab::new(Napt::default());
    let outside = leave(&mut lab);
    for kind in [3, 11, 12] {
        let (inside, _) = lab.pass(false, error_of_kind(kind, &outside)).unwrap();
        assert_eq!(icmp(&inside), (kind, 0, sock(IN), sock(A)));
    }
}

#[test]
fn rfc5508_req_10b_timestamps_pass() {
    let mut lab = Lab::new(Napt::default());
    let mut ask = build(sock("10.0.0.2:77"), sock("203.0.113.1:77"), ping(false));
    ask[20] = 13;
    let check = u16::from_be_bytes([ask[22], ask[23]]);
    let check = meshwire_netsim::packet::adjust(check, &[8, 0], &[13, 0]);
    ask[22..24].copy_from_slice(&check.to_be_bytes());
    let (asked, _) = lab.pass(true, ask).unwrap();
    assert_eq!((asked[20], View::parse(&asked).unwrap().ip.source), (13, ip(EXT)));
}

#[test]
fn rfc5508_req_10b_and_10c_redirects_and_source_quench_do_not_pass() {
    for kind in [4, 5] {
        let mut lab = Lab::new(Napt::default());
        let outside = leave(&mut lab);
        let error = error_of_kind(kind, &outside);
        assert_eq!(lab.pass(false, error), Err(Reason::Untranslatable), "{kind}");
    }
}

#[test]
fn rfc5508_req_10e_no_errors_about_errors() {
    let mut lab = Lab::new(Napt::default());
    let error = error_about("203.0.113.1", &leave(&mut lab));
    assert_eq!(icmp_error(ip("192.0.2.1"), IcmpError::TimeExceeded, &error), None);
}

#[test]
fn rfc5508_req_11_other_icmp_messages_are_dropped() {
    let mut lab = Lab::new(Napt::default());
    let mut solicitation = build(sock(IN), sock(A), ping(false));
    solicitation[20] = 10;
    assert_eq!(lab.pass(true, solicitation), Err(Reason::Untranslatable));
}
