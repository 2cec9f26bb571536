//! The tests with sockets and clock.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep_until, timeout_at};

use super::discovery::{Discovery, Socket, Transmit};
use super::facts::{Family, Udp};
use crate::net::{Datagram, Net, RecvMeta, random};

/// Most that the system puts into one buffer.
const BUFFER: usize = 65_536;
/// Rest after a socket's error, which could come again at once.
const PAUSE: Duration = Duration::from_millis(10);

/// Tests both families at the same time; servers of either may be among `servers`.
pub async fn probe_all(net: &dyn Net, servers: &[SocketAddr]) -> (Family, Family) {
    let (v4, v6): (Vec<_>, Vec<_>) = servers.iter().partition(|s| s.is_ipv4());
    tokio::join!(
        probe(net, Ipv4Addr::UNSPECIFIED.into(), &v4),
        probe(net, Ipv6Addr::UNSPECIFIED.into(), &v6)
    )
}

/// Tests one family from sockets bound to `ip`; takes at most 6.5 s.
pub async fn probe(net: &dyn Net, ip: IpAddr, servers: &[SocketAddr]) -> Family {
    if servers.is_empty() {
        return Family::default();
    }
    let at = SocketAddr::new(ip, 0);
    let bound = match (net.udp_bind(at).await, net.udp_bind(at).await) {
        (Ok(main), Ok(second)) => [main, second],
        (Err(e), _) | (_, Err(e)) => {
            return Family { udp: Udp::NoRoute(e.to_string()), ..Family::default() };
        }
    };
    let sizes = !bound.iter().any(|socket| socket.may_fragment());
    let mut discovery = Discovery::new(net.now(), servers, random(net), sizes);
    let mut buffer = vec![0; BUFFER];
    while let Some(deadline) = discovery.deadline() {
        while let Some(transmit) = discovery.poll_transmit(net.now()) {
            if let Err(e) = send(&bound, &transmit).await {
                discovery.unsent(&transmit, e.to_string());
            }
        }
        let Ok(received) = timeout_at(deadline, receive(&bound, &mut buffer)).await else {
            continue;
        };
        match received {
            Ok((socket, meta)) => {
                let local = meta.dst_ip.zip(port(&bound, socket));
                let local = local.map(|(ip, port)| SocketAddr::new(ip, port));
                let data = buffer.get(..meta.len).unwrap_or_default();
                for datagram in data.chunks(meta.stride.max(1)) {
                    discovery.handle(net.now(), socket, meta.addr, local, datagram);
                }
            }
            // Somebody said that one packet went nowhere; its request is waited for all the same.
            Err(_) => sleep_until(net.now() + PAUSE).await,
        }
    }
    discovery.facts()
}

fn at(socket: Socket) -> usize {
    match socket {
        Socket::Main => 0,
        Socket::Second => 1,
    }
}

fn port(bound: &[Box<dyn Datagram>; 2], socket: Socket) -> Option<u16> {
    Some(bound.get(at(socket))?.local_addr().ok()?.port())
}

async fn send(bound: &[Box<dyn Datagram>; 2], transmit: &Transmit) -> io::Result<()> {
    let socket = bound.get(at(transmit.socket)).ok_or(io::ErrorKind::NotConnected)?;
    socket.send_to(&transmit.bytes, transmit.to).await
}

/// What comes next at either socket.
async fn receive(
    bound: &[Box<dyn Datagram>; 2],
    buffer: &mut [u8],
) -> io::Result<(Socket, RecvMeta)> {
    poll_fn(|cx| {
        for socket in [Socket::Main, Socket::Second] {
            let Some(io) = bound.get(at(socket)) else { continue };
            let mut meta = [RecvMeta::default()];
            let mut bufs = [IoSliceMut::new(buffer)];
            if let Poll::Ready(received) = io.poll_recv(cx, &mut bufs, &mut meta) {
                let [meta] = meta;
                return Poll::Ready(received.map(|_| (socket, meta)));
            }
        }
        Poll::Pending
    })
    .await
}
