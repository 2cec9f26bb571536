//! What an attempt does for a connection that is up: brisk, at rest, or dead.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Driver, GUESSES, now};
use crate::quic::attempt::rhythm::{DEAD, Traffic};
use crate::quic::demux;

impl Driver {
    /// No other answer to this check is waited for.
    pub(super) fn answered(&mut self, stun: &[u8]) {
        let transaction = demux::transaction(stun).filter(|_| demux::is_response(stun));
        if let Some(at) = self.outstanding.iter().position(|t| Some(*t) == transaction) {
            let answered = self.outstanding.remove(at);
            self.shared().mux.routes.forget(&answered);
        }
    }

    /// Ends a rest, if there is one. With `doubt`, the way in use is not trusted any more.
    pub(super) fn disturb(&mut self, doubt: bool) {
        if self.rhythm.disturb(now()) {
            self.stir.set_resting(false);
            self.agent.wake(now(), doubt);
        }
    }

    /// Rests, if nothing was said for a while and nothing is in doubt.
    pub(super) fn rest(&mut self) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.rhythm.may_rest(now()))
        else {
            return;
        };
        // Before it is looked what was said: nothing is said unnoticed.
        self.stir.set_resting(true);
        let stats = connection.stats();
        let relayed = self.is_relayed();
        // While what is said goes through a server, a better way is worth looking for.
        let said = match relayed {
            true => stats.frame_tx.stream.saturating_add(stats.frame_rx.stream),
            false => 0,
        };
        let guesses = relayed && self.guessing.is_some() && self.since.elapsed() < GUESSES;
        let settled = !guesses && self.agent.rest(now());
        if self.rhythm.rest(now(), said, settled, stats.path.rtt) {
            self.shared().mux.routes.forget(&self.outstanding);
            self.outstanding = VecDeque::new();
        } else {
            self.stir.set_resting(false);
            self.agent.wake(now(), false);
        }
    }

    fn is_relayed(&self) -> bool {
        self.pair.borrow().is_none_or(|pair| !pair.is_direct())
    }

    /// Something is said on a connection that rests.
    pub(super) fn stirred(&mut self) {
        match self.traffic().filter(|_| !self.is_relayed()) {
            Some(traffic) => self.rhythm.stir(now(), traffic),
            None => self.disturb(false),
        }
    }

    /// Looks whether what is said is answered, if it is time for that.
    pub(super) fn look(&mut self) {
        if self.rhythm.may_look(now()) {
            // Before it is looked what was said: nothing is said unnoticed.
            self.stir.set_resting(true);
            match self.traffic() {
                Some(traffic) if self.rhythm.look(now(), traffic) => self.stir.set_resting(false),
                Some(_) => {}
                None => self.disturb(false),
            }
        }
    }

    fn traffic(&self) -> Option<Traffic> {
        let stats = self.connection.as_ref()?.stats();
        Some(Traffic { sent: stats.udp_tx.datagrams, received: stats.udp_rx.datagrams })
    }

    /// Whether the peer has not been heard for [`DEAD`], by whatever it sends.
    pub(super) fn is_dead(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let heard = self.agent.last_heard().map_or(self.since, Instant::from_std);
        if heard.max(self.received.1).elapsed() < DEAD {
            return false;
        }
        let received = connection.stats().udp_rx.datagrams;
        let more = received != self.received.0;
        if more {
            self.received = (received, Instant::now());
        }
        !more
    }
}
