//! `nat = { mapping = "endpoint-independent", … }` and `firewall = { … }`, for routers that are no
//! preset.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::{Table, Value};
use crate::firewall::{Action, FirewallConfig, Inbound, Rule};
use crate::nat::{
    Behaviour, Forward, MidStream, Napt, NatConfig, Pair, Pooling, PortRule, Refusal, Taken,
    UnsolicitedSyn,
};
use crate::packet::Protocol;
use crate::session::{Dependence, Lifetimes};

const DEPENDENCE: [(&str, Dependence); 3] = [
    ("endpoint-independent", Dependence::EndpointIndependent),
    ("address-dependent", Dependence::AddressDependent),
    ("address-and-port-dependent", Dependence::AddressAndPortDependent),
];

const PORTS: [(&str, PortRule); 5] = [
    ("preserving", PortRule::Preserving(Taken::NextFree)),
    ("preserving-or-random", PortRule::Preserving(Taken::Random)),
    ("preserving-shared", PortRule::Preserving(Taken::Share)),
    ("sequential", PortRule::Sequential),
    ("random", PortRule::Random),
];

fn v4(value: &Value<'_, '_>) -> Option<Ipv4Addr> {
    match value.address()? {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => {
            value.wrong("NATs translate IPv4 only; write an address such as 192.0.2.1");
            None
        }
    }
}

fn small<T: TryFrom<u64>>(value: Option<Value<'_, '_>>, range: std::ops::Range<u64>) -> Option<T> {
    value.and_then(|v| v.count(range)).and_then(|n| T::try_from(n).ok())
}

/// Reads a `nat` key.
pub(super) fn read_nat(table: &Table<'_, '_>) -> NatConfig {
    if let Some(pairs) = table.get("one_to_one") {
        let pairs = pairs.list().iter().filter_map(|p| read_pair(&p.table()?)).collect();
        table.end();
        return NatConfig::OneToOne(pairs);
    }
    let mut napt = Napt::default();
    let rfc = napt.udp;
    let both = read_behaviour(table, rfc);
    let own = |name| {
        let table = table.inner(name);
        table.map_or(both, |t| {
            let read = read_behaviour(&t, both);
            t.end();
            read
        })
    };
    (napt.udp, napt.tcp) = (own("udp"), own("tcp"));
    if let Some(rule) = table.get("ports").and_then(|v| v.word(&PORTS)) {
        napt.ports.rule = rule;
        // What hands ports out itself keeps neither class nor parity, as the presets.
        let preserves = matches!(rule, PortRule::Preserving(_));
        napt.ports.parity = preserves && rule != PortRule::Preserving(Taken::Share);
    }
    if let Some(range) = table.get("port_range").and_then(|v| ports(&v)) {
        napt.ports.range = (*range.start(), *range.end());
    }
    if let Some(hairpin) = table.get("hairpin").and_then(|v| v.flag()) {
        napt.hairpin = hairpin;
    }
    napt.lifetimes = read_lifetimes(table, napt.lifetimes);
    if let Some(refresh) = table.get("inbound_refresh").and_then(|v| v.flag()) {
        napt.inbound_refresh = refresh;
    }
    let pooling = [("paired", Pooling::Paired), ("arbitrary", Pooling::Arbitrary)];
    if let Some(pooling) = table.get("pooling").and_then(|v| v.word(&pooling)) {
        napt.pooling = pooling;
    }
    if let Some(limit) = small(table.get("max_mappings"), 1..1 << 32) {
        napt.limits.mappings = limit;
    }
    napt.limits.per_subscriber = small(table.get("ports_per_host"), 1..1 << 32);
    let syn = [
        ("wait", UnsolicitedSyn::Wait(Duration::from_secs(6))),
        ("reset", UnsolicitedSyn::Reset),
        ("drop", UnsolicitedSyn::Drop),
    ];
    if let Some(syn) = table.get("unsolicited_syn").and_then(|v| v.word(&syn)) {
        napt.unsolicited_syn = syn;
    }
    let middle =
        [("drop", MidStream::Drop), ("reset", MidStream::Reset), ("adopt", MidStream::Adopt)];
    if let Some(middle) = table.get("mid_stream").and_then(|v| v.word(&middle)) {
        napt.mid_stream = middle;
    }
    let refusal = [
        ("silent", Refusal::Silent),
        ("prohibited", Refusal::Prohibited),
        ("host-unreachable", Refusal::HostUnreachable),
    ];
    if let Some(refusal) = table.get("refusal").and_then(|v| v.word(&refusal)) {
        napt.refusal = refusal;
    }
    napt.forwards = table.tables("forward").iter().filter_map(read_forward).collect();
    table.end();
    NatConfig::ports(napt)
}

