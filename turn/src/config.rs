//! How a server is set up, and why it did not start.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::{fmt, io};

use crate::addr_policy::Cidr;
use crate::auth::Secret;
use crate::core::Limits;

/// STUN's and TURN's port over UDP and TCP.
pub const PORT: u16 = 3_478;
/// Their port over TLS.
pub const TLS_PORT: u16 = 5_349;
/// The ports that RFC 8656 section 7.2 recommends for relayed addresses.
pub const PORTS: RangeInclusive<u16> = 49_152..=65_535;
/// Streams at once, of all clients.
pub const STREAMS: usize = 4_096;

/// An address that relayed ports are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// Where their sockets are bound.
    pub bind: IpAddr,
    /// Where others reach them: another one only behind a one-to-one NAT.
    pub public: IpAddr,
}

impl RelayAddress {
    /// An address that others see as it is.
    #[must_use]
    pub fn direct(ip: IpAddr) -> Self {
        Self { bind: ip, public: ip }
    }
}

/// Tells this host's addresses of the moment; nothing where they cannot be told, and the last ones stay.
#[derive(Clone)]
pub struct HostAddresses(Arc<dyn Fn() -> Option<Vec<IpAddr>> + Send + Sync>);

impl HostAddresses {
    /// Asks `list`, which may take some milliseconds and blocks.
    #[must_use]
    pub fn new(list: impl Fn() -> Option<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(list))
    }

    pub(crate) fn list(&self) -> Option<Vec<IpAddr>> {
        (self.0)()
    }
}

impl fmt::Debug for HostAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostAddresses")
    }
}

/// Everything a server is told. Port 0 chooses a free one.
#[derive(Clone, Debug)]
pub struct TurnConfig {
    /// Where to listen for datagrams.
    pub udp: Vec<SocketAddr>,
    /// Where to listen for streams.
    pub tcp: Vec<SocketAddr>,
    /// Where to listen for streams within TLS.
    pub tls: Vec<SocketAddr>,
    /// The certificate; needed where `tls` is not empty.
    pub identity: Option<Arc<rustls::ServerConfig>>,
    /// Relayed addresses: the first one of each family is used.
    pub relay: Vec<RelayAddress>,
    /// Relayed ports.
    pub ports: RangeInclusive<u16>,
    /// A second UDP socket for behaviour discovery (RFC 5780), beside the first of `udp`: another
    /// port on the same address, or another port on another address.
    pub behaviour: Option<SocketAddr>,
    /// What passwords are made of.
    pub secret: Secret,
    /// Special ranges that may be relayed to (`--turn-allow`).
    pub allow: Vec<Cidr>,
    /// This host's addresses, beside those above: none of them is relayed to.
    pub own: Vec<IpAddr>,
    /// Those that come and go; asked at the start and every half minute.
    pub host: Option<HostAddresses>,
    /// Bounds.
    pub limits: Limits,
    /// Streams at once.
    pub streams: usize,
}

impl TurnConfig {
    /// Everything off but a secret.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            tls: Vec::new(),
            identity: None,
            relay: Vec::new(),
            ports: PORTS,
            behaviour: None,
            secret,
            allow: Vec::new(),
            own: Vec::new(),
            host: None,
            limits: Limits::default(),
            streams: STREAMS,
        }
    }

    /// The address that others know a socket by that is bound to `local`.
    pub(crate) fn public(&self, local: SocketAddr) -> SocketAddr {
        let known = self.relay.iter().find(|r| {
            r.bind == local.ip()
                || (local.ip().is_unspecified() && r.bind.is_ipv4() == local.is_ipv4())
        });
        known.map_or(local, |r| SocketAddr::new(r.public, local.port()))
    }

    /// All addresses of this host: those that the configuration knows of, and those of the moment.
    pub(crate) fn all_own(&self, host: &[IpAddr]) -> Vec<IpAddr> {
        let listen = self.udp.iter().chain(&self.tcp).chain(&self.tls).chain(&self.behaviour);
        let relay = self.relay.iter().flat_map(|r| [r.bind, r.public]);
        let mut all: Vec<IpAddr> = listen.map(SocketAddr::ip).chain(relay).collect();
        all.extend(&self.own);
        all.extend(host);
        all.retain(|ip| !ip.is_unspecified());
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn check(&self) -> Result<(), TurnError> {
        if !self.tls.is_empty() && self.identity.is_none() {
            return Err(TurnError::NoIdentity);
        }
        if self.ports.is_empty() || *self.ports.start() == 0 {
            return Err(TurnError::Ports(self.ports.clone()));
        }
        if let Some(relay) = self.relay.iter().find(|r| r.bind.is_ipv4() != r.public.is_ipv4()) {
            return Err(TurnError::Families(*relay));
        }
        if let Some(relay) = self.relay.iter().find(|r| r.public.is_unspecified()) {
            return Err(TurnError::Unspecified(relay.public));
        }
        if self.behaviour.is_some() && self.udp.is_empty() {
            return Err(TurnError::Behaviour);
        }
        Ok(())
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// TLS without a certificate.
    #[error("TURN over TLS needs a certificate")]
    NoIdentity,
    /// No ports to relay through.
    #[error("relayed ports {}-{} are no range: try 49152-65535", .0.start(), .0.end())]
    Ports(RangeInclusive<u16>),
    /// Bound to one family, known by the other.
    #[error("a relayed address is IPv4 or IPv6: {} cannot be known as {}", .0.bind, .0.public)]
    Families(RelayAddress),
    /// Nobody can send to it.
    #[error("{0} is no address that others could send to: name this host's public one")]
    Unspecified(IpAddr),
    /// A second socket without a first.
    #[error("behaviour discovery needs a UDP address to listen on beside its own")]
    Behaviour,
    /// A socket could not be bound.
    #[error("cannot listen on {addr}: {error}")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        error: io::Error,
    },
}
