//! A host as its programs see it: [`Net`].

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use meshwire_transport::net::{BoxStream, Datagram, Listener, Net};
use tokio::sync::watch;

use super::local::SocketOptions;
use super::tcp::{SimListener, SimStream};
use super::udp::SimDatagram;
use super::world::World;
use super::{EPOCH_MS, Shared};
use crate::topology::HostId;

/// A host's sockets, clock and randomness. Clones are the same host.
#[derive(Clone)]
pub struct SimHost {
    shared: Arc<Shared>,
    id: HostId,
}

impl SimHost {
    pub(super) fn new(shared: Arc<Shared>, id: HostId) -> Self {
        Self { shared, id }
    }

    /// Its id in the engine.
    #[must_use]
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.shared.peek(|world| world.engine.addresses(self.id).collect())
    }

    /// Counts the changes of the world, as systems tell programs of their network's.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Puts its wall clock this many milliseconds ahead of virtual time, or behind.
    pub fn set_clock_skew_ms(&self, ms: i64) {
        self.shared.peek(|world| {
            if let Ok(local) = world.host(self.id) {
                local.skew_ms = ms;
            }
        });
    }

    /// How the sockets are that it makes from now on.
    pub fn set_options(&self, options: SocketOptions) {
        self.shared.peek(|world| {
            if let Ok(local) = world.host(self.id) {
                local.options = options;
            }
        });
    }
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.shared.peek(|w| w.host(self.id).map(|l| l.name.clone()).ok());
        write!(f, "SimHost({})", name.as_deref().unwrap_or("?"))
    }
}

#[async_trait]
impl Net for SimHost {
    fn unix_ms(&self) -> u64 {
        let skew = self.shared.peek(|w| w.host(self.id).map_or(0, |l| l.skew_ms));
        (EPOCH_MS + self.shared.now().as_nanos() / 1_000_000).saturating_add_signed(skew)
    }

    fn fill(&self, buf: &mut [u8]) {
        self.shared.peek(|world| {
            if let Ok(local) = world.host(self.id) {
                local.dice.fill(buf);
            }
        });
    }

    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        let addresses = self.shared.peek(|world| world.resolve(host))?;
        let mut last = io::Error::from(io::ErrorKind::NetworkUnreachable);
        for ip in addresses {
            match SimStream::connect(&self.shared, self.id, SocketAddr::new(ip, port)).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = self.shared.peek(|world| world.resolve(host))?;
        Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(SimListener::bind(&self.shared, self.id, addr)?))
    }

    async fn udp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Datagram>> {
        Ok(Box::new(SimDatagram::bind(&self.shared, self.id, addr)?))
    }
}

impl World {
    /// The addresses of a name or of an address written out.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        if let Some(known) = self.names.get(host) {
            return Ok(known.clone());
        }
        if host == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        let known: Vec<&str> = self.names.keys().map(String::as_str).collect();
        let text = format!("no host is named {host:?}; names here are: {}", known.join(", "));
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Refuses to bind to an address that the host does not have.
    pub(super) fn check_own(&self, host: HostId, ip: IpAddr) -> io::Result<()> {
        let own = ip.is_unspecified()
            || ip.is_loopback()
            || self.engine.addresses(host).any(|own| own == ip);
        if own {
            return Ok(());
        }
        let all: Vec<String> = self.engine.addresses(host).map(|a| a.to_string()).collect();
        let text = format!("{ip} is none of this host's addresses: {}", all.join(", "));
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text))
    }
}
