//! Through a TURN server: the broker's own one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::Preset::{FullCone, PortRestricted, Symmetric};
use meshwire_netsim::simnet::run;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Config, PairKind, QuicNode, Servers, TurnServer as Server};
use meshwire_turn::{Kind, Member, RelayAddress, Secret, TurnConfig, TurnServer};
use tokio::time::{sleep, timeout};

use crate::LONG;
use crate::place::{Place, echo, meet, pair_of, try_meet};

const AT: ([u8; 4], u16) = ([203, 0, 113, 1], 3479);

/// A TURN server beside the STUN server, and what both nodes need to use it.
pub(crate) async fn turn(place: &Place) -> (TurnServer, [Server; 2]) {
    let mut config = TurnConfig::new(Secret::new(*b"a secret of thirty-two bytes ..."));
    config.udp = vec![AT.into()];
    config.relay = vec![RelayAddress::direct(IpAddr::from(AT.0))];
    // All addresses of a simulated Internet are special ones.
    config.allow = vec!["198.18.0.0/15".parse().unwrap()];
    let server = TurnServer::start(Arc::new(place.server.clone()), config).await.unwrap();
    let credentials = ["alice", "bob"].map(|name| {
        let member = Member::new(Kind::Member, name).unwrap();
        let given = server.credentials(&member, Duration::from_secs(3600));
        let password = given.password.to_string();
        Server { addr: SocketAddr::from(AT), username: given.username, password }
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
            peer.node.set_servers(servers(turn));
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
        a.node.set_servers(servers(&credentials));
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
        hidden.set_servers(servers(&credentials));
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
        a.node.set_servers(servers(&wrong));
        b.node.set_servers(servers(&wrong));
        let (left, right) = try_meet(&a.node, &b.node).await;
        assert!(left.is_err() && right.is_err());
    });
}
