//! Opening relayed sockets.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use meshwire_transport::net::random;
use tokio::sync::Notify;

use super::shared::{Relay, Shared};
use super::socket::Udp;
use super::udp;
use crate::core::{Family, Open};

/// Ports tried before giving up: with 2 of 3 taken, all are in one case of 400,000.
const TRIES: usize = 32;

/// A port of the range from a random number.
fn port(ports: &RangeInclusive<u16>, even: bool, random: u32) -> u16 {
    let width = u32::from(ports.end() - ports.start()) + 1;
    let offset = u16::try_from(random % width).unwrap_or(0);
    let port = ports.start().saturating_add(offset);
    match (even, port % 2) {
        (true, 1) if port < *ports.end() => port + 1,
        (true, 1) => port - 1,
        _ => port,
    }
}

/// Opens a socket, tells the core and answers the client.
pub(super) async fn open(shared: Arc<Shared>, wanted: Open) {
    let opened = bind(&shared, wanted).await;
    let relay = opened.as_ref().ok().map(|(relay, _)| relay.clone());
    let answer = shared.with_core(|core, _| core.opened(wanted.allocation, opened));
    let Some((flow, bytes)) = answer else { return };
    if let Some(relay) = relay {
        shared.spawn(|shared| udp::relay(shared, relay, wanted.allocation));
    }
    shared.answer(&flow, &bytes);
}

async fn bind(shared: &Shared, wanted: Open) -> io::Result<(Arc<Relay>, SocketAddr)> {
    let config = &shared.config;
    let v4 = wanted.family == Family::V4;
    let address = config.relay.iter().find(|r| r.bind.is_ipv4() == v4);
    let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..TRIES {
        let random = u32::from_be_bytes(random(&*shared.net));
        let port = port(&config.ports, wanted.even, random);
        let addr = SocketAddr::new(address.bind, port);
        match Udp::bind(&*shared.net, addr).await {
            Ok(socket) => {
                let relay = Relay { socket: Arc::new(socket), stop: Notify::new() };
                return Ok((Arc::new(relay), SocketAddr::new(address.public, port)));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_in_the_range_and_even_where_that_was_asked_for() {
        for random in 0..100 {
            assert!((10..=13).contains(&port(&(10..=13), false, random)));
            let even = port(&(10..=13), true, random);
            assert!(even.is_multiple_of(2) && (10..=13).contains(&even), "{even}");
        }
        assert_eq!(port(&(1..=u16::MAX), false, u32::MAX), 1);
        assert_eq!(port(&(u16::MAX..=u16::MAX), false, 7), u16::MAX);
        let all: std::collections::BTreeSet<u16> =
            (0..4).map(|random| port(&(10..=13), false, random)).collect();
        assert_eq!(all.len(), 4);
    }
}
