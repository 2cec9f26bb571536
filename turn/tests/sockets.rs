//! The server on real sockets: what coturn's clients do not show.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};
use meshwire_transport::net::{BoxStream, Net as _, OsNet};
use meshwire_turn::auth::REALM;
use meshwire_turn::stun::{Builder, Class, Frame, Integrity, Message, Method, next_frame};
use meshwire_turn::{Kind, Member, RelayAddress, Secret, TurnConfig, TurnError, TurnServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

fn config() -> TurnConfig {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut config = TurnConfig::new(Secret::new("secret"));
    (config.udp, config.tcp) = (vec![any], vec![any]);
    config.relay = vec![RelayAddress::direct(any.ip())];
    config
}

async fn start(config: TurnConfig) -> TurnServer {
    TurnServer::start(Arc::new(OsNet), config).await.unwrap()
}

async fn connect(server: &TurnServer) -> BoxStream {
    let at = server.listening().tcp[0];
    OsNet.tcp_connect(&at.ip().to_string(), at.port()).await.unwrap()
}

fn binding() -> Builder {
    Builder::new(Class::Request, Method::Binding, &[7; 12])
}

/// Reads one message of a stream; nothing where it ended.
async fn read(stream: &mut BoxStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Frame::Whole { length, .. } = next_frame(&bytes) {
            bytes.truncate(length);
            return Some(bytes);
        }
        match timeout(SOON, stream.read_buf(&mut bytes)).await.expect("an answer or the end") {
            Ok(1..) => {}
            _ => return None,
        }
    }
}

#[tokio::test]
async fn a_stream_may_come_in_pieces_and_many_at_once() {
    let server = start(config()).await;
    let mut stream = connect(&server).await;
    let request = binding().finish();
    for piece in request.chunks(7) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read(&mut stream).await.is_some());
    stream.write_all(&request.repeat(50)).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 50 * 32 {
        assert!(timeout(SOON, stream.read_buf(&mut got)).await.unwrap().unwrap() > 0);
    }
    assert_eq!(got.len(), 50 * 32);
    assert_eq!(server.metrics().streams, 1);
    server.shutdown().await;
    assert!(read(&mut stream).await.is_none(), "the server closed it");
}

#[tokio::test]
async fn a_stream_that_is_none_of_ours_is_closed() {
    let server = start(config()).await;
    // Not STUN; a message that only somebody with an allocation may send; the same as channel data.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 0xff, 0xfc], &[0x40, 0, 0xff, 0xff]] {
        let mut stream = connect(&server).await;
        stream.write_all(bytes).await.unwrap();
        assert!(read(&mut stream).await.is_none());
    }
    server.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_closed_after_half_a_minute() {
    let server = start(config()).await;
    let mut stream = connect(&server).await;
    let begun = tokio::time::Instant::now();
    let mut byte = [0];
    // The paused clock jumps to whatever is due first.
    assert_eq!(timeout(SOON * 9, stream.read(&mut byte)).await.unwrap().unwrap(), 0);
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    server.shutdown().await;
}

#[tokio::test]
async fn streams_are_bounded() {
    let server = start(TurnConfig { streams: 1, ..config() }).await;
    let mut first = connect(&server).await;
    first.write_all(&binding().finish()).await.unwrap();
    assert!(read(&mut first).await.is_some());
    let mut second = connect(&server).await;
    assert!(read(&mut second).await.is_none());
    drop(first);
    // Its place is free once the server has seen it go.
    loop {
        let mut third = connect(&server).await;
        if third.write_all(&binding().finish()).await.is_ok() && read(&mut third).await.is_some() {
            break;
        }
    }
    server.shutdown().await;
}

/// Allocates over a stream with credentials of `member`; gives the relayed address's port.
async fn allocate(server: &TurnServer, stream: &mut BoxStream, member: &str) -> Option<u16> {
    let member = Member::new(Kind::Member, member).unwrap();
    let given = server.credentials(&member, Duration::from_secs(60));
    let text = format!("{}:{REALM}:{}", given.username, *given.password);
    let hello = Builder::new(Class::Request, Method::Allocate, &[1; 12]).finish();
    stream.write_all(&hello).await.unwrap();
    let answer = read(stream).await?;
    let nonce = Message::parse(&answer).unwrap().attribute(0x0015).unwrap().to_vec();
    let request = Builder::new(Class::Request, Method::Allocate, &[2; 12])
        .attribute(0x0019, &[17, 0, 0, 0])
        .attribute(0x0006, given.username.as_bytes())
        .attribute(0x0014, REALM.as_bytes())
        .attribute(0x0015, &nonce)
        .integrity(Integrity::Sha1, &Md5::digest(text))
        .finish();
    stream.write_all(&request).await.unwrap();
    let answer = read(stream).await?;
    let answer = Message::parse(&answer).unwrap();
    assert_eq!(answer.class(), Class::Success);
    let port = answer.attribute(0x0016).map(|v| u16::from_be_bytes([v[2], v[3]]) ^ 0x2112);
    assert!(meshwire_turn::PORTS.contains(&port?));
    port
}

