//! A proxy between one node and the broker that misbehaves on purpose, or is a [`Gate`].
//!
//! HTTP passes as it is. On the WebSocket the upgrade passes too; then frames are read, changed, held back or
//! lost, and written again, on both sides.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::Frame;
use meshwire_signaling::invite::InviteLink;
use meshwire_transport::net::{BoxStream, Listener, Net};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::Sabotage;
use super::gate::{Gate, Held};

/// Longest head of a request or answer.
const MAX_HEAD: usize = 16 * 1024;
/// What ends a head (RFC 9112 section 2.1).
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What the proxy does to frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Flips a bit in every ciphertext towards the node.
    FlipCiphertext,
    /// Loses every ack from the node.
    DropAcks,
}

/// What a proxy is there for.
#[derive(Clone)]
pub(super) enum Part {
    /// It misbehaves.
    Fault(Fault),
    /// It has direct paths come late.
    Gate(Arc<Gate>),
}

impl Sabotage {
    /// The proxy's part in it.
    pub(super) fn fault(self) -> Option<Fault> {
        match self {
            Self::FlipCiphertext => Some(Fault::FlipCiphertext),
            Self::DropAcks => Some(Fault::DropAcks),
            Self::NoRestart => None,
        }
    }
}

/// The same invite by another address, which is not part of what is signed.
pub(super) fn through(link: &str, proxy: SocketAddr) -> anyhow::Result<String> {
    let link: InviteLink = link.parse().context("the invite")?;
    Ok(InviteLink { base: format!("http://{proxy}"), ..link }.to_string())
}

/// A running proxy; it and its connections end when dropped.
pub(super) struct Proxy {
    addr: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// A proxy in front of `broker`.
    pub(super) async fn start(
        net: Arc<dyn Net>,
        broker: SocketAddr,
        part: Part,
    ) -> io::Result<Self> {
        let listener = net.tcp_bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let addr = listener.local_addr()?;
        Ok(Self { addr, serving: tokio::spawn(serve(net, listener, broker, part)) })
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn serve(net: Arc<dyn Net>, listener: Box<dyn Listener>, broker: SocketAddr, part: Part) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (net, part) = (net.clone(), part.clone());
        connections.spawn(async move {
            if let Err(e) = Box::pin(connection(net.as_ref(), stream, broker, &part)).await {
                tracing::debug!(error = %e, "a connection through the proxy ended");
            }
        });
    }
}

async fn connection(
    net: &dyn Net,
    mut node: BoxStream,
    broker: SocketAddr,
    part: &Part,
) -> anyhow::Result<()> {
    let mut broker = net.tcp_connect(&broker.ip().to_string(), broker.port()).await?;
    let (request, from_node) = read_head(&mut node).await?;
    broker.write_all(&request).await?;
    if is_websocket(&request) {
        let (answer, from_broker) = read_head(&mut broker).await?;
        node.write_all(&answer).await?;
        if is_switching(&answer) {
            let node = WebSocketStream::from_partially_read(node, from_node, Role::Server, None);
            let broker =
                WebSocketStream::from_partially_read(broker, from_broker, Role::Client, None);
            return Ok(relay(node.await, broker.await, part).await?);
        }
        node.write_all(&from_broker).await?;
    }
    broker.write_all(&from_node).await?;
    copy_bidirectional(&mut node, &mut broker).await?;
    Ok(())
}

/// Reads up to the end of an HTTP head; the head, and what came behind it.
async fn read_head(stream: &mut BoxStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::with_capacity(1_024);
    loop {
        if let Some(at) = head.windows(HEAD_END.len()).position(|w| w == HEAD_END) {
            let rest = head.split_off(at + HEAD_END.len());
            return Ok((head, rest));
        }
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP head"));
        }
    }
}

fn is_websocket(request: &[u8]) -> bool {
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    line.starts_with(b"GET ") && line.windows(7).any(|w| w == b"/v2/ws ")
}

fn is_switching(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 101 ")
}

