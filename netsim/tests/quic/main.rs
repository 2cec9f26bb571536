//! QUIC over ICE between hosts behind routers, in virtual time. Descriptions and candidates are
//! exchanged here, without a broker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guessed;
mod place;
mod relayed;
mod streams;

use std::net::IpAddr;
use std::time::Duration;

use meshwire_netsim::Preset::{self, *};
use meshwire_netsim::simnet::run;
use meshwire_netsim::{Change, Direction, LinkState};
use meshwire_transport::quic::{PairKind, QuicConn};
use place::{Place, echo, meet, pair_of};
use tokio::time::{Instant, timeout};

/// Far longer than anything takes that works.
const LONG: Duration = Duration::from_secs(60);

/// Connects both, each being the dialer once, and hands over the connections of one time.
async fn direct(place: &Place, expected: &[PairKind]) {
    for swapped in [false, true] {
        let [a, b] = &place.peers;
        let (one, other) = if swapped { (b, a) } else { (a, b) };
        let (left, right) = timeout(LONG, meet(&one.node, &other.node)).await.unwrap();
        for conn in [&left, &right] {
            let pair = pair_of(conn);
            assert!(expected.contains(&pair.kind), "{pair:?}, swapped: {swapped}");
        }
        echo(&left, &right).await;
    }
}

fn v4(presets: [Preset; 2], expected: &[PairKind]) {
    run(1, async |stage| {
        let place = Place::new(stage, presets, |ip: &IpAddr| ip.is_ipv4()).await;
        direct(&place, expected).await;
    });
}

#[test]
fn port_restricted_meets_port_restricted() {
    v4([PortRestricted, PortRestricted], &[PairKind::Reflexive, PairKind::PeerReflexive]);
}

#[test]
fn full_cone_meets_symmetric() {
    v4([FullCone, Symmetric], &[PairKind::Reflexive, PairKind::PeerReflexive]);
}

#[test]
fn address_restricted_meets_symmetric() {
    v4([AddressRestricted, Symmetric], &[PairKind::Reflexive, PairKind::PeerReflexive]);
}

#[test]
fn carrier_grade_meets_port_restricted() {
    v4([Cgnat, PortRestricted], &[PairKind::Reflexive, PairKind::PeerReflexive]);
}

#[test]
fn open_meets_everybody_whose_udp_is_let_through() {
    for other in [Open, FullCone, PortRestricted, Symmetric, Mobile] {
        v4([Open, other], &[PairKind::Host, PairKind::Reflexive, PairKind::PeerReflexive]);
    }
}

#[test]
fn ipv6_needs_no_translation() {
    run(1, async |stage| {
        let place = Place::new(stage, [Symmetric, Symmetric], IpAddr::is_ipv6).await;
        direct(&place, &[PairKind::Host, PairKind::PeerReflexive]).await;
    });
}

#[test]
fn one_lan_needs_no_router() {
    run(1, async |stage| {
        let place = Place::one_lan(stage, Symmetric).await;
        direct(&place, &[PairKind::Host]).await;
    });
}

#[test]
fn symmetric_does_not_meet_symmetric_without_a_relay() {
    run(1, async |stage| {
        let place = Place::new(stage, [Symmetric, Symmetric], IpAddr::is_ipv4).await;
        let [a, b] = &place.peers;
        let before = Instant::now();
        let (left, right) = place::try_meet(&a.node, &b.node).await;
        assert!(left.is_err() && right.is_err());
        assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    });
}

/// 5 ms each way at both routers are 20 ms there and back; signalling takes 20 ms each way.
#[test]
fn home_to_home_is_direct_within_a_quarter_of_a_second() {
    run(1, async |stage| {
        let place = Place::new(stage, [PortRestricted, PortRestricted], IpAddr::is_ipv4).await;
        let [a, b] = &place.peers;
        for _ in 0..5 {
            let before = Instant::now();
            let (left, _right) = meet(&a.node, &b.node).await;
            let took = before.elapsed();
            assert!(took < Duration::from_millis(250), "{took:?} to {:?}", pair_of(&left));
        }
    });
}

