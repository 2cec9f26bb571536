//! Streams of nodes over one simulated line, in virtual time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use meshwire_netsim::link::{Loss, Rate};
use meshwire_netsim::simnet::{Internet, SimHost, SocketOptions, run};
use meshwire_netsim::{Chance, LinkConfig, Wire};
use meshwire_signaling::stream::{Ends, Fresh, Secret};
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{
    Accepted, Carried, Config, Congestion, Dial, QuicConn, QuicNode, Role,
};
use meshwire_transport::stream::{Budget, Live, Stream, Windows};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, sleep_until};

/// What a node's sockets have where the system allows it.
const UDP_BUFFER: usize = 8 << 20;
/// Bytes of the application's writes and reads.
const WRITE: usize = 64 << 10;
/// How long after an answer the next message is said.
const PAUSE: Duration = Duration::from_millis(50);
/// How often `--trace` looks.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of all windows: no flow is to lack them.
const BUDGET: u64 = 256 << 20;

/// The line between two machines. What is lost is lost both ways; the sender's direction has the rate.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) rtt: Duration,
    pub(crate) mbit: u64,
    pub(crate) queue: u64,
    /// Per cent.
    pub(crate) loss: f64,
}

impl Line {
    fn wire(&self) -> Wire {
        let chance = Chance::new(self.loss / 100.0).unwrap();
        let loss = if self.loss > 0.0 { Loss::Independent(chance) } else { Loss::None };
        let down = LinkConfig { loss, ..LinkConfig::with_latency(self.rtt / 2) };
        let rate = Rate { bits_per_second: self.mbit * 1_000_000, queue_bytes: self.queue };
        Wire { up: LinkConfig { rate: Some(rate), ..down }, down }
    }
}

/// What is tried.
#[derive(Clone)]
pub(crate) struct Try {
    pub(crate) line: Line,
    /// One connection each, all from the one machine to the other.
    pub(crate) flows: Vec<Congestion>,
    /// How much later than the one before it each of them begins.
    pub(crate) apart: Duration,
    /// How long it goes on when all have begun.
    pub(crate) lasts: Duration,
    /// Whether 256 bytes go there and back beside the first flow.
    pub(crate) messages: bool,
    /// QUIC streams, with nothing of ours on them.
    pub(crate) plain: bool,
    pub(crate) trace: bool,
}

/// What came of it.
pub(crate) struct Seen {
    /// Megabytes per second of each flow: all the time that it lasted, and in the second half.
    pub(crate) rates: Vec<[f64; 2]>,
    /// What messages waited beyond the line's own round trip.
    pub(crate) waits: Vec<Duration>,
    /// Per cent of the first flow's packets.
    pub(crate) lost: f64,
    /// Connections that did not live to the end.
    pub(crate) died: usize,
}

/// One connection, and a stream that is always full.
struct Flow {
    near: QuicConn,
    far: QuicConn,
    received: Arc<AtomicU64>,
    _nodes: [QuicNode; 2],
    _carried: Option<Carried>,
}

impl Try {
    pub(crate) fn run(&self, seed: u64) -> Seen {
        run(seed, async |stage| {
            let mut net = Internet::new(stage).unwrap();
            let near = net.server("near", self.line.wire()).unwrap();
            let far = net.server("far", Wire::default()).unwrap();
            let sim = net.start();
            let hosts = [near, far].map(|host| sim.host(host));
            for host in &hosts {
                host.set_options(SocketOptions { udp_buffer: UDP_BUFFER, ..Default::default() });
            }
            self.measure(&hosts).await
        })
    }

    async fn measure(&self, hosts: &[SimHost; 2]) -> Seen {
        let start = Instant::now();
        let waits = Arc::new(Mutex::new(Vec::new()));
        let mut flows: Vec<Flow> = Vec::new();
        for congestion in &self.flows {
            if !flows.is_empty() {
                sleep(self.apart).await;
            }
            flows.push(Flow::start(hosts, *congestion, flows.len(), self.plain).await);
        }
        if self.messages {
            let (waits, rtt) = (Arc::clone(&waits), self.line.rtt);
            tokio::spawn(say(flows[0].near.clone(), flows[0].far.clone(), rtt, waits));
        }
        if self.trace {
            tokio::spawn(trace(flows[0].near.clone(), Arc::clone(&flows[0].received)));
        }
        let began = Instant::now();
        sleep_until(began + self.lasts / 2).await;
        let half: Vec<u64> = flows.iter().map(Flow::received).collect();
        sleep_until(began + self.lasts).await;
        let rate = |bytes: u64, time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        let rates = flows.iter().zip(half).map(|(flow, half)| {
            let all = flow.received();
            [rate(all, start.elapsed()), rate(all - half, self.lasts / 2)]
        });
        let stats = flows[0].near.stats();
        let packets = stats.sent_bytes as f64 / f64::from(stats.mtu);
        let lost = stats.lost_packets as f64 / packets * 100.0;
        let waits = std::mem::take(&mut *waits.lock().unwrap());
        let died = flows.iter().filter(|flow| flow.far.closed().now_or_never().is_some()).count();
        Seen { rates: rates.collect(), waits, lost, died }
    }
}

