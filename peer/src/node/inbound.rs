//! What comes from the link: envelopes, receipts, presence, and the link's own ups and downs.
//!
//! Envelopes are stored in batches, one fsync each, and answered only then.

use std::sync::Arc;

use meshwire_signaling::frame::{Presence, PresenceEvent};
use meshwire_signaling::receipt::{Ends, Receipt, Verdict as Outcome, reason};
use meshwire_signaling::{EnvelopeId, PublicKey, UnixMillis};
use meshwire_transport::fault;
use meshwire_transport::link::{Answer, Inbound, LinkEvent, MessageLink as _};
use tokio::sync::mpsc;

use super::drain;
use super::events::{Event, Misbehaviour};
use super::mesh::Mesh;
use super::roster;
use crate::core::inbox::{Answerer, Item, Verdict, receive};
use crate::core::order::Waiting;
use crate::core::outbox::{OutboxState, by_receipt};
use crate::store::{Arrived, Step, StepTo, StoreError};

/// Envelopes stored together: the broker's window.
const BATCH: usize = 64;

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
                    accept(&mesh, std::mem::take(&mut envelopes)).await;
                    mesh.note_drained();
                }
                LinkEvent::Up(_) => mesh.went_up(),
                LinkEvent::Down { reason, code, retry_in } => {
                    tracing::info!(
                        target: "meshwire::events::link::down",
                        mesh = %mesh.id().short(), code, ?retry_in, "{reason}"
                    );
                    mesh.went_down(reason, code);
                }
                LinkEvent::Presence(presence) => present(&mesh, *presence).await,
                _ => {}
            }
        }
        accept(&mesh, envelopes).await;
        confirm(&mesh, receipts).await;
    }
}

async fn present(mesh: &Arc<Mesh>, p: Presence) {
    let shown = p.chain.is_some();
    if let Some(chain) = p.chain {
        roster::learn(mesh, chain).await;
    }
    // Who is no member, whatever the broker says, is not there either.
    if p.key != p.member || mesh.known(&p.key).await.is_none() {
        return;
    }
    if mesh.known(&p.key).await.is_none() {
        // The broker's word makes nobody a member; without a chain, the roster may have one.
        if !shown {
            mesh.refresh.notify_one();
        }
        return;
    }
    let online = p.event == PresenceEvent::Joined;
    mesh.set_online(p.key, online, (p.event != PresenceEvent::Admitted).then_some(p.at));
    mesh.services.tell(Event::Presence { mesh: mesh.id(), member: p.key, online });
}

/// Judges, stores and answers envelopes.
async fn accept(mesh: &Arc<Mesh>, envelopes: Vec<Inbound>) {
    let mut items: Vec<(Item, UnixMillis)> = Vec::new();
    let mut answerers: Vec<Answerer> = Vec::new();
    for inbound in envelopes {
        let author = inbound.envelope.header().ok().map(|h| h.from.key);
        let known = match author {
            Some(author) => mesh.known(&author).await,
            None => None,
        };
        let verdict = receive(&mesh.keys, &inbound.envelope, known.as_ref(), mesh.now());
        if let Verdict::Accept(accepted) = verdict {
            if let Some(proven) = accepted.proven {
                roster::admit(mesh, proven.0, proven.1).await;
            }
            items.push((accepted.item, accepted.keep_until));
            answerers.push(accepted.answer);
        } else {
            decline(mesh, inbound, verdict).await;
        }
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
    for (((item, _), outcome), answerer) in items.iter().zip(outcomes).zip(answerers) {
        let receipt = match outcome {
            Arrived::Inserted(row) => {
                let (seq, floor) = (item.seq, item.floor);
                arrived.push(Waiting { counter: item.counter(), seq, floor, row });
                answerer.delivered()
            }
            Arrived::Duplicate => answerer.delivered(),
            Arrived::Conflict => {
                let text = format!("{} sent another message as {}", item.author.short(), item.id);
                mesh.misbehaved(Misbehaviour::ReusedId, &text);
                answerer.refused(reason::CONFLICT)
            }
        };
        answer(mesh, Answer::Final { from: item.author, id: item.id, receipt }).await;
    }
    mesh.services.surfacer.offer(arrived).await;
}

/// Answers what is not for the inbox.
async fn decline(mesh: &Arc<Mesh>, inbound: Inbound, verdict: Verdict) {
    let by = inbound.to;
    match verdict {
        Verdict::Accept(_) => {}
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
            answer(mesh, Answer::Final { from: a.author, id: a.id, receipt }).await;
        }
        Verdict::NeedChain(a) => {
            mesh.refresh.notify_one();
            let reason = "unknown author".to_owned();
            answer(mesh, Answer::Later { from: a.author, id: a.id, by, reason }).await;
        }
        Verdict::Later { author, id } => {
            let reason = "its time lies ahead of our clock".to_owned();
            answer(mesh, Answer::Later { from: author, id, by, reason }).await;
        }
        Verdict::Discard { detail } => {
            mesh.misbehaved(Misbehaviour::TamperedEnvelope, &detail);
        }
    }
}

