//! The handshake: the controlling side is QUIC's client.
//!
//! Its first packets are addressed to an id that only this attempt has, so that those of two attempts between
//! the same two sockets are told apart (docs/protocol.md, section 24).

use std::sync::Arc;

use meshwire_signaling::p2p::quic::{INITIAL_ID, initial_id};
use quinn::{ClientConfig, ConnectionId, ServerConfig};
use tokio::time::Instant;

use super::{Driver, HANDSHAKES};
use crate::quic::QuicError;
use crate::quic::attempt::{AttemptEvent, Role};
use crate::quic::conn::QuicConn;
use crate::quic::ice::Credentials;
use crate::quic::tls::SERVER_NAME;

impl Driver {
    /// Finds out what the first packets are addressed to, from what both sides have said of themselves.
    pub(super) fn agree(&mut self, peer: &Credentials) {
        let (own, peer) = (self.agent.credentials(), [peer.ufrag.as_str(), peer.pwd.as_str()]);
        let initial = match self.dial.role {
            Role::Controlling => initial_id(own, peer),
            Role::Controlled => initial_id(peer, own),
        };
        if self.dial.role == Role::Controlled {
            self.shared().mux.routes.listen(self.registered.id, &initial);
        }
        self.initial = Some(initial);
    }

    pub(super) fn connect(&mut self) -> Result<(), QuicError> {
        let (Some(peer), Some(initial)) = (self.peer, self.initial) else { return Ok(()) };
        let shared = self.shared();
        let mut config = ClientConfig::new(shared.identity.client(peer)?);
        config.transport_config(Arc::clone(&shared.transport));
        // An attempt connects once: no two connections have the same one.
        config.initial_dst_cid_provider(Arc::new(move || ConnectionId::new(&initial)));
        let face = shared.mux.routes.dial(self.registered.id, shared.next_id(), peer, &initial);
        let connecting = shared.endpoint.connect_with(config, face.address(), SERVER_NAME)?;
        self.handshakes.push(connecting);
        Ok(())
    }

    pub(super) fn accept(&mut self, incoming: quinn::Incoming) -> Result<(), QuicError> {
        let ours = is_ours(self.initial.as_ref(), &incoming.orig_dst_cid());
        let expected = self.dial.role == Role::Controlled && self.connection.is_none() && ours;
        let Some(peer) = self.peer.filter(|_| expected && self.handshakes.len() < HANDSHAKES)
        else {
            incoming.ignore();
            return Ok(());
        };
        let mut config = ServerConfig::with_crypto(self.shared().identity.server(peer)?);
        config.transport_config(Arc::clone(&self.shared().transport));
        config.migration(false);
        if let Ok(connecting) = incoming.accept_with(Arc::new(config)) {
            self.handshakes.push(connecting);
        }
        Ok(())
    }

    pub(super) async fn shaken(
        &mut self,
        done: Result<quinn::Connection, quinn::ConnectionError>,
    ) -> Result<(), QuicError> {
        let connection = match done {
            Ok(connection) => connection,
            Err(e) if self.dial.role == Role::Controlling => return Err(e.into()),
            // Somebody else's, perhaps: the peer's may still come.
            Err(_) => return Ok(()),
        };
        let Some(peer) = self.peer.filter(|_| self.connection.is_none()) else { return Ok(()) };
        self.handshakes.clear();
        self.connection = Some(connection.clone());
        self.since = Instant::now();
        self.disturb(false);
        let stir = Arc::clone(&self.stir);
        let conn = QuicConn::new(connection, peer, self.pair.subscribe(), stir);
        if self.events.send(AttemptEvent::Connected(conn)).await.is_err() {
            return Err(QuicError::Aborted);
        }
        if std::mem::take(&mut self.dial.direct_only) {
            // From now on a relay is something to fall back to.
            self.tell_new();
        }
        Ok(())
    }
}

/// Whether a handshake that was addressed to `id` may be this attempt's: one of another attempt, which is over, is
/// not. Peers that are older than the rule take random ids, which are longer.
fn is_ours(initial: Option<&[u8; INITIAL_ID]>, id: &[u8]) -> bool {
    id.len() != INITIAL_ID || initial.is_some_and(|initial| initial == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_of_another_attempt_is_not_taken() {
        let ours = [7; INITIAL_ID];
        assert!(is_ours(Some(&ours), &[7; INITIAL_ID]));
        assert!(!is_ours(Some(&ours), &[8; INITIAL_ID]), "of an attempt that is over");
        assert!(!is_ours(None, &[7; INITIAL_ID]), "nothing is known of the peer");
        assert!(is_ours(Some(&ours), &[8; 20]), "a peer older than the rule");
    }
}
