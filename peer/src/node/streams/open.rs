//! Opening a stream to a peer.

use std::sync::Arc;

use meshwire_signaling::attest::{IdentityKind, capability};
use meshwire_signaling::envelope::{Author, Proof, StateHead};
use meshwire_signaling::frame::{ErrorFrame, code as refusal, feature};
use meshwire_signaling::stream::{Ends, Open, Secret, TTL, code};
use meshwire_signaling::{Envelope, EnvelopeId, StreamId};
use meshwire_transport::link::{LinkError, MessageLink as _};
use meshwire_transport::net::random;
use meshwire_transport::stream::{Stream, StreamError};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::handle::{PeerStream, StreamInfo};
use super::table::Full;
use super::tend::start;
use super::{check_name, windows};
use crate::api::{ApiError, ErrorKind, OpenStream};
use crate::core::group;
use crate::core::resolve::Candidate;
use crate::node::find::refresh;
use crate::node::groups::require;
use crate::node::identity::Identity;
use crate::node::mesh::Mesh;
use crate::node::send::target_of;
use crate::node::{Node, invalid, store_error, within};

/// How long a direct path has to bring an answer before the relay carries the open as well.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before the next try where nobody says.
const AGAIN: Duration = Duration::from_millis(250);

impl Node {
    /// Opens a stream to a peer, and waits until it is accepted there. It goes on over whatever path is up, from then
    /// on until either side ends it.
    ///
    /// ```no_run
    /// use meshwire_peer::{Node, api};
    /// use tokio::io::AsyncWriteExt as _;
    ///
    /// # async fn send(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
    /// let ask = api::OpenStream { to: "bob".into(), name: "notes".into(), ..Default::default() };
    /// let mut stream = node.open_stream(ask).await?;
    /// stream.write_all(b"any number of bytes").await?;
    /// stream.shutdown().await?;
    /// stream.finished().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ApiError`]: among others `peer_not_found` and `peer_ambiguous`; `peer_offline`, since both sides must
    /// be there; `stream_refused` if nobody accepts streams of this name there within five seconds;
    /// `stream_busy` if there are too many; `stream_unanswered` if nothing came back in time.
    pub async fn open_stream(&self, ask: OpenStream) -> Result<PeerStream, ApiError> {
        self.may(capability::DM)?;
        check_name(&ask.name)?;
        if group::parse(&ask.to).is_some() {
            let text = format!("{} is a group: a stream leads to one member or session", ask.to);
            return Err(invalid("one_peer", text));
        }
        let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.to).await?;
        let author = self.author(&mesh)?;
        if author.key() == peer.key {
            return Err(invalid("own_key", format!("{} is who opens it", peer.full_name())));
        }
        if author.kind != IdentityKind::Member {
            require(&mesh, feature::DELEGATES)?;
        }
        able(&mesh, &peer).await?;
        let (stream, envelope) = prepare(&mesh, &author, &peer, &ask.name).await?;
        let peer_name = peer.full_name();
        let info = StreamInfo {
            id: stream.id(),
            name: ask.name,
            mesh: mesh.id(),
            mesh_name: mesh.row.name.clone(),
            own: author.key(),
            peer: peer.key,
            peer_name: peer_name.clone(),
            member: peer.member,
            opened: true,
            since: mesh.now(),
        };
        let handle = start(&mesh, info, stream, false).map_err(unstarted)?;
        handle.set_priority(ask.priority);
        // From here on, whoever goes away resets it.
        let gone = || ApiError::new(ErrorKind::Internal, "internal", "the stream is gone");
        let stream = PeerStream::new(handle.clone()).ok_or_else(gone)?;
        mesh.path_used(&peer.member);
        let opened = async {
            tokio::select! {
                biased;
                accepted = handle.live().accepted() => accepted.map_err(|e| unopened(&peer_name, &e)),
                error = deliver(&mesh, &peer, envelope) => Err(error),
            }
        };
        let patience = within(ask.timeout_ms, TTL).min(TTL);
        match timeout(patience, opened).await {
            Ok(opened) => opened.map(|()| stream),
            Err(_) => Err(unopened(&peer_name, &StreamError::Unanswered)),
        }
    }
}

/// Refuses a peer whose program, as the broker tells, knows no streams.
async fn able(mesh: &Arc<Mesh>, peer: &Candidate) -> Result<(), ApiError> {
    let lacks = || mesh.peer_view(&peer.member).is_some_and(|v| v.online && v.streamless);
    if !peer.is_member() || !lacks() {
        return Ok(());
    }
    // It may have been updated just now.
    refresh(mesh).await;
    if !lacks() {
        return Ok(());
    }
    let text = format!("the meshwire of {} knows no streams: update it", peer.full_name());
    Err(ApiError::new(ErrorKind::Denied, refusal::FEATURE_MISSING, text))
}

