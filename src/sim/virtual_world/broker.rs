//! The broker of a virtual world.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use meshwire_coord::store::{MemoryStore, Store};
use meshwire_coord::{Broker, BrokerConfig, Database, Policy, Tls, TurnDesk};
use meshwire_netsim::HostId;
use meshwire_netsim::simnet::{Sim, SimHost};
use meshwire_signaling::SecretKey;
use meshwire_transport::net::random;
use meshwire_turn::{RelayAddress, Secret, TurnConfig, TurnServer};

use super::WorldError;
use crate::turn_desk::Desk;

/// The port that even company networks let through.
const HTTPS_PORT: u16 = 443;

/// Where and how a broker serves.
#[derive(Clone, Debug)]
pub struct BrokerSite {
    /// Its host.
    pub host: HostId,
    /// Its TCP port, on all addresses of the host.
    pub port: u16,
    /// How nodes reach it: `http://NAME:PORT`. There is no TLS in a virtual world, because its
    /// handshakes would not be the same each time.
    pub url: String,
    /// Limits and rates.
    pub policy: Policy,
    /// Whether it has a STUN and TURN server, on UDP port 3478.
    pub turn: bool,
}

impl BrokerSite {
    /// On port 443 of a host that `name` resolves to, with the usual limits.
    #[must_use]
    pub fn on(host: HostId, name: &str) -> Self {
        let url = format!("http://{name}:{HTTPS_PORT}");
        Self { host, port: HTTPS_PORT, url, policy: Policy::default(), turn: false }
    }
}

/// A broker that can be stopped and started: its store and key outlive it.
#[derive(Debug)]
pub struct VirtualBroker {
    site: BrokerSite,
    host: SimHost,
    store: Arc<dyn Store>,
    key: SecretKey,
    admin_token: String,
    running: Option<Broker>,
}

impl VirtualBroker {
    pub(super) async fn new(sim: &Sim, site: BrokerSite) -> Result<Self, WorldError> {
        let host = sim.host(site.host);
        let key = SecretKey::from_seed(&random(&host));
        let store = Arc::new(MemoryStore::default());
        let admin_token = String::new();
        let mut broker = Self { site, host, store, key, admin_token, running: None };
        broker.start().await?;
        Ok(broker)
    }

    /// How nodes reach it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.site.url
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &SimHost {
        &self.host
    }

    /// Its admin token.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it with what it knew before.
    ///
    /// # Errors
    /// [`WorldError::Running`], [`WorldError::Broker`].
    pub async fn start(&mut self) -> Result<(), WorldError> {
        if self.running.is_some() {
            return Err(WorldError::Running("the broker".to_owned()));
        }
        let config = BrokerConfig {
            listen: (Ipv6Addr::UNSPECIFIED, self.site.port).into(),
            public_url: Some(self.site.url.clone()),
            data: PathBuf::new(),
            database: Database::Memory,
            tls: Tls::BehindProxy,
            policy: self.site.policy.clone(),
            new_admin_token: false,
            turn: self.desk().await?,
        };
        let (net, store) = (Arc::new(self.host.clone()), self.store.clone());
        let broker = Box::pin(Broker::start_with(net, config, store, self.key.clone())).await?;
        if let Some(token) = broker.admin_token() {
            self.admin_token = token.to_string();
        }
        self.running = Some(broker);
        Ok(())
    }

    async fn desk(&self) -> Result<Option<Arc<dyn TurnDesk>>, WorldError> {
        if !self.site.turn {
            return Ok(None);
        }
        let addresses = self.host.addresses();
        let secret = Secret::new(random::<32>(&self.host));
        let config = TurnConfig {
            udp: addresses.iter().map(|ip| (*ip, meshwire_turn::PORT).into()).collect(),
            relay: addresses.iter().map(|ip| RelayAddress::direct(*ip)).collect(),
            // All addresses of a simulated Internet are special ones, which are not relayed to.
            allow: ["198.18.0.0/15", "203.0.113.0/24", "2001:db8::/32"]
                .into_iter()
                .filter_map(|range| range.parse().ok())
                .collect(),
            ..TurnConfig::new(secret)
        };
        let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let server = TurnServer::start(Arc::new(self.host.clone()), config).await?;
        Ok(Some(Desk::new(server, &hosts)))
    }

    /// Stops it as an operator does: nodes are told, what was submitted is answered. For a power cut,
    /// let its host's link swallow everything meanwhile.
    ///
    /// # Errors
    /// [`WorldError::Stopped`].
    pub async fn stop(&mut self) -> Result<(), WorldError> {
        let broker =
            self.running.take().ok_or_else(|| WorldError::Stopped("the broker".to_owned()))?;
        broker.shutdown().await;
        Ok(())
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// As those.
    pub async fn restart(&mut self) -> Result<(), WorldError> {
        self.stop().await?;
        self.start().await
    }
}
