//! Where a TURN server listens, where it relays from, and as what others know it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use meshwire_peer::api::ApiError;
use meshwire_transport::net::Net;
use meshwire_turn::{Cidr, HostAddresses, RelayAddress, Secret, TurnConfig, TurnError, TurnServer};
use rustix::process::{Resource, getrlimit};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::addresses;
use crate::exit::invalid;

/// What an operator says of relaying.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relaying {
    /// This host's addresses as others know them, behind a one-to-one NAT.
    pub(crate) public: Vec<IpAddr>,
    /// Relayed ports, where not the usual ones.
    pub(crate) ports: Option<RangeInclusive<u16>>,
    /// Special ranges that may be relayed to.
    pub(crate) allow: Vec<Cidr>,
}

/// Where a server listens. Attempts at one are a list of these, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Datagrams and streams.
    pub(crate) main: SocketAddr,
    /// Streams within TLS.
    pub(crate) tls: Option<SocketAddr>,
    /// Whether a second socket tells clients how their NAT behaves: on the next port.
    pub(crate) behaviour: bool,
}

impl Places {
    /// Where to bind for datagrams. A socket on every IPv6 address takes no IPv4 ones.
    fn udp(&self) -> Vec<SocketAddr> {
        let any_v6 = self.main.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let v4 = any_v6.then(|| (Ipv4Addr::UNSPECIFIED, self.main.port()).into());
        v4.into_iter().chain([self.main]).collect()
    }

    /// The second socket, beside the first one for datagrams. Port 0 chooses one for each.
    fn other(&self) -> Option<SocketAddr> {
        let first = self.udp().first().copied()?;
        let port = match first.port() {
            0 => 0,
            port => port.checked_add(1)?,
        };
        self.behaviour.then(|| SocketAddr::new(first.ip(), port))
    }
}

/// The addresses that a server relays from when it listens on `listen`: that one, or one of each
/// family of this host's `own` (likeliest first) where it listens on every address.
///
/// # Errors
/// A `public` address of a family that this host has no address of.
pub(crate) fn relayed(
    listen: IpAddr,
    own: &[IpAddr],
    public: &[IpAddr],
) -> Result<Vec<RelayAddress>, ApiError> {
    let first = |v4: bool| own.iter().copied().find(|ip| ip.is_ipv4() == v4);
    let mut bind: Vec<IpAddr> = match listen.is_unspecified() {
        true => [first(true), first(false)].into_iter().flatten().collect(),
        false => vec![listen],
    };
    if bind.is_empty() {
        bind.push(if listen.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let same = |a: &IpAddr, b: &IpAddr| a.is_ipv4() == b.is_ipv4();
    if let Some(stray) = public.iter().find(|p| !bind.iter().any(|b| same(p, b))) {
        let family = if stray.is_ipv4() { "IPv4" } else { "IPv6" };
        let text =
            format!("{stray} cannot be relayed from: this host has no {family} address there");
        return Err(invalid("turn", text));
    }
    let known = |bind: IpAddr| {
        let public = public.iter().copied().find(|p| same(p, &bind)).unwrap_or(bind);
        RelayAddress { bind, public }
    };
    Ok(bind.into_iter().map(known).collect())
}

/// A server's configuration, but for where it listens. It gets one in `share` of the descriptors that
/// this process may have for allocations, and half as many for streams.
pub(crate) fn config(
    secret: Secret,
    relay: Vec<RelayAddress>,
    relaying: &Relaying,
    share: usize,
) -> TurnConfig {
    let mut config = TurnConfig::new(secret);
    config.relay = relay;
    config.allow.clone_from(&relaying.allow);
    if let Some(ports) = &relaying.ports {
        config.ports = ports.clone();
    }
    // Without its interfaces it still knows the addresses that it is told of.
    config.own.clone_from(&relaying.public);
    config.host = Some(HostAddresses::new(|| {
        let all = if_addrs::get_if_addrs().ok()?;
        Some(all.into_iter().map(|i| i.ip()).collect())
    }));
    if let Some(all) = getrlimit(Resource::Nofile).current {
        let all = usize::try_from(all).unwrap_or(usize::MAX);
        config.limits.allocations = config.limits.allocations.min(all / share);
        config.streams = config.streams.min(all / share / 2);
    }
    config
}

/// Starts a server at the first of some places that are free.
///
/// # Errors
/// The last place's, or what is wrong with the configuration whatever the place.
pub(crate) async fn first(
    net: &Arc<dyn Net>,
    config: &TurnConfig,
    places: &[Places],
) -> Result<TurnServer, TurnError> {
    let none = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut error = TurnError::Bind { addr: none, error: io::ErrorKind::NotFound.into() };
    for places in places {
        let mut config = config.clone();
        config.udp = places.udp();
        config.tcp = vec![places.main];
        config.tls = places.tls.into_iter().collect();
        config.behaviour = places.other();
        match TurnServer::start(net.clone(), config).await {
            Err(e @ TurnError::Bind { .. }) => {
                tracing::debug!(error = %e, "not there");
                error = e;
            }
            ended => return ended,
        }
    }
    Err(error)
}

/// This host's addresses, the likeliest for others first.
pub(crate) fn own() -> Vec<IpAddr> {
    addresses::reachable()
}

/// A certificate chain and its key in PEM files, for clients that verify it by their own roots.
pub(crate) fn identity(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let of = |path: &Path| path.display().to_string();
    let chain = CertificateDer::pem_file_iter(cert).with_context(|| of(cert))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().with_context(|| of(cert))?;
    let secret = PrivateKeyDer::from_pem_file(key).with_context(|| of(key))?;
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("{} and {}", of(cert), of(key)))?;
    Ok(Arc::new(config))
}

/// Reads a range of ports, `FIRST-LAST`.
pub(crate) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let read = || {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (1..=last).contains(&first).then_some(first..=last)
    };
    read().ok_or_else(|| format!("{text:?} is no range of ports: write it as 49152-65535"))
}

