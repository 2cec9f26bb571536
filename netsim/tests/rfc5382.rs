//! RFC 5382, NAT Behavioral Requirements for TCP: each requirement that the engine claims.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use meshwire_netsim::nat::{MidStream, Napt, UnsolicitedSyn};
use meshwire_netsim::packet::{ACK, Build, FIN, RST, SYN, Transport, View, build};
use meshwire_netsim::{Lifetimes, Reason};

fn open(lab: &mut Lab, from: &str, to: &str) -> std::net::SocketAddr {
    let outer = lab.tcp(from, to, SYN).unwrap();
    lab.tcp_back(to, outer, SYN | ACK).unwrap();
    lab.tcp(from, to, ACK).unwrap();
    outer
}

#[test]
fn rfc5382_req_1_endpoint_independent_mapping() {
    let mut lab = Lab::new(Napt::default());
    let first = lab.tcp(IN, A, SYN).unwrap();
    assert_eq!(lab.tcp(IN, B, SYN), Ok(first));
    let mut lab = Lab::new(Napt::new(APD, APD));
    assert_ne!(lab.tcp(IN, A, SYN), lab.tcp(IN, B, SYN));
}

#[test]
fn rfc5382_req_2_three_way_handshake_from_either_side() {
    let mut lab = Lab::new(Napt::default());
    let outer = open(&mut lab, IN, A);
    // From outside, through the mapping that is there.
    assert_eq!(lab.tcp_back(B, outer, SYN), Ok(sock(IN)));
    assert_eq!(lab.tcp(IN, B, SYN | ACK), Ok(outer));
    assert_eq!(lab.tcp_back(B, outer, ACK), Ok(sock(IN)));
}

#[test]
fn rfc5382_req_2a_simultaneous_open() {
    for filtering in ALL {
        let mut lab = Lab::new(Napt::new(EI, filtering));
        let outer = lab.tcp(IN, A, SYN).unwrap();
        assert_eq!(lab.tcp_back(A, outer, SYN), Ok(sock(IN)));
        assert_eq!(lab.tcp(IN, A, SYN | ACK), Ok(outer));
        assert_eq!(lab.tcp_back(A, outer, SYN | ACK), Ok(sock(IN)));
        assert_eq!(lab.tcp_back(A, outer, ACK), Ok(sock(IN)));
    }
}

#[test]
fn rfc5382_req_3_and_3a_filtering_is_what_it_is_told_to_be() {
    let admitted = |filtering| {
        let mut lab = Lab::new(Napt::new(EI, filtering));
        let outer = lab.tcp(IN, A, SYN).unwrap();
        [A, A2, B].map(|from| lab.tcp_back(from, outer, SYN).is_ok())
    };
    assert_eq!(admitted(EI), [true, true, true]);
    assert_eq!(admitted(AD), [true, true, false]);
    assert_eq!(admitted(APD), [true, false, false]);
}

#[test]
fn rfc5382_req_3b_udp_and_tcp_are_set_apart() {
    let napt = Napt { tcp: behaviour(APD, APD), ..Napt::default() };
    let mut lab = Lab::new(napt);
    assert_eq!(lab.udp(IN, A), lab.udp(IN, B));
    assert_ne!(lab.tcp(IN, A, SYN), lab.tcp(IN, B, SYN));
}

#[test]
fn rfc5382_req_4_unsolicited_syn_is_answered_after_six_seconds() {
    let mut lab = Lab::new(Napt::new(EI, APD));
    let outer = lab.tcp(IN, A, SYN).unwrap();
    assert_eq!(lab.tcp_back(B, outer, SYN), Err(Reason::UnsolicitedSyn));
    assert_eq!(lab.answer, None);
    let due = lab.nat.next_deadline().unwrap();
    assert!(due.since(lab.now) >= Duration::from_secs(6));
    lab.wait(5);
    assert!(lab.said().is_empty());
    lab.now = due;
    let said = lab.said();
    assert_eq!(said.len(), 1);
    assert_eq!(icmp(&said[0]), (3, 3, sock(B), outer));
}

#[test]
fn rfc5382_req_4_unsolicited_syn_is_forgotten_when_inside_opens_too() {
    let mut lab = Lab::new(Napt::new(EI, APD));
    let outer = lab.tcp(IN, A, SYN).unwrap();
    assert_eq!(lab.tcp_back(B, outer, SYN), Err(Reason::UnsolicitedSyn));
    lab.wait(3);
    assert_eq!(lab.tcp(IN, B, SYN), Ok(outer));
    lab.wait(10);
    assert!(lab.said().is_empty());
    assert_eq!(lab.tcp_back(B, outer, SYN), Ok(sock(IN)));
}

#[test]
fn rfc5382_req_4a_policy_may_be_silence_or_what_breaks_the_requirement() {
    let napt = |unsolicited_syn| Napt { unsolicited_syn, ..Napt::new(EI, APD) };
    let mut lab = Lab::new(napt(UnsolicitedSyn::Drop));
    lab.tcp_back(B, sock(&format!("{EXT}:4000")), SYN).unwrap_err();
    assert_eq!((lab.answer.take(), lab.nat.next_deadline()), (None, None));
    let mut lab = Lab::new(napt(UnsolicitedSyn::Reset));
    lab.tcp_back(B, sock(&format!("{EXT}:4000")), SYN).unwrap_err();
    let reset = View::parse(lab.answer.as_ref().unwrap()).unwrap();
    assert!(matches!(reset.transport, Transport::Tcp { flags, .. } if flags == RST | ACK));
}

