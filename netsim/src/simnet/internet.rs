//! The most common world in a few lines: servers in the core, homes behind routers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Sim, Stage};
use crate::error::ConfigError;
use crate::nat::{NatConfig, Pair};
use crate::prefix::Prefix;
use crate::preset::Preset;
use crate::topology::{Builder, HostId, IfaceId, NetId, RouterId, Uplink, Wire};

/// A core with public servers and, behind routers, homes with one machine each. Everybody has IPv4 and
/// IPv6; addresses are given in order:
///
/// | who | IPv4 | IPv6 |
/// |---|---|---|
/// | n-th server | 203.0.113.n | 2001:db8:1::n |
/// | n-th home's router, outside | 198.18.n | 2001:db8:2::n |
/// | its machine | 10.n.2, without NAT 198.19.n.2 | 2001:db8:3:n::2 |
///
/// A machine behind [`Preset::Ipv6Only`] has no IPv4 address. Names resolve to servers alone.
pub struct Internet {
    stage: Stage,
    builder: Builder,
    core: NetId,
    names: BTreeMap<String, Vec<IpAddr>>,
    servers: u8,
    homes: u16,
}

impl fmt::Debug for Internet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internet")
            .field("servers", &self.servers)
            .field("homes", &self.homes)
            .finish_non_exhaustive()
    }
}

/// A home of [`Internet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Its machine.
    pub host: HostId,
    /// Its machine's interface.
    pub iface: IfaceId,
    /// The network between it and its router.
    pub lan: NetId,
    /// Its router.
    pub router: RouterId,
    /// The router's interface in the core.
    pub uplink: IfaceId,
    /// What the world sees of it: the router's IPv4 address, without NAT the machine's, without IPv4
    /// the machine's IPv6 address.
    pub outside: IpAddr,
    /// The machine's IPv6 address.
    pub v6: IpAddr,
}

impl Internet {
    /// An empty core.
    ///
    /// # Errors
    /// None of [`ConfigError`]'s happens here.
    pub fn new(stage: Stage) -> Result<Self, ConfigError> {
        let mut builder = Builder::new(stage.seed());
        let core = builder.core("internet")?;
        Ok(Self { stage, builder, core, names: BTreeMap::new(), servers: 0, homes: 0 })
    }

    /// A machine with public addresses; `name` resolves to them, the IPv4 one first.
    ///
    /// # Errors
    /// [`ConfigError`]: name taken, impossible link, no address left after 254 servers.
    pub fn server(&mut self, name: &str, wire: Wire) -> Result<HostId, ConfigError> {
        let n = self.servers.checked_add(1).filter(|n| *n < u8::MAX);
        self.servers = n.ok_or(ConfigError::Unknown("a 255th server"))?;
        let n = self.servers;
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(n));
        let addresses = vec![Ipv4Addr::new(203, 0, 113, n).into(), v6.into()];
        let host = self.builder.host(name)?;
        self.builder.attach(host, self.core, &addresses, wire)?;
        self.names.insert(name.to_owned(), addresses);
        Ok(host)
    }

    /// A machine behind a router; `wire` is the router's link to the core.
    ///
    /// # Errors
    /// [`ConfigError`]: name taken, impossible link, no address left after 65,535 homes (255 without
    /// NAT).
    pub fn home(&mut self, name: &str, preset: Preset, wire: Wire) -> Result<Home, ConfigError> {
        let n = self.homes.checked_add(1).ok_or(ConfigError::Unknown("a 65,536th home"))?;
        self.homes = n;
        let [high, low] = n.to_be_bytes();
        let mut config = preset.router();
        let translated = config.nat.is_some();
        if !translated && high > 0 {
            return Err(ConfigError::Unknown("a 256th home without NAT"));
        }
        let inside = |last| match translated {
            true => Ipv4Addr::new(10, high, low, last),
            false => Ipv4Addr::new(198, 19, low, last),
        };
        let v6 = |net: u16, a: u16, b: u16| Ipv6Addr::new(0x2001, 0xdb8, net, a, 0, 0, 0, b);
        let outside = Ipv4Addr::new(198, 18, high, low);
        if matches!(config.nat, Some(NatConfig::OneToOne(_))) {
            config = config.with_pairs(vec![Pair { inside: inside(2), outside }]);
        }
        let lan4 = Prefix::new(inside(0).into(), 24)?;
        let lan6 = Prefix::new(v6(3, n, 0).into(), 64)?;
        let lan = self.builder.segment(&format!("{name}.lan"), &[lan4, lan6])?;
        let routed = if translated { vec![lan6] } else { vec![lan4, lan6] };
        let uplink = Uplink {
            net: self.core,
            addresses: &[outside.into(), v6(2, 0, n).into()],
            routed: &routed,
            wire,
        };
        let router = self.builder.router(&format!("{name}.router"), config, &uplink)?;
        let gateway = [inside(1).into(), v6(3, n, 1).into()];
        self.builder.inside(router, lan, &gateway, &[], Wire::default())?;
        let host = self.builder.host(name)?;
        let (own4, own6): (IpAddr, IpAddr) = (inside(2).into(), v6(3, n, 2).into());
        // RFC 8925 section 3.2: who does without IPv4 is given no address.
        let own = if preset == Preset::Ipv6Only { vec![own6] } else { vec![own4, own6] };
        let iface = self.builder.attach(host, lan, &own, Wire::default())?;
        let uplink = self.builder.uplink(router).ok_or(ConfigError::Unknown("this router"))?;
        let outside = if translated { outside.into() } else { own[0] };
        Ok(Home { host, iface, lan, router, uplink, outside, v6: own6 })
    }

    /// The core, to hang other things into with [`Self::builder`].
    #[must_use]
    pub fn core(&self) -> NetId {
        self.core
    }

    /// For what servers and homes are not enough.
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.builder
    }

    /// Starts it.
    ///
    /// # Panics
    /// Outside [`super::run`].
    #[must_use]
    pub fn start(self) -> Sim {
        let sim = Sim::new(self.stage, self.builder);
        for (name, addresses) in &self.names {
            sim.set_name(name, addresses);
        }
        sim
    }
}
