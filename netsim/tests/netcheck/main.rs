//! `netcheck` behind each preset, in virtual time: it says what the table in docs/netsim.md says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod place;
mod portmap;
#[path = "../quic/place.rs"]
#[allow(dead_code, reason = "another test's, of which a part is used")]
mod quic;

use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::Preset::{self, *};
use meshwire_netsim::simnet::run;
use meshwire_netsim::{Chance, LinkConfig, Wire};
use meshwire_transport::netcheck::Dependence::{
    self, AddressAndPortDependent as Ap, AddressDependent as Ad, EndpointIndependent as Ei,
};
use meshwire_transport::netcheck::{
    Facts, Family, PathMtu, Reach, STUN_PORT, Udp, judge, probe_all,
};
use meshwire_turn::{Secret, TurnConfig, TurnServer};
use place::{LATENCY, Place};
use tokio::time::Instant;

/// What a preset's IPv4 is, as far as anybody behind it can see.
struct Known {
    preset: Preset,
    translated: bool,
    mapping: Dependence,
    filtering: Dependence,
    port_kept: bool,
    hairpin: Option<bool>,
    reach: Reach,
}

/// Alone behind it, `symmetric-preserving` shows no sign of being symmetric (docs/netsim.md).
fn table() -> Vec<Known> {
    use Reach::{AllButSymmetric, Everybody, OpenNetworks};
    let rows = [
        (Open, false, Ei, Ei, true, None, Everybody),
        (FullCone, true, Ei, Ei, true, Some(true), Everybody),
        (AddressRestricted, true, Ei, Ad, true, Some(true), Everybody),
        (PortRestricted, true, Ei, Ap, true, Some(true), AllButSymmetric),
        (Symmetric, true, Ap, Ap, false, Some(false), OpenNetworks),
        (SymmetricPreserving, true, Ei, Ap, true, Some(false), AllButSymmetric),
        (Cgnat, true, Ei, Ei, false, Some(true), Everybody),
        (Mobile, true, Ap, Ap, false, Some(false), OpenNetworks),
        (CloudOneToOne, true, Ei, Ei, true, Some(true), Everybody),
    ];
    let known = |(preset, translated, mapping, filtering, port_kept, hairpin, reach)| Known {
        preset,
        translated,
        mapping,
        filtering,
        port_kept,
        hairpin,
        reach,
    };
    rows.map(known).into()
}

async fn check(place: &Place) -> Facts {
    let before = Instant::now();
    let (v4, v6) = probe_all(&place.client, &place.stun).await;
    assert!(before.elapsed() < Duration::from_millis(6_500), "{:?}", before.elapsed());
    Facts { servers: place.stun.clone(), v4, v6, ..Facts::default() }
}

fn agrees(known: &Known, v4: &Family, mapping: &[Dependence], filtering: &[Dependence]) {
    let preset = known.preset;
    assert_eq!(v4.udp, Udp::Answered, "{preset}");
    assert_eq!(v4.translated, Some(known.translated), "{preset}");
    assert_eq!(v4.mapping.all(), mapping, "{preset}");
    assert_eq!(v4.filtering.all(), filtering, "{preset}");
    assert_eq!(v4.port_kept, Some(known.port_kept), "{preset}");
    assert_eq!(v4.hairpin, known.hairpin, "{preset}");
    assert_eq!(v4.mtu, PathMtu::AtLeast(1500), "{preset}");
    assert_eq!(v4.rtt, Some(2 * LATENCY), "{preset}");
}

#[test]
fn a_server_with_two_addresses_tells_every_nat() {
    for known in table() {
        run(1, async |stage| {
            let place = Place::new(stage, known.preset, 2, STUN_PORT).await;
            let facts = check(&place).await;
            agrees(&known, &facts.v4, &[known.mapping], &[known.filtering]);
            assert_eq!(facts.v4.mapped.unwrap().ip(), place.home.outside, "{}", known.preset);
            assert_eq!(judge(&facts).reach, known.reach, "{}", known.preset);
        });
    }
}

/// What a server with two ports of one address leaves open.
fn one_address(d: Dependence) -> &'static [Dependence] {
    if d == Ap { &[Ap] } else { &[Ei, Ad] }
}

#[test]
fn a_server_with_one_address_tells_what_it_can() {
    for known in table() {
        let mapping = if known.translated { one_address(known.mapping) } else { &[Ei] };
        run(1, async |stage| {
            let place = Place::new(stage, known.preset, 1, STUN_PORT).await;
            let facts = check(&place).await;
            agrees(&known, &facts.v4, mapping, one_address(known.filtering));
            assert_eq!(judge(&facts).reach, known.reach, "{}", known.preset);
        });
    }
}

