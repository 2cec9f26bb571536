//! Raw connections.

use std::collections::VecDeque;

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{
    Accepted, Batch, Bind, Bye, Challenge, ClientAck, Disconnect, Disconnected, ErrorFrame,
    Features, Frame, Hello, HelloAckBody, HelloBody, InviteCreate, ListPeers, MessageFrame,
    PeerInfo, Peers, Presence, PresenceEvent, ReceiptAck, ReceiptFrame, Send, SetGroup,
    SetPresence, Unbind, Unbound,
};
use meshwire_signaling::invite::Capability;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Envelope, EnvelopeId, Hash, MeshId, PublicKey, SecretKey};
use meshwire_transport::dial::{dial, tls_for};
use meshwire_transport::net::{BoxStream, OsNet, random};
use meshwire_transport::url::BaseUrl;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{HOUR_MS, Member, World, now, within};

type Ws = WebSocketStream<BoxStream>;

/// A connection that has been challenged.
pub struct Opening {
    pub ws: Ws,
    pub encoding: Encoding,
    pub challenge: Challenge,
    pub exporter: Option<Hash>,
}

/// How a hello was refused.
#[derive(Debug)]
pub struct Refused {
    pub error: ErrorFrame,
    pub close: u16,
    pub reason: String,
}

impl Refused {
    /// The error's code and the close code; the close's reason repeats the former.
    pub fn codes(&self) -> (&str, u16) {
        assert_eq!(self.reason, self.error.code, "the close names the code");
        (&self.error.code, self.close)
    }
}

/// A frame as a WebSocket message.
pub(super) fn message(encoding: Encoding, frame: &Frame) -> Message {
    bytes(encoding, frame.encode(encoding))
}

/// Any bytes as a WebSocket message of the encoding's kind.
fn bytes(encoding: Encoding, bytes: Vec<u8>) -> Message {
    match encoding {
        Encoding::MsgPack => Message::binary(bytes),
        Encoding::Json => Message::text(String::from_utf8(bytes).unwrap()),
    }
}

/// Opens a WebSocket over a stream.
pub(super) async fn upgrade(stream: BoxStream, base: &BaseUrl, encoding: Encoding) -> Ws {
    let url = format!("ws://{}{}", base.authority(), base.target("/v2/ws"));
    let mut request = url.into_client_request().unwrap();
    let protocol = encoding.subprotocol().parse().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let (ws, answer) = client_async(request, stream).await.unwrap();
    let chosen = answer.headers().get("Sec-WebSocket-Protocol").unwrap();
    assert_eq!(chosen, encoding.subprotocol());
    ws
}

/// What a stream brings next, control messages aside.
async fn read(ws: &mut Ws, encoding: Encoding) -> Result<Frame, (u16, String)> {
    // The broker's pings come and go within one wait: they are no frames.
    let msg = within("a frame", async {
        loop {
            match ws.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                msg => return msg,
            }
        }
    });
    match (msg.await, encoding) {
        (Some(Ok(Message::Binary(b))), Encoding::MsgPack) => {
            Ok(Frame::decode(encoding, &b).unwrap())
        }
        (Some(Ok(Message::Text(t))), Encoding::Json) => {
            Ok(Frame::decode(encoding, t.as_bytes()).unwrap())
        }
        (Some(Ok(Message::Close(close))), _) => {
            let close = close.unwrap();
            Err((close.code.into(), close.reason.to_string()))
        }
        (None | Some(Err(_)), _) => Err((0, "cut".into())),
        (Some(Ok(other)), _) => panic!("the broker answers in kind, not with {other:?}"),
    }
}

impl Opening {
    pub async fn dial(base: &BaseUrl, pin: Option<Hash>, encoding: Encoding) -> Self {
        let dialed = dial(&OsNet, base, tls_for(base, pin).unwrap()).await.unwrap();
        let mut ws = upgrade(dialed.stream, base, encoding).await;
        let Ok(Frame::Challenge(challenge)) = read(&mut ws, encoding).await else {
            panic!("the broker speaks first, with a challenge");
        };
        Self { ws, encoding, challenge, exporter: dialed.exporter }
    }

    /// A hello body that this connection's broker will accept.
    pub fn body(&self, mesh: &MeshId, member: &Member) -> HelloBody {
        HelloBody {
            mesh: *mesh,
            key: member.public(),
            kind: IdentityKind::Member,
            member: member.public(),
            instance: member.instance,
            counter: member.next_counter(),
            features: Features::new(),
            requires: vec!["dedupe".into()],
            client_nonce: Hash(random(&OsNet)),
            challenge: self.challenge.nonce,
            at: now(),
            broker: self.challenge.broker,
            binding: self.exporter.filter(|_| self.challenge.binding),
            resume: None,
            agent: "test/1".into(),
        }
    }

