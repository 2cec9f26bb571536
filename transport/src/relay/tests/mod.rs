//! The driver against a broker that each test plays by hand, over in-memory pipes and paused time.

mod connecting;
mod running;
mod streams;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::Signature;
use meshwire_signaling::frame::{
    Accepted, Challenge, Hello, HelloAck, HelloAckBody, HelloBody, Limits, MessageState, close,
};
use meshwire_signaling::invite::Role;
use meshwire_signaling::sign::domains;
use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::*;
use crate::link::{Handed, Inbound};
use crate::net::BoxStream;
use crate::testing::{NOW, TestNet};

fn broker_key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn member() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

/// Counts hellos per instance and renewals.
#[derive(Default)]
struct Counter {
    count: AtomicU64,
    renewals: AtomicU64,
    fail: Mutex<Option<CounterError>>,
}

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        if let Some(e) = self.fail.lock().unwrap().take() {
            return Err(e);
        }
        let instance = u8::try_from(self.renewals.load(Ordering::SeqCst)).unwrap();
        Ok((InstanceId([instance; 16]), self.count.fetch_add(1, Ordering::SeqCst) + 1))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn config(encoding: Encoding, counter: Arc<Counter>) -> RelayConfig {
    RelayConfig {
        base: "http://broker.test/mw".parse().unwrap(),
        pin: None,
        mesh: MeshId([3; 32]),
        broker: broker_key().public(),
        identity: member(),
        encoding,
        features: Features::new(),
        requires: vec![],
        agent: "test/1".into(),
        counter,
    }
}

struct Bench {
    link: Arc<RelayLink>,
    events: mpsc::Receiver<LinkEvent>,
    conns: mpsc::Receiver<DuplexStream>,
    counter: Arc<Counter>,
    encoding: Encoding,
}

impl Bench {
    fn new(encoding: Encoding) -> Self {
        Self::with(encoding, |_| {})
    }

    fn with(encoding: Encoding, change: impl Fn(&mut RelayConfig)) -> Self {
        let (net, conns) = TestNet::new(7);
        let counter = Arc::new(Counter::default());
        let mut config = config(encoding, counter.clone());
        change(&mut config);
        let (link, events) = RelayLink::open(net, config);
        Self { link, events, conns, counter, encoding }
    }

    /// A link that is up, and the broker's end of it.
    async fn up() -> (Self, Broker) {
        let mut bench = Self::new(Encoding::MsgPack);
        let broker = bench.welcome().await;
        assert!(matches!(bench.event().await, LinkEvent::Up(Some(_))));
        (bench, broker)
    }

    async fn accept(&mut self) -> Broker {
        Broker::accept(Box::new(self.conns.recv().await.unwrap()), self.encoding).await
    }

    async fn welcome(&mut self) -> Broker {
        let mut broker = self.accept().await;
        broker.challenge(&broker_key()).await;
        let (hello, _) = broker.hello().await;
        broker.ack(hello, Limits::default()).await;
        broker
    }

    async fn event(&mut self) -> LinkEvent {
        self.events.recv().await.unwrap()
    }

    async fn down(&mut self) -> (String, Option<String>, Option<Duration>) {
        match self.event().await {
            LinkEvent::Down { reason, code, retry_in } => (reason, code, retry_in),
            other => panic!("{other:?}"),
        }
    }
}

struct Broker {
    ws: WebSocketStream<BoxStream>,
    encoding: Encoding,
}

impl Broker {
    #[allow(clippy::result_large_err)] // the handshake callback's own type
    async fn accept(stream: BoxStream, encoding: Encoding) -> Self {
        let echo = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/mw/v2/ws");
            let asked = request.headers()["sec-websocket-protocol"].clone();
            assert_eq!(asked, encoding.subprotocol());
            response.headers_mut().insert("sec-websocket-protocol", asked);
            Ok(response)
        };
        Self { ws: accept_hdr_async(stream, echo).await.unwrap(), encoding }
    }

    async fn send(&mut self, frame: impl Into<Frame>) {
        self.ws.send(wire::encode(self.encoding, &frame.into())).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        match wire::next(&mut self.ws, self.encoding).await {
            wire::Incoming::Frame(frame) => *frame,
            other => panic!("{other:?}"),
        }
    }

    async fn challenge(&mut self, key: &SecretKey) {
        self.challenge_bound(key, false).await;
    }

    async fn challenge_bound(&mut self, key: &SecretKey, binding: bool) {
        let broker = key.public();
        self.send(Challenge { nonce: Hash([9; 32]), at: NOW, broker, binding }).await;
    }

    /// The hello's hash and body.
    async fn hello(&mut self) -> (Hash, HelloBody) {
        let Frame::Hello(Hello { hello, .. }) = self.next().await else { panic!("no hello") };
        let body = hello.open(&member().public(), domains::HELLO).unwrap();
        (hello.hash(domains::HELLO), body)
    }

    async fn ack(&mut self, hello: Hash, limits: Limits) {
        self.ack_with(hello, limits, BTreeMap::new()).await;
    }

    async fn ack_with(&mut self, hello: Hash, limits: Limits, features: Features) {
        let body = HelloAckBody {
            hello,
            broker: broker_key().public(),
            at: NOW,
            name: "me".into(),
            role: Role::Member,
            limits,
            features,
            requires: vec![],
            lease: None,
            agent: "fake/1".into(),
        };
        let ack = Signed::new(&broker_key(), domains::HELLO_ACK, &body);
        self.send(HelloAck { ack }).await;
    }

    async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        self.ws.close(Some(frame)).await.unwrap();
    }

    /// The next frame, which is a send: its number and the envelope's first header byte.
    async fn sent(&mut self) -> (u64, u8) {
        match self.next().await {
            Frame::Send(s) => (s.req, s.envelope.header.0[0]),
            other => panic!("{other:?}"),
        }
    }
}

/// An envelope that is told apart by its header's first byte; links do not look inside.
fn envelope(n: u8) -> Envelope {
    Envelope {
        v: 2,
        header: vec![n].into(),
        body: vec![0; 100].into(),
        sig: Signature([0; 64]),
        proof: None,
        wraps: vec![],
    }
}

fn accepted(req: u64) -> Accepted {
    let id = EnvelopeId::new(NOW, 1);
    Accepted { req, id, state: MessageState::Relayed, duplicate: false, full: Vec::new() }
}
