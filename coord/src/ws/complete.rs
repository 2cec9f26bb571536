//! Answers, once what they speak of is committed.

use std::sync::Arc;

use meshwire_signaling::frame::{
    Accepted as AcceptedFrame, ErrorFrame, Frame, MessageFrame, MessageState, ReceiptFrame,
    RecipientsChanged, code,
};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::{EnvelopeId, PublicKey, UnixMillis, codec};
use tokio::sync::mpsc;

use super::handshake::known_code;
use super::registry::{Shared, offer_receipt};
use crate::core::again;
use crate::metrics::{ByPriority, Reason};
use crate::store::{Accepted, DeliveryRef, StoreError};
use crate::writer::Pending;

/// Most recipients whose queue is full that one answer names: 200 KiB of JSON.
const MAX_FULL: usize = 3_000;

/// Something submitted to the writer whose answer is due.
pub(super) enum Completion {
    /// A send.
    Accept(Box<Accept>),
    /// An ack or nack.
    Answer {
        delivery: DeliveryRef,
        verdict: Verdict,
        receipt: Option<meshwire_signaling::receipt::Receipt>,
        pending: Pending<bool>,
    },
    /// A frame that is ready; in line, so that answers keep the order of requests.
    Ready(Frame),
}

/// A send that is being committed.
pub(super) struct Accept {
    pub(super) req: u64,
    pub(super) id: EnvelopeId,
    /// Whom it is for; for a group send in key order.
    pub(super) recipients: Vec<PublicKey>,
    pub(super) priority: &'static str,
    pub(super) pending: Pending<Accepted>,
    /// The envelope, for the mutant that pushes duplicates.
    pub(super) again: Option<(Vec<u8>, UnixMillis)>,
}

/// Runs until the reader has ended and everything submitted is answered.
pub(super) async fn run(conn: Shared, mut due: mpsc::Receiver<Completion>) {
    while let Some(completion) = due.recv().await {
        let frame = match completion {
            Completion::Ready(frame) => Some(frame),
            Completion::Accept(accept) => Some(accepted(&conn, *accept).await),
            Completion::Answer { delivery, verdict, receipt, pending } => {
                if flatten(pending).await.unwrap_or(false) {
                    answered(&conn, delivery, verdict, receipt);
                }
                None
            }
        };
        if let Some(frame) = frame {
            // A closed socket no longer takes answers; commits stand all the same.
            let _ = conn.handle.out.send(Arc::new(frame)).await;
        }
    }
}

async fn flatten<T>(pending: Pending<T>) -> Result<T, StoreError> {
    pending.await.unwrap_or(Err(StoreError::Closed))
}

/// The database failed; try again.
pub(super) fn unavailable(e: &StoreError) -> ErrorFrame {
    tracing::error!(error = %e, "the database fails");
    ErrorFrame::transient(code::UNAVAILABLE, "the broker's database fails: try again", again::WRITE)
}

async fn accepted(conn: &Shared, a: Accept) -> Frame {
    let metrics = &conn.inner.metrics;
    let ok = |state, duplicate, full| {
        AcceptedFrame { req: a.req, id: a.id, state, duplicate, full }.into()
    };
    let error = match flatten(a.pending).await {
        Ok(Accepted::New { mut full }) => {
            metrics.accepted.get_or_create(&ByPriority { priority: a.priority }).inc();
            for to in a.recipients.iter().filter(|key| full.binary_search(key).is_err()) {
                conn.inner.registry.wake(&conn.mesh, to);
            }
            full.truncate(MAX_FULL);
            return ok(MessageState::Relayed, false, full);
        }
        Ok(Accepted::Duplicate(_)) if a.again.is_some() => {
            if let Some((bytes, accepted_at)) = a.again
                && let Ok(envelope) = codec::from_msgpack(&bytes)
                && let [to] = *a.recipients
                && let Some(handle) = conn.inner.registry.holder(&conn.mesh, &to)
            {
                let frame = MessageFrame { to, envelope, accepted_at, attempt: 1 };
                let _ = handle.out.send(Arc::new(frame.into())).await;
            }
            return ok(MessageState::Relayed, false, Vec::new());
        }
        Ok(Accepted::RecipientsChanged { missing, gone }) => {
            return RecipientsChanged { req: a.req, id: a.id, missing, gone }.into();
        }
        Ok(Accepted::Duplicate(state)) => {
            metrics.duplicates.inc();
            return ok(state, true, Vec::new());
        }
        Ok(Accepted::Conflict) => {
            let text = "this author has used this id for another envelope";
            ErrorFrame::permanent(code::CONFLICT, text)
        }
        Ok(Accepted::UnknownTarget) => {
            let text = match a.recipients.as_slice() {
                [key] => format!("nobody has the key {key}, or nobody else is in the group"),
                _ => "nobody else is in the group".to_owned(),
            };
            ErrorFrame::permanent(code::UNKNOWN_TARGET, text)
        }
        Ok(Accepted::TargetGone(member)) => {
            let text = format!("the session has ended; its member is {member}");
            let gone = ErrorFrame::permanent(code::TARGET_GONE, text);
            ErrorFrame { member: Some(member), ..gone }
        }
        Ok(Accepted::QueueFull) => {
            let text = "too much waits for this recipient";
            ErrorFrame::transient(code::QUEUE_FULL, text, again::FULL)
        }
        Err(e) => unavailable(&e),
    };
    metrics.rejected.get_or_create(&Reason { reason: known_code(&error.code) }).inc();
    ErrorFrame { id: Some(a.id), ..error.to_req(Some(a.req)) }.into()
}

fn answered(
    conn: &Shared,
    d: DeliveryRef,
    verdict: Verdict,
    receipt: Option<meshwire_signaling::receipt::Receipt>,
) {
    let metrics = &conn.inner.metrics;
    let counter = if verdict == Verdict::Delivered { &metrics.delivered } else { &metrics.refused };
    counter.inc();
    if let Some(receipt) = receipt {
        let frame = ReceiptFrame { from: d.author, id: d.id, receipt };
        offer_receipt(&conn.inner.registry, &d.mesh, &d.author, frame.into());
    }
}
