//! What comes from the link: envelopes, receipts, presence, and the link's own ups and downs.
//!
//! Envelopes are stored in batches. They are answered when they are on disk: one sync does for a batch and
//! for what surfaces of it.

use std::sync::Arc;

use meshwire_signaling::attest::Attestation;
use meshwire_signaling::frame::code;
use meshwire_signaling::receipt::{Ends, Receipt, Verdict as Outcome, reason};
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey, UnixMillis};
use meshwire_transport::fault;
use meshwire_transport::link::{Answer, Inbound, LinkEvent, MessageLink};
use tokio::sync::mpsc;

use super::events::{Event, Misbehaviour};
use super::mesh::Mesh;
use super::{drain, outbox, paths, roster, sessions, streams};
use crate::core::gate::Arrival;
use crate::core::group::RecipientState;
use crate::core::inbox::{Answerer, Desk, Item, Known, Verdict, receive};
use crate::core::outbox::{OutboxState, by_receipt};
use crate::store::{Arrived, OutboxRow, Step, StepTo, Stepped, StoreError};

/// Envelopes stored together: the broker's window.
const BATCH: usize = 64;

/// What brought something, and takes what is answered.
pub(super) enum Source<'a> {
    /// The broker.
    Relay,
    /// A direct path.
    Direct {
        /// The member at its other end: nobody else's mail comes over it.
        peer: PublicKey,
        /// The path.
        link: &'a dyn MessageLink,
    },
}

impl Source<'_> {
    fn word(&self) -> &'static str {
        match self {
            Self::Relay => drain::RELAY,
            Self::Direct { .. } => drain::DIRECT,
        }
    }

    fn link<'a>(&'a self, mesh: &'a Mesh) -> &'a dyn MessageLink {
        match self {
            Self::Relay => mesh.link.as_ref(),
            Self::Direct { link, .. } => *link,
        }
    }
}

/// Runs until the link has ended.
pub(super) async fn run(mesh: Arc<Mesh>, mut events: mpsc::Receiver<LinkEvent>) {
    let mut batch = Vec::with_capacity(BATCH);
    while events.recv_many(&mut batch, BATCH).await > 0 {
        let mut envelopes = Vec::new();
        let mut receipts = Vec::new();
        for event in batch.drain(..) {
            match event {
                LinkEvent::Envelope(inbound) => envelopes.push(*inbound),
                LinkEvent::Receipt { from, id, receipt } => receipts.push((from, id, receipt)),
                LinkEvent::Drained => {
                    // What came before it is stored before anybody hears that nothing waits.
                    accept(&mesh, &Source::Relay, std::mem::take(&mut envelopes)).await;
                    mesh.note_drained();
                }
                LinkEvent::Up(ack) => mesh.went_up(ack.as_deref()),
                LinkEvent::Unbound { key, reason } => {
                    sessions::unbound(&mesh, &key, reason).await;
                }
                LinkEvent::Down { reason, code, retry_in } => {
                    tracing::info!(
                        target: "meshwire::events::link::down",
                        mesh = %mesh.id().short(), code, ?retry_in, "{reason}"
                    );
                    mesh.went_down(reason, code);
                }
                LinkEvent::Presence(presence) => roster::present(&mesh, *presence).await,
                LinkEvent::PeerChanged(peer) => {
                    if let Some(member) = roster::note(&mesh, *peer).await {
                        mesh.services.tell(Event::PeerChanged { mesh: mesh.id(), member });
                    }
                }
                LinkEvent::P2p(frame) => paths::hear(&mesh, *frame).await,
                LinkEvent::Resync => mesh.refresh.notify_one(),
                _ => {}
            }
        }
        accept(&mesh, &Source::Relay, envelopes).await;
        confirm(&mesh, &Source::Relay, receipts).await;
    }
}

