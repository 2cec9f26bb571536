//! TCP streams and listeners over [`super::conn`].

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use meshwire_transport::net::{BoxStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use super::conn::{Conn, Role};
use super::world::{ConnId, World};
use crate::topology::HostId;

/// One end of a connection. Dropping it closes the connection in good order, or resets it if there is
/// data that was not read.
pub(super) struct SimStream {
    shared: Arc<Shared>,
    id: ConnId,
}

impl SimStream {
    /// Connects; the connection is given up when the future is dropped.
    pub(super) async fn connect(
        shared: &Arc<Shared>,
        host: HostId,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let id = shared.with(|world| {
            let way = world.engine.way_to(host, to.ip());
            let (source, _) = way.ok_or(io::ErrorKind::NetworkUnreachable)?;
            let here = world.host(host)?.port_from(source)?;
            world.open(host, here, to, Role::Held)
        })?;
        let stream = Self { shared: Arc::clone(shared), id };
        poll_fn(|cx| {
            stream.with(|conn| {
                if conn.is_closed() {
                    let refused = conn.refused();
                    let reset = io::ErrorKind::ConnectionRefused;
                    return Poll::Ready(Err(if refused { reset.into() } else { conn.error() }));
                }
                if conn.is_established() {
                    return Poll::Ready(Ok(()));
                }
                conn.socket().register_send_waker(cx.waker());
                Poll::Pending
            })
        })
        .await?;
        Ok(stream)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Conn) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        self.shared.peek(|world| match world.conn(self.id) {
            Some(conn) => f(conn),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        })
    }

    /// The connection has something to do at the next idle moment.
    fn touch(&self) {
        self.shared.with(|world| world.touch(self.id));
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let got = self.with(|conn| {
            let socket = conn.socket();
            if socket.may_recv() && !socket.can_recv() {
                socket.register_recv_waker(cx.waker());
                return Poll::Pending;
            }
            let read = socket.recv(|data| {
                let fits = data.len().min(buf.remaining());
                buf.put_slice(data.get(..fits).unwrap_or_default());
                (fits, fits)
            });
            Poll::Ready(match read {
                Ok(n) => Ok(n),
                Err(smoltcp::socket::tcp::RecvError::Finished) => Ok(0),
                Err(_) => Err(conn.error()),
            })
        });
        if matches!(got, Poll::Ready(Ok(n)) if n > 0) {
            self.touch();
        }
        got.map_ok(drop)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let put = self.with(|conn| {
            let closed = conn.is_closed();
            let socket = conn.socket();
            if !socket.may_send() {
                let broken = || io::ErrorKind::BrokenPipe.into();
                return Poll::Ready(Err(if closed { conn.error() } else { broken() }));
            }
            if !socket.can_send() && !data.is_empty() {
                socket.register_send_waker(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(socket.send_slice(data).map_err(|_| io::ErrorKind::BrokenPipe.into()))
        });
        if put.is_ready() {
            self.touch();
        }
        put
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = self.with(|conn| {
            conn.socket().close();
            Poll::Ready(Ok(()))
        });
        self.touch();
        done
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.shared.peek(|world| world.release(self.id));
    }
}

/// A listening socket of a host.
pub(super) struct SimListener {
    shared: Arc<Shared>,
    host: HostId,
    bound: SocketAddr,
}

impl SimListener {
    pub(super) fn bind(shared: &Arc<Shared>, host: HostId, addr: SocketAddr) -> io::Result<Self> {
        let bound = shared.with(|world| {
            world.check_own(host, addr.ip())?;
            world.host(host)?.listen(addr)
        })?;
        Ok(Self { shared: Arc::clone(shared), host, bound })
    }

    fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<(SimStream, SocketAddr)>> {
        let next = self.shared.peek(|world| {
            let Some(backlog) = world.host(self.host)?.listener(self.bound) else {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected)));
            };
            let Some(id) = backlog.ready.pop_front() else {
                backlog.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            backlog.waiting = backlog.waiting.saturating_sub(1);
            let there = world.conn(id).map(|c| c.there);
            Poll::Ready(there.map(|t| (id, t)).ok_or_else(|| io::ErrorKind::NotConnected.into()))
        });
        next.map_ok(|(id, there)| (SimStream { shared: Arc::clone(&self.shared), id }, there))
    }
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = poll_fn(|cx| self.poll_accept(cx)).await?;
        Ok((Box::new(stream), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.bound)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.shared.peek(|world: &mut World| {
            let Ok(local) = world.host(self.host) else { return };
            let backlog = local.unlisten(self.bound);
            for id in backlog.into_iter().flat_map(|b| b.ready) {
                world.release(id);
            }
        });
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimListener({})", self.bound)
    }
}
