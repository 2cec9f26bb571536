//! The world of a cell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use meshwire_netsim::simnet::{Home, Internet, Sim, Stage};
use meshwire_netsim::{Change, ConfigError, HostId, LinkConfig, Preset, Wire, nat};

use super::cell::{Cell, Families, Listener};
use super::play::{DIALER, LISTENER};
use crate::sim::virtual_world::BrokerSite;

/// Each router's link to the core, one way: homes are 40 ms of round trip apart, and 20 ms from the
/// broker.
const UPLINK: Duration = Duration::from_millis(10);

/// Its simulation, the broker's place, and both hosts.
pub(super) fn place(
    stage: Stage,
    cell: Cell,
) -> Result<(Sim, BrokerSite, [HostId; 2]), ConfigError> {
    let mut net = Internet::new(stage)?;
    let broker = net.server("broker", Wire::default())?;
    let uplink = Wire::both(LinkConfig::with_latency(UPLINK));
    let home = net.home(DIALER, cell.dialer, uplink)?;
    let (host, iface) = match cell.listener {
        Listener::Behind(preset) => {
            let other = net.home(LISTENER, preset, uplink)?;
            (other.host, other.iface)
        }
        Listener::Lan => {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 3, 1, 0, 0, 0, 3);
            let own = [v6.into(), neighbour(cell.dialer).into()];
            let own = if cell.dialer == Preset::Ipv6Only { &own[..1] } else { &own[..] };
            let builder = net.builder();
            let host = builder.host(LISTENER)?;
            (host, builder.attach(host, home.lan, own, Wire::default())?)
        }
    };
    let sim = net.start();
    if cell.dialer == Preset::CloudOneToOne && cell.listener == Listener::Lan {
        pair_neighbour(&sim, &home)?;
    }
    for (host, iface) in [(home.host, home.iface), (host, iface)] {
        let mut addresses = sim.host(host).addresses();
        addresses.retain(|ip| match cell.families {
            Families::V4 => ip.is_ipv4(),
            Families::V6 => ip.is_ipv6(),
            Families::Dual => true,
        });
        sim.control(Change::Address { iface, addresses })?;
    }
    let site = BrokerSite { turn: true, ..BrokerSite::on(broker, "broker") };
    Ok((sim, site, [home.host, host]))
}

/// The next IPv4 address in the first home's LAN.
fn neighbour(dialer: Preset) -> Ipv4Addr {
    match dialer.router().nat {
        Some(_) => Ipv4Addr::new(10, 0, 1, 3),
        None => Ipv4Addr::new(198, 19, 1, 3),
    }
}

/// Where addresses go in pairs, the neighbour needs one, too.
fn pair_neighbour(sim: &Sim, home: &Home) -> Result<(), ConfigError> {
    let IpAddr::V4(first) = home.outside else { return Ok(()) };
    let second = Ipv4Addr::new(198, 18, 200, 1);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
    let (router, iface) = (home.router, home.uplink);
    sim.control(Change::Nat { router, config: None })?;
    let addresses = vec![first.into(), second.into(), v6.into()];
    sim.control(Change::Address { iface, addresses })?;
    let own = nat::Pair { inside: Ipv4Addr::new(10, 0, 1, 2), outside: first };
    let next = nat::Pair { inside: neighbour(Preset::CloudOneToOne), outside: second };
    let config = Preset::CloudOneToOne.router().with_pairs(vec![own, next]).nat;
    sim.control(Change::Nat { router, config })
}
