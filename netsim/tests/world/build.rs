//! A world of one core, servers and homes behind presets.

use std::net::{IpAddr, SocketAddr};

use meshwire_netsim::packet::{Build, View, build};
use meshwire_netsim::{
    Builder, Delivery, Engine, HostId, IfaceId, NetId, Preset, RouterConfig, RouterId, Time,
    Uplink, Wire,
};

pub(crate) const SERVER: &str = "203.0.113.5";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) struct Home {
    pub(crate) host: HostId,
    pub(crate) host_iface: IfaceId,
    pub(crate) router: RouterId,
    pub(crate) uplink: IfaceId,
}

pub(crate) struct World {
    pub(crate) builder: Builder,
    pub(crate) core: NetId,
    pub(crate) server: HostId,
    pub(crate) server_iface: IfaceId,
    ifaces: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut builder = Builder::new(seed);
        let core = builder.core("internet").unwrap();
        let server = builder.host("server").unwrap();
        let addresses = [ip(SERVER), ip("2001:db8:5::5")];
        let server_iface = builder.attach(server, core, &addresses, Wire::default()).unwrap();
        Self { builder, core, server, server_iface, ifaces: 1 }
    }

    /// Home number `n`: 10.0.n.2 behind 198.51.100.n, and 2001:db8:100+n::2.
    pub(crate) fn home(&mut self, n: u8, config: RouterConfig, wire: Wire) -> Home {
        let core = self.core;
        self.behind(n, config, wire, core, &format!("198.51.100.{n}"))
    }

    pub(crate) fn behind(
        &mut self,
        n: u8,
        config: RouterConfig,
        wire: Wire,
        net: NetId,
        outside: &str,
    ) -> Home {
        let b = &mut self.builder;
        let v6 = format!("2001:db8:{}::", 100 + u32::from(n));
        let prefix = format!("{v6}/48").parse().unwrap();
        let subnets = [format!("10.0.{n}.0/24").parse().unwrap(), prefix];
        let lan = b.segment(&format!("lan{n}"), &subnets).unwrap();
        let up = [ip(outside), ip(&format!("2001:db8:ff::{n}"))];
        let routed = [prefix];
        let uplink = Uplink { net, addresses: &up, routed: &routed, wire };
        let router = b.router(&format!("router{n}"), config, &uplink).unwrap();
        let gateway = [ip(&format!("10.0.{n}.1")), ip(&format!("{v6}1"))];
        b.inside(router, lan, &gateway, &[], Wire::default()).unwrap();
        let host = b.host(&format!("host{n}")).unwrap();
        let addresses = [ip(&format!("10.0.{n}.2")), ip(&format!("{v6}2"))];
        let host_iface = b.attach(host, lan, &addresses, Wire::default()).unwrap();
        let uplink = b.uplink(router).unwrap();
        self.ifaces += 3;
        Home { host, host_iface, router, uplink }
    }

    pub(crate) fn preset(&mut self, n: u8, preset: Preset) -> Home {
        self.home(n, preset.router(), Wire::default())
    }

    pub(crate) fn go(self) -> Engine {
        self.builder.build()
    }
}

/// Sends one packet and gives what arrives of it by then, and a while later.
pub(crate) fn send(
    engine: &mut Engine,
    now: Time,
    host: HostId,
    from: &str,
    to: &str,
    what: Build<'_>,
) -> Vec<Delivery> {
    engine.send(now, host, build(sock(from), sock(to), what));
    let mut all = Vec::new();
    while let Some(delivery) = engine.poll(now) {
        all.push(delivery);
    }
    all
}

/// Source and destination of a packet.
pub(crate) fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let view = View::parse(packet).unwrap();
    let (from, to) = view.ports();
    (SocketAddr::new(view.ip.source, from), SocketAddr::new(view.ip.destination, to))
}

pub(crate) fn books_balance(engine: &Engine) {
    let l = engine.ledger();
    let flying = u64::try_from(engine.in_flight()).unwrap();
    let out = l.delivered + l.absorbed + l.dropped_in_all() + flying;
    assert_eq!(l.entered + l.made, out, "{l:?}, {flying} in flight");
}
