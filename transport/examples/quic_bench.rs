//! QUIC over ICE against plain quinn, both in this run, over loopback: time to connect, round trips,
//! bulk. Prints a table; the ratios count, the absolute figures are this machine's.
//!
//! ```text
//! cargo run --release -p meshwire-transport --example quic_bench
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and may fail")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::frame::MessageState;
use meshwire_signaling::receipt::{Receipt, Verdict};
use meshwire_signaling::{Envelope, EnvelopeId, Hash, MeshId, SecretKey, Signature};
use meshwire_transport::link::{Answer, LinkEvent, MessageLink as _};
use meshwire_transport::net::OsNet;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{
    Accepted, Attempt, Config, Dial, Ends, QuicConn, QuicLink, QuicNode, Role,
};
use quinn::{Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::time::Instant;

const CONNECTIONS: usize = 200;
const ROUNDS: usize = 20_000;
const BULK: usize = 1 << 30;
const REPEAT: usize = 3;

struct Percentiles(Vec<Duration>);

impl Percentiles {
    fn at(&mut self, part: usize) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len() - 1;
        self.0[(self.0.len() * part / 100).min(last)]
    }
}

fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

async fn node() -> QuicNode {
    let interfaces = Arc::new(FixedInterfaces::new([]));
    QuicNode::start(Arc::new(OsNet), Config::new(interfaces)).await.unwrap()
}

async fn connect(a: &QuicNode, b: &QuicNode) -> (QuicConn, QuicConn) {
    let dial = |role| Dial { loopback: true, ..Dial::new(role) };
    let mut left: Attempt = a.dial(dial(Role::Controlling)).unwrap();
    let mut right: Attempt = b.dial(dial(Role::Controlled)).unwrap();
    left.handle().set_remote(right.local().clone()).await.unwrap();
    right.handle().set_remote(left.local().clone()).await.unwrap();
    let (left, right) = tokio::join!(left.connected(), right.connected());
    (left.unwrap(), right.unwrap())
}

/// Plain quinn with the windows and socket buffers of a node.
struct Raw {
    client: Endpoint,
    server: Endpoint,
    to: SocketAddr,
    config: quinn::ClientConfig,
}

impl Raw {
    fn new() -> Self {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let cert = key.cert.der().clone();
        let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(VarInt::from_u32(2 << 20))
            .receive_window(VarInt::from_u32(16 << 20))
            .send_window(16 << 20)
            .initial_rtt(Duration::from_millis(100));
        let transport = Arc::new(transport);
        let mut server =
            quinn::ServerConfig::with_single_cert(vec![cert.clone()], secret.into()).unwrap();
        server.transport_config(Arc::clone(&transport));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert).unwrap();
        let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        config.transport_config(transport);
        let bind = |server| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            let _ = socket.set_recv_buffer_size(4 << 20);
            let _ = socket.set_send_buffer_size(4 << 20);
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            let runtime = Arc::new(quinn::TokioRuntime);
            Endpoint::new(quinn::EndpointConfig::default(), server, socket.into(), runtime).unwrap()
        };
        let (client, server) = (bind(None), bind(Some(server)));
        let to = server.local_addr().unwrap();
        Self { client, server, to, config }
    }

    async fn connect(&self) -> (quinn::Connection, quinn::Connection) {
        let connecting =
            self.client.connect_with(self.config.clone(), self.to, "localhost").unwrap();
        let accepting = async { self.server.accept().await.unwrap().await };
        let (a, b) = tokio::join!(connecting, accepting);
        (a.unwrap(), b.unwrap())
    }
}

type Stream = (SendStream, RecvStream);

/// A stream between both, whose first byte has been read.
async fn raw_stream(a: &quinn::Connection, b: &quinn::Connection) -> (Stream, Stream) {
    let (mut send, recv) = a.open_bi().await.unwrap();
    send.write_all(&[9]).await.unwrap();
    let mut far = b.accept_bi().await.unwrap();
    far.1.read_exact(&mut [0]).await.unwrap();
    ((send, recv), far)
}

async fn own_stream(a: &QuicConn, b: &QuicConn) -> (Stream, Stream) {
    let (mut send, recv) = a.open_bi().await.unwrap();
    send.write_all(&[9]).await.unwrap();
    let Accepted::Other(_, far_send, far_recv) = b.accept().await.unwrap() else { panic!("other") };
    ((send, recv), (far_send, far_recv))
}