    /// Sends bytes that are no frame.
    pub async fn raw(&mut self, message: Message) {
        self.ws.send(message).await.unwrap();
    }

    /// Says hello and waits for the answer.
    pub async fn say(
        mut self,
        hello: Signed,
        attestation: Option<Signed>,
    ) -> Result<Client, Refused> {
        let hash = hello.hash(domains::HELLO);
        let frame = Hello { hello, attestation };
        self.raw(message(self.encoding, &frame.into())).await;
        self.answer(hash).await
    }

    /// The answer to a hello with this hash.
    pub async fn answer(mut self, hello: Hash) -> Result<Client, Refused> {
        match read(&mut self.ws, self.encoding).await {
            Ok(Frame::HelloAck(ack)) => {
                let ack: HelloAckBody =
                    ack.ack.open(&self.challenge.broker, domains::HELLO_ACK).unwrap();
                assert_eq!(ack.hello, hello, "the ack is for this hello");
                let (ws, encoding) = (self.ws, self.encoding);
                Ok(Client { ws, encoding, hello, ack, backlog: VecDeque::new(), req: 1_000_000 })
            }
            Ok(Frame::Error(error)) => {
                let Err((close, reason)) = read(&mut self.ws, self.encoding).await else {
                    panic!("a refused hello is closed");
                };
                Err(Refused { error, close, reason })
            }
            other => panic!("neither ack nor error: {other:?}"),
        }
    }
}

/// A connection that has said hello.
pub struct Client {
    ws: Ws,
    pub encoding: Encoding,
    pub hello: Hash,
    pub ack: HelloAckBody,
    backlog: VecDeque<Frame>,
    req: u64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.ack.name)
    }
}

impl Client {
    pub async fn send(&mut self, frame: impl Into<Frame>) {
        self.ws.send(message(self.encoding, &frame.into())).await.unwrap();
    }

    /// Sends bytes that are no frame.
    pub async fn raw(&mut self, message: Message) -> Result<(), WsError> {
        self.ws.send(message).await
    }

    /// As [`Self::raw`], as a message of this connection's kind.
    pub async fn bytes(&mut self, content: impl Into<Vec<u8>>) -> Result<(), WsError> {
        self.ws.send(bytes(self.encoding, content.into())).await
    }

    /// Writes one binary frame of so many bytes, without ever holding them, or until the broker
    /// has had enough.
    pub async fn pour(&mut self, mut left: u64) {
        const CHUNK: usize = 65_536;
        let stream = self.ws.get_mut();
        // RFC 6455 section 5.2: final, binary, masked by zeros, 64 bits of length.
        let head = [&[0x82, 0xff][..], &left.to_be_bytes(), &[0; 4]].concat();
        let mut wrote = stream.write_all(&head).await;
        while left > 0 && wrote.is_ok() {
            let n = left.min(CHUNK as u64);
            wrote = stream.write_all(&[0; CHUNK][..usize::try_from(n).unwrap()]).await;
            left -= n;
        }
        let _ = stream.flush().await;
    }

    /// The next frame that comes, in order of arrival.
    pub async fn next(&mut self) -> Result<Frame, (u16, String)> {
        match self.backlog.pop_front() {
            Some(frame) => Ok(frame),
            None => read(&mut self.ws, self.encoding).await,
        }
    }

    /// The next frame that `pick` takes; the others stay for later.
    pub async fn find<T>(&mut self, pick: impl Fn(&Frame) -> Option<T>) -> T {
        if let Some(i) = self.backlog.iter().position(|f| pick(f).is_some()) {
            return pick(&self.backlog.remove(i).unwrap()).unwrap();
        }
        loop {
            let frame = match read(&mut self.ws, self.encoding).await {
                Ok(frame) => frame,
                Err(close) => panic!("closed while waiting: {close:?}"),
            };
            match pick(&frame) {
                Some(found) => return found,
                None => self.backlog.push_back(frame),
            }
        }
    }

    /// Frames that came and nobody has asked for.
    pub fn waiting(&self) -> &VecDeque<Frame> {
        &self.backlog
    }

    pub fn forget(&mut self) {
        self.backlog.clear();
    }