#[tokio::test]
async fn a_deleted_member_is_hung_up_on_and_its_port_is_free() {
    let server = start(config()).await;
    let (mut alice, mut bob) = (connect(&server).await, connect(&server).await);
    let port = allocate(&server, &mut alice, "alice").await.unwrap();
    allocate(&server, &mut bob, "bob").await.unwrap();
    let relayed: SocketAddr = ([127, 0, 0, 1], port).into();
    assert!(OsNet.udp_bind(relayed).await.is_err());
    server.delete_member("alice");
    assert!(read(&mut alice).await.is_none());
    // Its task has ended by the time that the shutdown has; until then the port is free soon.
    let free = async {
        while OsNet.udp_bind(relayed).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, free).await.unwrap();
    let metrics = server.metrics();
    assert_eq!((metrics.allocations, metrics.counters.deleted), (1, 1));
    bob.write_all(&binding().finish()).await.unwrap();
    assert!(read(&mut bob).await.is_some(), "others are served");
    server.shutdown().await;
}

#[tokio::test]
async fn the_other_socket_answers_where_that_is_asked_for() {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let server = start(TurnConfig { behaviour: Some(any), ..config() }).await;
    let (main, other) = (server.listening().udp[0], server.listening().behaviour.unwrap());
    let socket = OsNet.udp_bind(any).await.unwrap();
    let mut buf = [0; 500];
    for (to, change, answers) in
        [(main, 0, main), (main, 2, other), (other, 0, other), (other, 2, main)]
    {
        let request = binding().attribute(3, &[0, 0, 0, change]).finish();
        socket.send_to(&request, to).await.unwrap();
        let (length, from) = timeout(SOON, socket.recv_from(&mut buf)).await.unwrap().unwrap();
        assert_eq!(from, answers);
        let message = Message::parse(&buf[..length]).unwrap();
        let port = |kind| message.attribute(kind).map(|v| u16::from_be_bytes([v[2], v[3]]));
        let elsewhere = if to == main { other } else { main };
        assert_eq!((port(0x802b), port(0x802c)), (Some(from.port()), Some(elsewhere.port())));
    }
    // Another address is not to be had.
    socket.send_to(&binding().attribute(3, &[0, 0, 0, 4]).finish(), main).await.unwrap();
    let (length, _) = timeout(SOON, socket.recv_from(&mut buf)).await.unwrap().unwrap();
    assert_eq!(Message::parse(&buf[..length]).unwrap().class(), Class::Error);
    server.shutdown().await;
}

#[tokio::test]
async fn what_contradicts_itself_does_not_start() {
    let refused = |config| async {
        TurnServer::start(Arc::new(OsNet), config).await.expect_err("it must not start")
    };
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let (v4, v6, zero) =
        ("1.2.3.4".parse().unwrap(), "::1".parse().unwrap(), "0.0.0.0".parse().unwrap());
    let error = refused(TurnConfig { tls: vec![any], ..config() }).await;
    assert!(matches!(error, TurnError::NoIdentity));
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let error = refused(TurnConfig { ports: 9..=8, ..config() }).await;
    assert!(matches!(error, TurnError::Ports(_)));
    let mixed = vec![RelayAddress { bind: v4, public: v6 }];
    assert!(matches!(
        refused(TurnConfig { relay: mixed, ..config() }).await,
        TurnError::Families(_)
    ));
    let nobody = vec![RelayAddress::direct(zero)];
    let error = refused(TurnConfig { relay: nobody, ..config() }).await;
    assert!(matches!(error, TurnError::Unspecified(_)));
    let error = refused(TurnConfig { udp: vec![], behaviour: Some(any), ..config() }).await;
    assert!(matches!(error, TurnError::Behaviour));
    let server = start(config()).await;
    let taken = server.listening().udp[0];
    let error = refused(TurnConfig { udp: vec![taken], ..config() }).await;
    assert!(matches!(error, TurnError::Bind { addr, .. } if addr == taken), "{error}");
}