/// Judges, stores and answers envelopes.
pub(super) async fn accept(mesh: &Arc<Mesh>, source: &Source<'_>, envelopes: Vec<Inbound>) {
    let mut items: Vec<(Item, UnixMillis)> = Vec::new();
    let mut answerers: Vec<Answerer> = Vec::new();
    let mut openings = Vec::new();
    for inbound in envelopes {
        let header = inbound.envelope.header().ok();
        let known = match &header {
            Some(header) => known(mesh, &inbound.envelope, &header.from.key).await,
            None => None,
        };
        if let Source::Direct { peer, .. } = source
            && known.as_ref().is_none_or(|k| k.key != *peer)
        {
            let text = format!("{} sent mail of somebody else over its path", peer.short());
            mesh.misbehaved(Misbehaviour::TamperedEnvelope, &text);
            continue;
        }
        let target = header.and_then(|h| h.target.key());
        let keys = mesh.keys();
        // Looked up after the keys: a session that ends now is in one of the two.
        let ended = target.is_some_and(|key| mesh.ended(&key));
        let desk = Desk { keys: &keys, known: known.as_ref(), ended, now: mesh.now() };
        match receive(desk, &inbound.envelope) {
            Verdict::Accept(accepted) => {
                if let Some(proven) = accepted.proven {
                    roster::admit(mesh, proven.0, proven.1).await;
                }
                items.push((accepted.item, accepted.keep_until));
                answerers.push(accepted.answer);
            }
            Verdict::Stream(opening) => openings.push(*opening),
            verdict => decline(mesh, source, inbound, verdict).await,
        }
    }
    if !openings.is_empty() {
        // Boxed: they are rare beside messages.
        Box::pin(streams::take(mesh, source, openings)).await;
    }
    if items.is_empty() {
        return;
    }
    fault::pause_at(fault::PUSHED).await;
    let outcomes = match mesh.store().accept_inbound(&items).await {
        Ok(outcomes) => outcomes,
        Err(e) => {
            // Unanswered, they come again when their claims end.
            tracing::error!(error = %e, "the inbox cannot be written");
            return;
        }
    };
    fault::pause_at(fault::STORED).await;
    let mut arrived = Vec::new();
    let mut answers = Vec::new();
    for (((item, _), outcome), answerer) in items.iter().zip(outcomes).zip(answerers) {
        let receipt = match outcome {
            Arrived::Inserted(row) => {
                arrived.push(Arrival::new(item, row));
                answerer.delivered()
            }
            Arrived::Duplicate => answerer.delivered(),
            Arrived::Conflict => {
                let text = format!("{} sent another message as {}", item.author.short(), item.id);
                mesh.misbehaved(Misbehaviour::ReusedId, &text);
                answerer.refused(reason::CONFLICT)
            }
        };
        answers.push(Answer::Final { from: item.author, id: item.id, receipt });
    }
    // What surfaces takes the rest to the disk; what is held back goes there now. Receipts follow.
    if !arrived.is_empty() {
        mesh.services.surfacer.offer(arrived).await;
    }
    if let Err(e) = mesh.store().sync().await {
        tracing::error!(error = %e, "the inbox is not on disk");
        return;
    }
    for said in answers {
        answer(mesh, source, said).await;
    }
}

/// What the roster has of the author, or of the member that vouches for it.
async fn known(mesh: &Mesh, envelope: &Envelope, author: &PublicKey) -> Option<Known> {
    if let Some(known) = mesh.known(author).await {
        return Some(known);
    }
    let signed = envelope.proof.as_ref()?.attestation.as_ref()?;
    let member = signed.peek::<Attestation>().ok()?.member;
    mesh.known(&member).await
}

