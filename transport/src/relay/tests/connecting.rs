//! Getting a connection, being refused one, losing one.

use meshwire_signaling::frame::{ErrorFrame, Goaway, code};
use tokio::time::Instant;

use super::*;
use crate::testing::{acceptor, certificate};
use crate::tls::spki_pin;

const CAP: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_link_says_hello_in_either_encoding_and_is_up() {
    for encoding in [Encoding::MsgPack, Encoding::Json] {
        let mut bench = Bench::new(encoding);
        assert!(!bench.link.is_up());
        assert_eq!(bench.link.send(envelope(1)).await.unwrap_err(), LinkError::Down);
        let mut broker = bench.accept().await;
        broker.challenge(&broker_key()).await;
        let (hash, body) = broker.hello().await;
        assert_eq!((body.mesh, body.counter, body.at), (MeshId([3; 32]), 1, NOW));
        assert_eq!((body.challenge, body.key), (Hash([9; 32]), member().public()));
        broker.ack(hash, Limits::default()).await;
        let LinkEvent::Up(Some(ack)) = bench.event().await else { panic!("not up") };
        assert_eq!(ack.name, "me");
        assert!(bench.link.is_up());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_member_is_told_and_comes_back_slowly() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let mut broker = bench.accept().await;
    broker.challenge(&broker_key()).await;
    broker.hello().await;
    broker.send(ErrorFrame::permanent(code::UNAUTHORIZED, "not a member")).await;
    broker.close(close::REFUSED, code::UNAUTHORIZED).await;
    let (reason, word, retry) = bench.down().await;
    assert!(reason.contains("not a member"), "{reason}");
    assert_eq!(word.as_deref(), Some(code::UNAUTHORIZED));
    assert!((CAP / 2..=CAP).contains(&retry.unwrap()), "{retry:?}");
    bench.welcome().await;
    assert!(matches!(bench.event().await, LinkEvent::Up(_)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_close_code_alone_counts_as_its_word() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let mut broker = bench.accept().await;
    broker.close(close::REFUSED, code::UNKNOWN_MESH).await;
    let (_, word, retry) = bench.down().await;
    assert_eq!(word.as_deref(), Some(code::UNKNOWN_MESH));
    assert!(retry.unwrap() >= CAP / 2);
}

#[tokio::test(start_paused = true)]
async fn the_link_gives_up_after_a_terminal_close_code() {
    for code in [close::KICKED, close::REVOKED, close::ALREADY_CONNECTED, close::FEATURE] {
        let (mut bench, mut broker) = Bench::up().await;
        broker.close(code, "").await;
        let (_, word, retry) = bench.down().await;
        assert_eq!((word, retry), (Some(format!("close_{code}")), None));
        assert!(bench.events.recv().await.is_none());
        assert_eq!(bench.link.send(envelope(1)).await.unwrap_err(), LinkError::Down);
        bench.link.close().await;
        assert_eq!(bench.link.send(envelope(1)).await.unwrap_err(), LinkError::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_a_terminal_close_code_behind_it_is_terminal() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let mut broker = bench.accept().await;
    broker.challenge(&broker_key()).await;
    broker.hello().await;
    broker.send(ErrorFrame::permanent(code::UNAUTHORIZED, "revoked")).await;
    broker.close(close::REVOKED, "").await;
    let (_, word, retry) = bench.down().await;
    assert_eq!((word.as_deref(), retry), (Some(code::UNAUTHORIZED), None));
}

#[tokio::test(start_paused = true)]
async fn a_stale_instance_is_renewed_at_once_and_then_with_patience() {
    let mut bench = Bench::new(Encoding::MsgPack);
    for (n, at_once) in [(0, true), (1, false)] {
        let mut broker = bench.accept().await;
        broker.challenge(&broker_key()).await;
        let (_, body) = broker.hello().await;
        assert_eq!(body.instance, InstanceId([n; 16]));
        broker.send(ErrorFrame::permanent(code::STALE_INSTANCE, "seen before")).await;
        broker.close(close::REFUSED, code::STALE_INSTANCE).await;
        let (_, word, retry) = bench.down().await;
        assert_eq!(word.as_deref(), Some(code::STALE_INSTANCE));
        assert_eq!(retry == Some(Duration::ZERO), at_once);
    }
    assert_eq!(bench.counter.renewals.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn another_brokers_key_gets_no_hello() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let mut broker = bench.accept().await;
    broker.challenge(&SecretKey::from_seed(&[66; 32])).await;
    let (_, word, retry) = bench.down().await;
    assert_eq!(word.as_deref(), Some(code::WRONG_BROKER));
    assert!(retry.unwrap() >= CAP / 2);
    assert!(!matches!(broker.ws.next().await, Some(Ok(Message::Binary(_)))), "a hello came");
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_counter_is_tried_again() {
    let mut bench = Bench::new(Encoding::MsgPack);
    *bench.counter.fail.lock().unwrap() = Some(CounterError("disk full".into()));
    let _broker = bench.accept().await;
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("disk full"), "{reason}");
    bench.welcome().await;
    assert!(matches!(bench.event().await, LinkEvent::Up(_)));
}

#[tokio::test(start_paused = true)]
async fn silence_at_each_stage_ends_at_its_deadline() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let start = Instant::now();
    let silent = bench.conns.recv().await.unwrap();
    let (reason, _, retry) = bench.down().await;
    assert!(reason.contains("did not answer within 10 s"), "{reason}");
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert!(retry.unwrap() <= Duration::from_secs(1));
    drop(silent);

    let mut broker = bench.accept().await;
    let start = Instant::now();
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("hello within 5 s"), "{reason}");
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    drop(broker);

    broker = bench.accept().await;
    broker.challenge(&broker_key()).await;
    broker.hello().await;
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("hello within 5 s"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_our_subprotocol_or_websocket_is_none() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let stream = bench.conns.recv().await.unwrap();
    let accepted = tokio_tungstenite::accept_async(stream).await;
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("no meshwire broker at http://broker.test/mw"), "{reason}");
    drop(accepted);
    let mut stream = bench.conns.recv().await.unwrap();
    let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, not_found).await.unwrap();
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("HTTP 404"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_backs_off_with_jitter_from_the_first_time() {
    let (net, conns) = TestNet::new(3);
    drop(conns);
    let counter = Arc::new(Counter::default());
    let config = config(Encoding::Json, counter.clone());
    let (_link, mut events) = RelayLink::open(net, config);
    for cap in backoff::CAPS {
        let Some(LinkEvent::Down { reason, retry_in, .. }) = events.recv().await else { panic!() };
        assert!(reason.starts_with("cannot connect to broker.test: "), "{reason}");
        let wait = retry_in.unwrap();
        assert!(wait < cap && wait > Duration::ZERO, "{wait:?} of {cap:?}");
    }
    assert_eq!(counter.count.load(Ordering::SeqCst), 0, "no hello, no counter");
}

#[tokio::test(start_paused = true)]
async fn the_brokers_time_to_come_back_is_honoured() {
    let (mut bench, mut broker) = Bench::up().await;
    broker.send(Goaway { reason: "restart".into(), retry_after_ms: 20_000 }).await;
    broker.close(close::GOING_AWAY, "restart").await;
    let (reason, _, retry) = bench.down().await;
    assert!(reason.contains("stopping"), "{reason}");
    assert!((20..=40).contains(&retry.unwrap().as_secs()), "{retry:?}");
    let mut broker = bench.accept().await;
    broker.send(ErrorFrame::transient(code::CAPACITY, "full", 60_000)).await;
    broker.close(close::TRY_LATER, code::CAPACITY).await;
    let (_, word, retry) = bench.down().await;
    assert_eq!(word.as_deref(), Some(code::CAPACITY));
    assert!((60..=90).contains(&retry.unwrap().as_secs()), "{retry:?}");
}

#[tokio::test]
async fn over_tls_the_hello_is_bound_to_the_connection() {
    let cert = certificate();
    let pin = spki_pin(cert.cert.der()).unwrap();
    let mut bench = Bench::with(Encoding::MsgPack, |c| {
        c.base = "https://broker.test/mw".parse().unwrap();
        c.pin = Some(pin);
    });
    let stream = bench.conns.recv().await.unwrap();
    let tls = acceptor(&cert, &cert).accept(stream).await.unwrap();
    let label = meshwire_signaling::frame::EXPORTER_LABEL;
    let exporter = tls.get_ref().1.export_keying_material([0; 32], label, None).unwrap();
    let mut broker = Broker::accept(Box::new(tls), Encoding::MsgPack).await;
    broker.challenge_bound(&broker_key(), true).await;
    let (hello, body) = broker.hello().await;
    assert_eq!(body.binding, Some(Hash(exporter)));
    broker.ack(hello, Limits::default()).await;
    assert!(matches!(bench.event().await, LinkEvent::Up(_)));
}

#[tokio::test]
async fn another_tls_key_is_said_clearly_and_tried_slowly() {
    let (pinned, other) = (certificate(), certificate());
    let pin = spki_pin(pinned.cert.der()).unwrap();
    let mut bench = Bench::with(Encoding::MsgPack, |c| {
        c.base = "https://broker.test/mw".parse().unwrap();
        c.pin = Some(pin);
    });
    let stream = bench.conns.recv().await.unwrap();
    assert!(acceptor(&other, &other).accept(stream).await.is_err());
    let (reason, _, retry) = bench.down().await;
    assert!(reason.contains("not the one that the invite pins"), "{reason}");
    assert!(retry.unwrap() >= CAP / 2);
}

#[tokio::test(start_paused = true)]
async fn a_pin_without_tls_never_connects() {
    let mut bench = Bench::with(Encoding::MsgPack, |c| c.pin = Some(Hash([1; 32])));
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("pins a TLS key"), "{reason}");
    assert!(bench.conns.is_empty());
}
