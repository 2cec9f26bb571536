//! What stands between nodes and broker.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::Frame;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::client::{message, upgrade};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To the node.
    Node,
    /// To the broker.
    Broker,
}

/// What becomes of a frame that goes to a side: these frames, to these sides.
type Rewrite = dyn FnMut(Side, Frame) -> Vec<(Side, Frame)> + Send;

/// Rewrites the frames of every connection through it; plain HTTP passes. Ends when dropped.
pub struct Proxy {
    /// Its address, as a broker's.
    pub base: String,
    inject: broadcast::Sender<(Side, Frame)>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(
        broker: SocketAddr,
        rewrite: impl FnMut(Side, Frame) -> Vec<(Side, Frame)> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (inject, _) = broadcast::channel(64);
        let rewrite: Arc<Mutex<Rewrite>> = Arc::new(Mutex::new(rewrite));
        let injected = inject.clone();
        let task = tokio::spawn(async move {
            // Dropped together: no connection outlives the proxy.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (rewrite, injected) = (rewrite.clone(), injected.subscribe());
                connections.spawn(serve(stream, broker, rewrite, injected));
            }
        });
        Self { base, inject, task }
    }

    /// Sends a frame of our own on every connection.
    pub fn inject(&self, to: Side, frame: impl Into<Frame>) {
        self.inject.send((to, frame.into())).unwrap();
    }
}

async fn serve(
    mut node: TcpStream,
    broker: SocketAddr,
    rewrite: Arc<Mutex<Rewrite>>,
    mut injected: broadcast::Receiver<(Side, Frame)>,
) {
    let mut start = [0; 11];
    while node.peek(&mut start).await.is_ok_and(|n| (1..start.len()).contains(&n)) {}
    let mut up = TcpStream::connect(broker).await.unwrap();
    if start != *b"GET /v2/ws " {
        let _ = copy_bidirectional(&mut node, &mut up).await;
        return;
    }
    let mut encoding = Encoding::MsgPack;
    #[allow(clippy::result_large_err)] // tungstenite's type
    let choose = |request: &Request, mut answer: Response| {
        let asked = request.headers()["Sec-WebSocket-Protocol"].clone();
        if asked == Encoding::Json.subprotocol() {
            encoding = Encoding::Json;
        }
        answer.headers_mut().insert("Sec-WebSocket-Protocol", asked);
        Ok::<_, ErrorResponse>(answer)
    };
    let mut node = accept_hdr_async(node, choose).await.unwrap();
    let base = format!("http://{broker}").parse().unwrap();
    let mut up = upgrade(Box::new(up), &base, encoding).await;
    loop {
        let (side, frames) = tokio::select! {
            msg = node.next() => (Side::Broker, msg),
            msg = up.next() => (Side::Node, msg),
            Ok((to, frame)) = injected.recv() => {
                let msg = message(encoding, &frame);
                let _ = if to == Side::Node { node.send(msg).await } else { up.send(msg).await };
                continue;
            }
        };
        let bytes = match frames {
            Some(Ok(Message::Binary(b))) => b.to_vec(),
            Some(Ok(Message::Text(t))) => t.as_bytes().to_vec(),
            Some(Ok(Message::Close(close))) => {
                let msg = Message::Close(close);
                let _ = if side == Side::Node { node.send(msg).await } else { up.send(msg).await };
                continue;
            }
            Some(Ok(_)) => continue,
            None | Some(Err(_)) => return,
        };
        let frame = Frame::decode(encoding, &bytes).unwrap();
        let out = (*rewrite.lock().unwrap())(side, frame);
        for (to, frame) in out {
            let msg = message(encoding, &frame);
            let _ = if to == Side::Node { node.send(msg).await } else { up.send(msg).await };
        }
    }
}

/// Passes bytes until it is told to cut all connections. Ends when dropped.
pub struct Cutter {
    /// Its address, as a broker's.
    pub base: String,
    open: watch::Sender<(u64, bool)>,
    task: JoinHandle<()>,
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cutter {
    pub async fn start(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (open, state) = watch::channel((0, true));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut node, _) = listener.accept().await.unwrap();
                let mut state = state.clone();
                let (round, open) = *state.borrow();
                if !open {
                    continue;
                }
                connections.spawn(async move {
                    let mut up = TcpStream::connect(broker).await.unwrap();
                    let _ = node.set_nodelay(true).and(up.set_nodelay(true));
                    tokio::select! {
                        _ = copy_bidirectional(&mut node, &mut up) => {}
                        _ = state.wait_for(|(now, _)| *now != round) => {}
                    }
                });
            }
        });
        Self { base, open, task }
    }

    /// Cuts every connection; new ones are let through or not.
    pub fn cut(&self, open: bool) {
        self.open.send_modify(|(round, state)| (*round, *state) = (*round + 1, open));
    }
}
