//! Challenge, hello, ack.

use std::sync::atomic::Ordering;

use futures_util::{SinkExt as _, StreamExt as _};
use meshwire_signaling::attest::Attestation;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{
    Challenge, ErrorFrame, Features, Frame, FrameError, Hello, HelloAck, HelloAckBody, HelloBody,
    close, code, feature,
};
use meshwire_signaling::limits::HELLO_TIMEOUT;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, InstanceId, MeshId, PublicKey, codec};
use meshwire_transport::net::random;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::read::vouched;
use super::{Socket, leases};
use crate::core::again;
use crate::core::hello::{self, Expected, Greeting, Known, Refusal};
use crate::core::presence::{Attach, Attached};
use crate::metrics::Reason;
use crate::serve::{AGENT, Inner};
use crate::store::{MemberRow, StoreError};

/// What this broker can.
const FEATURES: [&str; 7] = [
    feature::DEDUPE,
    feature::RECEIPTS,
    feature::GROUPS,
    feature::DELEGATES,
    feature::LEASE,
    feature::P2P,
    feature::STREAMS,
];
/// Feature bits of a node that are remembered.
const MAX_FEATURES: usize = 16;
/// Longest of them, in bytes.
const MAX_FEATURE: usize = 32;

/// What this broker offers: all that it can, but for what a test holds back.
pub(super) fn offered(inner: &Inner) -> impl Iterator<Item = &'static str> {
    FEATURES.into_iter().filter(|f| !inner.withheld.iter().any(|w| w == f))
}

/// Somebody whose hello was good.
pub(super) struct Guest {
    pub(super) attach: Attach,
    pub(super) body: HelloBody,
    pub(super) hello: Hash,
    pub(super) member: MemberRow,
}

/// Writes a frame as a WebSocket message.
pub(super) fn message(frame: &Frame, encoding: Encoding) -> Message {
    let bytes = Bytes::from(frame.encode(encoding));
    match encoding {
        Encoding::MsgPack => Message::Binary(bytes),
        Encoding::Json => match bytes.try_into() {
            Ok(text) => Message::Text(text),
            // serde_json writes UTF-8.
            Err(_) => unreachable!("JSON is UTF-8"),
        },
    }
}

/// Reads a frame from a WebSocket message; `None` for control messages.
pub(super) fn frame(message: &Message, encoding: Encoding) -> Option<Result<Frame, FrameError>> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.as_ref(),
        _ => return None,
    };
    Some(Frame::decode(encoding, bytes))
}

/// Runs the handshake up to the ack. None: refused and closed.
pub(super) async fn run(
    inner: &Inner,
    socket: &mut Socket,
    encoding: Encoding,
    binding: Option<Hash>,
) -> Option<Guest> {
    let expected = Expected {
        challenge: Hash(random(inner.net.as_ref())),
        broker: inner.key.public(),
        binding,
        now: inner.net.unix_ms(),
    };
    let challenge = Challenge {
        nonce: expected.challenge,
        at: expected.now,
        broker: expected.broker,
        binding: binding.is_some(),
    };
    socket.send(message(&challenge.into(), encoding)).await.ok()?;
    let read = tokio::time::timeout(HELLO_TIMEOUT, read_hello(socket, encoding)).await;
    let result = match read {
        Err(_) => Err(Refusal::new(code::HELLO_TIMEOUT, "no hello came within 5 s")),
        Ok(None) => return None,
        Ok(Some(Err(refusal))) => Err(refusal),
        Ok(Some(Ok(hello))) => {
            let expected = Expected { now: inner.net.unix_ms(), ..expected };
            match hello::read(&hello, &expected) {
                Ok(greeting) => welcome(inner, greeting).await,
                Err(refusal) => Err(refusal),
            }
        }
    };
    match result {
        Ok(guest) => Some(guest),
        Err(refusal) => {
            refuse(inner, socket, encoding, refusal).await;
            None
        }
    }
}

/// The first frame, if it is a hello. None: the socket ended.
async fn read_hello(socket: &mut Socket, encoding: Encoding) -> Option<Result<Hello, Refusal>> {
    loop {
        let msg = socket.next().await?.ok()?;
        return Some(match frame(&msg, encoding) {
            None if matches!(msg, Message::Close(_)) => return None,
            None => continue,
            Some(Ok(Frame::Hello(hello))) => Ok(hello),
            Some(Ok(other)) => {
                let text = format!("say hello first, before {:?}", other.kind());
                Err(Refusal::new(code::NO_HELLO, text))
            }
            Some(Err(e)) => Err(Refusal::new(code::MALFORMED, e.to_string())),
        });
    }
}

