//! The seam to the outside: sockets, clock and randomness. Everything else in meshwire reaches them
//! only through a [`Net`], so that the simulator can run the real code. Timers are tokio's, which a
//! simulator pauses.

mod os;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use async_trait::async_trait;
use meshwire_signaling::UnixMillis;
pub use os::OsNet;
pub use quinn_udp::{EcnCodepoint, RecvMeta, Transmit};
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

    /// The addresses of `host`, a name or an address, with `port`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] among others; where there are no names, for all but addresses.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let address: IpAddr = host.parse().map_err(|_| io::ErrorKind::NotFound)?;
        Ok(vec![SocketAddr::new(address, port)])
    }

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

/// A bound UDP socket, in terms of `quinn-udp`: several datagrams in one call where the system can
/// (GSO, GRO, recvmmsg), ECN, and the local address of each. Datagrams are not fragmented where the
/// system can tell.
#[async_trait]
pub trait Datagram: fmt::Debug + Send + Sync {
    /// Sends one datagram, or several of `segment_size` bytes each (the last may be shorter) to one
    /// destination. `src_ip` chooses the source on a socket that is bound to no address. That it was
    /// sent says nothing of its arrival.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: await [`Self::writable`]. The others mostly concern one
    /// destination only.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()>;

    /// Resolves when a send may succeed. Any number of tasks may wait.
    ///
    /// # Errors
    /// The socket's.
    async fn writable(&self) -> io::Result<()>;

    /// Receives into `bufs` and describes each in `meta`; says how many were used. A buffer holds
    /// datagrams of one source, `stride` bytes each. What does not fit is cut off. Of several tasks
    /// that poll only the last one is woken.
    ///
    /// # Errors
    /// The socket's; most pass.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>>;

    /// Where it is bound.
    ///
    /// # Errors
    /// The socket's.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Most datagrams in one [`Self::try_send`].
    fn max_transmit_segments(&self) -> usize {
        1
    }

    /// Most datagrams in one buffer of [`Self::poll_recv`].
    fn max_receive_segments(&self) -> usize {
        1
    }

    /// Whether routers may cut datagrams up, so that their size says nothing of the path.
    fn may_fragment(&self) -> bool {
        true
    }
}

impl dyn Datagram + '_ {
    /// Sends one datagram, see [`Datagram::try_send`]; waits for room.
    ///
    /// # Errors
    /// As there.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: data,
            segment_size: None,
            src_ip: None,
        };
        loop {
            match self.try_send(&transmit) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                done => return done,
            }
        }
    }

    /// The next datagram's length in `buf`, and who sent it; see [`Datagram::poll_recv`]. Only for
    /// sockets of which nobody expects several datagrams at once.
    ///
    /// # Errors
    /// As there.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut meta = [RecvMeta::default()];
        poll_fn(|cx| self.poll_recv(cx, &mut [IoSliceMut::new(buf)], &mut meta)).await?;
        let [RecvMeta { len, stride, addr, .. }] = meta;
        Ok((len.min(stride), addr))
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
