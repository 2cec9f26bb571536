//! Through a TURN server: the broker's own one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::Preset::{FullCone, PortRestricted, Symmetric};
use meshwire_netsim::simnet::run;
use meshwire_signaling::MeshId;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Config, PairKind, QuicNode, Servers, TurnServer as Server};
use meshwire_turn::{Kind, Member, RelayAddress, Secret, TurnConfig, TurnServer};
use tokio::time::{sleep, timeout};

use crate::LONG;
use crate::place::{Place, echo, meet, pair_of, try_meet, try_meet_in};

const AT: ([u8; 4], u16) = ([203, 0, 113, 1], 3479);

/// A TURN server beside the STUN server, and what both nodes need to use it.
pub(crate) async fn turn(place: &Place) -> (TurnServer, [Server; 2]) {
    turn_at(place, AT.1, true).await
}

async fn turn_at(place: &Place, port: u16, allow: bool) -> (TurnServer, [Server; 2]) {
    let at = SocketAddr::from((AT.0, port));
    let mut config = TurnConfig::new(Secret::new(*b"a secret of thirty-two bytes ..."));
    config.udp = vec![at];
    config.relay = vec![RelayAddress::direct(IpAddr::from(AT.0))];
    // All addresses of a simulated Internet are special ones.
    if allow {
        config.allow = vec!["198.18.0.0/15".parse().unwrap()];
    }
    let server = TurnServer::start(Arc::new(place.server.clone()), config).await.unwrap();
    let credentials = ["alice", "bob"].map(|name| {
        let member = Member::new(Kind::Member, name).unwrap();
        let given = server.credentials(&member, Duration::from_secs(3600));
        let password = given.password.to_string();
        Server { addr: at, username: given.username, password }
    });
    (server, credentials)
}

pub(crate) fn servers(turn: &Server) -> Servers {
    Servers { stun: vec![SocketAddr::from((AT.0, 3478))], turn: vec![turn.clone()] }
}

#[test]
fn symmetric_meets_symmetric_through_a_relay() {
    run(1, async |stage| {
        let place = Place::new(stage, [Symmetric, Symmetric], IpAddr::is_ipv4).await;
        let (_turn, credentials) = turn(&place).await;
        let [a, b] = &place.peers;
        for (peer, turn) in [a, b].into_iter().zip(&credentials) {
            peer.node.set_servers(None, servers(turn));
        }
        let (left, right) = timeout(LONG, meet(&a.node, &b.node)).await.unwrap();
        for conn in [&left, &right] {
            assert_eq!(pair_of(conn).kind, PairKind::Relayed);
        }
        // Longer than permissions (5 min), channels and allocations (10 min) live by themselves.
        for _ in 0..4 {
            echo(&left, &right).await;
            sleep(Duration::from_secs(7 * 60)).await;
        }
    });
}

#[test]
fn one_relay_is_enough_and_direct_is_better() {
    run(1, async |stage| {
        let place = Place::new(stage, [PortRestricted, FullCone], IpAddr::is_ipv4).await;
        let (_turn, [credentials, _]) = turn(&place).await;
        let [a, b] = &place.peers;
        a.node.set_servers(None, servers(&credentials));
        let (left, right) = timeout(LONG, meet(&a.node, &b.node)).await.unwrap();
        let mut pair = left.pair();
        timeout(LONG, pair.wait_for(|p| p.is_some_and(|p| p.is_direct()))).await.unwrap().unwrap();
        echo(&left, &right).await;
    });
}

