//! TLS: the exporter in the hello, whoever ends TLS in between, pins.

use std::net::SocketAddr;
use std::sync::Arc;

use meshwire::{Node, api};
use meshwire_signaling::Hash;
use meshwire_signaling::frame::{HelloBody, MessageState, close, code};
use meshwire_signaling::invite::InviteLink;
use meshwire_transport::dial::{DialError, dial, tls_for};
use meshwire_transport::link::LinkEvent;
use meshwire_transport::net::OsNet;
use meshwire_transport::tls::{TlsError, client_config, wrap};
use tokio::net::{TcpListener, TcpStream};

use super::proto::{
    self, BOTH, Certificate, Opening, World, inbox, refusal, relay_config, send, stop,
};
use super::{MSGPACK, twisted};

/// A world whose broker ends TLS itself.
async fn tls_world() -> (World, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(dir.path(), "broker");
    let world = World::with(|c| c.tls = certificate.tls()).await;
    assert_eq!(world.pin, Some(certificate.pin));
    (world, dir)
}

#[tokio::test]
async fn under_tls_a_hello_carries_this_connections_exporter() {
    let (world, _dir) = tls_world().await;
    for encoding in BOTH {
        let opening = world.dial(encoding).await;
        assert!(opening.challenge.binding);
        let good = opening.body(&world.mesh, &world.owner);
        assert_eq!(good.binding, opening.exporter);
        assert!(good.binding.is_some());
        opening.say(good.sign(&world.owner.key), None).await.unwrap().peers().await;
        let elsewhere = world.dial(encoding).await.exporter;
        for binding in [None, Some(Hash([0; 32])), elsewhere] {
            let refused = twisted(&world, encoding, |b| b.binding = binding).await;
            assert_eq!(refused.codes(), (code::BAD_BINDING, close::REFUSED));
        }
    }
    let config = relay_config(&world, &world.owner, MSGPACK, world.broker.url(), world.pin);
    let (link, mut events) = proto::relay(config);
    let first = proto::within("up", events.recv()).await;
    assert!(matches!(first, Some(LinkEvent::Up(_))), "{first:?}");
    drop(link);
}

/// Ends TLS with a certificate of its own and speaks TLS to the broker. Returns its address.
async fn terminating(broker: SocketAddr, pin: Option<Hash>, own: &Certificate) -> String {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let chain = vec![CertificateDer::from_pem_file(&own.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let to_broker = client_config(pin).unwrap();
    #[allow(clippy::disallowed_methods)] // a test's own proxy
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, to_broker) = (acceptor.clone(), to_broker.clone());
            tokio::spawn(async move {
                let mut node = acceptor.accept(stream).await.unwrap();
                #[allow(clippy::disallowed_methods)]
                let up = TcpStream::connect(broker).await.unwrap();
                let (mut up, _) = wrap(Box::new(up), to_broker, "127.0.0.1").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut node, &mut up).await;
            });
        }
    });
    base
}

#[tokio::test]
async fn whoever_ends_tls_in_between_is_noticed_by_the_broker() {
    let (world, dir) = tls_world().await;
    let own = Certificate::make(dir.path(), "middle");
    let base = terminating(world.broker.addr(), world.pin, &own).await;
    for encoding in BOTH {
        // A client that trusts the one in between, say by a certificate authority's mistake.
        let opening = Opening::dial(&base.parse().unwrap(), Some(own.pin), encoding).await;
        assert!(opening.challenge.binding);
        let hello = opening.body(&world.mesh, &world.owner).sign(&world.owner.key);
        let refused = opening.say(hello, None).await.unwrap_err();
        assert_eq!(refused.codes(), (code::BAD_BINDING, close::REFUSED));
    }
    let config = relay_config(&world, &world.owner, MSGPACK, &base, Some(own.pin));
    assert_eq!(refusal(config).await.1.as_deref(), Some(code::BAD_BINDING));
    // With the invite's pin there is no connection at all.
    let config = relay_config(&world, &world.owner, MSGPACK, &base, world.pin);
    let (reason, code) = refusal(config).await;
    assert!(reason.contains("not the one that the invite pins"), "{reason}");
    assert_eq!(code, None);
}

#[tokio::test]
async fn a_challenge_that_hides_tls_from_the_node_is_noticed_by_the_broker() {
    // `binding: false` makes the node leave the exporter away; the broker wants it.
    let (world, _dir) = tls_world().await;
    let opening = world.dial(MSGPACK).await;
    let body = HelloBody { binding: None, ..opening.body(&world.mesh, &world.owner) };
    let refused = opening.say(body.sign(&world.owner.key), None).await.unwrap_err();
    assert_eq!(refused.codes(), (code::BAD_BINDING, close::REFUSED));
}

#[tokio::test]
async fn a_wrong_pin_is_no_connection() {
    let (world, dir) = tls_world().await;
    let other = Certificate::make(dir.path(), "other").pin;
    let config = tls_for(&world.base, Some(other)).unwrap();
    let failed = dial(&OsNet, &world.base, config).await.unwrap_err();
    assert!(matches!(failed, DialError::Tls(TlsError::PinMismatch(p)) if p.expected == other));
    let node = Node::at(&world.home("bob")).await.unwrap();
    let link = InviteLink { pin: Some(other), ..world.link.clone() };
    let join = api::Join { invite: link.to_string(), member_name: "bob".into() };
    let refused = node.join(join).await.unwrap_err();
    assert_eq!((refused.kind, refused.code.as_str()), (api::ErrorKind::Denied, "tls"));
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_talk_by_a_pinned_invite_to_a_self_signed_broker() {
    // Not bound to loopback: the broker makes its certificate itself.
    let world = World::with(|c| c.listen = ([0, 0, 0, 0], 0).into()).await;
    assert!(world.broker.url().starts_with("https://"), "{}", world.broker.url());
    assert!(world.pin.is_some());
    assert_eq!(world.broker.admin_token().unwrap().pin, world.pin);
    let bob = world.node("bob").await;
    let carol = world.node("carol").await;
    let sent = send(&bob, "carol", "over TLS", Some(api::WaitFor::Delivered), None).await;
    assert_eq!(sent.state, MessageState::Delivered);
    assert_eq!(inbox(&carol, 1).await[0].message, "over TLS");
    stop(bob).await;
    stop(carol).await;
}