async fn answer(mesh: &Mesh, answer: Answer) {
    if let Err(e) = mesh.link.answer(answer).await {
        // It will come again, and is a duplicate then.
        tracing::debug!(error = %e, "an answer did not leave");
    }
}

/// Notes receipts that hold, and lets the broker forget them.
async fn confirm(mesh: &Arc<Mesh>, receipts: Vec<(PublicKey, EnvelopeId, Receipt)>) {
    let mut steps = Vec::new();
    let mut noted = Vec::new();
    for (from, id, receipt) in receipts {
        match judge(mesh, &from, &id, &receipt).await {
            Ok(Some(to)) => {
                steps.extend(to.map(|to| Step { mesh: mesh.id(), id, to }));
                noted.push((from, id, receipt.by));
            }
            Ok(None) => {
                let text = format!("the receipt for {id} is not by {}", receipt.by.short());
                mesh.misbehaved(Misbehaviour::ForgedReceipt, &text);
                // Or it would come at every connect until the message expires.
                noted.push((from, id, receipt.by));
            }
            // Unconfirmed, it comes again.
            Err(e) => tracing::error!(error = %e, "a receipt could not be checked"),
        }
    }
    if !steps.is_empty()
        && let Err(e) = drain::apply(mesh, &steps).await
    {
        tracing::error!(error = %e, "receipts could not be noted; they will come again");
        return;
    }
    for (from, id, by) in noted {
        // A lost confirmation brings the receipt once more.
        let _ = mesh.link.confirm(from, id, by).await;
    }
}

/// Where a receipt leads to: nowhere for messages that are forgotten. None: it is forged.
async fn judge(
    mesh: &Mesh,
    from: &PublicKey,
    id: &EnvelopeId,
    receipt: &Receipt,
) -> Result<Option<Option<StepTo>>, StoreError> {
    let Some(row) = mesh.store().outbox_get(&mesh.id(), id).await? else { return Ok(Some(None)) };
    let ends = Ends { mesh: &mesh.id(), sender: from, recipient: &receipt.by };
    let pair = mesh.pairs.pair(&receipt.by);
    let holds = row.meta.author == *from
        && receipt.by == row.meta.recipient
        // A member's word that its session is gone needs a session; direct mail has none.
        && receipt.verdict != Outcome::Gone
        && pair.is_ok_and(|pair| receipt.verify(&pair, ends, &row.meta.hash));
    if !holds {
        return Ok(None);
    }
    let (state, reason) = by_receipt(receipt);
    let reason = reason.unwrap_or_else(|| "refused".to_owned());
    Ok(Some(Some(match state {
        OutboxState::Delivered => StepTo::Delivered { at: mesh.now() },
        OutboxState::Expired => StepTo::Expired { reason },
        _ => StepTo::Failed { reason },
    })))
}
