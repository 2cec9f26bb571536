//! The seam to the outside: sockets, clock and randomness. Everything else in meshwire reaches them
//! only through a [`Net`], so that the simulator can run the real code. Timers are tokio's, which a
//! simulator pauses.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use meshwire_signaling::UnixMillis;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A byte stream: TCP, or what a simulator or TLS makes of it.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Any byte stream.
pub type BoxStream = Box<dyn ByteStream>;

/// The outside world as one node or broker sees it.
#[async_trait]
pub trait Net: fmt::Debug + Send + Sync + 'static {
    /// Wall clock, Unix milliseconds. May jump; never used to measure.
    fn unix_ms(&self) -> UnixMillis;

    /// Monotonic clock: the one that tokio's timers run on.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Fills `buf` from a cryptographic source.
    fn fill(&self, buf: &mut [u8]);

    /// Connects to `host` (a name or an address), trying its addresses in turn.
    ///
    /// # Errors
    /// The last address's error.
    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream>;

    /// Listens on `addr`; port 0 chooses a free one.
    ///
    /// # Errors
    /// The socket's.
    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>>;

    /// Binds a UDP socket to `addr`; port 0 chooses a free one.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::Unsupported`] where there is no UDP.
    async fn udp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Datagram>> {
        let _ = addr;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A bound TCP socket.
#[async_trait]
pub trait Listener: Send + Sync {
    /// The next connection and where it comes from.
    ///
    /// # Errors
    /// The socket's; most concern one connection only and pass.
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)>;

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A bound UDP socket. Of several tasks that poll the same direction only the last one is woken.
pub trait Datagram: fmt::Debug + Send + Sync {
    /// Sends one datagram of at most 65,507 bytes. That it was sent says nothing of its arrival.
    ///
    /// # Errors
    /// The socket's. Most concern one destination only.
    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<()>>;

    /// Appends the next datagram to `buf` and says who sent it. What does not fit is cut off.
    ///
    /// # Errors
    /// The socket's; most pass.
    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<SocketAddr>>;

    /// Where it is bound.
    ///
    /// # Errors
    /// The socket's.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl dyn Datagram + '_ {
    /// Sends one datagram, see [`Datagram::poll_send_to`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        poll_fn(|cx| self.poll_send_to(cx, data, to)).await
    }

    /// The next datagram's length in `buf`, and who sent it; see [`Datagram::poll_recv_from`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut buf = ReadBuf::new(buf);
        let from = poll_fn(|cx| self.poll_recv_from(cx, &mut buf)).await?;
        Ok((buf.filled().len(), from))
    }
}

/// `N` random bytes.
#[must_use]
pub fn random<const N: usize>(net: &dyn Net) -> [u8; N] {
    let mut bytes = [0; N];
    net.fill(&mut bytes);
    bytes
}

/// A random number below `bound`, for jitter (the modulo's bias does not matter there).
#[must_use]
pub fn jitter(net: &dyn Net, bound: u64) -> u64 {
    if bound == 0 { 0 } else { u64::from_be_bytes(random(net)) % bound }
}

/// The operating system's sockets, clock and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsNet;

#[async_trait]
#[allow(clippy::disallowed_methods)] // this is the one place that they are meant for
impl Net for OsNet {
    fn unix_ms(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    fn fill(&self, buf: &mut [u8]) {
        if let Err(e) = getrandom::fill(buf) {
            // Going on with predictable keys would be worse than any crash.
            panic!("the system has no randomness to give: {e}");
        }
    }

    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(OsListener(tokio::net::TcpListener::bind(addr).await?)))
    }

    async fn udp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Datagram>> {
        Ok(Box::new(OsDatagram(tokio::net::UdpSocket::bind(addr).await?)))
    }
}

struct OsListener(tokio::net::TcpListener);

#[async_trait]
impl Listener for OsListener {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[derive(Debug)]
struct OsDatagram(tokio::net::UdpSocket);

impl Datagram for OsDatagram {
    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<()>> {
        ready!(self.0.poll_send_to(cx, data, to))?;
        Poll::Ready(Ok(()))
    }

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<SocketAddr>> {
        self.0.poll_recv_from(cx, buf)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_go_both_ways_and_are_cut_to_the_buffer() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let (a, b) = (OsNet.udp_bind(any).await.unwrap(), OsNet.udp_bind(any).await.unwrap());
        a.send_to(b"hello", b.local_addr().unwrap()).await.unwrap();
        let mut buf = [0; 4];
        assert_eq!(b.recv_from(&mut buf).await.unwrap(), (4, a.local_addr().unwrap()));
        assert_eq!(&buf, b"hell");
        b.send_to(b"", a.local_addr().unwrap()).await.unwrap();
        assert_eq!(a.recv_from(&mut buf).await.unwrap(), (0, b.local_addr().unwrap()));
    }
}
