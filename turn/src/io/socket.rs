//! Reading many datagrams in one call.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, ready};

use meshwire_transport::net::{Datagram, Net, RecvMeta, Transmit};

/// Most that one receive buffer can get: a whole datagram, or many that the system has joined.
const BUFFER: usize = 65_536;
/// Buffers filled in one call, where the system can: the most that quinn-udp asks for.
const BATCH: usize = 32;

thread_local! {
    /// Where datagrams are received: one for each thread instead of one for each of 10,000 sockets.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER * BATCH]);
}

/// A datagram that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) from: SocketAddr,
    /// The address of ours that it was sent to, where the socket is bound to all of them.
    pub(super) local: Option<IpAddr>,
    pub(super) data: &'a [u8],
}

/// A bound socket.
#[derive(Debug)]
pub(super) struct Udp {
    local: SocketAddr,
    socket: Box<dyn Datagram>,
}

impl Udp {
    pub(super) async fn bind(net: &dyn Net, addr: SocketAddr) -> io::Result<Self> {
        let socket = net.udp_bind(addr).await?;
        Ok(Self { local: socket.local_addr()?, socket })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Datagrams of one size that one call can send.
    pub(super) fn max_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    /// Sends `data` in datagrams of `segment` bytes. Nothing waits for a full socket: what it does
    /// not take is lost, as on a full line.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn send(
        &self,
        to: SocketAddr,
        local: Option<IpAddr>,
        data: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        self.socket.try_send(&Transmit {
            destination: to,
            ecn: None,
            contents: data,
            segment_size: (segment < data.len()).then_some(segment),
            src_ip: local,
        })
    }

    /// Waits for datagrams and gives those that are there to `take`, which must not wait.
    ///
    /// # Errors
    /// The socket's; most pass.
    pub(super) async fn recv(
        &self,
        mut take: impl FnMut(&mut dyn Iterator<Item = Incoming<'_>>),
    ) -> io::Result<()> {
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut metas = [RecvMeta::default(); BATCH];
                let count = ready!(self.poll(cx, scratch, &mut metas))?;
                take(&mut self.datagrams(scratch, metas.get(..count).unwrap_or_default()));
                Poll::Ready(Ok(()))
            })
        })
        .await
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut buffers: Vec<_> = scratch.chunks_mut(BUFFER).map(IoSliceMut::new).collect();
        self.socket.poll_recv(cx, &mut buffers, metas)
    }

    fn datagrams<'a>(
        &self,
        scratch: &'a [u8],
        metas: &'a [RecvMeta],
    ) -> impl Iterator<Item = Incoming<'a>> + use<'a> {
        let wild = self.local.ip().is_unspecified();
        scratch.chunks(BUFFER).zip(metas).flat_map(move |(buffer, meta)| {
            let local = meta.dst_ip.filter(|_| wild);
            let data = buffer.get(..meta.len).unwrap_or_default();
            // An empty datagram has no stride, and is nothing to anybody here.
            let datagrams = data.chunks(meta.stride.max(1));
            datagrams.map(move |data| Incoming { from: meta.addr, local, data })
        })
    }
}
