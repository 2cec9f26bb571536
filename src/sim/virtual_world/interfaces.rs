//! What a simulated host tells of its addresses.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use meshwire_netsim::simnet::SimHost;
use meshwire_transport::quic::candidates::Interface;
use meshwire_transport::quic::interfaces::{FixedInterfaces, Interfaces};

/// A host's interfaces, which change with the world.
#[derive(Debug)]
pub(super) struct SimInterfaces {
    host: SimHost,
    /// When the list was last asked for.
    seen: Mutex<Vec<IpAddr>>,
}

impl SimInterfaces {
    pub(super) fn new(host: SimHost) -> Self {
        Self { host, seen: Mutex::default() }
    }
}

#[async_trait]
impl Interfaces for SimInterfaces {
    async fn list(&self) -> Vec<Interface> {
        let now = self.host.addresses();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&now);
        FixedInterfaces::new(now).list().await
    }

    async fn changed(&self) {
        let mut changes = self.host.changes();
        loop {
            if self.host.addresses() != *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
