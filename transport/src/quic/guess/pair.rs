//! What one attempt knows of the two routers, and does about it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::PublicKey;
use tokio::time::Instant;

use super::budget::AFTER_MISS;
use super::run::{Hit, Run};
use super::{Mapping, Ports, Side, side};
use crate::quic::ice::Agent;
use crate::quic::node::Shared;

/// How long a connection has gone through a server before ports are guessed: the checks of the first
/// moments may still find a direct way.
const SETTLED: Duration = Duration::from_secs(1);
/// How long the hard side's word counts: its ports are open for little longer.
const FRESH: Duration = Duration::from_secs(4);

/// How a connection's packets travel now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::quic) enum Travel {
    /// There is no connection, or no way.
    Not,
    /// Through a server.
    Relayed,
    /// From node to node.
    Direct,
}

/// How a run ended.
pub(in crate::quic) enum End {
    /// A check of the peer's came to one of the hard side's sockets.
    Hit(Hit),
    /// Nothing came through.
    Missed,
}

/// An attempt's part in guessing; see [`super`].
pub(in crate::quic) struct Guessing {
    peer: PublicKey,
    heard: Option<(Ports, Instant)>,
    said_kept: bool,
    relayed_since: Option<Instant>,
    not_before: Option<Instant>,
    run: Option<Run>,
}

impl fmt::Debug for Guessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guessing({:?})", self.run.as_ref().map(|run| run.side))
    }
}

impl Guessing {
    pub(in crate::quic) fn new(peer: PublicKey) -> Self {
        Self {
            peer,
            heard: None,
            said_kept: false,
            relayed_since: None,
            not_before: None,
            run: None,
        }
    }

    /// The peer has said something about its ports.
    pub(in crate::quic) fn hear(&mut self, ports: Ports) {
        self.heard = Some((ports, Instant::now()));
    }

    /// Whether a check that comes from there straight to our socket is one that was guessed.
    pub(in crate::quic) fn expects(&self, from: IpAddr) -> bool {
        self.run.as_ref().is_some_and(|run| run.side == Side::Easy && run.peer == from)
    }

    /// Does what is due; says what the peer is to be told. To be asked whenever something happened,
    /// and every few seconds.
    pub(in crate::quic) fn look(
        &mut self,
        travel: Travel,
        agent: &Agent,
        shared: &Shared,
    ) -> Option<Ports> {
        let now = Instant::now();
        if travel != Travel::Relayed {
            self.relayed_since = None;
            self.said_kept = false;
            if let Some(run) = self.run.take_if(|_| travel == Travel::Direct) {
                run.permit.hit();
            }
            return None;
        }
        let since = *self.relayed_since.get_or_insert(now);
        let early = since + SETTLED > now || self.not_before.is_some_and(|at| at > now);
        if early || self.run.is_some() {
            return None;
        }
        let (own, from) = agent.mapping()?;
        let fresh = |(ports, at): (Ports, Instant)| {
            (ports == Ports::Kept || at + FRESH > now).then_some(ports)
        };
        match side(Some(own), self.heard.and_then(fresh)) {
            None if own == Mapping::Same && !self.said_kept && agent.guessable().is_some() => {
                self.said_kept = true;
                Some(Ports::Kept)
            }
            None => None,
            Some(Side::Easy) => {
                let (ip, probe) = (agent.guessable()?, agent.probe()?);
                let permit = shared.guesses.begin(self.peer);
                let permit = permit.map_err(|again| self.not_before = Some(again)).ok()?;
                let (net, mux) = (Arc::clone(&shared.net), Arc::clone(&shared.mux));
                self.heard = None;
                self.run = Some(Run::easy(net, mux, permit, from, ip, probe));
                None
            }
            Some(Side::Hard) => {
                let (to, probe) = (agent.known()?, agent.probe()?);
                if shared.one_port {
                    return None;
                }
                let permit = shared.guesses.begin(self.peer);
                let permit = permit.map_err(|again| self.not_before = Some(again)).ok()?;
                let net = Arc::clone(&shared.net);
                self.run = Some(Run::hard(net, permit, from.ip(), to, probe));
                Some(Ports::Opened)
            }
        }
    }

    /// Resolves when the run is over, if there is one.
    pub(in crate::quic) async fn over(this: &mut Option<Box<Self>>) -> End {
        let Some(guessing) = this.as_deref_mut() else { return std::future::pending().await };
        let Some(run) = &mut guessing.run else { return std::future::pending().await };
        let hit = run.over().await;
        let run = guessing.run.take();
        match (hit, run) {
            (Some(hit), Some(run)) => {
                run.permit.hit();
                End::Hit(hit)
            }
            _ => {
                guessing.not_before = Some(Instant::now() + AFTER_MISS);
                End::Missed
            }
        }
    }
}