/// Carries frames both ways until either side ends.
async fn relay(
    node: WebSocketStream<BoxStream>,
    broker: WebSocketStream<BoxStream>,
    part: &Part,
) -> Result<(), WsError> {
    let (mut to_node, mut from_node) = node.split();
    let (mut to_broker, mut from_broker) = broker.split();
    let down = async {
        let mut held = Held::new();
        while let Some(message) = from_broker.next().await {
            match message? {
                Message::Binary(bytes) => {
                    for bytes in part.towards_node(&mut held, bytes) {
                        to_node.send(Message::binary(bytes)).await?;
                    }
                }
                other => pass(&mut to_node, other).await?,
            }
        }
        Ok(())
    };
    let up = async {
        while let Some(message) = from_node.next().await {
            match message? {
                Message::Binary(bytes) if part.is_lost(&bytes) => {}
                other => pass(&mut to_broker, other).await?,
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
    }
}

/// Passes a message on, except for pings and pongs: each side answers those itself.
async fn pass<S>(to: &mut S, message: Message) -> Result<(), WsError>
where
    S: futures_util::Sink<Message, Error = WsError> + Unpin,
{
    if message.is_ping() || message.is_pong() { Ok(()) } else { to.send(message).await }
}

impl Part {
    /// What goes on to the node, in its order, now that `bytes` have come.
    fn towards_node(&self, held: &mut Held, bytes: Bytes) -> Vec<Bytes> {
        match self {
            Self::Fault(fault) => vec![fault.towards_node(bytes)],
            Self::Gate(gate) => gate.pass(held, bytes),
        }
    }

    fn is_lost(&self, bytes: &[u8]) -> bool {
        matches!(self, Self::Fault(fault) if fault.is_lost(bytes))
    }
}

impl Fault {
    fn towards_node(self, bytes: Bytes) -> Bytes {
        match Frame::decode(Encoding::MsgPack, &bytes) {
            Ok(Frame::Message(mut frame)) if self == Self::FlipCiphertext => {
                if let Some(byte) = frame.envelope.body.0.last_mut() {
                    *byte ^= 1;
                }
                Frame::from(frame).encode(Encoding::MsgPack).into()
            }
            _ => bytes,
        }
    }

    fn is_lost(self, bytes: &[u8]) -> bool {
        self == Self::DropAcks
            && matches!(Frame::decode(Encoding::MsgPack, bytes), Ok(Frame::ClientAck(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::frame::Drained;
    use meshwire_signaling::{MeshId, SecretKey};

    #[test]
    fn a_rewritten_link_is_the_same_invite() {
        let link = InviteLink {
            base: "http://127.0.0.1:7900".into(),
            secret: SecretKey::from_seed(&[1; 32]),
            mesh: MeshId([2; 32]),
            broker: SecretKey::from_seed(&[3; 32]).public(),
            pin: None,
        };
        let proxy = "127.0.0.1:4711".parse().unwrap();
        let text = through(&link.to_string(), proxy).unwrap();
        assert!(text.starts_with("http://127.0.0.1:4711/i/"));
        let again: InviteLink = text.parse().unwrap();
        assert_eq!((again.mesh, again.broker), (link.mesh, link.broker));
        assert_eq!(again.secret.public(), link.secret.public());
        assert!(through("http://x/", proxy).is_err());
    }

    #[test]
    fn only_the_websocket_is_looked_into() {
        assert!(is_websocket(b"GET /v2/ws HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(is_websocket(b"GET /prefix/v2/ws HTTP/1.1\r\n\r\n"));
        assert!(!is_websocket(
            b"POST /v2/invites/x/claim HTTP/1.1\r\nReferer: GET /v2/ws \r\n\r\n"
        ));
        assert!(is_switching(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"));
        assert!(!is_switching(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    }

    #[test]
    fn other_frames_pass_as_they_are() {
        let bytes = Bytes::from(Frame::from(Drained {}).encode(Encoding::MsgPack));
        for fault in [Fault::FlipCiphertext, Fault::DropAcks] {
            assert_eq!(fault.towards_node(bytes.clone()), bytes);
            assert!(!fault.is_lost(&bytes));
            assert_eq!(fault.towards_node(Bytes::from_static(b"\xc1")), &b"\xc1"[..]);
        }
    }
}
