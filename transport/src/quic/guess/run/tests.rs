use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use meshwire_signaling::{PublicKey, UnixMillis};

use super::super::budget::Guesses;
use super::*;
use crate::net::{BoxStream, Listener, OsNet};
use crate::quic::candidates::Screen;
use crate::quic::ice::{Agent, Credentials};
use crate::quic::routes::Id;

/// A system that gives no more than a few sockets, and counts those that are open.
#[derive(Debug)]
struct Few {
    left: AtomicUsize,
    open: Arc<()>,
}

impl Few {
    fn open(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }
}

#[async_trait]
impl Net for Few {
    fn unix_ms(&self) -> UnixMillis {
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
        if self.left.load(Ordering::Relaxed) == 0 {
            return Err(io::Error::other("too many open files"));
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        let socket = OsNet.udp_bind(addr).await?;
        Ok(Box::new(Counted(socket, Arc::clone(&self.open))))
    }
}

#[derive(Debug)]
#[expect(dead_code, reason = "the second part is only counted")]
struct Counted(Box<dyn Datagram>, Arc<()>);

#[async_trait]
impl Datagram for Counted {
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Two sides' probes for each other.
fn probes() -> [Probe; 2] {
    let credentials =
        |n: u8| Credentials { ufrag: format!("{n}").repeat(8), pwd: format!("{n}").repeat(32) };
    [(1, 2), (2, 1)].map(|(own, peer)| {
        let mut agent = Agent::new(&credentials(own), own == 1, 7, Screen::new(true, []));
        assert!(agent.probe().is_none(), "nobody is known");
        agent.set_remote(Instant::now().into_std(), &credentials(peer));
        agent.probe().unwrap()
    })
}

#[test]
fn probes_are_told_from_everything_else() {
    let [a, b] = probes();
    assert!(a.answers(&b.bytes) && b.answers(&a.bytes));
    assert!(!a.answers(&a.bytes), "our own, come back");
    assert!(a.bytes.len() <= 120, "{} bytes", a.bytes.len());
    for at in 0..b.bytes.len() {
        let mut other = b.bytes.clone();
        other[at] ^= 1;
        // The fingerprint is not looked at, nor are the last bytes part of what is signed.
        assert!(!a.answers(&other) || at + 8 >= b.bytes.len(), "byte {at}");
        assert!(!a.answers(&b.bytes[..at]) || at + 8 >= b.bytes.len(), "{at} bytes");
    }
}

#[tokio::test]
async fn of_many_sockets_the_one_that_is_hit_is_kept() {
    let [easy, hard] = probes();
    let net = Arc::new(Few { left: AtomicUsize::new(100), open: Arc::default() });
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peer = OsNet.udp_bind(local).await.unwrap();
    let to = peer.local_addr().unwrap();
    let permit = Arc::<Guesses>::default().begin(PublicKey([1; 32])).unwrap();
    let spent = Arc::clone(&permit.spent);
    let mut run = Run::hard(Arc::<Few>::clone(&net), permit, local.ip(), to, hard);
    let mut buf = [0; 600];
    let (mut from, mut length) = (to, 0);
    for _ in 0..50 {
        (length, from) = peer.recv_from(&mut buf).await.unwrap();
    }
    assert!(easy.answers(&buf[..length]));
    // A stranger's words, and ours from elsewhere, are no hit.
    peer.send_to(b"hello", from).await.unwrap();
    let stranger = OsNet.udp_bind(local).await.unwrap();
    stranger.send_to(&easy.bytes, from).await.unwrap();
    for _ in 50..100 {
        peer.recv_from(&mut buf).await.unwrap();
    }
    while net.open() != 75 {
        tokio::task::yield_now().await;
    }
    assert_eq!(spent.load(Ordering::Relaxed), 100);
    peer.send_to(&easy.bytes, from).await.unwrap();
    let hit = run.over().await.unwrap();
    assert_eq!((hit.way.local, hit.way.remote, &hit.bytes), (from, to, &easy.bytes));
    while net.open() != 1 {
        tokio::task::yield_now().await;
    }
    // The node's other sockets are beside it, and it goes with its attempt.
    let node = OsNet.udp_bind(local).await.unwrap();
    node.writable().await.unwrap();
    let mux = Mux::new(Some(node.into()), None).unwrap();
    mux.adopt(Id(1), hit.socket).unwrap();
    mux.send_by(hit.way, b"from the port that was hit");
    let (_, heard) = peer.recv_from(&mut buf).await.unwrap();
    assert_eq!(heard, from);
    mux.release(Id(2));
    assert_eq!(net.open(), 1);
    mux.release(Id(1));
    assert_eq!(net.open(), 0);
    mux.send_by(hit.way, b"from the node's port");
    let (_, heard) = peer.recv_from(&mut buf).await.unwrap();
    assert_eq!(Some(heard.port()), mux.port(local.ip()));
}

#[tokio::test]
async fn a_run_that_is_dropped_closes_everything() {
    let [_, hard] = probes();
    let net = Arc::new(Few { left: AtomicUsize::new(1000), open: Arc::default() });
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peer = OsNet.udp_bind(local).await.unwrap();
    let permit = Arc::<Guesses>::default().begin(PublicKey([1; 32])).unwrap();
    let to = peer.local_addr().unwrap();
    let run = Run::hard(Arc::<Few>::clone(&net), permit, local.ip(), to, hard);
    let mut buf = [0; 600];
    peer.recv_from(&mut buf).await.unwrap();
    drop(run);
    while net.open() > 0 {
        tokio::task::yield_now().await;
    }
}
