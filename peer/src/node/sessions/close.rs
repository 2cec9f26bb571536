//! What is left to do for a session that has ended: its mail, the broker, its key.
//!
//! ```text
//! ended ──► its mail leaves, receipts come ──► the broker hears of the end ──► key and row removed
//! ```
//!
//! A program writes and exits: what was accepted goes out all the same, as long as it lives. Until
//! then the session speaks on, for others it is still there. Receipts are waited for, for
//! [`RECEIPTS_MS`]: nobody but the session's key can check them. All of it goes on after a restart.

use std::sync::Arc;

use meshwire_signaling::frame::{code, feature};
use meshwire_signaling::{PublicKey, UnixMillis};
use meshwire_transport::link::LinkError;

use super::SessionHandle;
use super::table::{Ending, Stage};
use crate::core::outbox::OutboxState::{self, Inflight, Pending, Relayed, Sent};
use crate::node::drain;
use crate::node::mesh::Mesh;
use crate::store::{MAX_OUTBOX_LIST, OutboxFilter, OutboxMeta, Step, StepTo, StoreError};

/// How long receipts are waited for on an open connection once all mail has left, in milliseconds.
const RECEIPTS_MS: u64 = 600_000;
/// Why a message failed whose author has no key any more.
pub(in crate::node) const SESSION_ENDED: &str = "session_ended";

/// Moves all ends on as far as that goes without the broker; false if the store fails.
pub(super) async fn advance_all(mesh: &Mesh) -> bool {
    let mut all = true;
    for ending in mesh.sessions.unfinished() {
        all &= advance(mesh, ending).await;
    }
    mesh.sessions.forget_keys(mesh.now());
    all
}

/// Moves one end on as far as that goes without the broker; false if the store fails.
pub(super) async fn advance(mesh: &Mesh, ending: Ending) -> bool {
    let key = ending.session.key();
    let stage = match ending.stage {
        Stage::Mail { since, .. } => match next(mesh, &key, since).await {
            Ok(stage) => stage,
            Err(e) => {
                tracing::error!(error = %e, "an ended session's mail cannot be looked at");
                return false;
            }
        },
        stage => stage,
    };
    mesh.sessions.set_stage(&key, stage);
    let unheard = !ending.session.is_known() || mesh.broker_has(feature::DELEGATES) == Some(false);
    // Where the broker cannot have heard of it there is nothing to unsay.
    stage != Stage::Unbind || !unheard || retire(mesh, &ending.session).await
}

/// How far the end of a session is whose mail had not settled when it was last looked at.
async fn next(
    mesh: &Mesh,
    key: &PublicKey,
    since: Option<UnixMillis>,
) -> Result<Stage, StoreError> {
    if !mail(mesh, key, &[Pending, Inflight], 1).await?.is_empty() {
        return Ok(Stage::Mail { left: false, since: None });
    }
    if mail(mesh, key, &[Relayed, Sent], 1).await?.is_empty() {
        return Ok(Stage::Unbind);
    }
    if !mesh.is_up() {
        return Ok(Stage::Mail { left: true, since: None });
    }
    let now = mesh.now();
    let since = since.unwrap_or(now);
    Ok(match now < since.saturating_add(RECEIPTS_MS) {
        true => Stage::Mail { left: true, since: Some(since) },
        false => Stage::Unbind,
    })
}

/// When receipts have been waited for long enough, Unix milliseconds; none where nobody waits.
pub(super) fn next_end(mesh: &Mesh) -> Option<UnixMillis> {
    let until = |e: Ending| match e.stage {
        Stage::Mail { since: Some(since), .. } => Some(since.saturating_add(RECEIPTS_MS)),
        _ => None,
    };
    mesh.sessions.unfinished().into_iter().filter_map(until).min()
}

async fn mail(
    mesh: &Mesh,
    author: &PublicKey,
    states: &[OutboxState],
    limit: u32,
) -> Result<Vec<OutboxMeta>, StoreError> {
    let filter = OutboxFilter {
        mesh: Some(mesh.id()),
        states: states.to_vec(),
        author: Some(*author),
        limit,
        ..OutboxFilter::default()
    };
    mesh.store().outbox_list(&filter).await
}

