//! `masquerade` and the preset that claims to be it: mappings and filters of UDP.

use meshwire_netsim::packet::Build;

use crate::rules::{OPEN_INPUT, linux, masquerade};
use crate::script::{Script, differ, same};
use crate::wire::{A, A2, B, IN, IN2, sock, udp};
use crate::world::EXT;

fn probe(s: &mut Script<'_>, to: Option<std::net::SocketAddr>) {
    for from in [A, A2, B] {
        s.udp_back(from, to);
    }
}

#[test]
fn the_port_is_kept_and_only_who_was_sent_to_may_answer() {
    same(&linux(&masquerade("")), |s| {
        let outer = s.udp(IN, A);
        probe(s, outer);
        s.udp(IN, A2);
        probe(s, outer);
        s.udp(IN, B);
        probe(s, outer);
        // Nobody's port.
        probe(s, Some(sock(&format!("{EXT}:4001"))));
        // Another protocol's.
        s.back(
            "echo to the router",
            crate::wire::echo("203.0.113.1:77", &format!("{EXT}:77"), false),
        );
    });
}

#[test]
fn two_hosts_share_a_port_while_destinations_differ() {
    same(&linux(&masquerade("")), |s| {
        let one = s.udp(IN, A);
        let two = s.udp(IN2, B);
        for (from, to) in [(A, one), (B, two), (A2, one)] {
            s.udp_back(from, to);
        }
    });
}

#[test]
fn a_host_that_had_to_take_another_port_keeps_that_one() {
    same(&linux(&masquerade("")), |s| {
        s.udp(IN, A);
        // Taken for A: another. B is free with the first port, but the host has one by now.
        let two = s.udp(IN2, A);
        s.udp(IN2, B);
        s.udp(IN2, A2);
        probe(s, two);
        // Its other ports are its own affair.
        s.udp("10.0.0.3:4001", B);
        // A third host, whose port is free at A2 and not at A.
        s.udp("10.0.0.4:4000", A2);
        s.udp("10.0.0.4:4000", A);
        s.udp("10.0.0.4:4000", B);
        s.udp("10.0.0.4:4000", "203.0.113.9:7001");
    });
}

#[test]
fn low_ports_stay_low() {
    let rules = masquerade("");
    let mut pair = linux(&rules);
    pair.range = (1, 511);
    same(&pair, |s| {
        for host in 2..12 {
            s.udp(&format!("10.0.0.{host}:500"), A);
        }
    });
    pair.range = (600, 1023);
    same(&pair, |s| {
        for host in 2..12 {
            s.udp(&format!("10.0.0.{host}:1000"), A);
        }
    });
}

#[test]
fn datagrams_without_checksum_stay_so() {
    same(&linux(&masquerade("")), |s| {
        let mut plain = udp(IN, sock(A));
        plain[26..28].copy_from_slice(&[0, 0]);
        let gone = s.out("without checksum", plain).unwrap();
        s.note(format!("checksum {:?}", &gone[26..28]));
    });
}

#[test]
fn the_payload_is_not_touched() {
    same(&linux(&masquerade("")), |s| {
        let text = b"INVITE sip:10.0.0.2:4000 SIP/2.0";
        let sip = meshwire_netsim::packet::build(sock("10.0.0.2:5060"), sock(A), Build::Udp(text));
        let gone = s.out("SIP", sip).unwrap();
        s.note(format!("{}", gone.ends_with(text)));
    });
}

#[test]
fn there_is_no_hairpin() {
    same(&linux(&masquerade("")), |s| {
        let one = s.udp(IN, A).unwrap();
        s.turn("hairpin", udp(IN2, one));
    });
}

/// Linux without a rule that drops what comes for the router itself takes a stranger's datagram for a
/// flow of its own. The inside's answer to the stranger then gets another port: the stranger, who went
/// first, has spoiled the hole that was to be punched. The preset has a firewall in front of it, as
/// home routers do.
#[test]
fn without_a_firewall_the_kernel_gives_a_port_away_to_who_knocks() {
    differ(
        &linux(OPEN_INPUT),
        |s| {
            let outer = s.udp(IN, A);
            s.udp_back(B, outer);
            s.udp(IN, B);
        },
        &[
            "10.0.0.2:4000 to 203.0.113.1:7000: outside: udp 198.51.100.1:4000 > 203.0.113.1:7000 ttl 63",
        ],
        &[
            "203.0.113.9:7000 to the outside: outside: icmp 198.51.100.1:- > 203.0.113.9:- ttl 64 type 3 code 3 about (udp 203.0.113.9:7000 > 198.51.100.1:4000)",
            "10.0.0.2:4000 to 203.0.113.9:7000: outside: udp 198.51.100.1:#1 > 203.0.113.9:7000 ttl 63",
        ],
        &[
            "203.0.113.9:7000 to the outside: dropped",
            "10.0.0.2:4000 to 203.0.113.9:7000: outside: udp 198.51.100.1:4000 > 203.0.113.9:7000 ttl 63",
        ],
    );
}