/// Nobody learns where such a node is: neither from its candidates nor from its packets.
#[test]
fn a_node_that_hides_is_met_through_its_relay_alone() {
    run(1, async |stage| {
        let place = Place::new(stage, [FullCone, FullCone], IpAddr::is_ipv4).await;
        let (_turn, [credentials, _]) = turn(&place).await;
        let host = place.sim.host(place.homes[0].host);
        let interfaces = Arc::new(FixedInterfaces::new(host.addresses()));
        let config = Config { relayed_only: true, ..Config::new(interfaces) };
        let hidden = QuicNode::start(Arc::new(host), config).await.unwrap();
        hidden.set_servers(None, servers(&credentials));
        let (left, right) = timeout(LONG, meet(&hidden, &place.peers[1].node)).await.unwrap();
        echo(&left, &right).await;
        assert_eq!(pair_of(&left).local.ip(), IpAddr::from(AT.0));
        assert_eq!(pair_of(&right).remote.ip(), IpAddr::from(AT.0));
        assert_eq!(pair_of(&right).kind, PairKind::Relayed);
    });
}

#[test]
fn wrong_credentials_mean_no_relay_and_nothing_else() {
    run(1, async |stage| {
        let place = Place::new(stage, [Symmetric, Symmetric], IpAddr::is_ipv4).await;
        let (_turn, [credentials, _]) = turn(&place).await;
        let [a, b] = &place.peers;
        let wrong = Server { password: "wrong".into(), ..credentials };
        a.node.set_servers(None, servers(&wrong));
        b.node.set_servers(None, servers(&wrong));
        let (left, right) = try_meet(&a.node, &b.node).await;
        assert!(left.is_err() && right.is_err());
    });
}

const OTHER: Option<MeshId> = Some(MeshId([1; 32]));
const LAB: Option<MeshId> = Some(MeshId([2; 32]));

/// One mesh's broker learns nothing of the addresses of another mesh's peers.
#[test]
fn each_mesh_goes_through_its_own_server() {
    run(1, async |stage| {
        let place = Place::new(stage, [Symmetric, Symmetric], IpAddr::is_ipv4).await;
        let (lab, credentials) = turn_at(&place, 3479, true).await;
        // This one counts for whom it is asked for permissions: it refuses them all.
        let (other, of_other) = turn_at(&place, 3480, false).await;
        let [a, b] = &place.peers;
        for (n, peer) in [a, b].into_iter().enumerate() {
            peer.node.set_servers(LAB, servers(&credentials[n]));
            peer.node.set_servers(OTHER, servers(&of_other[n]));
        }
        let (left, right) = timeout(LONG, try_meet_in(LAB, &a.node, &b.node)).await.unwrap();
        let (left, right) = (left.unwrap(), right.unwrap());
        assert_eq!(pair_of(&left).kind, PairKind::Relayed);
        echo(&left, &right).await;
        let (lab, other) = (lab.metrics(), other.metrics());
        assert_eq!([lab.allocations, other.allocations], [2, 2]);
        assert!(!lab.counters.to_peers.is_empty());
        assert!(other.counters.refused_peers.is_empty() && other.counters.to_peers.is_empty());
    });
}

/// Naming another broker's server with false credentials takes it from nobody.
#[test]
fn false_credentials_of_one_mesh_are_nothing_to_another() {
    run(1, async |stage| {
        let place = Place::new(stage, [Symmetric, Symmetric], IpAddr::is_ipv4).await;
        let (_turn, credentials) = turn(&place).await;
        let [a, b] = &place.peers;
        for (peer, turn) in [a, b].into_iter().zip(&credentials) {
            let wrong = Server { password: "wrong".into(), ..turn.clone() };
            peer.node.set_servers(OTHER, servers(&wrong));
            peer.node.set_servers(LAB, servers(turn));
        }
        let (left, right) = timeout(LONG, try_meet_in(LAB, &a.node, &b.node)).await.unwrap();
        let (left, right) = (left.unwrap(), right.unwrap());
        assert_eq!(pair_of(&left).kind, PairKind::Relayed);
        for (peer, turn) in [a, b].into_iter().zip(&credentials) {
            let wrong = Server { password: "wrong again".into(), ..turn.clone() };
            peer.node.set_servers(OTHER, servers(&wrong));
        }
        sleep(Duration::from_secs(20 * 60)).await;
        echo(&left, &right).await;
    });
}