/// Ends a session that may not speak any more: what has not left never will.
pub(super) async fn cut(mesh: &Mesh, session: &SessionHandle) {
    let key = session.key();
    session.set_unknown();
    mesh.sessions.set_stage(&key, Stage::Unbind);
    if let Err(e) = fail_mail(mesh, &key).await {
        // What remains fails when it is to leave.
        tracing::error!(error = %e, "an ended session's mail cannot be written");
    }
    retire(mesh, session).await;
}

async fn fail_mail(mesh: &Mesh, key: &PublicKey) -> Result<(), StoreError> {
    loop {
        let rows = mail(mesh, key, &[Pending, Inflight], MAX_OUTBOX_LIST).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let to = || StepTo::Failed { reason: SESSION_ENDED.to_owned() };
        let steps: Vec<_> = rows
            .into_iter()
            .map(|row| (row.author, Step { mesh: row.mesh, id: row.id, to: to() }))
            .collect();
        drain::apply(mesh, &steps).await?;
    }
}

/// The last of a session: its key and its row go. False if that failed.
pub(super) async fn retire(mesh: &Mesh, session: &SessionHandle) -> bool {
    let key = session.key();
    // The key first: a row without one is removed at the next start.
    if let Err(e) = mesh.services.keyring.remove_session(&key) {
        tracing::error!(error = %e, "a session's key cannot be removed");
        return false;
    }
    if let Err(e) = mesh.store().session_remove(&mesh.id(), &key).await {
        tracing::error!(error = %e, "a session cannot be removed");
        return false;
    }
    mesh.sessions.set_stage(&key, Stage::Over);
    true
}

/// Tells the broker of the ends that it has not heard of; false if something is left.
pub(super) async fn unbind_all(mesh: &Arc<Mesh>) -> bool {
    let mut all = true;
    let due = mesh.sessions.unfinished().into_iter().filter(|e| e.stage == Stage::Unbind);
    for Ending { session, .. } in due {
        all &= unbind(mesh, &session).await && retire(mesh, &session).await;
    }
    all
}

/// Tells the broker that a session has ended; false if it has to be told again. One that this
/// connection does not speak for is bound first: the broker may still wait for it, from an earlier
/// connection, and takes its end from nobody else.
async fn unbind(mesh: &Arc<Mesh>, session: &SessionHandle) -> bool {
    let (key, generation) = (session.key(), mesh.generation());
    let asked = async {
        if !session.is_bound(generation) {
            let attestation = session.attest_afresh(mesh.now());
            mesh.link.bind(session.secret(), attestation).await?;
            session.set_bound(generation);
        }
        mesh.link.unbind(key).await
    };
    match asked.await {
        Ok(()) => true,
        Err(e) => {
            tracing::debug!(key = %key.short(), error = %e, "a session was not unbound");
            is_last_word(&e)
        }
    }
}

/// Whether the broker would say the same again: it does not know the session, or has ended it itself.
fn is_last_word(error: &LinkError) -> bool {
    let LinkError::Refused(frame) = error else { return false };
    match frame.code.as_str() {
        // About the moment, whatever else the frame says.
        code::RATE_LIMITED
        | code::QUEUE_FULL
        | code::UNAVAILABLE
        | code::CAPACITY
        | code::NO_HELLO => false,
        code::NOT_YOURS => true,
        _ => frame.permanent,
    }
}

#[cfg(test)]
mod tests {
    use meshwire_signaling::frame::ErrorFrame;

    use super::*;

    #[test]
    fn an_end_is_told_until_the_broker_has_its_last_word() {
        let refused = |frame| is_last_word(&LinkError::Refused(Box::new(frame)));
        for code in [code::RATE_LIMITED, code::UNAVAILABLE, code::CAPACITY] {
            assert!(!refused(ErrorFrame::transient(code, "", 5)), "{code}");
            assert!(!refused(ErrorFrame::permanent(code, "")), "{code}");
        }
        assert!(refused(ErrorFrame::permanent(code::NOT_YOURS, "")));
        assert!(refused(ErrorFrame::permanent("word_of_2031", "")));
        assert!(!is_last_word(&LinkError::Down) && !is_last_word(&LinkError::TimedOut));
    }
}
