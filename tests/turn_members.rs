//! A broker's TURN desk, by what members' connections to it see: whose credentials are whose, and what a
//! member has left once it is removed.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;

use std::sync::Arc;

use md5::{Digest as _, Md5};
use meshwire::OsNet;
use meshwire::turn_desk::Desk;
use meshwire_coord::TurnDesk as _;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Frame, TurnCredentials, TurnServer};
use meshwire_transport::net::{BoxStream, Net as _, random};
use meshwire_turn::auth::REALM;
use meshwire_turn::stun::{Builder, Class, Frame as Stun, Integrity, Message, Method, next_frame};
use meshwire_turn::{RelayAddress, Secret, TurnConfig, TurnServer as Server};
use proto::{Member, World, http, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A TURN server on loopback, as a broker's desk.
async fn desk() -> Arc<Desk> {
    let any = ([127, 0, 0, 1], 0).into();
    let mut config = TurnConfig::new(Secret::new(random::<32>(&OsNet)));
    (config.udp, config.tcp) = (vec![any], vec![any]);
    config.relay = vec![RelayAddress::direct(any.ip())];
    let server = Server::start(Arc::new(OsNet), config).await.unwrap();
    Desk::new(server, &["127.0.0.1".to_owned()])
}

/// What a member is given.
async fn given(world: &World, member: &Member) -> TurnServer {
    let mut client = world.connect(member, Encoding::MsgPack).await;
    client.send(TurnCredentials { req: 77 }).await;
    let pick = |f: &Frame| if let Frame::TurnServers(t) = f { Some(t.clone()) } else { None };
    let offer = client.find(pick).await;
    client.leave().await;
    let [server] = &offer.servers[..] else { panic!("{offer:?}") };
    server.clone()
}

/// A client of the TURN server, over TCP.
struct Client {
    stream: BoxStream,
    nonce: Vec<u8>,
    asked: u8,
}

impl Client {
    async fn connect(server: &TurnServer) -> Self {
        let at = server.addresses.iter().find_map(|a| a.strip_prefix("tcp:")).unwrap();
        let (host, port) = at.rsplit_once(':').unwrap();
        let stream = OsNet.tcp_connect(host, port.parse().unwrap()).await.unwrap();
        Self { stream, nonce: Vec::new(), asked: 0 }
    }

    /// One message, unless the server hung up.
    async fn read(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            if let Stun::Whole { length, .. } = next_frame(&bytes) {
                bytes.truncate(length);
                return Some(bytes);
            }
            match within("an answer or the end", self.stream.read_buf(&mut bytes)).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }

    /// Asks with a user name and a password; 0, or the code of the refusal.
    async fn ask(&mut self, method: Method, user: &str, password: &str) -> u16 {
        loop {
            self.asked += 1;
            let mut message = Builder::new(Class::Request, method, &[self.asked; 12]);
            if method == Method::Allocate {
                message = message.attribute(0x0019, &[17, 0, 0, 0]);
            }
            if !self.nonce.is_empty() {
                message = message
                    .attribute(0x0006, user.as_bytes())
                    .attribute(0x0014, REALM.as_bytes())
                    .attribute(0x0015, &self.nonce)
                    .integrity(Integrity::Sha1, &Md5::digest(format!("{user}:{REALM}:{password}")));
            }
            self.stream.write_all(&message.finish()).await.unwrap();
            let answer = self.read().await.unwrap();
            let answer = Message::parse(&answer).unwrap();
            let code =
                answer.attribute(0x0009).map_or(0, |v| u16::from(v[2]) * 100 + u16::from(v[3]));
            if !(code == 401 && self.nonce.is_empty()) {
                return code;
            }
            self.nonce = answer.attribute(0x0015).unwrap().to_vec();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_one_members_and_end_with_it() {
    let desk = desk().await;
    let world = World::with(|c| c.turn = Some(desk.clone())).await;
    let (ana, bob) = (&world.owner, world.member("bob").await);
    let (for_ana, for_bob) = (given(&world, ana).await, given(&world, &bob).await);
    assert!(for_bob.username.contains(&bob.public().to_string()), "{for_bob:?}");

    let mut first = Client::connect(&for_ana).await;
    assert_eq!(first.ask(Method::Allocate, &for_ana.username, &for_bob.password).await, 401);
    assert_eq!(first.ask(Method::Allocate, &for_ana.username, &for_ana.password).await, 0);
    // Another member's allocation is out of reach (RFC 8656 section 5).
    assert_eq!(first.ask(Method::Refresh, &for_bob.username, &for_bob.password).await, 441);
    // Renewed credentials go on with it.
    let renewed = given(&world, ana).await;
    assert_eq!(first.ask(Method::Refresh, &renewed.username, &renewed.password).await, 0);

    let mut second = Client::connect(&for_bob).await;
    assert_eq!(second.ask(Method::Allocate, &for_bob.username, &for_bob.password).await, 0);
    let metrics = http::get(world.broker.addr(), "/metrics").await;
    let text = metrics.body;
    assert!(text.contains("\nturn_allocations 2\n") && text.ends_with("# EOF\n"), "{text}");

    desk.delete_member(&bob.public());
    assert!(second.read().await.is_none(), "it is hung up on");
    let mut third = Client::connect(&for_bob).await;
    assert_eq!(third.ask(Method::Allocate, &for_bob.username, &for_bob.password).await, 401);
    assert_eq!(first.ask(Method::Refresh, &for_ana.username, &for_ana.password).await, 0);
    world.broker.shutdown().await;
    desk.shutdown().await;
}
