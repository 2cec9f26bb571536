use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use meshwire_signaling::UnixMillis;
use tokio::time::Instant;

use super::*;
use crate::net::{BoxStream, Datagram, Listener, OsNet};
use crate::quic::interfaces::FixedInterfaces;
use crate::quic::{Config, demux};

/// A system whose names lead nowhere, for ever.
#[derive(Debug)]
struct Names;

#[async_trait]
impl Net for Names {
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
        OsNet.udp_bind(addr).await
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match host.parse::<IpAddr>() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
            Err(_) => std::future::pending().await,
        }
    }
}

fn stun(servers: &[String]) -> TurnServers {
    TurnServers { req: 1, servers: Vec::new(), stun: servers.to_vec() }
}

#[tokio::test]
async fn names_of_one_mesh_keep_no_other_waiting() {
    let net: Arc<dyn Net> = Arc::new(Names);
    let interfaces = Arc::new(FixedInterfaces::default());
    let config = Config { port_mapping: false, ..Config::new(interfaces) };
    let node = Arc::new(QuicNode::start(net.clone(), config).await.unwrap());
    let adapter = QuicAdapter::new(net, node);
    let server = OsNet.udp_bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = server.local_addr().unwrap().to_string();
    adapter.set_servers(MeshId([1; 32]), stun(&["hangs:3478".to_owned()]));
    adapter.set_servers(MeshId([2; 32]), stun(&[at]));
    adapter.set_servers(MeshId([1; 32]), stun(&["hangs.too:3478".to_owned()]));
    let mut buf = [0; 100];
    let (length, _) = server.recv_from(&mut buf).await.unwrap();
    assert!(demux::is_request(&buf[..length]), "it is asked for our address");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_hangs_keeps_its_mesh_three_seconds() {
    let start = Instant::now();
    let told = stun(&["hangs:1".to_owned(), "192.0.2.1:3478".to_owned(), "224.0.0.1:1".to_owned()]);
    let found = found(&Names, &told).await;
    assert_eq!(found.stun, ["192.0.2.1:3478".parse().unwrap()]);
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}
