//! One row's way onto a link.

use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use meshwire_signaling::frame::{code, feature};
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey, Target};
use meshwire_transport::link::{Handed, LinkError, MessageLink};

use super::super::groups::without;
use super::super::mesh::Mesh;
use super::super::paths::{Carrier, DirectCarrier};
use super::super::seal::to_send;
use super::super::sessions::SESSION_ENDED;
use super::super::{outbox, regroup};
use crate::path::hedge::MessageKey;
use crate::store::{OutboxMeta, OutboxRow};

/// What became of one row.
pub(super) struct Outcome {
    pub(super) id: EnvelopeId,
    pub(super) author: PublicKey,
    pub(super) attempts: u32,
    pub(super) end: End,
}

impl Outcome {
    /// What a direct path has taken over: whose, by which link.
    pub(super) fn taken(&self) -> Option<(PublicKey, Arc<dyn MessageLink>, PublicKey, EnvelopeId)> {
        match &self.end {
            End::Direct { result: Ok(_), peer, link } => {
                Some((*peer, Arc::clone(link), self.author, self.id))
            }
            _ => None,
        }
    }
}

pub(super) enum End {
    /// The link's answer.
    Link(Result<Handed, LinkError>),
    /// A direct path's answer.
    Direct { result: Result<Handed, LinkError>, peer: PublicKey, link: Arc<dyn MessageLink> },
    /// It can never go, in words: the broker cannot carry such mail, or its author has ended.
    Unfit(String),
    /// The store failed; in words.
    Later(String),
    /// Another message goes on in its place.
    Replaced,
}

/// Whose direct path has a row, if one has, and what is left to do.
pub(super) type Handing = (Option<PublicKey>, BoxFuture<'static, Outcome>);

/// Hands one row to the link, in the order of these calls; what is left to do is in the
/// future.
pub(super) async fn hand(mesh: &Arc<Mesh>, row: OutboxRow) -> Handing {
    let (id, author, attempts) = (row.meta.id, row.meta.author, row.meta.attempts);
    if let Some(unfit) = unfit(mesh, &row.meta) {
        let end = End::Unfit(unfit);
        return (None, async move { Outcome { id, author, attempts, end } }.boxed());
    }
    let kept = needs_care(&row.meta).then(|| row.clone());
    let carrier = mesh.carrier(&row.meta);
    let peer = row.meta.member.unwrap_or(row.meta.recipient);
    let envelope = row.envelope;
    let ticket = match carrier {
        Carrier::Direct(path) => {
            let link = Arc::clone(&path.link);
            let sending = directly(mesh.clone(), path, peer, (author, id), envelope).await;
            let end = sending.map(move |result| End::Direct { result, peer, link });
            let outcome = async move { Outcome { id, author, attempts, end: end.await } };
            return (Some(peer), outcome.boxed());
        }
        Carrier::Relay { avoidable } => {
            if avoidable {
                mesh.paths.tally().relayed(envelope.body.0.len());
            }
            mesh.link.send(to_send(envelope, &author)).await
        }
        Carrier::None => Err(LinkError::Down),
    };
    let mesh = mesh.clone();
    let outcome = async move {
        let result = match ticket {
            Ok(ticket) => ticket.await,
            Err(e) => Err(e),
        };
        let end = match (result, kept) {
            (Err(e @ LinkError::RecipientsChanged { .. }), Some(row)) => {
                End::Link(regroup::follow(&mesh, row, e).await)
            }
            (Err(LinkError::Refused(frame)), Some(row)) if frame.code == code::TARGET_GONE => {
                match outbox::redirect(&mesh, &row).await {
                    Ok(true) => End::Replaced,
                    Ok(false) => End::Link(Err(LinkError::Refused(frame))),
                    Err(e) => End::Later(e.to_string()),
                }
            }
            (result, _) => End::Link(result),
        };
        Outcome { id, author, attempts, end }
    };
    (None, outcome.boxed())
}

/// Hands a message to a direct path. A path that has no room now is waited for in the future: others have
/// other paths.
async fn directly(
    mesh: Arc<Mesh>,
    path: DirectCarrier,
    peer: PublicKey,
    message: MessageKey,
    envelope: Envelope,
) -> BoxFuture<'static, Result<Handed, LinkError>> {
    let mut sending = async move {
        let link = &path.link;
        let done = path.outlives(async {
            mesh.paths.sent(&peer, link, message, false);
            let handed = link.send(envelope).await?.await?;
            mesh.paths.sent(&peer, link, message, true);
            Ok(handed)
        });
        let done = done.await;
        if let Err(e) = &done {
            mesh.path_refused(&peer, link, message, e);
        }
        done
    }
    .boxed();
    // What is handed over leaves in the order of these calls.
    match futures_util::poll!(&mut sending) {
        Poll::Ready(done) => std::future::ready(done).boxed(),
        Poll::Pending => sending,
    }
}

/// Whether a refusal may ask for the row once more.
fn needs_care(meta: &OutboxMeta) -> bool {
    !matches!(meta.target, Target::Member { .. })
}

/// Why such a row can never go, in words: its author has ended, or the broker lacks what it needs.
pub(in crate::node) fn unfit(mesh: &Mesh, meta: &OutboxMeta) -> Option<String> {
    if !mesh.speaks_as(&meta.author) {
        // It was written in the moment of its author's end.
        return Some(SESSION_ENDED.to_owned());
    }
    let needs = [
        (matches!(meta.target, Target::Group { .. }), feature::GROUPS),
        (meta.author != mesh.row.self_key, feature::DELEGATES),
    ];
    let lacks = |f: &str| mesh.broker_has(f) == Some(false);
    let missing = needs.into_iter().find(|(needed, f)| *needed && lacks(f))?.1;
    Some(format!("the broker lacks {missing}: {}", without(missing)))
}
