//! The servers that brokers offer.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use meshwire_signaling::frame::TurnServers;
use tokio::time::{Duration, Instant, timeout_at};

use crate::net::Net;
use crate::quic::servers::Servers;
use crate::quic::turn::TurnServer;

/// Servers of one broker, places of one server, and addresses of one name, that are looked at.
const PLACES: usize = 4;
/// How long finding all names of one broker may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one broker offers, as far as it is taken. TURN is spoken over UDP: where that is blocked, the
/// relay is at hand.
pub(super) async fn found(net: &dyn Net, servers: &TurnServers) -> Servers {
    let until = Instant::now() + PATIENCE;
    let stun = servers.stun.iter().take(PLACES);
    let stun = join_all(stun.map(|server| known(net, server, until)));
    let turn = servers.servers.iter().take(PLACES).flat_map(|server| {
        let places = server.addresses.iter().filter_map(|a| a.strip_prefix("udp:"));
        places.take(PLACES).map(move |place| (server, place))
    });
    let turn = join_all(turn.map(async |(server, place)| {
        let addrs = known(net, place, until).await.into_iter();
        let (username, password) = (&server.username, &server.password);
        let turn =
            |addr| TurnServer { addr, username: username.clone(), password: password.clone() };
        addrs.map(turn).collect::<Vec<_>>()
    }));
    let (stun, turn) = tokio::join!(stun, turn);
    Servers { stun: stun.concat(), turn: turn.concat() }
}

/// The addresses of one place, as far as they are useful.
async fn known(net: &dyn Net, place: &str, until: Instant) -> Vec<SocketAddr> {
    let resolved = timeout_at(until, resolve(net, place)).await;
    let found = resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found = found.unwrap_or_else(|e| {
        tracing::debug!(server = place, error = %e, "a STUN or TURN server has no address");
        Vec::new()
    });
    // A broker must not make its members send to everybody on their network.
    let useful = |a: &SocketAddr| {
        let broadcast = matches!(a.ip(), IpAddr::V4(ip) if ip.is_broadcast());
        a.port() > 0 && !(a.ip().is_unspecified() || a.ip().is_multicast() || broadcast)
    };
    found.into_iter().filter(useful).take(PLACES).collect()
}

async fn resolve(net: &dyn Net, server: &str) -> io::Result<Vec<SocketAddr>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidInput);
    let (host, port) = server.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    net.resolve(host.trim_matches(['[', ']']), port).await
}