/// Reads an address; without a port it is `port`.
pub(crate) fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let ip = || text.trim_matches(['[', ']']).parse().ok().map(|ip| SocketAddr::new(ip, port));
    text.parse().ok().or_else(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn it_relays_from_where_it_listens() {
        let own = ["192.168.1.20", "2001:db8::7", "172.17.0.1"].map(ip);
        let binds = |listen: &str, own: &[IpAddr], public: &[IpAddr]| {
            let all = relayed(ip(listen), own, public).unwrap();
            all.iter().map(|r| format!("{}={}", r.bind, r.public)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(binds("10.0.0.7", &own, &[]), "10.0.0.7=10.0.0.7");
        assert_eq!(
            binds("0.0.0.0", &own, &[]),
            "192.168.1.20=192.168.1.20 2001:db8::7=2001:db8::7"
        );
        assert_eq!(
            binds("::", &own, &[ip("9.9.9.9")]),
            "192.168.1.20=9.9.9.9 2001:db8::7=2001:db8::7"
        );
        assert_eq!(binds("0.0.0.0", &[], &[]), "127.0.0.1=127.0.0.1");
        let stray = relayed(ip("10.0.0.7"), &own, &[ip("2001:db8::1")]).unwrap_err();
        assert!(stray.to_string().contains("no IPv6 address"), "{stray}");
    }

    #[test]
    fn every_ipv6_address_takes_ipv4_datagrams_too() {
        let places =
            |main: &str| Places { main: main.parse().unwrap(), tls: None, behaviour: true };
        let text = |p: Places| {
            (
                p.udp().iter().map(ToString::to_string).collect::<Vec<_>>(),
                p.other().map(|o| o.port()),
            )
        };
        let of = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(text(places("[::]:3478")), (of(&["0.0.0.0:3478", "[::]:3478"]), Some(3479)));
        assert_eq!(text(places("0.0.0.0:0")), (of(&["0.0.0.0:0"]), Some(0)));
        assert_eq!(text(places("[::1]:65535")), (of(&["[::1]:65535"]), None));
    }

    #[test]
    fn ports_and_addresses_are_read() {
        assert_eq!(ports("50000-50100"), Ok(50_000..=50_100));
        for bad in ["", "5", "0-5", "9-5", "5-99999", "a-b", "1-2-3"] {
            assert!(ports(bad).unwrap_err().contains("49152-65535"), "{bad}");
        }
        assert_eq!(address("10.0.0.7", 3_478), "10.0.0.7:3478".parse().ok());
        assert_eq!(address("[::]", 3_478), "[::]:3478".parse().ok());
        assert_eq!(address("::", 3_478), "[::]:3478".parse().ok());
        assert_eq!(address("10.0.0.7:9", 3_478), "10.0.0.7:9".parse().ok());
        assert_eq!(address("on", 3_478), None);
    }
}
