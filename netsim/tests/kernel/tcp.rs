//! TCP through `masquerade`.

use std::net::SocketAddr;

use meshwire_netsim::packet::{ACK, FIN, RST, SYN};

use crate::rules::{linux, masquerade};
use crate::script::{Script, differ, same, source};
use crate::wire::{A, A2, B, IN, IN2, sock, tcp};
use crate::world::EXT;

/// Numbers of the inside and the outside end.
const MINE: u32 = 1000;
const THEIRS: u32 = 5000;

fn syn(s: &mut Script<'_>, from: &str, to: &str) -> Option<SocketAddr> {
    let gone = s.out(&format!("SYN {from} to {to}"), tcp(from, sock(to), SYN, (MINE, 0)))?;
    Some(source(&gone))
}

fn out(s: &mut Script<'_>, what: &str, to: &str, flags: u8, numbers: (u32, u32)) {
    s.out(what, tcp(IN, sock(to), flags, numbers));
}

fn back(s: &mut Script<'_>, what: &str, from: &str, to: SocketAddr, flags: u8, n: (u32, u32)) {
    s.back(&format!("{what} from {from}"), tcp(from, to, flags, n));
}

/// Three segments, and the outside endpoint.
fn open(s: &mut Script<'_>) -> SocketAddr {
    let outer = syn(s, IN, A).unwrap();
    back(s, "SYN-ACK", A, outer, SYN | ACK, (THEIRS, MINE + 1));
    out(s, "ACK", A, ACK, (MINE + 1, THEIRS + 1));
    outer
}

/// What it says.
const OPENED: [&str; 3] = [
    "SYN 10.0.0.2:4000 to 203.0.113.1:7000: outside: tcp 198.51.100.1:4000 > 203.0.113.1:7000 ttl 63 flags 0x02",
    "SYN-ACK from 203.0.113.1:7000: inside: tcp 203.0.113.1:7000 > 10.0.0.2:4000 ttl 63 flags 0x12",
    "ACK: outside: tcp 198.51.100.1:4000 > 203.0.113.1:7000 ttl 63 flags 0x10",
];

#[test]
fn a_connection_lives_and_closes() {
    same(&linux(&masquerade("")), |s| {
        let outer = open(s);
        back(s, "data", A, outer, ACK, (THEIRS + 1, MINE + 1));
        out(s, "FIN", A, FIN | ACK, (MINE + 1, THEIRS + 1));
        back(s, "ACK", A, outer, ACK, (THEIRS + 1, MINE + 2));
        back(s, "FIN", A, outer, FIN | ACK, (THEIRS + 1, MINE + 2));
        out(s, "last ACK", A, ACK, (MINE + 2, THEIRS + 2));
    });
}

#[test]
fn resets_pass_from_both_sides() {
    same(&linux(&masquerade("")), |s| {
        open(s);
        out(s, "RST", A, RST, (MINE + 1, 0));
    });
    same(&linux(&masquerade("")), |s| {
        let outer = open(s);
        back(s, "RST", A, outer, RST, (THEIRS + 1, 0));
    });
    // Nobody listens.
    same(&linux(&masquerade("")), |s| {
        let outer = syn(s, IN, A).unwrap();
        back(s, "RST", A, outer, RST | ACK, (0, MINE + 1));
    });
}

#[test]
fn a_simultaneous_open_comes_through() {
    same(&linux(&masquerade("")), |s| {
        let outer = syn(s, IN, A).unwrap();
        back(s, "SYN", A, outer, SYN, (THEIRS, 0));
        out(s, "SYN-ACK", A, SYN | ACK, (MINE, THEIRS + 1));
        back(s, "SYN-ACK", A, outer, SYN | ACK, (THEIRS, MINE + 1));
        out(s, "ACK", A, ACK, (MINE + 1, THEIRS + 1));
        back(s, "ACK", A, outer, ACK, (THEIRS + 1, MINE + 1));
    });
}

