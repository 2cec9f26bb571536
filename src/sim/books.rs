//! What the engine's books say of a run, as far as its scenario asks.

use std::collections::{BTreeMap, BTreeSet};

use meshwire_netsim::scenario::{
    Action, Awaited, Carrier, Check, Map, PathKind, Scenario, WaitFor,
};
use meshwire_netsim::{Engine, IfaceId, Reason, Traffic};

/// What the engine's books say in the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    pub(super) links: BTreeMap<String, Traffic>,
    pub(super) hosts: BTreeMap<String, Traffic>,
    pub(super) dropped: BTreeMap<&'static str, u64>,
    pub(super) packets: u64,
    pub(super) dropped_in_all: u64,
}

impl Books {
    /// What came after `before`.
    pub(super) fn since(mut self, before: &Self) -> Self {
        let less = |now: &mut Traffic, old: &Traffic| {
            now.up_packets = now.up_packets.saturating_sub(old.up_packets);
            now.up_bytes = now.up_bytes.saturating_sub(old.up_bytes);
            now.down_packets = now.down_packets.saturating_sub(old.down_packets);
            now.down_bytes = now.down_bytes.saturating_sub(old.down_bytes);
        };
        for (all, old) in [(&mut self.links, &before.links), (&mut self.hosts, &before.hosts)] {
            for (name, traffic) in all {
                less(traffic, old.get(name).unwrap_or(&Traffic::default()));
            }
        }
        for (reason, count) in &mut self.dropped {
            *count = count.saturating_sub(before.dropped.get(reason).copied().unwrap_or(0));
        }
        self.packets = self.packets.saturating_sub(before.packets);
        self.dropped_in_all = self.dropped_in_all.saturating_sub(before.dropped_in_all);
        self
    }
}

/// Which of the engine's books a scenario needs.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    links: Vec<(String, IfaceId)>,
    hosts: Vec<(String, Vec<IfaceId>)>,
    /// Pairs of nodes whose path is asked about.
    pub(super) paths: BTreeSet<(String, String)>,
}

impl Wanted {
    pub(super) fn new(scenario: &Scenario, map: &Map) -> Self {
        let (mut links, mut hosts, mut paths) = (Vec::new(), Vec::new(), BTreeSet::new());
        for step in &scenario.timeline {
            if let Action::WaitFor(WaitFor { what: Awaited::Path { from, to, .. }, .. }) =
                &step.action
            {
                paths.insert((from.clone(), to.clone()));
            }
        }
        for assert in &scenario.asserts {
            match &assert.check {
                Check::Bytes { of: Carrier::Link(name), .. } => {
                    links.extend(map.link(name).map(|id| (name.clone(), id)));
                }
                Check::Bytes { of: Carrier::Host(name), .. } => {
                    let ids = |m: &meshwire_netsim::scenario::Machine| {
                        m.interfaces.iter().map(|(id, _)| *id).collect()
                    };
                    hosts.extend(map.host(name).map(|m| (name.clone(), ids(m))));
                }
                // Which way they took is what messages say themselves.
                Check::Path(p) if p.kind != PathKind::Relay => {
                    paths.insert((p.from.clone(), p.to.clone()));
                }
                _ => {}
            }
        }
        Self { links, hosts, paths }
    }

    /// Reads them.
    pub(super) fn read(&self, engine: &Engine) -> Books {
        let one = |id: &IfaceId| engine.traffic(*id).unwrap_or_default();
        let add = |a: Traffic, b: Traffic| Traffic {
            up_packets: a.up_packets.saturating_add(b.up_packets),
            up_bytes: a.up_bytes.saturating_add(b.up_bytes),
            down_packets: a.down_packets.saturating_add(b.down_packets),
            down_bytes: a.down_bytes.saturating_add(b.down_bytes),
        };
        let all = |ids: &[IfaceId]| ids.iter().map(one).fold(Traffic::default(), add);
        let ledger = engine.ledger();
        Books {
            links: self.links.iter().map(|(name, id)| (name.clone(), one(id))).collect(),
            hosts: self.hosts.iter().map(|(name, ids)| (name.clone(), all(ids))).collect(),
            dropped: Reason::ALL.iter().map(|r| (r.name(), ledger.dropped(*r))).collect(),
            packets: ledger.entered,
            dropped_in_all: ledger.dropped_in_all(),
        }
    }
}
