//! Two homes, a STUN server, and the way by which peers tell each other their addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwire_netsim::simnet::{Home, Internet, Sim, SimHost, Stage};
use meshwire_netsim::{LinkConfig, Preset, Wire};
use meshwire_signaling::MeshId;
use meshwire_transport::net::Net as _;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{
    Accepted, Attempt, AttemptEvent, Config, Dial, Pair, QuicConn, QuicError, QuicNode, Role,
    Servers,
};
use tokio::time::sleep;

/// How long the broker takes to bring something to the peer.
const SIGNALLING: Duration = Duration::from_millis(20);

/// A machine with a node.
pub(crate) struct Peer {
    pub(crate) node: QuicNode,
    pub(crate) interfaces: Arc<FixedInterfaces>,
}

/// Two peers and the world between them.
pub(crate) struct Place {
    pub(crate) sim: Sim,
    pub(crate) homes: Vec<Home>,
    pub(crate) peers: [Peer; 2],
    pub(crate) server: SimHost,
}

fn wire() -> Wire {
    Wire::both(LinkConfig::with_latency(Duration::from_millis(5)))
}

impl Place {
    /// Each behind a router of its own; nodes know of the addresses that `usable` picks.
    pub(crate) async fn new(
        stage: Stage,
        presets: [Preset; 2],
        usable: impl Fn(&IpAddr) -> bool,
    ) -> Self {
        let mut net = Internet::new(stage).unwrap();
        let server = net.server("stun", Wire::default()).unwrap();
        let homes: Vec<Home> = ["alice", "bob"]
            .into_iter()
            .zip(presets)
            .map(|(name, preset)| net.home(name, preset, wire()).unwrap())
            .collect();
        let sim = net.start();
        let servers = stun_server(&sim.host(server)).await;
        let hosts = [sim.host(homes[0].host), sim.host(homes[1].host)];
        let [a, b] = hosts.map(|host| peer(host, &usable, servers.clone()));
        let server = sim.host(server);
        Self { sim, homes, peers: [a.await, b.await], server }
    }

    /// Both in one home.
    pub(crate) async fn one_lan(stage: Stage, preset: Preset) -> Self {
        let mut net = Internet::new(stage).unwrap();
        let server = net.server("stun", Wire::default()).unwrap();
        let home = net.home("home", preset, wire()).unwrap();
        let builder = net.builder();
        let second = builder.host("second").unwrap();
        let addresses = ["10.0.1.3".parse().unwrap()];
        builder.attach(second, home.lan, &addresses, Wire::default()).unwrap();
        let sim = net.start();
        let servers = stun_server(&sim.host(server)).await;
        let v4 = IpAddr::is_ipv4;
        let a = peer(sim.host(home.host), &v4, servers.clone()).await;
        let b = peer(sim.host(second), &v4, servers).await;
        let server = sim.host(server);
        Self { sim, homes: vec![home], peers: [a, b], server }
    }
}

async fn peer(host: SimHost, usable: &impl Fn(&IpAddr) -> bool, servers: Servers) -> Peer {
    let interfaces = Arc::new(FixedInterfaces::new(host.addresses().into_iter().filter(usable)));
    let config = Config::new(Arc::<FixedInterfaces>::clone(&interfaces));
    let node = QuicNode::start(Arc::new(host), config).await.unwrap();
    node.set_servers(None, servers);
    Peer { node, interfaces }
}

