//! The broker's HTTP.

use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::proto::http::{get, post, request};
use super::proto::{World, new_key, within};

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn every_bad_request_gets_its_status_and_json() {
    let world = World::start().await;
    let addr = world.broker.addr();
    let claim = format!("/v2/invites/{}/claim", world.link.secret.public());
    let post_claim = async |body: &[u8]| {
        let answer = post(addr, &claim, body).await;
        (answer.status, answer.code())
    };
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"\"x\"",
        b"{}",
        b"\xff\xfe",
        b"{\"claim\":1,\"proof\":2}",
        b"{\"claim\":{},\"claim\":{}}",
        b"{\"claim\":{\"payload\":\"$\",\"sig\":\"\"},\"proof\":\"\"}",
    ] {
        assert_eq!(post_claim(body).await, is(400, code::MALFORMED), "{body:?}");
    }
    // In fields that nobody knows as well, as in a frame.
    let good = serde_json::to_string(&world.claim(&world.link, &new_key(), "bob")).unwrap();
    for unknown in [
        "{\"x\":1,\"x\":2}",
        "1.5",
        "9007199254740992",
        &format!("{}{}", "[".repeat(16), "]".repeat(16)),
    ] {
        let body = format!("{{\"later\":{unknown},{}", &good[1..]);
        assert_eq!(post_claim(body.as_bytes()).await, is(400, code::MALFORMED), "{unknown}");
    }
    assert_eq!(post_claim("[".repeat(60_000).as_bytes()).await, is(400, code::MALFORMED));
    assert_eq!(post_claim(" ".repeat(70_000).as_bytes()).await, is(413, code::TOO_LARGE));
    assert_eq!(post_claim(&vec![b' '; 5_000_000]).await, is(413, code::TOO_LARGE));

    let good = serde_json::to_vec(&world.claim(&world.link, &new_key(), "bob")).unwrap();
    for kind in ["Content-Type: text/plain", "Content-Type: application/msgpack", "X-None: 1"] {
        let answer = request(addr, "POST", &claim, &[kind], &good).await;
        assert_eq!((answer.status, answer.code()), is(400, code::MALFORMED), "{kind}");
    }
    assert_eq!(post(addr, &claim, &good).await.status, 200, "the same body, rightly announced");

    for path in ["/", "/v1/ws", "/v2", "/v2/invites", "/i/", "/etc/passwd", "/%00", "/v2/ws/x"] {
        let answer = get(addr, path).await;
        assert_eq!((answer.status, answer.code()), is(404, "not_found"), "{path}");
    }
    for (method, path) in [
        ("GET", "/v2/meshes"),
        ("DELETE", "/v2/broker"),
        ("POST", "/health"),
        ("PUT", claim.as_str()),
        ("POST", "/v2/ws"),
    ] {
        let answer = request(addr, method, path, &[], &[]).await;
        assert_eq!((answer.status, answer.code()), is(405, "bad_method"), "{method} {path}");
        assert!(answer.header("allow").is_some());
    }
    for headers in [
        &[][..],
        &["Connection: Upgrade", "Upgrade: websocket"],
        &["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8"],
        &[
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ],
        &[
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Protocol: meshwire.v3.cbor",
        ],
        &[
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: meshwire.v2.json",
        ],
    ] {
        let answer = request(addr, "GET", "/v2/ws", headers, &[]).await;
        assert_eq!((answer.status, answer.code()), is(400, code::MALFORMED), "{headers:?}");
    }
}

#[tokio::test]
async fn what_is_no_http_at_all_ends_the_connection() {
    let world = World::start().await;
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(2_000_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(10_000));
    for bytes in
        [&b"SSH-2.0-x\r\n\r\n"[..], b"\x16\x03\x01\x00\xff", huge.as_bytes(), many.as_bytes()]
    {
        #[allow(clippy::disallowed_methods)] // a client that is none of ours
        let stream = tokio::net::TcpStream::connect(world.broker.addr()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
        let mut answer = Vec::new();
        let _ = within("the end", read.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert_eq!(get(world.broker.addr(), "/health").await.status, 200);
}

#[tokio::test]
async fn health_and_metrics_tell() {
    let world = World::start().await;
    let addr = world.broker.addr();
    let bob = world.member("bob").await;
    let mut a = world.connect(&world.owner, Encoding::MsgPack).await;
    let (_, mail) = world.owner.letter(&world.mesh, bob.public(), 1, "x", |_| {});
    a.hand(mail.clone()).await.unwrap();
    assert!(a.hand(mail).await.unwrap().duplicate);
    a.bytes("{").await.unwrap();
    a.error().await;
    let opening = world.dial(Encoding::Json).await;
    let stranger = bob.elsewhere();
    let mut hello = opening.body(&world.mesh, &stranger).sign(&stranger.key);
    hello.sig.0[0] ^= 1;
    opening.say(hello, None).await.unwrap_err();

    let health = get(addr, "/health").await;
    assert_eq!(health.status, 200);
    let health: serde_json::Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!((&health["status"], &health["db"]), (&"ok".into(), &"ok".into()));
    assert_eq!(health["connections"], 1);
    let ready = get(addr, "/health/ready").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, r#"{"status":"ready"}"#));

    let metrics = get(addr, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let mut series = std::collections::BTreeMap::new();
    for line in metrics.body.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        series.insert(name.to_owned(), value.parse::<f64>().unwrap());
    }
    assert!(metrics.body.ends_with("# EOF\n"));
    for (name, value) in [
        ("broker_connections_total", 2.0),
        ("broker_connections_active", 1.0),
        (r#"broker_connections_rejected_total{reason="bad_signature"}"#, 1.0),
        (r#"broker_messages_routed_total{priority="next"}"#, 1.0),
        ("broker_messages_duplicate_total", 1.0),
        ("broker_messages_pushed_total", 0.0),
        ("broker_messages_delivered_total", 0.0),
        ("broker_frames_malformed_total", 1.0),
        ("broker_slow_consumers_total", 0.0),
        ("broker_queue_depth", 1.0),
        ("broker_db_healthy", 1.0),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name} in\n{}", metrics.body);
    }
}

#[tokio::test]
async fn a_stopping_broker_tells_its_nodes_when_to_come_back() {
    let world = World::start().await;
    let mut a = world.connect(&world.owner, Encoding::MsgPack).await;
    let stopping = tokio::spawn(world.broker.shutdown());
    let goaway = a.find(|f| {
        if let meshwire_signaling::frame::Frame::Goaway(g) = f { Some(g.clone()) } else { None }
    });
    assert_eq!(goaway.await.retry_after_ms, 500);
    assert_eq!(a.closed().await, (1001, "shutting down".to_owned()));
    within("the end", stopping).await.unwrap();
}
