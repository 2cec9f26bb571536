//! A broker's TURN desk: a [`TurnServer`] of this process, and credentials for it by member.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwire_coord::{TurnDesk, TurnOffer};
use meshwire_signaling::frame::TurnServer as Offered;
use meshwire_signaling::{PublicKey, UnixMillis};
use meshwire_turn::{Kind, Member, TurnServer};

/// How long credentials hold. A node keeps an allocation with the credentials that it was made with, so
/// they outlast what it needs them for. They can be ended before ([`TurnDesk::delete_member`]).
const TTL: Duration = Duration::from_secs(12 * 3_600);

/// See the module's documentation.
#[derive(Debug)]
pub struct Desk {
    server: TurnServer,
    /// All addresses that members are told, for each transport.
    addresses: Vec<String>,
    stun: Vec<String>,
}

impl Desk {
    /// For a server that members reach at `hosts`: names or IP addresses (IPv6 without brackets).
    #[must_use]
    pub fn new(server: TurnServer, hosts: &[String]) -> Arc<Self> {
        let at = server.listening();
        let addresses = [("udp", &at.udp), ("tcp", &at.tcp), ("tls", &at.tls)]
            .into_iter()
            .flat_map(|(transport, at)| hosts.iter().filter_map(move |h| place(h, at, transport)))
            .collect();
        let stun = [&at.udp[..], at.behaviour.as_slice()]
            .into_iter()
            .flat_map(|at| hosts.iter().filter_map(move |h| Some(joined(h, port(h, at, false)?))))
            .collect();
        Arc::new(Self { addresses, stun, server })
    }

    /// Where members are told that it is: `udp:HOST:PORT`, `tcp:…` and `tls:…`.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where members are told that it answers STUN: `HOST:PORT`, two ports where it can tell how a
    /// client's NAT behaves.
    #[must_use]
    pub fn stun(&self) -> &[String] {
        &self.stun
    }

    /// Stops the server and waits for that, once nobody else has the desk; else with the last one.
    pub async fn shutdown(self: Arc<Self>) {
        if let Some(desk) = Arc::into_inner(self) {
            desk.server.shutdown().await;
        }
    }
}

impl TurnDesk for Desk {
    fn credentials(&self, member: &PublicKey, now: UnixMillis) -> TurnOffer {
        let stun = self.stun.clone();
        // A node has a key of its own in each mesh, so the key says which member of which mesh it is.
        let Ok(member) = Member::new(Kind::Member, &member.to_string()) else {
            return TurnOffer { servers: Vec::new(), stun };
        };
        let given = self.server.credentials(&member, TTL);
        let server = Offered {
            addresses: self.addresses.clone(),
            username: given.username,
            password: given.password.to_string(),
            expires_at: now.saturating_add(given.ttl.saturating_mul(1_000)),
        };
        TurnOffer { servers: vec![server], stun }
    }

    fn stun(&self) -> Vec<String> {
        self.stun.clone()
    }

    fn delete_member(&self, member: &PublicKey) {
        self.server.delete_member(&member.to_string());
    }

    fn metrics(&self) -> String {
        self.server.metrics().openmetrics()
    }
}

/// The port of the first socket that `host` leads to: of its family, where that is known. Streams on
/// every IPv6 address take IPv4 as well.
fn port(host: &str, at: &[SocketAddr], streams: bool) -> Option<u16> {
    let ip: Option<IpAddr> = host.parse().ok();
    let any = |a: &SocketAddr| streams && a.is_ipv6() && a.ip().is_unspecified();
    let fits = |a: &&SocketAddr| ip.is_none_or(|ip| ip.is_ipv4() == a.is_ipv4() || any(a));
    at.iter().find(fits).map(SocketAddr::port)
}

fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn place(host: &str, at: &[SocketAddr], transport: &str) -> Option<String> {
    port(host, at, transport != "udp").map(|port| format!("{transport}:{}", joined(host, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_the_port_of_their_family() {
        let at = ["0.0.0.0:1".parse().unwrap(), "[::]:2".parse().unwrap()];
        assert_eq!(place("192.0.2.7", &at, "udp").unwrap(), "udp:192.0.2.7:1");
        assert_eq!(place("2001:db8::7", &at, "udp").unwrap(), "udp:[2001:db8::7]:2");
        assert_eq!(place("broker.example", &at, "tls").unwrap(), "tls:broker.example:1");
        assert_eq!(place("192.0.2.7", &at[1..], "tcp").unwrap(), "tcp:192.0.2.7:2");
        assert_eq!(place("192.0.2.7", &at[1..], "udp"), None);
        assert_eq!(place("2001:db8::7", &at[..1], "tcp"), None);
        assert_eq!(place("192.0.2.7", &[], "tcp"), None);
    }
}
