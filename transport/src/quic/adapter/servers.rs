//! The servers that brokers offer.

use std::net::{IpAddr, SocketAddr};

use meshwire_signaling::frame::TurnServers;

use crate::net::Net;
use crate::quic::node::Servers;
use crate::quic::turn::TurnServer;

/// Servers of one broker, places of one server, and addresses of one name, that are looked at.
const PLACES: usize = 4;

/// What one broker offers, as far as it is taken. TURN is spoken over UDP: where that is blocked, the
/// relay is at hand.
pub(super) async fn add(net: &dyn Net, servers: &TurnServers) -> Servers {
    let known = |server: &str, found: std::io::Result<Vec<SocketAddr>>| {
        let found = found.unwrap_or_else(|e| {
            tracing::debug!(server, error = %e, "a STUN or TURN server has no address");
            Vec::new()
        });
        // A broker must not make its members send to everybody on their network.
        let useful = |a: &SocketAddr| {
            let broadcast = matches!(a.ip(), IpAddr::V4(ip) if ip.is_broadcast());
            a.port() > 0 && !(a.ip().is_unspecified() || a.ip().is_multicast() || broadcast)
        };
        found.into_iter().filter(useful).take(PLACES).collect::<Vec<_>>()
    };
    let mut to = Servers::default();
    for server in servers.stun.iter().take(PLACES) {
        to.stun.extend(known(server, resolve(net, server).await));
    }
    for server in servers.servers.iter().take(PLACES) {
        let places = server.addresses.iter().filter_map(|a| a.strip_prefix("udp:"));
        for place in places.take(PLACES) {
            let found = known(place, resolve(net, place).await);
            to.turn.extend(found.into_iter().map(|addr| TurnServer {
                addr,
                username: server.username.clone(),
                password: server.password.clone(),
            }));
        }
    }
    to
}

/// All brokers' servers, each broker's first one first: none can crowd the others out.
pub(super) fn in_turns(all: Vec<Servers>) -> Servers {
    let mut one = Servers::default();
    let most = all.iter().map(|s| s.stun.len().max(s.turn.len())).max().unwrap_or(0);
    for n in 0..most {
        for servers in &all {
            let stun = servers.stun.get(n).filter(|s| !one.stun.contains(s)).copied();
            let known = |s: &&TurnServer| !one.turn.iter().any(|other| other.addr == s.addr);
            let turn = servers.turn.get(n).filter(known).cloned();
            one.stun.extend(stun);
            one.turn.extend(turn);
        }
    }
    one
}

async fn resolve(net: &dyn Net, server: &str) -> std::io::Result<Vec<SocketAddr>> {
    let bad = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let (host, port) = server.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    net.resolve(host.trim_matches(['[', ']']), port).await
}
