//! Packets: any bytes give a view or an error; checksums stay right through every change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};

use meshwire_netsim::packet::{
    Build, End, IcmpError, View, adjust, build, checksum, decrement_ttl, echo_reply, fragment,
    header_checksum_ok, icmp_error, rewrite_v4, tcp_reset, transport_checksum_ok,
};
use proptest::prelude::*;

fn endpoint(v4: bool) -> impl Strategy<Value = SocketAddr> {
    (any::<[u8; 16]>(), 1..u16::MAX).prop_map(move |(bytes, port)| {
        let ip: IpAddr = if v4 {
            [10, bytes[0], bytes[1], bytes[2]].into()
        } else {
            let mut bytes = bytes;
            bytes[0] = 0x20;
            bytes.into()
        };
        SocketAddr::new(ip, port)
    })
}

fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    any::<bool>().prop_flat_map(|v4| (endpoint(v4), endpoint(v4)))
}

fn built(ends: (SocketAddr, SocketAddr), kind: u8, payload: &[u8]) -> Vec<u8> {
    let what = match kind % 3 {
        0 => Build::Udp(payload),
        1 => Build::Tcp { flags: kind, sequence: 5, acknowledge: 6, window: 7, payload },
        _ => Build::Echo { reply: kind & 4 != 0, sequence: 8, payload },
    };
    build(ends.0, ends.1, what)
}

fn right(packet: &[u8]) -> bool {
    let view = View::parse(packet).unwrap();
    header_checksum_ok(packet, &view.ip) && transport_checksum_ok(packet, &view.ip)
}

/// Everything that reads bytes of unknown origin.
fn read_all(bytes: &[u8]) {
    let _ = View::parse_quoted(bytes);
    let _ = fragment(bytes, 100);
    let _ = icmp_error([192, 0, 2, 1].into(), IcmpError::TimeExceeded, bytes);
    if let Ok(view) = View::parse(bytes) {
        let mut copy = bytes.to_vec();
        let _ = (tcp_reset(bytes, &view), echo_reply(bytes, &view));
        decrement_ttl(&mut copy, &view, 1);
        if view.ip.source.is_ipv4() {
            rewrite_v4(&mut copy, &view, End::Source, [1, 2, 3, 4].into(), 5);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), version: Option<bool>
    ) {
        read_all(&bytes);
        if let (Some(v4), Some(first)) = (version, bytes.first_mut()) {
            *first = if v4 { 0x45 } else { 0x60 };
            read_all(&bytes);
        }
    }

    #[test]
    fn packets_with_damage_are_read_without_panic(
        ends in ends(), kind: u8, payload in prop::collection::vec(any::<u8>(), 0..64),
        at: prop::sample::Index, value: u8, cut: prop::sample::Index
    ) {
        let mut bytes = built(ends, kind, &payload);
        let i = at.index(bytes.len());
        bytes[i] = value;
        read_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_all(&bytes);
    }

    #[test]
    fn built_packets_are_what_was_asked_for(
        ends in ends(), kind: u8, payload in prop::collection::vec(any::<u8>(), 0..1400)
    ) {
        let packet = built(ends, kind, &payload);
        let view = View::parse(&packet).unwrap();
        prop_assert!(right(&packet));
        prop_assert_eq!((view.ip.source, view.ip.destination), (ends.0.ip(), ends.1.ip()));
        prop_assert_eq!(view.ports().0, ends.0.port());
        prop_assert!(packet.ends_with(&payload) && view.ip.end == packet.len());
    }

    #[test]
    fn rewriting_keeps_checksums_right_and_wrong_ones_wrong(
        from in endpoint(true), to in endpoint(true), kind: u8, port: u16, address: [u8; 4],
        payload in prop::collection::vec(any::<u8>(), 0..100), damage in 1..255_u8
    ) {
        let good = built((from, to), kind, &payload);
        let view = View::parse(&good).unwrap();
        for end in [End::Source, End::Destination] {
            let mut packet = good.clone();
            rewrite_v4(&mut packet, &view, end, address.into(), port);
            prop_assert!(right(&packet));
            prop_assert!(decrement_ttl(&mut packet, &view, 3));
            prop_assert!(right(&packet));
        }
        if !payload.is_empty() {
            let mut bad = good;
            *bad.last_mut().unwrap() ^= damage;
            rewrite_v4(&mut bad, &view, End::Source, address.into(), port);
            let view = View::parse(&bad).unwrap();
            prop_assert!(!transport_checksum_ok(&bad, &view.ip));
        }
    }

    #[test]
    fn an_updated_checksum_is_the_computed_one(
        mut bytes in prop::collection::vec(any::<[u8; 2]>(), 2..40), at: prop::sample::Index,
        new: [u8; 2]
    ) {
        bytes[0] = [0x45, 0];
        let i = 1 + at.index(bytes.len() - 1);
        let before = checksum(&bytes.concat());
        let old = std::mem::replace(&mut bytes[i], new);
        prop_assert_eq!(adjust(before, &old, &new), checksum(&bytes.concat()));
    }

    #[test]
    fn fragments_make_up_the_packet(
        from in endpoint(true), to in endpoint(true), size in 0..3000_usize, mtu in 68..1500_usize
    ) {
        let mut packet = built((from, to), 0, &vec![9; size]);
        packet[6] = 0;
        let mut body: Vec<u8> = Vec::new();
        for piece in fragment(&packet, mtu) {
            let view = View::parse(&piece).unwrap();
            prop_assert!(piece.len() <= mtu && header_checksum_ok(&piece, &view.ip));
            prop_assert_eq!(view.ip.fragment.map_or(0, |f| f.offset as usize), body.len());
            body.extend(&piece[view.ip.transport..]);
        }
        prop_assert_eq!(&body[..], &packet[20..]);
    }

    #[test]
    fn errors_are_about_their_packet_and_never_about_errors(ends in ends(), kind: u8) {
        let packet = built(ends, kind, &[3; 2000]);
        let me = ends.1.ip();
        let error = icmp_error(me, IcmpError::TooBig { mtu: 1400 }, &packet).unwrap();
        prop_assert!(right(&error) && error.len() <= 1280);
        let view = View::parse(&error).unwrap();
        prop_assert_eq!(view.ip.destination, ends.0.ip());
        let quote = View::parse_quoted(&error[view.ip.transport + 8..]).unwrap();
        prop_assert_eq!((quote.ip.source, quote.ports().0), (ends.0.ip(), ends.0.port()));
        prop_assert_eq!(icmp_error(ends.0.ip(), IcmpError::TimeExceeded, &error), None);
    }
}

#[test]
fn ipv6_extension_headers_are_passed_over() {
    let from: SocketAddr = "[2001:db8::1]:5".parse().unwrap();
    let plain = build(from, "[2001:db8::2]:6".parse().unwrap(), Build::Udp(b"data"));
    // Hop-by-hop, then an atomic fragment header.
    let mut packet = plain[..40].to_vec();
    packet[6] = 0;
    packet[5] += 16;
    packet.extend([44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend(&plain[40..]);
    let view = View::parse(&packet).unwrap();
    assert_eq!((view.ports(), view.ip.transport, view.ip.fragment), ((5, 6), 56, None));
    assert!(transport_checksum_ok(&packet, &view.ip));
}
