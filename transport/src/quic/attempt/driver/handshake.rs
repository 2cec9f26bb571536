//! The handshake: the controlling side is QUIC's client.

use std::sync::Arc;

use quinn::{ClientConfig, ServerConfig};
use tokio::time::Instant;

use super::{Driver, HANDSHAKES};
use crate::quic::QuicError;
use crate::quic::attempt::{AttemptEvent, Role};
use crate::quic::conn::QuicConn;
use crate::quic::tls::SERVER_NAME;

impl Driver {
    pub(super) fn connect(&mut self) -> Result<(), QuicError> {
        let Some(peer) = self.peer else { return Ok(()) };
        let shared = self.shared();
        let mut config = ClientConfig::new(shared.identity.client(peer)?);
        config.transport_config(Arc::clone(&shared.transport));
        let to = self.registered.id.address();
        let connecting = shared.endpoint.connect_with(config, to, SERVER_NAME)?;
        self.handshakes.push(connecting);
        Ok(())
    }

    pub(super) fn accept(&mut self, incoming: quinn::Incoming) -> Result<(), QuicError> {
        let expected = self.dial.role == Role::Controlled && self.connection.is_none();
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
