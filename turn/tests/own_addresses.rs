//! Addresses that the server's host gets and loses while it runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use md5::{Digest as _, Md5};
use meshwire_transport::net::{Datagram, Net as _, OsNet};
use meshwire_turn::auth::REALM;
use meshwire_turn::stun::{Builder, Class, Integrity, Message, Method};
use meshwire_turn::{HostAddresses, Kind, Member, RelayAddress, Secret, TurnConfig, TurnServer};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);
/// Longer than the server takes for a look.
const LOOK: Duration = Duration::from_secs(40);

struct Client {
    socket: Box<dyn Datagram>,
    server: SocketAddr,
    username: String,
    key: Vec<u8>,
    nonce: Vec<u8>,
    transaction: u8,
}

impl Client {
    async fn new(server: &TurnServer) -> Self {
        let given = server.credentials(&Member::new(Kind::Member, "a").unwrap(), SOON * 9);
        let text = format!("{}:{REALM}:{}", given.username, *given.password);
        let socket = OsNet.udp_bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (server, key) = (server.listening().udp[0], Md5::digest(text).to_vec());
        let username = given.username;
        let mut client = Self { socket, server, username, key, nonce: Vec::new(), transaction: 0 };
        let hello = Builder::new(Class::Request, Method::Allocate, &[0; 12]).finish();
        let answer = client.ask(&hello).await;
        client.nonce = Message::parse(&answer).unwrap().attribute(0x0015).unwrap().to_vec();
        client
    }

    async fn ask(&self, request: &[u8]) -> Vec<u8> {
        self.socket.send_to(request, self.server).await.unwrap();
        let mut buf = [0; 1_500];
        let (length, _) = timeout(SOON, self.socket.recv_from(&mut buf)).await.unwrap().unwrap();
        buf[..length].to_vec()
    }

    /// Whether it is granted.
    async fn request(&mut self, method: Method, with: impl Fn(Builder) -> Builder) -> bool {
        self.transaction += 1;
        let request = with(Builder::new(Class::Request, method, &[self.transaction; 12]))
            .attribute(0x0006, self.username.as_bytes())
            .attribute(0x0014, REALM.as_bytes())
            .attribute(0x0015, &self.nonce)
            .integrity(Integrity::Sha1, &self.key)
            .finish();
        Message::parse(&self.ask(&request).await).unwrap().class() == Class::Success
    }

    async fn permit(&mut self, peer: SocketAddr) -> bool {
        self.request(Method::CreatePermission, |m| m.xor_address(0x0012, peer)).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_later_is_refused_and_one_that_goes_is_not() {
    let ip: IpAddr = [127, 0, 0, 1].into();
    let later: SocketAddr = ([127, 0, 0, 2], 9).into();
    let (has, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let mut config = TurnConfig::new(Secret::new("secret"));
    config.udp = vec![SocketAddr::new(ip, 0)];
    config.relay = vec![RelayAddress::direct(ip)];
    config.allow = vec!["127.0.0.0/8".parse().unwrap()];
    let (host, tells) = (has.clone(), told.clone());
    config.host = Some(HostAddresses::new(move || {
        let all = if host.load(Ordering::SeqCst) { vec![later.ip()] } else { Vec::new() };
        tells.load(Ordering::SeqCst).then_some(all)
    }));
    let server = TurnServer::start(Arc::new(OsNet), config).await.unwrap();
    let mut client = Client::new(&server).await;
    assert!(client.request(Method::Allocate, |m| m.attribute(0x0019, &[17, 0, 0, 0])).await);
    assert!(client.permit(later).await);
    has.store(true, Ordering::SeqCst);
    sleep(LOOK).await;
    assert!(!client.permit(later).await, "it is the host's now");
    assert!(!client.permit(SocketAddr::new(ip, 22)).await, "what the configuration names stays");
    // Who cannot tell changes nothing.
    told.store(false, Ordering::SeqCst);
    has.store(false, Ordering::SeqCst);
    sleep(LOOK).await;
    assert!(!client.permit(later).await);
    told.store(true, Ordering::SeqCst);
    sleep(LOOK).await;
    assert!(client.permit(later).await);
    server.shutdown().await;
}