    /// How the broker closed; frames before it are dropped.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Err(close) = read(&mut self.ws, self.encoding).await {
                return close;
            }
        }
    }

    /// Makes a request and waits for its answer.
    pub async fn ask(&mut self, make: impl FnOnce(u64) -> Frame) -> Result<Frame, ErrorFrame> {
        self.req += 1;
        let req = self.req;
        self.send(make(req)).await;
        self.answer(req).await
    }

    /// The answer to a request.
    pub async fn answer(&mut self, req: u64) -> Result<Frame, ErrorFrame> {
        let answer = self.find(|f| (req_of(f) == Some(req)).then(|| f.clone())).await;
        match answer {
            Frame::Error(e) => Err(e),
            other => Ok(other),
        }
    }

    /// Hands an envelope in.
    pub async fn hand(&mut self, envelope: Envelope) -> Result<Accepted, ErrorFrame> {
        match self.ask(|req| Send { req, envelope, batch: None }.into()).await? {
            Frame::Accepted(accepted) => Ok(accepted),
            other => panic!("not an answer to send: {other:?}"),
        }
    }

    /// Hands in a group send, or a batch of one.
    pub async fn post(
        &mut self,
        envelope: Envelope,
        batch: Option<Batch>,
    ) -> Result<Frame, ErrorFrame> {
        self.ask(|req| Send { req, envelope, batch }.into()).await
    }

    /// The next message.
    pub async fn message(&mut self) -> MessageFrame {
        self.find(|f| if let Frame::Message(m) = f { Some(m.clone()) } else { None }).await
    }

    /// The next receipt.
    pub async fn receipt(&mut self) -> ReceiptFrame {
        self.find(|f| if let Frame::Receipt(r) = f { Some(r.clone()) } else { None }).await
    }

    /// The receipt of one recipient, confirmed.
    pub async fn receipt_of(&mut self, id: EnvelopeId, by: PublicKey) -> ReceiptFrame {
        let pick = |f: &Frame| match f {
            Frame::Receipt(r) if (r.id, r.receipt.by) == (id, by) => Some(r.clone()),
            _ => None,
        };
        let receipt = self.find(pick).await;
        self.send(ReceiptAck { from: receipt.from, id, by }).await;
        receipt
    }

    /// The next error that answers no request.
    pub async fn error(&mut self) -> ErrorFrame {
        let unasked = |f: &Frame| match f {
            Frame::Error(e) if e.req.is_none() => Some(e.clone()),
            _ => None,
        };
        self.find(unasked).await
    }

    /// Until all that waited has come.
    pub async fn drained(&mut self) {
        self.find(|f| matches!(f, Frame::Drained(_)).then_some(())).await;
    }

    /// Acks a message as `me`.
    pub async fn ack(&mut self, mesh: &MeshId, me: &Member, m: &MessageFrame) {
        let header = m.envelope.header().unwrap();
        let from = header.from.key;
        let receipt = me.receipt(mesh, from, &m.envelope, Verdict::Delivered, None);
        self.send(ClientAck { from, id: header.id, receipt }).await;
    }

    /// A request that everybody may make: the connection works.
    pub async fn peers(&mut self) -> Peers {
        match self.ask(|req| ListPeers { req, after: None, key: None }.into()).await {
            Ok(Frame::Peers(peers)) => peers,
            other => panic!("not an answer to list_peers: {other:?}"),
        }
    }

    /// The row of one member in the whole roster, page by page.
    pub async fn peer(&mut self, mesh: &MeshId, key: PublicKey) -> PeerInfo {
        let found = self.roster(mesh).await.into_iter().find(|(k, _)| *k == key);
        found.unwrap_or_else(|| panic!("{key} is not in the roster")).1
    }

    /// All members, page by page, with their keys.
    pub async fn roster(&mut self, mesh: &MeshId) -> Vec<(PublicKey, PeerInfo)> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = match self.ask(|req| ListPeers { req, after, key: None }.into()).await {
                Ok(Frame::Peers(page)) => page,
                other => panic!("not an answer to list_peers: {other:?}"),
            };
            let key = |p: &PeerInfo| p.chain.verify(mesh).unwrap().key;
            all.extend(page.peers.into_iter().map(|p| (key(&p), p)));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// The next news of somebody's coming or going.
    pub async fn news_of(&mut self, key: PublicKey) -> Presence {
        let pick = |f: &Frame| match f {
            Frame::Presence(p) if p.key == key => Some(p.clone()),
            _ => None,
        };
        self.find(pick).await
    }

    /// The news of an identity's coming and going that have come so far and were not asked for: what
    /// the broker said before this call is among them.
    pub async fn told_of(&mut self, key: PublicKey) -> Vec<PresenceEvent> {
        self.peers().await;
        let told = self.backlog.iter().filter_map(|f| match f {
            Frame::Presence(p) if p.key == key => Some(p.event),
            _ => None,
        });
        told.collect()
    }

    /// The next change of what somebody says of itself.
    pub async fn changed(&mut self) -> PeerInfo {
        let pick = |f: &Frame| match f {
            Frame::PeerChanged(c) => Some(c.peer.clone()),
            _ => None,
        };
        self.find(pick).await
    }

    /// The next identity that this connection has lost.
    pub async fn unbound(&mut self) -> Unbound {
        self.find(|f| if let Frame::Unbound(u) = f { Some(u.clone()) } else { None }).await
    }

    /// Says something of an identity.
    pub async fn say(
        &mut self,
        key: PublicKey,
        twist: impl FnOnce(&mut SetPresence),
    ) -> Result<(), ErrorFrame> {
        let ask = |req| {
            let (status, summary, profile, visible) = (None, None, None, None);
            let mut ask = SetPresence { req, key, status, summary, profile, visible };
            twist(&mut ask);
            ask.into()
        };
        self.ask(ask).await.map(expect_ok)
    }

    /// Makes a statement about a group.
    pub async fn state(&mut self, statement: Signed) -> Result<(), ErrorFrame> {
        self.ask(|req| SetGroup { req, statement }.into()).await.map(expect_ok)
    }

    /// Ends a bound identity.
    pub async fn unbind(&mut self, key: PublicKey) -> Result<(), ErrorFrame> {
        self.ask(|req| Unbind { req, key }.into()).await.map(expect_ok)
    }

    /// Disconnects others.
    pub async fn disconnect(
        &mut self,
        keys: Vec<PublicKey>,
        kick: bool,
    ) -> Result<Disconnected, ErrorFrame> {
        match self.ask(|req| Disconnect { req, keys, all: false, kick }.into()).await? {
            Frame::Disconnected(done) => Ok(done),
            other => panic!("not an answer to disconnect: {other:?}"),
        }
    }

    /// Binds a session.
    pub async fn bind(
        &mut self,
        session: &SecretKey,
        attestation: &Signed,
    ) -> Result<Frame, ErrorFrame> {
        let proof = Bind::prove(&self.hello, session, attestation);
        let (key, attestation) = (session.public(), attestation.clone());
        self.ask(|req| Bind { req, key, attestation, proof }.into()).await
    }

    /// Registers an invite as the owner.
    pub async fn create_invite(
        &mut self,
        world: &World,
        secret: &SecretKey,
        twist: impl FnOnce(&mut Capability),
    ) -> Result<(), ErrorFrame> {
        let at = now();
        let mut terms = Capability {
            mesh: world.mesh,
            issuer: world.owner.public(),
            invite: secret.public(),
            role: meshwire_signaling::invite::Role::Member,
            uses: 1,
            issued_at: at,
            expires_at: at + HOUR_MS,
            broker: world.broker.key(),
        };
        twist(&mut terms);
        let capability = Signed::new(&world.owner.key, domains::CAPABILITY, &terms);
        self.ask(|req| InviteCreate { req, capability }.into()).await.map(drop)
    }

    /// Leaves on purpose: the presence ends with the connection.
    pub async fn leave(mut self) {
        self.send(Bye {}).await;
        self.close().await;
    }

    /// Closes in good order; the presence goes on for as long as its lease.
    pub async fn close(mut self) {
        let _ = self.ws.close(None).await;
        within("the close", async { while let Some(Ok(_)) = self.ws.next().await {} }).await;
    }
}

fn expect_ok(answer: Frame) {
    assert!(matches!(answer, Frame::Ok(_)), "{answer:?}");
}

/// Which request a frame answers.
fn req_of(frame: &Frame) -> Option<u64> {
    match frame {
        Frame::Accepted(f) => Some(f.req),
        Frame::Bound(f) => Some(f.req),
        Frame::RecipientsChanged(f) => Some(f.req),
        Frame::Disconnected(f) => Some(f.req),
        Frame::Peers(f) => Some(f.req),
        Frame::Invites(f) => Some(f.req),
        Frame::Ok(f) => Some(f.req),
        Frame::Error(f) => f.req,
        _ => None,
    }
}
