//! What a node says of mail that it was pushed.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec;
use meshwire_signaling::frame::{ClientAck, ClientNack, ErrorFrame, Frame, ReceiptAck, code};
use meshwire_signaling::limits::{CLAIM_LEASE, ms};
use meshwire_signaling::receipt::{MAX_REASON, Receipt, Verdict};
use meshwire_signaling::{EnvelopeId, PublicKey};

use super::super::complete::Completion;
use super::super::registry::Shared;
use super::Due;
use crate::store::DeliveryRef;

/// Submits the end of a delivery to the writer; the completer tells the author.
async fn answer(
    conn: &Shared,
    delivery: DeliveryRef,
    verdict: Verdict,
    receipt: Option<Receipt>,
    due: &Due,
) {
    let known = conn.window().answered(&(delivery.author, delivery.id, delivery.recipient));
    if !known && !conn.inner.take_answer(conn.mesh, conn.member) {
        // Late or made up, and too many of them: what was late comes again.
        return;
    }
    let bytes = receipt.as_ref().map(codec::to_msgpack);
    let pending = conn
        .inner
        .writer
        .submit(move |tx| {
            Box::pin(async move { tx.answer(&delivery, verdict, bytes.as_deref()).await })
        })
        .await;
    conn.handle.wake();
    let _ = due.send(Completion::Answer { delivery, verdict, receipt, pending }).await;
}

/// The delivery that a connection answers for `by`.
async fn delivery(
    conn: &Shared,
    author: PublicKey,
    id: EnvelopeId,
    by: PublicKey,
) -> Result<DeliveryRef, ErrorFrame> {
    let known = conn.inner.registry.speaks_for(conn.id, &by) || conn.orphans().contains(&by);
    if known || ended(conn, &by).await {
        return Ok(DeliveryRef { mesh: conn.mesh, author, id, recipient: by });
    }
    let text = "the receipt's key is none of this connection's identities";
    Err(ErrorFrame { id: Some(id), ..ErrorFrame::permanent(code::NOT_YOURS, text) })
}

/// Whether `key` was a session or service of the connection's member, which answers for it now: also
/// for what was pushed before its end, which the pump does not know of as an orphan's.
async fn ended(conn: &Shared, key: &PublicKey) -> bool {
    let inner = &conn.inner;
    conn.kind == IdentityKind::Member
        && inner.take_answer(conn.mesh, conn.member)
        && inner.store.delegate(&conn.mesh, key).await.is_ok_and(|row| {
            row.is_some_and(|d| d.member == conn.member && d.expires_at <= inner.net.unix_ms())
        })
}

pub(super) async fn client_ack(conn: &Shared, ack: ClientAck, due: &Due) -> Option<Frame> {
    if ack.receipt.verdict != Verdict::Delivered || ack.receipt.reason.is_some() {
        let text = "a client_ack carries a plain `delivered`; use client_nack for the rest";
        return Some(ErrorFrame::permanent(code::MALFORMED, text).into());
    }
    match delivery(conn, ack.from, ack.id, ack.receipt.by).await {
        Err(error) => Some(error.into()),
        Ok(d) => {
            answer(conn, d, Verdict::Delivered, Some(ack.receipt), due).await;
            None
        }
    }
}

/// What is wrong with a refusal's receipt, as far as the broker can tell.
fn unfit(conn: &Shared, receipt: &Receipt, by: &PublicKey) -> Option<&'static str> {
    let signer = if receipt.verdict == Verdict::Gone { &conn.member } else { by };
    if receipt.verdict == Verdict::Delivered {
        return Some("a client_nack cannot carry a `delivered` receipt");
    }
    if receipt.by != *signer {
        return Some("the receipt is by another key than the refusal");
    }
    let long = receipt.reason.as_ref().is_some_and(|r| r.len() > MAX_REASON);
    long.then_some("a receipt's reason has at most 64 bytes")
}

pub(super) async fn client_nack(conn: &Shared, nack: ClientNack, due: &Due) -> Option<Frame> {
    let d = match delivery(conn, nack.from, nack.id, nack.by).await {
        Err(error) => return Some(error.into()),
        Ok(d) => d,
    };
    if nack.permanent {
        if let Some(wrong) = nack.receipt.as_ref().and_then(|r| unfit(conn, r, &nack.by)) {
            return Some(ErrorFrame::permanent(code::MALFORMED, wrong).into());
        }
        let verdict = nack.receipt.as_ref().map_or(Verdict::Refused, |r| r.verdict);
        answer(conn, d, verdict, nack.receipt, due).await;
        return None;
    }
    if !conn.inner.take_answer(conn.mesh, conn.member) {
        return None;
    }
    // Stays in the window until its lease would have ended: that is when it may come again.
    let until = conn.inner.net.unix_ms().saturating_add(ms(CLAIM_LEASE));
    let job =
        conn.inner.writer.submit(move |tx| Box::pin(async move { tx.postpone(&d, until).await }));
    drop(job.await);
    None
}

/// A receipt has reached its author.
pub(super) async fn receipt_ack(conn: &Shared, ack: ReceiptAck) {
    if conn.inner.registry.speaks_for(conn.id, &ack.from)
        && conn.inner.take_answer(conn.mesh, conn.member)
    {
        let d = DeliveryRef { mesh: conn.mesh, author: ack.from, id: ack.id, recipient: ack.by };
        let job = conn.inner.writer.submit(move |tx| Box::pin(async move { tx.confirm(&d).await }));
        // Nobody waits for this: an unconfirmed receipt comes again.
        drop(job.await);
    }
}
