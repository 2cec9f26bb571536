//! The lab measures its own impairment before a scenario counts.

use std::net::{IpAddr, SocketAddr};

use super::error::LabError;
use super::expect::{Expected, Mismatch, Path, judge};
use super::probe::{self, Measured};
use super::{Lab, clock};
use crate::engine::Engine;
use crate::topology::{HostId, RouterId};

/// How often a path is measured before it counts as wrong. A link that is not what was asked is wrong
/// each time; a machine is rarely as busy for so long.
const TRIES: u32 = 3;

impl Lab {
    /// What the path between two hosts should do, by the engine's settings: between the first addresses
    /// of one family between which there is a way.
    ///
    /// # Errors
    /// [`LabError::NoWay`] to hosts that only a NAT makes reachable.
    pub fn expected(&self, from: HostId, to: HostId) -> Result<Expected, LabError> {
        Ok(self.way(from, to)?.expected)
    }

    /// Measures round trips, losses and, where a link has one, the rate between two hosts. Firewalls of
    /// routers on the way are lifted meanwhile: links are measured, not policy. NATs keep the mapping
    /// that the probes made until it ends.
    ///
    /// # Errors
    /// [`LabError::NoWay`] and [`LabError::Unreachable`]; [`LabError::System`].
    pub fn measure(&self, from: HostId, to: HostId) -> Result<Measured, LabError> {
        let way = self.way(from, to)?;
        self.probe(from, to, &way, &way.expected)
    }

    /// Measures between two hosts and compares with what was asked. Where all that is wrong could come of
    /// a machine that is busy with other things (packets too late, too few or too slow), it measures
    /// again, up to three times in all.
    ///
    /// # Errors
    /// [`LabError::Mismatch`] with what was asked and what was measured; as [`Self::measure`].
    pub fn verify(&self, from: HostId, to: HostId, asked: &Expected) -> Result<Measured, LabError> {
        let way = self.way(from, to)?;
        let mut tries = 0;
        let faults = loop {
            let measured = self.probe(from, to, &way, asked)?;
            let faults = judge(asked, &measured);
            if faults.is_empty() {
                return Ok(measured);
            }
            tries += 1;
            if tries == TRIES || !faults.iter().all(|f| f.strain) {
                break faults;
            }
        };
        let (from, to) = (self.host(from)?.name.clone(), self.host(to)?.name.clone());
        Err(Mismatch { from, to, faults }.into())
    }

    fn way(&self, from: HostId, to: HostId) -> Result<Way, LabError> {
        let names = (self.host(from)?.name.clone(), self.host(to)?.name.clone());
        let way = self.inspect(move |engine| find(engine, from, to))?;
        way.ok_or(LabError::NoWay { from: names.0, to: names.1 })
    }

    fn probe(
        &self,
        from: HostId,
        to: HostId,
        way: &Way,
        asked: &Expected,
    ) -> Result<Measured, LabError> {
        let open = |host, address| {
            let socket = self.enter(host, || clock::udp(SocketAddr::new(address, 0)))?;
            socket.map_err(LabError::system("open a socket for probes"))
        };
        let (near, far) = (open(from, way.source)?, open(to, way.destination)?);
        let failed = || LabError::system("send probes");
        let end = far.local_addr().map_err(failed())?;
        let routers = way.routers.clone();
        let lifted = self.inspect(move |engine| swap_firewalls(engine, routers))?;
        let measured = probe::measure(&near, &far, end, asked);
        self.inspect(move |engine| {
            for (router, firewall) in lifted {
                if let Some(r) = engine.routers.get_mut(router.index()) {
                    r.swap_firewall(firewall);
                }
            }
        })?;
        let measured = measured.map_err(failed())?;
        if measured.returned == 0 {
            let (from, to) = (self.host(from)?.name.clone(), self.host(to)?.name.clone());
            let Measured { sent, arrived, .. } = measured;
            return Err(LabError::Unreachable { from, to, sent, arrived });
        }
        Ok(measured)
    }
}

struct Way {
    source: IpAddr,
    destination: IpAddr,
    routers: Vec<RouterId>,
    expected: Expected,
}

fn find(engine: &mut Engine, from: HostId, to: HostId) -> Option<Way> {
    let engine = &*engine;
    let destinations = engine.addresses(to);
    let mut pairs = destinations.flat_map(|destination| {
        let like = move |a: &IpAddr| a.is_ipv4() == destination.is_ipv4();
        engine.addresses(from).filter(like).map(move |source| (source, destination))
    });
    pairs.find_map(|(source, destination)| {
        let path = Path::find(engine, from, source, destination)?;
        let expected = path.expected(engine);
        Some(Way { source, destination, routers: path.routers, expected })
    })
}

type Lifted = Vec<(RouterId, Option<crate::firewall::Firewall>)>;

/// Takes the firewalls of these routers away.
fn swap_firewalls(engine: &mut Engine, routers: Vec<RouterId>) -> Lifted {
    let lift = |id: RouterId| {
        let router = engine.routers.get_mut(id.index())?;
        Some((id, router.swap_firewall(None)))
    };
    routers.into_iter().filter_map(lift).collect()
}