/// Answers what is not for the inbox.
async fn decline(mesh: &Arc<Mesh>, source: &Source<'_>, inbound: Inbound, verdict: Verdict) {
    let by = inbound.to;
    match verdict {
        Verdict::Accept(_) | Verdict::Stream(_) => {}
        Verdict::Refuse(r) => {
            tracing::warn!(
                target: "meshwire::events::inbox::refused",
                mesh = %mesh.id().short(), author = %r.author.short(), id = %r.id,
                reason = r.reason, "{}", r.detail
            );
            if matches!(r.reason, reason::UNDECRYPTABLE | reason::UNTRUSTED_SENDER) {
                mesh.misbehaved(Misbehaviour::TamperedEnvelope, &r.detail);
            }
            let (from, id) = (r.author, r.id);
            answer(
                mesh,
                source,
                match r.receipt {
                    Some(receipt) => Answer::Final { from, id, receipt },
                    None => Answer::Refused { from, id, by, reason: r.reason.to_owned() },
                },
            )
            .await;
        }
        Verdict::Late(a) => {
            // Seen before: it came in time and the ack was lost.
            let receipt = match mesh.store().seen(&a.mesh, &a.author, &a.id).await {
                Ok(Some(hash)) if hash == a.hash => a.delivered(),
                Ok(_) => a.refused(reason::EXPIRED),
                Err(_) => return,
            };
            answer(mesh, source, Answer::Final { from: a.author, id: a.id, receipt }).await;
        }
        Verdict::Gone { session, answer: a } => {
            if let Some(said) = for_ended(mesh, session, a).await {
                answer(mesh, source, said).await;
            }
        }
        Verdict::NeedChain(a) => {
            mesh.refresh.notify_one();
            let reason = "unknown author".to_owned();
            answer(mesh, source, Answer::Later { from: a.author, id: a.id, by, reason }).await;
        }
        Verdict::Later { author, id } => {
            let reason = "its time lies ahead of our clock".to_owned();
            answer(mesh, source, Answer::Later { from: author, id, by, reason }).await;
        }
        Verdict::Discard { detail } => {
            mesh.misbehaved(Misbehaviour::TamperedEnvelope, &detail);
        }
    }
}

/// The answer to mail for a session of ours that has ended; none where the store fails.
pub(super) async fn for_ended(mesh: &Mesh, session: PublicKey, a: Answerer) -> Option<Answer> {
    let (from, id) = (a.author, a.id);
    match mesh.store().seen(&a.mesh, &from, &id).await {
        // It has it, and its receipt was lost: `gone` would make the author send it once more.
        Ok(Some(hash)) if hash == a.hash => {
            let pair = mesh.pairs_of(&session).and_then(|pairs| pairs.pair(&from).ok());
            Some(match pair {
                Some(pair) => {
                    let receipt = a.instead(session, pair).delivered();
                    Answer::Final { from, id, receipt }
                }
                // Its key is gone, and it expires unanswered.
                None => {
                    let reason = "the session had it before its end".to_owned();
                    Answer::Later { from, id, by: session, reason }
                }
            })
        }
        Ok(_) => Some(Answer::Gone { from, id, by: session, receipt: a.gone() }),
        // Unanswered, it comes again.
        Err(_) => None,
    }
}

pub(super) async fn answer(mesh: &Mesh, source: &Source<'_>, answer: Answer) {
    if let Err(e) = source.link(mesh).answer(answer).await {
        // It will come again, and is a duplicate then.
        tracing::debug!(error = %e, "an answer did not leave");
    }
}

/// Where a receipt leads to.
enum Noted {
    /// To these steps; to none for messages that are forgotten.
    Steps(Vec<StepTo>),
    /// The session has ended, says its member: the message is to go to that.
    Gone(Box<OutboxRow>),
    /// Nowhere: it is not what it says.
    Forged,
}

