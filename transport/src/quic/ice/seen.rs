//! What checks show of the two routers, and ways that were guessed ([`crate::quic::guess`]).

use std::net::{Ipv4Addr, SocketAddr};

use super::{Agent, GUESSED, PROBE_PRIORITY, Way};
use crate::quic::candidates::CandidateKind;
use crate::quic::guess::{self, Mapping, Probe};

impl Agent {
    /// An answer that went through the peer's relay names another server's view of us.
    pub(super) fn learn_mapping(&mut self, way: Way, seen: SocketAddr) {
        let through = (Some(CandidateKind::Host), Some(CandidateKind::Relayed));
        if self.kinds(way) == through && way.local.is_ipv4() && !self.guessed.contains(&way.local) {
            let reflexive = self.locals(CandidateKind::Reflexive);
            if let Some(mapping) = guess::mapping(way.local, &reflexive, seen) {
                self.mapping = Some((mapping, way.local));
            }
        }
    }

    /// How our router maps our IPv4 socket, and the socket's address.
    pub(in crate::quic) fn mapping(&self) -> Option<(Mapping, SocketAddr)> {
        self.mapping
    }

    /// The public addresses that the peer's candidates name as seen by STUN servers.
    fn peers_public(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let own = self.locals(CandidateKind::Reflexive);
        let reflexive = self.remotes.iter().filter(|(_, kind)| **kind == CandidateKind::Reflexive);
        reflexive.map(|(addr, _)| *addr).filter(move |addr| {
            let behind_ours = own.iter().any(|o| o.ip() == addr.ip());
            guess::is_public(addr.ip()).is_some()
                && !behind_ours
                && self.screen.refuses(*addr).is_none()
        })
    }

    /// Where checks of the peer's own sockets to our relayed addresses came from.
    fn seen_at_relay(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let through = |way: &&Way| {
            let (local, remote) = self.kinds(**way);
            local == Some(CandidateKind::Relayed) && remote != Some(CandidateKind::Relayed)
        };
        self.heard.keys().filter(through).map(|way| way.remote)
    }

    /// The peer's public IPv4 address, whose ports may be guessed: a server has seen it there.
    pub(in crate::quic) fn guessable(&self) -> Option<Ipv4Addr> {
        let seen = |addr: &SocketAddr| self.seen_at_relay().any(|seen| seen.ip() == addr.ip());
        guess::is_public(self.peers_public().find(seen)?.ip())
    }

    /// The peer's public address and port, if it is the same for a server that has seen it.
    pub(in crate::quic) fn known(&self) -> Option<SocketAddr> {
        self.peers_public().find(|addr| self.seen_at_relay().any(|seen| seen == *addr))
    }

    /// A check to send to wherever, once the peer's credentials are known.
    pub(in crate::quic) fn probe(&self) -> Option<Probe> {
        let bytes = self.request(PROBE_PRIORITY)?;
        let (own, peer) = (self.inner.local_credentials(), self.inner.remote_credentials()?);
        let user = format!("{}:{}", own.ufrag, peer.ufrag);
        Some(Probe { bytes, user, pwd: own.pass.clone() })
    }

    /// This end of a way was guessed, ours or the peer's.
    pub(in crate::quic) fn note_guessed(&mut self, end: SocketAddr) {
        self.guessed.retain(|old| *old != end);
        if self.guessed.len() >= GUESSED {
            self.guessed.remove(0);
        }
        self.guessed.push(end);
    }

    /// Whether a way was guessed.
    pub(in crate::quic) fn is_guessed(&self, way: Way) -> bool {
        self.guessed.contains(&way.local) || self.guessed.contains(&way.remote)
    }
}
