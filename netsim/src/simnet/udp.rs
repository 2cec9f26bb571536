//! UDP sockets.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use meshwire_transport::net::Datagram;
use tokio::io::ReadBuf;

use super::Shared;
use super::world::World;
use crate::packet::{Build, allow_fragments, build};
use crate::topology::HostId;

/// Bytes that may wait to be read, headers not counted: Linux' `rmem_default`. What comes when they
/// are full is lost.
const RECEIVE_BUFFER: usize = 212_992;

/// What an empty datagram takes of the buffer, so that those are bounded, too.
const OVERHEAD: usize = 64;

/// The largest payload of an IPv4 datagram.
const LARGEST: usize = 65_507;

#[derive(Default)]
pub(super) struct UdpQueue {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    bytes: usize,
    reader: Option<Waker>,
}

impl UdpQueue {
    pub(super) fn push(&mut self, from: SocketAddr, payload: &[u8]) {
        let size = payload.len() + OVERHEAD;
        if self.bytes + size > RECEIVE_BUFFER {
            return;
        }
        self.bytes += size;
        self.waiting.push_back((from, payload.to_vec()));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn pop(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (from, payload) = self.waiting.pop_front()?;
        self.bytes -= payload.len() + OVERHEAD;
        Some((from, payload))
    }
}

/// A bound UDP socket of a host.
pub(super) struct SimDatagram {
    shared: Arc<Shared>,
    host: HostId,
    bound: SocketAddr,
}

impl SimDatagram {
    pub(super) fn bind(shared: &Arc<Shared>, host: HostId, addr: SocketAddr) -> io::Result<Self> {
        let bound = shared.with(|world| {
            world.check_own(host, addr.ip())?;
            let local = world.host(host)?;
            let bound = local.port_for(addr.ip(), addr.port(), |local, addr| {
                local.udp.keys().any(|k| super::local::clash(*k, addr))
            })?;
            local.udp.insert(bound, UdpQueue::default());
            Ok::<_, io::Error>(bound)
        })?;
        Ok(Self { shared: Arc::clone(shared), host, bound })
    }
}

impl World {
    fn udp_out(
        &mut self,
        host: HostId,
        bound: SocketAddr,
        data: &[u8],
        to: SocketAddr,
    ) -> io::Result<()> {
        if to.is_ipv4() != bound.is_ipv4() {
            let text = format!("a socket bound to {bound} cannot send to {to}: another IP version");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let way = self.engine.way_to(host, to.ip());
        let (source, _) = way.ok_or(io::ErrorKind::NetworkUnreachable)?;
        let source = if bound.ip().is_unspecified() { source } else { bound.ip() };
        if data.len() > LARGEST {
            return Err(too_long(data.len(), LARGEST));
        }
        let from = SocketAddr::new(source, bound.port());
        let mut packet = build(from, to, Build::Udp(data));
        let mtu = usize::try_from(self.mtu(host, to.ip())).unwrap_or(usize::MAX);
        if packet.len() > mtu {
            if to.is_ipv6() {
                return Err(too_long(data.len(), mtu.saturating_sub(48)));
            }
            let id = self.host(host)?.packet_id();
            allow_fragments(&mut packet, id);
        }
        self.emit(host, packet);
        Ok(())
    }
}

fn too_long(have: usize, most: usize) -> io::Error {
    let text = format!("a datagram of {have} bytes is too long here; {most} fit");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Datagram for SimDatagram {
    fn poll_send_to(
        &self,
        _: &mut Context<'_>,
        data: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.with(|world| world.udp_out(self.host, self.bound, data, to)))
    }

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<SocketAddr>> {
        self.shared.peek(|world| {
            let queue = world.host(self.host)?.udp.get_mut(&self.bound);
            let queue = queue.ok_or(io::ErrorKind::NotConnected)?;
            match queue.pop() {
                Some((from, payload)) => {
                    let fits = payload.len().min(buf.remaining());
                    buf.put_slice(payload.get(..fits).unwrap_or_default());
                    Poll::Ready(Ok(from))
                }
                None => {
                    queue.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.bound)
    }
}

impl Drop for SimDatagram {
    fn drop(&mut self) {
        self.shared.peek(|world| {
            if let Ok(local) = world.host(self.host) {
                local.udp.remove(&self.bound);
            }
        });
    }
}

impl fmt::Debug for SimDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDatagram({})", self.bound)
    }
}