impl Flow {
    async fn start(hosts: &[SimHost; 2], congestion: Congestion, n: usize, plain: bool) -> Self {
        let [a, b] = [node(&hosts[0], congestion).await, node(&hosts[1], congestion).await];
        let (near, far) = connect(&a, &b).await;
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let mut carried = None;
        if plain {
            let (mut send, recv) = near.open_bi().await.unwrap();
            send.write_all(&[9]).await.unwrap();
            let Accepted::Other(9, back, forth) = far.accept().await.unwrap() else {
                panic!("another stream")
            };
            fill(send, forth, count, (recv, back));
        } else {
            let (from, to) = pair(u8::try_from(n).unwrap());
            carried = Some(far.carry(&to));
            let (serving, known) = (near.clone(), from.clone());
            tokio::spawn(async move { serving.serve_streams(|_| Some(known.clone())).await });
            let ((back, write), (read, forth)) = (from.halves().unwrap(), to.halves().unwrap());
            from.accepted().await.unwrap();
            fill(write, read, count, (back, forth));
        }
        Self { near, far, received, _nodes: [a, b], _carried: carried }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

async fn node(host: &SimHost, congestion: Congestion) -> QuicNode {
    let own = host.addresses().into_iter().filter(std::net::IpAddr::is_ipv4);
    let interfaces = Arc::new(FixedInterfaces::new(own));
    let config = Config { congestion, port_mapping: false, ..Config::new(interfaces) };
    QuicNode::start(Arc::new(host.clone()), config).await.unwrap()
}

async fn connect(a: &QuicNode, b: &QuicNode) -> (QuicConn, QuicConn) {
    let left = a.dial(Dial::new(Role::Controlling)).unwrap();
    let right = b.dial(Dial::new(Role::Controlled)).unwrap();
    left.handle().set_remote(right.local().clone()).await.unwrap();
    right.handle().set_remote(left.local().clone()).await.unwrap();
    let (mut left, mut right) = (left, right);
    let (left, right) = tokio::join!(left.connected(), right.connected());
    (left.unwrap(), right.unwrap())
}

/// Both sides of a stream: opener, acceptor.
fn pair(n: u8) -> (Live, Live) {
    let [opener, acceptor] = [[2; 32], [3; 32]].map(PublicKey);
    let ends = Ends { mesh: MeshId([1; 32]), stream: StreamId([n; 16]), opener, acceptor };
    let (windows, now) = (Windows::default(), Instant::now());
    let secret = Secret::new([5; 32]);
    let (a, open) =
        Stream::open(secret, "bench", ends, &windows, &Budget::new(BUDGET), now).unwrap();
    let fresh = Fresh([6; 32]);
    let b = Stream::accept(&open, ends, fresh, &windows, &Budget::new(BUDGET), now).unwrap();
    (Live::start(a), Live::start(b))
}

/// Keeps a stream full, and counts what comes; `others` are its other halves, which stay.
fn fill(
    mut write: impl AsyncWrite + Unpin + Send + 'static,
    mut read: impl AsyncRead + Unpin + Send + 'static,
    received: Arc<AtomicU64>,
    others: impl Send + 'static,
) {
    tokio::spawn(async move {
        let block = vec![7; WRITE];
        while write.write_all(&block).await.is_ok() {}
    });
    tokio::spawn(async move {
        let (mut block, _others) = (vec![0; WRITE], others);
        while let Ok(n @ 1..) = read.read(&mut block).await {
            received.fetch_add(n as u64, Ordering::Relaxed);
        }
    });
}

/// Messages of 256 bytes there and back, as links for messages have them: before bulk.
async fn say(near: QuicConn, far: QuicConn, rtt: Duration, waits: Arc<Mutex<Vec<Duration>>>) {
    let (mut send, mut recv) = near.open_bi().await.unwrap();
    send.set_priority(100).unwrap();
    send.write_all(&[9]).await.unwrap();
    let Accepted::Other(9, mut back, mut forth) = far.accept().await.unwrap() else {
        panic!("another stream")
    };
    back.set_priority(100).unwrap();
    let mut message = [0; 256];
    loop {
        let before = Instant::now();
        let there_and_back = async {
            send.write_all(&message).await.ok()?;
            forth.read_exact(&mut message).await.ok()?;
            back.write_all(&message).await.ok()?;
            recv.read_exact(&mut message).await.ok()
        };
        // A connection that has died says no more; the row shows it.
        if there_and_back.await.is_none() {
            return;
        }
        waits.lock().unwrap().push(before.elapsed().saturating_sub(rtt));
        sleep(PAUSE).await;
    }
}

/// Prints what the first flow does.
async fn trace(conn: QuicConn, received: Arc<AtomicU64>) {
    let (start, mut before) = (Instant::now(), 0);
    loop {
        sleep(LOOK).await;
        let now = received.load(Ordering::Relaxed);
        let stats = conn.stats();
        println!(
            "{:6.2} s {:7.1} MB/s, window {:6} KB, round trip {:?}, lost {}",
            start.elapsed().as_secs_f64(),
            (now - before) as f64 / 1e6 / LOOK.as_secs_f64(),
            conn.congestion_window() / 1_000,
            stats.rtt,
            stats.lost_packets
        );
        before = now;
    }
}
