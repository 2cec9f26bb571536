//! A home, and servers that speak RFC 5780 with one address or two.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::simnet::{Home, Internet, Sim, SimHost, Stage};
use meshwire_netsim::{LinkConfig, Preset, Wire};
use meshwire_transport::net::{Datagram, Net as _};
use meshwire_turn::stun::{Builder, Class, Message, Method};

/// The server's addresses; the second of each family is RFC 5780's other one.
const SERVER: [[&str; 2]; 2] =
    [["203.0.113.101", "203.0.113.102"], ["2001:db8:1::101", "2001:db8:1::102"]];
/// From the home's router to the core, each way.
pub(crate) const LATENCY: Duration = Duration::from_millis(5);

/// A machine behind a router, and a server.
pub(crate) struct Place {
    _sim: Sim,
    pub(crate) home: Home,
    pub(crate) client: SimHost,
    pub(crate) server: SimHost,
    /// The server's main address of each family.
    pub(crate) stun: Vec<SocketAddr>,
}

impl Place {
    /// The server has no STUN yet.
    pub(crate) fn empty(stage: Stage, preset: Preset, wire: Wire) -> Self {
        let mut net = Internet::new(stage).unwrap();
        let home = net.home("home", preset, wire).unwrap();
        let core = net.core();
        let builder = net.builder();
        let host = builder.host("server").unwrap();
        let addresses: Vec<IpAddr> = SERVER.iter().flatten().map(|a| a.parse().unwrap()).collect();
        builder.attach(host, core, &addresses, Wire::default()).unwrap();
        let sim = net.start();
        let (client, server) = (sim.host(home.host), sim.host(host));
        Self { home, client, server, stun: Vec::new(), _sim: sim }
    }

    /// With a server that has so many addresses per family, at `port` and the next one.
    pub(crate) async fn new(stage: Stage, preset: Preset, addresses: usize, port: u16) -> Self {
        let wire = Wire::both(LinkConfig::with_latency(LATENCY));
        let mut place = Self::empty(stage, preset, wire);
        place.serve(addresses, port).await;
        place
    }

    /// As in [`Self::new`].
    pub(crate) async fn serve(&mut self, addresses: usize, port: u16) {
        for family in SERVER {
            let ips: Vec<IpAddr> =
                family[..addresses].iter().map(|ip| ip.parse().unwrap()).collect();
            self.stun.push(SocketAddr::new(ips[0], port));
            serve(&self.server, &ips, [port, port + 1]).await;
        }
    }
}

type Sockets = BTreeMap<SocketAddr, Arc<dyn Datagram>>;

/// Answers at each of the addresses and ports.
async fn serve(host: &SimHost, ips: &[IpAddr], ports: [u16; 2]) {
    let mut all = Sockets::new();
    for at in ips.iter().flat_map(|ip| ports.map(|port| SocketAddr::new(*ip, port))) {
        all.insert(at, Arc::from(host.udp_bind(at).await.unwrap()));
    }
    for (at, socket) in all.clone() {
        let all = all.clone();
        tokio::spawn(async move {
            let mut buf = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buf).await {
                let (answer, via) = answer(&all, at, from, &buf[..length]);
                all[&via].send_to(&answer, from).await.unwrap();
            }
        });
    }
}

/// RFC 5780 section 6: what is answered and where it leaves.
fn answer(all: &Sockets, at: SocketAddr, from: SocketAddr, said: &[u8]) -> (Vec<u8>, SocketAddr) {
    const CHANGE_REQUEST: u16 = 3;
    let request = Message::parse(said).unwrap();
    let flags = request.attribute(CHANGE_REQUEST).map_or(0, |value| value[3]);
    let other = |change_ip: bool, change_port: bool| {
        let fits = |b: &&SocketAddr| {
            (b.ip() != at.ip()) == change_ip && (b.port() != at.port()) == change_port
        };
        all.keys().find(fits).copied()
    };
    let Some(via) = other(flags & 4 != 0, flags & 2 != 0) else {
        let refusal = Builder::new(Class::Error, Method::Binding, request.transaction());
        return (refusal.error(420, "no such socket").finish(), at);
    };
    let success = Builder::new(Class::Success, Method::Binding, request.transaction());
    let success = success.xor_address(0x20, from).address(0x802b, via);
    let other = other(true, true).or_else(|| other(false, true)).unwrap();
    (success.address(0x802c, other).finish(), via)
}
