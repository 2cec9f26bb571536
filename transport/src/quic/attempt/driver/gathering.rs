//! An attempt's own candidates.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Driver;
use crate::quic::candidates::{
    Candidate, CandidateKind, MAX_REFLEXIVE, MAX_RELAYED, host_candidates,
};
use crate::quic::gather::Reflexive;

impl Driver {
    /// Brings the agent's own candidates up to date; says which ones are new.
    pub(in crate::quic::attempt) fn regather(&mut self) -> Vec<Candidate> {
        let known = self.known.borrow_and_update().clone();
        let mux = &self.registered.shared.mux;
        let mut wanted: BTreeMap<SocketAddr, (CandidateKind, SocketAddr, u16)> = BTreeMap::new();
        let mut want = |kind, addr, base, rank: usize| {
            let rank = u16::try_from(rank).unwrap_or(u16::MAX);
            wanted.entry(addr).or_insert((kind, base, rank));
        };
        if !self.registered.shared.relayed_only && !self.dial.relayed_only {
            let hosts = host_candidates(&known.interfaces, self.dial.loopback);
            for (rank, ip) in hosts.iter().enumerate() {
                if let Some(port) = mux.port(*ip) {
                    let addr = SocketAddr::new(*ip, port);
                    want(CandidateKind::Host, addr, addr, rank);
                }
            }
            if let Some(own) = self.own.filter(|own| hosts.contains(&own.ip())) {
                want(CandidateKind::Host, own, own, 0);
            }
            let offered = |r: &&Reflexive| hosts.contains(&r.base.ip());
            if let Some(mapped) = known.mapped.as_ref().filter(offered) {
                want(CandidateKind::Mapped, mapped.addr, mapped.base, 0);
            }
            let reflexive = known.reflexive.get(&self.dial.mesh).into_iter().flatten();
            let reflexive = reflexive.filter(offered).take(MAX_REFLEXIVE);
            for (rank, r) in reflexive.enumerate() {
                want(CandidateKind::Reflexive, r.addr, r.base, rank);
            }
        }
        let relays = if self.dial.direct_only { 0 } else { MAX_RELAYED };
        for (rank, relay) in known.relays(self.dial.mesh).take(relays).enumerate() {
            if let Some(relayed) = relay.relayed() {
                want(CandidateKind::Relayed, relayed, relay.local(), rank);
            }
        }
        let kinds = [
            CandidateKind::Host,
            CandidateKind::Mapped,
            CandidateKind::Reflexive,
            CandidateKind::Relayed,
        ];
        let have: Vec<SocketAddr> = kinds.into_iter().flat_map(|k| self.agent.locals(k)).collect();
        for gone in have.into_iter().filter(|addr| !wanted.contains_key(addr)) {
            self.agent.remove_local(gone);
        }
        let mut new: Vec<Candidate> = wanted
            .into_iter()
            .filter_map(|(addr, (kind, base, rank))| self.agent.add_local(kind, addr, base, rank))
            .collect();
        new.sort_by_key(|c| std::cmp::Reverse(c.priority));
        new
    }
}