/// Answers Binding requests on port 3478.
pub(crate) async fn stun_server(host: &SimHost) -> Servers {
    let mut stun = Vec::new();
    for ip in host.addresses() {
        let at = SocketAddr::new(ip, 3478);
        let socket = host.udp_bind(at).await.unwrap();
        stun.push(at);
        tokio::spawn(async move {
            let mut buf = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buf).await {
                if let Some(answer) = binding_success(&buf[..length], from) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
    }
    Servers { stun, ..Servers::default() }
}

/// RFC 8489 sections 5 and 14.2.
fn binding_success(request: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let header = request.get(..20).filter(|h| h[..2] == [0, 1])?;
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u8::try_from(ip.len() + 4).unwrap();
    let mut answer = vec![1, 1, 0, length + 4];
    answer.extend_from_slice(&header[4..]);
    answer.extend_from_slice(&[0, 0x20, 0, length, 0, if from.is_ipv4() { 1 } else { 2 }]);
    let plain = from.port().to_be_bytes().into_iter().zip(&header[4..6]);
    answer.extend(plain.map(|(a, b)| a ^ b));
    answer.extend(ip.iter().zip(&header[4..]).map(|(a, b)| a ^ b));
    Some(answer)
}

/// One side of the signalling: an offer or answer on its way, then candidates as they come. Ends with
/// the attempt.
async fn side(
    mut attempt: Attempt,
    to: meshwire_transport::quic::AttemptHandle,
    connected: tokio::sync::oneshot::Sender<Result<QuicConn, QuicError>>,
) {
    let mut connected = Some(connected);
    while let Some(event) = attempt.next().await {
        match event {
            AttemptEvent::Candidate(candidate) => {
                let to = to.clone();
                tokio::spawn(async move {
                    sleep(SIGNALLING).await;
                    let _ = to.add_remote(candidate).await;
                });
            }
            AttemptEvent::Connected(conn) => drop(connected.take().map(|c| c.send(Ok(conn)))),
            AttemptEvent::Failed(e) => drop(connected.take().map(|c| c.send(Err(e)))),
            other => panic!("{other:?}"),
        }
    }
}

/// Connects two nodes, `a` offering.
pub(crate) async fn try_meet(
    a: &QuicNode,
    b: &QuicNode,
) -> (Result<QuicConn, QuicError>, Result<QuicConn, QuicError>) {
    try_meet_in(None, a, b).await
}

/// As [`try_meet`], in a mesh.
pub(crate) async fn try_meet_in(
    mesh: Option<MeshId>,
    a: &QuicNode,
    b: &QuicNode,
) -> (Result<QuicConn, QuicError>, Result<QuicConn, QuicError>) {
    let left = a.dial(Dial { mesh, ..Dial::new(Role::Controlling) }).unwrap();
    let (left_handle, left_local) = (left.handle(), left.local().clone());
    sleep(SIGNALLING).await;
    let right = b.dial(Dial { mesh, ..Dial::new(Role::Controlled) }).unwrap();
    let (right_handle, right_local) = (right.handle(), right.local().clone());
    right_handle.set_remote(left_local).await.unwrap();
    let (done_left, left_done) = tokio::sync::oneshot::channel();
    let (done_right, right_done) = tokio::sync::oneshot::channel();
    tokio::spawn(side(right, left_handle.clone(), done_right));
    tokio::spawn(side(left, right_handle, done_left));
    sleep(SIGNALLING).await;
    left_handle.set_remote(right_local).await.unwrap();
    let (left, right) = tokio::join!(left_done, right_done);
    (left.unwrap(), right.unwrap())
}

pub(crate) async fn meet(a: &QuicNode, b: &QuicNode) -> (QuicConn, QuicConn) {
    let (left, right) = try_meet(a, b).await;
    (left.unwrap(), right.unwrap())
}

pub(crate) fn pair_of(conn: &QuicConn) -> Pair {
    conn.stats().pair.unwrap()
}

/// A kilobyte there and back.
pub(crate) async fn echo(left: &QuicConn, right: &QuicConn) {
    let answer = async {
        let Accepted::Other(9, mut send, mut recv) = right.accept().await.unwrap() else {
            panic!("another stream")
        };
        let said = recv.read_to_end(2000).await.unwrap();
        send.write_all(&said).await.unwrap();
        send.finish().unwrap();
        let _ = send.stopped().await;
    };
    let ask = async {
        let (mut send, mut recv) = left.open_bi().await.unwrap();
        send.write_all(&[9; 1001]).await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(2000).await.unwrap(), [9; 1000]);
    };
    tokio::join!(ask, answer);
}