fn read_behaviour(table: &Table<'_, '_>, default: Behaviour) -> Behaviour {
    let word = |v: Option<Value<'_, '_>>| v.and_then(|v| v.word(&DEPENDENCE));
    Behaviour {
        mapping: word(table.get("mapping")).unwrap_or(default.mapping),
        filtering: word(table.get("filtering")).unwrap_or(default.filtering),
    }
}

fn read_lifetimes(table: &Table<'_, '_>, default: Lifetimes) -> Lifetimes {
    let time = |v: Option<Value<'_, '_>>| v.and_then(|v| v.duration());
    let udp = time(table.get("udp_timeout"));
    Lifetimes {
        udp: udp.unwrap_or(default.udp),
        udp_unanswered: time(table.get("udp_unanswered_timeout"))
            .or(udp)
            .unwrap_or(default.udp_unanswered),
        udp_stream_after: default.udp_stream_after,
        tcp_established: time(table.get("tcp_timeout")).unwrap_or(default.tcp_established),
        tcp_transitory: time(table.get("tcp_transitory_timeout")).unwrap_or(default.tcp_transitory),
        icmp: time(table.get("icmp_timeout")).unwrap_or(default.icmp),
    }
}

fn read_pair(table: &Table<'_, '_>) -> Option<Pair> {
    let inside = table.need("inside").and_then(|v| v4(&v));
    let outside = table.need("outside").and_then(|v| v4(&v));
    table.end();
    Some(Pair { inside: inside?, outside: outside? })
}

fn read_forward(table: &Table<'_, '_>) -> Option<Forward> {
    let protocol = table.need("protocol").and_then(|v| v.word(&[("udp", false), ("tcp", true)]));
    let port = small(table.need("port"), 1..65_536);
    let to = table.need("to").and_then(|v| v4(&v));
    let to_port = small(table.get("to_port"), 1..65_536).or(port);
    table.end();
    Some(Forward { tcp: protocol?, external: 0, port: port?, to: to?, to_port: to_port? })
}

/// `"53"`, `53` or `"1024-2047"`.
fn ports(value: &Value<'_, '_>) -> Option<RangeInclusive<u16>> {
    if !value.is_text() {
        let one = small(Some(value.clone()), 1..65_536)?;
        return Some(one..=one);
    }
    let text = value.text()?;
    let (low, high) = text.split_once('-').unwrap_or((&text, &text));
    let range = low.trim().parse().ok().zip(high.trim().parse().ok());
    let range = range.filter(|(low, high): &(u16, u16)| *low > 0 && low <= high);
    if range.is_none() {
        value.wrong(format!("{text:?} is no port or range; write 53, or \"1024-2047\""));
    }
    range.map(|(low, high)| low..=high)
}

/// Reads a `firewall` key.
pub(super) fn read_firewall(table: &Table<'_, '_>) -> FirewallConfig {
    let inbound = [
        ("open", Inbound::Open),
        ("answers", Inbound::Answers(Dependence::AddressAndPortDependent)),
        ("closed", Inbound::Closed),
    ];
    let default = FirewallConfig::default();
    let config = FirewallConfig {
        inbound_v4: table
            .get("inbound_v4")
            .and_then(|v| v.word(&inbound))
            .unwrap_or(default.inbound_v4),
        inbound_v6: table
            .get("inbound_v6")
            .and_then(|v| v.word(&inbound))
            .unwrap_or(default.inbound_v6),
        outbound: table.tables("outbound").iter().filter_map(read_rule).collect(),
        inbound: table.tables("inbound").iter().filter_map(read_rule).collect(),
        lifetimes: read_lifetimes(table, default.lifetimes),
        ..default
    };
    table.end();
    config
}

fn read_rule(table: &Table<'_, '_>) -> Option<Rule> {
    let actions = [("allow", Action::Allow), ("drop", Action::Drop), ("reject", Action::Reject)];
    let action = table.need("action").and_then(|v| v.word(&actions));
    let protocols = [
        ("udp", Protocol::Udp),
        ("tcp", Protocol::Tcp),
        ("icmp", Protocol::Icmp),
        ("icmpv6", Protocol::Icmpv6),
    ];
    let protocol = table.get("protocol").and_then(|v| v.word(&protocols));
    let listed = table.get("ports");
    if let Some(ports) = &listed
        && !matches!(protocol, Some(Protocol::Udp | Protocol::Tcp))
    {
        ports.wrong("only UDP and TCP have ports: add protocol = \"udp\" or \"tcp\"");
    }
    let ports = listed.and_then(|v| ports(&v));
    let outside = table.get("outside").and_then(|v| v.prefix());
    table.end();
    Some(Rule { protocol, ports, outside, action: action? })
}
