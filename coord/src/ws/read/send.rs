//! Envelopes that a node sends.

use meshwire_signaling::frame::{Accepted, ErrorFrame, Frame, Ok as OkFrame, Send, code};
use meshwire_signaling::limits::MAX_WRAPS;
use meshwire_signaling::{Priority, PublicKey};

use super::super::complete::{Accept, Completion};
use super::super::handshake::known_code;
use super::super::registry::Shared;
use super::{Due, charged};
use crate::config::Mutant;
use crate::core::accept::{self, Author, Recipients};
use crate::core::batch::too_many;
use crate::metrics::Reason;

/// Wraps of a group send that count as one request.
const WRAPS_PER_TOKEN: u64 = 20;

pub(super) async fn send(conn: &Shared, mut send: Send, due: &Due) -> Option<Frame> {
    let inner = &conn.inner;
    let req = send.req;
    let now = inner.net.unix_ms();
    if send.envelope.wraps.len() > MAX_WRAPS {
        return Some(refused(conn, too_many().to_req(Some(req))));
    }
    // Each recipient is a row to write: a large group costs more than a letter.
    let price = 1 + send.envelope.wraps.len() as u64 / WRAPS_PER_TOKEN;
    let mut paid = charged(conn, price);
    if send.batch.is_some() {
        // Nothing is gathered for others.
        let author = send.envelope.header().map(|h| h.from.key);
        if !author.is_ok_and(|key| inner.registry.speaks_for(conn.id, &key)) {
            let text = "the envelope's author is none of this connection's identities";
            let error = ErrorFrame::permanent(code::NOT_YOURS, text);
            return Some(refused(conn, error.to_req(Some(req))));
        }
        let whole = paid.and_then(|()| conn.batches().add(send));
        paid = Ok(());
        send = match whole {
            Ok(Some(whole)) => whole,
            Ok(None) => return Some(OkFrame { req }.into()),
            Err(error) => return Some(refused(conn, error.to_req(Some(req)))),
        };
    }
    let by = |key: &PublicKey| author(conn, key);
    let plan = paid
        .and_then(|()| accept::plan(&mut send, &conn.mesh, &conn.member, by, now))
        .and_then(|plan| match &plan.to {
            Recipients::One { key, .. }
                if !plan.queued && !inner.registry.connected(&plan.mesh, key) =>
            {
                let text = "the recipient is not there and the envelope is not to be queued";
                Err(ErrorFrame::permanent(code::OFFLINE, text))
            }
            _ => Ok(plan),
        });
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return Some(refused_send(conn, &send, error).await),
    };
    let again = (inner.mutant == Some(Mutant::NoDedupe)).then(|| (plan.envelope.clone(), now));
    let (id, recipients) = (plan.id, plan.to.keys());
    let priority = Priority::ALL.get(usize::from(plan.priority)).map_or("other", |p| p.as_str());

    let pending =
        inner.writer.submit(move |tx| Box::pin(async move { tx.accept(&plan, now).await })).await;
    let accept = Accept { req, id, recipients, priority, pending, again };
    // If the completer is gone, so is the socket.
    let _ = due.send(Completion::Accept(Box::new(accept))).await;
    None
}

/// The answer to a send that is not planned. What was accepted before stays accepted, whatever has
/// changed since (phase B0); who is only too fast will ask again, and costs no look into the store.
async fn refused_send(conn: &Shared, send: &Send, error: ErrorFrame) -> Frame {
    let inner = &conn.inner;
    let (req, name) = (send.req, send.envelope.header().ok().map(|h| (h.from.key, h.id)));
    if error.permanent
        && let Some((author, id)) = name
        && inner.registry.speaks_for(conn.id, &author)
        && let Ok(Some((hash, state))) = inner.store.accepted(&conn.mesh, &author, &id).await
        && hash == send.envelope.hash(&conn.mesh)
    {
        inner.metrics.duplicates.inc();
        return Accepted { req, id, state, duplicate: true, full: Vec::new() }.into();
    }
    refused(conn, ErrorFrame { id: name.map(|n| n.1), ..error.to_req(Some(req)) })
}

/// Counts a refused send.
fn refused(conn: &Shared, error: ErrorFrame) -> Frame {
    let reason = Reason { reason: known_code(&error.code) };
    conn.inner.metrics.rejected.get_or_create(&reason).inc();
    error.into()
}

/// Whether a connection may send as `key`.
fn author(conn: &Shared, key: &PublicKey) -> Author {
    if !conn.inner.registry.speaks_for(conn.id, key) {
        Author::Stranger
    } else if *key == conn.member {
        Author::Member
    } else {
        Author::Delegate { attestation: conn.inner.registry.attestation(conn.id, key) }
    }
}
