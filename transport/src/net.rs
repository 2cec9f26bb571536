//! The seam to the outside: sockets, clock and randomness. Everything else in meshwire reaches them
//! only through a [`Net`], so that the simulator can run the real code. Timers are tokio's, which a
//! simulator pauses.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use meshwire_signaling::UnixMillis;
use tokio::io::{AsyncRead, AsyncWrite};
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
