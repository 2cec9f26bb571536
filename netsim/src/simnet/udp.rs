//! UDP sockets.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use meshwire_transport::net::{Datagram, EcnCodepoint, RecvMeta, Transmit};

use super::Shared;
use super::world::World;
use crate::packet::{Build, allow_fragments, build, mark_ecn};
use crate::topology::HostId;

/// What an empty datagram takes of a receive buffer, so that those are bounded, too.
const OVERHEAD: usize = 64;

/// The largest payload of an IPv4 datagram.
const LARGEST: usize = 65_507;

/// Most datagrams in one send: Linux' `UDP_MAX_SEGMENTS`.
const SEGMENTS: usize = 64;

/// A datagram that waits to be read.
struct Waiting {
    from: SocketAddr,
    to: IpAddr,
    ecn: u8,
    payload: Vec<u8>,
}

pub(super) struct UdpQueue {
    most: usize,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    reader: Option<Waker>,
}

impl UdpQueue {
    /// An empty one that holds so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: VecDeque::new(), bytes: 0, reader: None }
    }

    pub(super) fn push(&mut self, from: SocketAddr, to: IpAddr, ecn: u8, payload: &[u8]) {
        let size = payload.len() + OVERHEAD;
        if self.bytes + size > self.most {
            return;
        }
        self.bytes += size;
        self.waiting.push_back(Waiting { from, to, ecn, payload: payload.to_vec() });
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.payload.len() + OVERHEAD;
        Some(waiting)
    }
}

/// A bound UDP socket of a host. It never waits for room to send.
pub(super) struct SimDatagram {
    shared: Arc<Shared>,
    host: HostId,
    bound: SocketAddr,
    fragments: bool,
}

impl SimDatagram {
    pub(super) fn bind(shared: &Arc<Shared>, host: HostId, addr: SocketAddr) -> io::Result<Self> {
        let (bound, fragments) = shared.with(|world| {
            world.check_own(host, addr.ip())?;
            let local = world.host(host)?;
            Ok::<_, io::Error>((local.bind_udp(addr)?, local.options.udp_fragments))
        })?;
        Ok(Self { shared: Arc::clone(shared), host, bound, fragments })
    }

    /// Sends datagrams of one call, which all fit or do not.
    fn out(&self, world: &mut World, transmit: &Transmit<'_>) -> io::Result<()> {
        let (bound, to) = (self.bound, transmit.destination);
        if to.is_ipv4() != bound.is_ipv4() {
            let text = format!("a socket bound to {bound} cannot send to {to}: another IP version");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let way = world.engine.way_to(self.host, to.ip());
        let (source, mtu) = way.ok_or(io::ErrorKind::NetworkUnreachable)?;
        let source = match (transmit.src_ip, bound.ip().is_unspecified()) {
            (_, false) => bound.ip(),
            (Some(chosen), true) => world.check_own(self.host, chosen).map(|()| chosen)?,
            (None, true) => source,
        };
        let contents = transmit.contents;
        let size = transmit.segment_size.unwrap_or(contents.len()).max(1);
        let headers = if to.is_ipv4() { 28 } else { 48 };
        let fragments = self.fragments && to.is_ipv4();
        let room = usize::try_from(mtu).unwrap_or(usize::MAX).saturating_sub(headers);
        let most = if fragments { LARGEST } else { room.min(LARGEST) };
        if size.min(contents.len()) > most || contents.len() > size.saturating_mul(SEGMENTS) {
            return Err(too_long(contents.len(), most, transmit.segment_size));
        }
        let from = SocketAddr::new(source, bound.port());
        // An empty datagram is one, too.
        let segments = contents.chunks(size).chain(contents.is_empty().then_some(contents));
        for segment in segments {
            let mut packet = build(from, to, Build::Udp(segment));
            if let Some(ecn) = transmit.ecn {
                mark_ecn(&mut packet, ecn as u8);
            }
            if fragments {
                let id = world.host(self.host)?.packet_id();
                allow_fragments(&mut packet, id);
            }
            world.submit(self.host, packet);
        }
        Ok(())
    }
}

fn too_long(have: usize, most: usize, segment: Option<usize>) -> io::Error {
    let text = match segment {
        None => format!("a datagram of {have} bytes is too long here; {most} fit"),
        Some(n) => format!(
            "{have} bytes in datagrams of {n} are too much here; {SEGMENTS} datagrams of {most} fit"
        ),
    };
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[async_trait]
impl Datagram for SimDatagram {
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.shared.with(|world| self.out(world, transmit))
    }

    async fn writable(&self) -> io::Result<()> {
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.shared.peek(|world| {
            let queue = world.host(self.host)?.udp(self.bound);
            let queue = queue.ok_or(io::ErrorKind::NotConnected)?;
            let mut used = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta) {
                let Some(Waiting { from, to, ecn, payload }) = queue.pop() else { break };
                let fits = payload.len().min(buf.len());
                if let (Some(into), Some(data)) = (buf.get_mut(..fits), payload.get(..fits)) {
                    into.copy_from_slice(data);
                }
                *meta = RecvMeta::default();
                (meta.addr, meta.len, meta.stride) = (from, fits, fits);
                (meta.ecn, meta.dst_ip) = (EcnCodepoint::from_bits(ecn), Some(to));
                used += 1;
            }
            if used > 0 || bufs.is_empty() {
                return Poll::Ready(Ok(used));
            }
            queue.reader = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.bound)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        self.fragments
    }
}

impl Drop for SimDatagram {
    fn drop(&mut self) {
        self.shared.peek(|world| {
            if let Ok(local) = world.host(self.host) {
                local.unbind_udp(self.bound);
            }
        });
    }
}

impl fmt::Debug for SimDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDatagram({})", self.bound)
    }
}
