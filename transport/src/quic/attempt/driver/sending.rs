//! How what the agent says is sent.

use std::sync::Arc;

use super::{Driver, OUTSTANDING, now};
use crate::quic::candidates::CandidateKind;
use crate::quic::demux;
use crate::quic::ice::{Message, Way};
use crate::quic::routes::Route;

impl Driver {
    /// Sends what the agent says, and sees to it that the answer finds its way here.
    pub(super) fn say(&mut self, message: &Message) {
        let request = demux::is_request(&message.bytes);
        let free = !request || self.agent.is_free(message.way.remote.ip());
        if !free && !self.shared().may_check(now()) {
            // Lost, as far as the agent knows.
            return;
        }
        if request && let Some(transaction) = demux::transaction(&message.bytes) {
            self.shared().mux.routes.expect(transaction, &self.stun.0);
            self.outstanding.push_back(transaction);
            if self.outstanding.len() > OUTSTANDING {
                let oldest = self.outstanding.pop_front();
                self.shared().mux.routes.forget(&oldest);
            }
        }
        self.send(message.way, &message.bytes);
    }

    fn send(&self, way: Way, bytes: &[u8]) {
        let mux = &self.shared().mux;
        match self.route(way) {
            Some(Route::Relayed(relay, peer)) => {
                if let Some(wrapped) = relay.wrap(self.registered.id, peer, bytes) {
                    mux.send(relay.local().ip(), relay.server(), &wrapped);
                }
            }
            Some(Route::Direct(way)) => mux.send_by(way, bytes),
            None => {}
        }
    }

    pub(super) fn route(&self, way: Way) -> Option<Route> {
        match self.agent.kinds(way).0? {
            CandidateKind::Relayed => {
                let known = self.known.borrow();
                let relay =
                    known.relays(self.dial.mesh).find(|r| r.relayed() == Some(way.local))?;
                Some(Route::Relayed(Arc::clone(relay), way.remote))
            }
            _ => Some(Route::Direct(way)),
        }
    }
}
