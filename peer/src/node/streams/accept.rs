//! Opens that come in, and who takes them.

use std::pin::pin;
use std::sync::Arc;

use meshwire_signaling::attest::capability;
use meshwire_signaling::stream::{Ends, Fresh, code};
use meshwire_signaling::{EnvelopeId, PublicKey};
use meshwire_transport::link::Answer;
use meshwire_transport::net::random;
use meshwire_transport::stream::Stream;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::handle::{PeerStream, StreamHandle, StreamInfo};
use super::table::Queued;
use super::tend::start;
use super::{ACCEPT_WAIT, check_name, windows};
use crate::api::{AcceptStream, ApiError, ErrorKind};
use crate::core::inbox::Opening;
use crate::core::resolve::Candidate;
use crate::node::Node;
use crate::node::inbound::{Source, answer};
use crate::node::mesh::Mesh;
use crate::node::roster;
use crate::store::NewId;

/// What an open's handling is called towards the carrier, which is to keep it no longer. No receipt: its answer is
/// records.
const TAKEN: &str = "opened";

impl Node {
    /// Waits for a stream that a peer opens: any, or one by `from`, or of the name `name`. The member's streams
    /// come to the node of its owner, a session's to the session. An open that nobody waits for is kept for five
    /// seconds; then it is refused. Cancel-safe: who does not wait any more takes nothing.
    ///
    /// # Errors
    /// [`ApiError`] if the mesh or `from` is unknown, or a session asks that may not `dm` or has ended; `no_stream` if
    /// none came within `timeout_ms`, where that is given.
    pub async fn accept_stream(&self, ask: AcceptStream) -> Result<PeerStream, ApiError> {
        let Some(patience) = ask.timeout_ms.map(Duration::from_millis) else {
            return self.next_stream(ask).await;
        };
        let none = || {
            let text = "no stream that fits was opened in time: ask again";
            ApiError::new(ErrorKind::Timeout, "no_stream", text)
        };
        timeout(patience, self.next_stream(ask)).await.unwrap_or_else(|_| Err(none()))
    }

    async fn next_stream(&self, ask: AcceptStream) -> Result<PeerStream, ApiError> {
        self.may(capability::DM)?;
        if let Some(name) = &ask.name {
            check_name(name)?;
        }
        let from: Option<(Arc<Mesh>, Candidate)> = match &ask.from {
            Some(text) => Some(self.find(ask.mesh.as_deref(), text).await?),
            None => None,
        };
        let author = from.as_ref().map(|(_, peer)| peer.key);
        loop {
            let mut arrived = pin!(self.services().streams.arrived.notified());
            // In line first, then a look: what arrives in between counts.
            arrived.as_mut().enable();
            let meshes = match &from {
                Some((mesh, _)) => vec![mesh.clone()],
                None => self.scope(ask.mesh.as_deref())?,
            };
            if meshes.is_empty() {
                self.pick(None)?;
            }
            for mesh in &meshes {
                if mesh.streams.is_closed() {
                    let text = "the node closes";
                    return Err(ApiError::new(ErrorKind::Unreachable, "closed", text));
                }
                let own = self.author(mesh)?.key();
                let fits = |o: &Opening| {
                    o.recipient == own
                        && author.is_none_or(|key| key == o.author)
                        && ask.name.as_ref().is_none_or(|name| *name == o.open.name)
                };
                while let Some(opening) = mesh.streams.dequeue(fits) {
                    if let Some(stream) = accept(mesh, &opening) {
                        stream.handle().set_priority(ask.priority);
                        return Ok(stream);
                    }
                }
            }
            arrived.await;
        }
    }

    /// The streams that live here, as far as the caller may know of them: for a session its own.
    ///
    /// # Errors
    /// [`ApiError`] for a session that has ended.
    pub fn streams(&self) -> Result<Vec<StreamHandle>, ApiError> {
        let mut all = Vec::new();
        for mesh in self.scope(None)? {
            let own = self.session().map(|session| session.key());
            let mut streams = mesh.streams.list();
            streams.retain(|s| own.is_none_or(|own| s.info().own == own));
            all.append(&mut streams);
        }
        all.sort_by_key(|s| (s.info().since, s.info().id.0));
        Ok(all)
    }
}

/// The stream of an open that waited; none if there is no room for it, and the other side hears so.
pub(super) fn accept(mesh: &Arc<Mesh>, opening: &Opening) -> Option<PeerStream> {
    let budget = mesh.services.streams.part(&opening.member);
    let (open, windows) = (&opening.open, windows(&budget));
    let stream =
        Stream::accept(open, ends(opening), fresh(mesh), &windows, &budget, Instant::now()).ok();
    let started = stream.and_then(|s| start(mesh, info(mesh, opening), s, false).ok());
    match started {
        Some(handle) => PeerStream::new(handle),
        None => {
            refuse(mesh, opening, code::BUSY, "no room for another stream here now");
            None
        }
    }
}

