//! ICMP through `masquerade`: queries, errors in both directions, and the router's own.

use meshwire_netsim::packet::{Build, IcmpError, build};

use crate::rules::{linux, masquerade};
use crate::script::{differ, same, source};
use crate::wire::{A, IN, echo, error, of_kind, sock, tcp, udp};
use crate::world::EXT;

const ERRORS: [IcmpError; 5] = [
    IcmpError::TimeExceeded,
    IcmpError::HostUnreachable,
    IcmpError::PortUnreachable,
    IcmpError::Prohibited,
    IcmpError::TooBig { mtu: 1280 },
];

#[test]
fn queries_are_answered_by_who_was_asked() {
    same(&linux(&masquerade("")), |s| {
        s.out("ask", echo("10.0.0.2:77", "203.0.113.1:77", false));
        s.back("answer", echo("203.0.113.1:77", &format!("{EXT}:77"), true));
        s.back("again", echo("203.0.113.1:77", &format!("{EXT}:77"), true));
        s.back("another's", echo("203.0.113.9:77", &format!("{EXT}:77"), true));
        s.back("to nobody", echo("203.0.113.1:78", &format!("{EXT}:78"), true));
    });
}

#[test]
fn identifiers_are_kept_and_shared_like_ports() {
    same(&linux(&masquerade("")), |s| {
        s.out("one asks A", echo("10.0.0.2:77", "203.0.113.1:77", false));
        s.out("one asks B", echo("10.0.0.2:77", "203.0.113.9:77", false));
        s.out("two asks another", echo("10.0.0.3:77", "192.0.2.77:77", false));
        let gone = s.out("two asks A", echo("10.0.0.3:77", "203.0.113.1:77", false)).unwrap();
        let outer = source(&gone);
        s.out("two asks B", echo("10.0.0.3:77", "203.0.113.9:77", false));
        let answer = |from: &str| {
            build(
                sock(&format!("{from}:{}", outer.port())),
                outer,
                Build::Echo { reply: true, sequence: 1, payload: b"ping" },
            )
        };
        s.back("A answers two", answer("203.0.113.1"));
        s.back("B answers two", answer("203.0.113.9"));
        s.back("192.0.2.77 answers two", echo("192.0.2.77:77", &format!("{EXT}:77"), true));
    });
}

#[test]
fn the_router_answers_for_itself() {
    same(&linux(&masquerade("")), |s| {
        s.back("from outside", echo("203.0.113.1:77", &format!("{EXT}:77"), false));
        s.turn("from inside", echo("10.0.0.2:77", "10.0.0.1:77", false));
        s.turn("from inside to its outside", echo("10.0.0.2:78", &format!("{EXT}:78"), false));
    });
}

#[test]
fn errors_from_outside_are_put_back() {
    same(&linux(&masquerade("")), |s| {
        let datagram = s.out("datagram", udp(IN, sock(A))).unwrap();
        let segment = s.out("segment", tcp(IN, sock(A), meshwire_netsim::packet::SYN, (1, 0)));
        let query = s.out("query", echo("10.0.0.2:77", "203.0.113.1:77", false)).unwrap();
        for what in ERRORS {
            // From the end itself, and from a router on the way.
            s.back("of the end", error("203.0.113.1", what, &datagram));
            s.back("of a router", error("192.0.2.77", what, &datagram));
            s.back("about a segment", error("192.0.2.77", what, segment.as_ref().unwrap()));
            s.back("about a query", error("192.0.2.77", what, &query));
        }
        let quoted = error("192.0.2.77", IcmpError::HostUnreachable, &datagram);
        s.back("parameter problem", of_kind(quoted, 12));
        // Quotes what was never sent.
        let stranger = udp(&format!("{EXT}:4001"), sock(A));
        s.back("about nothing", error("203.0.113.1", IcmpError::PortUnreachable, &stranger));
        let elsewhere = udp(&format!("{EXT}:4000"), sock("203.0.113.1:7001"));
        s.back("about another end", error("203.0.113.1", IcmpError::PortUnreachable, &elsewhere));
        // The mapping lives on.
        s.udp_back(A, Some(source(&datagram)));
    });
}

#[test]
fn errors_from_inside_get_the_routers_source() {
    same(&linux(&masquerade("")), |s| {
        let outer = s.udp(IN, A).unwrap();
        let come = s.back("datagram", udp(A, outer)).unwrap();
        for what in ERRORS {
            s.out("of the host", error("10.0.0.2", what, &come));
            s.out("of a router inside", error("10.0.0.254", what, &come));
        }
        let stranger = udp(A, sock("10.0.0.9:9000"));
        s.out("about nothing", error("10.0.0.9", IcmpError::PortUnreachable, &stranger));
        s.udp_back(A, Some(outer));
    });
}

#[test]
fn a_broken_error_goes_nowhere() {
    same(&linux(&masquerade("")), |s| {
        let gone = s.out("datagram", udp(IN, sock(A))).unwrap();
        let mut broken = error("203.0.113.1", IcmpError::PortUnreachable, &gone);
        broken[22] ^= 0x40;
        s.back("broken", broken);
    });
}

#[test]
fn the_router_says_that_the_time_is_exceeded() {
    same(&linux(&masquerade("")), |s| {
        let mut tired = udp(IN, sock(A));
        (tired[8], tired[10], tired[11]) = (1, 0, 0);
        let check = meshwire_netsim::packet::checksum(&tired[..20]).to_be_bytes();
        tired[10..12].copy_from_slice(&check);
        s.turn("TTL 1", tired);
    });
}

/// RFC 5508 REQ-3a wants the quoted header's checksum looked at; the kernel does not.
#[test]
fn the_kernel_believes_a_quote_with_a_broken_header() {
    let script = |s: &mut crate::script::Script<'_>| {
        let mut gone = s.out("datagram", udp(IN, sock(A))).unwrap();
        gone[10] ^= 1;
        s.back("broken quote", error("203.0.113.1", IcmpError::PortUnreachable, &gone));
    };
    let sent = "datagram: outside: udp 198.51.100.1:4000 > 203.0.113.1:7000 ttl 63";
    differ(
        &linux(&masquerade("")),
        script,
        &[sent],
        &[
            "broken quote: inside: icmp 203.0.113.1:- > 10.0.0.2:- ttl 63 type 3 code 3 about (udp 10.0.0.2:4000 > 203.0.113.1:7000)",
        ],
        &["broken quote: dropped"],
    );
}

/// RFC 5508 REQ-10c and RFC 6633 want nothing of source quench; the kernel passes it. Redirects stop
/// at both.
#[test]
fn the_kernel_passes_source_quench() {
    let script = |s: &mut crate::script::Script<'_>| {
        let gone = s.out("datagram", udp(IN, sock(A))).unwrap();
        let quoted = error("203.0.113.1", IcmpError::HostUnreachable, &gone);
        s.back("redirect", of_kind(quoted.clone(), 5));
        s.back("source quench", of_kind(quoted, 4));
    };
    let sent = "datagram: outside: udp 198.51.100.1:4000 > 203.0.113.1:7000 ttl 63";
    differ(
        &linux(&masquerade("")),
        script,
        &[sent],
        &[
            "redirect: dropped",
            "source quench: inside: icmp 203.0.113.1:- > 10.0.0.2:- ttl 63 type 4 code 0 about (udp 10.0.0.2:4000 > 203.0.113.1:7000)",
        ],
        &["redirect: dropped", "source quench: dropped"],
    );
}
