//! Endpoint-independent mapping with the three filters, made of nftables maps, against the presets.

use meshwire_netsim::nat::{NatConfig, PortRule, Taken};
use meshwire_netsim::{Preset, RouterConfig};

use crate::rules::{Admit, cone};
use crate::script::{Pair, Script, same};
use crate::wire::{A, A2, B, IN, IN2, udp};

/// The preset, with the kernel's way of choosing when a port is taken: at random, of any parity.
fn preset(preset: Preset) -> RouterConfig {
    let mut config = preset.router();
    if let Some(NatConfig::Ports(napt)) = &mut config.nat {
        napt.ports.rule = PortRule::Preserving(Taken::Random);
        napt.ports.parity = false;
    }
    config
}

fn filters(s: &mut Script<'_>) {
    let outer = s.udp(IN, A);
    for from in [A, A2, B] {
        s.udp_back(from, outer);
    }
    // The same outside endpoint for everybody.
    assert_eq!(s.udp(IN, B), outer);
    for from in [A, A2, B, "192.0.2.77:7000"] {
        s.udp_back(from, outer);
    }
}

fn collisions(s: &mut Script<'_>) {
    let one = s.udp(IN, A);
    let two = s.udp(IN2, A);
    assert_ne!(one, two);
    assert_eq!(s.udp(IN2, B), two, "the first choice stays");
    assert_eq!(s.udp(IN2, A2), two);
    s.udp("10.0.0.4:4000", B);
    for from in [A, A2, B, "192.0.2.77:7000"] {
        s.udp_back(from, one);
        s.udp_back(from, two);
    }
}

fn compare(which: Preset, admit: Admit) {
    let rules = cone(admit);
    let config = preset(which);
    let pair = Pair { rules: &rules, settings: &[], config, range: (1024, u16::MAX) };
    same(&pair, filters);
    same(&pair, collisions);
}

#[test]
fn full_cone() {
    compare(Preset::FullCone, Admit::Everybody);
}

#[test]
fn address_restricted() {
    compare(Preset::AddressRestricted, Admit::Addresses);
}

#[test]
fn port_restricted() {
    compare(Preset::PortRestricted, Admit::Ends);
}

#[test]
fn a_stranger_is_answered_from_the_endpoint_that_it_wrote_to() {
    let rules = cone(Admit::Everybody);
    let config = preset(Preset::FullCone);
    same(&Pair { rules: &rules, settings: &[], config, range: (1024, u16::MAX) }, |s| {
        let outer = s.udp(IN, A);
        s.udp_back(B, outer);
        s.udp(IN, B);
        s.udp_back(B, outer);
    });
}

#[test]
fn hairpin_with_the_outside_source() {
    let rules = cone(Admit::Everybody);
    let config = preset(Preset::FullCone);
    same(&Pair { rules: &rules, settings: &[], config, range: (1024, u16::MAX) }, |s| {
        let one = s.udp(IN, A).unwrap();
        let two = s.udp("10.0.0.3:4001", A).unwrap();
        s.turn("one to two", udp(IN, two));
        s.turn("two to one", udp("10.0.0.3:4001", one));
        s.turn("to itself", udp(IN, one));
        s.turn("to nobody", udp(IN, crate::wire::sock("198.51.100.1:9000")));
    });
}
