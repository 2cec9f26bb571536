//! The operating system's network with a valve: closed, no datagram leaves.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use meshwire::{Net, OsNet};
use meshwire_transport::net::{BoxStream, Datagram, Listener, RecvMeta, Transmit};

/// See the module's documentation; clones share the valve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Valve(Arc<AtomicBool>);

impl Valve {
    pub(crate) fn close(&self, closed: bool) {
        self.0.store(closed, Ordering::SeqCst);
    }
}

#[async_trait]
impl Net for Valve {
    fn unix_ms(&self) -> u64 {
        OsNet.unix_ms()
    }
    fn fill(&self, buf: &mut [u8]) {
        OsNet.fill(buf);
    }
    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        OsNet.tcp_connect(host, port).await
    }
    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        OsNet.tcp_bind(addr).await
    }
    async fn udp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Datagram>> {
        let socket = OsNet.udp_bind(addr).await?;
        Ok(Box::new(Valved { socket, valve: self.clone() }))
    }
}

struct Valved {
    socket: Box<dyn Datagram>,
    valve: Valve,
}

impl fmt::Debug for Valved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

#[async_trait]
impl Datagram for Valved {
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.valve.0.load(Ordering::SeqCst) { Ok(()) } else { self.socket.try_send(transmit) }
    }
    async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, bufs, meta)
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }
    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }
    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