/// 256 bytes there and back, on one stream.
async fn ping_pong((near, mut far): (Stream, Stream)) -> Percentiles {
    let answering = tokio::spawn(async move {
        let mut buf = [0; 256];
        while far.1.read_exact(&mut buf).await.is_ok() && far.0.write_all(&buf).await.is_ok() {}
    });
    let (mut send, mut recv) = near;
    let mut times = Vec::with_capacity(ROUNDS);
    let mut buf = [7; 256];
    for _ in 0..ROUNDS {
        let before = Instant::now();
        send.write_all(&buf).await.unwrap();
        recv.read_exact(&mut buf).await.unwrap();
        times.push(before.elapsed());
    }
    let _ = send.finish();
    drop(answering);
    Percentiles(times)
}

/// Bytes per second.
async fn bulk((near, mut far): (Stream, Stream)) -> f64 {
    let reading = tokio::spawn(async move {
        let mut got = 0;
        let mut buf = vec![0; 256 << 10];
        while let Ok(Some(n)) = far.1.read(&mut buf).await {
            got += n;
        }
        got
    });
    let (mut send, _recv) = near;
    let chunk = vec![7; 256 << 10];
    let before = Instant::now();
    for _ in 0..BULK / chunk.len() {
        send.write_all(&chunk).await.unwrap();
    }
    send.finish().unwrap();
    assert_eq!(reading.await.unwrap(), BULK);
    BULK as f64 / before.elapsed().as_secs_f64()
}

/// An envelope of 256 bytes and its receipt, through the message link. Nothing is sealed or verified:
/// that costs the same on every path.
async fn messages(a: &QuicConn, b: &QuicConn) -> Percentiles {
    let mesh = MeshId([3; 32]);
    let [own, peer] = [[1; 32], [2; 32]].map(|s| SecretKey::from_seed(&s).public());
    let accepting = async {
        let Accepted::Messages(offered) = b.accept().await.unwrap() else { panic!("other") };
        offered.accept(Arc::new(OsNet)).await.unwrap()
    };
    let opening = QuicLink::open(a, Arc::new(OsNet), Ends { mesh, own, peer });
    let (opened, (far, mut far_events)) = tokio::join!(opening, accepting);
    let (near, mut near_events) = opened.unwrap();
    let id = EnvelopeId::new(1, 2);
    tokio::spawn(async move {
        while let Some(event) = far_events.recv().await {
            if let LinkEvent::Envelope(_) = event {
                let (verdict, mac) = (Verdict::Delivered, Hash([0; 32]));
                let receipt = Receipt { verdict, reason: None, by: peer, mac };
                far.answer(Answer::Final { from: own, id, receipt }).await.unwrap();
            }
        }
    });
    let envelope = Envelope {
        v: 2,
        header: vec![0; 200].into(),
        body: vec![0; 256].into(),
        sig: Signature([0; 64]),
        proof: None,
        wraps: vec![],
    };
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let before = Instant::now();
        let ticket = near.send(envelope.clone()).await.unwrap();
        while !matches!(near_events.recv().await.unwrap(), LinkEvent::Receipt { .. }) {}
        times.push(before.elapsed());
        assert_eq!(ticket.await.unwrap().state, MessageState::Sent);
    }
    Percentiles(times)
}

fn row(what: &str, raw: f64, own: f64, unit: &str) {
    println!("| {what} | {raw:.0} {unit} | {own:.0} {unit} | {:.2} |", own / raw);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (a, b, raw) = (node().await, node().await, Raw::new());
    println!("| | quinn | over ICE | ratio |\n|---|---|---|---|");
    let (mut own_times, mut raw_times) = (Percentiles(vec![]), Percentiles(vec![]));
    for _ in 0..CONNECTIONS {
        let before = Instant::now();
        let pair = connect(&a, &b).await;
        own_times.0.push(before.elapsed());
        drop(pair);
        let before = Instant::now();
        let pair = raw.connect().await;
        raw_times.0.push(before.elapsed());
        drop(pair);
    }
    for part in [50, 99] {
        let what = format!("connect p{part}");
        row(&what, micros(raw_times.at(part)), micros(own_times.at(part)), "µs");
    }
    for _ in 0..REPEAT {
        let (near, far) = connect(&a, &b).await;
        let (raw_near, raw_far) = raw.connect().await;
        let mut plain = ping_pong(raw_stream(&raw_near, &raw_far).await).await;
        let mut own = ping_pong(own_stream(&near, &far).await).await;
        let mut with_receipts = messages(&near, &far).await;
        for part in [50, 99] {
            let baseline = micros(plain.at(part));
            row(&format!("256 B on a stream p{part}"), baseline, micros(own.at(part)), "µs");
            let messages = micros(with_receipts.at(part));
            row(&format!("256 B message and receipt p{part}"), baseline, messages, "µs");
        }
        let plain = bulk(raw_stream(&raw_near, &raw_far).await).await;
        let own = bulk(own_stream(&near, &far).await).await;
        row("bulk", plain / 1e6, own / 1e6, "MB/s");
    }
}
