//! Changes while the engine runs.

use std::net::IpAddr;

use crate::engine::Engine;
use crate::error::ConfigError;
use crate::firewall::FirewallConfig;
use crate::link::{LinkConfig, LinkState};
use crate::nat::NatConfig;
use crate::prefix::pack;
use crate::time::Time;
use crate::topology::{IfaceId, Lane, NetId, Owner, RouterId};

/// Which direction of an interface's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the interface into the network.
    Up,
    /// From the network to the interface.
    Down,
    /// Both.
    Both,
}

/// Something that happens to the world.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// A link behaves otherwise from now on. What is on it arrives as it would have.
    Link {
        /// Whose.
        iface: IfaceId,
        /// Which way.
        direction: Direction,
        /// How.
        config: LinkConfig,
    },
    /// A link goes up, down, or swallows everything.
    State {
        /// Whose.
        iface: IfaceId,
        /// Which way.
        direction: Direction,
        /// What it does now.
        state: LinkState,
    },
    /// A network falls into parts between which nothing passes. Interfaces that are not named stay
    /// together in a part of their own.
    Partition {
        /// Which network.
        net: NetId,
        /// The parts.
        parts: Vec<Vec<IfaceId>>,
    },
    /// A network is whole again.
    Heal {
        /// Which network.
        net: NetId,
    },
    /// A host's or router's interface has other addresses. A router's uplink: its NAT's mappings die.
    Address {
        /// Which interface.
        iface: IfaceId,
        /// Its addresses from now on.
        addresses: Vec<IpAddr>,
    },
    /// A router forgets mappings and flows.
    Reboot {
        /// Which router.
        router: RouterId,
    },
    /// A router filters otherwise, or no more. It forgets its flows.
    Firewall {
        /// Which router.
        router: RouterId,
        /// How.
        config: Option<FirewallConfig>,
    },
    /// A router translates otherwise, or no more. All mappings die.
    Nat {
        /// Which router.
        router: RouterId,
        /// How.
        config: Option<NatConfig>,
    },
}

impl Engine {
    /// Changes the world. What is due before is done before.
    ///
    /// # Errors
    /// [`ConfigError`]: unknown handle, impossible configuration, address taken. Nothing changes then.
    pub fn control(&mut self, now: Time, change: Change) -> Result<(), ConfigError> {
        self.advance(now);
        match change {
            Change::Link { iface, direction, config } => {
                config.check()?;
                self.lanes(iface, direction, |lane, _| lane.link.configure(config))
            }
            Change::State { iface, direction, state } => {
                self.lanes(iface, direction, |lane, now| {
                    if state == LinkState::Down {
                        lane.epoch = lane.epoch.wrapping_add(1);
                    }
                    lane.link.set_state(now, state);
                    Ok(())
                })
            }
            Change::Partition { net, parts } => self.partition(net, &parts),
            Change::Heal { net } => self.partition(net, &[]),
            Change::Address { iface, addresses } => self.readdress(iface, addresses),
            Change::Reboot { router } => self.reshape(router, |r| {
                r.reboot();
                Ok(())
            }),
            Change::Firewall { router, config } => {
                self.reshape(router, |r| r.set_firewall(config.as_ref()))
            }
            Change::Nat { router, config } => {
                // Reboot first, so that what the old NAT holds is accounted for.
                if let (Some(config), Some(r)) = (&config, self.routers.get_mut(router.index())) {
                    r.check_nat(config)?;
                }
                self.reshape(router, |r| {
                    r.reboot();
                    Ok(())
                })?;
                self.reshape(router, |r| r.set_nat(config.as_ref()))
            }
        }
    }

    fn lanes(
        &mut self,
        iface: IfaceId,
        direction: Direction,
        mut change: impl FnMut(&mut Lane, Time) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let now = self.now;
        let iface = self.ifaces.get_mut(iface.index());
        let iface = iface.ok_or(ConfigError::Unknown("this interface"))?;
        if direction != Direction::Down {
            change(&mut iface.up, now)?;
        }
        if direction != Direction::Up {
            change(&mut iface.down, now)?;
        }
        Ok(())
    }

    fn partition(&mut self, net: NetId, parts: &[Vec<IfaceId>]) -> Result<(), ConfigError> {
        if self.nets.get(net.index()).is_none() {
            return Err(ConfigError::Unknown("this network"));
        }
        let here = |id: &IfaceId| self.ifaces.get(id.index()).is_some_and(|i| i.net == net);
        if !parts.iter().flatten().all(here) {
            return Err(ConfigError::Unknown("an interface of the partition"));
        }
        for iface in self.ifaces.iter_mut().filter(|i| i.net == net) {
            iface.part = 0;
        }
        for (number, part) in parts.iter().enumerate() {
            for id in part {
                if let Some(iface) = self.ifaces.get_mut(id.index()) {
                    iface.part = number + 1;
                }
            }
        }
        Ok(())
    }

    fn readdress(&mut self, id: IfaceId, addresses: Vec<IpAddr>) -> Result<(), ConfigError> {
        let unknown = ConfigError::Unknown("this interface");
        let iface = self.ifaces.get(id.index()).ok_or_else(|| unknown.clone())?;
        if addresses.is_empty() {
            return Err(ConfigError::NoAddress(format!("interface {}", id.0)));
        }
        let (owner, old) = (iface.owner, iface.addresses.clone());
        let net = self.nets.get_mut(iface.net.index()).ok_or(unknown)?;
        net.take(&addresses, id)?;
        let stale = |kept: &[IpAddr], net: &mut crate::topology::Net, all: &[IpAddr]| {
            for address in all.iter().filter(|a| !kept.contains(a)) {
                net.by_address.remove(&pack(*address));
            }
        };
        if let Owner::Router(router) = owner
            && let Some(r) = self.routers.get_mut(router.index())
        {
            if r.outside() == id {
                if let Err(e) = r.readdress(&addresses) {
                    stale(&old, net, &addresses);
                    return Err(e);
                }
            } else {
                r.readdress_inside(id, &addresses);
            }
        }
        stale(&addresses, net, &old);
        if let Some(iface) = self.ifaces.get_mut(id.index()) {
            iface.addresses = addresses;
        }
        if let Owner::Router(router) = owner {
            self.settle_all(router);
        }
        Ok(())
    }

    fn reshape(
        &mut self,
        id: RouterId,
        change: impl FnOnce(&mut crate::router::Router) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let router = self.routers.get_mut(id.index());
        change(router.ok_or(ConfigError::Unknown("this router"))?)?;
        self.settle_all(id);
        Ok(())
    }
}