/// Our side of the stream, and the open for the peer.
async fn prepare(
    mesh: &Mesh,
    author: &Identity,
    peer: &Candidate,
    name: &str,
) -> Result<(Stream, Envelope), ApiError> {
    let unfit = |e: &dyn std::fmt::Display| {
        invalid("bad_key", format!("no stream can be opened to {}: {e}", peer.full_name()))
    };
    let net = mesh.services.net.as_ref();
    let instance = mesh.store().instance(&mesh.id()).await.map_err(store_error)?;
    let ends = Ends {
        mesh: mesh.id(),
        stream: StreamId(random(net)),
        opener: author.key(),
        acceptor: peer.key,
    };
    let now = mesh.now();
    let from = Author { key: author.key(), instance };
    let id = EnvelopeId::new(now, u128::from_be_bytes(random(net)));
    let header = Open::header(from, target_of(peer), id, now).map_err(|e| unfit(&e))?;
    let pair = author.pairs.pair(&peer.key).map_err(|e| unfit(&e))?;
    let budget = mesh.services.streams.part(&peer.member);
    let windows = windows(&budget);
    let secret = Secret::new(random(net));
    let (stream, open) = Stream::open(secret, name, ends, &windows, &budget, Instant::now())
        .map_err(|e| {
            ApiError::new(ErrorKind::Busy, "stream_busy", format!("{e}: try again later"))
        })?;
    let (key, head) = (author.pairs.key(), StateHead::origin(&mesh.id()));
    let sealed = open.seal(&mesh.id(), key, &header, head, &pair, &random(net));
    let mut envelope = sealed.map_err(|e| unfit(&e))?;
    if author.kind != IdentityKind::Member {
        let attestation = author.attestation.clone();
        envelope.proof = Some(Box::new(Proof { chain: mesh.row.chain.clone(), attestation }));
    }
    Ok((stream, envelope))
}

/// Brings an open to the peer: over the direct path that is up, and over the relay unless that brings an answer at
/// once. Returns only if there is no way.
async fn deliver(mesh: &Arc<Mesh>, peer: &Candidate, envelope: Envelope) -> ApiError {
    let mut sent = false;
    if let Some(path) = mesh.direct(&peer.member) {
        let link = path.link.clone();
        let sending = async { link.send(envelope.clone()).await?.await };
        sent = path.outlives(sending).await.is_ok();
        if sent {
            // It may be dead and not say so.
            sleep(PATIENCE).await;
        }
    }
    let error = relay(mesh, peer, envelope).await;
    if sent { std::future::pending().await } else { error }
}

/// Has the broker carry an open. Returns only if it will not.
async fn relay(mesh: &Arc<Mesh>, peer: &Candidate, envelope: Envelope) -> ApiError {
    loop {
        if let Err(e) = mesh.up().await {
            return e;
        }
        if let Err(e) = require(mesh, feature::STREAMS) {
            return e;
        }
        let handed = match mesh.link.send(envelope.clone()).await {
            Ok(ticket) => ticket.await,
            Err(e) => Err(e),
        };
        let wait = match handed {
            Ok(_) => return std::future::pending().await,
            Err(LinkError::Refused(frame)) => match refused(mesh, peer, &frame) {
                Ok(wait) => wait,
                Err(e) => return e,
            },
            Err(LinkError::Down | LinkError::TimedOut) => AGAIN,
            Err(e) => {
                return ApiError::new(ErrorKind::Unreachable, "broker_unreachable", e.to_string());
            }
        };
        sleep(wait).await;
    }
}

/// When to ask the broker again, or what to say.
fn refused(mesh: &Mesh, peer: &Candidate, frame: &ErrorFrame) -> Result<Duration, ApiError> {
    let name = peer.full_name();
    let (kind, word, text) = match frame.code.as_str() {
        refusal::OFFLINE => {
            let text = format!(
                "{name} is not connected now: both sides of a stream must be there at once; \
                 meshwire send reaches who is away"
            );
            (ErrorKind::Unreachable, "peer_offline", text)
        }
        refusal::UNKNOWN_TARGET => {
            let text = format!("{name} is not known to the broker any more");
            (ErrorKind::NotFound, "peer_not_found", text)
        }
        refusal::TARGET_GONE => {
            (ErrorKind::NotFound, "peer_not_found", format!("{name} has ended"))
        }
        refusal::UNSUPPORTED => {
            let text =
                format!("the broker of mesh {} carries no streams: update it", mesh.row.name);
            (ErrorKind::Denied, refusal::FEATURE_MISSING, text)
        }
        // A session whose key the broker is just being told.
        refusal::NOT_YOURS => return Ok(AGAIN),
        _ if !frame.permanent => {
            return Ok(frame.retry_after_ms.map_or(AGAIN, Duration::from_millis).max(AGAIN));
        }
        word => (ErrorKind::Denied, word, frame.message.clone()),
    };
    Err(ApiError::new(kind, word, text))
}

fn unstarted(full: Full) -> ApiError {
    let text = match full {
        Full::Closed => return ApiError::new(ErrorKind::Unreachable, "closed", "the node closes"),
        Full::TooMany => {
            "too many streams are open: close some first, or wait a minute: those that just ended \
             count that long"
        }
        Full::Known => "this stream is open already",
    };
    ApiError::new(ErrorKind::Busy, "stream_busy", text)
}

/// Why a stream was not opened, for people.
fn unopened(peer: &str, error: &StreamError) -> ApiError {
    let (kind, word, text) = match error {
        StreamError::Refused { code: code::BUSY, reason } => {
            (ErrorKind::Busy, "stream_busy", format!("{peer} has no room: {reason}"))
        }
        StreamError::Refused { reason, .. } => {
            (ErrorKind::Denied, "stream_refused", format!("{peer} refused the stream: {reason}"))
        }
        StreamError::Unanswered => {
            let text = format!("{peer} did not answer in time: is it there, and its clock right?");
            (ErrorKind::Timeout, "stream_unanswered", text)
        }
        other => (ErrorKind::Unreachable, "stream_lost", other.to_string()),
    };
    ApiError::new(kind, word, text)
}