/// Notes receipts that hold, and lets the broker forget them.
pub(super) async fn confirm(
    mesh: &Arc<Mesh>,
    source: &Source<'_>,
    receipts: Vec<(PublicKey, EnvelopeId, Receipt)>,
) {
    let mut steps = Vec::new();
    let mut noted = Vec::new();
    for (from, id, receipt) in receipts {
        let to = match judge(mesh, source, &from, &id, &receipt).await {
            Ok(Noted::Steps(to)) => to,
            Ok(Noted::Gone(row)) => match outbox::redirect(mesh, &row).await {
                Ok(true) => Vec::new(),
                Ok(false) => vec![StepTo::Failed { reason: code::TARGET_GONE.to_owned() }],
                Err(e) => {
                    // Unconfirmed, it comes again.
                    tracing::error!(%id, error = %e, "a message could not be sealed anew");
                    continue;
                }
            },
            Ok(Noted::Forged) => {
                let text = format!("the receipt for {id} is not by {}", receipt.by.short());
                mesh.misbehaved(Misbehaviour::ForgedReceipt, &text);
                // Confirmed all the same, or it would come at every connect until the message
                // expires.
                Vec::new()
            }
            Err(e) => {
                // Unconfirmed, it comes again.
                tracing::error!(error = %e, "a receipt could not be checked");
                continue;
            }
        };
        steps.extend(to.into_iter().map(|to| (from, Step { mesh: mesh.id(), id, to })));
        noted.push((from, id, receipt.by));
    }
    let done = match drain::apply(mesh, &steps).await {
        Ok(done) => done,
        Err(e) => {
            tracing::error!(error = %e, "receipts could not be noted; they will come again");
            return;
        }
    };
    for ((_, step), done) in steps.iter().zip(done) {
        if let (StepTo::Recipient { key, .. }, Stepped::Unknown) = (&step.to, done) {
            let text = format!("{} is no recipient of {}", key.short(), step.id);
            mesh.misbehaved(Misbehaviour::ForgedReceipt, &text);
        }
    }
    for (from, id, by) in noted {
        // A lost confirmation brings the receipt once more.
        let _ = source.link(mesh).confirm(from, id, by).await;
        match source {
            Source::Relay => mesh.paths.acked(&by, &(from, id), false),
            Source::Direct { peer, .. } => mesh.paths.acked(peer, &(from, id), true),
        }
    }
}

/// Checks a receipt against the message that it is for.
async fn judge(
    mesh: &Mesh,
    source: &Source<'_>,
    from: &PublicKey,
    id: &EnvelopeId,
    receipt: &Receipt,
) -> Result<Noted, StoreError> {
    // Without the envelope: a group's is large, and there is a receipt per recipient.
    let Some(meta) = mesh.store().outbox_meta(&mesh.id(), id).await? else {
        return Ok(Noted::Steps(Vec::new()));
    };
    if meta.author != *from {
        return Ok(Noted::Forged);
    }
    let Some(pairs) = mesh.pairs_of(from) else {
        // By a session of ours that ended long ago: its key is gone, nobody can check the MAC.
        return Ok(Noted::Steps(Vec::new()));
    };
    let (is_group, is_gone) = (meta.target.key().is_none(), receipt.verdict == Outcome::Gone);
    let expected = match (is_group, is_gone) {
        // The MAC says that it is by this one; the store knows whether that is a recipient.
        (true, false) => Some(receipt.by),
        (true, true) => None,
        (false, false) => Some(meta.recipient),
        // A member's word that its session is gone needs a session; direct mail has none.
        (false, true) => outbox::behind(&meta),
    };
    let ends = Ends { mesh: &mesh.id(), sender: from, recipient: &receipt.by };
    let holds = expected == Some(receipt.by)
        && pairs.pair(&receipt.by).is_ok_and(|pair| receipt.verify(&pair, ends, &meta.hash));
    if !holds {
        return Ok(Noted::Forged);
    }
    if is_gone {
        let row = mesh.store().outbox_get(&mesh.id(), id).await?;
        return Ok(row.map_or(Noted::Steps(Vec::new()), |row| Noted::Gone(Box::new(row))));
    }
    let (state, reason) = by_receipt(receipt);
    let (at, key) = (mesh.now(), receipt.by);
    if is_group {
        let to = match state {
            OutboxState::Delivered => RecipientState::Delivered,
            OutboxState::Expired => RecipientState::Expired,
            _ => RecipientState::Failed,
        };
        return Ok(Noted::Steps(vec![StepTo::Recipient { key, to, reason, at }]));
    }
    let reason = reason.unwrap_or_else(|| "refused".to_owned());
    Ok(Noted::Steps(vec![match state {
        OutboxState::Delivered => StepTo::Delivered { at, path: source.word().to_owned() },
        OutboxState::Expired => StepTo::Expired { reason },
        _ => StepTo::Failed { reason },
    }]))
}