#[test]
fn rfc5382_req_5_established_and_transitory_timeouts() {
    assert!(Lifetimes::RFC.tcp_established >= Duration::from_secs(2 * 3600 + 4 * 60));
    assert!(Lifetimes::RFC.tcp_transitory >= Duration::from_secs(4 * 60));
    let mut lab = Lab::new(Napt::default());
    let outer = open(&mut lab, IN, A);
    lab.wait(2 * 3600 + 4 * 60 - 1);
    assert_eq!(lab.tcp_back(A, outer, ACK), Ok(sock(IN)));
    lab.wait(2 * 3600 + 4 * 60);
    assert_eq!(lab.tcp_back(A, outer, ACK), Err(Reason::NoMapping));
    // Half open.
    let outer = lab.tcp(IN, A, SYN).unwrap();
    lab.wait(239);
    assert!(lab.tcp_back(A, outer, SYN | ACK).is_ok());
    lab.wait(240);
    assert_eq!(lab.live(), 0);
    // Closed by both, and reset.
    for close in [FIN | ACK, RST] {
        let outer = open(&mut lab, IN, A);
        lab.tcp(IN, A, close).unwrap();
        lab.tcp_back(A, outer, close).unwrap();
        lab.wait(239);
        assert_eq!(lab.live(), 1);
        lab.wait(1);
        assert_eq!(lab.live(), 0);
    }
}

#[test]
fn rfc5382_req_5a_timeouts_can_be_set() {
    let secs = Duration::from_secs;
    let lifetimes =
        Lifetimes { tcp_established: secs(600), tcp_transitory: secs(30), ..Lifetimes::RFC };
    let mut lab = Lab::new(Napt { lifetimes, ..Napt::default() });
    let outer = lab.tcp(IN, A, SYN).unwrap();
    lab.wait(29);
    assert_eq!(lab.tcp_back(A, outer, SYN | ACK), Ok(sock(IN)));
    lab.wait(30);
    assert_eq!(lab.live(), 0);
    let outer = open(&mut lab, IN, A);
    lab.wait(599);
    assert_eq!(lab.tcp_back(A, outer, ACK), Ok(sock(IN)));
    lab.wait(600);
    assert_eq!(lab.live(), 0);
}

#[test]
fn rfc5382_req_5_half_closed_connections_live_on() {
    let mut lab = Lab::new(Napt::default());
    let outer = open(&mut lab, IN, A);
    lab.tcp(IN, A, FIN | ACK).unwrap();
    lab.wait(3600);
    assert_eq!(lab.tcp_back(A, outer, ACK), Ok(sock(IN)));
}

#[test]
fn rfc5382_req_6_there_are_no_application_gateways() {
    let mut lab = Lab::new(Napt::default());
    open(&mut lab, IN, "203.0.113.1:21");
    let payload = b"PORT 10,0,0,2,15,160\r\n";
    let data = Build::Tcp { flags: ACK, sequence: 2, acknowledge: 2, window: 9, payload };
    let (packet, _) = lab.pass(true, build(sock(IN), sock("203.0.113.1:21"), data)).unwrap();
    assert!(packet.ends_with(payload));
}

#[test]
fn rfc5382_req_7_no_port_overloading() {
    let mut lab = Lab::new(Napt::new(APD, APD));
    assert_ne!(lab.tcp(IN, A, SYN), lab.tcp(IN2, B, SYN));
}

#[test]
fn rfc5382_req_8_and_8a_hairpinning_with_external_source() {
    let mut lab = Lab::new(Napt::new(EI, EI));
    let (one, two) = (lab.tcp(IN, A, SYN).unwrap(), lab.tcp(IN2, A, SYN).unwrap());
    let syn = build(sock(IN), two, Build::tcp(SYN));
    assert_eq!(lab.hairpin(syn), Ok((one, sock(IN2))));
    let answer = build(sock(IN2), one, Build::tcp(SYN | ACK));
    assert_eq!(lab.hairpin(answer), Ok((two, sock(IN))));
}

#[test]
fn rfc5382_req_9_and_10_icmp_errors_are_translated_and_end_nothing() {
    let mut lab = Lab::new(Napt::new(EI, APD));
    let (outside, _) = lab.pass(true, build(sock(IN), sock(A), Build::tcp(SYN))).unwrap();
    let (inside, _) = lab.pass(false, error_about("192.0.2.77", &outside)).unwrap();
    assert_eq!(icmp(&inside), (3, 3, sock(IN), sock(A)));
    let outer = sock(&format!("{EXT}:4000"));
    assert_eq!(lab.tcp_back(A, outer, SYN | ACK), Ok(sock(IN)));
}

#[test]
fn segments_of_unknown_connections_follow_the_policy() {
    let with = |mid_stream| Lab::new(Napt { mid_stream, ..Napt::default() });
    let mut lab = with(MidStream::Drop);
    assert_eq!(lab.tcp(IN, A, ACK), Err(Reason::TcpState));
    assert_eq!(lab.answer, None);
    let mut lab = with(MidStream::Reset);
    assert_eq!(lab.tcp(IN, A, ACK), Err(Reason::TcpState));
    assert!(lab.answer.is_some());
    let mut lab = with(MidStream::Adopt);
    let outer = lab.tcp(IN, A, ACK).unwrap();
    assert_eq!(lab.tcp_back(A, outer, ACK), Ok(sock(IN)));
    for flags in [RST, RST | ACK, FIN | ACK, SYN | ACK] {
        assert_eq!(lab.tcp(IN, B, flags), Err(Reason::TcpState), "{flags:#x} opens nothing");
    }
}
