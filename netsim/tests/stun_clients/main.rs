//! Public STUN clients, in the lab, say of each preset what it claims to be.
//!
//! The server is coturn's, which speaks RFC 3489 and RFC 5780, on a host of the core with two addresses.
//! The clients are coturn's `turnutils_natdiscovery` (RFC 5780) and Debian's `stun` (RFC 3489).
//!
//! `turnutils_natdiscovery -H` is not asked about hairpinning where a filter looks at who sends: it asks
//! from one socket for the outside endpoint of another, which never sent anything there, so the filter
//! answers in the NAT's stead. `stun` sends to a socket of its own from that very socket.
//!
//! Needs root and those programs. Without them the tests say why they do nothing, and fail if
//! `MESHWIRE_REQUIRE_LAB` is set.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test that cannot run says why")]

mod place;

use meshwire_netsim::Preset;
use place::{Place, can_run};

const NO_NAT: &str = "No NAT! (Endpoint Independent Mapping)";
const MAPPING_EI: &str = "NAT with Endpoint Independent Mapping!";
const MAPPING_AP: &str = "NAT with Address and Port Dependent Mapping!";
const FILTER_EI: &str = "NAT with Endpoint Independent Filtering!";
const FILTER_A: &str = "NAT with Address Dependent Filtering!";
const FILTER_AP: &str = "NAT with Address and Port Dependent Filtering!";

/// STUN's own port.
const PORT: u16 = 3478;

/// The RFC 5780 client says this of mapping and filtering, the RFC 3489 one that of everything.
fn is(preset: Preset, mapping: &str, filtering: &str, classic: &str) {
    if !can_run() {
        return;
    }
    let place = Place::new(preset, PORT);
    says(&place, &[], PORT, &[mapping, filtering]);
    assert_eq!(place.classic(), classic, "{preset}");
}

fn says(place: &Place, flags: &[&str], port: u16, expected: &[&str]) {
    let said = place.discover(&[&["-m", "-f"], flags].concat(), port);
    let verdicts: Vec<_> = said.lines().filter(|line| line.contains("NAT")).collect();
    assert_eq!(verdicts, expected, "{said}");
}

#[test]
fn open() {
    if !can_run() {
        return;
    }
    let place = Place::new(Preset::Open, PORT);
    says(&place, &[], PORT, &[NO_NAT, MAPPING_EI, NO_NAT, FILTER_EI]);
    assert_eq!(place.classic(), "Open");
}

#[test]
fn full_cone() {
    let classic = "Independent Mapping, Independent Filter, preserves ports, will hairpin";
    is(Preset::FullCone, MAPPING_EI, FILTER_EI, classic);
}

#[test]
fn address_restricted() {
    let classic = "Independent Mapping, Address Dependent Filter, preserves ports, will hairpin";
    is(Preset::AddressRestricted, MAPPING_EI, FILTER_A, classic);
}

#[test]
fn port_restricted() {
    let classic = "Independent Mapping, Port Dependent Filter, preserves ports, will hairpin";
    is(Preset::PortRestricted, MAPPING_EI, FILTER_AP, classic);
}

#[test]
fn symmetric() {
    let classic = "Dependent Mapping, random port, no hairpin";
    is(Preset::Symmetric, MAPPING_AP, FILTER_AP, classic);
}

#[test]
fn mobile() {
    let classic = "Dependent Mapping, random port, no hairpin";
    is(Preset::Mobile, MAPPING_AP, FILTER_AP, classic);
}

#[test]
fn cgnat() {
    let classic = "Independent Mapping, Independent Filter, random port, will hairpin";
    is(Preset::Cgnat, MAPPING_EI, FILTER_EI, classic);
}

#[test]
fn cloud_one_to_one() {
    let classic = "Independent Mapping, Independent Filter, preserves ports, will hairpin";
    is(Preset::CloudOneToOne, MAPPING_EI, FILTER_EI, classic);
}

/// Linux' masquerade keeps the port for every destination: whoever is alone behind it sees a mapping
/// that does not depend on them. When a neighbour has the same port to one of the server's addresses,
/// what it hides shows: another port there. (The same port then serves the server's other port, as with
/// the kernel, so that the client calls it address-dependent.)
#[test]
fn symmetric_preserving() {
    let classic = "Independent Mapping, Port Dependent Filter, preserves ports, no hairpin";
    is(Preset::SymmetricPreserving, MAPPING_EI, FILTER_AP, classic);
    if !can_run() {
        return;
    }
    let place = Place::new(Preset::SymmetricPreserving, PORT);
    let used = place.neighbour_uses_a_port();
    let flags = ["-l", &used.to_string()];
    says(&place, &flags, PORT, &["NAT with Address Dependent Mapping!", FILTER_AP]);
}

/// UDP leaves for port 53 alone, where it is as the preset says. `stun` takes no server port below
/// 1024 ("203.0.113.1:53 is not a valid host name"), so only the other client is asked there.
#[test]
fn hotel() {
    if !can_run() {
        return;
    }
    says(&Place::new(Preset::Hotel, 53), &[], 53, &[MAPPING_EI, FILTER_AP]);
    assert_eq!(Place::new(Preset::Hotel, PORT).classic(), BLOCKED);
}

const BLOCKED: &str = "Blocked or could not reach STUN server";

#[test]
fn corporate() {
    if !can_run() {
        return;
    }
    let place = Place::new(Preset::Corporate, PORT);
    assert_eq!(place.classic(), BLOCKED);
    let said = place.discover(&["-m"], PORT);
    assert!(said.contains("STUN receive timeout") && !said.contains("Mapping!"), "{said}");
}

/// Hairpinning as the RFC 5780 client sees it.
#[test]
fn hairpinning() {
    if !can_run() {
        return;
    }
    for (preset, hairpins) in
        [(Preset::FullCone, true), (Preset::Cgnat, true), (Preset::Symmetric, false)]
    {
        let said = Place::new(preset, PORT).discover(&["-H"], PORT);
        let heard = said.contains("Received a request (maybe a successful hairpinning)");
        assert_eq!(heard, hairpins, "{preset}: {said}");
    }
}