/// The connection stays, whatever happens to the addresses under it.
async fn survives(left: &QuicConn, right: &QuicConn, within: Duration) {
    let before = Instant::now();
    timeout(LONG, echo(left, right)).await.unwrap();
    assert!(before.elapsed() < within, "{:?}", before.elapsed());
}

/// A router gets another address: its mappings are gone, and nobody tells the nodes.
#[test]
fn a_connection_outlives_its_routers_address() {
    for moved in [0, 1] {
        run(1, async |stage| {
            let place = Place::new(stage, [PortRestricted, PortRestricted], IpAddr::is_ipv4).await;
            let [a, b] = &place.peers;
            let (left, right) = meet(&a.node, &b.node).await;
            echo(&left, &right).await;
            let uplink = place.homes[moved].uplink;
            let addresses = vec!["198.18.77.77".parse().unwrap()];
            place.sim.control(Change::Address { iface: uplink, addresses }).unwrap();
            survives(&left, &right, Duration::from_secs(10)).await;
        });
    }
}

/// A router starts anew with the same address.
#[test]
fn a_connection_outlives_its_routers_reboot() {
    for rebooted in [0, 1] {
        run(1, async |stage| {
            let place = Place::new(stage, [FullCone, Symmetric], IpAddr::is_ipv4).await;
            let [a, b] = &place.peers;
            let (left, right) = meet(&a.node, &b.node).await;
            echo(&left, &right).await;
            let router = place.homes[rebooted].router;
            place.sim.control(Change::Reboot { router }).unwrap();
            survives(&left, &right, Duration::from_secs(10)).await;
        });
    }
}

/// A machine goes from one address to another; the node is told by its interfaces, and trickles.
#[test]
fn a_connection_outlives_its_machines_address() {
    run(1, async |stage| {
        let place = Place::new(stage, [PortRestricted, PortRestricted], IpAddr::is_ipv4).await;
        let [a, b] = &place.peers;
        let (left, right) = meet(&a.node, &b.node).await;
        echo(&left, &right).await;
        let new: IpAddr = "10.0.1.99".parse().unwrap();
        let iface = place.homes[0].iface;
        place.sim.control(Change::Address { iface, addresses: vec![new] }).unwrap();
        a.interfaces.set([new]);
        survives(&left, &right, Duration::from_secs(10)).await;
        assert_eq!(pair_of(&left).local.ip(), new);
    });
}

/// The uplink is dead for eight seconds.
#[test]
fn a_connection_outlives_a_short_outage_and_not_a_long_one() {
    for (outage, lives) in [(8, true), (40, false)] {
        run(1, async |stage| {
            let place = Place::new(stage, [FullCone, PortRestricted], IpAddr::is_ipv4).await;
            let [a, b] = &place.peers;
            let (left, right) = meet(&a.node, &b.node).await;
            let iface = place.homes[0].uplink;
            let state = |state| Change::State { iface, direction: Direction::Both, state };
            place.sim.control(state(LinkState::BlackHole)).unwrap();
            tokio::time::sleep(Duration::from_secs(outage)).await;
            place.sim.control(state(LinkState::Up)).unwrap();
            if lives {
                survives(&left, &right, Duration::from_secs(10)).await;
            } else {
                timeout(LONG, left.closed()).await.unwrap();
                timeout(LONG, right.closed()).await.unwrap();
            }
        });
    }
}

/// A few bytes now and then cost a question of either side each: pairs that are not in use are left alone.
#[test]
fn a_few_bytes_now_and_then_let_a_way_rest() {
    run(1, async |stage| {
        let place = Place::new(stage, [PortRestricted, PortRestricted], |_| true).await;
        let [a, b] = &place.peers;
        let (left, right) = meet(&a.node, &b.node).await;
        echo(&left, &right).await;
        let sent = || place.sim.inspect(|engine| engine.ledger().entered);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let before = sent();
        tokio::time::sleep(Duration::from_secs(60)).await;
        // One question and its answer every six seconds.
        let idle = sent() - before;
        assert!((18..=24).contains(&idle), "{idle}");
        let before = sent();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(15)).await;
            echo(&left, &right).await;
        }
        // Those, what is said, and questions and answers of both sides after it.
        let sparse = sent() - before;
        assert!(sparse <= idle + 4 * (6 + 4 + 2), "{sparse}, {idle} while nothing is said");
    });
}
