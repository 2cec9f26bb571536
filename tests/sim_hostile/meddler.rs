//! What stands between all nodes and their broker, and does to the steps of negotiations what it likes.

use std::io;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_netsim::simnet::SimHost;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Frame, P2pFrame};
use meshwire_transport::net::{BoxStream, Net as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::sync::broadcast;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

const PORT: u16 = 443;
const HEAD_END: &[u8] = b"\r\n\r\n";
/// How long steps are held back that are to come late, and in another order.
const LATE: Duration = Duration::from_millis(300);

/// What a step becomes on its way to its node.
type Rewrite = dyn FnMut(P2pFrame) -> Vec<P2pFrame> + Send;

struct Shared {
    rewrite: Mutex<Box<Rewrite>>,
    late: Mutex<bool>,
    /// What the broker sent to nodes, as it was.
    carried: Mutex<Vec<P2pFrame>>,
    /// What nodes sent to the broker.
    said: Mutex<Vec<P2pFrame>>,
    inject: broadcast::Sender<P2pFrame>,
}

/// The proxy; honest until it is told otherwise.
#[derive(Clone)]
pub(crate) struct Meddler(Arc<Shared>);

impl Meddler {
    /// Listens where nodes look for their broker, which is at `broker` itself.
    pub(crate) async fn start(host: SimHost, broker: &'static str) -> Self {
        let (inject, _) = broadcast::channel(1_024);
        let shared = Shared {
            rewrite: Mutex::new(Box::new(|step| vec![step])),
            late: Mutex::default(),
            carried: Mutex::default(),
            said: Mutex::default(),
            inject,
        };
        let meddler = Self(Arc::new(shared));
        let listener = host.tcp_bind((Ipv6Addr::UNSPECIFIED, PORT).into()).await.unwrap();
        let serving = meddler.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (host, meddler) = (host.clone(), serving.clone());
                tokio::spawn(async move { meddler.connection(&host, stream, broker).await });
            }
        });
        meddler
    }

    /// From now on steps become this.
    pub(crate) fn rewrite(&self, rewrite: impl FnMut(P2pFrame) -> Vec<P2pFrame> + Send + 'static) {
        *self.0.rewrite.lock().unwrap() = Box::new(rewrite);
    }

    /// From now on steps pass as they are.
    pub(crate) fn be_honest(&self) {
        self.rewrite(|step| vec![step]);
        self.late(false);
    }

    /// Whether steps come late, and the last ones first.
    pub(crate) fn late(&self, late: bool) {
        *self.0.late.lock().unwrap() = late;
    }

    /// Everything that the broker sent to nodes so far.
    pub(crate) fn carried(&self) -> Vec<P2pFrame> {
        self.0.carried.lock().unwrap().clone()
    }

    /// Everything that nodes said so far.
    pub(crate) fn said(&self) -> Vec<P2pFrame> {
        self.0.said.lock().unwrap().clone()
    }

    /// Brings a step to the node that it is for.
    pub(crate) fn inject(&self, step: P2pFrame) {
        self.0.inject.send(step).unwrap();
    }

    async fn connection(
        &self,
        host: &SimHost,
        mut node: BoxStream,
        broker: &str,
    ) -> io::Result<()> {
        let mut broker = host.tcp_connect(broker, PORT).await?;
        let (request, from_node) = read_head(&mut node).await?;
        broker.write_all(&request).await?;
        if request.starts_with(b"GET /v2/ws ") {
            let (answer, from_broker) = read_head(&mut broker).await?;
            node.write_all(&answer).await?;
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
            let node = WebSocketStream::from_partially_read(node, from_node, Role::Server, None);
            let broker =
                WebSocketStream::from_partially_read(broker, from_broker, Role::Client, None);
            let _ = self.relay(node.await, broker.await).await;
            return Ok(());
        }
        broker.write_all(&from_node).await?;
        copy_bidirectional(&mut node, &mut broker).await.map(drop)
    }

    async fn relay(
        &self,
        mut node: WebSocketStream<BoxStream>,
        mut broker: WebSocketStream<BoxStream>,
    ) -> Result<(), WsError> {
        let mut injected = self.0.inject.subscribe();
        let mut held: Vec<P2pFrame> = Vec::new();
        let mut due = Instant::now();
        loop {
            tokio::select! {
                biased;
                message = node.next() => {
                    let Some(message) = message.transpose()? else { return Ok(()) };
                    if let Some(step) = step_in(&message) {
                        self.0.said.lock().unwrap().push(step);
                    }
                    if !message.is_ping() && !message.is_pong() {
                        broker.send(message).await?;
                    }
                }
                message = broker.next() => {
                    let Some(message) = message.transpose()? else { return Ok(()) };
                    let Some(step) = step_in(&message) else {
                        if !message.is_ping() && !message.is_pong() {
                            node.send(message).await?;
                        }
                        continue;
                    };
                    self.0.carried.lock().unwrap().push(step.clone());
                    let steps = (*self.0.rewrite.lock().unwrap())(step);
                    if *self.0.late.lock().unwrap() {
                        if held.is_empty() {
                            due = Instant::now() + LATE;
                        }
                        held.extend(steps);
                        continue;
                    }
                    for step in steps {
                        node.send(message_of(step)).await?;
                    }
                }
                Ok(step) = injected.recv() => node.send(message_of(step)).await?,
                () = sleep_until(due), if !held.is_empty() => {
                    for step in held.drain(..).rev() {
                        node.send(message_of(step)).await?;
                    }
                }
            }
        }
    }
}

fn message_of(step: P2pFrame) -> Message {
    Message::binary(step.into_frame(None).encode(Encoding::MsgPack))
}

fn step_in(message: &Message) -> Option<P2pFrame> {
    let Message::Binary(bytes) = message else { return None };
    match Frame::decode(Encoding::MsgPack, bytes).ok()? {
        Frame::P2pOffer(f) => Some(f.into()),
        Frame::P2pAnswer(f) => Some(f.into()),
        Frame::P2pCandidate(f) => Some(f.into()),
        Frame::P2pBye(f) => Some(f.into()),
        _ => None,
    }
}

/// Reads up to the end of an HTTP head; the head, and what came behind it.
async fn read_head(stream: &mut BoxStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::with_capacity(1_024);
    loop {
        if let Some(at) = head.windows(HEAD_END.len()).position(|w| w == HEAD_END) {
            let rest = head.split_off(at + HEAD_END.len());
            return Ok((head, rest));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
