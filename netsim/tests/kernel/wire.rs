//! Packets of the scripts, and how they are written down.

use std::net::SocketAddr;

use meshwire_netsim::packet::{
    Build, IcmpError, Transport, View, adjust, build, checksum, header_checksum_ok, icmp_error,
    transport_checksum_ok,
};

/// Two inside hosts with the same port, and three ends outside, one at another port of the first.
pub(crate) const IN: &str = "10.0.0.2:4000";
pub(crate) const IN2: &str = "10.0.0.3:4000";
pub(crate) const A: &str = "203.0.113.1:7000";
pub(crate) const A2: &str = "203.0.113.1:7001";
pub(crate) const B: &str = "203.0.113.9:7000";

pub(crate) fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn udp(from: &str, to: SocketAddr) -> Vec<u8> {
    build(sock(from), to, Build::Udp(b"payload"))
}

/// A segment with numbers that follow each other as they should: the kernel looks at them.
pub(crate) fn tcp(from: &str, to: SocketAddr, flags: u8, numbers: (u32, u32)) -> Vec<u8> {
    let (sequence, acknowledge) = numbers;
    let what = Build::Tcp { flags, sequence, acknowledge, window: 60_000, payload: &[] };
    build(sock(from), to, what)
}

pub(crate) fn echo(from: &str, to: &str, reply: bool) -> Vec<u8> {
    build(sock(from), sock(to), Build::Echo { reply, sequence: 1, payload: b"ping" })
}

/// An ICMP error about a packet.
pub(crate) fn error(from: &str, what: IcmpError, about: &[u8]) -> Vec<u8> {
    icmp_error(from.parse().unwrap(), what, about).unwrap()
}

/// The same error as one of another type.
pub(crate) fn of_kind(mut error: Vec<u8>, kind: u8) -> Vec<u8> {
    let (old, new) = ([error[20], error[21]], [kind, 0]);
    error[20..22].copy_from_slice(&new);
    let check = adjust(u16::from_be_bytes([error[22], error[23]]), &old, &new);
    error[22..24].copy_from_slice(&check.to_be_bytes());
    error
}

/// Whether routers may fragment a packet, and under which identification.
pub(crate) fn fragmentable(mut packet: Vec<u8>, id: u16) -> Vec<u8> {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&[0, 0]);
    packet[10..12].copy_from_slice(&[0, 0]);
    let check = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

/// A packet in words. `port` names ports.
pub(crate) fn describe(packet: &[u8], port: &mut dyn FnMut(u16) -> String) -> String {
    let Ok(view) = View::parse(packet) else { return "not a packet".to_owned() };
    let ends = ends(&view, port);
    let at = view.ip.transport;
    let what = match view.transport {
        Transport::Udp { .. } | Transport::Later => String::new(),
        Transport::Tcp { flags, .. } => format!(" flags {flags:#04x}"),
        Transport::Query { .. } | Transport::Other => format!(" type {}", packet[at]),
        Transport::Error => {
            let inner = View::parse_quoted(&packet[at + 8..]);
            let about = inner.map_or_else(|e| e.to_string(), |inner| self::ends(&inner, port));
            format!(" type {} code {} about ({about})", packet[at], packet[at + 1])
        }
    };
    let mut broken = String::new();
    if !header_checksum_ok(packet, &view.ip) || !transport_checksum_ok(packet, &view.ip) {
        broken = " with a wrong checksum".to_owned();
    }
    // What the router itself says has its own idea of a TTL.
    let ttl = if view.ip.ttl < 60 || view.ip.ttl > 64 { 64 } else { view.ip.ttl };
    format!("{ends} ttl {ttl}{what}{broken}")
}

fn ends(view: &View, port: &mut dyn FnMut(u16) -> String) -> String {
    let (from, to) = view.ports();
    let (ip, protocol) = (view.ip, view.ip.protocol);
    let mut named = |n: u16| if n == 0 { "-".to_owned() } else { port(n) };
    match view.transport {
        Transport::Query { .. } => {
            format!("{protocol} {} > {} id {}", ip.source, ip.destination, named(from))
        }
        _ => {
            let (from, to) = (named(from), named(to));
            format!("{protocol} {}:{from} > {}:{to}", ip.source, ip.destination)
        }
    }
}