async fn welcome(inner: &Inner, greeting: Greeting) -> Result<Guest, Refusal> {
    let unavailable = |e: StoreError| {
        tracing::error!(error = %e, "hello could not be checked");
        let error = ErrorFrame::transient(
            code::UNAVAILABLE,
            "the broker's database fails",
            again::DATABASE,
        );
        Refusal { error, close: close::TRY_LATER }
    };
    let b = &greeting.body;
    let (mesh, key, member, instance) = (b.mesh, b.key, b.member, b.instance);
    let row = inner.store.member(&mesh, &member).await.map_err(unavailable)?;
    let known = Known {
        mesh: row.is_some() || inner.store.has_mesh(&mesh).await.map_err(unavailable)?,
        member: row.is_some(),
        counter: inner.store.counter(&mesh, &key, &instance).await.map_err(unavailable)?,
    };
    hello::admit(&greeting, known, &offered(inner).collect::<Vec<_>>())?;
    let Some(member_row) = row else {
        // `admit` refuses strangers.
        return Err(Refusal::new(code::UNAUTHORIZED, "this key is no member of the mesh"));
    };
    match note(inner, &greeting, mesh, key, member, instance).await.map_err(unavailable)? {
        Noted::Done => {}
        Noted::Stale => {
            // Another connection said the same hello counter in between.
            let text = "this instance has said a later hello before: make a new instance";
            return Err(Refusal::new(code::STALE_INSTANCE, text));
        }
        Noted::Foreign => {
            return Err(Refusal::new(
                code::FORBIDDEN,
                "this key belongs to another member, or has ended",
            ));
        }
    }
    let conn = inner.next_conn.fetch_add(1, Ordering::Relaxed);
    let features = greeting.body.features.keys().filter(|f| f.len() <= MAX_FEATURE);
    let about = member_row.about.as_ref().filter(|_| key == member);
    let attach = Attach {
        conn,
        mesh,
        member,
        key,
        kind: greeting.body.kind,
        instance,
        about: about.and_then(|a| codec::from_msgpack(a).ok()).unwrap_or_default(),
        attestation: greeting.attestation,
        attested_until: greeting.attested_until,
        features: features.take(MAX_FEATURES).cloned().collect(),
    };
    Ok(Guest { attach, body: greeting.body, hello: greeting.hash, member: member_row })
}

/// What became of a hello in the store.
enum Noted {
    Done,
    Stale,
    Foreign,
}

/// Makes the hello's counter, and a session's existence, durable.
async fn note(
    inner: &Inner,
    greeting: &Greeting,
    mesh: MeshId,
    key: PublicKey,
    member: PublicKey,
    instance: InstanceId,
) -> Result<Noted, StoreError> {
    let counter = greeting.body.counter;
    let now = inner.net.unix_ms();
    // `core::hello` has checked it.
    let word: Option<Attestation> = greeting.attestation.as_ref().and_then(|a| a.peek().ok());
    let word = word.as_ref().map(vouched);
    inner
        .writer
        .run(move |tx| {
            Box::pin(async move {
                if let Some(word) = word
                    && (tx.member(&mesh, &key).await?.is_some()
                        || !tx.delegate(&mesh, &key, &word).await?)
                {
                    return Ok(Noted::Foreign);
                }
                if !tx.hello(&mesh, &key, &instance, counter, now).await? {
                    return Ok(Noted::Stale);
                }
                tx.seen(&mesh, &member, now).await?;
                Ok(Noted::Done)
            })
        })
        .await
}

/// Sends the signed ack. False if the socket is gone.
pub(super) async fn acknowledge(
    inner: &Inner,
    socket: &mut Socket,
    encoding: Encoding,
    guest: &Guest,
    attached: &Attached,
) -> bool {
    let body = HelloAckBody {
        hello: guest.hello,
        broker: inner.key.public(),
        at: inner.net.unix_ms(),
        name: guest.member.name.clone(),
        role: guest.member.role,
        limits: inner.policy.limits(),
        features: offered(inner).map(|f| (f.to_owned(), Default::default())).collect::<Features>(),
        requires: Vec::new(),
        lease: offered(inner)
            .any(|f| f == feature::LEASE)
            .then(|| leases::lease(inner, guest, attached)),
        agent: AGENT.to_owned(),
    };
    let ack = HelloAck { ack: Signed::new(&inner.key, domains::HELLO_ACK, &body) };
    socket.send(message(&ack.into(), encoding)).await.is_ok()
}

/// Sends the error, then closes with its code as reason.
pub(super) async fn refuse(
    inner: &Inner,
    socket: &mut Socket,
    encoding: Encoding,
    refusal: Refusal,
) {
    let reason = Reason { reason: known_code(&refusal.error.code) };
    inner.metrics.connections_rejected.get_or_create(&reason).inc();
    tracing::info!(
        target: "meshwire::events::connection::refused",
        code = %refusal.error.code, "{}", refusal.error.message
    );
    let frame =
        CloseFrame { code: refusal.close.into(), reason: refusal.error.code.clone().into() };
    let goodbye = async {
        socket.send(message(&refusal.error.into(), encoding)).await?;
        socket.close(Some(frame)).await?;
        // Wait for the other side's close, so that the error is not lost in a reset.
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    let _ = tokio::time::timeout(HELLO_TIMEOUT, goodbye).await;
}

/// Metric labels come from a fixed list, never from a peer.
pub(super) fn known_code(code: &str) -> &'static str {
    const CODES: &[&str] = &[
        code::MALFORMED,
        code::UNKNOWN_TYPE,
        code::NO_HELLO,
        code::HELLO_TIMEOUT,
        code::UNAUTHORIZED,
        code::UNKNOWN_MESH,
        code::BAD_KEY,
        code::BAD_SIGNATURE,
        code::BAD_CHALLENGE,
        code::WRONG_BROKER,
        code::BAD_BINDING,
        code::TIMESTAMP_SKEW,
        code::STALE_INSTANCE,
        code::ALREADY_CONNECTED,
        code::CAPACITY,
        code::FEATURE_MISSING,
        code::FORBIDDEN,
        code::RATE_LIMITED,
        code::TOO_LARGE,
        code::BAD_ENVELOPE,
        code::NOT_YOURS,
        code::EXPIRED,
        code::UNKNOWN_TARGET,
        code::TARGET_GONE,
        code::BAD_BATCH,
        code::BAD_GROUP,
        code::STALE_STATEMENT,
        code::ATTESTATION_MALFORMED,
        code::ATTESTATION_EXPIRED,
        code::ATTESTATION_TTL,
        code::ATTESTATION_MISMATCH,
        code::OFFLINE,
        code::CONFLICT,
        code::QUEUE_FULL,
        code::UNSUPPORTED,
        code::UNAVAILABLE,
    ];
    CODES.iter().find(|c| **c == code).copied().unwrap_or("other")
}
