//! coturn's own clients against this server, over real sockets on loopback: UDP, TCP and TLS, relayed
//! IPv4 and IPv6, channels and indications. Wants Debian's package `coturn`; without it the tests say so
//! and pass, or fail where `MESHWIRE_REQUIRE_LAB` is 1.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures_util::future::join_all;
use meshwire_transport::net::{Net as _, OsNet, RecvMeta};
use meshwire_turn::{Kind, Member, RelayAddress, Secret, TurnConfig, TurnServer};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::process::Command;
use tokio::time::timeout;

const SECRET: &str = "not a secret";
/// Long enough for a slow machine; a tool takes five seconds.
const LONG: Duration = Duration::from_secs(60);

/// Whether the tools are there. Panics where they must be.
fn tools() -> bool {
    let tools = ["turnutils_uclient", "turnutils_stunclient"];
    let missing = tools.iter().find(|tool| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&paths).any(|folder| folder.join(tool).exists())
    });
    let Some(tool) = missing else { return true };
    let message = format!("{tool} is not here: install Debian's package coturn");
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none_or(|v| v != "1"), "{message}");
    eprintln!("skipped: {message}");
    false
}

/// A server on all of one loopback address, that may relay to loopback's others.
async fn server(ip: &str) -> TurnServer {
    let ip: IpAddr = ip.parse().unwrap();
    let any = SocketAddr::new(ip, 0);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let identity = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut config = TurnConfig::new(Secret::new(SECRET));
    (config.udp, config.tcp, config.tls) = (vec![any], vec![any], vec![any]);
    config.identity = Some(Arc::new(identity));
    config.relay = vec![RelayAddress::direct(ip)];
    config.allow = vec!["127.0.0.0/8".parse().unwrap()];
    // All that run at once are one member.
    config.limits.per_member = 1_000;
    TurnServer::start(Arc::new(OsNet), config).await.unwrap()
}

/// Sends back what comes, until it is dropped.
async fn echo(ip: &str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = OsNet.udp_bind(SocketAddr::new(ip.parse().unwrap(), 0)).await.unwrap();
    let at = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        // The server may send several at once, and the system hand them over joined.
        let mut buf = vec![0; 65_536];
        loop {
            let mut meta = [RecvMeta::default()];
            let receive = |cx: &mut Context<'_>| {
                socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buf)], &mut meta)
            };
            if poll_fn(receive).await.is_err() {
                return;
            }
            for datagram in buf[..meta[0].len].chunks(meta[0].stride.max(1)) {
                if socket.send_to(datagram, meta[0].addr).await.is_err() {
                    return;
                }
            }
        }
    });
    (at, task)
}

async fn run(tool: &str, args: &[&str]) -> String {
    let child = Command::new(tool)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .current_dir(Path::new("/"))
        .spawn()
        .unwrap();
    let output = timeout(LONG, child.wait_with_output()).await.expect("it ends").unwrap();
    [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat()
}

/// Sends 10 messages with each of 2 clients and wants all 20 back.
async fn exchange(server: SocketAddr, who: [&str; 4], more: Vec<&str>) {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let base = ["-c", "-n", "10", "-m", "2", "-l", "400", "-z", "5", "-p", &port];
    let args = [&base[..], &who, &more, &[&ip]].concat();
    let said = run("turnutils_uclient", &args).await;
    assert!(said.contains("tot_send_msgs=20, tot_recv_msgs=20"), "{args:?}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uclient_works_over_udp_tcp_and_tls() {
    if !tools() {
        return;
    }
    let server = server("127.0.0.1").await;
    // Another loopback address: this server's own are refused.
    let (peer, echo) = echo("127.0.0.2").await;
    let (peer_ip, peer_port) = (peer.ip().to_string(), peer.port().to_string());
    let rest = ["-u", "alice", "-W", SECRET];
    let at = server.listening().clone();
    let peer = ["-e", &peer_ip, "-r", &peer_port];
    // The credentials that members get.
    let member = Member::new(Kind::Member, "mesh-key").unwrap();
    let given = server.credentials(&member, Duration::from_secs(60));
    let ours = ["-u", &given.username, "-w", &given.password];
    let mut all = vec![exchange(at.udp[0], ours, peer.to_vec())];
    for (at, over) in [(at.udp[0], &[][..]), (at.tcp[0], &["-t"]), (at.tls[0], &["-t", "-S"])] {
        for way in [&[][..], &["-s"], &["-g", "-D"]] {
            all.push(exchange(at, rest, [over, way, &peer].concat()));
        }
        // From one relayed port of this server to another.
        all.push(exchange(at, rest, [over, &["-y"]].concat()));
    }
    join_all(all).await;

    let metrics = server.metrics();
    let kinds: Vec<Kind> = metrics.counters.to_peers.keys().map(|(kind, _)| *kind).collect();
    assert!(kinds.contains(&Kind::Member) && kinds.contains(&Kind::Other), "{metrics:?}");
    echo.abort();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uclient_works_over_ipv6() {
    if !tools() {
        return;
    }
    let server = server("::1").await;
    let at = server.listening().clone();
    let mut all = Vec::new();
    for (at, over) in [(at.udp[0], &[][..]), (at.tcp[0], &["-t"]), (at.tls[0], &["-t", "-S"])] {
        for way in [&["-x", "-y"][..], &["-x", "-y", "-s"]] {
            all.push(exchange(at, ["-u", "alice", "-W", SECRET], [over, way].concat()));
        }
    }
    join_all(all).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_and_own_addresses_get_nowhere() {
    if !tools() {
        return;
    }
    let server = server("127.0.0.1").await;
    let at = server.listening().udp[0];
    let port = at.port().to_string();
    let base = ["-c", "-n", "1", "-p", &port];
    let wrong = [&base[..], &["-y", "-u", "alice", "-W", "wrong", "127.0.0.1"]].concat();
    let said = run("turnutils_uclient", &wrong).await;
    assert!(said.contains("Cannot complete Allocation"), "{said}");
    // This server's own port as a peer.
    let own = ["-e", "127.0.0.1", "-r", &port, "-u", "alice", "-W", SECRET, "127.0.0.1"];
    let said = run("turnutils_uclient", &[&base[..], &own].concat()).await;
    assert!(said.contains("403"), "{said}");
    assert_eq!(server.metrics().counters.to_peers.len(), 0);
    server.shutdown().await;
}

/// That tool speaks UDP alone; `sockets.rs` asks the same over TCP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stunclient_learns_its_address() {
    if !tools() {
        return;
    }
    for ip in ["127.0.0.1", "::1"] {
        let server = server(ip).await;
        let port = server.listening().udp[0].port().to_string();
        let said = run("turnutils_stunclient", &["-p", &port, ip]).await;
        assert!(said.contains(&format!("UDP reflexive addr: {ip}")), "{said}");
        server.shutdown().await;
    }
}