/// What `meshwire broker` starts.
#[test]
fn our_own_server_does() {
    for known in table() {
        let mapping = if known.translated { one_address(known.mapping) } else { &[Ei] };
        run(1, async |stage| {
            let wire = Wire::both(LinkConfig::with_latency(LATENCY));
            let mut place = Place::empty(stage, known.preset, wire);
            let ip = place.server.addresses().into_iter().find(std::net::IpAddr::is_ipv4).unwrap();
            let mut config = TurnConfig::new(Secret::new(vec![7; 32]));
            config.udp = vec![(ip, STUN_PORT).into()];
            config.behaviour = Some((ip, STUN_PORT + 1).into());
            let _server = TurnServer::start(Arc::new(place.server.clone()), config).await.unwrap();
            place.stun = vec![(ip, STUN_PORT).into()];
            let facts = check(&place).await;
            agrees(&known, &facts.v4, mapping, one_address(known.filtering));
            assert_eq!(facts.v6.udp, Udp::NoServer);
        });
    }
}

#[test]
fn where_udp_is_blocked_nobody_answers() {
    for preset in [Hotel, Corporate] {
        run(1, async |stage| {
            let facts = check(&Place::new(stage, preset, 2, STUN_PORT).await).await;
            assert_eq!((&facts.v4.udp, &facts.v6.udp), (&Udp::Silent, &Udp::Silent), "{preset}");
            assert_eq!(judge(&facts).reach, Reach::RelayOnly, "{preset}");
        });
    }
}

/// A server's second port is not reached from there, so that its silence says nothing; its second
/// address is.
#[test]
fn a_hotel_is_a_port_restricted_nat_for_port_53() {
    run(1, async |stage| {
        let facts = check(&Place::new(stage, Hotel, 2, 53).await).await;
        assert_eq!(facts.v4.mapping.all(), [Ei]);
        assert_eq!(facts.v4.filtering.all(), [Ad, Ap]);
        assert_eq!(facts.v4.hairpin, Some(false));
        assert_eq!(judge(&facts).reach, Reach::AllButSymmetric);
    });
    run(1, async |stage| {
        let facts = check(&Place::new(stage, Hotel, 1, 53).await).await;
        assert!(facts.v4.mapping.is_unknown() && facts.v4.filtering.is_unknown());
        assert_eq!(judge(&facts).reach, Reach::Unknown);
    });
}

#[test]
fn ipv6_is_not_translated_and_mostly_behind_a_firewall() {
    for preset in Preset::ALL.into_iter().filter(|p| ![Hotel, Corporate].contains(p)) {
        let filtering = match preset {
            Open | Cgnat | Mobile | CloudOneToOne => Ei,
            _ => Ap,
        };
        run(1, async |stage| {
            let place = Place::new(stage, preset, 2, STUN_PORT).await;
            let facts = check(&place).await;
            assert_eq!(facts.v6.translated, Some(false), "{preset}");
            assert_eq!(facts.v6.mapped.unwrap().ip(), place.home.v6, "{preset}");
            assert_eq!(facts.v6.mapping.all(), [Ei], "{preset}");
            assert_eq!(facts.v6.filtering.all(), [filtering], "{preset}");
            assert_eq!(facts.v6.hairpin, None, "{preset}");
            if preset == Ipv6Only {
                assert!(matches!(facts.v4.udp, Udp::NoRoute(_)), "{:?}", facts.v4);
                assert_eq!(judge(&facts).reach, Reach::Ipv6Peers);
            }
        });
    }
}

#[test]
fn the_mtu_is_that_of_the_narrowest_link() {
    for (mtu, silent, expected) in [
        (1400, false, PathMtu::Measured(1400)),
        (1400, true, PathMtu::Measured(1400)),
        (1495, true, PathMtu::Measured(1492)),
        (1280, false, PathMtu::Measured(1280)),
    ] {
        run(1, async |stage| {
            let link = LinkConfig { mtu, mtu_signal: !silent, ..LinkConfig::with_latency(LATENCY) };
            let mut place = Place::empty(stage, PortRestricted, Wire::both(link));
            place.serve(2, STUN_PORT).await;
            let facts = check(&place).await;
            assert_eq!(facts.v4.mtu, expected, "{mtu}");
            assert_eq!(facts.v6.mtu, expected, "{mtu}");
        });
    }
}

#[test]
fn lost_packets_do_not_make_another_nat_of_it() {
    run(7, async |stage| {
        let link = LinkConfig {
            loss: meshwire_netsim::link::Loss::Independent(Chance::new(0.1).unwrap()),
            ..LinkConfig::with_latency(LATENCY)
        };
        let mut place = Place::empty(stage, PortRestricted, Wire::both(link));
        place.serve(2, STUN_PORT).await;
        let facts = check(&place).await;
        assert_eq!(facts.v4.mapping.all(), [Ei]);
        assert_eq!(facts.v4.filtering.all(), [Ap]);
    });
}