#[test]
fn nobody_else_connects() {
    same(&linux(&masquerade("")), |s| {
        let outer = open(s);
        for from in [A2, B] {
            for flags in [SYN, SYN | ACK, ACK, RST, FIN | ACK] {
                back(s, &format!("{flags:#04x}"), from, outer, flags, (THEIRS, MINE));
            }
        }
        let nobody = sock(&format!("{EXT}:4001"));
        back(s, "SYN to nobody", A, nobody, SYN, (THEIRS, 0));
    });
}

/// Both ends punch: the first SYN is lost at the NAT, the inside's own one opens the hole.
#[test]
fn a_hole_that_is_punched_opens_for_the_second_syn() {
    same(&linux(&masquerade("")), |s| {
        let outer = sock(&format!("{EXT}:4000"));
        back(s, "too early", A, outer, SYN, (THEIRS, 0));
        syn(s, IN, A);
        back(s, "again", A, outer, SYN, (THEIRS, 0));
    });
}

#[test]
fn ports_are_kept_and_shared() {
    same(&linux(&masquerade("")), |s| {
        syn(s, IN, A);
        syn(s, IN, B);
        syn(s, IN2, A2);
        syn(s, IN2, A);
        syn(s, IN2, "203.0.113.9:7001");
        // UDP's ports are others.
        s.udp(IN2, A);
    });
}

#[test]
fn connections_are_adopted_in_the_middle_but_not_by_other_segments() {
    same(&linux(&masquerade("")), |s| {
        for (to, flags) in [(A, RST), (A, FIN | ACK), (A, SYN | ACK), (A2, RST | ACK)] {
            out(s, &format!("{flags:#04x}"), to, flags, (MINE, THEIRS));
        }
        out(s, "ACK", B, ACK, (MINE, THEIRS));
        back(s, "ACK", B, sock(&format!("{EXT}:4000")), ACK, (THEIRS, MINE));
    });
}

/// The kernel knows each connection's windows and state; the engine follows SYN, FIN and RST alone.
#[test]
fn the_kernel_drops_segments_outside_the_window() {
    differ(
        &linux(&masquerade("")),
        |s| {
            let outer = open(s);
            back(s, "wild", A, outer, ACK, (THEIRS + 4_000_000, MINE + 1));
            back(s, "SYN again", A, outer, SYN, (THEIRS + 9, 0));
        },
        &OPENED,
        &["wild from 203.0.113.1:7000: dropped", "SYN again from 203.0.113.1:7000: dropped"],
        &[
            "wild from 203.0.113.1:7000: inside: tcp 203.0.113.1:7000 > 10.0.0.2:4000 ttl 63 flags 0x10",
            "SYN again from 203.0.113.1:7000: inside: tcp 203.0.113.1:7000 > 10.0.0.2:4000 ttl 63 flags 0x02",
        ],
    );
}

/// The kernel has a timer for each state of a connection, most of them short; the engine has two, and
/// takes a half-closed connection for an established one (RFC 5382 section 5 knows no more).
#[test]
fn the_kernel_forgets_what_is_closing_sooner() {
    let rules = masquerade("");
    let mut pair = linux(&rules);
    pair.settings = &[
        ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_fin_wait", "1"),
    ];
    let late = |s: &mut Script<'_>, outer| {
        s.wait(1700);
        back(s, "late", A, outer, ACK, (THEIRS + 1, MINE + 1));
    };
    let passes = &[
        "late from 203.0.113.1:7000: inside: tcp 203.0.113.1:7000 > 10.0.0.2:4000 ttl 63 flags 0x10",
    ];
    let sent = |flags: &str| {
        format!("end: outside: tcp 198.51.100.1:4000 > 203.0.113.1:7000 ttl 63 flags {flags}")
    };
    for (flags, text) in [(RST, "0x04"), (FIN | ACK, "0x11")] {
        let script = |s: &mut Script<'_>| {
            let outer = open(s);
            out(s, "end", A, flags, (MINE + 1, THEIRS + 1));
            late(s, outer);
        };
        let ended = sent(text);
        let alike = [&OPENED[..], &[&ended]].concat();
        differ(&pair, script, &alike, &["late from 203.0.113.1:7000: dropped"], passes);
    }
}