/// For one answer to one open alone.
fn fresh(mesh: &Mesh) -> Fresh {
    Fresh(random(&*mesh.services.net))
}

fn ends(opening: &Opening) -> Ends {
    Ends {
        mesh: opening.mesh,
        stream: opening.open.stream,
        opener: opening.author,
        acceptor: opening.recipient,
    }
}

fn info(mesh: &Mesh, opening: &Opening) -> StreamInfo {
    StreamInfo {
        id: opening.open.stream,
        name: opening.open.name.clone(),
        mesh: mesh.id(),
        mesh_name: mesh.row.name.clone(),
        own: opening.recipient,
        peer: opening.author,
        peer_name: opening.author_name.clone(),
        member: opening.member,
        opened: false,
        since: mesh.now(),
    }
}

/// Says no to an open whose id has been remembered.
fn refuse(mesh: &Arc<Mesh>, opening: &Opening, code: u32, reason: &str) {
    let budget = &mesh.services.streams.budget;
    let ends = ends(opening);
    let (open, fresh) = (&opening.open, fresh(mesh));
    let stream = Stream::refuse(open, ends, fresh, code, reason, budget, Instant::now());
    let said = stream.ok().and_then(|s| start(mesh, info(mesh, opening), s, true).ok());
    tracing::debug!(
        target: "meshwire::events::stream::refused",
        mesh = %mesh.id().short(), author = %opening.author.short(), name = opening.open.name,
        code, said = said.is_some(), "{reason}"
    );
}

/// Takes in opens that hold. Each is answered once it is remembered on disk; copies change nothing.
pub(in crate::node) async fn take(mesh: &Arc<Mesh>, source: &Source<'_>, openings: Vec<Opening>) {
    let mut admitted = Vec::new();
    for mut opening in openings {
        if let Some(proven) = opening.proven.take() {
            roster::admit(mesh, proven.0, proven.1).await;
        }
        if mesh.streams.admit(&opening.member) {
            admitted.push(opening);
        } else {
            let reason = "too many streams are opened".to_owned();
            let (from, id, by) = name(&opening);
            answer(mesh, source, Answer::Later { from, id, by, reason }).await;
        }
    }
    let ids: Vec<NewId> = admitted.iter().map(new_id).collect();
    let remembered = async {
        let fresh = mesh.store().remember(&ids).await?;
        mesh.store().sync().await?;
        Ok::<_, crate::store::StoreError>(fresh)
    };
    let fresh = match remembered.await {
        Ok(fresh) => fresh,
        Err(e) => {
            // Unanswered, they come again.
            tracing::error!(error = %e, "opens of streams cannot be remembered");
            return;
        }
    };
    for (opening, fresh) in admitted.into_iter().zip(fresh) {
        let (from, id, by) = name(&opening);
        answer(mesh, source, Answer::Refused { from, id, by, reason: TAKEN.to_owned() }).await;
        if fresh {
            offer(mesh, Box::new(opening));
        } else {
            tracing::debug!(
                target: "meshwire::events::stream::copy",
                mesh = %mesh.id().short(), author = %from.short(), %id, "an open came again"
            );
        }
    }
    mesh.services.streams.look();
}

fn name(opening: &Opening) -> (PublicKey, EnvelopeId, PublicKey) {
    (opening.author, opening.id, opening.recipient)
}

fn new_id(opening: &Opening) -> NewId {
    let Opening { mesh, author, id, hash, keep_until, .. } = *opening;
    NewId { mesh, author, id, hash, keep_until }
}

/// Lets an open wait, for a while, for somebody who accepts it.
fn offer(mesh: &Arc<Mesh>, opening: Box<Opening>) {
    let stream = opening.open.stream;
    match mesh.streams.queue(opening) {
        Queued::Waiting => {
            let late = Arc::downgrade(mesh);
            mesh.streams.spawn(async move {
                sleep(ACCEPT_WAIT).await;
                let Some(mesh) = late.upgrade() else { return };
                if let Some(opening) = mesh.streams.dequeue(|o| o.open.stream == stream) {
                    let reason = format!(
                        "nobody accepts streams named {:?}; somebody must be waiting for it there",
                        opening.open.name
                    );
                    refuse(&mesh, &opening, code::REFUSED, &reason);
                }
            });
        }
        Queued::Busy(opening) => {
            refuse(mesh, &opening, code::BUSY, "too many streams wait to be accepted here");
        }
        Queued::Dropped => {}
    }
}
