//! [`OsNet`]: the real sockets, clock and randomness.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use meshwire_signaling::UnixMillis;
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use super::{BoxStream, Datagram, Listener, Net, RecvMeta, Transmit};

/// What UDP sockets ask for. The system's defaults (about 208 KiB on Linux) lose half a percent of the
/// packets of one fast QUIC connection on loopback; this loses almost none.
const UDP_BUFFER: usize = 4 << 20;

/// How much of what was written to a TCP socket, and has not been sent yet, the system takes: on Linux up to 4 MiB
/// otherwise, and a message behind as much bulk waits for all of it. Half of this is left when the program is woken to
/// write more, at 500 MB/s for 130 microseconds.
#[cfg(any(target_os = "android", target_os = "linux"))]
const TCP_UNSENT: u32 = 128 << 10;

/// What is wanted of all TCP sockets.
fn set_up(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Without it all works, if slower: some sandboxes do not know it.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(TCP_UNSENT);
    Ok(())
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
        set_up(&stream)?;
        Ok(Box::new(stream))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(OsListener(tokio::net::TcpListener::bind(addr).await?)))
    }

    async fn udp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Datagram>> {
        Ok(Box::new(OsDatagram::bind(addr)?))
    }
}

struct OsListener(tokio::net::TcpListener);

#[async_trait]
impl Listener for OsListener {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        set_up(&stream)?;
        Ok((Box::new(stream), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[derive(Debug)]
struct OsDatagram {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl OsDatagram {
    fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // The IPv4 socket has the same port.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let io = tokio::net::UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&io).into())?;
        // Systems cap this or refuse; what they give is better than nothing.
        let _ = state.set_recv_buffer_size((&io).into(), UDP_BUFFER);
        let _ = state.set_send_buffer_size((&io).into(), UDP_BUFFER);
        Ok(Self { io, state })
    }
}

#[async_trait]
impl Datagram for OsDatagram {
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit))
    }

    async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self
                .io
                .try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
            match received {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of a connection keep little in the system: what a reader does not take is refused.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // as above
    async fn what_is_not_sent_yet_is_little() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(
            tokio::net::TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        for stream in [near.unwrap(), far.unwrap().0] {
            set_up(&stream).unwrap();
            assert!(stream.nodelay().unwrap());
            let unsent = socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap();
            assert_eq!(unsent, TCP_UNSENT);
        }
    }

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
